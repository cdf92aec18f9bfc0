"""The master's end of one link: takes the slave's reports, sends it the log.

    new -> (is the peer trusted?) -> waits for the first report -> sends from there on -> closed

Nothing here waits: the connection is pushed when the log grew, when the socket took what was written, when bytes of long
ago were read from the disk. The slave decides where it begins; from then on every byte is sent once, in order.

Source: `DefaultHAConnection`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, cast

from rocketmq_py.common.errors import RocketMQError
from rocketmq_py.common.host import join_address
from rocketmq_py.store.ha.ha_frames import MasterCodec

if TYPE_CHECKING:
    from rocketmq_py.store.ha.ha_service import HAService

logger = logging.getLogger(__name__)

#: A connection is pushed no further in one turn of the loop: clients wait for the same loop.
PUSH_BYTES: Final = 1 << 20
#: Bytes that are read at once when they are not in memory.
COLD_BYTES: Final = 1 << 20
#: Unsent bytes at which the log waits for the socket.
_HIGH_WATER: Final = 1 << 20
#: Larger bodies are not copied once more only to stand behind their header.
_JOINED_BYTES: Final = 16 << 10
#: Seconds until the next look when the allowance of bytes is used up.
_FLOW_SECONDS: Final = 0.01


class HAConnection(asyncio.Protocol):
    """One slave.

    Attributes:
        address: of the slave, `ip:port`.
        host: of the slave.
        next_offset: of the next byte to send; -1 before the first report.
        last_read: time of the loop at which the slave was last heard.
        last_write: time of the loop at which something was last sent.
        codec: what the bytes mean.
    """

    def __init__(self, service: HAService) -> None:
        self.address = self.host = ""
        self.next_offset = -1
        self.last_read = self.last_write = 0.0
        self.codec: MasterCodec = service.make_codec(self)
        self.sent_bytes = 0
        self._service = service
        self._transport: asyncio.Transport | None = None
        self._is_admitted = self._is_paused = self._is_pushed = self._is_unservable = False
        self._reading: asyncio.Task[None] | None = None

    # --- life ---------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Read nothing before it is known who this is."""
        # Not checked at run time: uvloop's transports are of a class of their own.
        self._transport = transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername") or ("?", 0)
        self.host, self.address = peer[0], join_address(peer[0], peer[1])
        self.last_read = self.last_write = asyncio.get_running_loop().time()
        transport.set_write_buffer_limits(high=_HIGH_WATER)
        transport.pause_reading()
        self._service.opened(self)

    def admit(self) -> None:
        """Listen to the peer: it is a slave of this broker."""
        if self._transport is not None and not self._transport.is_closing():
            self._is_admitted = True
            self._transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        """Forget the slave."""
        if self._reading is not None:
            self._reading.cancel()
        self._transport = None
        self._service.closed(self, error)

    def close(self, reason: str) -> None:
        """Close, and say why in the log."""
        if self._transport is not None and not self._transport.is_closing():
            logger.warning("the link to slave %s is closed: %s", self.address, reason)
            self._transport.abort()

    @property
    def is_open(self) -> bool:
        """Whether bytes can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    # --- from the slave -----------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Note what the slave reports; its first report says where to begin."""
        self.last_read = asyncio.get_running_loop().time()
        try:
            offset = self.codec.feed(data)
        except RocketMQError as error:
            self.close(str(error))
            return
        self._write(self.codec.take_reply())
        if offset is None:
            return
        if not self._service.reported(self, offset):
            return
        if self.next_offset < 0:
            self.next_offset = self._service.start_offset(self, offset)
            logger.info("slave %s follows from %d", self.address, self.next_offset)
            self.push()

    def eof_received(self) -> bool:
        """A slave that says nothing any more is gone."""
        return False

    # --- to the slave -------------------------------------------------------------------------------------------------

    def appended(self, offset: int, data: bytes | memoryview) -> None:
        """Send what was appended just now, if this slave has all that is before it; else it comes in its turn."""
        is_next = offset == self.next_offset and not (self._is_paused or self._is_pushed or self._reading)
        if is_next and self._service.may_send_now(self, len(data)) and self.is_open:
            self._send(bytes(data))
        else:
            self.push()

    def push(self) -> None:
        """Send what there is, in this turn of the loop or one of the next."""
        if not self._is_pushed and self.next_offset >= 0:
            self._is_pushed = True
            asyncio.get_running_loop().call_soon(self._push)

    def pause_writing(self) -> None:
        """The socket is full."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """The socket has room."""
        self._is_paused = False
        self.push()

    def heartbeat(self) -> None:
        """Give a sign of life."""
        if self.next_offset >= 0 and not self._is_paused:
            self._write(self.codec.header(self.next_offset, 0))

    def _push(self) -> None:
        self._is_pushed = False
        pushed = 0
        while pushed < PUSH_BYTES and not self._is_paused and self._reading is None and self.is_open:
            size = self._service.may_send(self)
            if size <= 0:
                if size < 0:
                    asyncio.get_running_loop().call_later(_FLOW_SECONDS, self.push)
                return
            data = self._service.log.read_cached(self.next_offset, size)
            if data is None:
                self._reading = asyncio.get_running_loop().create_task(self._read_cold(size))
                return
            self._send(data)
            pushed += len(data)
        if pushed >= PUSH_BYTES:
            self.push()

    async def _read_cold(self, size: int) -> None:
        """Send bytes that are not in memory, many at a time: a thread that waits for its turn costs more than the reading."""
        service = self._service
        offset, log = self.next_offset, service.log
        if not service.config.ha_flow_control_enable:
            size = min(COLD_BYTES, log.max_offset - offset, log.file_size - offset % log.file_size)
        try:
            data = await service.run_blocking(log.read_blocking, offset, size)
        except (RocketMQError, OSError) as error:
            self.close(f"its log cannot be read: {error}")
            return
        finally:
            self._reading = None
        if data:
            self._is_unservable = False
            view = memoryview(data)
            while view and self.is_open and (size := min(service.may_send(self), len(view))) > 0:
                self._send(bytes(view[:size]))
                view = view[size:]
            self.push()
        elif not self._is_unservable:
            # As in RocketMQ the link stays, with signs of life only.
            self._is_unservable = True
            logger.error(
                "slave %s asks for the log from %d, but it begins at %d here: set the slave's store aside and start it "
                "empty",
                self.address,
                self.next_offset,
                self._service.log.min_offset,
            )

    def _send(self, data: bytes) -> None:
        header = self.codec.header(self.next_offset, len(data))
        self.next_offset += len(data)
        self.sent_bytes += len(data)
        self._service.flow.spend(len(data))
        if len(data) < _JOINED_BYTES:
            self._write(header + data)
        else:
            self._write(header)
            self._write(data)

    def _write(self, data: bytes) -> None:
        if data and self._transport is not None and not self._transport.is_closing():
            self.last_write = asyncio.get_running_loop().time()
            self._transport.write(data)

    def __repr__(self) -> str:
        state = "new" if not self._is_admitted else "waits for a report" if self.next_offset < 0 else "sends"
        return f"<HAConnection {self.address} {state} next {self.next_offset}>"
