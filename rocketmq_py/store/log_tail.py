"""Where the log ends: the decision that recovery makes before it writes anything.

Behind the flushed position pages reached the disk in any order or not at all, so the first place where no valid record
lies is the end. Before it everything was on disk once: what is invalid there is damage. It is reported with file, offset,
expected and found; the records behind it still count.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from rocketmq_py.common.record import MAGIC_V1, MAGIC_V2, RecordCheck, RecordState, check_record
from rocketmq_py.store.block_checks import BlockChecks
from rocketmq_py.store.commit_log import CommitLog
from rocketmq_py.store.errors import StoreCorruptError
from rocketmq_py.store.mapped_file import MappedFile

logger = logging.getLogger(__name__)

_MAGICS: Final = tuple(struct.pack(">i", magic) for magic in (MAGIC_V1, MAGIC_V2))
_MAGIC_AT: Final = 4
_CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class DamagedRange:
    """Bytes of the log, once flushed, that hold no valid record now.

    Attributes:
        start: offset where a record should begin.
        end: offset of the next valid record.
        error: names file, offset, expected and found.
    """

    start: int
    end: int
    error: StoreCorruptError


@dataclass(slots=True)
class LogTail:
    """What recovery found, and what it will do.

    Attributes:
        start: where reading began.
        end: where the log ends from now on.
        leftover_end: behind the last byte that is not zero at or after `end`; equal to `end` if nothing is left over.
        valid_after: offset of the first valid record behind `end`, or None: unflushed pages came to the disk out of order.
        damages: what was damaged before the flushed position.
        expected, found: what a record would have at `end`, and what is there.
    """

    start: int
    end: int = 0
    leftover_end: int = 0
    valid_after: int | None = None
    damages: list[DamagedRange] = field(default_factory=list)
    expected: str = ""
    found: str = ""


def find_tail(
    log: CommitLog, checks: BlockChecks, start: int, flushed: int | None, flushed_ms: int, *, was_clean: bool
) -> LogTail:
    """Read the log from `start` and decide where it ends. Reads only. Blocks.

    Args:
        log: loaded, its end not known yet.
        checks: block checks of the log.
        start: offset of a record: the beginning of a file.
        flushed: everything before it was on disk; None if no one wrote that down.
        flushed_ms: messages stored up to then were on disk, by RocketMQ's checkpoint; used if `flushed` is None.
        was_clean: the last process stopped in order, so hardly anything can lie behind the end: only a part of that
            is looked at, since the rest of a file of 1 GiB takes half a second to read.

    Raises:
        StoreCorruptError: before the flushed position the log is damaged so that nothing valid follows.
    """
    tail = LogTail(start)
    offset = start
    while (file := log.files.find(offset)) is not None:
        check = _check(log, checks, offset)
        if check.state is not RecordState.INVALID:
            offset += check.size
            continue
        limit = offset + _CHUNK if was_clean else log.files.end
        following = next_valid(log, offset + 1, log.files.end if flushed is not None and offset < flushed else limit)
        is_damage = offset < flushed if flushed is not None else _was_flushed(log, following, flushed_ms)
        if not is_damage:
            tail.valid_after, tail.expected, tail.found = following, check.expected, check.found
            break
        error = StoreCorruptError(
            f"{file.path} at byte {offset - file.start} (offset {offset})", check.expected, check.found, _hint(flushed)
        )
        if following is None:
            raise error
        tail.damages.append(DamagedRange(offset, following, error))
        offset = following
    if flushed is not None and offset < flushed:
        raise StoreCorruptError(
            f"{log.files.folder}", f"files up to offset {flushed}", f"files up to {offset}", _hint(flushed)
        )
    tail.end = offset
    tail.leftover_end = _leftover_end(log, offset, offset + _CHUNK if was_clean else log.files.end)
    return tail


def _hint(flushed: int | None) -> str:
    known = f"The log was flushed up to {flushed}, so" if flushed is not None else "Later records were flushed, so"
    return (
        f"{known} this is damage, not a torn end. Copy the file from a replica or a backup; "
        "to go on without these messages, remove the file flushedPosition and start again"
    )


def _check(log: CommitLog, checks: BlockChecks, offset: int) -> RecordCheck:
    """Judge one position by the record itself, then by the checks of its blocks."""
    check = check_at(log, offset)
    if check.state is RecordState.VALID:
        try:
            checks.verify(offset, check.size)
        except StoreCorruptError as error:
            return RecordCheck(RecordState.INVALID, expected=str(error.expected), found=str(error.found))
    return check


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


def _was_flushed(log: CommitLog, following: int | None, flushed_ms: int) -> bool:
    """Tell, for a log without a flushed position, whether a record behind the damage was on disk by the checkpoint."""
    if following is None or not flushed_ms:
        return False
    record = check_at(log, following).record
    return record is not None and record.store_timestamp <= flushed_ms


def _leftover_end(log: CommitLog, end: int, limit: int) -> int:
    """Return the offset behind the last byte from `end` to `limit` that is not zero; `end` if there is none."""
    last = end
    for file in log.files.mapped_files:
        for start in range(max(end, file.start), min(limit, file.end), _CHUNK):
            data = file.read_blocking(start - file.start, min(_CHUNK, file.end - start)).rstrip(b"\0")
            if data:
                last = start + len(data)
    return last
