"""Dequeue: goes through the wheel, slot by slot as they end, and delivers what is in them.

    head of the slot -> chain of units, backwards -> deletions: their keys
                                                  -> the others, oldest first, in batches: records -> puts

A slot counts as delivered when all of it is stored. A process that dies in the middle delivers the slot again.

Source: `TimerMessageStore#dequeue`, `TimerDequeueGetMessageService`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import logging
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from rocketmq_py.common.environment import Environment
from rocketmq_py.common.record import Record
from rocketmq_py.store.config import MessageStoreConfig
from rocketmq_py.store.draft import Draft
from rocketmq_py.store.timer.timer_delivery import TimerDelivery
from rocketmq_py.store.timer.timer_enqueue import BATCH, BATCH_BYTES, RETRY_SECONDS, Handled
from rocketmq_py.store.timer.timer_log import TimerLog, TimerUnit
from rocketmq_py.store.timer.timer_metrics import TimerMetrics
from rocketmq_py.store.timer.timer_progress import TimerProgress
from rocketmq_py.store.timer.timer_records import TimerRecords, delete_key, delivery, out_time, own_key, real_topic
from rocketmq_py.store.timer.timer_wheel import Slot, TimerWheel
from rocketmq_py.store.woken_work import WokenWork

logger = logging.getLogger(__name__)

#: Empty slots that are passed in one turn of the loop.
SLOTS_PER_TURN: Final = 4_096
#: Longest sleep in seconds: the wall clock may be set while it lasts.
LONGEST_SLEEP: Final = 1.0

Row = tuple[TimerUnit, Record | None]


@dataclass(slots=True)
class SlotContent:
    """What a slot's chain holds.

    Attributes:
        positions: of the units that are to be delivered or rolled on, newest first.
        deletions: real topic of each deletion's record, by the key that it deletes.
        is_broken: the chain could not be followed to its end.
    """

    positions: array[int] = field(default_factory=lambda: array("q"))
    deletions: dict[str, str] = field(default_factory=dict)
    is_broken: bool = False


class TimerDequeueService:
    """Delivers slots. One task.

    Args:
        config: what may be stopped.
        environment: clock and blocking calls.
        log: has the units.
        wheel: has the slots.
        records: reads records.
        delivery: puts them.
        progress: how far it has got.
        metrics: counts what waits.

    Attributes:
        work: runs it; woken when something was put into the wheel, stopped after the present slot.
        is_reading: whether a thread may be reading the timer log.
        should_run: whether this broker delivers: a slave does not.
        elsewhere: what another broker has delivered: records before an offset of the timer topic that were due before
            a time.
        deleted: how many messages were deleted before their time.
        lost: how many units led to no record: it is damaged, or the log has deleted it by age.
        broken: how many chains could not be followed to their end.
    """

    def __init__(
        self,
        config: MessageStoreConfig,
        environment: Environment,
        log: TimerLog,
        wheel: TimerWheel,
        records: TimerRecords,
        delivery: TimerDelivery,
        progress: TimerProgress,
        metrics: TimerMetrics,
    ) -> None:
        self.is_reading = False
        self.should_run = True
        self.elsewhere = Handled(0, 0, array("q"))
        self.deleted = 0
        self.lost = 0
        self.broken = 0
        self._config = config
        self._environment = environment
        self._log = log
        self._wheel = wheel
        self._records = records
        self._delivery = delivery
        self._progress = progress
        self._metrics = metrics
        self.work = WokenWork("the delivery of timers", self._step, RETRY_SECONDS)

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits in the wheel."""
        return self._wheel.latest_ms < self._progress.read_time_ms

    async def _step(self) -> float | None:
        """Deliver what is due; return how long the present slot lasts."""
        await self._catch_up()
        return self._seconds_to_next()

    def _seconds_to_next(self) -> float | None:
        """Return how long the present slot lasts; None if there is nothing to wait for."""
        progress = self._progress
        if self.is_idle or progress.is_catching_up:
            return None
        left_ms = progress.write_time_ms + progress.precision_ms - self._environment.clock.wall_ms()
        return min(max(left_ms / 1000, 0.001), LONGEST_SLEEP)

    def _may_run(self) -> bool:
        return (
            self.should_run
            and not self.work.is_stopping
            and not self._progress.is_catching_up
            and not self._config.timer_stop_dequeue
            and not self._progress.failure
        )

    async def _catch_up(self) -> None:
        """Deliver the slots that have ended."""
        progress, wheel, passed = self._progress, self._wheel, 0
        while self._may_run() and not self.is_idle:
            progress.move_write_time(self._environment.clock.wall_ms())
            if progress.read_time_ms >= progress.write_time_ms:
                return
            slot = wheel.get(progress.read_time_ms)
            if slot is not None:
                has_rolled = await self._deliver_slot(slot)
                wheel.passed(slot)
                if has_rolled and progress.read_time_ms + progress.precision_ms < progress.write_time_ms:
                    # What was rolled on comes back through the queue, to slots that may have ended as well. A deletion
                    # among it must be in the wheel before the slot of its message is delivered.
                    progress.is_catching_up = True
            progress.read_time_ms += progress.precision_ms
            passed += 1
            if passed % SLOTS_PER_TURN == 0:
                await asyncio.sleep(0)

    # --- one slot -----------------------------------------------------------------------------------------------------

    async def _deliver_slot(self, slot: Slot) -> bool:
        """Deliver what is in a slot, in batches, so that neither its size nor that of its messages matters.

        Returns:
            Whether something of it was rolled on.
        """
        self.is_reading = True
        try:
            content = await self._environment.run_blocking(self._read_slot, slot)
            if content.is_broken:
                self.broken += 1
                logger.error("the chain of %r is broken; its units are searched in the whole timer log", slot)
                content = await self._environment.run_blocking(self._search_slot, slot, self._log.end)
            missed = dict(content.deletions)
            positions = content.positions[::-1]
            at, has_rolled = 0, False
            while at < len(positions):
                rows = await self._environment.run_blocking(self._read_batch, positions[at : at + BATCH])
                at += len(rows)
                has_rolled = has_rolled or any(unit.is_roll for unit, _ in rows)
                await self._deliver_batch(rows, content.deletions, missed)
            # A deletion that met nothing was counted as if it had.
            self._metrics.add(Counter(missed.values()))
            return has_rolled
        finally:
            self.is_reading = False

    async def _deliver_batch(self, rows: Sequence[Row], deletions: dict[str, str], missed: dict[str, str]) -> None:
        drafts: list[Draft] = []
        gone: Counter[str] = Counter()
        now = self._environment.clock.wall_ms()
        for unit, record in rows:
            if record is None or not _belongs_to(unit, record):
                self.lost += 1
                logger.error("the timer message at %d is not there any more", unit.physical_offset)
                continue
            if not unit.is_roll and deletions and (key := own_key(record)) in deletions:
                missed.pop(key, None)
                self.deleted += 1
                continue
            # Taken off now; what is rolled on is counted again when it comes back.
            gone[real_topic(record)] += 1 if unit.is_delete else -1
            if unit.time_ms < self.elsewhere.time_ms and record.queue_offset < self.elsewhere.offset:
                continue
            draft = delivery(record, unit.write_time, now, is_roll=unit.is_roll)
            if draft is None:
                self.lost += 1
                logger.error("the timer message at %d does not say where it is for", unit.physical_offset)
            else:
                drafts.append(draft)
        await self._delivery.deliver(drafts)
        self._metrics.add(gone)

    # --- in a thread --------------------------------------------------------------------------------------------------

    def _read_slot(self, slot: Slot) -> SlotContent:
        """Follow the chain of a slot."""
        content, position = SlotContent(), slot.last_pos
        # What lies before the log was deleted with the messages that it pointed to.
        while position >= self._log.min_position:
            unit = self._log.read(position)
            if unit is None or self._wheel.floor(unit.time_ms) != slot.time_ms:
                content.is_broken = True
                break
            self._add(content, position, unit)
            position = unit.prev_pos
        return content

    def _search_slot(self, slot: Slot, end: int) -> SlotContent:
        """Find the units of a slot by reading the whole log."""
        content = SlotContent()
        found = [
            (position, unit)
            for position, unit in self._log.scan(self._log.min_position, end, skip_invalid=True)
            if self._wheel.floor(unit.time_ms) == slot.time_ms
        ]
        for position, unit in reversed(found):
            self._add(content, position, unit)
        return content

    def _add(self, content: SlotContent, position: int, unit: TimerUnit) -> None:
        if not unit.is_delete or unit.is_roll:
            content.positions.append(position)
            return
        (record,) = self._records.read_blocking([(unit.physical_offset, unit.record_size)])
        if record is not None and (key := delete_key(record)) is not None:
            content.deletions[key] = real_topic(record)

    def _read_batch(self, positions: Sequence[int]) -> list[Row]:
        """Return units and records from the front of the positions, as many as fit into a batch."""
        rows: list[Row] = []
        total = 0
        for position in positions:
            unit = self._log.read(position)
            if unit is None:
                raise OSError(f"the unit at {position} of {self._log!r} cannot be read a second time")
            total += unit.record_size
            if rows and total > BATCH_BYTES:
                break
            (record,) = self._records.read_blocking([(unit.physical_offset, unit.record_size)])
            rows.append((unit, record))
        return rows


def _belongs_to(unit: TimerUnit, record: Record) -> bool:
    """Tell whether the record is the one that the unit was written for: after a crash its place may hold another."""
    out = out_time(record)
    return out is not None and (out >= unit.time_ms if unit.is_roll else out == unit.time_ms)
