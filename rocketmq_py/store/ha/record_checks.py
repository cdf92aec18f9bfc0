"""Checks of log bytes that came over a link, before they are kept.

Nothing is made for a record that is good: one `unpack`, a few comparisons and the CRC of its body. That matters, since a
slave that catches up gets hundreds of thousands of records a second; then `record_vector.py` takes them by the hundred.

What a record says about itself must fit: its size, its magic, the offset at which it lies, the lengths of its parts, and the
CRC of its body. Topic and properties have no CRC in RocketMQ's format; a flipped bit there is found only where it changes
a length.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from rocketmq_py.common.crc import crc32
from rocketmq_py.common.errors import CorruptDataError
from rocketmq_py.common.record import (
    BLANK_SIZE,
    MAGIC_BLANK,
    MAGIC_V1,
    MAGIC_V2,
    MIN_RECORD_SIZE,
    RecordState,
    check_record,
)
from rocketmq_py.common.sys_flag import HOST_BITS
from rocketmq_py.store.ha.record_vector import RecordVectors

#: What is looked at in a head with two IPv4 hosts: size, magic, body CRC, physical offset, system flag, body length.
_HEAD_V4: Final = struct.Struct(">iii16xqi44xi")
_HEAD_V4_SIZE: Final = _HEAD_V4.size
_SIZE_AND_MAGIC: Final = struct.Struct(">ii")
_SHORT: Final = struct.Struct(">h")
_OTHER_FILES: Final = (
    "If the master's mappedFileSizeCommitLog is not this slave's, stop the slave, set its store aside, give it the "
    "master's value and start it empty"
)


class Checked(NamedTuple):
    """How far a run of bytes is good.

    Attributes:
        size: bytes of whole, valid records from the beginning on.
        blank_left: bytes of a blank record at the end that have not arrived; they have no meaning and may follow.
    """

    size: int
    blank_left: int = 0


def check_records(
    data: memoryview, start: int, file_size: int, max_record_size: int, vectors: RecordVectors | None = None
) -> Checked:
    """Check the records at the beginning of `data`; an incomplete one at its end is left for later.

    Args:
        data: bytes of the log; a record begins at the first.
        start: physical offset of the first byte.
        file_size: of a file of the log; no record goes beyond the end of its file.
        max_record_size: a record that claims more is refused before anything waits for it.
        vectors: judges many records at once; the result is the same without it.

    Raises:
        CorruptDataError: there are bytes that no log has; says where, what was expected and found.
    """
    end = len(data)
    file_end = file_size - start % file_size
    at = 0 if vectors is None else vectors.good(data, start, min(end, file_end - BLANK_SIZE))
    unpack, short = _HEAD_V4.unpack_from, _SHORT.unpack_from
    while end - at >= BLANK_SIZE:
        if end - at >= MIN_RECORD_SIZE:
            # Nearly all records: of the first form, with two IPv4 hosts, whole, and good.
            size, magic, body_crc, offset, sys_flag, body_length = unpack(data, at)
            body, behind = at + _HEAD_V4_SIZE, at + size
            topic = body + body_length
            if (
                magic == MAGIC_V1
                and not sys_flag & HOST_BITS
                and offset == start + at
                and body <= topic < behind <= end
                and behind <= file_end - BLANK_SIZE
            ):
                properties = topic + 1 + data[topic]
                if properties != topic + 1 and properties + 2 <= behind:
                    is_sum = properties + 2 + short(data, properties)[0] == behind
                    if is_sum and (not body_length or crc32(data[body:topic]) & 0x7FFFFFFF == body_crc):
                        at = behind
                        continue
        size = _check_one(data, at, start, file_end, max_record_size)
        if size > end - at:
            # A blank record needs no more than its beginning: the rest of the file is bytes without meaning.
            is_blank = _SIZE_AND_MAGIC.unpack_from(data, at)[1] == MAGIC_BLANK
            return Checked(end, size - (end - at)) if is_blank else Checked(at)
        at += size
        if at == file_end:
            file_end += file_size
    return Checked(at)


def _check_one(data: memoryview, at: int, start: int, file_end: int, max_record_size: int) -> int:
    """Check what lies at one place, of any form, good or not; return its size, which may be more than has arrived.

    Raises:
        CorruptDataError: it is nothing that a log has.
    """
    size: int
    size, magic = _SIZE_AND_MAGIC.unpack_from(data, at)
    place, room, end = start + at, file_end - at, len(data)
    if magic == MAGIC_BLANK:
        if size != room:
            raise _corrupt(place, f"a blank record of {room} bytes, to the end of the file", size, _OTHER_FILES)
        return size
    if magic not in (MAGIC_V1, MAGIC_V2):
        raise _corrupt(place, "magic daa320a7, daa320ab or cbd43194", f"{magic & 0xFFFFFFFF:08x}")
    limit = min(room - BLANK_SIZE, max_record_size)
    if not MIN_RECORD_SIZE <= size <= limit:
        hint = _OTHER_FILES if limit < size <= max_record_size else ""
        raise _corrupt(place, f"a size from {MIN_RECORD_SIZE} to {limit}", size, hint)
    if end - at < _HEAD_V4_SIZE:
        return size
    offset = _HEAD_V4.unpack_from(data, at)[3]
    if offset != place:
        raise _corrupt(place, f"physical offset {place}", offset)
    if size <= end - at:
        # The rest of the judgement is the one that recovery makes.
        verdict = check_record(data[at : at + size], 0, position=place)
        if verdict.state is not RecordState.VALID:
            raise _corrupt(place, verdict.expected, verdict.found)
    return size


def _corrupt(offset: int, expected: str, found: object, hint: str = "") -> CorruptDataError:
    return CorruptDataError(f"the log of the master at {offset}", expected, found, hint)
