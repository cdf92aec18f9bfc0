"""Where the log ends: the decision that recovery makes before it writes anything.

Behind the flushed position pages reached the disk in any order or not at all, so the first place where no valid record
lies is the end. Before it everything was on disk once: what is invalid there is damage. It is reported with file, offset,
expected and found; the records behind it still count.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Final

from rocketmq_py.common.record import RecordCheck, RecordState
from rocketmq_py.store.block_checks import BlockChecks
from rocketmq_py.store.commit_log import CommitLog
from rocketmq_py.store.errors import StoreCorruptError
from rocketmq_py.store.record_search import check_at, find_torn_sector, next_valid

logger = logging.getLogger(__name__)

_CHUNK: Final = 1 << 20
#: No write is longer: a tick writes 4 MiB at most, and a record is hardly longer than that.
_ONE_WRITE: Final = 8 << 20


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
    log: CommitLog,
    checks: BlockChecks,
    start: int,
    flushed: int | None,
    flushed_ms: int,
    *,
    was_clean: bool,
    was_killed: bool,
) -> LogTail:
    """Read the log from `start` and decide where it ends. Reads only. Blocks.

    Args:
        log: loaded, its end not known yet.
        checks: block checks of the log.
        start: offset of a record: the beginning of a file.
        flushed: everything before it was on disk; None if no one wrote that down.
        flushed_ms: messages stored up to then were on disk, by RocketMQ's checkpoint; used if `flushed` is None.
        was_clean: the last process stopped in order.
        was_killed: the process ended and the machine ran on, so every byte that it wrote is there.

    Raises:
        StoreCorruptError: before the flushed position the log is damaged so that nothing valid follows.
    """
    tail = LogTail(start)
    offset = start
    while (file := log.files.find(offset)) is not None:
        check = _check(log, checks, offset)
        if not (was_clean or was_killed or (flushed is not None and offset < flushed)):
            check = _require_whole(check, offset)
        if check.state is not RecordState.INVALID:
            offset += check.size
            continue
        # After a clean stop or a kill the pages behind the end were never touched, except by one write cut short.
        limit = offset + _ONE_WRITE if was_clean or was_killed else log.files.end
        if flushed is not None and offset < flushed:
            limit = log.files.end
        tail.leftover_end = _leftover_end(log, offset, limit)
        following = next_valid(log, offset + 1, tail.leftover_end)
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
    tail.leftover_end = max(tail.leftover_end, offset)
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


def _require_whole(check: RecordCheck, offset: int) -> RecordCheck:
    """Judge a record behind the last block check, where a sector may be missing."""
    sector = find_torn_sector(check.record, offset) if check.record is not None else None
    if sector is None:
        return check
    return RecordCheck(RecordState.INVALID, expected="topic and properties", found=f"zeros in the sector at {sector}")


def _was_flushed(log: CommitLog, following: int | None, flushed_ms: int) -> bool:
    """Tell, for a log without a flushed position, whether a record behind the damage was on disk by the checkpoint."""
    if following is None or not flushed_ms:
        return False
    record = check_at(log, following).record
    return record is not None and record.store_timestamp <= flushed_ms


def _leftover_end(log: CommitLog, end: int, limit: int) -> int:
    """Return the offset behind the last byte from `end` to `limit` that is not zero; `end` if there is none."""
    last, zeros = end, bytes(_CHUNK)
    for file in log.files.mapped_files:
        for start in range(max(end, file.start), min(limit, file.end), _CHUNK):
            data = file.read_blocking(start - file.start, min(_CHUNK, file.end - start))
            # Comparing is twenty times as fast as stripping, and nearly all that is looked at is zeros.
            if data != zeros[: len(data)]:
                last = start + len(data.rstrip(b"\0"))
    return last
