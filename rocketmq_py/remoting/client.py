"""The client: one connection for each address, made when it is needed and made again when it is lost.

Source: `NettyRemotingClient`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

from rocketmq_py.common.environment import Clock
from rocketmq_py.common.host import split_address
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.connection import Connection, Hub
from rocketmq_py.remoting.errors import RemotingConnectError, RemotingError, RemotingTimeoutError
from rocketmq_py.remoting.limits import Limits
from rocketmq_py.remoting.processors import Handler, Processors

#: Seconds to make a connection: RocketMQ's connectTimeoutMillis.
CONNECT_SECONDS = 3.0


class RemotingClient:
    """Sends requests to addresses, and handles the requests that servers send back.

    Args:
        clock: the wall clock.
        limits: what servers may use up.
        tls: to connect with TLS.
        tls_hostname: the name that certificates are checked for, if it is not the address's host.
    """

    def __init__(
        self,
        clock: Clock,
        limits: Limits | None = None,
        tls: ssl.SSLContext | None = None,
        tls_hostname: str | None = None,
    ) -> None:
        self.processors = Processors()
        self._hub = Hub(self.processors, limits or Limits(), clock)
        self._tls = tls
        self._tls_hostname = tls_hostname
        self._connections: dict[str, Connection] = {}
        self._connecting: dict[str, asyncio.Task[Connection]] = {}
        self._is_closed = False

    @property
    def on_closed(self) -> list[Callable[[Connection], None]]:
        """Called with each connection that is gone; add to it."""
        return self._hub.on_closed

    def on_request(self, code: int, handler: Handler) -> None:
        """Handle the requests of a code that servers send to this client."""
        self.processors.register(code, handler, "client")

    async def request(self, address: str, command: RemotingCommand, timeout: float) -> RemotingCommand:
        """Send a request to `host:port` and wait for its response.

        Args:
            address: where to.
            command: the request; it is numbered here.
            timeout: seconds, for connecting and answering together.

        Raises:
            RemotingConnectError: no connection could be made; the request was not sent.
            RemotingTimeoutError: no answer in time.
            RemotingSendRequestError: the connection was lost meanwhile.

        Cancellation: the answer is dropped when it comes; a request that was written is not taken back.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        connection = await self.connect(address, min(timeout, CONNECT_SECONDS))
        try:
            return await connection.request(command, max(timeout - (loop.time() - began), 0.001))
        except RemotingTimeoutError:
            # The caller's own figure, not what connecting left of it.
            raise RemotingTimeoutError(address, timeout, command.code) from None

    async def one_way(self, address: str, command: RemotingCommand) -> None:
        """Send a request that is not answered; return when it is on its way.

        Raises:
            RemotingConnectError: no connection could be made.
            RemotingSendRequestError: the connection is closed.
        """
        (await self.connect(address, CONNECT_SECONDS)).one_way(command)

    async def connect(self, address: str, timeout: float = CONNECT_SECONDS) -> Connection:
        """Return the connection to an address, making it if there is none; callers at the same time share one.

        Raises:
            RemotingConnectError: it cannot be made within `timeout` seconds.
        """
        if self._is_closed:
            raise RemotingError("the client is closed; start a new one")
        connection = self._connections.get(address)
        if connection is not None and connection.is_open:
            return connection
        task = self._connecting.get(address)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._connect(address, timeout))
            self._connecting[address] = task
            task.add_done_callback(lambda done: self._connected(address, done))
        # Shielded: one caller that gives up must not end the attempt for the others.
        return await asyncio.shield(task)

    def _connected(self, address: str, task: asyncio.Task[Connection]) -> None:
        self._connecting.pop(address, None)
        if not task.cancelled():
            task.exception()  # Marks it as seen: every caller may have been cancelled.

    async def _connect(self, address: str, timeout: float) -> Connection:
        host, port = split_address(address)
        try:
            async with asyncio.timeout(timeout):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: Connection(self._hub, is_server=False), host, port
                )
                if self._tls is not None:
                    await connection.begin_tls(self._tls, self._tls_hostname or host)
        except TimeoutError:
            raise RemotingConnectError(address, f"no connection within {timeout:g} s") from None
        except (OSError, RemotingError) as error:
            raise RemotingConnectError(
                address, error.strerror or str(error) if isinstance(error, OSError) else str(error)
            ) from None
        self._connections[address] = connection
        return connection

    async def close(self) -> None:
        """Close all connections; requests under way end with RemotingSendRequestError."""
        self._is_closed = True
        for task in list(self._connecting.values()):
            task.cancel()
        for work in list(self._hub.tasks):
            work.cancel()
        connections = list(self._hub.connections)
        for connection in connections:
            connection.close()
        if connections:
            await asyncio.wait([connection.closed for connection in connections], timeout=1.0)
        for connection in list(self._hub.connections):
            connection.abort("the client closes")
        await asyncio.gather(*self._connecting.values(), *self._hub.tasks, return_exceptions=True)

    async def stop(self) -> None:
        """Close; the name that the kernel calls."""
        await self.close()

    def __repr__(self) -> str:
        return f"<RemotingClient {', '.join(address for address, known in self._connections.items() if known.is_open)}>"
