"""Reading a queue: from an offset on, as many messages as fit, in an answer that says how to go on.

    units of the queue (one unpack) -> which are wanted, until the answer is full -> their records, neighbours as one slice

When one queue is busy its records are neighbours in the log, and a pull of 32 messages is one slice. Nothing here waits
for the disk: if bytes are not in memory, `ColdReadError` says which, a thread fetches them, and the read runs again.

Source: `DefaultMessageStore#getMessage`, RocketMQ 5.3.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator
from itertools import repeat
from typing import Final

import msgspec

from rocketmq_py.common.environment import RunBlocking
from rocketmq_py.store.batch_consume_queue import BATCH_UNIT_LAYOUT, BATCH_UNIT_SIZE, BatchConsumeQueue, BatchUnit
from rocketmq_py.store.commit_log import CommitLog
from rocketmq_py.store.config import BrokerRole, MessageStoreConfig
from rocketmq_py.store.consume_queue import ConsumeQueue
from rocketmq_py.store.consume_queue_store import ConsumeQueueStore
from rocketmq_py.store.consume_queue_unit import FILLER_SIZE, UNIT_SIZE, unpack_places, unpack_span, unpack_units
from rocketmq_py.store.filter import ALL, MessageFilter

#: The most bytes that one read returns, beyond a first message that is larger.
MAX_PULL_BYTES: Final = 128 << 20
MIN_PULL_BYTES: Final = 100
#: A tags code at or below this is an address in the queue's extension.
MAX_EXTENSION_ADDRESS: Final = -2_147_483_649


class GetMessageStatus(enum.Enum):
    """What a read found."""

    FOUND = "FOUND"
    NO_MATCHED_MESSAGE = "NO_MATCHED_MESSAGE"
    MESSAGE_WAS_REMOVING = "MESSAGE_WAS_REMOVING"
    OFFSET_FOUND_NULL = "OFFSET_FOUND_NULL"
    OFFSET_OVERFLOW_BADLY = "OFFSET_OVERFLOW_BADLY"
    OFFSET_OVERFLOW_ONE = "OFFSET_OVERFLOW_ONE"
    OFFSET_TOO_SMALL = "OFFSET_TOO_SMALL"
    NO_MATCHED_LOGIC_QUEUE = "NO_MATCHED_LOGIC_QUEUE"
    NO_MESSAGE_IN_QUEUE = "NO_MESSAGE_IN_QUEUE"
    OFFSET_RESET = "OFFSET_RESET"


class GetMessageResult(msgspec.Struct):
    """The answer to a read.

    Attributes:
        status: what was found.
        next_begin_offset: where the reader goes on.
        min_offset: first offset of the queue that exists.
        max_offset: offset that the queue's next message gets.
        buffers: the records; records that are neighbours in the log are one buffer. Views of the log: send or copy
            them before the next `await`.
        message_count: messages in them.
        size: bytes in them.
        behind_bytes: distance from the last unit looked at to the end of the log.
        is_slow: that distance is more than the machine is expected to keep in memory.
    """

    status: GetMessageStatus
    next_begin_offset: int
    min_offset: int
    max_offset: int
    buffers: list[bytes | memoryview] = []
    message_count: int = 0
    size: int = 0
    behind_bytes: int = 0
    is_slow: bool = False

    @property
    def records(self) -> bytes:
        """The records as one piece of bytes; a copy."""
        return b"".join(self.buffers)


class ColdReadError(Exception):
    """Bytes are not in memory.

    Attributes:
        key: names the bytes.
        fetch: returns them, waiting for the disk; for a thread.
    """

    def __init__(self, key: tuple[object, ...], fetch: Callable[[], bytes | None]) -> None:
        super().__init__(f"{key} is not in memory")
        self.key = key
        self.fetch = fetch


Fetched = dict[tuple[object, ...], bytes | None]
#: Queue offset, physical offset, size, tags code, messages in the record.
Row = tuple[int, int, int, int, int]


class MessageReader:
    """Reads queues.

    Args:
        log: where the records are.
        queues: for their extensions.
        config: limits.
        memory_bytes: physical memory of the machine.
    """

    def __init__(
        self, log: CommitLog, queues: ConsumeQueueStore, config: MessageStoreConfig, memory_bytes: int
    ) -> None:
        self.memory_limit = memory_bytes * config.access_message_in_memory_max_ratio // 100
        self._log = log
        self._queues = queues
        self._config = config

    def get(
        self,
        queue: ConsumeQueue | BatchConsumeQueue | None,
        offset: int,
        max_count: int,
        message_filter: MessageFilter,
        max_bytes: int,
        fetched: Fetched | None = None,
    ) -> GetMessageResult:
        """Read from `offset` on. `fetched` holds bytes that threads have read for this call.

        Raises:
            ColdReadError: more bytes are needed than are in memory.
            StoreCorruptError: a record is not what was written.
        """
        high = queue.max_offset if queue is not None else 0
        if queue is None or high == 0:
            result = GetMessageResult(GetMessageStatus.NO_MESSAGE_IN_QUEUE, self._corrected(0, offset), 0, 0)
            result.min_offset = queue.min_offset if queue is not None else 0
            return result
        low = queue.min_offset
        if offset < low:
            return GetMessageResult(GetMessageStatus.OFFSET_TOO_SMALL, self._corrected(low, offset), low, high)
        if offset >= high:
            status = GetMessageStatus.OFFSET_OVERFLOW_ONE if offset == high else GetMessageStatus.OFFSET_OVERFLOW_BADLY
            return GetMessageResult(status, self._corrected(high, offset), low, high)
        if message_filter is ALL and isinstance(queue, ConsumeQueue):
            young = self._get_young(queue, offset, max_count, max_bytes, high)
            if young is not None:
                return young
        fetched = {} if fetched is None else fetched
        scan = Scan(self, queue.key, offset, max_count, max_bytes, message_filter, fetched)
        if isinstance(queue, BatchConsumeQueue):
            scan.run(self._batch_rows(queue, offset, max_count))
            return scan.result(low, high)
        # maxFilterMessageSize counts bytes of the queue, not of messages: 800 units.
        units = self._units(
            queue, offset, max(-(-self._config.max_filter_message_size // UNIT_SIZE), max_count), fetched
        )
        if not units:
            following = offset + queue.units_per_file - offset % queue.units_per_file
            return GetMessageResult(GetMessageStatus.OFFSET_FOUND_NULL, self._corrected(following, offset), low, high)
        scan.run(zip(range(offset, high), *unpack_units(units), repeat(1), strict=False))
        return scan.result(low, high)

    def _get_young(
        self, queue: ConsumeQueue, offset: int, max_count: int, max_bytes: int, high: int
    ) -> GetMessageResult | None:
        """Read without a filter what this process has written a moment ago; None if anything is not as usual.

        This is what live consumers do all day. It gives what the general way would give: all units of the queue up to
        `max_count`, because every one of them is wanted and all together keep the limits.
        """
        config, log = self._config, self._log
        units = queue.read(offset, max(1, min(max_count, config.max_transfer_count_on_message_in_memory)))
        if not units:
            return None
        begin, last, sizes = unpack_span(units)
        count, total, end, log_end = len(sizes), sum(sizes), last + sizes[-1], log.max_offset
        if (
            log_end - begin > self.memory_limit
            or end > log_end
            or total > config.max_transfer_bytes_on_message_in_memory
            or total > max_bytes
        ):
            return None
        buffers: list[bytes | memoryview] | None
        if end - begin == total:
            view = log.young_view(begin, total)
            buffers = None if view is None else [view]
        else:
            buffers = log.young_views(*unpack_places(units))
        if buffers is None:
            return None
        return GetMessageResult(
            GetMessageStatus.FOUND,
            offset + count,
            queue.min_offset,
            high,
            buffers,
            count,
            total,
            log_end - last,
        )

    def _corrected(self, following: int, asked: int) -> int:
        """A slave does not correct offsets that it may only not have received yet (`offsetCheckInSlave`)."""
        if self._config.broker_role is BrokerRole.SLAVE and not self._config.offset_check_in_slave:
            return asked
        return following

    # --- units --------------------------------------------------------------------------------------------------------

    def _units(self, queue: ConsumeQueue, offset: int, count: int, fetched: Fetched) -> bytes | bytearray:
        units = queue.read(offset, count)
        if units is not None:
            return units
        key = (queue.key, offset, count)
        if key not in fetched:
            raise ColdReadError(key, queue.cold_read(offset, count))
        return fetched[key] or b""

    def _batch_rows(self, queue: BatchConsumeQueue, offset: int, max_count: int) -> Iterator[Row]:
        number = queue.find(offset)
        units = queue.read_blocking(number, max(1, max_count))
        for at in range(0, len(units), BATCH_UNIT_SIZE):
            unit = BatchUnit(*BATCH_UNIT_LAYOUT.struct.unpack_from(units, at))
            yield unit.base, unit.physical_offset, unit.size, unit.tags_code, unit.batch_size

    def extension(self, key: tuple[str, int], tags_code: int) -> object | None:
        """Return the extension of a unit, if its tags code is an address of one."""
        if tags_code > MAX_EXTENSION_ADDRESS or self._queues.extensions is None:
            return None
        return self._queues.extensions.read(*key, tags_code)

    # --- records ------------------------------------------------------------------------------------------------------

    @property
    def log_end(self) -> int:
        """Where the log ends now."""
        return self._log.max_offset

    @property
    def log_begin(self) -> int:
        """Where the log begins now."""
        return self._log.min_offset

    def next_log_file(self, physical_offset: int) -> int:
        """Return where the log file after the one of an offset begins."""
        return physical_offset + self._log.file_size - physical_offset % self._log.file_size

    def limits(self, behind: int) -> tuple[int, int]:
        """Return how many bytes and messages an answer may have, for a record that far behind the log's end."""
        config = self._config
        if behind <= self.memory_limit:
            return config.max_transfer_bytes_on_message_in_memory, config.max_transfer_count_on_message_in_memory
        return config.max_transfer_bytes_on_message_in_disk, config.max_transfer_count_on_message_in_disk

    def read(self, physical_offset: int, size: int, fetched: Fetched) -> bytes | memoryview | None:
        """Return bytes of the log; None if they are not all there.

        Raises:
            ColdReadError: they are not in memory.
        """
        log = self._log
        if physical_offset < log.min_offset or physical_offset + size > log.max_offset:
            return None
        if not log.is_old(physical_offset) and log.max_offset - physical_offset <= self.memory_limit:
            # Written by this process a moment ago: in the page cache, and the map shows it without a copy.
            return log.read(physical_offset, size)
        data: bytes | None = log.read_cached(physical_offset, size)
        if data is None:
            key = (physical_offset, size)
            if key not in fetched:
                raise ColdReadError(key, lambda: log.read_blocking(physical_offset, size))
            data = fetched[key]
        return data if data is not None and len(data) == size else None


