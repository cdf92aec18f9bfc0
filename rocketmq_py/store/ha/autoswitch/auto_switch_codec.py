"""The two ends of a link in controller mode: what the bytes mean to a master, and to a slave.

    slave                                   master
      handshake {id}                   ->
                                       <-    reply {end, epochs}
      find the point where the logs part, cut the own log there, flush
      ack {end}                        ->    sends from there on
                                       <-    transfer {offset, epoch, confirm offset, bytes}
      append, ack {end}                ->

Source: `AutoSwitchHAConnection`, `AutoSwitchHAClient`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from rocketmq_py.common.errors import CorruptDataError, RocketMQError
from rocketmq_py.store.ha.autoswitch.epochs import Epoch
from rocketmq_py.store.ha.autoswitch.frames import (
    TRANSFER_LAYOUT,
    Ack,
    FrameError,
    Handshake,
    HandshakeReply,
    decode_handshake_reply,
    decode_slave_frames,
    decode_transfer_head,
    encode_ack,
    encode_handshake,
    encode_handshake_reply,
    encode_transfer,
)
from rocketmq_py.store.ha.ha_client import HAClient, Link
from rocketmq_py.store.ha.ha_connection import HAConnection
from rocketmq_py.store.ha.ha_frames import Header

if TYPE_CHECKING:
    from rocketmq_py.store.ha.autoswitch.auto_switch_ha_service import AutoSwitchHAService

logger = logging.getLogger(__name__)

#: What stands for the epoch of bytes that are older than the first one.
_BEFORE_ALL = Epoch(0, 0)


class AutoSwitchMasterCodec:
    """One slave, as the master sees it.

    Attributes:
        broker_id: who it is; None before its handshake.
        is_sync_from_last_file: whether it begins at the last file when it is empty.
    """

    def __init__(self, service: AutoSwitchHAService, connection: HAConnection) -> None:
        self.broker_id: int | None = None
        self.is_sync_from_last_file = False
        self._service = service
        self._connection = connection
        self._rest = b""
        self._reply = b""

    def feed(self, data: bytes) -> int | None:
        """Take frames of the slave; return its newest report.

        Raises:
            FrameError: they are none, or say what cannot be true.
        """
        data = self._rest + data
        frames, taken = decode_slave_frames(data)
        self._rest = data[taken:]
        newest = None
        for frame in frames:
            if isinstance(frame, Handshake):
                self._shake_hands(frame)
            else:
                newest = self._take_ack(frame)
        return newest

    def _shake_hands(self, handshake: Handshake) -> None:
        if self.broker_id is not None and self.broker_id != handshake.broker_id:
            raise FrameError(f"broker {self.broker_id} says that it is broker {handshake.broker_id}")
        self.broker_id = handshake.broker_id
        self.is_sync_from_last_file = handshake.is_sync_from_last_file
        self._service.shaken(self._connection, handshake)
        log, epochs = self._service.log, self._service.epochs
        self._reply = encode_handshake_reply(log.max_offset, epochs.epochs)

    def _take_ack(self, ack: Ack) -> int:
        if self.broker_id is None:
            raise FrameError(f"it reports {ack.max_offset} without a handshake")
        self._service.acked(self.broker_id, ack.max_offset)
        return ack.max_offset

    def take_reply(self) -> bytes:
        """Return the answer to a handshake, once."""
        reply, self._reply = self._reply, b""
        return reply

    def frame_end(self, offset: int, end: int) -> int:
        """A frame holds bytes of one epoch."""
        return min(end, self._service.epochs.end_of(offset, end))

    def header(self, offset: int, size: int) -> bytes:
        """Return the 36 bytes before a body; without a body they are a sign of life that carries the confirm offset."""
        if size and self.broker_id is not None:
            self._service.sent(self.broker_id)
        epoch = self._service.epochs.find(offset) or _BEFORE_ALL
        return encode_transfer(offset, size, epoch, self._service.state.confirm_offset)


class AutoSwitchSlaveCodec:
    """The master, as one of its slaves sees it.

    Attributes:
        is_aligned: the own log ends where it parted from the master's, so that reports are true.
    """

    header_size = TRANSFER_LAYOUT.size

    def __init__(self, service: AutoSwitchHAService) -> None:
        self.is_aligned = False
        self._service = service

    def hello(self) -> bytes:
        """Return the handshake."""
        config = self._service.config
        return encode_handshake(Handshake(self._service.broker_id, config.sync_from_last_file, config.async_learner))

    def is_ready(self) -> bool:
        """Nothing may be reported before the log was aligned."""
        return self.is_aligned

    def report(self, offset: int) -> bytes:
        """Return an ack."""
        return encode_ack(offset)

    def header(self, data: bytes | bytearray | memoryview, at: int) -> Header:
        """Read a transfer's head, and note what it says besides.

        Raises:
            CorruptDataError: it is none.
        """
        try:
            head = decode_transfer_head(data, at)
        except FrameError as error:
            raise CorruptDataError("a frame of the master", "a transfer", error) from None
        assert head is not None
        self._service.heard(head)
        return Header(head.offset, head.body_size)


class AutoSwitchLink(Link):
    """A link that begins with a handshake, after which the slave may have to cut its log.

    A cut that has begun is finished, even if the link is lost meanwhile.
    """

    codec: AutoSwitchSlaveCodec

    def __init__(self, client: HAClient, service: AutoSwitchHAService) -> None:
        super().__init__(client)
        self._service = service
        self._aligning: asyncio.Task[None] | None = None

    def buffer_updated(self, nbytes: int) -> None:
        """Wait for the handshake's reply; then everything is as in the default protocol."""
        if self.codec.is_aligned:
            super().buffer_updated(nbytes)
            return
        self.last_read = asyncio.get_running_loop().time()
        self._filled += nbytes
        if self._aligning is not None:
            return
        try:
            found = decode_handshake_reply(self._buffer[: self._filled])
        except FrameError as error:
            self.close(str(error))
            return
        if found is not None:
            reply, size = found
            rest = self._filled - size
            self._buffer[:rest] = bytes(self._buffer[size : self._filled])
            self._filled = rest
            self._aligning = asyncio.get_running_loop().create_task(self._align(reply), name="align the log")

    async def _align(self, reply: HandshakeReply) -> None:
        try:
            await self._service.align(reply, self)
        except (RocketMQError, ValueError, OSError) as error:
            self._client.faults += 1
            self.close(str(error))
            return
        if self._transport is not None and not self._transport.is_closing():
            self.codec.is_aligned = True
            self._begin()
            if self._filled:
                super().buffer_updated(0)
