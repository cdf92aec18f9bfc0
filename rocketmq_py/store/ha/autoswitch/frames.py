"""Frames of replication in controller mode. Unlike those of the default protocol they say in which state the sender is.

Source: `AutoSwitchHAConnection`, `AutoSwitchHAClient`, RocketMQ 5.1.1 and later; 5.0.0 to 5.1.0 have another handshake.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rocketmq_py.common.errors import RocketMQError
from rocketmq_py.common.layout import Field, Layout
from rocketmq_py.store.ha.autoswitch.epochs import MAX_EPOCHS, Epoch


class HAConnectionState(enum.IntEnum):
    """Where a connection is; the number goes over the wire."""

    READY = 0
    HANDSHAKE = 1
    TRANSFER = 2
    SUSPEND = 3
    SHUTDOWN = 4


HANDSHAKE_LAYOUT: Final = Layout(
    "handshake, slave to master",
    Field("state", "i", "1, HANDSHAKE"),
    Field("is_sync_from_last_file", "h", "1: an empty slave begins at the master's last file"),
    Field("is_async_learner", "h", "1: this slave never joins the sync state set"),
    Field("broker_id", "q", "the slave's id"),
)
ACK_LAYOUT: Final = Layout(
    "ack, slave to master",
    Field("state", "i", "2, TRANSFER"),
    Field("max_offset", "q", "end of the slave's log"),
)
HANDSHAKE_REPLY_LAYOUT: Final = Layout(
    "handshake reply, master to slave",
    Field("state", "i", "1, HANDSHAKE"),
    Field("body_size", "i", "12 for each epoch that follows"),
    Field("max_offset", "q", "end of the master's log"),
    Field("epoch", "i", "the newest epoch"),
)
EPOCH_LAYOUT: Final = Layout(
    "one epoch of a handshake reply",
    Field("epoch", "i", "its number"),
    Field("start_offset", "q", "physical offset at which it began"),
)
TRANSFER_LAYOUT: Final = Layout(
    "transfer, master to slave",
    Field("state", "i", "2, TRANSFER"),
    Field("body_size", "i", "bytes of the log that follow; 0: a heartbeat"),
    Field("offset", "q", "physical offset of the first of them"),
    Field("epoch", "i", "epoch of these bytes; a frame holds bytes of one epoch"),
    Field("epoch_start_offset", "q", "where that epoch began"),
    Field("confirm_offset", "q", "what every replica of the sync state set has"),
)


class FrameError(RocketMQError, ValueError):
    """A peer sent what is no frame of this protocol."""


@dataclass(frozen=True, slots=True)
class Handshake:
    """What a slave says first."""

    broker_id: int
    is_sync_from_last_file: bool = False
    is_async_learner: bool = False


@dataclass(frozen=True, slots=True)
class Ack:
    """How far a slave has got."""

    max_offset: int


@dataclass(frozen=True, slots=True)
class HandshakeReply:
    """What a master answers: its epochs, so that the slave finds where the two logs part."""

    max_offset: int
    last_epoch: int
    epochs: tuple[Epoch, ...]


@dataclass(frozen=True, slots=True)
class TransferHead:
    """What stands before a piece of the log."""

    body_size: int
    offset: int
    epoch: Epoch
    confirm_offset: int


def encode_handshake(handshake: Handshake) -> bytes:
    """Return the 16 bytes; they must be sent in one write, because Apache's master does not wait for the rest."""
    return HANDSHAKE_LAYOUT.struct.pack(
        HAConnectionState.HANDSHAKE,
        handshake.is_sync_from_last_file,
        handshake.is_async_learner,
        handshake.broker_id,
    )


def encode_ack(max_offset: int) -> bytes:
    """Return the 12 bytes of a report."""
    return ACK_LAYOUT.struct.pack(HAConnectionState.TRANSFER, max_offset)


def encode_handshake_reply(max_offset: int, epochs: Sequence[Epoch]) -> bytes:
    """Return the reply with the newest epochs, as many as may be sent."""
    epochs = epochs[-MAX_EPOCHS:]
    head = HANDSHAKE_REPLY_LAYOUT.struct.pack(
        HAConnectionState.HANDSHAKE,
        EPOCH_LAYOUT.size * len(epochs),
        max_offset,
        epochs[-1].number if epochs else 0,
    )
    return head + b"".join(EPOCH_LAYOUT.struct.pack(*epoch) for epoch in epochs)


