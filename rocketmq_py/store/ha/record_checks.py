"""Checks of log bytes that came over a link, before they are kept.

Nothing is made for a record that is good: one `unpack`, a few comparisons and the CRC of its body. That matters, since a
slave that catches up gets hundreds of thousands of records a second.

What a record says about itself must fit: its size, its magic, the offset at which it lies, the lengths of its parts, and the
CRC of its body. Topic and properties have no CRC in RocketMQ's format; a flipped bit there is found only where it changes
a length.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final, NamedTuple

from rocketmq_py.common.errors import CorruptDataError
from rocketmq_py.common.record import BLANK_SIZE, HEAD_LAYOUTS, MAGIC_BLANK, MAGIC_V1, MAGIC_V2, MIN_RECORD_SIZE
from rocketmq_py.common.sys_flag import BORN_HOST_V6, STORE_HOST_V6

_HOST_BITS: Final = BORN_HOST_V6 | STORE_HOST_V6
#: What is looked at in a head with two IPv4 hosts: size, magic, body CRC, physical offset, system flag, body length.
_HEAD_V4: Final = struct.Struct(">iii16xqi44xi")
_HEAD_V4_SIZE: Final = _HEAD_V4.size
_INT: Final = struct.Struct(">i")
_SIZE_AND_MAGIC: Final = struct.Struct(">ii")
_SHORT: Final = struct.Struct(">h")


class Checked(NamedTuple):
    """How far a run of bytes is good.

    Attributes:
        size: bytes of whole, valid records from the beginning on.
        blank_left: bytes of a blank record at the end that have not arrived; they have no meaning and may follow.
    """

    size: int
    blank_left: int = 0


def check_records(data: memoryview, start: int, file_size: int, max_record_size: int) -> Checked:
    """Check the records at the beginning of `data`; an incomplete one at its end is left for later.

    Args:
        data: bytes of the log; a record begins at the first.
        start: physical offset of the first byte.
        file_size: of a file of the log; no record goes beyond the end of its file.
        max_record_size: a record that claims more is refused before anything waits for it.

    Raises:
        CorruptDataError: there are bytes that no log has; says where, what was expected and found.
    """
    at, end = 0, len(data)
    file_end = file_size - start % file_size
    unpack, crc32, short = _HEAD_V4.unpack_from, zlib.crc32, _SHORT.unpack_from
    while end - at >= BLANK_SIZE:
        if end - at < _HEAD_V4_SIZE:
            _check_beginning(data, at, start, file_end, max_record_size)
            if _SIZE_AND_MAGIC.unpack_from(data, at)[1] != MAGIC_BLANK:
                break
        size, magic, body_crc, offset, sys_flag, body_length = _unpack(data, at, end, unpack)
        if magic == MAGIC_V1:
            topic_head = 1
        elif magic == MAGIC_V2:
            topic_head = 2
        else:
            _check_beginning(data, at, start, file_end, max_record_size)
            if size > end - at:
                return Checked(end, size - (end - at))
            at = file_end
            file_end += file_size
            continue
        if size > end - at:
            _check_beginning(data, at, start, file_end, max_record_size)
            if offset != start + at:
                raise _corrupt(start + at, f"physical offset {start + at}", offset)
            break
        if offset != start + at or not MIN_RECORD_SIZE <= size <= file_end - at - BLANK_SIZE:
            _check_beginning(data, at, start, file_end, max_record_size)
            raise _corrupt(start + at, f"physical offset {start + at}", offset)
        if sys_flag & _HOST_BITS:
            body = at + HEAD_LAYOUTS[sys_flag & _HOST_BITS].size
            body_length = _INT.unpack_from(data, body - 4)[0] if body <= at + size else -1
        else:
            body = at + _HEAD_V4_SIZE
        topic = body + body_length
        # The parts must add up: lengths that lead out of the record are no lengths.
        if body_length < 0 or topic + topic_head + 2 > at + size:
            raise _corrupt(start + at, f"a body that fits into {size} bytes", body_length)
        topic_length = data[topic] if topic_head == 1 else short(data, topic)[0]
        properties = topic + topic_head + topic_length
        if topic_length < 1 or properties + 2 > at + size:
            raise _corrupt(start + at, f"a topic that fits into {size} bytes", topic_length)
        properties_length = short(data, properties)[0]
        if properties_length < 0 or properties + 2 + properties_length != at + size:
            raise _corrupt(start + at, f"parts of {size} bytes in all", properties + 2 + properties_length - at)
        if body_length and crc32(data[body:topic]) & 0x7FFFFFFF != body_crc:
            found = crc32(data[body:topic]) & 0x7FFFFFFF
            raise _corrupt(start + at, f"body CRC {body_crc:08x}", f"{found:08x}")
        at += size
    return Checked(at)


def _unpack(data: memoryview, at: int, end: int, unpack: object) -> tuple[int, int, int, int, int, int]:
    if end - at >= _HEAD_V4_SIZE:
        return _HEAD_V4.unpack_from(data, at)
    size, magic = _SIZE_AND_MAGIC.unpack_from(data, at)
    return size, magic, 0, 0, 0, 0


def _check_beginning(data: memoryview, at: int, start: int, file_end: int, max_record_size: int) -> None:
    """Check size and magic, of which the first 8 bytes are there.

    Raises:
        CorruptDataError: they are not those of a record.
    """
    size, magic = _SIZE_AND_MAGIC.unpack_from(data, at)
    room = file_end - at
    if magic == MAGIC_BLANK:
        if size != room:
            raise _corrupt(start + at, f"a blank record of {room} bytes, to the end of the file", size)
    elif magic not in (MAGIC_V1, MAGIC_V2):
        raise _corrupt(start + at, "magic daa320a7, daa320ab or cbd43194", f"{magic & 0xFFFFFFFF:08x}")
    else:
        limit = min(room - BLANK_SIZE, max_record_size)
        if not MIN_RECORD_SIZE <= size <= limit:
            raise _corrupt(start + at, f"a size from {MIN_RECORD_SIZE} to {limit}", size)


def _corrupt(offset: int, expected: str, found: object) -> CorruptDataError:
    return CorruptDataError(f"the log of the master at {offset}", expected, found)
