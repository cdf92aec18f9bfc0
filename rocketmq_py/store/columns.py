"""What was appended, as columns: one list per field, one place per record.

A tick appends many records at once, and what follows (queues, index, wake-ups) works on whole columns: packing a
thousand queue units is one call when their offsets are in one list already. Source: `DispatchRequest`, RocketMQ 5.3,
which is one object per record.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import accumulate, groupby
from operator import itemgetter
from typing import Protocol

from rocketmq_py.common import sys_flag as flags


class Slot(Protocol):
    """The queue that a record belongs to."""

    @property
    def topic(self) -> str:
        """Name of the topic."""
        ...

    @property
    def topic_bytes(self) -> bytes:
        """The same as UTF-8."""
        ...

    @property
    def queue_id(self) -> int:
        """Number of the queue."""
        ...


class Arrivals:
    """The records of one queue among those that were dispatched together, in order.

    Attributes:
        topic: name of the topic.
        queue_id: number of the queue.
        queue_offsets: position of each in the queue.
        physical_offsets: position of each in the log.
        sizes: length of each.
        tags_codes: Java hash of each message's tag.
        unit_codes: what the queue's units carry instead: the same, unless a dispatcher replaced it.
        store_timestamps: when each was stored, milliseconds since 1970.
        units: queue offsets that each takes.
    """

    __slots__ = (
        "physical_offsets",
        "queue_id",
        "queue_offsets",
        "sizes",
        "store_timestamps",
        "tags_codes",
        "topic",
        "unit_codes",
        "units",
    )

    def __init__(
        self,
        topic: str,
        queue_id: int,
        queue_offsets: Sequence[int],
        physical_offsets: Sequence[int],
        sizes: Sequence[int],
        tags_codes: Sequence[int],
        unit_codes: Sequence[int],
        store_timestamps: Sequence[int],
        units: Sequence[int],
    ) -> None:
        self.topic = topic
        self.queue_id = queue_id
        self.queue_offsets = queue_offsets
        self.physical_offsets = physical_offsets
        self.sizes = sizes
        self.tags_codes = tags_codes
        self.unit_codes = unit_codes
        self.store_timestamps = store_timestamps
        self.units = units

    @property
    def max_offset(self) -> int:
        """The queue's next offset to be written."""
        return self.queue_offsets[-1] + self.units[-1]

    def __len__(self) -> int:
        return len(self.queue_offsets)

    def __repr__(self) -> str:
        return f"<Arrivals {self.topic}-{self.queue_id} {len(self)} records up to offset {self.max_offset}>"


