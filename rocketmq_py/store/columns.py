"""What was appended, as columns: one list per field, one place per record.

A tick appends many records at once, and what follows (queues, index, wake-ups) works on whole columns: packing a
thousand queue units is one call when their offsets are in one list already. Source: `DispatchRequest`, RocketMQ 5.3,
which is one object per record.
"""

from __future__ import annotations

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
        units: queue offsets that the record takes: 1, or the number of messages of an inner batch, or 0.
    """

    __slots__ = (
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

    def __repr__(self) -> str:
        if not self.slots:
            return "<Columns empty>"
        return f"<Columns {len(self)} records {self.start_offset}..{self.end_offset}>"
