"""Reput: takes what became visible in the log to the dispatchers, once and in order.

Usually the tick has the records at hand and passes them on as columns. What it never saw (after a restart, on a replica,
behind a blank record) is read from the log. Either way `reput_from_offset` says how far the dispatchers have got.

Source: `ReputMessageService`, RocketMQ 5.3, which reads everything back from the log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

from rocketmq_py.common import properties as names
from rocketmq_py.common.java import string_hash
from rocketmq_py.common.properties import find_property
from rocketmq_py.common.record import Record, RecordState
from rocketmq_py.common.sys_flag import TRANSACTION_MASK, TRANSACTION_PREPARED, TRANSACTION_ROLLBACK
from rocketmq_py.store.columns import Columns
from rocketmq_py.store.commit_log import CommitLog
from rocketmq_py.store.dispatch import Dispatchers
from rocketmq_py.store.queue_slot import QueueSlot

logger = logging.getLogger(__name__)

#: Records that are dispatched together when they are read from the log.
BATCH: int = 512

_TAGS = names.TAGS.encode()
_INNER_NUM = names.INNER_NUM.encode()
_INNER_BASE = names.INNER_BASE.encode()


def tags_code_of(properties: bytes) -> int:
    """Return what a queue's unit says about the tag in a properties text: its Java hash; 0 without a tag."""
    tag = find_property(properties, _TAGS)
    return string_hash(str(tag, "utf-8", "replace")) if tag else 0


class RecordColumns:
    """Builds columns from records that were read from the log."""

    def __init__(self) -> None:
        self._slots: dict[tuple[bytes, int], QueueSlot] = {}

    def add(self, columns: Columns, record: Record) -> None:
        """Append one record to columns."""
        key = (record.topic, record.queue_id)
        slot = self._slots.get(key)
        if slot is None:
            slot = self._slots[key] = QueueSlot(str(record.topic, "utf-8", "replace"), record.queue_id)
        queue_offset, units = _place(record)
        columns.add(
            slot,
            record.physical_offset,
            record.total_size,
            queue_offset,
            tags_code_of(record.properties),
            record.store_timestamp,
            record.sys_flag,
            record.properties,
            units,
        )


def _place(record: Record) -> tuple[int, int]:
    """Return queue offset and number of units of a record."""
    if record.sys_flag & TRANSACTION_MASK in (TRANSACTION_PREPARED, TRANSACTION_ROLLBACK):
        return record.queue_offset, 0
    base = find_property(record.properties, _INNER_BASE)
    number = find_property(record.properties, _INNER_NUM)
    if base and number and base.isdigit() and number.isdigit():
        return int(base), int(number)
    return record.queue_offset, 1


class ReputMessageService:
    """Knows how far dispatch has got.

    Args:
        log: what is dispatched.
        dispatchers: who gets it.

    Attributes:
        reput_from_offset: the first byte of the log that was not dispatched. Only this service moves it forward;
            recovery sets it.
    """

    def __init__(self, log: CommitLog, dispatchers: Dispatchers) -> None:
        self.reput_from_offset = 0
        self._log = log
        self._dispatchers = dispatchers

    def arrived(self, columns: Columns) -> None:
        """Dispatch records that the tick appended and that are visible now."""
        start = columns.start_offset
        if start > self.reput_from_offset:
            # A blank record, as a rule: the log went on in a new file. Or bytes that a replica copied.
            self.catch_up(start)
        elif start < self.reput_from_offset:
            return
        self._dispatchers.dispatch(columns)
        self.reput_from_offset = columns.end_offset

    def catch_up(self, limit: int, *, quietly: bool = False) -> int:
        """Dispatch whole records from the log up to `limit`, an offset in bytes, and return where it ended.

        Blocks while it reads. An incomplete record at the end of a replica's log is left for the next call.

        Args:
            limit: dispatch no record that ends behind it.
            quietly: tell no listeners of arrivals.
        """
        for columns, end in read_columns(self._log, self.reput_from_offset, limit):
            if len(columns):
                self._dispatchers.dispatch(columns, quietly=quietly)
            self.reput_from_offset = end
        return self.reput_from_offset

    def redispatch(self, start: int, end: int) -> int:
        """Dispatch the records from `start` to `end` again, telling nobody of arrivals; for recovery. Blocks."""
        self.reput_from_offset = start
        return self.catch_up(end, quietly=True)

    def __repr__(self) -> str:
        return f"<ReputMessageService from {self.reput_from_offset}>"


def read_columns(
    log: CommitLog, start: int, limit: int, *, also: Callable[[Record], None] | None = None
) -> Iterator[tuple[Columns, int]]:
    """Yield the records of the log from `start` to `limit` as columns, each with the offset behind its last record.

    Ends at `limit`, at the end of the log, or before the first bytes that are no valid record. Blocks while it reads.

    Args:
        log: what is read.
        start: where a record begins.
        limit: no record that ends behind it is taken.
        also: called with every record.
    """
    builder, columns, end = RecordColumns(), Columns(), start
    for offset, check in log.scan(start):
        if offset >= limit or check.state is RecordState.INVALID or offset + check.size > limit:
            if check.state is RecordState.INVALID and offset < limit:
                logger.warning("no valid record at %d: expected %s, found %s", offset, check.expected, check.found)
            break
        if check.record is not None:
            builder.add(columns, check.record)
            if also is not None:
                also(check.record)
        end = offset + check.size
        if len(columns) >= BATCH:
            yield columns, end
            columns = Columns()
    yield columns, end
