"""The message store: one door to log, queues and index.

    put    draft -> hooks -> tick -> commit log -> (visible) -> dispatch: queues, index, arrivals
    get    queue and offset -> units -> records

Source: `DefaultMessageStore`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from rocketmq_py.common.environment import Environment
from rocketmq_py.common.errors import CorruptDataError
from rocketmq_py.common.record import BLANK_SIZE, MIN_RECORD_SIZE, read_record
from rocketmq_py.store.batch_consume_queue import BatchConsumeQueue
from rocketmq_py.store.commit_log import CommitLog
from rocketmq_py.store.config import MessageStoreConfig
from rocketmq_py.store.consume_queue_store import AnyQueue, ConsumeQueueStore
from rocketmq_py.store.dispatch import Dispatchers
from rocketmq_py.store.draft import Draft
from rocketmq_py.store.errors import StoreCorruptError
from rocketmq_py.store.filter import ALL, MessageFilter
from rocketmq_py.store.get_message import (
    MAX_PULL_BYTES,
    ColdReadError,
    Fetched,
    GetMessageResult,
    GetMessageStatus,
    MessageReader,
    fetch,
)
from rocketmq_py.store.offset_search import (
    HEAD_SIZE,
    BoundaryType,
    search_batch_queue,
    search_queue,
    store_timestamp_of,
)
from rocketmq_py.store.put_message import MessagePutter
from rocketmq_py.store.put_result import PutMessageResult
from rocketmq_py.store.query_message import MessageIndex, QueryMessageResult, query_messages
from rocketmq_py.store.queue_files import Key
from rocketmq_py.store.queue_slot import QueueSlots
from rocketmq_py.store.rebuild import rebuild
from rocketmq_py.store.reput import ReputMessageService

logger = logging.getLogger(__name__)

#: A machine whose memory cannot be found out is taken to have 24 GiB, as in RocketMQ.
DEFAULT_MEMORY_BYTES: Final = 24 << 30


class MessageStore:
    """The store of one broker.

    Args:
        config: limits.
        environment: files and blocking calls.
        log: the commit log, not yet loaded.
        slots: queue offsets; set when the store opens.
        putter: puts drafts.
        queues: the consume queues, not yet loaded.
        dispatchers: what records are dispatched to.
        reput: how far that has got.
        memory_bytes: physical memory of the machine.

    Attributes:
        commit_log: the log.
        index: finds messages by key; None without stage index or with `messageIndexEnable=false`.
        damaged_reads: how many reads met a message that is damaged on disk, and skipped it.
        before_load: called before the first file is opened; each may raise and so refuse the start.
        recover: makes everything agree with the log when the store opens; blocks. Stage recovery replaces it.
    """

    def __init__(
        self,
        config: MessageStoreConfig,
        environment: Environment,
        log: CommitLog,
        slots: QueueSlots,
        putter: MessagePutter,
        queues: ConsumeQueueStore,
        dispatchers: Dispatchers,
        reput: ReputMessageService,
        memory_bytes: int = DEFAULT_MEMORY_BYTES,
    ) -> None:
        self.config = config
        self.commit_log = log
        self.slots = slots
        self.queues = queues
        self.dispatchers = dispatchers
        self.reput = reput
        self.index: MessageIndex | None = None
        self.damaged_reads = 0
        self.before_load: list[Callable[[], None]] = []
        self.recover: Callable[[MessageStore], None] = rebuild
        self._environment = environment
        self._putter = putter
        self._reader = MessageReader(log, queues, config, memory_bytes)
        self._deletions: set[asyncio.Task[None]] = set()

    @property
    def log(self) -> CommitLog:
        """The commit log."""
        return self.commit_log

    # --- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the files, recover, and begin the background work.

        Raises:
            StoreError: the files cannot be used as they are; the text says which and what to do.
        """
        run_blocking = self._environment.run_blocking
        for prepare in self.before_load:
            await run_blocking(prepare)
        await run_blocking(self.commit_log.load)
        await run_blocking(self.queues.load)
        if self.index is not None:
            await run_blocking(self.index.load)
        # On the loop, which serves nobody yet: dispatch belongs to it.
        self.recover(self)
        await self.queues.flush.start()

    async def stop(self) -> None:
        """Write what is derived from the log, and close. The log itself is flushed and closed by its own parts."""
        await asyncio.gather(*self._deletions, return_exceptions=True)
        await self.queues.close()
        if self.index is not None:
            await self.index.close()

    async def sync_queues(self) -> bool:
        """Force all consume queues to disk; see `FlushConsumeQueueService.synced_timestamp`."""
        return await self.queues.flush.sync(self.queues.last_store_timestamp)

    # --- putting ------------------------------------------------------------------------------------------------------

    def put(self, drafts: Sequence[Draft], done: Callable[[PutMessageResult], None]) -> None:
        """Put one draft, or a batch for one queue; see `MessagePutter.put`."""
        self._putter.put(drafts, done)

    async def put_message(self, draft: Draft) -> PutMessageResult:
        """Put one draft and wait until it is as safe as the configuration demands; see `MessagePutter`."""
        return await self._putter.put_message(draft)

    # --- getting ------------------------------------------------------------------------------------------------------

    def find_queue(self, topic: str, queue_id: int) -> AnyQueue | None:
        """Return the queue for `get_message_from`; None if it has no messages."""
        return self.queues.find_any(topic, queue_id)

    def get_message(
        self,
        topic: str,
        queue_id: int,
        offset: int,
        max_count: int,
        message_filter: MessageFilter = ALL,
        max_bytes: int = MAX_PULL_BYTES,
    ) -> GetMessageResult | None:
        """Read messages of a queue from an offset on.

        Args:
            topic: name of the topic.
            queue_id: number of the queue.
            offset: queue offset to begin at.
            max_count: no more messages than this.
            message_filter: which are wanted.
            max_bytes: no more bytes than this, but at least one message.

        Returns:
            The result; None if it would have to wait for the disk: then await `get_message_cold`.
        """
        return self.get_message_from(
            self.queues.find_any(topic, queue_id), offset, max_count, message_filter, max_bytes
        )

    def get_message_from(
        self,
        queue: AnyQueue | None,
        offset: int,
        max_count: int,
        message_filter: MessageFilter = ALL,
        max_bytes: int = MAX_PULL_BYTES,
    ) -> GetMessageResult | None:
        """Like `get_message`, for a queue that was found before."""
        try:
            return self._reader.get(queue, offset, max_count, message_filter, max_bytes)
        except ColdReadError:
            return None

    async def get_message_cold(
        self,
        topic: str,
        queue_id: int,
        offset: int,
        max_count: int,
        message_filter: MessageFilter = ALL,
        max_bytes: int = MAX_PULL_BYTES,
    ) -> GetMessageResult:
        """Like `get_message`, but waits for the disk, in a thread.

        A message that is damaged on disk is skipped, logged and counted. Those around it come one at a time.
        """
        try:
            return await self._get_cold(topic, queue_id, offset, max_count, message_filter, max_bytes)
        except StoreCorruptError as error:
            damage = error
        try:
            return await self._get_cold(topic, queue_id, offset, 1, message_filter, max_bytes)
        except StoreCorruptError as error:
            damage = error
        queue = self.queues.find_any(topic, queue_id)
        low, high = (queue.min_offset, queue.max_offset) if queue is not None else (0, 0)
        if await self._is_damaged(topic, queue_id, offset):
            self.damaged_reads += 1
            logger.error("message %s-%d at offset %d is damaged and was skipped: %s", topic, queue_id, offset, damage)
        # Else the first message was read and not wanted, and a later one is damaged: that one's turn comes.
        return GetMessageResult(GetMessageStatus.NO_MATCHED_MESSAGE, offset + 1, low, high)

    async def _get_cold(
        self, topic: str, queue_id: int, offset: int, max_count: int, message_filter: MessageFilter, max_bytes: int
    ) -> GetMessageResult:
        fetched: Fetched = {}
        while True:
            queue = self.queues.find_any(topic, queue_id)
            try:
                return self._reader.get(queue, offset, max_count, message_filter, max_bytes, fetched)
            except ColdReadError as error:
                missing = error
            # What is fetched is kept, so every round gets further, whatever the page cache drops meanwhile.
            await fetch(missing, fetched, self._environment.run_blocking)

    async def _is_damaged(self, topic: str, queue_id: int, offset: int) -> bool:
        try:
            await self._get_cold(topic, queue_id, offset, 1, ALL, MAX_PULL_BYTES)
        except StoreCorruptError:
            return True
        return False

    # --- offsets and times --------------------------------------------------------------------------------------------

    def min_offset(self, topic: str, queue_id: int) -> int:
        """Return the first queue offset that exists; 0 for an unknown queue."""
        queue = self.queues.find_any(topic, queue_id)
        return queue.min_offset if queue is not None else 0

    def max_offset(self, topic: str, queue_id: int) -> int:
        """Return the queue offset of the next visible message; 0 for an unknown queue."""
        queue = self.queues.find_any(topic, queue_id)
        return queue.max_offset if queue is not None else 0

    async def offset_by_time(
        self, topic: str, queue_id: int, timestamp: int, boundary: BoundaryType | str = BoundaryType.LOWER
    ) -> int:
        """Return the queue offset of a store time in milliseconds.

        LOWER: the first message that is not older, the max offset if all are older. UPPER: the last message that is
        not younger, the min offset if all are younger. 0 for an unknown queue.
        """
        queue = self.queues.find_any(topic, queue_id)
        if queue is None:
            return 0
        boundary = BoundaryType(boundary)
        log_min = self.commit_log.min_offset
        if isinstance(queue, BatchConsumeQueue):
            found = await self._environment.run_blocking(
                search_batch_queue, queue.snapshot(), timestamp, boundary, log_min
            )
            return found[0] if found is not None else -1
        return await self._environment.run_blocking(
            search_queue,
            queue.snapshot(),
            max(queue.min_offset, queue.first),
            timestamp,
            boundary,
            log_min,
            self.commit_log.read_blocking,
        )

    def store_time(self, topic: str, queue_id: int, offset: int) -> int:
        """Return when the message at a queue offset was stored, milliseconds; -1 if it is not there."""
        queue = self.queues.find_any(topic, queue_id)
        if queue is None:
            return -1
        if isinstance(queue, BatchConsumeQueue):
            batch = queue.unit(queue.find(offset))
            return batch.store_timestamp if batch is not None and batch.base <= offset < batch.end else -1
        unit = queue.unit(offset)
        if unit is None or unit[0] < self.commit_log.min_offset:
            return -1
        return store_timestamp_of(self.commit_log.read(unit[0], min(unit[1], HEAD_SIZE)))

    def earliest_message_time(self) -> int:
        """Return the store time of the oldest message in the log, milliseconds; -1 if there is none."""
        record = self.look_record(self.commit_log.min_offset)
        return store_timestamp_of(record)

    def is_in_memory(self, topic: str, queue_id: int, offset: int) -> bool:
        """Tell whether the message at a queue offset is young enough to be expected in memory."""
        queue = self.queues.find(topic, queue_id)
        unit = queue.unit(offset) if queue is not None else None
        return unit is not None and self.commit_log.max_offset - unit[0] <= self._reader.memory_limit

    # --- single records -----------------------------------------------------------------------------------------------

    def look_record(self, physical_offset: int) -> memoryview | bytes | None:
        """Return the record that begins at a physical offset; None if none does, wherever the number came from."""
        return _record_at(self.commit_log.read, self.commit_log.min_offset, physical_offset)

    def peek_record(self, physical_offset: int) -> memoryview | bytes | None:
        """Return a record that was just appended, for the filters of held pulls."""
        return self.look_record(physical_offset)

    async def look_message(self, physical_offset: int) -> bytes | None:
        """Return the record that begins at a physical offset, waiting for the disk in a thread; None if none does."""
        log = self.commit_log
        record = await self._environment.run_blocking(_record_at, log.read_blocking, log.min_offset, physical_offset)
        return None if record is None else bytes(record)

    async def query_messages(self, topic: str, key: str, max_num: int, begin: int, end: int) -> QueryMessageResult:
        """Return the records that carry a key and were stored from `begin` to `end`; see `query_message.py`."""
        if self.index is None:
            return QueryMessageResult()
        max_num = min(max_num, self.config.max_msgs_num_batch)
        return await query_messages(self.index, self.look_message, topic, key, max_num, begin, end)

    # --- topics -------------------------------------------------------------------------------------------------------

    def topics_and_queues(self) -> list[Key]:
        """Return topic and queue id of every queue that has units or files."""
        return self.queues.keys()

    def delete_topic(self, topic: str) -> None:
        """Forget the queues of a topic at once; their files are deleted in the background, their records by time."""
        self.slots.drop_topic(topic)
        doomed = self.queues.forget_topic(topic)
        if doomed:
            task = asyncio.get_running_loop().create_task(self.queues.delete_files(doomed), name=f"delete {topic}")
            self._deletions.add(task)
            task.add_done_callback(self._deletion_done)

    def _deletion_done(self, task: asyncio.Task[None]) -> None:
        self._deletions.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("%s: files of its queues could not be deleted: %s", task.get_name(), error)

    def __repr__(self) -> str:
        return f"<MessageStore {self.commit_log!r} {self.queues!r}>"


def _record_at(
    read: Callable[[int, int], bytes | memoryview | None], log_min_offset: int, physical_offset: int
) -> bytes | memoryview | None:
    """Read the record at an offset that may come from anywhere."""
    if physical_offset < log_min_offset:
        return None
    head = read(physical_offset, BLANK_SIZE)
    size = int.from_bytes(head[:4], "big", signed=True) if head is not None else 0
    if size < MIN_RECORD_SIZE:
        return None
    data = read(physical_offset, size)
    try:
        is_record = data is not None and len(data) == size and read_record(data).physical_offset == physical_offset
    except CorruptDataError:
        return None
    return data if is_record else None
