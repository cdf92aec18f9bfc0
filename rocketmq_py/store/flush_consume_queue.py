"""Write-behind of the consume queues: tails gather in memory and are written when they are worth it.

    new units -> tail in memory -> (4 KiB, or old enough) -> one pwrite per queue, in a thread -> file

With eight queues a tail is written every second. With fifty thousand, writing each every second would be all that the
broker does, so the age at which a tail is written grows with the number of waiting tails. A crash loses nothing: what is
in no file is dispatched again from the commit log, and the checkpoint only knows what `synced_timestamp` says.

Source: `FlushConsumeQueueService`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from rocketmq_py.common.environment import Environment
from rocketmq_py.store.config import MessageStoreConfig
from rocketmq_py.store.queue_files import Key, QueueFiles
from rocketmq_py.store.unit_queue import UnitQueue

logger = logging.getLogger(__name__)

#: A tail of a page is written without waiting for its age.
FULL_TAIL_BYTES: Final = 4_080
#: Queues written in one call of a thread: a cut or a deletion waits for no more than that.
QUEUES_PER_STEP: Final = 200
#: Waiting tails for which the age grows by a second, up to `MAX_AGE_SECONDS`.
QUEUES_PER_SECOND: Final = 5_000
MAX_AGE_SECONDS: Final = 10.0

Item = tuple[UnitQueue, int, bytes]
Written = tuple[UnitQueue, int, bytes, list[int]]


class FlushConsumeQueueService:
    """Writes tails.

    Attributes:
        lock: held while files of queues are written, cut or deleted.
        synced_timestamp: the queues of all records stored up to then are on disk, milliseconds; 0 if unknown.
        failures: how many writes of a tail failed; they are tried again.
        steps: how many times a thread was given tails to write.
    """

    def __init__(self, config: MessageStoreConfig, environment: Environment) -> None:
        self.lock = asyncio.Lock()
        self.synced_timestamp = 0
        self.failures = 0
        self.steps = 0
        self._interval = config.flush_interval_consume_queue / 1000
        self._thorough_interval = config.flush_consume_queue_thorough_interval / 1000
        self._environment = environment
        # Ordered by the age of the tail: the oldest is first.
        self._dirty: dict[UnitQueue, None] = {}
        self._full: dict[UnitQueue, None] = {}
        self._unsynced: dict[tuple[QueueFiles, Key, int], None] = {}
        self._forbidden: dict[tuple[QueueFiles, Key], int] = {}
        self._task: asyncio.Task[None] | None = None

    # --- what there is to do ------------------------------------------------------------------------------------------

    def note(self, queue: UnitQueue) -> None:
        """Note that units were appended to a queue."""
        if not queue.tail:
            return
        if not queue.dirty_since:
            queue.dirty_since = asyncio.get_running_loop().time() or 1e-9
            self._dirty[queue] = None
        if len(queue.tail) >= FULL_TAIL_BYTES:
            self._full[queue] = None

    def note_unsynced(self, queue: UnitQueue, first: int) -> None:
        """Note that a process which was killed may not have forced the files from unit `first` on to disk."""
        size = queue.files.file_size
        position = first * queue.unit_size
        for start in range(position - position % size, queue.flushed * queue.unit_size, size):
            self._unsynced[queue.files, queue.key, start] = None

    def forget(self, queue: UnitQueue) -> None:
        """Write no more of a queue that is being deleted, nor of a new one of its name until `allow`."""
        queue.is_deleted = True
        self._dirty.pop(queue, None)
        self._full.pop(queue, None)
        place = (queue.files, queue.key)
        self._forbidden[place] = self._forbidden.get(place, 0) + 1

    def allow(self, queue: UnitQueue) -> None:
        """The files of a deleted queue are gone: a new queue of its name may have files."""
        place = (queue.files, queue.key)
        self._forbidden[place] -= 1
        if not self._forbidden[place]:
            del self._forbidden[place]

    def select_due(self, now: float) -> list[UnitQueue]:
        """Return the queues to be written next: those with full tails, then those with old ones, oldest first."""
        age = min(MAX_AGE_SECONDS, max(self._interval, len(self._dirty) / QUEUES_PER_SECOND))
        chosen: dict[UnitQueue, None] = {}
        for queue in self._full:
            if len(chosen) == QUEUES_PER_STEP:
                break
            chosen[queue] = None
        for queue in self._dirty:
            if len(chosen) == QUEUES_PER_STEP or now - queue.dirty_since < age:
                break
            chosen[queue] = None
        return [queue for queue in chosen if self._is_allowed(queue)]

    def _is_allowed(self, queue: UnitQueue) -> bool:
        return not self._forbidden or (queue.files, queue.key) not in self._forbidden

    @property
    def oldest_tail(self) -> float | None:
        """Loop time at which the oldest unit came that is in no file; None if all are in files."""
        return min((queue.dirty_since for queue in self._dirty), default=None)

    # --- doing it -----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to write in the background."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="FlushConsumeQueueService")

    async def stop(self) -> None:
        """End the background work and write everything that is left."""
        if self._task is not None:
            # With the lock held no thread is writing, so nothing is cut off half-way.
            async with self.lock:
                self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        await self.write_all()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._interval / 2)
            while queues := self.select_due(loop.time()):
                if not await self._write(queues):
                    # The disk is full or broken; the tails stay in memory for the next round.
                    break

    async def write_all(self) -> bool:
        """Write every tail; return whether all could be written."""
        complete = True
        queues = [queue for queue in self._dirty if self._is_allowed(queue)]
        for start in range(0, len(queues), QUEUES_PER_STEP):
            complete &= await self._write(queues[start : start + QUEUES_PER_STEP])
        return complete

    async def sync(self, store_timestamp: int) -> bool:
        """Write every tail and force all files to disk.

        Args:
            store_timestamp: store time of the last record that was dispatched before the call; it becomes
                `synced_timestamp` if everything succeeds.
        """
        if not await self.write_all():
            return False
        places = list(self._unsynced)
        for start in range(0, len(places), QUEUES_PER_STEP):
            async with self.lock:
                step = places[start : start + QUEUES_PER_STEP]
                await self._environment.run_blocking(_sync_files, step)
                for place in step:
                    self._unsynced.pop(place, None)
        self.synced_timestamp = max(self.synced_timestamp, store_timestamp)
        return True

    @property
    def thorough_interval(self) -> float:
        """Seconds between two calls of `sync` (`flushConsumeQueueThoroughInterval`)."""
        return self._thorough_interval

    async def _write(self, queues: Sequence[UnitQueue]) -> bool:
        async with self.lock:
            items: list[Item] = [(queue, *queue.pending()) for queue in queues if not queue.is_deleted]
            self.steps += 1
            # What comes while the thread writes is at least as young as this moment.
            began = asyncio.get_running_loop().time()
            written, error = await self._environment.run_blocking(_write_items, items)
            self._note_written(written, began)
        return self._note_error(error)

    def write_blocking(self, at_least: int = 1) -> bool:
        """Write the tails of at least so many bytes, here and now; for recovery, before `start`."""
        items: list[Item] = [(queue, *queue.pending()) for queue in self._dirty if len(queue.tail) >= at_least]
        written, error = _write_items(items)
        self._note_written(written, asyncio.get_running_loop().time())
        return self._note_error(error)

    def _note_written(self, written: Sequence[Written], began: float) -> None:
        for queue, position, data, starts in written:
            if not queue.written(position, data, began):
                continue
            self._full.pop(queue, None)
            self._dirty.pop(queue, None)
            if queue.tail and not queue.is_deleted:
                self._dirty[queue] = None
            for start in starts:
                self._unsynced[queue.files, queue.key, start] = None

    def _note_error(self, error: Exception | None) -> bool:
        if error is not None:
            self.failures += 1
            logger.error("consume queues could not be written, their units stay in memory: %s", error)
        return error is None

    def __repr__(self) -> str:
        return f"<FlushConsumeQueueService {len(self._dirty)} tails wait, {len(self._unsynced)} files to sync>"


def _write_items(items: Sequence[Item]) -> tuple[list[Written], Exception | None]:
    """Write tails, for a thread; return the first error with what was written.

    A queue that cannot be written, such as one whose name is damaged, must not keep those behind it in memory.
    """
    done: list[Written] = []
    first_error: Exception | None = None
    for queue, position, data in items:
        try:
            done.append((queue, position, data, queue.files.write(queue.key, position, data)))
        except (OSError, ValueError) as error:
            first_error = first_error or error
    return done, first_error


def _sync_files(places: Sequence[tuple[QueueFiles, Key, int]]) -> None:
    for files, key, start in places:
        files.sync(key, start)
