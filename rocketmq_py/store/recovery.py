"""Recovery: from what the last process left on disk to a store that can serve, without reading more than needed.

    1 look    lock, abort file, checkpoint, flushed position, manifest; which files, which queues
    2 decide  where the log ends (`log_tail.py`), from where its records are dispatched again
    3 act     set the torn end aside, cut checks, log, queues and index, dispatch again, go on from there

Nothing is written before everything is decided, and each step of acting can be interrupted: the abort file is there
before the first, so the next start decides the same again. What it costs depends on what the last process had not
finished, not on how much the store holds.

Source: `CommitLog#recoverNormally`, `#recoverAbnormally`, RocketMQ 5.3.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from rocketmq_py.common.environment import Environment
from rocketmq_py.common.record import RecordState
from rocketmq_py.store.batch_consume_queue import BatchConsumeQueue
from rocketmq_py.store.block_checks import BlockChecks
from rocketmq_py.store.checkpoint import StoreCheckpoint
from rocketmq_py.store.commit_log import CommitLog
from rocketmq_py.store.consume_queue_store import AnyQueue, ConsumeQueueStore
from rocketmq_py.store.derived_manifest import (
    DerivedIndex,
    DerivedManifest,
    Manifest,
    ManifestQueue,
    find_missing,
    index_of,
)
from rocketmq_py.store.errors import StoreCorruptError
from rocketmq_py.store.flushed_position import FlushedPosition, read_boot_id
from rocketmq_py.store.log_tail import DamagedRange, LogTail, find_tail
from rocketmq_py.store.message_store import MessageStore
from rocketmq_py.store.rebuild import dispatch_again, settle
from rocketmq_py.store.record_search import check_at
from rocketmq_py.store.run_state import RunState
from rocketmq_py.store.set_aside import set_aside

logger = logging.getLogger(__name__)


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
        index_rebuilt_from: offset from which on the index was made again; None if it was good as it was.
    """

    was_clean: bool
    scanned_from: int = 0
    end: int = 0
    cut_bytes: int = 0
    set_aside: str = ""
    damages: list[DamagedRange] = field(default_factory=list)
    dispatched_from: int = 0
    rebuilt_queues: list[str] = field(default_factory=list)
    index_rebuilt_from: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What was decided.

    Attributes:
        tail: where the log ends.
        manifest: what was on disk of queues and index; None if that is not known.
        boot_id: of this run of the operating system.
        was_killed: only the process ended, not the machine: everything that it had written is there.
        lost_queues: to be made again from the beginning of the log.
        keep_index: the index is made again from this offset on; None if it is good.
        dispatch_from: records from here on are dispatched again.
    """

    tail: LogTail
    manifest: Manifest | None
    boot_id: str
    was_killed: bool
    lost_queues: list[ManifestQueue]
    keep_index: int | None
    dispatch_from: int


class Recovery:
    """Recovers one store. `recover` is what `MessageStore.recover` calls.

    Attributes:
        report: what the last call of `recover` found and did.
        is_done: it came to its end: the store agrees with its log.
        dispatch_limit: told where the log ends, returns up to where its records may be shown. In a group that elects
            masters the rest may be taken back, and waits until the broker knows what it is.
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
        process_id: int,
    ) -> None:
        self.report = RecoveryReport(was_clean=True)
        self.is_done = False
        self.dispatch_limit: Callable[[int], int] = lambda end: end
        self._environment = environment
        self._root_dir = root_dir
        self._process_id = process_id
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
        self._checkpoint.load(self._environment.clock.wall_ms())
        self._position.load()
        # Either mark may be lost: a stop in order left both.
        self.report = RecoveryReport(self._run_state.was_clean and self._position.is_stopped)
        plan = self._decide(store)
        # From here on files change, so from here on a crash must be seen by the next start.
        self._run_state.mark_running(self._process_id)
        self._act(store, plan)
        self._position.boot_id, self._position.is_stopped = plan.boot_id, False
        self._position.min_offset = store.commit_log.min_offset
        self.is_done = True
        self._tell(self.report)

    # --- look and decide ----------------------------------------------------------------------------------------------

    def _decide(self, store: MessageStore) -> Plan:
        """Look at everything and write nothing."""
        log, queues, index = store.commit_log, store.queues, index_of(store)
        manifest, boot_id = self._manifest.load(), read_boot_id(self._environment.files)
        was_clean, was_killed = self.report.was_clean, bool(boot_id) and boot_id == self._position.boot_id
        self._require_both_ends(log)
        tail = self._find_tail(log, was_clean, was_killed)
        lost = find_missing(manifest, {queue.key: queue for queue in queues}) if manifest else []
        keep_index = self._index_to_keep(index, manifest, tail, was_killed or was_clean)
        start = log.min_offset if lost else self._dispatch_start(log, queues, tail, manifest, was_killed)
        if keep_index is not None:
            start = min(start, max(keep_index, log.min_offset))
        return Plan(tail, manifest, boot_id, was_killed, lost, keep_index, min(start, tail.end))

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
            "Put the missing files back from a replica or a backup; to go on without them, or if RocketMQ's own broker "
            f"deleted them by age in between, remove {position.path} and start again",
        )

    def _find_tail(self, log: CommitLog, was_clean: bool, was_killed: bool) -> LogTail:
        files = log.files.mapped_files
        if not files:
            return LogTail(0)
        flushed = self._position.offset
        if flushed is not None:
            # The last byte that is known to be there is in this file; what comes before is believed until it is read.
            file = log.files.find(max(flushed - 1, 0)) or files[-1]
            # A block check is a hundred times as fast as a look at every record in the block.
            start = flushed if self._checks.is_intact(file.start, min(flushed, file.end)) else file.start
        elif was_clean:
            start = files[max(len(files) - 3, 0)].start
        else:
            start = newest_file_before(log, self._checkpoint.min_timestamp)
        self.report.scanned_from = start
        flushed_ms = self._checkpoint.physic_msg_timestamp
        return find_tail(log, self._checks, start, flushed, flushed_ms, was_clean=was_clean, was_killed=was_killed)

    def _dispatch_start(
        self, log: CommitLog, queues: ConsumeQueueStore, tail: LogTail, manifest: Manifest | None, was_killed: bool
    ) -> int:
        """Return from where records are dispatched again; dispatching too many is slow and changes nothing."""
        if self._position.offset is not None:
            if self.report.was_clean:
                return tail.end
            synced = manifest.dispatched if manifest is not None else 0
            start = self._position.queues_written if was_killed else synced
            return min(max(start, log.min_offset), tail.end)
        if self.report.was_clean:
            # Records are dispatched in order, so the queue that got the last one says how far all had got.
            start = min(max(queues.max_physical_offset, log.min_offset), tail.end)
            return start if check_at(log, start).state is not RecordState.INVALID else tail.end
        return newest_file_before(log, self._checkpoint.min_timestamp)

    def _index_to_keep(
        self, index: DerivedIndex | None, manifest: Manifest | None, tail: LogTail, is_trusted: bool
    ) -> int | None:
        """Return the offset from which on the index is made again; None if it is good as it is.

        An index file is changed all over while it is the newest, so after a power cut it is a mixture of old and new
        pages. Files that were completed and flushed before the checkpoint are not touched by that.
        """
        if index is None:
            return None
        if manifest is not None and not set(manifest.index) <= set(index.names()):
            return 0
        files = index.files
        doubtful = [
            file.begin_physical_offset
            for file in files
            if file.end_physical_offset >= tail.end
            or (not is_trusted and file.end_timestamp > self._checkpoint.index_msg_timestamp)
        ]
        if index.is_damaged:
            doubtful.append(files[-1].end_physical_offset if files else 0)
        if not doubtful:
            return None
        keep = min(doubtful)
        for file in reversed(files):
            # The keys of one record may lie in two files; then both are made again.
            if file.end_physical_offset >= keep:
                keep = min(keep, file.begin_physical_offset)
        return keep

    # --- act ----------------------------------------------------------------------------------------------------------

    def _act(self, store: MessageStore, plan: Plan) -> None:
        """Cut what does not belong to the log, then derive from the log what is missing."""
        log, queues, index, report = store.commit_log, store.queues, index_of(store), self.report
        if not report.was_clean:
            self._doubt_unsynced(queues, plan.manifest, plan.was_killed)
        self._cut(log, queues, plan.tail)
        self._drop_damaged(queues, plan.lost_queues)
        if index is not None and plan.keep_index is not None:
            index.truncate(plan.keep_index)
            report.index_rebuilt_from = plan.keep_index
        report.dispatched_from = plan.dispatch_from
        dispatched, limit = plan.tail.end, self.dispatch_limit(plan.tail.end)
        if limit < plan.tail.end:
            dispatched = plan.dispatch_from
        for begin, end in _intact(plan.dispatch_from, plan.tail):
            if begin < limit:
                reached = dispatch_again(store, begin, min(end, limit))
                dispatched = reached if limit < plan.tail.end else dispatched
        settle(store, dispatched)

    def _cut(self, log: CommitLog, queues: ConsumeQueueStore, tail: LogTail) -> None:
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
        flushed = self._position.offset
        # Behind a log that RocketMQ stopped in order old records may lie; ours was always cleared.
        log.truncate(tail.end, None if report.was_clean and flushed is None else tail.leftover_end)
        if not report.was_clean:
            # What a killed process had written is in the page cache; it counts as flushed from here on.
            log.flush_files(flushed or log.min_offset, tail.end)
            self._checks.extend(tail.start if flushed is None else flushed, tail.end)
        if log.files.mapped_files:
            queues.truncate(tail.end)
        else:
            queues.destroy()

    def _doubt_unsynced(self, queues: ConsumeQueueStore, manifest: Manifest | None, was_killed: bool) -> None:
        """Remove from queues what was not on disk for certain when the power went; it is dispatched again."""
        ends = {(listed.topic, listed.queue_id): listed.end for listed in manifest.queues} if manifest else {}
        for queue in queues:
            if was_killed:
                queues.flush.note_unsynced(queue, max(ends.get(queue.key, 0), queue.first))
            elif manifest is not None or self._position.offset is not None:
                queue.keep(ends.get(queue.key, 0))
            # Else they are RocketMQ's files: as there, the last three of a queue were looked at, the rest is believed.

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
            "recovered after a %s: log read from %d, ends at %d, dispatched again from %d",
            "stop in order" if report.was_clean else "crash or a kill",
            report.scanned_from,
            report.end,
            report.dispatched_from,
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
