"""Recovery of the timers: what lies on the disk is brought to one state, from which enqueue and dequeue go on.

    wheel       read as it is; missing, or pointing where no unit is: made again from the timer log
    timer log   read from the checkpoint on: what is there and not in the wheel goes in; it ends at the first unit that
                is invalid, or whose message the commit log has lost in a crash
    queue       goes on at the checkpoint; records behind it that have their unit already are passed over

The checkpoint is never ahead of the other files, so all of this is short, unless files were lost.

Source: `TimerMessageStore#recover`, `#recoverAndRevise`, `#reviseQueueOffset`, RocketMQ 5.3.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from rocketmq_py.store.timer.timer_checkpoint import TimerCheckpoint
from rocketmq_py.store.timer.timer_enqueue import Handled
from rocketmq_py.store.timer.timer_log import UNIT_SIZE, TimerLog, TimerUnit
from rocketmq_py.store.timer.timer_records import TimerRecords
from rocketmq_py.store.timer.timer_wheel import Slot, TimerWheel

logger = logging.getLogger(__name__)

#: A physical offset behind everything.
_NOWHERE: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class TimerQueue:
    """The timer topic's queue as it was after the store had recovered.

    Attributes:
        min_offset: first queue offset whose record is there.
        max_offset: next queue offset.
        physical_offset_of: returns where the record of a queue offset begins; None if there is none. Blocks.
        log_end: where the commit log ends.
    """

    min_offset: int
    max_offset: int
    physical_offset_of: Callable[[int], int | None]
    log_end: int


@dataclass(slots=True)
class TimerRecoveryReport:
    """What recovery found and did; for the log and labs.

    Attributes:
        scanned: units that were read.
        applied: units that were not in the wheel.
        undone: units whose messages were lost with the end of the commit log.
        is_rebuilt: the wheel was made again from the timer log.
        is_short: the timer log lacks units that were there for certain; their messages are taken in again.
        end: where the timer log ends.
        queue_offset: where the queue is read from.
        read_time_ms: the first slot that is delivered.
        handled: what an earlier run has done with the records that are read first.
    """

    scanned: int = 0
    applied: int = 0
    undone: int = 0
    is_rebuilt: bool = False
    is_short: bool = False
    end: int = 0
    queue_offset: int = 0
    read_time_ms: int = 0
    handled: Handled = field(default_factory=lambda: Handled(0, 0, array("q")))


class TimerRecovery:
    """Recovers the timers of one store. Everything here blocks; nobody else uses the files meanwhile.

    Args:
        log: the timer log, not loaded.
        wheel: the wheel, not loaded.
        records: reads records of the timer topic.
        checkpoint: what the last run wrote down.
        was_clean: it stopped in order.
    """

    def __init__(
        self, log: TimerLog, wheel: TimerWheel, records: TimerRecords, checkpoint: TimerCheckpoint, was_clean: bool
    ) -> None:
        self._log = log
        self._wheel = wheel
        self._records = records
        self._checkpoint = checkpoint
        self._was_clean = was_clean
        self._report = TimerRecoveryReport()

    def recover(self, queue: TimerQueue, now_ms: int) -> TimerRecoveryReport:
        """Bring the files to one state and return from where to go on.

        Raises:
            StoreError: the wheel or a file of the log has another size than it must have.
        """
        report, log = self._report, self._log
        has_wheel = self._wheel.load()
        log.load()
        begin = self._first_to_read(has_wheel)
        end = self._apply_from(begin)
        end, report.undone = undo_lost(self._log, self._wheel, end, queue.log_end)
        if not report.is_rebuilt and self._points_behind(end):
            self._rebuild()
            end = min(end, self._apply_from(log.min_position, end))
        report.end = end
        report.is_short = end < self._checkpoint.last_timer_log_flush_pos
        log.end = log.flushed = end
        if log.files_end > end and (not self._was_clean or report.is_short):
            # No old unit behind the end shall ever look valid.
            log.truncate(end)
        self._find_queue_offset(queue)
        self._find_read_time(now_ms)
        self._wheel.waiting = self._wheel.summary(report.read_time_ms).num
        return report

    # --- the wheel and the log ----------------------------------------------------------------------------------------

    def _first_to_read(self, has_wheel: bool) -> int:
        """Return the first unit that may not be in the wheel; all units if the wheel is of no use."""
        log, flushed = self._log, self._checkpoint.last_timer_log_flush_pos
        is_there = log.min_position <= flushed <= log.files_end
        last = log.before(flushed) if is_there else -1
        if has_wheel and is_there and (last < log.min_position or log.read(last) is not None) and self._fits():
            return flushed
        if log.files_end:
            self._rebuild()
        return log.min_position

    def _fits(self) -> bool:
        """Tell whether the wheel has the configured precision: its last slot leads to units of its time."""
        wheel = self._wheel
        slot = wheel.get(wheel.latest_ms)
        unit = self._log.read(slot.last_pos) if slot is not None else None
        return slot is None or unit is None or wheel.floor(unit.time_ms) == slot.time_ms

    def _rebuild(self) -> None:
        logger.warning("%r is made again from %r", self._wheel, self._log)
        self._wheel.reset()
        self._report.is_rebuilt = True

    def _apply_from(self, begin: int, limit: int | None = None) -> int:
        """Put units into the wheel that are not there; return where the valid units end."""
        report, end, last_offset = self._report, begin, -1
        for position, unit in self._log.scan(begin, limit):
            if unit.physical_offset <= last_offset:
                # Units follow the records. This one was left over from a log that was longer once.
                break
            last_offset = unit.physical_offset
            report.scanned += 1
            report.applied += self._apply(position, unit)
            end = position + UNIT_SIZE
        return end

    def _apply(self, position: int, unit: TimerUnit) -> bool:
        wheel = self._wheel
        slot = wheel.get(unit.time_ms) or Slot(wheel.floor(unit.time_ms), position, -1, 0)
        if slot.last_pos >= position:
            return False
        wheel.put(Slot(slot.time_ms, slot.first_pos, position, slot.num + (-1 if unit.is_delete else 1)))
        return True

    def _points_behind(self, end: int) -> bool:
        """Tell whether a slot names a unit that is not there: after a crash, or if files of the log were lost."""
        checkpoint = self._checkpoint
        is_certain = self._was_clean and checkpoint.last_read_time_ms > 0 and end >= checkpoint.last_timer_log_flush_pos
        return not is_certain and self._wheel.summary(0).last_pos >= end

    # --- the queue and the time ---------------------------------------------------------------------------------------

    def _find_queue_offset(self, queue: TimerQueue) -> None:
        """Decide from where the queue is read, and which of the records there need nothing any more."""
        report, checkpoint = self._report, self._checkpoint
        offset = checkpoint.last_timer_queue_offset
        if report.is_short:
            offset = min(offset, self._offset_behind_last_unit(queue))
        report.queue_offset = min(max(offset, queue.min_offset), queue.max_offset)
        first = queue.physical_offset_of(report.queue_offset) if report.queue_offset < queue.max_offset else None
        # Records that will get an offset which a crash has freed are none that anybody has handled.
        handled = min(max(checkpoint.last_timer_queue_offset, checkpoint.master_timer_queue_offset), queue.max_offset)
        report.handled = Handled(
            handled, checkpoint.last_read_time_ms, units_since(self._log, _NOWHERE if first is None else first)
        )

    def _offset_behind_last_unit(self, queue: TimerQueue) -> int:
        unit = self._log.read(self._log.before(self._log.end)) if self._log.end > self._log.min_position else None
        if unit is None:
            return queue.min_offset
        (record,) = self._records.read_blocking([(unit.physical_offset, unit.record_size)])
        return record.queue_offset + 1 if record is not None else queue.min_offset

    def _find_read_time(self, now_ms: int) -> None:
        """Decide which slot is the first to be delivered.

        Differs from RocketMQ, which goes back for a week at most: what waits for a broker that was down for longer is
        delivered, too.
        """
        wheel, read_time = self._wheel, self._checkpoint.last_read_time_ms
        if not read_time:
            read_time = min((slot.time_ms for slot in wheel.slots(0) if slot.time_ms < now_ms), default=now_ms)
        self._report.read_time_ms = wheel.floor(read_time)


def units_since(log: TimerLog, physical_offset: int) -> array[int]:
    """Return the records from a physical offset on that have a unit in the timer log, in order. Blocks."""
    found = array("q")
    position = log.before(log.end)
    while position >= log.min_position and log.end > log.min_position:
        unit = log.read(position)
        if unit is None or unit.physical_offset < physical_offset:
            break
        found.append(unit.physical_offset)
        position = log.before(position)
    return found[::-1]


def undo_lost(log: TimerLog, wheel: TimerWheel, end: int, log_end: int) -> tuple[int, int]:
    """Take the last units back whose records the commit log does not have. Blocks.

    Args:
        log: the timer log.
        wheel: its slots are corrected.
        end: where the timer log ends.
        log_end: where the commit log ends.

    Returns:
        Where the timer log ends then, and how many units were taken back.
    """
    undone = 0
    while (position := log.before(end)) >= log.min_position and end > log.min_position:
        unit = log.read(position)
        if unit is None or unit.physical_offset + unit.record_size <= log_end:
            break
        slot = wheel.get(unit.time_ms)
        if slot is not None and slot.last_pos == position:
            if unit.prev_pos < 0:
                wheel.clear(unit.time_ms)
            else:
                num = slot.num + (1 if unit.is_delete else -1)
                wheel.put(Slot(slot.time_ms, slot.first_pos, unit.prev_pos, num))
        undone += 1
        end = position
    return end, undone
