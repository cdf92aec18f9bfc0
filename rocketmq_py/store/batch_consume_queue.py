"""The batch consume queue of RocketMQ 5: one unit for a record that holds several messages.

In a topic with the attribute `queue.type=BatchCQ` a record is a whole batch. It takes as many queue offsets as it has
messages, so unit n no longer is message n: the unit of a message is found by a binary search for the last base that is
not above its offset.

Source: `BatchConsumeQueue`, RocketMQ 5.3.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from rocketmq_py.common.layout import Field, Layout
from rocketmq_py.store.consume_queue import first_at_or_after
from rocketmq_py.store.queue_files import QueueFiles
from rocketmq_py.store.unit_queue import UnitQueue

BATCH_UNIT_LAYOUT: Final = Layout(
    "BatchConsumeQueue unit",
    Field("physical_offset", "q", "first byte of the record in the commit log"),
    Field("size", "i", "length of the record in bytes"),
    Field("tags_code", "q", "Java hash of the tag"),
    Field("store_timestamp", "q", "when the record was stored, milliseconds since 1970"),
    Field("base", "q", "queue offset of the first message in the record"),
    Field("batch_size", "h", "messages in the record"),
    Field("compacted_offset", "i", "-1; used by compaction"),
    Field("reserved", "i", "0"),
)

BATCH_UNIT_SIZE: Final = BATCH_UNIT_LAYOUT.size
_LOAD_CHUNK: Final = 65_536 // BATCH_UNIT_SIZE


class BatchUnit(NamedTuple):
    """One unit; the fields of `BATCH_UNIT_LAYOUT`."""

    physical_offset: int
    size: int
    tags_code: int
    store_timestamp: int
    base: int
    batch_size: int
    compacted_offset: int = -1
    reserved: int = 0

    @property
    def is_valid(self) -> bool:
        """Whether this can be a unit: zeros behind the last one cannot."""
        return self.physical_offset >= 0 and self.size > 0 and self.base >= 0 and self.batch_size > 0

    @property
    def end(self) -> int:
        """Queue offset behind its last message."""
        return self.base + self.batch_size


class BatchConsumeQueue(UnitQueue):
    """One batch consume queue.

    Attributes:
        min_offset: queue offset of the first message whose record is still in the log; -1 while there is none.
        max_offset: queue offset that the next message gets.
        max_physical_offset: where the record of the last unit begins; -1 for an empty queue.
    """

    __slots__ = ("max_offset", "max_physical_offset", "min_offset")

    unit_size = BATCH_UNIT_SIZE

    def __init__(self, topic: str, queue_id: int, files: QueueFiles) -> None:
        super().__init__(topic, queue_id, files)
        self.min_offset = -1
        self.max_offset = 0
        self.max_physical_offset = -1

    def append(self, unit: BatchUnit) -> None:
        """Append a unit; one that is not behind the last in the log is there already and is skipped."""
        if unit.physical_offset <= self.max_physical_offset:
            return
        self.tail += BATCH_UNIT_LAYOUT.struct.pack(*unit)
        self._follow(unit)

    def _follow(self, unit: BatchUnit) -> None:
        self.max_physical_offset = unit.physical_offset
        self.max_offset = unit.end
        if self.min_offset < 0:
            self.min_offset = unit.base

    def unit(self, number: int) -> BatchUnit | None:
        """Return a unit by its number, waiting for the disk; None if there is none."""
        data = self.read_blocking(number, 1) if self.first <= number < self.end else b""
        return BatchUnit(*BATCH_UNIT_LAYOUT.struct.unpack(data)) if len(data) == BATCH_UNIT_SIZE else None

    def find(self, queue_offset: int) -> int:
        """Return the number of the unit that holds a queue offset, or of the first one if all begin behind it."""
        behind = first_at_or_after(self.first, self.end, queue_offset + 1, self._base)
        return max(behind - 1, self.first)

    def _base(self, number: int) -> int:
        unit = self.unit(number)
        return unit.base if unit is not None else -1

    def _physical_offset(self, number: int) -> int:
        unit = self.unit(number)
        return unit.physical_offset if unit is not None else -1

    def load(self) -> None:
        """Find the files and where the valid units end. Blocks."""
        starts = self.files.starts(self.key)
        if not starts:
            return
        self.first = starts[0] // BATCH_UNIT_SIZE
        self.flushed = end = starts[-1] // BATCH_UNIT_SIZE + self.units_per_file
        last: BatchUnit | None = None
        at = starts[max(len(starts) - 3, 0)] // BATCH_UNIT_SIZE
        while at < end:
            data = self.files.read_blocking(self.key, at * BATCH_UNIT_SIZE, _LOAD_CHUNK * BATCH_UNIT_SIZE)
            count = len(data) // BATCH_UNIT_SIZE
            for fields in BATCH_UNIT_LAYOUT.struct.iter_unpack(data[: count * BATCH_UNIT_SIZE]):
                unit = BatchUnit(*fields)
                if not unit.is_valid:
                    end = at
                    break
                at, last = at + 1, unit
            if not count:
                break
        self.flushed = at
        if last is not None:
            self._follow(last)
            first = self.unit(self.first)
            self.min_offset = first.base if first is not None else last.base

    def truncate(self, physical_offset: int) -> None:
        """Remove the units of records at and behind a physical offset. Blocks."""
        self.keep(first_at_or_after(self.first, self.end, physical_offset, self._physical_offset))

    def keep(self, end: int) -> None:
        """Remove the units from number `end` on. Blocks."""
        if end >= self.end:
            return
        self.cut(end)
        last = self.unit(end - 1)
        if last is not None:
            self._follow(last)
            self.min_offset = min(self.min_offset, last.base)
        else:
            self.min_offset, self.max_offset, self.max_physical_offset = -1, 0, -1

    def correct_min(self, log_min_offset: int) -> None:
        """Move `min_offset` to the first message whose record the log still has. Blocks."""
        number = first_at_or_after(self.first, self.end, log_min_offset, self._physical_offset)
        unit = self.unit(number)
        self.min_offset = unit.base if unit is not None else -1
