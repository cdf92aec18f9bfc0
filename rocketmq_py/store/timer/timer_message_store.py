"""The timers of a broker: the parts, and their life.

    a put with a time of delivery -> (hook) -> timer topic -> enqueue -> timer log and wheel
                                                 ^                            | when the time has come
                                                 +---- rolled on ----- dequeue -> real topic and queue

Source: `TimerMessageStore`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import logging
import os
from array import array
from collections import deque
from collections.abc import Callable
from typing import Final

from rocketmq_py.common.environment import Environment
from rocketmq_py.common.topic import TIMER_TOPIC
from rocketmq_py.store.config import BrokerRole, MessageStoreConfig
from rocketmq_py.store.consume_queue import ConsumeQueue
from rocketmq_py.store.draft import Draft
from rocketmq_py.store.flush import FlushService
from rocketmq_py.store.message_store import MessageStore
from rocketmq_py.store.timer.timer_checkpoint import TimerCheckpoint, TimerCheckpointFile
from rocketmq_py.store.timer.timer_delivery import TimerDelivery
from rocketmq_py.store.timer.timer_dequeue import TimerDequeueService
from rocketmq_py.store.timer.timer_enqueue import Handled, TimerEnqueueService
from rocketmq_py.store.timer.timer_flush import TimerFlushService
from rocketmq_py.store.timer.timer_hook import TimerHook
from rocketmq_py.store.timer.timer_log import TimerLog
from rocketmq_py.store.timer.timer_metrics import TimerMetrics
from rocketmq_py.store.timer.timer_progress import TimerProgress
from rocketmq_py.store.timer.timer_records import TimerRecords
from rocketmq_py.store.timer.timer_recovery import (
    TimerQueue,
    TimerRecovery,
    TimerRecoveryReport,
    undo_lost,
    units_since,
)
from rocketmq_py.store.timer.timer_wheel import TimerWheel

logger = logging.getLogger(__name__)

#: Longest time in seconds that a stop waits for the slot that is being delivered.
STOP_SECONDS: Final = 2.5
#: Copied checkpoints that wait for the log.
MAX_COPIED: Final = 64


class Rate:
    """How fast a number grows.

    Attributes:
        per_second: as of the last measurement.
    """

    def __init__(self) -> None:
        self.per_second = 0.0
        self._last: tuple[int, float] | None = None

    def measure(self, value: int, now: float) -> None:
        """Compare with the measurement before; `now` is the loop's time."""
        if self._last is not None and now > self._last[1]:
            self.per_second = (value - self._last[0]) / (now - self._last[1])
        self._last = (value, now)


