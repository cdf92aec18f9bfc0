"""Recovery: from what the last process left on disk to a store that can serve, without reading more than needed.

    1 look    lock, abort file, checkpoint, flushed position, manifest; which files, which queues
    2 decide  where the log ends (`log_tail.py`), from where its records are dispatched again
    3 act     set the torn end aside, cut checks, log, queues and index, dispatch again, go on from there

Nothing is written before everything is decided, and each step of acting can be interrupted: the next start decides the
same again. What it costs depends on what the last process had not finished, not on how much the store holds.

Source: `CommitLog#recoverNormally`, `#recoverAbnormally`, RocketMQ 5.3.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from rocketmq_py.common.environment import Environment
from rocketmq_py.common.record import RecordState
from rocketmq_py.store.batch_consume_queue import BatchConsumeQueue
from rocketmq_py.store.block_checks import BlockChecks
from rocketmq_py.store.checkpoint import StoreCheckpoint
from rocketmq_py.store.commit_log import CommitLog
from rocketmq_py.store.consume_queue_store import AnyQueue, ConsumeQueueStore
from rocketmq_py.store.derived_manifest import DerivedManifest, Manifest, ManifestQueue, find_missing
from rocketmq_py.store.errors import StoreCorruptError
from rocketmq_py.store.flushed_position import FlushedPosition
from rocketmq_py.store.log_tail import DamagedRange, LogTail, check_at, find_tail
from rocketmq_py.store.message_store import MessageStore
from rocketmq_py.store.rebuild import dispatch_again, settle
from rocketmq_py.store.run_state import RunState
from rocketmq_py.store.set_aside import set_aside

logger = logging.getLogger(__name__)


@runtime_checkable
class RecoverableIndex(Protocol):
    """What recovery needs of the index, if there is one."""

    @property
    def end_physical_offset(self) -> int:
        """Offset of the last record that was indexed; -1 if there is no file."""
        ...

    def names(self) -> list[str]:
        """Return the names of the files."""
        ...

    def truncate(self, physical_offset: int) -> None:
        """Drop the files that know records at or behind an offset; what they held is dispatched again. Blocks."""
        ...

    def destroy(self) -> None:
        """Delete all files. Blocks."""
        ...


@dataclass(slots=True)
class RecoveryReport:
    """What recovery found and did; for the log, the command line and labs.

    Attributes:
        was_clean: the last process stopped in order.
        scanned_from: where reading the log began.
        end: where the log ends.
        cut_bytes: bytes that were set aside behind it.
        set_aside: where they are; empty if there were none.
        damages: what was damaged before the flushed position.
        dispatched_from: from where records were dispatched again; equal to `end` if none were.
        rebuilt_queues: queues that were missing or damaged, as `topic-queue`.
        is_index_rebuilt: index files were missing.
    """

    was_clean: bool
    scanned_from: int = 0
    end: int = 0
    cut_bytes: int = 0
    set_aside: str = ""
    damages: list[DamagedRange] = field(default_factory=list)
    dispatched_from: int = 0
    rebuilt_queues: list[str] = field(default_factory=list)
    is_index_rebuilt: bool = False


class Recovery:
    """Recovers one store. `recover` is what `MessageStore.recover` calls.

    Attributes:
        report: what the last call of `recover` found and did.
    """

    def __init__(
        self,
        environment: Environment,
        root_dir: str,
        *,
        run_state: RunState,
        checkpoint: StoreCheckpoint,
        position: FlushedPosition,
        checks: BlockChecks,
        manifest: DerivedManifest,
    ) -> None:
        self.report = RecoveryReport(was_clean=True)
        self._environment = environment
        self._root_dir = root_dir
        self._run_state = run_state
        self._checkpoint = checkpoint
        self._position = position
        self._checks = checks
        self._manifest = manifest

    def recover(self, store: MessageStore) -> None:
        """Make everything agree with the log. Blocks.

        Raises:
            StoreCorruptError: the log lacks what it must hold; nothing was written.
        """
        log, queues, index = store.commit_log, store.queues, _recoverable(store.index)
        self.report = report = RecoveryReport(self._run_state.was_clean)
        self._checkpoint.load(self._environment.clock.wall_ms())
        self._position.load()
        manifest = self._manifest.load()
        self._require_both_ends(log)

        tail = self._find_tail(log, report.was_clean)
        lost_queues = find_missing(manifest, {queue.key: queue for queue in queues}) if manifest else []
        lost_index = index is not None and manifest is not None and not set(manifest.index) <= set(index.names())
        start = self._dispatch_start(log, queues, index, tail, bool(lost_queues) or lost_index)

        self._cut(log, queues, index, tail)
        self._drop_damaged(queues, lost_queues)
        if index is not None and lost_index:
            logger.error("index files are missing and will be made again from the log")
            index.destroy()
            report.is_index_rebuilt = True
        report.dispatched_from = min(start, tail.end)
        for begin, end in _intact(report.dispatched_from, tail):
            dispatch_again(store, begin, end)
        settle(store, tail.end)
        self._tell(report)

    # --- look and decide ----------------------------------------------------------------------------------------------

    def _require_both_ends(self, log: CommitLog) -> None:
        """Refuse a log whose first files are gone though nobody deleted them, or all of it."""
        position, files = self._position, log.files.mapped_files
        if position.offset is None or (files and log.min_offset <= position.min_offset):
            return
        if not files and position.offset == position.min_offset:
            return
        raise StoreCorruptError(
            log.files.folder,
            f"a commit log from {position.min_offset} to {position.offset} or later",
            f"one that begins at {log.min_offset}" if files else "no file",
            "Put the missing files back from a replica or a backup; "
            f"to go on without them, remove {position.path} and start again",
        )

    def _find_tail(self, log: CommitLog, was_clean: bool) -> LogTail:
        files = log.files.mapped_files
        if not files:
            return LogTail(0)
        flushed = self._position.offset
        if flushed is not None:
            # The last byte that is known to be there is in this file; what comes before is believed until it is read.
            file = log.files.find(max(flushed - 1, 0)) or files[-1]
            start = file.start
        elif was_clean:
            start = files[max(len(files) - 3, 0)].start
        else:
            start = newest_file_before(log, self._checkpoint.min_timestamp)
        self.report.scanned_from = start
        flushed_ms = self._checkpoint.physic_msg_timestamp
        return find_tail(log, self._checks, start, flushed, flushed_ms, was_clean=was_clean)

    def _dispatch_start(
        self, log: CommitLog, queues: ConsumeQueueStore, index: RecoverableIndex | None, tail: LogTail, is_lost: bool
    ) -> int:
        """Return from where records are dispatched again; dispatching too many is slow and changes nothing."""
        dispatched = queues.max_physical_offset
        if is_lost or dispatched < log.min_offset:
            return log.min_offset
        if self.report.was_clean:
            start = min(dispatched, tail.end)
            # Records are dispatched in order, so the queue that got the last one says how far all had got.
            return start if check_at(log, start).state is not RecordState.INVALID else tail.end
        start = newest_file_before(log, self._checkpoint.min_timestamp)
        if index is not None and 0 <= index.end_physical_offset < start:
            start = max(log.min_offset, index.end_physical_offset)
        return start

    # --- act ----------------------------------------------------------------------------------------------------------

    def _cut(self, log: CommitLog, queues: ConsumeQueueStore, index: RecoverableIndex | None, tail: LogTail) -> None:
        report = self.report
        report.end, report.damages = tail.end, tail.damages
        if tail.leftover_end > tail.end:
            report.cut_bytes = tail.leftover_end - tail.end
            report.set_aside = set_aside(self._environment.files, self._root_dir, log, tail.end, tail.leftover_end)
            logger.warning(
                "the log was cut at %d: expected %s, found %s; %d bytes behind it%s are kept in %s",
                tail.end,
                tail.expected,
                tail.found,
                report.cut_bytes,
                f" (valid records again from {tail.valid_after})" if tail.valid_after is not None else "",
                report.set_aside,
            )
        self._checks.cut(tail.end)
        log.truncate(tail.end)
        if log.files.mapped_files:
            queues.truncate(tail.end)
        else:
            queues.destroy()
        if index is not None:
            index.truncate(tail.end)

    def _drop_damaged(self, queues: ConsumeQueueStore, lost: list[ManifestQueue]) -> None:
        for listed in lost:
            name = f"{listed.topic}-{listed.queue_id}"
            logger.error("consume queue %s is missing or damaged and will be made again from the log", name)
            self.report.rebuilt_queues.append(name)
            queue = queues.find_any(listed.topic, listed.queue_id)
            if queue is not None:
                _empty(queue)

    def _tell(self, report: RecoveryReport) -> None:
        for damage in report.damages:
            logger.error("messages in %d..%d are lost to consumers: %s", damage.start, damage.end, damage.error)
        logger.info(
            "recovered after a %s stop: log read from %d, ends at %d, dispatched again from %d",
            "clean" if report.was_clean else "crash or kill",
            report.scanned_from,
            report.end,
            report.dispatched_from,
        )

    def describe(self, store: MessageStore) -> Manifest:
        """Return the manifest of what the files of a running store hold now."""
        index = _recoverable(store.index)
        listed = [ManifestQueue(queue.topic, queue.queue_id, queue.first, queue.flushed) for queue in store.queues]
        return Manifest(
            store.commit_log.min_offset,
            [queue for queue in listed if queue.flushed > queue.first],
            index.names() if index is not None else [],
        )


def newest_file_before(log: CommitLog, timestamp: int) -> int:
    """Return the start of the newest file whose first record was stored at or before a moment (ms), else of the oldest."""
    for file in reversed(log.files.mapped_files):
        record = check_at(log, file.start).record
        if record is not None and 0 < record.store_timestamp <= timestamp:
            return file.start
    return log.min_offset


def _intact(start: int, tail: LogTail) -> list[tuple[int, int]]:
    """Return the ranges from `start` to the end of the log that hold valid records only."""
    ranges = []
    for damage in tail.damages:
        if damage.end > start:
            ranges.append((start, damage.start))
            start = damage.end
    ranges.append((start, tail.end))
    return [(begin, end) for begin, end in ranges if begin < end]


def _empty(queue: AnyQueue) -> None:
    queue.cut(0)
    queue.max_physical_offset = -1
    if isinstance(queue, BatchConsumeQueue):
        queue.min_offset, queue.max_offset = -1, 0
    else:
        queue.min_offset = 0


def _recoverable(index: object) -> RecoverableIndex | None:
    return index if isinstance(index, RecoverableIndex) else None
