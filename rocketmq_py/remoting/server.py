"""The server: listens, accepts within limits, and closes what is idle or too slow.

Source: `NettyRemotingServer`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import ssl
from collections import Counter
from collections.abc import Callable

from rocketmq_py.common.environment import Clock
from rocketmq_py.common.host import join_address, split_address
from rocketmq_py.remoting.connection import Connection, Hub
from rocketmq_py.remoting.errors import RemotingError
from rocketmq_py.remoting.limits import Limits
from rocketmq_py.remoting.processors import Processors

logger = logging.getLogger(__name__)

#: Seconds between two looks for connections that are idle or late.
_SCAN_SECONDS = 1.0


class PortInUseError(RemotingError, OSError):
    """Another process listens on the port."""


class RemotingServer:
    """A listening port and its connections.

    Args:
        processors: who handles which request code.
        clock: the wall clock.
        host: the interface to listen on.
        port: 0 for any free one; `port` tells which, once it serves.
        limits: what peers may use up.
        tls: certificates, if TLS clients are welcome.
        requires_tls: refuse plain connections.
    """

    def __init__(
        self,
        processors: Processors,
        clock: Clock,
        host: str,
        port: int,
        limits: Limits | None = None,
        tls: ssl.SSLContext | None = None,
        requires_tls: bool = False,
    ) -> None:
        self.processors = processors
        self.host = host
        self.port = port
        self.limits = limits or Limits()
        self._hub = Hub(processors, self.limits, clock)
        self._hub.tls_context = tls
        self._hub.requires_tls = requires_tls
        self._hub.on_open.append(self._admit)
        self._server: asyncio.Server | None = None
        self._others: list[asyncio.Server] = []
        self._scan: asyncio.Task[None] | None = None
        self.on_bound: list[Callable[[int], None]] = []

    @property
    def connections(self) -> list[Connection]:
        """The open connections, oldest first."""
        return list(self._hub.connections)

    @property
    def on_closed(self) -> list[Callable[[Connection], None]]:
        """Called with each connection that is gone; add to it."""
        return self._hub.on_closed

    async def serve(self) -> None:
        """Listen.

        Raises:
            PortInUseError: another process has the port.
            OSError: the interface cannot be listened on.
        """
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                lambda: Connection(self._hub, is_server=True), self.host, self.port, backlog=1024
            )
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise OSError(
                    error.errno,
                    f"cannot listen on {join_address(self.host, self.port)}: {os.strerror(error.errno or 0)}. "
                    "bindAddress has to be an address of this machine, such as 127.0.0.1",
                ) from None
            raise PortInUseError(
                f"the port {self.port} on {self.host} is in use. "
                "Start with another listenPort, or stop the process that has it"
            ) from None
        self.port = self._server.sockets[0].getsockname()[1]
        for listener in self.on_bound:
            listener(self.port)
        self._scan = loop.create_task(self._scan_connections())

    async def listen_also(self, port: int) -> bool:
        """Listen on a further port of the same interface; return whether that worked.

        Connections that come over it are like all others.
        """
        try:
            server = await asyncio.get_running_loop().create_server(
                lambda: Connection(self._hub, is_server=True), self.host, port, backlog=1024
            )
        except OSError as error:
            logger.warning("cannot listen on %s as well: %s", join_address(self.host, port), error.strerror or error)
            return False
        self._others.append(server)
        return True

    async def stop_serving(self) -> None:
        """Accept no new connections."""
        for other in self._others:
            other.close()
        self._others.clear()
        if self._server is not None:
            self._server.close()
        if self._scan is not None:
            self._scan.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._scan
            self._scan = None

    async def stop(self) -> None:
        """Close all connections after what was written, and wait until they are gone."""
        await self.stop_serving()
        for task in list(self._hub.tasks):
            task.cancel()
        connections = self.connections
        for connection in connections:
            connection.close()
        if connections:
            await asyncio.wait([connection.closed for connection in connections], timeout=1.0)
        for connection in self.connections:
            connection.abort("the server stops")
        await asyncio.gather(*self._hub.tasks, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None

    def _admit(self, connection: Connection) -> None:
        count = len(self._hub.connections)
        if count > self.limits.connections:
            connection.abort(f"{count} connections are open, more than {self.limits.connections}")
            return
        if (
            self.limits.connections_per_address < self.limits.connections
            and count > self.limits.connections_per_address
        ):
            host = split_address(connection.remote_address)[0]
            counts = Counter(split_address(known.remote_address)[0] for known in self._hub.connections)
            if counts[host] > self.limits.connections_per_address:
                connection.abort(
                    f"{counts[host]} connections from {host}, more than {self.limits.connections_per_address}"
                )

    async def _scan_connections(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_SCAN_SECONDS)
            for connection in self.connections:
                reason = self._late(connection, loop.time())
                if reason:
                    connection.close(reason)

    def _late(self, connection: Connection, now: float) -> str:
        silent = now - connection.last_active
        if silent > self.limits.idle_seconds:
            return f"idle for {silent:.0f} s"
        if not connection.has_framed and now - connection.opened_at > self.limits.first_frame_seconds:
            return f"no request within {self.limits.first_frame_seconds:g} s"
        if connection.frame_began and now - connection.frame_began > self.limits.partial_frame_seconds:
            return f"half a request for more than {self.limits.partial_frame_seconds:g} s"
        return ""

    def __repr__(self) -> str:
        return f"<RemotingServer {join_address(self.host, self.port)} {len(self._hub.connections)} connections>"
