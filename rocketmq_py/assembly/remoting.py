"""Stage 05: the broker gets a port, and a client for the calls it makes itself."""

from __future__ import annotations

from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.common.tls_settings import TlsMode
from rocketmq_py.remoting.client import RemotingClient
from rocketmq_py.remoting.processors import Processors
from rocketmq_py.remoting.server import RemotingServer
from rocketmq_py.remoting.tls import client_tls, server_tls


def install(kernel: Kernel) -> None:
    """Provide the table of handlers, the server that asks it, and a client."""
    config, clock = kernel.config, kernel.environment.clock
    processors = kernel.provide(Processors())
    server = kernel.provide(
        RemotingServer(
            processors,
            clock,
            config.bind_address,
            config.listen_port,
            tls=server_tls(config),
            requires_tls=config.tls_server_mode is TlsMode.ENFORCING,
        )
    )
    kernel.provide(RemotingClient(clock, tls=client_tls(config)))

    def tell_port(port: int) -> None:
        config.listen_port = port

    # With port 0 the operating system chooses; registration must name the port that it chose.
    server.on_bound.append(tell_port)