class Columns:
    """Records in log order; row i of every list speaks of the same record.

    Attributes:
        slots: the queue of each record.
        physical_offsets: position in the log, bytes.
        sizes: length of the record, bytes.
        queue_offsets: position in the queue, units; 0 for prepared and rolled back messages, which are in no queue.
        tags_codes: Java hash of the tag, 0 without one. A dispatcher's `prepare` may replace it.
        store_timestamps: broker's clock at the append, milliseconds since 1970.
        sys_flags: the record's system flag.
        properties: the properties text as stored; index keys and light queues are found in it when needed.
        keys: the index's keys; None for a record whose keys are still to be found in its properties.
        units: queue offsets that the record takes: 1, or the number of messages of an inner batch, or 0.
        arrivals: the same records by queue, without those that are in none; made by `group`.
    """

    __slots__ = (
        "arrivals",
        "keys",
        "physical_offsets",
        "properties",
        "queue_offsets",
        "sizes",
        "slots",
        "store_timestamps",
        "sys_flags",
        "tags_codes",
        "units",
    )

    def __init__(self) -> None:
        self.slots: list[Slot] = []
        self.physical_offsets: list[int] = []
        self.sizes: list[int] = []
        self.queue_offsets: list[int] = []
        self.tags_codes: list[int] = []
        self.store_timestamps: list[int] = []
        self.sys_flags: list[int] = []
        self.properties: list[bytes] = []
        self.units: list[int] = []
        self.keys: list[tuple[bytes, ...] | None] = []
        self.arrivals: list[Arrivals] = []

    def add(
        self,
        slot: Slot,
        physical_offset: int,
        size: int,
        queue_offset: int,
        tags_code: int,
        store_timestamp: int,
        sys_flag: int,
        properties: bytes,
        units: int = 1,
    ) -> None:
        """Append one record; a caller in a hurry appends to the lists itself."""
        self.slots.append(slot)
        self.physical_offsets.append(physical_offset)
        self.sizes.append(size)
        self.queue_offsets.append(queue_offset)
        self.tags_codes.append(tags_code)
        self.store_timestamps.append(store_timestamp)
        self.sys_flags.append(sys_flag)
        self.properties.append(properties)
        self.units.append(units)
        self.keys.append(None)

    def __len__(self) -> int:
        return len(self.slots)

    @property
    def start_offset(self) -> int:
        """Position of the first record's first byte."""
        return self.physical_offsets[0]

    @property
    def end_offset(self) -> int:
        """Position behind the last record."""
        return self.physical_offsets[-1] + self.sizes[-1]

    def is_queued(self, row: int) -> bool:
        """Tell whether the record belongs into its queue: not so for prepared and rolled back transactions."""
        return self.sys_flags[row] & flags.TRANSACTION_MASK in (flags.TRANSACTION_NOT, flags.TRANSACTION_COMMIT)

    def group(self, tags_codes: list[int]) -> None:
        """Sort the records by queue into `arrivals`.

        Args:
            tags_codes: the codes of the messages' tags; `self.tags_codes` is what goes into units.
        """
        slots = self.slots
        first = slots[0]
        is_special = any(flag & flags.TRANSACTION_MASK for flag in set(self.sys_flags))
        if not is_special and slots.count(first) == len(slots):
            # One busy queue, or a batch: the columns are the group.
            self.arrivals = [self._piece(first, slice(None), tags_codes)]
            return
        if not is_special and slots[:4].count(first) == 4:
            runs = [(slot, len(list(run))) for slot, run in groupby(slots)]
            if len(dict(runs)) == len(runs):
                # Batches of different queues: each group is a piece of the columns.
                ends = accumulate(count for _, count in runs)
                self.arrivals = [
                    self._piece(slot, slice(end - count, end), tags_codes)
                    for (slot, count), end in zip(runs, ends, strict=True)
                ]
                return
        rows_of: defaultdict[Slot, list[int]] = defaultdict(list)
        for row, slot in enumerate(slots):
            if not is_special or self.is_queued(row):
                rows_of[slot].append(row)
        self.arrivals = [self._arrivals(slot, rows, tags_codes) for slot, rows in rows_of.items()]

    def _piece(self, slot: Slot, rows: slice, tags_codes: list[int]) -> Arrivals:
        """Return rows that lie together and are all of one queue."""
        return Arrivals(
            slot.topic,
            slot.queue_id,
            self.queue_offsets[rows],
            self.physical_offsets[rows],
            self.sizes[rows],
            tags_codes[rows],
            self.tags_codes[rows],
            self.store_timestamps[rows],
            self.units[rows],
        )

    def _arrivals(self, slot: Slot, rows: list[int], tags_codes: list[int]) -> Arrivals:
        if len(rows) == 1:
            # With many queues nearly all of them.
            row = rows[0]
            return Arrivals(
                slot.topic,
                slot.queue_id,
                (self.queue_offsets[row],),
                (self.physical_offsets[row],),
                (self.sizes[row],),
                (tags_codes[row],),
                (self.tags_codes[row],),
                (self.store_timestamps[row],),
                (self.units[row],),
            )
        pick = itemgetter(*rows)
        return Arrivals(
            slot.topic,
            slot.queue_id,
            pick(self.queue_offsets),
            pick(self.physical_offsets),
            pick(self.sizes),
            pick(tags_codes),
            pick(self.tags_codes),
            pick(self.store_timestamps),
            pick(self.units),
        )

    def __repr__(self) -> str:
        if not self.slots:
            return "<Columns empty>"
        return f"<Columns {len(self)} records {self.start_offset}..{self.end_offset}>"
