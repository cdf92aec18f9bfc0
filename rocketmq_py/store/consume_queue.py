"""The consume queue: for each message of one queue, in order, where it lies in the commit log.

The log mixes all topics in the order of arrival. A consumer wants the messages of one queue, number 17 and those that
follow. Unit 17 of the consume queue is at byte 17 * 20 and says where message 17 is: finding it is a multiplication.

Nothing is here that the log does not hold. Every unit can be made again by reading the log.

Source: `ConsumeQueue`, RocketMQ 5.3.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from rocketmq_py.store.consume_queue_unit import (
    FILLER,
    FILLER_SIZE,
    UNIT_LAYOUT,
    UNIT_SIZE,
    pack_units,
    unpack_places,
    valid_prefix,
)
from rocketmq_py.store.queue_files import QueueFiles
from rocketmq_py.store.unit_queue import UnitQueue

logger = logging.getLogger(__name__)

_unpack = UNIT_LAYOUT.struct.unpack_from
#: Bytes that loading reads at once; most queues are no longer.
_LOAD_CHUNK = 65_536 // UNIT_SIZE


class ConsumeQueue(UnitQueue):
    """One consume queue.

    Attributes:
        min_offset: number of the first unit whose record is still in the log.
        max_physical_offset: where the record of the last unit ends; -1 for an empty queue. What lies before it has
            been dispatched, so dispatching twice does no harm.
    """

    __slots__ = ("max_physical_offset", "min_offset")

    unit_size = UNIT_SIZE

    def __init__(self, topic: str, queue_id: int, files: QueueFiles) -> None:
        super().__init__(topic, queue_id, files)
        self.min_offset = 0
        self.max_physical_offset = -1

    @property
    def max_offset(self) -> int:
        """Queue offset that the next message gets."""
        return self.flushed + len(self.tail) // UNIT_SIZE

    # --- appending ----------------------------------------------------------------------------------------------------

    def append(
        self, queue_offset: int, physical_offsets: Sequence[int], sizes: Sequence[int], tags_codes: Sequence[int]
    ) -> None:
        """Append the units of messages with consecutive queue offsets, given in the order of the log.

        Units that are there already are skipped: each record is dispatched at least once, and shows up once.
        """
        if queue_offset == self.max_offset and physical_offsets[0] >= self.max_physical_offset:
            self.tail += pack_units(physical_offsets, sizes, tags_codes)
            self.max_physical_offset = physical_offsets[-1] + sizes[-1]
            return
        for physical_offset, size, tags_code in zip(physical_offsets, sizes, tags_codes, strict=True):
            self._append_one(queue_offset, physical_offset, size, tags_code)
            queue_offset += 1

    def _append_one(self, queue_offset: int, physical_offset: int, size: int, tags_code: int) -> None:
        if physical_offset + size <= self.max_physical_offset:
            return
        end = self.max_offset
        if queue_offset != end and not self._make_place(queue_offset, end):
            return
        self.tail += UNIT_LAYOUT.struct.pack(physical_offset, size, tags_code)
        self.max_physical_offset = physical_offset + size

    def _make_place(self, queue_offset: int, end: int) -> bool:
        """Prepare for a unit that does not follow the last one; return whether it is to be appended."""
        if end == 0 or queue_offset == 0 or queue_offset > end + self.units_per_file:
            # An empty queue begins with whatever its first message is: the log before it is gone. A queue that has
            # units and meets offset 0 was deleted and created again.
            # Differs from RocketMQ: that appends offset 0 behind the old units and then drops 1, 2 and so on.
            if end:
                logger.warning("%r begins anew at %d", self, queue_offset)
                self.cut(0)
            self._begin_at(queue_offset)
            return True
        if queue_offset < end:
            return False
        # Differs from RocketMQ: that appends at the end, which shifts every later message by the size of the gap.
        logger.error("%r has no units for %d..%d; consumers will skip them", self, end, queue_offset)
        self.tail += FILLER * (queue_offset - end)
        return True

    def _begin_at(self, queue_offset: int) -> None:
        self.first = queue_offset - queue_offset % self.units_per_file
        self.flushed = self.min_offset = queue_offset
        self.max_physical_offset = -1

    # --- reading one unit ---------------------------------------------------------------------------------------------

    def unit(self, number: int) -> tuple[int, int, int] | None:
        """Return physical offset, size and tags code of one unit, waiting for the disk; None if there is none."""
        data = self.read_blocking(number, 1) if self.first <= number < self.max_offset else b""
        return _unpack(data) if len(data) == UNIT_SIZE else None

    # --- loading ------------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Find the files and where the valid units end, and cut off what lies behind. Blocks.

        As in RocketMQ only the last three files are checked unit by unit.
        """
        starts = self._contiguous_starts()
        if not starts:
            return
        self.first = self.min_offset = starts[0] // UNIT_SIZE
        self.flushed = starts[-1] // UNIT_SIZE + self.units_per_file
        end, after = starts[max(len(starts) - 3, 0)] // UNIT_SIZE, -1
        while end < self.flushed:
            count = min(_LOAD_CHUNK, self.units_per_file - end % self.units_per_file)
            data = self.files.read_blocking(self.key, end * UNIT_SIZE, count * UNIT_SIZE)
            valid, after = valid_prefix(data, after)
            end += valid
            if valid < count:
                break
        self.max_physical_offset = after
        is_dirty = self.flushed - end > self.units_per_file or self._has_bytes_behind(end)
        self.flushed = end
        if is_dirty:
            logger.warning("%r: what lay behind the last valid unit has been cut off", self)
            self.files.cut(self.key, end * UNIT_SIZE)

    def _contiguous_starts(self) -> list[int]:
        starts = self.files.starts(self.key)
        for index in range(len(starts) - 1, 0, -1):
            if starts[index] - starts[index - 1] != self.files.file_size:
                logger.warning("%s-%d: files before %d do not connect", self.topic, self.queue_id, starts[index])
                return starts[index:]
        return starts

    def _has_bytes_behind(self, end: int) -> bool:
        # Units are written in order, so one chunk tells; a file's other pages are holes.
        data = self.files.read_blocking(self.key, end * UNIT_SIZE, _LOAD_CHUNK * UNIT_SIZE)
        return end % self.units_per_file != 0 and any(data)

    # --- ends ---------------------------------------------------------------------------------------------------------

    def truncate(self, physical_offset: int) -> None:
        """Remove the units of records at and behind a physical offset. Blocks."""
        self.keep(first_at_or_after(self.first, self.max_offset, physical_offset, self._physical_offset))

    def keep(self, end: int) -> None:
        """Remove the units from number `end` on. Blocks."""
        if end >= self.max_offset:
            return
        self.cut(end)
        self.min_offset = min(self.min_offset, end)
        last = self.unit(end - 1)
        self.max_physical_offset = last[0] + last[1] if last is not None and last[1] != FILLER_SIZE else -1

    def correct_min(self, log_min_offset: int) -> None:
        """Move `min_offset` to the first unit whose record the log still has. Blocks while it reads a few units."""
        low, high = max(self.min_offset, self.first), self.max_offset
        if low >= high:
            return
        self.min_offset = first_at_or_after(low, high, log_min_offset, self._physical_offset)

    def _physical_offset(self, number: int) -> int:
        unit = self.unit(number)
        if unit is None:
            return -1
        return unit[0] if unit[1] != FILLER_SIZE else self._before_fillers(number)

    def _before_fillers(self, number: int) -> int:
        """Return where the last record before a filler begins, -1 if there is none: so the places never fall."""
        while number > self.first:
            begin = number - 1
            in_memory = self.flushed if begin >= self.flushed else self.first
            start = max(in_memory, begin - begin % self.units_per_file, number - _LOAD_CHUNK)
            offsets, sizes = unpack_places(self.read_blocking(start, number - start))
            for offset, size in zip(reversed(offsets), reversed(sizes), strict=True):
                if size != FILLER_SIZE:
                    return offset
            number = start
        return -1


def first_at_or_after(low: int, high: int, physical_offset: int, offset_of: Callable[[int], int]) -> int:
    """Return the first unit of `low..high` whose record begins at or behind a physical offset; `high` if none does."""
    while low < high:
        middle = (low + high) // 2
        if offset_of(middle) >= physical_offset:
            high = middle
        else:
            low = middle + 1
    return low
