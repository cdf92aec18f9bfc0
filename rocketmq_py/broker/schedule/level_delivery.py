"""The delivery of one level: what is due is put into its real topic, in the order of the level's queue.

    look      units of the queue from the level's offset on
    decide    how many of them are due, and when the next one is
    deliver   read their records, put them, move the offset behind those that were put
    wait      until the next one is due; in an empty queue until a message arrives

A batch is small and all levels take turns, so that however much is due at once, the loop has time for clients in
between. Nothing is skipped because it cannot be stored now: a level that meets a full disk tries again and again.

Source: `ScheduleMessageService.DeliverDelayedMessageTimerTask`, RocketMQ 5.3, which looks every 100 ms.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple

from rocketmq_py.broker.schedule.delay_offsets import DelayOffsetManager
from rocketmq_py.broker.schedule.delivered_message import UndeliverableError, delivered_message
from rocketmq_py.broker.schedule.delivery_clock import DeliveryClock
from rocketmq_py.broker.schedule.delivery_marks import DeliveryMarks
from rocketmq_py.common.environment import RunBlocking
from rocketmq_py.common.message_id import create_offset_id
from rocketmq_py.common.record import read_record
from rocketmq_py.common.topic import SCHEDULE_TOPIC
from rocketmq_py.store.consume_queue import ConsumeQueue
from rocketmq_py.store.consume_queue_unit import FILLER_SIZE, unpack_units
from rocketmq_py.store.draft import Draft
from rocketmq_py.store.errors import StoreError
from rocketmq_py.store.get_message import MAX_EXTENSION_ADDRESS, GetMessageResult, GetMessageStatus
from rocketmq_py.store.message_store import MessageStore
from rocketmq_py.store.offset_search import store_timestamp_of
from rocketmq_py.store.put_message import Putter
from rocketmq_py.store.put_result import PutMessageResult, PutMessageStatus
from rocketmq_py.store.woken_work import WokenWork

logger = logging.getLogger(__name__)

#: Messages that are delivered in one turn of the loop. A millisecond of work, and as many as one read returns.
BATCH: Final = 32
#: Seconds before a put that failed is tried again, and before anything is tried again after an error of our own.
RETRY_SECONDS: Final = 0.1
ERROR_SECONDS: Final = 10.0
#: A time that is further away than the level's delay by more than this is not believed, milliseconds. Less is nothing:
#: stamps are rounded, and clocks that are slewed drift apart.
SLACK_MS: Final = 1_000
#: Refusals that no later try can change.
_FINAL: Final = (PutMessageStatus.MESSAGE_ILLEGAL, PutMessageStatus.PROPERTIES_SIZE_EXCEEDED)


class DelayedMessage(NamedTuple):
    """One message that is due: its offset in the level's queue, and the draft; None if it cannot be delivered."""

    queue_offset: int
    draft: Draft | None