def encode_transfer(offset: int, body_size: int, epoch: Epoch, confirm_offset: int) -> bytes:
    """Return the head of a transfer; the bytes of the log follow it."""
    return TRANSFER_LAYOUT.struct.pack(
        HAConnectionState.TRANSFER, body_size, offset, epoch.number, epoch.start, confirm_offset
    )


def decode_slave_frames(data: bytes | bytearray | memoryview) -> tuple[list[Handshake | Ack], int]:
    """Return the whole frames at the beginning of what a slave sent, and how many bytes they take.

    Raises:
        FrameError: it is no frame.
    """
    frames: list[Handshake | Ack] = []
    position = 0
    while len(data) - position >= ACK_LAYOUT.size:
        state = int.from_bytes(data[position : position + 4], "big", signed=True)
        if state == HAConnectionState.TRANSFER:
            _, max_offset = ACK_LAYOUT.struct.unpack_from(data, position)
            if max_offset < 0:
                raise FrameError(f"a slave reports the offset {max_offset}")
            frames.append(Ack(max_offset))
            position += ACK_LAYOUT.size
        elif state == HAConnectionState.HANDSHAKE:
            if len(data) - position < HANDSHAKE_LAYOUT.size:
                break
            _, last_file, learner, broker_id = HANDSHAKE_LAYOUT.struct.unpack_from(data, position)
            if broker_id < 0:
                raise FrameError(f"a slave says that its id is {broker_id}")
            frames.append(Handshake(broker_id, last_file == 1, learner == 1))
            position += HANDSHAKE_LAYOUT.size
        else:
            raise FrameError(f"a slave's frame has state {state}, expected 1 or 2")
    return frames, position


def decode_handshake_reply(data: bytes | bytearray | memoryview) -> tuple[HandshakeReply, int] | None:
    """Return a master's reply and its size; None while it is not whole.

    Raises:
        FrameError: it is no such reply.
    """
    if len(data) < HANDSHAKE_REPLY_LAYOUT.size:
        return None
    state, body_size, max_offset, last_epoch = HANDSHAKE_REPLY_LAYOUT.struct.unpack_from(data)
    if state != HAConnectionState.HANDSHAKE:
        raise FrameError(f"a master's frame has state {state} during the handshake, expected 1")
    count, rest = divmod(body_size, EPOCH_LAYOUT.size)
    if rest or not 0 <= count <= MAX_EPOCHS or max_offset < 0:
        raise FrameError(f"a handshake reply with {body_size} bytes of epochs and the log's end {max_offset}")
    end = HANDSHAKE_REPLY_LAYOUT.size + body_size
    if len(data) < end:
        return None
    starts = range(HANDSHAKE_REPLY_LAYOUT.size, end, EPOCH_LAYOUT.size)
    epochs = tuple(Epoch(*EPOCH_LAYOUT.struct.unpack_from(data, start)) for start in starts)
    return HandshakeReply(max_offset, last_epoch, epochs), end


def decode_transfer_head(data: bytes | bytearray | memoryview, at: int = 0) -> TransferHead | None:
    """Return the head of a transfer; None while it is not whole.

    Raises:
        FrameError: it is no such head.
    """
    if len(data) - at < TRANSFER_LAYOUT.size:
        return None
    state, size, offset, epoch, epoch_start, confirm_offset = TRANSFER_LAYOUT.struct.unpack_from(data, at)
    if state != HAConnectionState.TRANSFER:
        raise FrameError(f"a master's frame has state {state} during the transfer, expected 2")
    if size < 0 or offset < 0 or epoch < 0 or epoch_start < 0 or (size and epoch_start > offset):
        raise FrameError(f"a transfer of {size} bytes at {offset} in epoch {epoch} that began at {epoch_start}")
    return TransferHead(size, offset, Epoch(epoch, epoch_start), confirm_offset)
