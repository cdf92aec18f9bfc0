"""The master's side of replication: a port for slaves, one connection for each, and what their reports say together.

Source: `DefaultHAService`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
from collections.abc import Awaitable, Callable
from typing import Final

from rocketmq_py.common.environment import RunBlocking
from rocketmq_py.common.errors import RocketMQError
from rocketmq_py.common.host import join_address
from rocketmq_py.store.commit_log import CommitLog, LogObserver
from rocketmq_py.store.config import BrokerRole, MessageStoreConfig
from rocketmq_py.store.ha.flow_limit import FlowLimit
from rocketmq_py.store.ha.ha_connection import HAConnection
from rocketmq_py.store.ha.ha_frames import DefaultMasterCodec, MasterCodec
from rocketmq_py.store.ha.replica_acks import ReplicaAcks

logger = logging.getLogger(__name__)

#: Connections at the port for slaves, those of strangers that are not yet refused among them.
MAX_CONNECTIONS: Final = 128
#: Longest time in seconds between two looks at who is silent.
_TEND_SECONDS: Final = 1.0
#: How long a stop waits for slaves.
DRAIN_SECONDS: Final = 1.0


class HAPortInUseError(RocketMQError, OSError):
    """Another process listens on the port for slaves."""


class HAService(LogObserver):
    """Sends the log of this broker to its slaves, while it is a master.

    Args:
        config: the store's settings; read whenever they matter, so that they may change.
        log: what is sent.
        run_blocking: for reads that wait for the disk.
        host: the interface to listen on.
        port: 0 for any free one; `port` tells which, once it listens.
        is_port_fixed: whether another port will not do, because this one was configured.

    Attributes:
        acks: what the slaves have, by connection.
        connections: the links of slaves that were let in.
        is_trusted: tells whether a host may have the log and confirm it. It may ask others, and so take a while.
        make_codec: makes the protocol of a new link.
        start_offset: where a slave begins that reported an offset.
        on_change: called when a slave came, went or reported.
    """

    def __init__(
        self,
        config: MessageStoreConfig,
        log: CommitLog,
        run_blocking: RunBlocking,
        host: str,
        port: int,
        *,
        is_port_fixed: bool = False,
    ) -> None:
        self.config = config
        self.log = log
        self.run_blocking = run_blocking
        self.host = host
        self.port = port
        self.acks = ReplicaAcks(lambda: log.max_offset)
        self.connections: list[HAConnection] = []
        self.flow = FlowLimit(self._flow_limit, lambda: asyncio.get_running_loop().time())
        self.make_codec: Callable[[HAConnection], MasterCodec] = lambda connection: DefaultMasterCodec()
        self.start_offset: Callable[[HAConnection, int], int] = self._start_offset
        self.on_change: list[Callable[[], None]] = []
        self.is_trusted: Callable[[str], Awaitable[bool]] = _trust_nobody
        self._is_port_fixed = is_port_fixed
        self._strangers: dict[HAConnection, asyncio.Task[None]] = {}
        self._has_changed = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._tending: asyncio.Task[None] | None = None

    # --- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen for slaves.

        Raises:
            HAPortInUseError: another process has the port, and it was configured.
        """
        self._server = await self._listen()
        self.port = self._server.sockets[0].getsockname()[1]
        self._tending = asyncio.get_running_loop().create_task(self._tend(), name="HAService")

    async def _listen(self) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        try:
            return await loop.create_server(lambda: HAConnection(self), self.host, self.port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise OSError(
                    error.errno,
                    f"cannot listen on {join_address(self.host, self.port)}: {os.strerror(error.errno or 0)}. "
                    "bindAddress has to be an address of this machine, such as 127.0.0.1",
                ) from None
            if self._is_port_fixed:
                raise HAPortInUseError(
                    f"the port {self.port} on {self.host} is in use. "
                    "Start with another haListenPort, or stop the process that has it"
                ) from None
        # Differs from RocketMQ, which does not start: slaves ask the name servers for the port anyway.
        logger.warning("the port %d for slaves is in use, so any free one is taken: set haListenPort", self.port)
        return await loop.create_server(lambda: HAConnection(self), self.host, 0)

    async def stop_serving(self) -> None:
        """Take no further slaves."""
        if self._server is not None:
            self._server.close()
        if self._tending is not None:
            self._tending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._tending
            self._tending = None

    async def stop(self) -> None:
        """Let the slaves have what they lack, for a moment, and close the links."""
        await self.stop_serving()
        await self._drain()
        for task in self._strangers.values():
            task.cancel()
        self.close_connections("the broker stops")
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None

    async def _drain(self) -> None:
        """Wait until every slave has confirmed all, so that a stop in order leaves nothing that only this broker has."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                while any(self.acks.reported(each) < self.log.max_offset for each in self.connections):
                    self._has_changed.clear()
                    await self._has_changed.wait()

    def close_connections(self, reason: str) -> None:
        """Close the links of all slaves, such as when this broker is no master any more."""
        for connection in [*self.connections, *self._strangers]:
            connection.close(reason)

    # --- connections --------------------------------------------------------------------------------------------------

    def opened(self, connection: HAConnection) -> None:
        """Find out who connected; until that is known nothing is read and nothing is sent."""
        if len(self._strangers) + len(self.connections) >= MAX_CONNECTIONS:
            connection.close(f"{MAX_CONNECTIONS} connections are open")
            return
        task = asyncio.get_running_loop().create_task(self._meet(connection), name=f"who is {connection.host}?")
        self._strangers[connection] = task

    async def _meet(self, connection: HAConnection) -> None:
        try:
            if self.config.broker_role is BrokerRole.SLAVE:
                reason = "this broker is a slave and has no log to give"
            elif await self.is_trusted(connection.host):
                reason = ""
            else:
                reason = "it is no slave of this broker that a name server knows, and not in haTrustedSlaves"
        finally:
            self._strangers.pop(connection, None)
        if reason or not connection.is_open:
            connection.close(reason)
            return
        if not self.connections:
            # Only now: a broker without slaves has nobody to tell that its log grew.
            self.log.observers.append(self)
        self.connections.append(connection)
        self.acks.join(connection)
        connection.admit()
        logger.info("slave %s has connected", connection.address)
        self._changed()

    def closed(self, connection: HAConnection, error: Exception | None) -> None:
        """Forget a connection that is gone."""
        task = self._strangers.pop(connection, None)
        if task is not None:
            task.cancel()
        if connection in self.connections:
            self.connections.remove(connection)
            self.acks.leave(connection)
            if not self.connections:
                self.log.observers.remove(self)
            logger.warning("slave %s is gone%s", connection.address, f": {error}" if error else "")
            self._changed()

    def reported(self, connection: HAConnection, offset: int) -> bool:
        """Take a slave's report; one that cannot be true ends the link."""
        if not self.acks.report(connection, offset):
            connection.close(
                f"it reports {offset}, after {self.acks.reported(connection)} and of a log that ends at "
                f"{self.log.max_offset}. A slave that is ahead has what this master lost: set its store aside"
            )
            return False
        self._changed()
        return True

    def _changed(self) -> None:
        self._has_changed.set()
        for listener in self.on_change:
            listener()

    # --- sending ------------------------------------------------------------------------------------------------------

    def appended(self, offset: int, data: bytes | memoryview) -> None:
        """The log grew: slaves that have all the rest get the bytes while they are at hand."""
        for connection in self.connections:
            connection.appended(offset, data)

    def may_send_now(self, connection: HAConnection, size: int) -> bool:
        """Tell whether bytes that were appended just now may go to a slave as one frame."""
        offset = connection.next_offset
        return (
            size <= self.config.ha_transfer_batch_size
            and not self.config.ha_flow_control_enable
            and connection.codec.frame_end(offset, offset + size) == offset + size
        )

    def may_send(self, connection: HAConnection) -> int:
        """Return how many bytes may be sent to a slave now; 0 if there are none, -1 if it must wait a little."""
        offset, log = connection.next_offset, self.log
        if offset >= log.max_offset:
            return 0
        end = min(
            log.max_offset, offset + self.config.ha_transfer_batch_size, offset - offset % log.file_size + log.file_size
        )
        size = connection.codec.frame_end(offset, end) - offset
        allowed = self.flow.allowed()
        if allowed is not None and allowed < size:
            size = allowed or -1
        return size

    def _start_offset(self, connection: HAConnection, reported: int) -> int:
        """Return where a slave begins: an empty one at the last file, as in RocketMQ, another where it ends."""
        if reported:
            return reported
        if self.config.ha_send_all_to_empty_slave:
            return self.log.min_offset
        return self.log.max_offset - self.log.max_offset % self.log.file_size

    def _flow_limit(self) -> int | None:
        return self.config.max_ha_transfer_byte_in_second if self.config.ha_flow_control_enable else None

    async def _tend(self) -> None:
        """Give signs of life, and end the links of slaves that give none."""
        while True:
            await asyncio.sleep(min(_TEND_SECONDS, self.config.ha_send_heartbeat_interval / 2000))
            now = asyncio.get_running_loop().time()
            for connection in list(self.connections):
                if now - connection.last_read > self.config.ha_housekeeping_interval / 1000:
                    connection.close(f"nothing was heard of it for {now - connection.last_read:.0f} s")
                elif now - connection.last_write >= self.config.ha_send_heartbeat_interval / 1000:
                    connection.heartbeat()
            self._changed()

    def __repr__(self) -> str:
        return f"<HAService {join_address(self.host, self.port)} {len(self.connections)} slaves {self.acks!r}>"


async def _trust_nobody(host: str) -> bool:
    return False
