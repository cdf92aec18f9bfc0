"""The slave's side of replication: keeps a link to the master, takes its log, reports how far it got.

The link is tried for as long as there is a master to follow: at once, and then with growing pauses of at most a second.

Source: `DefaultHAClient`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Final, cast

from rocketmq_py.common.environment import RunBlocking
from rocketmq_py.common.errors import CorruptDataError, RocketMQError
from rocketmq_py.common.host import split_address
from rocketmq_py.common.optional_numpy import load_numpy
from rocketmq_py.store.config import MessageStoreConfig
from rocketmq_py.store.errors import StoreError
from rocketmq_py.store.ha.ha_frames import DefaultSlaveCodec, SlaveCodec
from rocketmq_py.store.ha.log_intake import LogIntake
from rocketmq_py.store.ha.record_vector import RecordVectors

logger = logging.getLogger(__name__)

#: Seconds until the next attempt after a link that failed; each further failure doubles it.
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 1.0
CONNECT_SECONDS: Final = 3.0
#: Bytes read at once. What is read is copied, checked and written before the next read; so much stays in a core's cache.
_READ_BUFFER: Final = 512 << 10
#: Bytes of one read from which on a slave is said to catch up: then checking many records at once pays.
_MANY_BYTES: Final = 128 << 10
_TEND_SECONDS: Final = 1.0


class HAClient:
    """Follows one master at a time.

    Args:
        config: the store's settings.
        intake: where the bytes go.
        run_blocking: for the import of numpy.

    Attributes:
        address: of the master's port for slaves, `host:port`; empty: there is nobody to follow. See `follow`.
        confirmed: returns how far the log may be reported: to its end, or to what is on disk.
        make_codec: makes the protocol of a new link.
        make_link: makes the link itself.
        link: the open link, or None.
        faults: how often a link was ended because of what came over it.
    """

    def __init__(
        self, config: MessageStoreConfig, intake: LogIntake, confirmed: Callable[[], int], run_blocking: RunBlocking
    ) -> None:
        self.config = config
        self.intake = intake
        self.address = ""
        self.confirmed = confirmed
        self.make_codec: Callable[[], SlaveCodec] = DefaultSlaveCodec
        self.make_link: Callable[[HAClient], Link] = Link
        self.link: Link | None = None
        self.faults = 0
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._run_blocking = run_blocking
        self._loading: asyncio.Task[None] | None = None

    async def serve(self) -> None:
        """Begin."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="HAClient")

    async def stop_serving(self) -> None:
        """End the link."""
        for task in (self._task, self._loading):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        self._task = None

    def follow(self, address: str) -> None:
        """Follow a master from now on; an empty address ends following. An open link to another one is closed."""
        if address != self.address:
            logger.info("this slave follows %s", address or "nobody")
            self.address = address
            if self.link is not None:
                self.link.close("another master is followed")
        self._wanted.set()

    def report(self) -> None:
        """Tell the master how far the log is, if that is further than it knows."""
        if self.link is not None:
            self.link.report()

    def expect_many(self) -> None:
        """Load what checks many records at once, unless that was done."""

        async def load() -> None:
            numpy = await self._run_blocking(load_numpy)
            self.intake.vectors = RecordVectors(numpy) if numpy is not None else None

        if self._loading is None:
            self._loading = asyncio.get_running_loop().create_task(load())

    async def _run(self) -> None:
        failures = 0
        while True:
            self._wanted.clear()
            if not self.address or not self.intake.is_possible:
                # A log that failed takes nothing until the next start.
                await self._wanted.wait()
                continue
            has_copied = await self._follow(self.address, is_first=not failures)
            failures = 0 if has_copied else failures + 1
            pause = min(FIRST_PAUSE * 2 ** min(failures, 8), LONGEST_PAUSE)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wanted.wait()

    async def _follow(self, address: str, *, is_first: bool) -> bool:
        """Open one link and stay until it ends; return whether anything was copied over it."""
        level = logging.WARNING if is_first else logging.DEBUG
        loop = asyncio.get_running_loop()
        try:
            host, port = split_address(address)
            async with asyncio.timeout(CONNECT_SECONDS):
                _, link = await loop.create_connection(lambda: self.make_link(self), host, port)
        except (OSError, TimeoutError, RocketMQError) as error:
            logger.log(level, "the master's log at %s cannot be reached: %s", address, error or "no answer")
            return False
        logger.log(logging.INFO if is_first else logging.DEBUG, "linked to the master at %s", address)
        self.link = link
        try:
            await link.tend()
        finally:
            self.link = None
            link.close("")
        return link.has_copied

    def __repr__(self) -> str:
        return f"<HAClient {self.address or 'nobody'} {self.link!r} {self.intake!r}>"


