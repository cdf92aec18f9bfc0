"""Enqueue: follows the timer topic's queue, and puts each message that waits into the timer log and the wheel.

    units of the queue -> records -> due already: delivered at once
                                  -> due later: one write to the timer log, then the slots

Source: `TimerMessageStore#enqueue`, `#doEnqueue`, RocketMQ 5.3.
"""

from __future__ import annotations

import functools
import logging
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from rocketmq_py.common.environment import Environment
from rocketmq_py.common.java import I32_MAX, string_hash
from rocketmq_py.common.record import Record
from rocketmq_py.common.topic import TIMER_TOPIC
from rocketmq_py.store.config import MessageStoreConfig
from rocketmq_py.store.consume_queue import ConsumeQueue
from rocketmq_py.store.consume_queue_unit import FILLER_SIZE, unpack_places
from rocketmq_py.store.message_store import MessageStore
from rocketmq_py.store.timer.timer_delivery import TimerDelivery
from rocketmq_py.store.timer.timer_log import DEFAULT, DELETE, ROLL, TimerLog, pack_unit
from rocketmq_py.store.timer.timer_metrics import TimerMetrics
from rocketmq_py.store.timer.timer_progress import TimerProgress
from rocketmq_py.store.timer.timer_records import (
    NEVER_ENQUEUED,
    TimerRecords,
    delete_key,
    delivery,
    out_time,
    real_topic,
)
from rocketmq_py.store.timer.timer_wheel import SLOTS_AHEAD, Slot, TimerWheel
from rocketmq_py.store.woken_work import WokenWork

logger = logging.getLogger(__name__)

#: Records that are taken in one turn of the loop.
BATCH: Final = 256
#: And their bytes, beyond a first one that is larger.
BATCH_BYTES: Final = 4 << 20
#: Slots that stay free between the newest and the oldest: TIMER_BLANK_SLOTS.
BLANK_SLOTS: Final = 60
#: Seconds between two looks for records that were put and are not visible yet, and between looks without a reason.
UNSEEN_SECONDS: Final = 0.02
IDLE_SECONDS: Final = 1.0
#: Seconds until the next try after the disk refused.
RETRY_SECONDS: Final = 1.0


class TimerRequest(NamedTuple):
    """One record on its way into the wheel."""

    record: Record
    out_ms: int
    topic: str
    is_delete: bool


class Handled(NamedTuple):
    """What an earlier run has done with records that are read again.

    Attributes:
        offset: records of the timer topic before this queue offset were taken in by it.
        time_ms: and of those, the ones that were due before this time were delivered.
        physical_offsets: records from the first that is read again on that have a unit in the timer log, in order.
    """

    offset: int
    time_ms: int
    physical_offsets: array[int]


