"""A running controller: what it remembers, who it agrees with, and the port, put together.

Source: `ControllerManager`, `DLedgerController`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from rocketmq_py.common.environment import Environment
from rocketmq_py.common.host import join_address, split_address
from rocketmq_py.common.live_config import LiveConfig
from rocketmq_py.common.periodic import Periodic
from rocketmq_py.common.tls_settings import TlsMode
from rocketmq_py.controller.alone import AloneConsensus
from rocketmq_py.controller.config import MUTABLE_KEYS, ControllerConfig
from rocketmq_py.controller.consensus import Consensus, StateMachine
from rocketmq_py.controller.heartbeats import BrokerHeartbeatManager
from rocketmq_py.controller.journal import Journal
from rocketmq_py.controller.manager import ControllerManager, GroupsMachine
from rocketmq_py.controller.notifier import RoleChangeNotifier
from rocketmq_py.controller.processor import ControllerRequestProcessor
from rocketmq_py.controller.raft.node import RaftConsensus
from rocketmq_py.remoting.client import RemotingClient
from rocketmq_py.remoting.limits import Limits
from rocketmq_py.remoting.processors import Processors
from rocketmq_py.remoting.server import RemotingServer
from rocketmq_py.remoting.tls import client_tls, server_tls

#: Seconds until the first look for silent brokers.
_FIRST_SCAN = 2.0

MakeConsensus = Callable[[StateMachine], Consensus]


class Controller:
    """One controller.

    Args:
        config: its settings; without peers and with `controllerPort` 0 it takes any free port, and says so there once
            it serves.
        environment: clock, randomness, files and blocking calls.
        limits: what peers may use up.
        make_consensus: another agreement than the settings ask for: a simulated one.

    Attributes:
        heartbeats: who lives.
        consensus: who leads.
        manager: where decisions are made.
        server: the port.
    """

    def __init__(
        self,
        config: ControllerConfig,
        environment: Environment,
        limits: Limits | None = None,
        make_consensus: MakeConsensus | None = None,
    ) -> None:
        self.config = config
        self.processors = Processors()
        self._peers = config.peers
        own_address = self._peers.get(config.controller_d_leger_self_id)
        self.server = RemotingServer(
            self.processors,
            environment.clock,
            config.bind_address,
            split_address(own_address)[1] if own_address else config.controller_port,
            limits,
            server_tls(config),
            config.tls_server_mode is TlsMode.ENFORCING,
        )
        self.client = RemotingClient(environment.clock, tls=client_tls(config))
        self.heartbeats = BrokerHeartbeatManager(lambda: asyncio.get_running_loop().time())
        machine = GroupsMachine()
        self.consensus = (make_consensus or self._choose_consensus(environment))(machine)
        self._notifier = RoleChangeNotifier(self.client)
        self.manager = ControllerManager(config, machine, self.consensus, self.heartbeats, self._notifier)
        self._live_config = LiveConfig(
            [config], MUTABLE_KEYS, lambda: config.config_black_list, config.override_file, environment
        )
        self._requests = ControllerRequestProcessor(
            config, self.manager, self.consensus, self.heartbeats, self._live_config
        )
        self._requests.install(self.processors)
        self.server.on_closed.append(self.heartbeats.connection_closed)
        self._periodic = Periodic(environment.random)
        self._periodic.every(
            config.scan_not_active_broker_interval / 1000, self.heartbeats.scan, "scan of silent brokers",
            delay=_FIRST_SCAN,
        )  # fmt: skip
        self._periodic.every(
            config.scan_inactive_master_interval / 1000, self.manager.scan_inactive_masters, "scan of silent masters"
        )

    def _choose_consensus(self, environment: Environment) -> MakeConsensus:
        config = self.config
        own_id = config.controller_d_leger_self_id
        journal = Journal(config.folder, environment)
        if len(self._peers) < 2:
            return lambda machine: AloneConsensus(own_id, machine, journal, environment)

        def make(machine: StateMachine) -> Consensus:
            consensus = RaftConsensus(
                config.controller_d_leger_group, own_id, self._peers, machine, journal, self.client, environment
            )
            consensus.install(self.processors)
            return consensus

        return make

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self.server.port

    @property
    def address(self) -> str:
        """Where brokers, tools and the other controllers reach it, `host:port`."""
        return self._requests.addresses.get(self.config.controller_d_leger_self_id) or self._own_address()

    def _own_address(self) -> str:
        is_everywhere = self.config.bind_address in ("0.0.0.0", "::")
        return join_address("127.0.0.1" if is_everywhere else self.config.bind_address, self.port)

    async def start(self) -> None:
        """Read what is remembered, then listen.

        Raises:
            CorruptDataError: what is remembered is damaged.
            PortInUseError: another process has the port.
        """
        self._live_config.load()
        await self.server.serve()
        if not self._peers:
            self.config.controller_port = self.port
        self._requests.addresses = self._peers or {self.config.controller_d_leger_self_id: self._own_address()}
        try:
            await self.consensus.start()
        except BaseException:
            await self.server.stop()
            raise
        await self._periodic.start()

    async def stop(self) -> None:
        """Close the port and all connections, then the files. A second call does nothing."""
        await self._periodic.stop()
        await self.manager.stop()
        await self.server.stop()
        await self._notifier.stop()
        await self.consensus.stop()
        await self.client.close()

    def __repr__(self) -> str:
        return f"<Controller {self.address} {self.consensus!r} {self.manager.machine.state!r}>"
