"""Flush: writes down, every second, what the timers have done; and deletes what nobody needs any more.

    timer log forced to disk -> wheel written and forced to disk -> checkpoint

In this order: a slot on the disk never points behind the units there, and what the checkpoint says is there for certain.
It speaks of a delivery only when the delivered message itself is on disk, too.

Source: `TimerFlushService`, `TimerMessageStore#prepareTimerCheckPoint`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final, NamedTuple

from rocketmq_py.common.environment import Environment
from rocketmq_py.store.commit_log import CommitLog
from rocketmq_py.store.config import MessageStoreConfig
from rocketmq_py.store.timer.timer_checkpoint import TimerCheckpoint, TimerCheckpointFile
from rocketmq_py.store.timer.timer_delivery import TimerDelivery
from rocketmq_py.store.timer.timer_dequeue import TimerDequeueService
from rocketmq_py.store.timer.timer_log import TimerLog
from rocketmq_py.store.timer.timer_metrics import TimerMetrics, count_waiting
from rocketmq_py.store.timer.timer_progress import TimerProgress
from rocketmq_py.store.timer.timer_wheel import TimerWheel

logger = logging.getLogger(__name__)

#: Milliseconds of passed empty slots that are worth a write of their own.
IDLE_MS: Final = 60_000
#: Seconds between two looks for files of the timer log that can go.
EXPIRE_SECONDS: Final = 30.0
#: Milliseconds between two counts; the hour in which one is due lasts 60 minutes.
RECOUNT_MS: Final = 70 * 60_000

Parts = list[tuple[int, bytes]]


class Mark(NamedTuple):
    """A moment: how far things had got, and how far the commit log must be on disk for that to be certain."""

    read_time_ms: int
    queue_offset: int
    delivered: int
    log_end: int


class TimerFlushService:
    """Writes the files of the timers.

    Args:
        config: when to count.
        environment: clock and blocking calls.
        commit_log: says what of it is on disk.
        log: the timer log.
        wheel: the wheel.
        file: the checkpoint's file.
        progress: what is written down.
        delivery: how much was delivered.
        dequeue: says whether anybody reads the timer log.
        metrics: counted anew now and then.

    Attributes:
        checkpoint: what is on disk, for slaves too.
        wants_recount: count at the next opportunity: the numbers may be wrong.
    """

    def __init__(
        self,
        config: MessageStoreConfig,
        environment: Environment,
        commit_log: CommitLog,
        log: TimerLog,
        wheel: TimerWheel,
        file: TimerCheckpointFile,
        progress: TimerProgress,
        delivery: TimerDelivery,
        dequeue: TimerDequeueService,
        metrics: TimerMetrics,
    ) -> None:
        self.checkpoint = TimerCheckpoint()
        self.wants_recount = False
        self._config = config
        self._environment = environment
        self._commit_log = commit_log
        self._log = log
        self._wheel = wheel
        self._file = file
        self._progress = progress
        self._delivery = delivery
        self._dequeue = dequeue
        self._metrics = metrics
        self._lock = asyncio.Lock()
        self._mark: Mark | None = None
        self._noted_deliveries = 0
        self._expired_at = 0.0
        self._counted_ms = environment.clock.wall_ms()

    async def flush(self, *, is_last: bool = False) -> None:
        """Write what has changed. A failed sync is final: the timers stand still until the next start.

        Cancellation: what a thread writes is finished; the next call waits for it.
        """
        await asyncio.shield(asyncio.get_running_loop().create_task(self._flush_locked(is_last)))

    async def _flush_locked(self, is_last: bool) -> None:
        async with self._lock:
            if self._progress.failure or self._is_unused():
                return
            if self._dequeue.should_run:
                self._set_mark()
            if await self._flush_log_and_wheel():
                await self._flush_checkpoint(is_last)
            if not is_last:
                await self._keep_house()

    def _is_unused(self) -> bool:
        """Whether this store has never had a timer: then it gets no files for them."""
        is_at_start = self._progress.queue_offset == self.checkpoint.last_timer_queue_offset == 0
        return is_at_start and self._log.end == 0 and not self._wheel.is_dirty

    async def _flush_log_and_wheel(self) -> bool:
        """Force new units and changed slots to disk; return whether that worked."""
        log, wheel = self._log, self._wheel
        if log.end == log.flushed and not wheel.is_dirty:
            return True
        # Taken at one moment: no slot among these points behind `end`.
        end, parts = log.end, wheel.take_dirty()
        try:
            await self._environment.run_blocking(log.flush, log.flushed, end)
        except OSError as error:
            self._fail(f"{log!r} could not be forced to disk: {error}")
            return False
        log.flushed = end
        try:
            await self._environment.run_blocking(wheel.write, parts)
        except OSError as error:
            # A full disk, as a rule: the wheel is a file with holes. It is written once more, as a whole.
            wheel.put_back(parts)
            logger.error("%s could not be written (%s); it is tried again", wheel.path, error)
            return False
        return True

    def _fail(self, why: str) -> None:
        """The kernel forgets what it could not write: only the next start can find out what is there."""
        self._progress.failure = why
        logger.critical("timers stand still: %s. Check the disk, then restart the broker", why)

    # --- the checkpoint -----------------------------------------------------------------------------------------------

    def _set_mark(self) -> None:
        """Remember the present moment, unless an earlier one still waits for the commit log."""
        if self._mark is None:
            progress = self._progress
            read_time = progress.read_time_ms
            if self._dequeue.is_idle and not progress.is_catching_up:
                now = self._environment.clock.wall_ms()
                read_time = max(read_time, progress.write_time_ms, now - now % progress.precision_ms)
            self._mark = Mark(read_time, progress.queue_offset, self._delivery.delivered, self._commit_log.max_offset)

    async def _flush_checkpoint(self, is_last: bool) -> None:
        checkpoint, mark = self.checkpoint, self._mark
        if mark is not None and self._commit_log.flushed_offset >= mark.log_end:
            self._mark = None
            is_news = (
                mark.delivered != self._noted_deliveries or mark.queue_offset != checkpoint.last_timer_queue_offset
            )
            if is_last or is_news or mark.read_time_ms - checkpoint.last_read_time_ms >= IDLE_MS:
                self._noted_deliveries = mark.delivered
                self._note(mark)
        checkpoint.last_timer_log_flush_pos = self._log.flushed
        await self._write_checkpoint()

    async def write_checkpoint(self) -> None:
        """Write the checkpoint as it is now: a slave has copied it."""
        async with self._lock:
            await self._write_checkpoint()

    async def _write_checkpoint(self) -> None:
        checkpoint = self.checkpoint
        if not self._file.differs(checkpoint):
            return
        try:
            await self._environment.run_blocking(self._file.write, checkpoint)
        except OSError as error:
            logger.error("%s could not be written (%s); it is tried again", self._file.path, error)

    def _note(self, mark: Mark) -> None:
        checkpoint = self.checkpoint
        before = (checkpoint.last_read_time_ms, checkpoint.last_timer_queue_offset)
        checkpoint.last_read_time_ms = max(checkpoint.last_read_time_ms, mark.read_time_ms)
        checkpoint.last_timer_queue_offset = mark.queue_offset
        # On a master both are one, but for a slave that became one and has not taken everything in yet.
        checkpoint.master_timer_queue_offset = max(checkpoint.master_timer_queue_offset, mark.queue_offset)
        if before != (checkpoint.last_read_time_ms, checkpoint.last_timer_queue_offset):
            checkpoint.version.next_version(self._environment.clock.wall_ms())

    # --- housekeeping -------------------------------------------------------------------------------------------------

    async def _keep_house(self) -> None:
        """Delete files of the timer log, and count what waits, while nobody else reads the log."""
        now, wall_ms = asyncio.get_running_loop().time(), self._environment.clock.wall_ms()
        if now - self._expired_at >= EXPIRE_SECONDS:
            self._expired_at = now
            count = await self._environment.run_blocking(self._log.find_expired, self._commit_log.min_offset)
            if count and not self._dequeue.is_reading:
                for file in self._log.take_first(count):
                    logger.info("%s is deleted: the log has deleted all messages that it pointed to", file.path)
                    await self._environment.run_blocking(file.destroy)
        if self.wants_recount or self._is_time_to_count(wall_ms):
            self.wants_recount, self._counted_ms = False, wall_ms
            await self._recount()

    def _is_time_to_count(self, wall_ms: int) -> bool:
        config = self._config
        hours = config.timer_check_metrics_when.split(";")
        return (
            config.timer_enable_check_metrics
            and wall_ms - self._counted_ms > RECOUNT_MS
            and f"{time.localtime(wall_ms / 1000).tm_hour:02d}" in hours
        )

    async def _recount(self) -> None:
        since, end = self._progress.read_time_ms, self._log.end
        before = self._delivery.delivered, end
        counts = await self._environment.run_blocking(count_waiting, self._log, self._wheel, since, end)
        if before == (self._delivery.delivered, self._log.end):
            self._metrics.revise(counts, self._config.timer_metric_small_threshold)
        else:
            # Messages came or went meanwhile; the next second may be quieter.
            self.wants_recount = True
