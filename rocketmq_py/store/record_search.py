"""Finding records in a log that may be damaged: judge one place, find the next valid record, list what lies between.

Source: `CommitLog#checkMessageAndReturnSize`, RocketMQ 5.3, which asks neither for the record's own offset nor goes on
behind what is damaged.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from rocketmq_py.common.record import MAGIC_V1, MAGIC_V2, Record, RecordCheck, RecordState, check_record
from rocketmq_py.store.commit_log import CommitLog
from rocketmq_py.store.mapped_file import MappedFile

_MAGICS: Final = tuple(struct.pack(">i", magic) for magic in (MAGIC_V1, MAGIC_V2))
_MAGIC_AT: Final = 4
_CHUNK: Final = 1 << 20
#: What a disk writes as a whole or not at all.
SECTOR_SIZE: Final = 512


class Gap(NamedTuple):
    """Bytes `start` to `end` between valid records, with what a record would have at `start` and what is there."""

    start: int
    end: int
    expected: str
    found: str


def check_at(log: CommitLog, offset: int) -> RecordCheck:
    """Judge what lies at an offset; a blank record must reach exactly to the end of its file."""
    file = log.files.find(offset)
    if file is None:
        return RecordCheck(RecordState.INVALID, expected="an offset within the log", found=str(offset))
    view = file.read(0, file.size)
    try:
        check = check_record(view, offset - file.start, position=offset, check_crc=log.check_crc)
    finally:
        view.release()
    if check.state is RecordState.BLANK and offset + check.size != file.end:
        left = file.end - offset
        return RecordCheck(RecordState.INVALID, expected=f"a blank record of {left} bytes", found=str(check.size))
    return check


def find_torn_sector(record: Record, offset: int) -> int | None:
    """Return the offset of a sector that a power cut took out of a record that else looks valid; None if none is missing.

    The CRC covers the body only. A sector that did not reach the disk reads as zeros, and so can leave a record without
    some of its properties: no part of a topic or a properties text that fills its share of a sector is all zeros.
    """
    end = offset + record.total_size
    properties_at = end - len(record.properties)
    last = record.properties or record.topic
    if last[-1] == 0:
        return end - 1 - (end - 1) % SECTOR_SIZE
    for text, start in ((record.topic, properties_at - 2 - len(record.topic)), (record.properties, properties_at)):
        sector = start - start % SECTOR_SIZE
        while sector < start + len(text):
            part = text[max(sector - start, 0) : sector + SECTOR_SIZE - start]
            if part and not part.strip(b"\0"):
                return sector
            sector += SECTOR_SIZE
    return None


def next_valid(log: CommitLog, offset: int, limit: int) -> int | None:
    """Return the offset of the first valid record at or behind `offset` and before `limit`; None if there is none.

    A record is recognised by its magic and by carrying its own offset, so that bytes of a body or of an older log that
    look like a record are not taken for one.
    """
    while offset < limit and (file := log.files.find(offset)) is not None:
        for position in _magic_positions(file, offset + _MAGIC_AT, min(file.end, limit)):
            if check_at(log, position - _MAGIC_AT).state is RecordState.VALID:
                return position - _MAGIC_AT
        offset = file.end
    return None


def find_gaps(log: CommitLog, start: int, end: int) -> list[Gap]:
    """Return what lies between the valid records from `start`, where a record may or may not begin, to `end`."""
    gaps: list[Gap] = []
    offset = next_valid(log, start, end)
    if offset is None:
        check = check_at(log, start)
        return [Gap(start, end, check.expected, check.found)]
    while offset < end:
        check = check_at(log, offset)
        if check.state is RecordState.INVALID:
            following = next_valid(log, offset + 1, end)
            gaps.append(Gap(offset, end if following is None else following, check.expected, check.found))
            offset = gaps[-1].end
        else:
            offset += check.size
    return gaps


def _magic_positions(file: MappedFile, start: int, end: int) -> Iterator[int]:
    """Yield the offsets at which one of the magics lies, in order."""
    while start < end:
        # Read, not mapped: pages of a map that was walked through count as the process's memory.
        # Chunks overlap by three bytes, so that a magic across their border is seen.
        data = file.read_blocking(start - file.start, min(_CHUNK, end - start) + 3)
        found = [at for magic in _MAGICS for at in _find_all(data, magic)]
        yield from (start + at for at in sorted(found) if at < _CHUNK)
        start += _CHUNK


def _find_all(data: bytes, pattern: bytes) -> Iterator[int]:
    at = data.find(pattern)
    while at >= 0:
        yield at
        at = data.find(pattern, at + 1)
