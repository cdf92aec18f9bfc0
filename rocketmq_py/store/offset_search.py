"""Which queue offset belongs to a time: a binary search over the store times of a queue's messages.

The unit of a queue holds no time, so each step reads one record's head from the log: twenty steps for a million
messages. That is exact to the millisecond and needs no index.

Source: `ConsumeQueue#binarySearchInQueueByTime`, RocketMQ 5.3.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

from rocketmq_py.common.record import HEAD_LAYOUT, HEAD_LAYOUTS
from rocketmq_py.common.sys_flag import HOST_BITS
from rocketmq_py.store.batch_consume_queue import BATCH_UNIT_LAYOUT, BatchUnit
from rocketmq_py.store.consume_queue_unit import FILLER, FILLER_SIZE, UNIT_LAYOUT
from rocketmq_py.store.unit_queue import QueueSnapshot

#: As many bytes of a record as its head can have.
HEAD_SIZE = max(layout.size for layout in HEAD_LAYOUTS.values())

_SYS_FLAG_AT = HEAD_LAYOUT.offset_of("sys_flag")
_STORE_TIMESTAMP_AT = {bits: layout.offset_of("store_timestamp") for bits, layout in HEAD_LAYOUTS.items()}

ReadLog = Callable[[int, int], bytes | memoryview | None]


class BoundaryType(enum.Enum):
    """Which message of those around a time is meant."""

    LOWER = "LOWER"
    UPPER = "UPPER"


def store_timestamp_of(head: bytes | memoryview | None) -> int:
    """Return the store time in the first bytes of a record, milliseconds since 1970; -1 if they are too few."""
    if head is None or len(head) < HEAD_LAYOUT.size:
        return -1
    sys_flag = int.from_bytes(head[_SYS_FLAG_AT : _SYS_FLAG_AT + 4], "big")
    at = _STORE_TIMESTAMP_AT[sys_flag & HOST_BITS]
    return int.from_bytes(head[at : at + 8], "big", signed=True)


def find_by_time(
    low: int, high: int, timestamp: int, boundary: BoundaryType, time_of: Callable[[int], int | None]
) -> int:
    """Return the unit of a time among the units `low..high`, whose times never fall.

    Args:
        low: first unit.
        high: behind the last unit.
        timestamp: milliseconds since 1970.
        boundary: LOWER: the first unit that is not older than the time, `high` if all are older. UPPER: the last unit
            that is not younger, `low` if all are younger.
        time_of: returns the store time of a unit; None if its record is no longer there, which counts as older than
            everything; a negative number if it cannot be read, which ends the search at `low`.
    """
    first, last = low, high
    while low < high:
        middle = (low + high) // 2
        time = time_of(middle)
        if time is not None and time < 0:
            return first
        before = time is None or (time < timestamp if boundary is BoundaryType.LOWER else time <= timestamp)
        if before:
            low = middle + 1
        else:
            high = middle
    if boundary is BoundaryType.LOWER:
        return low
    return max(low - 1, first) if last > first else first


def search_queue(
    queue: QueueSnapshot,
    low: int,
    timestamp: int,
    boundary: BoundaryType,
    log_min_offset: int,
    read_log: ReadLog,
) -> int:
    """Return the queue offset of a time in an ordinary queue; for a thread.

    Args:
        queue: the queue as it was.
        low: its smallest offset that exists.
        timestamp: milliseconds since 1970.
        boundary: see `find_by_time`.
        log_min_offset: where the log began.
        read_log: reads the log, waiting for the disk.
    """

    def message_at(number: int) -> int:
        # Fillers count as the message before them, so that times never fall.
        while number > low and queue.unit(number) == FILLER:
            number -= 1
        return number

    def time_of(number: int) -> int | None:
        unit = queue.unit(message_at(number))
        if len(unit) < UNIT_LAYOUT.size:
            return None
        physical_offset, size, _ = UNIT_LAYOUT.struct.unpack(unit)
        if physical_offset < log_min_offset or size == FILLER_SIZE:
            return None
        return store_timestamp_of(read_log(physical_offset, min(size, HEAD_SIZE)))

    return message_at(find_by_time(low, queue.end, timestamp, boundary, time_of))


def search_batch_queue(
    queue: QueueSnapshot, timestamp: int, boundary: BoundaryType, log_min_offset: int
) -> tuple[int, int] | None:
    """Return base and end of the unit of a time in a batch queue, whose units hold the time; None if it is empty."""

    def unit(number: int) -> BatchUnit:
        return BatchUnit(*BATCH_UNIT_LAYOUT.struct.unpack(queue.unit(number)))

    def time_of(number: int) -> int | None:
        found = unit(number)
        return None if found.physical_offset < log_min_offset else found.store_timestamp

    if queue.end <= queue.first:
        return None
    number = find_by_time(queue.first, queue.end, timestamp, boundary, time_of)
    found = unit(min(number, queue.end - 1))
    return found.base, found.end
