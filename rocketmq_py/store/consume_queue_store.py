"""All consume queues of a store: found by topic and queue id, filled by dispatch, cut and cleaned as one.

Source: `ConsumeQueueStore`, RocketMQ 5.3.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from rocketmq_py.common.environment import Environment
from rocketmq_py.store.batch_consume_queue import BATCH_UNIT_LAYOUT, BATCH_UNIT_SIZE, BatchConsumeQueue, BatchUnit
from rocketmq_py.store.columns import Arrivals, Columns
from rocketmq_py.store.config import MessageStoreConfig
from rocketmq_py.store.consume_queue import ConsumeQueue, first_at_or_after
from rocketmq_py.store.consume_queue_unit import FILLER, FILLER_SIZE, UNIT_LAYOUT, UNIT_SIZE
from rocketmq_py.store.flush_consume_queue import FlushConsumeQueueService
from rocketmq_py.store.multi_dispatch import light_arrivals
from rocketmq_py.store.queue_files import Key, QueueFiles
from rocketmq_py.store.unit_queue import QueueSnapshot

logger = logging.getLogger(__name__)

AnyQueue = ConsumeQueue | BatchConsumeQueue


class QueueExtensions(Protocol):
    """Where queues keep what does not fit into a unit (`enableConsumeQueueExt`)."""

    def read(self, topic: str, queue_id: int, address: int) -> object | None:
        """Return the extension at an address, or None."""
        ...

    def delete_topic(self, topic: str) -> None:
        """Forget a topic's queues."""
        ...

    def flush(self) -> None:
        """Force everything written to disk. Blocks."""
        ...