class LevelDelivery:
    """Delivers the messages of one level.

    Args:
        level: counted from 1; its queue is `level - 1`.
        delay_ms: what the level waits by the present table.
        store: where the messages wait, and where they go.
        clock: tells what is due.
        offsets: keeps how far the level is.
        marks: keeps the same for the start after a killed process.
        run_blocking: for reads that wait for the disk.
        turn: held while a batch is put, so that levels take turns.
        on_delivered: told how each message went that was put.
        target: takes what is delivered; the store if it is None.

    Attributes:
        work: runs the delivery in a task, batch by batch; a stop lets the batch under way come to its end.
        delivered: how many messages were put into their real topics.
        skipped: how many could not be delivered, ever: unreadable, or without a place to go.
    """

    def __init__(
        self,
        level: int,
        delay_ms: int,
        store: MessageStore,
        clock: DeliveryClock,
        offsets: DelayOffsetManager,
        marks: DeliveryMarks,
        run_blocking: RunBlocking,
        turn: asyncio.Lock,
        on_delivered: Callable[[Draft], None],
        target: Putter | None = None,
    ) -> None:
        self.level = level
        self.queue_id = level - 1
        self.delivered = 0
        self.skipped = 0
        self._delay_ms = delay_ms
        self._store = store
        self._clock = clock
        self._offsets = offsets
        self._marks = marks
        self._run_blocking = run_blocking
        self._turn = turn
        self._on_delivered = on_delivered
        self._target = target or store
        self.work = WokenWork(f"the delivery of level {level}", self._deliver, ERROR_SECONDS)
        self._is_empty = False

    def arrived(self) -> None:
        """Look again if the queue was empty. Otherwise its first message is the next one due, whatever comes behind."""
        if self._is_empty:
            self.work.wake()

    # --- look and decide ----------------------------------------------------------------------------------------------

    async def _deliver(self) -> float | None:
        """Deliver a batch.

        Returns:
            Seconds until the next look, None for "when a message arrives".
        """
        self._is_empty = False
        queue = self._store.queues.find(SCHEDULE_TOPIC, self.queue_id)
        offset = self._offset(queue)
        if queue is None or offset >= queue.max_offset:
            self._is_empty = True
            return None
        units = queue.read(offset, BATCH)
        if units is None:
            units = await self._run_blocking(queue.cold_read(offset, BATCH))
        if not units:
            return await self._skip_to(offset, offset + queue.units_per_file - offset % queue.units_per_file, queue)
        count, wait_ms = self.count_due(units)
        if not count:
            # A level that waits is in the file, as in RocketMQ: operators see that it is at work.
            self._offsets.set(self.level, offset)
            return wait_ms / 1_000
        return await self._deliver_due(offset, count, queue)

    def _offset(self, queue: ConsumeQueue | None) -> int:
        """Return where the level is. An offset outside of its queue is moved to the queue's beginning or end."""
        offset = self._offsets.get(self.level)
        low, high = (queue.min_offset, queue.max_offset) if queue is not None else (0, 0)
        if offset is not None and not low <= offset <= high:
            logger.warning("level %d is at offset %d; its queue has %d to %d", self.level, offset, low, high)
            self._offsets.set(self.level, min(max(offset, low), high))
        return min(max(offset or 0, low), high)

    def count_due(self, units: bytes | bytearray) -> tuple[int, int]:
        """Return how many messages from the first on are due, and the milliseconds until the one behind them is.

        A time further away than the level's delay cannot be meant: the table of levels was changed since, or the bytes
        are damaged. As in RocketMQ the message is due then.
        """
        physical_offsets, sizes, codes = unpack_units(units)
        for number, (physical_offset, size, code) in enumerate(zip(physical_offsets, sizes, codes, strict=True)):
            now = self._clock.now_ms(physical_offset)
            wait = self._due_ms(physical_offset, code) - now
            if size != FILLER_SIZE and 0 < wait <= self._delay_ms + SLACK_MS:
                return number, wait
        return len(sizes), 0

    def _due_ms(self, physical_offset: int, code: int) -> int:
        """Return when the message of a unit is due, milliseconds since 1970."""
        if code > MAX_EXTENSION_ADDRESS:
            return code
        extensions = self._store.queues.extensions
        unit = extensions.read(SCHEDULE_TOPIC, self.queue_id, code) if extensions is not None else None
        due = getattr(unit, "tags_code", None)
        if isinstance(due, int):
            return due
        # The extension is lost. The record itself knows when it was stored; if that is lost too, it is due now.
        try:
            return store_timestamp_of(self._store.look_record(physical_offset)) + self._delay_ms
        except StoreError:
            return 0

    # --- deliver ------------------------------------------------------------------------------------------------------

    async def _deliver_due(self, offset: int, count: int, queue: ConsumeQueue) -> float:
        found = self._store.get_message(SCHEDULE_TOPIC, self.queue_id, offset, count)
        if found is None:
            found = await self._store.get_message_cold(SCHEDULE_TOPIC, self.queue_id, offset, count)
        if found.status is not GetMessageStatus.FOUND:
            return await self._skip_to(offset, max(found.next_begin_offset, offset + 1), queue)
        messages = self._drafts(found, offset + count)
        if not messages:
            return await self._skip_to(offset, offset + count, queue)
        # Copied from here on: the views of the log are not looked at after an await.
        async with self._turn:
            results = await put_in_order(self._target, [message.draft for message in messages if message.draft])
        return self._move_on(messages, results)

    def _drafts(self, found: GetMessageResult, end: int) -> list[DelayedMessage]:
        """Make drafts of the records below a queue offset."""
        messages: list[DelayedMessage] = []
        for buffer in found.buffers:
            at = 0
            while at < len(buffer):
                record = read_record(buffer, at)
                at += record.total_size
                queue_offset = record.queue_offset
                if queue_offset >= end:
                    return messages
                try:
                    draft = delivered_message(record)
                except UndeliverableError as error:
                    message_id = create_offset_id(record.store_host, record.physical_offset)
                    self._give_up(queue_offset, f"message {message_id}: {error}")
                    draft = None
                messages.append(DelayedMessage(queue_offset, draft))
        return messages

    def _move_on(self, messages: Sequence[DelayedMessage], results: Sequence[PutMessageResult]) -> float:
        """Move behind the messages that are done, in order; return the seconds until the next look."""
        rest = iter(results)
        delivered, pause, last = 0, 0.0, None
        offset = messages[0].queue_offset
        for queue_offset, draft in messages:
            result = next(rest, None) if draft is not None else None
            if draft is None:
                pass
            elif result is None or (result.status is not PutMessageStatus.PUT_OK and result.status not in _FINAL):
                pause = RETRY_SECONDS if result is not None else 0.0
                break
            elif result.status is PutMessageStatus.PUT_OK:
                delivered, last = delivered + 1, result
                self._on_delivered(draft)
            else:
                self._give_up(queue_offset, f"{draft.topic}-{draft.queue_id} takes it never: {result.status.name}")
            offset = queue_offset + 1
        self.delivered += delivered
        self._offsets.set(self.level, offset, delivered)
        if last is not None and last.physical_offsets:
            self._marks.mark(self.level, offset, last)
        return pause

    async def _skip_to(self, offset: int, following: int, queue: ConsumeQueue) -> float:
        """Go on behind messages that cannot be read: their log file is gone, or damaged."""
        following = min(following, queue.max_offset)
        self._give_up(offset, f"the log has nothing to read for the units up to {following}", following - offset)
        self._offsets.set(self.level, following)
        await asyncio.sleep(0)
        return 0.0

    def _give_up(self, offset: int, why: str, count: int = 1) -> None:
        self.skipped += count
        logger.error("the delayed message at offset %d of level %d is not delivered: %s", offset, self.level, why)

    def __repr__(self) -> str:
        state = "stopping" if self.work.is_stopping else "empty" if self._is_empty else "waiting or at work"
        return f"<LevelDelivery {self.level} at {self._offsets.get(self.level)} {state}, delivered {self.delivered}>"


async def put_in_order(store: Putter, drafts: Sequence[Draft]) -> list[PutMessageResult]:
    """Put drafts one after the other in this turn of the loop, and wait until they are in the log.

    Returns:
        A result for each draft up to the first that was refused; those behind it were not tried.
    """
    # By number: who is refused hears of it at once, those before it hear at the end of the turn.
    results: dict[int, PutMessageResult] = {}
    came = asyncio.Event()

    def done(number: int, result: PutMessageResult) -> None:
        results[number] = result
        came.set()

    tried = 0
    for number, draft in enumerate(drafts):
        store.put([draft], partial(done, number))
        tried += 1
        if number in results:
            break
    while len(results) < tried:
        came.clear()
        await came.wait()
    return [results[number] for number in range(tried)]
