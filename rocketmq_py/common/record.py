"""The record: one message as it lies in the commit log, travels in pull answers and is copied to slaves.

The layout has three fixed parts with variable bytes between them. Hosts are 8 bytes (IPv4) or 20 (IPv6); two bits of
the system flag say which, so there are four forms of the first part, and `HEAD_LAYOUTS` holds them by those bits.

    head (88 bytes with two IPv4 hosts) | body | topic length (1 byte in V1, 2 in V2) | topic
        | properties length (2) | properties

Source: `MessageDecoder`, `MessageExtEncoder`, RocketMQ 5.3.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from rocketmq_py.common import sys_flag as flags
from rocketmq_py.common.crc import crc32
from rocketmq_py.common.errors import CorruptDataError, InvalidInputError
from rocketmq_py.common.host import decode_host
from rocketmq_py.common.layout import Field, Layout
from rocketmq_py.common.message import MessageExt
from rocketmq_py.common.message_id import create_offset_id
from rocketmq_py.common.properties import MAX_PROPERTIES_LENGTH, decode_properties

MAGIC_V1: Final = 0xDAA320A7 - (1 << 32)
MAGIC_V2: Final = 0xDAA320AB - (1 << 32)
MAGIC_BLANK: Final = 0xCBD43194 - (1 << 32)

#: Topics longer than this many bytes need V2, whose topic length has two bytes.
MAX_V1_TOPIC_LENGTH: Final = 127


def _head_layout(sys_flag: int) -> Layout:
    born = "20s" if sys_flag & flags.BORN_HOST_V6 else "8s"
    store = "20s" if sys_flag & flags.STORE_HOST_V6 else "8s"
    return Layout(
        "record head",
        Field("total_size", "i", "length of the whole record, this field included"),
        Field("magic", "i", "0xDAA320A7 (V1) or 0xDAA320AB (V2)"),
        Field("body_crc", "i", "CRC-32 of the stored body, sign bit cleared"),
        Field("queue_id", "i", "queue of the topic"),
        Field("flag", "i", "the application's own 32 bits"),
        Field("queue_offset", "q", "position in the queue, in units"),
        Field("physical_offset", "q", "position of this record in the commit log, in bytes"),
        Field("sys_flag", "i", "compression, transaction state, IPv6 bits"),
        Field("born_timestamp", "q", "producer's clock, ms"),
        Field("born_host", born, "producer's address and port"),
        Field("store_timestamp", "q", "broker's clock, ms"),
        Field("store_host", store, "broker's address and port"),
        Field("reconsume_times", "i", "how often consumption was retried"),
        Field("prepared_transaction_offset", "q", "half message of a commit or rollback"),
        Field("body_length", "i", "bytes of the body that follows"),
    )


HEAD_LAYOUTS: Final[dict[int, Layout]] = {
    bits: _head_layout(bits) for bits in (0, flags.BORN_HOST_V6, flags.STORE_HOST_V6, flags.HOST_BITS)
}
#: The form with two IPv4 hosts.
HEAD_LAYOUT: Final = HEAD_LAYOUTS[0]

BLANK_LAYOUT: Final = Layout(
    "blank record",
    Field("total_size", "i", "all bytes to the end of the file, these 8 included"),
    Field("magic", "i", "0xCBD43194"),
)
#: A file always keeps room for a blank record behind the last message.
BLANK_SIZE: Final = BLANK_LAYOUT.size

_SIZE_AND_MAGIC = struct.Struct(">ii")
_SYS_FLAG_AT: Final = HEAD_LAYOUT.offset_of("sys_flag")
_INT = struct.Struct(">i")
_SHORT = struct.Struct(">h")
#: The smallest possible record: no body, a topic of one character, no properties.
MIN_RECORD_SIZE: Final = HEAD_LAYOUT.size + 1 + 1 + 2


def body_crc(body: bytes | memoryview) -> int:
    """Return the CRC-32 of a stored body without its sign bit, as `UtilAll.crc32`; 0 for an empty body."""
    return crc32(body) & 0x7FFFFFFF


def encode_topic(topic: bytes) -> tuple[int, bytes]:
    """Return the magic that a topic needs and its length-prefixed bytes.

    Raises:
        InvalidInputError: the topic is longer than a record can say.
    """
    if len(topic) <= MAX_V1_TOPIC_LENGTH:
        return MAGIC_V1, bytes((len(topic),)) + topic
    if len(topic) > 32_767:
        raise InvalidInputError(f"topic of {len(topic)} bytes exceeds the 32767 that a record can hold")
    return MAGIC_V2, _SHORT.pack(len(topic)) + topic


def encode_record(
    *,
    topic: bytes,
    queue_id: int,
    body: bytes,
    properties: bytes,
    born_host: bytes,
    store_host: bytes,
    queue_offset: int = 0,
    physical_offset: int = 0,
    flag: int = 0,
    sys_flag: int = 0,
    born_timestamp: int = 0,
    store_timestamp: int = 0,
    reconsume_times: int = 0,
    prepared_transaction_offset: int = 0,
) -> bytes:
    """Return the bytes of one record; the IPv6 bits of `sys_flag` are set from the lengths of the hosts.

    Raises:
        InvalidInputError: topic or properties are longer than the record can say.
    """
    if len(properties) > MAX_PROPERTIES_LENGTH:
        raise InvalidInputError(
            f"message properties take {len(properties)} bytes, more than the {MAX_PROPERTIES_LENGTH} a record can hold"
        )
    magic, topic_part = encode_topic(topic)
    sys_flag = sys_flag & ~flags.HOST_BITS | host_bits(born_host, store_host)
    head = HEAD_LAYOUTS[sys_flag & flags.HOST_BITS]
    size = head.size + len(body) + len(topic_part) + 2 + len(properties)
    return b"".join(
        (
            head.struct.pack(
                size,
                magic,
                body_crc(body),
                queue_id,
                flag,
                queue_offset,
                physical_offset,
                sys_flag,
                born_timestamp,
                born_host,
                store_timestamp,
                store_host,
                reconsume_times,
                prepared_transaction_offset,
                len(body),
            ),
            body,
            topic_part,
            _SHORT.pack(len(properties)),
            properties,
        )
    )


def encode_blank(size: int) -> bytes:
    """Return the first 8 bytes of a blank record that covers `size` bytes; what follows them has no meaning."""
    return _SIZE_AND_MAGIC.pack(size, MAGIC_BLANK)


def host_bits(born_host: bytes, store_host: bytes) -> int:
    """Return the IPv6 bits of the system flag for two encoded hosts."""
    return (flags.BORN_HOST_V6 if len(born_host) == 20 else 0) | (flags.STORE_HOST_V6 if len(store_host) == 20 else 0)


@dataclass(frozen=True, slots=True)
class Record:
    """A record read from bytes: its fields as they lie there, nothing interpreted."""

    total_size: int
    magic: int
    body_crc: int
    queue_id: int
    flag: int
    queue_offset: int
    physical_offset: int
    sys_flag: int
    born_timestamp: int
    born_host: bytes
    store_timestamp: int
    store_host: bytes
    reconsume_times: int
    prepared_transaction_offset: int
    body: bytes
    topic: bytes
    properties: bytes


class RecordState(enum.Enum):
    """What lies at a position of the commit log."""

    VALID = "valid"
    BLANK = "blank"
    INVALID = "invalid"


@dataclass(frozen=True, slots=True)
class RecordCheck:
    """The verdict on one position.

    Attributes:
        state: valid record, blank record, or neither.
        size: bytes to the next record; 0 if invalid.
        record: the fields of a valid record.
        expected: for an invalid one, what a record has there.
        found: for an invalid one, what is there.
    """

    state: RecordState
    size: int = 0
    record: Record | None = None
    expected: str = ""
    found: str = ""


def check_record(
    buffer: bytes | memoryview,
    at: int,
    *,
    position: int | None = None,
    check_crc: bool = True,
) -> RecordCheck:
    """Judge what lies at byte `at` of a buffer that reaches to the end of its file (or of what was read).

    Args:
        buffer: bytes of the log.
        at: where the record should begin.
        position: the physical offset of that byte; the record must carry the same number. None skips this.
        check_crc: compute the CRC of the body.
    """
    left = len(buffer) - at
    if left < BLANK_SIZE:
        return _invalid("at least 8 bytes", f"{left} to the end")
    size, magic = _SIZE_AND_MAGIC.unpack_from(buffer, at)
    if magic == MAGIC_BLANK:
        if not BLANK_SIZE <= size <= left:
            return _invalid(f"a blank record of 8 to {left} bytes", f"size {size}")
        return RecordCheck(RecordState.BLANK, size)
    if magic not in (MAGIC_V1, MAGIC_V2):
        return _invalid("magic daa320a7, daa320ab or cbd43194", f"{magic & 0xFFFFFFFF:08x}")
    if not MIN_RECORD_SIZE <= size <= left:
        return _invalid(f"a size from {MIN_RECORD_SIZE} to {left}", str(size))
    try:
        record = read_record(buffer, at)
    except CorruptDataError as error:
        return _invalid(str(error.expected), str(error.found))
    if position is not None and record.physical_offset != position:
        return _invalid(f"physical offset {position}", str(record.physical_offset))
    if check_crc and record.body and body_crc(record.body) != record.body_crc:
        return _invalid(f"body CRC {record.body_crc:08x}", f"{body_crc(record.body):08x}")
    return RecordCheck(RecordState.VALID, size, record)


def _invalid(expected: str, found: str) -> RecordCheck:
    return RecordCheck(RecordState.INVALID, expected=expected, found=found)


def read_record(buffer: bytes | memoryview, at: int = 0) -> Record:
    """Read the record at byte `at`.

    Raises:
        CorruptDataError: the lengths in it do not add up, or it is no record.
    """
    size = _INT.unpack_from(buffer, at)[0] if len(buffer) - at >= MIN_RECORD_SIZE else -1
    if not MIN_RECORD_SIZE <= size <= len(buffer) - at:
        raise CorruptDataError(f"record at byte {at}", f"a size up to {len(buffer) - at}", size)
    sys_flag = _INT.unpack_from(buffer, at + _SYS_FLAG_AT)[0]
    head = HEAD_LAYOUTS[sys_flag & flags.HOST_BITS]
    end = at + size
    if head.size > size:
        raise CorruptDataError(f"record at byte {at}", f"at least {head.size} bytes", size)
    fixed = head.struct.unpack_from(buffer, at)
    body_length = fixed[-1]
    if fixed[1] not in (MAGIC_V1, MAGIC_V2):
        raise CorruptDataError(f"record at byte {at}", "magic daa320a7 or daa320ab", f"{fixed[1] & 0xFFFFFFFF:08x}")
    body_at = at + head.size
    topic_at = body_at + body_length
    length_size = 1 if fixed[1] == MAGIC_V1 else 2
    if body_length < 0 or topic_at + length_size > end:
        raise CorruptDataError(f"record at byte {at}", f"a body within {size} bytes", f"body length {body_length}")
    topic_length = buffer[topic_at] if length_size == 1 else _SHORT.unpack_from(buffer, topic_at)[0]
    topic_at += length_size
    properties_at = topic_at + topic_length
    if topic_length < 0 or properties_at + 2 > end:
        raise CorruptDataError(f"record at byte {at}", f"a topic within {size} bytes", f"topic length {topic_length}")
    properties_length = _SHORT.unpack_from(buffer, properties_at)[0]
    properties_at += 2
    if properties_length < 0 or properties_at + properties_length != end:
        raise CorruptDataError(f"record at byte {at}", f"{end - properties_at} bytes of properties", properties_length)
    fields: tuple[Any, ...] = (
        *fixed[:-1],
        bytes(buffer[body_at : body_at + body_length]),
        bytes(buffer[topic_at : topic_at + topic_length]),
        bytes(buffer[properties_at:end]),
    )
    return Record(*fields)


def to_message(record: Record) -> MessageExt:
    """Return the message of a record; the body stays as it was stored (see `compression.py`)."""
    return MessageExt(
        topic=str(record.topic, "utf-8", "replace"),
        body=record.body,
        properties=decode_properties(record.properties),
        flag=record.flag,
        queue_id=record.queue_id,
        queue_offset=record.queue_offset,
        commit_log_offset=record.physical_offset,
        store_size=record.total_size,
        sys_flag=record.sys_flag,
        born_timestamp=record.born_timestamp,
        born_host=decode_host(record.born_host),
        store_timestamp=record.store_timestamp,
        store_host=decode_host(record.store_host),
        body_crc=record.body_crc,
        reconsume_times=record.reconsume_times,
        prepared_transaction_offset=record.prepared_transaction_offset,
        msg_id=create_offset_id(record.store_host, record.physical_offset),
    )


def decode_record(buffer: bytes | memoryview, at: int = 0) -> MessageExt:
    """Read one message; see `read_record` for the errors."""
    return to_message(read_record(buffer, at))


def decode_records(buffer: bytes | memoryview) -> Iterator[MessageExt]:
    """Yield the messages of consecutive records, as in the body of a pull answer.

    Raises:
        CorruptDataError: at the first byte that begins no record; the messages before it were yielded.
    """
    at = 0
    while at < len(buffer):
        record = read_record(buffer, at)
        yield to_message(record)
        at += record.total_size