class Scan:
    """One read under way: which units were looked at, and what was collected."""

    __slots__ = (
        "_bytes",
        "_count",
        "_fetched",
        "_filter",
        "_key",
        "_last",
        "_max_count",
        "_next_file",
        "_reader",
        "_status",
        "max_bytes",
        "next_offset",
        "picked",
    )

    def __init__(
        self,
        reader: MessageReader,
        key: tuple[str, int],
        offset: int,
        max_count: int,
        max_bytes: int,
        message_filter: MessageFilter,
        fetched: Fetched,
    ) -> None:
        self._reader = reader
        self._key = key
        self._filter = message_filter
        self._fetched = fetched
        self._max_count = max_count
        self.max_bytes = min(max(max_bytes, MIN_PULL_BYTES), MAX_PULL_BYTES)
        self.picked: list[tuple[int, int]] = []
        self._bytes = self._count = 0
        self._status = GetMessageStatus.NO_MATCHED_MESSAGE
        self._next_file = -1
        self._last = 0
        self.next_offset = offset

    def run(self, rows: Iterable[Row]) -> None:
        """Look at units in order until the answer is full or they end."""
        reader, picked, log_begin, log_end = self._reader, self.picked, self._reader.log_begin, self._reader.log_end
        for queue_offset, physical_offset, size, tags_code, count in rows:
            self._last = physical_offset
            if picked and self._is_full(log_end - physical_offset, size, count):
                break
            self.next_offset = queue_offset + count
            if physical_offset < self._next_file:
                continue
            if not self._matches_entry(tags_code):
                continue
            if physical_offset < log_begin or physical_offset + size > log_end or size <= 0:
                # Its log file was deleted, or it is a filler, or a hole. The other units of that file need not be tried.
                if not picked:
                    self._status = GetMessageStatus.MESSAGE_WAS_REMOVING
                if size != FILLER_SIZE and size > 0:
                    self._next_file = reader.next_log_file(physical_offset)
                continue
            if not self._matches_record(physical_offset, size):
                continue
            picked.append((physical_offset, size))
            self._bytes += size
            self._count += count
            self._next_file = -1
            self._status = GetMessageStatus.FOUND

    def _is_full(self, behind: int, size: int, count: int) -> bool:
        """Tell whether one more record is too much. The first is never: it would be asked for again and again."""
        if self._count + count > self._max_count or self._bytes + size > self.max_bytes:
            return True
        max_bytes, max_count = self._reader.limits(behind)
        return self._bytes + size > max_bytes or self._count >= max_count

    def _matches_entry(self, tags_code: int) -> bool:
        if self._filter is ALL:
            return True
        if self._filter.matches_entry(tags_code, self._reader.extension(self._key, tags_code)):
            return True
        self._not_wanted()
        return False

    def _matches_record(self, physical_offset: int, size: int) -> bool:
        if self._filter is ALL:
            return True
        record = self._reader.read(physical_offset, size, self._fetched)
        if record is not None and self._filter.matches_record(record):
            return True
        self._not_wanted()
        return False

    def _not_wanted(self) -> None:
        if not self.picked:
            self._status = GetMessageStatus.NO_MATCHED_MESSAGE

    def result(self, low: int, high: int) -> GetMessageResult:
        """Fetch the records that were picked and return the answer."""
        behind = self._reader.log_end - self._last
        return GetMessageResult(
            self._status,
            self.next_offset,
            low,
            high,
            self.gather(),
            self._count,
            self._bytes,
            behind,
            behind > self._reader.memory_limit,
        )

    def gather(self) -> list[bytes | memoryview]:
        """Read the records, neighbours with one read. A record never spans two files, so neighbours share one."""
        picked, buffers = self.picked, list[bytes | memoryview]()
        if not picked:
            return buffers
        begin, end = picked[0][0], picked[0][0]
        for physical_offset, size in (*picked, (-1, 0)):
            if physical_offset != end:
                data = self._reader.read(begin, end - begin, self._fetched)
                if data is not None:
                    buffers.append(data)
                begin = physical_offset
            end = physical_offset + size
        return buffers


async def fetch(error: ColdReadError, fetched: Fetched, run_blocking: RunBlocking) -> None:
    """Read what was missing in a thread and keep it in `fetched`."""
    fetched[error.key] = await run_blocking(error.fetch)