class TimerMessageStore:
    """Keeps messages until their time, and delivers them then.

    A store that never had a timer has no files for them, and starts nothing but two sleeping tasks.

    Args:
        config: precision, limits, sizes.
        environment: clock, files and blocking calls.
        store: where messages are put and read.
        flush: forces the commit log to disk at the stop.
        was_clean: whether the last run of the store stopped in order; asked at the start.

    Attributes:
        metrics: what waits, by topic.
        hook: redirects puts; to be installed.
        delivery: counts what was delivered.
        progress: how far it has got.
        report: what the last start found.
    """

    def __init__(
        self,
        config: MessageStoreConfig,
        environment: Environment,
        store: MessageStore,
        flush: FlushService,
        was_clean: Callable[[], bool],
    ) -> None:
        root, precision = config.root_dir, config.timer_precision_ms
        files = environment.files
        self.report = TimerRecoveryReport()
        self.progress = TimerProgress(precision)
        self.metrics = TimerMetrics(os.path.join(root, "config", "timermetrics"), environment)
        self.wheel = TimerWheel(files, os.path.join(root, "timerwheel"), precision)
        self.log = TimerLog(environment, os.path.join(root, "timerlog"), config.mapped_file_size_timer_log)
        self.delivery = TimerDelivery(config, store)
        self._config = config
        self._environment = environment
        self._store = store
        self._commit_flush = flush
        self._was_clean = was_clean
        self._records = TimerRecords(store.commit_log, environment)
        self._file = TimerCheckpointFile(files, os.path.join(root, "config", "timercheck"))
        self.dequeue = TimerDequeueService(
            config, environment, self.log, self.wheel, self._records, self.delivery, self.progress, self.metrics
        )
        self.enqueue = TimerEnqueueService(
            config,
            environment,
            store,
            self.log,
            self.wheel,
            self._records,
            self.delivery,
            self.progress,
            self.metrics,
            self.dequeue.work.wake,
        )
        self.flusher = TimerFlushService(
            config,
            environment,
            store.commit_log,
            self.log,
            self.wheel,
            self._file,
            self.progress,
            self.delivery,
            self.dequeue,
            self.metrics,
        )
        self.hook = TimerHook(
            config, environment, self.num_at, self.enqueue.work.wake, lambda: bool(self.progress.failure)
        )
        # A slave delivers nothing; its master does.
        self.enqueue.should_run = self.dequeue.should_run = config.broker_role is not BrokerRole.SLAVE
        self.delivery.on_delivered.append(self._delivered)
        # Where the commit log ended, and the slots before which time had been delivered into it; one entry a second.
        self._passed: deque[tuple[int, int]] = deque(maxlen=MAX_COPIED)
        self._has_copied = False
        self._copied: deque[tuple[int, TimerCheckpoint]] = deque(maxlen=MAX_COPIED)
        self._tasks: list[asyncio.Task[None]] = []
        self._enqueue_rate, self._dequeue_rate = Rate(), Rate()

    # --- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Recover, and begin to work. Does nothing with `timerWheelEnable=false`.

        Raises:
            StoreError: the files cannot be used as they are.
            CorruptDataError: the table of counts cannot be read.
        """
        if not self._config.timer_wheel_enable:
            return
        self.metrics.table.load()
        clock = self._environment.clock
        self.progress.move_write_time(clock.wall_ms())
        self.progress.read_time_ms = self.progress.write_time_ms
        if self._is_in_use():
            await self._recover()
        loop = asyncio.get_running_loop()
        self._enqueue_rate.measure(0, loop.time())
        self._dequeue_rate.measure(0, loop.time())
        self._begin()

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        self.enqueue.work.is_stopping = self.dequeue.work.is_stopping = False
        self._tasks = [
            loop.create_task(self.enqueue.work.run(), name="TimerEnqueueService"),
            loop.create_task(self.dequeue.work.run(), name="TimerDequeueService"),
        ]

    def _is_in_use(self) -> bool:
        files = self._environment.files
        return (
            self._store.max_offset(TIMER_TOPIC, 0) > 0
            or files.exists(self.wheel.path)
            or bool(files.list_directory(self.log.folder))
        )

    async def _recover(self) -> None:
        run_blocking, progress = self._environment.run_blocking, self.progress
        checkpoint = await run_blocking(self._file.load)
        recovery = TimerRecovery(self.log, self.wheel, self._records, checkpoint, self._was_clean())
        queue = self._queue()
        report = self.report = await run_blocking(recovery.recover, queue, self._environment.clock.wall_ms())
        progress.queue_offset, progress.read_time_ms = report.queue_offset, report.read_time_ms
        progress.write_time_ms, progress.is_catching_up = progress.read_time_ms, True
        self.enqueue.resume(report.handled)
        self.flusher.checkpoint = checkpoint
        self.flusher.wants_recount = not self._was_clean()
        logger.info(
            "timers go on at %d ms and queue offset %d: %d units read, %d of them new to the wheel, %d taken back%s%s",
            report.read_time_ms,
            report.queue_offset,
            report.scanned,
            report.applied,
            report.undone,
            ", wheel made again" if report.is_rebuilt else "",
            ", timer log was shorter than it must be" if report.is_short else "",
        )

    def _queue(self) -> TimerQueue:
        log_end = self._store.commit_log.max_offset
        queue = self._store.find_queue(TIMER_TOPIC, 0)
        if not isinstance(queue, ConsumeQueue):
            return TimerQueue(0, 0, lambda offset: None, log_end)

        def physical_offset_of(offset: int) -> int | None:
            unit = queue.unit(offset)
            return unit[0] if unit is not None else None

        return TimerQueue(queue.min_offset, queue.max_offset, physical_offset_of, log_end)

    async def stop_serving(self) -> None:
        """Finish the slot and the batch that are under way, as far as that takes no longer than a moment."""
        self.enqueue.work.stop()
        self.dequeue.work.stop()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=STOP_SECONDS)
            for task in late:
                logger.warning("%s is cut short; what it was delivering is delivered again", task.get_name())
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._tasks = []

    async def pause(self) -> None:
        """Stop taking timers in and delivering them, for a master that becomes a slave."""
        if not self.enqueue.should_run:
            return
        await self.stop_serving()
        await self.flush()
        self.enqueue.should_run = self.dequeue.should_run = False

    async def resume(self) -> None:
        """Take timers in and deliver them, for a slave that becomes a master.

        What its master had delivered, as far as this broker's log has it, is not delivered again: see `adopt`. The
        records that this broker has not taken in itself are taken in first, so that none of them comes too late to
        delete another.
        """
        if self.enqueue.should_run or not self._config.timer_wheel_enable:
            return
        # The two tasks look now and then although there is nothing for them to do.
        await self.stop_serving()
        progress, checkpoint = self.progress, self.flusher.checkpoint
        self._use_copies()
        queue = self._queue()
        progress.queue_offset = min(progress.queue_offset, queue.max_offset)
        first = queue.physical_offset_of(progress.queue_offset)
        known = await self._environment.run_blocking(units_since, self.log, first) if first is not None else array("q")
        delivered_ms = self.wheel.floor(checkpoint.last_read_time_ms) or progress.read_time_ms
        # Records that come to an offset which a crash has freed are none that anybody has handled.
        elsewhere = Handled(min(checkpoint.master_timer_queue_offset, queue.max_offset), delivered_ms, known)
        self.enqueue.resume(elsewhere)
        self.dequeue.elsewhere = elsewhere
        if self.dequeue.is_idle:
            is_new = self.log.end == 0
            progress.read_time_ms = delivered_ms if is_new else max(delivered_ms, progress.read_time_ms)
        progress.write_time_ms, progress.is_catching_up = max(delivered_ms, progress.read_time_ms), True
        if self._has_copied:
            # The copied counts are about the same records as those that are now counted here.
            self.flusher.wants_recount, self._has_copied = True, False
        self.enqueue.should_run = self.dequeue.should_run = True
        self._begin()

    async def adopt(self, checkpoint: TimerCheckpoint, log_end: int) -> None:
        """Note how far the master's timers are, for a slave that becomes a master.

        Args:
            checkpoint: the master's.
            log_end: what it had delivered lies before this offset of the log. Until this broker's own log has got there
                the numbers are not used: what they call delivered would be lost with the master.
        """
        if not checkpoint.last_timer_queue_offset and not self._is_in_use():
            # Nobody has timers, and there shall be no file that says so.
            return
        self._has_copied = True
        if not self._copied or self._copied[-1][1].encode() != checkpoint.encode():
            self._copied.append((log_end, checkpoint))
        if self._use_copies():
            await self.flusher.write_checkpoint()

    def _use_copies(self) -> bool:
        """Take over the newest copy that the log allows; return whether there was one."""
        end, newest = self._store.commit_log.max_offset, None
        while self._copied and self._copied[0][0] <= end:
            newest = self._copied.popleft()[1]
        if newest is None:
            return False
        checkpoint = self.flusher.checkpoint
        # What this broker delivered itself, as a master, stays delivered.
        checkpoint.last_read_time_ms = max(checkpoint.last_read_time_ms, newest.last_read_time_ms)
        checkpoint.master_timer_queue_offset = newest.last_timer_queue_offset
        checkpoint.version.assign(newest.version)
        return True

    async def truncated(self, log_end: int) -> None:
        """Forget what the commit log has lost, for a slave that gives up what its new master never had.

        Args:
            log_end: where the commit log ends now; its queues are cut as well.
        """
        if not self._config.timer_wheel_enable or self.enqueue.should_run or not self._is_in_use():
            return
        progress, checkpoint, log = self.progress, self.flusher.checkpoint, self.log
        progress.queue_offset = min(progress.queue_offset, self._store.max_offset(TIMER_TOPIC, 0))
        end, undone = await self._environment.run_blocking(undo_lost, log, self.wheel, log.end, log_end)
        if undone:
            logger.warning("%d timers are taken back: the log does not have them any more", undone)
        log.end, log.flushed = end, min(log.flushed, end)
        kept = [read_time for end_then, read_time in self._passed if end_then <= log_end]
        read_time = kept[-1] if kept else min((read_time for _, read_time in self._passed), default=None)
        if read_time is not None:
            # Messages that were delivered later are gone, and are to be delivered once more.
            progress.read_time_ms = min(progress.read_time_ms, read_time)
            checkpoint.last_read_time_ms = min(checkpoint.last_read_time_ms, read_time)
        checkpoint.last_timer_queue_offset = min(checkpoint.last_timer_queue_offset, progress.queue_offset)
        checkpoint.last_timer_log_flush_pos = min(checkpoint.last_timer_log_flush_pos, end)
        # What the old master had delivered may be gone with the log: the new one tells how far it is.
        self._copied.clear()
        await self.flusher.write_checkpoint()

    async def stop(self) -> None:
        """Write everything down, and close."""
        if self._config.timer_wheel_enable:
            await self._commit_flush.flush()
            await self.flusher.flush(is_last=True)
        await self.log.close()

    def _delivered(self, draft: Draft) -> None:
        if draft.topic == TIMER_TOPIC:
            # Rolled on: it may be due soon.
            self.enqueue.work.wake()

    async def flush(self) -> None:
        """Write down what has changed; to be called every `timerFlushIntervalMs`."""
        if not self._config.timer_wheel_enable:
            return
        if self.dequeue.should_run:
            self._passed.append((self._store.commit_log.max_offset, self.progress.read_time_ms))
        now = asyncio.get_running_loop().time()
        self._enqueue_rate.measure(self.enqueue.enqueued, now)
        self._dequeue_rate.measure(self.delivery.delivered, now)
        await self.flusher.flush()

    # --- what others ask ----------------------------------------------------------------------------------------------

    @property
    def checkpoint(self) -> TimerCheckpoint:
        """What is written down, as a slave asks for it."""
        return self.flusher.checkpoint

    @property
    def enqueue_tps(self) -> float:
        """Messages that came into the wheel, a second, as measured last."""
        return self._enqueue_rate.per_second

    @property
    def dequeue_tps(self) -> float:
        """Messages that were delivered, a second, as measured last."""
        return self._dequeue_rate.per_second

    def num_at(self, time_ms: int) -> int:
        """Return how many messages wait in the slot of a time."""
        slot = self.wheel.get(time_ms)
        return slot.num if slot is not None else 0

    def congest_num(self) -> int:
        """Return how many messages wait in the wheel."""
        return self.wheel.waiting

    def enqueue_behind_messages(self) -> int:
        """Return how many messages are in the timer topic and not yet in the wheel."""
        return max(0, self._store.max_offset(TIMER_TOPIC, 0) - self.progress.queue_offset)

    def dequeue_behind_ms(self) -> int:
        """Return how late the oldest message that waits is, milliseconds."""
        if self.dequeue.is_idle:
            return 0
        return max(0, self._environment.clock.wall_ms() - self.progress.read_time_ms)

    def __repr__(self) -> str:
        return f"<TimerMessageStore {self.progress!r} {self.log!r} {self.wheel!r}>"