class TimerEnqueueService:
    """Takes records in. One task; the only one that appends to the timer log.

    Args:
        config: what may be stopped or skipped.
        environment: clock and blocking calls.
        store: where the timer topic is.
        log: gets the units.
        wheel: gets the slots.
        records: reads records.
        delivery: puts what is due already.
        progress: how far it has got.
        metrics: counts what waits.
        wake_dequeue: called when a slot was changed.

    Attributes:
        work: runs it; woken when a message was put into the timer topic, stopped after the present batch.
        should_run: whether this broker takes timers in: a slave that does not deliver does not.
        enqueued: how many units were written.
        unreadable: how many records could not be read, or did not say when they are due.
    """

    def __init__(
        self,
        config: MessageStoreConfig,
        environment: Environment,
        store: MessageStore,
        log: TimerLog,
        wheel: TimerWheel,
        records: TimerRecords,
        delivery: TimerDelivery,
        progress: TimerProgress,
        metrics: TimerMetrics,
        wake_dequeue: Callable[[], None],
    ) -> None:
        self.should_run = True
        self.enqueued = 0
        self.unreadable = 0
        self._config = config
        self._environment = environment
        self._store = store
        self._log = log
        self._wheel = wheel
        self._records = records
        self._delivery = delivery
        self._progress = progress
        self._metrics = metrics
        self._wake_dequeue = wake_dequeue
        self._window = roll_window(config.timer_roll_window_slot, config.timer_precision_ms)
        self._handled = Handled(0, 0, array("q"))
        self._next_handled = 0
        self.work = WokenWork("taking timers in", self._step, RETRY_SECONDS)

    def resume(self, handled: Handled) -> None:
        """Go on after a start: some of the records that are read first are in the log already."""
        self._handled, self._next_handled = handled, 0

    async def _step(self) -> float:
        """Take one batch in; return the seconds until the next one is worth a look."""
        try:
            if await self._take_batch():
                return 0
        except Exception:
            # What is in the wheel does not wait for a record that cannot be read.
            self._let_deliver()
            raise
        if self._may_run() and not self._is_all_seen():
            return UNSEEN_SECONDS
        self._let_deliver()
        return IDLE_SECONDS

    def _let_deliver(self) -> None:
        if self._progress.is_catching_up:
            self._progress.is_catching_up = False
            self._wake_dequeue()

    def _is_all_seen(self) -> bool:
        """Whether every record that was ever put into the topic was taken in."""
        slot = self._store.slots.find(TIMER_TOPIC, 0)
        return slot is None or slot.next_offset <= self._progress.queue_offset

    def _may_run(self) -> bool:
        progress = self._progress
        if not self.should_run or self._config.timer_stop_enqueue or progress.failure:
            return False
        # Differs from RocketMQ, which drops what a broker that was down for more than a week had left: the slots of
        # that time must be delivered before they are used again.
        behind = progress.write_time_ms - progress.read_time_ms
        return behind <= SLOTS_AHEAD * progress.precision_ms or self._wheel.latest_ms < progress.read_time_ms

    async def _take_batch(self) -> bool:
        """Take one batch in; return whether there was one."""
        queue = self._store.find_queue(TIMER_TOPIC, 0)
        if not self._may_run() or not isinstance(queue, ConsumeQueue):
            return False
        progress = self._progress
        offset = max(progress.queue_offset, queue.min_offset)
        units = queue.read(offset, BATCH)
        if units is None:
            units = await self._environment.run_blocking(queue.cold_read(offset, BATCH))
        if not units:
            return False
        offsets, sizes = unpack_places(units)
        count = within(sizes, BATCH_BYTES)
        offsets, sizes = offsets[:count], sizes[:count]
        records = await self._records.read(list(zip(offsets, sizes, strict=True)))
        requests = self._requests(offset, sizes, records)
        if requests:
            await self._log.make_room(len(requests))
        # From here to the end of `_insert` nothing waits: no slot is delivered in between.
        progress.move_write_time(self._environment.clock.wall_ms())
        open_from = progress.open_from_ms
        due = [request for request in requests if request.out_ms < open_from]
        self._insert([request for request in requests if request.out_ms >= open_from])
        await self._deliver_now(due)
        progress.queue_offset = offset + len(sizes)
        return True

    def _requests(self, offset: int, sizes: Sequence[int], records: Sequence[Record | None]) -> list[TimerRequest]:
        """Return what is to be done with records that begin at a queue offset."""
        found = []
        for number, (size, record) in enumerate(zip(sizes, records, strict=True), offset):
            out = out_time(record) if record is not None else None
            if record is None or out is None:
                if size != FILLER_SIZE:
                    # Differs from RocketMQ, which stops here for good unless `timerSkipUnknownError` is on.
                    self.unreadable += 1
                    logger.error(
                        "the record of the timer topic at queue offset %d is no timer message: skipped", number
                    )
                continue
            if not self._is_handled(number, record.physical_offset, out):
                found.append(TimerRequest(record, out, real_topic(record), delete_key(record) is not None))
        return found

    def _is_handled(self, queue_offset: int, physical_offset: int, out_ms: int) -> bool:
        """Tell whether an earlier run has done it: see `Handled`."""
        handled = self._handled
        offsets = handled.physical_offsets
        while self._next_handled < len(offsets) and offsets[self._next_handled] < physical_offset:
            self._next_handled += 1
        if self._next_handled < len(offsets) and offsets[self._next_handled] == physical_offset:
            return True
        return queue_offset < handled.offset and out_ms < handled.time_ms

    def _insert(self, requests: Sequence[TimerRequest]) -> None:
        """Write units and set slots; all or, if the disk refuses, nothing."""
        if not requests:
            return
        write_time, wheel, progress = self._progress.open_from_ms, self._wheel, self._progress
        slots: dict[int, Slot] = {}
        units: list[bytes] = []
        waiting: Counter[str] = Counter()
        for request, position in zip(requests, self._log.next_positions(len(requests)), strict=True):
            time_ms, is_roll = place(request.out_ms, write_time, self._window, progress.precision_ms)
            slot_ms = wheel.floor(time_ms)
            slot = slots.get(slot_ms) or wheel.get(slot_ms) or Slot(slot_ms, position, -1, 0)
            change = -1 if request.is_delete else 1
            slots[slot_ms] = Slot(slot_ms, slot.first_pos, position, slot.num + change)
            waiting[request.topic] += change
            units.append(
                pack_unit(
                    slot.last_pos,
                    DEFAULT | (ROLL if is_roll else 0) | (DELETE if request.is_delete else 0),
                    write_time,
                    time_ms - write_time,
                    request.record.physical_offset,
                    request.record.total_size,
                    topic_hash(request.topic),
                )
            )
        self._log.append(units)
        if wheel.latest_ms < progress.read_time_ms:
            # Nothing waited: the empty slots up to now need not be looked at.
            progress.read_time_ms = max(progress.read_time_ms, write_time)
        for slot in slots.values():
            wheel.put(slot)
        self.enqueued += len(units)
        self._metrics.add(waiting)
        self._wake_dequeue()

    async def _deliver_now(self, due: Sequence[TimerRequest]) -> None:
        """Deliver what is due already. A deletion that is due has nothing to delete any more."""
        now = self._environment.clock.wall_ms()
        drafts = [
            delivery(request.record, NEVER_ENQUEUED, now, is_roll=False) for request in due if not request.is_delete
        ]
        await self._delivery.deliver([draft for draft in drafts if draft is not None])


def within(sizes: Sequence[int], limit: int) -> int:
    """Return how many of the first sizes stay within a limit together, but at least one."""
    total = 0
    for count, size in enumerate(sizes):
        total += size
        if total > limit and count:
            return count
    return len(sizes)


@functools.lru_cache(maxsize=4_096)
def topic_hash(topic: str) -> int:
    """Return the Java hash of a topic's name."""
    return string_hash(topic)


def roll_window(slots: int, precision_ms: int) -> int:
    """Return how many slots ahead a unit may lie, from `timerRollWindowSlot`."""
    most = SLOTS_AHEAD - BLANK_SLOTS
    # A unit's delay has 32 bits: with slots of an hour the window is shorter.
    return min(slots if 2 <= slots <= most else most, I32_MAX // precision_ms)


def place(out_ms: int, write_ms: int, window: int, precision_ms: int) -> tuple[int, bool]:
    """Return the time of the slot that a message goes into, and whether it is to be rolled on from there.

    What is due beyond the window goes round: a whole window, or half of one if little would be left after it.
    """
    left = out_ms - write_ms
    if left < window * precision_ms:
        return out_ms, False
    if left - window * precision_ms < window // 3 * precision_ms:
        return write_ms + window // 2 * precision_ms, True
    return write_ms + window * precision_ms, True