class ConsumeQueueStore:
    """The queues, and the dispatcher that fills them.

    Args:
        config: sizes and intervals.
        environment: files and blocking calls.

    Attributes:
        flush: writes tails to files in the background.
        extensions: of the queues, or None.
        is_batch_topic: whether a topic's queues are batch queues. The stage that knows topics may replace it; at first
            it is known for those that have files.
        last_store_timestamp: store time of the last record dispatched, milliseconds.
    """

    name = "consume queue"

    def __init__(self, config: MessageStoreConfig, environment: Environment) -> None:
        root = config.root_dir
        size = config.mapped_file_size_consume_queue
        self._files = QueueFiles(
            environment.files, os.path.join(root, "consumequeue"), -(-size // UNIT_SIZE) * UNIT_SIZE, FILLER
        )
        self._batch_files = QueueFiles(
            environment.files,
            os.path.join(root, "batchconsumequeue"),
            -(-config.mapper_file_size_batch_consume_queue // BATCH_UNIT_SIZE) * BATCH_UNIT_SIZE,
            b"\0",
        )
        self._multi_dispatch = config.enable_multi_dispatch
        self._queues: dict[str, dict[int, ConsumeQueue]] = {}
        self._batch_queues: dict[str, dict[int, BatchConsumeQueue]] = {}
        self._environment = environment
        self.flush = FlushConsumeQueueService(config, environment)
        self.extensions: QueueExtensions | None = None
        self.is_batch_topic: Callable[[str], bool] = self._batch_queues.__contains__
        self.last_store_timestamp = 0

    # --- finding ------------------------------------------------------------------------------------------------------

    def find(self, topic: str, queue_id: int) -> ConsumeQueue | None:
        """Return an ordinary queue, or None if it has no units."""
        queues = self._queues.get(topic)
        return queues.get(queue_id) if queues is not None else None

    def find_batch(self, topic: str, queue_id: int) -> BatchConsumeQueue | None:
        """Return a batch queue, or None if there is none."""
        queues = self._batch_queues.get(topic)
        return queues.get(queue_id) if queues is not None else None

    def find_any(self, topic: str, queue_id: int) -> AnyQueue | None:
        """Return the queue of either kind, or None."""
        return self.find(topic, queue_id) or self.find_batch(topic, queue_id)

    def get(self, topic: str, queue_id: int) -> ConsumeQueue:
        """Return an ordinary queue, making it if needed."""
        queues = self._queues.setdefault(topic, {})
        queue = queues.get(queue_id)
        if queue is None:
            queue = queues[queue_id] = ConsumeQueue(topic, queue_id, self._files)
        return queue

    def get_batch(self, topic: str, queue_id: int) -> BatchConsumeQueue:
        """Return a batch queue, making it if needed."""
        queues = self._batch_queues.setdefault(topic, {})
        queue = queues.get(queue_id)
        if queue is None:
            queue = queues[queue_id] = BatchConsumeQueue(topic, queue_id, self._batch_files)
        return queue

    def __iter__(self) -> Iterator[AnyQueue]:
        for queues in list(self._queues.values()):
            yield from list(queues.values())
        for batch_queues in list(self._batch_queues.values()):
            yield from list(batch_queues.values())

    def __len__(self) -> int:
        return sum(map(len, self._queues.values())) + sum(map(len, self._batch_queues.values()))

    def keys(self) -> list[Key]:
        """Return topic and queue id of every queue."""
        return [queue.key for queue in self]

    # --- dispatch -----------------------------------------------------------------------------------------------------

    def prepare(self, columns: Columns) -> None:
        """Do nothing: what goes into units is in the columns already."""

    def apply(self, columns: Columns) -> None:
        """Append the units of the records, queue by queue."""
        if self._multi_dispatch:
            columns.arrivals += light_arrivals(columns)
        for arrivals in columns.arrivals:
            if arrivals.topic not in self._queues and not self._files.can_hold(arrivals.topic):
                logger.error("no queue can be made for %r; its topic's name is damaged", arrivals)
            elif self.is_batch_topic(arrivals.topic):
                self._append_batches(arrivals)
            else:
                self._append(arrivals)
        self.last_store_timestamp = columns.store_timestamps[-1]

    def _append(self, arrivals: Arrivals) -> None:
        queue = self.find(arrivals.topic, arrivals.queue_id) or self.get(arrivals.topic, arrivals.queue_id)
        offsets = arrivals.queue_offsets
        if offsets[-1] - offsets[0] == len(offsets) - 1:
            queue.append(offsets[0], arrivals.physical_offsets, arrivals.sizes, arrivals.unit_codes)
        else:
            # Not one run: the topic was deleted and created again in between, or the log has a gap.
            for row, offset in enumerate(offsets):
                queue.append(
                    offset, (arrivals.physical_offsets[row],), (arrivals.sizes[row],), (arrivals.unit_codes[row],)
                )
        self.flush.note(queue)

    def _append_batches(self, arrivals: Arrivals) -> None:
        queue = self.get_batch(arrivals.topic, arrivals.queue_id)
        for row, base in enumerate(arrivals.queue_offsets):
            queue.append(
                BatchUnit(
                    arrivals.physical_offsets[row],
                    arrivals.sizes[row],
                    arrivals.unit_codes[row],
                    arrivals.store_timestamps[row],
                    base,
                    arrivals.units[row],
                )
            )
        self.flush.note(queue)

    # --- life ---------------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Find the queues of both kinds and the ends of their files. Blocks; nobody else may use the store yet."""
        for topic, queue_id in self._files.queues():
            self.get(topic, queue_id).load()
        for topic, queue_id in self._batch_files.queues():
            self.get_batch(topic, queue_id).load()

    async def close(self) -> None:
        """Write all tails and close the files."""
        await self.flush.stop()
        self._files.close()
        self._batch_files.close()

    @property
    def max_physical_offset(self) -> int:
        """Where the last record ends that any queue has; -1 if there is none. A batch queue counts where it begins."""
        return max((queue.max_physical_offset for queue in self), default=-1)

    def truncate(self, physical_offset: int) -> None:
        """Remove the units of records at and behind a physical offset from all queues.

        Blocks. Call it before the background writing has begun, or with `flush.lock` held.
        """
        for queue in self:
            if queue.max_physical_offset >= physical_offset:
                queue.truncate(physical_offset)

    def correct_min(self, log_min_offset: int) -> None:
        """Move the minima of all queues to what the log still has. Blocks; see `find_needed` for a running store."""
        for queue in self:
            queue.correct_min(log_min_offset)

    def destroy(self) -> None:
        """Delete all queues, as when the log is gone. Blocks; see `truncate`."""
        for queue in self:
            queue.files.delete_queue(queue.key)
            self.flush.forget(queue)
            self.flush.allow(queue)
        self._queues.clear()
        self._batch_queues.clear()

    async def find_needed(self, log_min_offset: int) -> dict[AnyQueue, int]:
        """Move the minima to what the log still has; return the number of each queue's first unit that is needed."""
        needed: dict[AnyQueue, int] = {}
        for queue in list(self):
            snapshot = queue.snapshot()
            if isinstance(queue, ConsumeQueue):
                number = await self._environment.run_blocking(first_unit_from, snapshot, log_min_offset)
                queue.min_offset = max(queue.min_offset, number)
            else:
                number = await self._environment.run_blocking(first_batch_from, snapshot, log_min_offset)
                unit = await self._environment.run_blocking(snapshot.unit, number)
                queue.min_offset = BatchUnit(*BATCH_UNIT_LAYOUT.struct.unpack(unit)).base if unit else -1
            needed[queue] = number
        return needed

    async def delete_before(self, needed: Mapping[AnyQueue, int]) -> int:
        """Delete the files that hold no needed unit, but never a queue's last; return how many files."""
        deleted = 0
        for queue, number in needed.items():
            async with self.flush.lock:
                last = max(queue.flushed - 1, 0) // queue.units_per_file * queue.units_per_file
                while queue.first + queue.units_per_file <= min(number, last) and not queue.is_deleted:
                    start, queue.first = queue.first * queue.unit_size, queue.first + queue.units_per_file
                    queue.files.release(queue.key, start)
                    await self._environment.run_blocking(queue.files.delete, queue.key, start)
                    deleted += 1
        return deleted

    async def delete_topic(self, topic: str) -> None:
        """Forget a topic's queues at once, then delete their files."""
        doomed = self.forget_topic(topic)
        await self.delete_files(doomed)

    def forget_topic(self, topic: str) -> list[AnyQueue]:
        """Forget a topic's queues and return them; their files remain until `delete_files`."""
        doomed: list[AnyQueue] = [*self._queues.pop(topic, {}).values(), *self._batch_queues.pop(topic, {}).values()]
        for queue in doomed:
            self.flush.forget(queue)
        if self.extensions is not None and doomed:
            self.extensions.delete_topic(topic)
        return doomed

    async def delete_files(self, doomed: list[AnyQueue]) -> None:
        """Delete the files of forgotten queues. A queue of the same name that was made since is not written before."""
        async with self.flush.lock:
            for queue in doomed:
                for start in queue.files.starts(queue.key):
                    queue.files.release(queue.key, start)
                await self._environment.run_blocking(queue.files.delete_queue, queue.key)
                self.flush.allow(queue)

    def __repr__(self) -> str:
        return f"<ConsumeQueueStore {len(self)} queues of {len(self._queues) + len(self._batch_queues)} topics>"


def first_unit_from(snapshot: QueueSnapshot, log_min_offset: int) -> int:
    """Return the number of the first unit whose record begins at or behind an offset, else the end; for a thread."""

    def physical_offset(number: int) -> int:
        data = snapshot.unit(number)
        offset, size, _ = UNIT_LAYOUT.struct.unpack(data) if len(data) == UNIT_SIZE else (-1, 0, 0)
        # Fillers stand before every message, wherever the log begins.
        return -1 if size == FILLER_SIZE else int(offset)

    return first_at_or_after(snapshot.first, snapshot.end, log_min_offset, physical_offset)


def first_batch_from(snapshot: QueueSnapshot, log_min_offset: int) -> int:
    """Like `first_unit_from`, for a batch queue."""

    def physical_offset(number: int) -> int:
        data = snapshot.unit(number)
        return int.from_bytes(data[:8], "big", signed=True) if data else -1

    return first_at_or_after(snapshot.first, snapshot.end, log_min_offset, physical_offset)