class Link(asyncio.BufferedProtocol):
    """One connection to a master.

    Attributes:
        has_copied: something of the log has come over it.
        reported: what the master was told; -1 before the first report.
    """

    def __init__(self, client: HAClient) -> None:
        self.has_copied = False
        self.reported = -1
        self.codec = client.make_codec()
        self._client = client
        self._intake = client.intake
        self._transport: asyncio.Transport | None = None
        self._lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._buffer = memoryview(bytearray(_READ_BUFFER))
        self._filled = 0
        # Where the frame is that is under way, and how much of its body is still to come.
        self._offset = self._left = 0
        self.last_read = self.last_write = asyncio.get_running_loop().time()

    # --- life ---------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say at once where to begin.

        Differs from RocketMQ, which is silent for up to 5 s.
        """
        # Not checked at run time: uvloop's transports are of a class of their own.
        self._transport = transport = cast(asyncio.Transport, transport)
        self._write(self.codec.hello())
        self._begin()

    def _begin(self) -> None:
        if self.codec.is_ready() and self.reported < 0:
            self.reported = self._intake.begin()
            self._write(self.codec.report(self.reported))

    def connection_lost(self, error: Exception | None) -> None:
        """End; the client opens the next one."""
        self._transport = None
        if not self._lost.done():
            self._lost.set_result(None)
        if error is not None:
            logger.warning("the link to the master is lost: %s", error)

    def close(self, reason: str) -> None:
        """Close, and say why in the log."""
        if self._transport is not None:
            if reason:
                logger.warning("the link to the master is closed: %s", reason)
            self._transport.abort()

    async def tend(self) -> None:
        """Give signs of life until the link is lost, or the master gives none."""
        config, loop = self._client.config, asyncio.get_running_loop()
        while not self._lost.done():
            await asyncio.wait([self._lost], timeout=min(_TEND_SECONDS, config.ha_send_heartbeat_interval / 2000))
            now = loop.time()
            if now - self.last_read > config.ha_housekeeping_interval / 1000:
                self.close(f"nothing was heard of it for {now - self.last_read:.0f} s")
            elif self.reported >= 0 and now - self.last_write >= config.ha_send_heartbeat_interval / 1000:
                self._write(self.codec.report(self.reported))

    # --- from the master ----------------------------------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the next bytes go."""
        return self._buffer[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        """Take frames apart, append what is whole, report it."""
        self.last_read = asyncio.get_running_loop().time()
        self._filled += nbytes
        try:
            self._take_frames()
            if size := self._intake.settle():
                self.has_copied = True
                if size >= _MANY_BYTES:
                    self._client.expect_many()
        except CorruptDataError as error:
            self._client.faults += 1
            self.close(f"{error}; the copy goes on from the last good record")
        except StoreError as error:
            self.close(str(error))
        else:
            self.report()

    def _take_frames(self) -> None:
        view, at, header_size = self._buffer, 0, self.codec.header_size
        while True:
            if self._left:
                body = view[at : min(at + self._left, self._filled)]
                self._intake.feed(self._offset, body)
                at += len(body)
                self._offset += len(body)
                self._left -= len(body)
            if self._left or self._filled - at < header_size:
                break
            offset, size = self.codec.header(view, at)
            at += header_size
            if size < 0:
                raise CorruptDataError("a frame of the master", "a size of 0 or more", size)
            self._begin()
            self._intake.check_offset(offset)
            self._offset, self._left = offset, size
        rest = self._filled - at
        # At most a header: bodies are taken out whole.
        view[:rest] = bytes(view[at : self._filled])
        self._filled = rest

    # --- to the master ------------------------------------------------------------------------------------------------

    def report(self) -> None:
        """Report the end of the log if it is further than what was reported."""
        if self.reported >= 0 and self._intake.is_verified:
            offset = self._client.confirmed()
            if offset > self.reported:
                self.reported = offset
                self._write(self.codec.report(offset))

    def _write(self, data: bytes) -> None:
        if data and self._transport is not None and not self._transport.is_closing():
            self.last_write = asyncio.get_running_loop().time()
            self._transport.write(data)

    def __repr__(self) -> str:
        return f"<Link reported {self.reported} at {self._offset}, {self._left} bytes of a frame to come>"
