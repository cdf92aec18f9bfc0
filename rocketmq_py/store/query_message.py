"""Finding messages by key: the index says where to look, the records say whether it is true.

The index knows 32 bits of a key and whole seconds. Two keys can have one hash, so what it finds are candidates: each
record is read and asked for its keys and its time.

Source: `DefaultMessageStore#queryMessage`, RocketMQ 5.3, which leaves the second look to the client.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from rocketmq_py.common import properties as names
from rocketmq_py.common.errors import CorruptDataError
from rocketmq_py.common.properties import KEY_SEPARATOR, decode_properties
from rocketmq_py.common.record import Record, read_record

#: The index dates entries in whole seconds after the first of the file, cut off: up to this much too early, in ms.
INDEX_PRECISION_MS: Final = 1_000
#: How often a query goes on with older entries when nothing that it found could be used.
MAX_ROUNDS: Final = 3


@dataclass(frozen=True, slots=True)
class QueryOffsetResult:
    """What the index found.

    Attributes:
        offsets: physical offsets, youngest first.
        index_last_update_timestamp: store time of the last message indexed, milliseconds.
        index_last_update_physical_offset: its position in the log.
    """

    offsets: list[int] = field(default_factory=list)
    index_last_update_timestamp: int = 0
    index_last_update_physical_offset: int = 0


@dataclass(frozen=True, slots=True)
class QueryMessageResult:
    """The records of a query, oldest first; the other fields are those of `QueryOffsetResult`."""

    records: list[bytes] = field(default_factory=list)
    index_last_update_timestamp: int = 0
    index_last_update_physical_offset: int = 0


class MessageIndex(Protocol):
    """Finds records by key; stage index provides it."""

    def load(self) -> None:
        """Open the files. Blocks."""
        ...

    async def query_offset(self, topic: str, key: str, max_num: int, begin: int, end: int) -> QueryOffsetResult:
        """Return where records with this key, stored from `begin` to `end` (milliseconds, both included), may lie."""
        ...

    async def close(self) -> None:
        """Write what waits and close the files."""
        ...


def has_key(record: Record, topic: bytes, key: str) -> bool:
    """Tell whether a message carries a key: as its unique key or among its KEYS."""
    properties = decode_properties(record.properties)
    keys = properties.get(names.KEYS, "").split(KEY_SEPARATOR)
    return record.topic == topic and (key in keys or properties.get(names.UNIQ_KEY) == key)


async def query_messages(
    index: MessageIndex,
    look: Callable[[int], Awaitable[bytes | None]],
    topic: str,
    key: str,
    max_num: int,
    begin: int,
    end: int,
) -> QueryMessageResult:
    """Return the records that carry a key.

    Args:
        index: finds candidates.
        look: returns the record at a physical offset, or None.
        topic: the topic that they were stored under.
        key: a unique key, or one of KEYS.
        max_num: no more than this.
        begin: smallest store time, milliseconds.
        end: largest store time, milliseconds.
    """
    found = QueryOffsetResult()
    last, wanted = end, topic.encode()
    for _ in range(MAX_ROUNDS):
        found = await index.query_offset(topic, key, max_num, begin - INDEX_PRECISION_MS, last)
        records: list[bytes] = []
        oldest = last
        for offset in sorted(found.offsets):
            data = await look(offset)
            record = _parse(data)
            if data is None or record is None:
                continue
            oldest = min(oldest, record.store_timestamp)
            if begin <= record.store_timestamp <= end and has_key(record, wanted, key):
                records.append(data)
        if records:
            return QueryMessageResult(
                records, found.index_last_update_timestamp, found.index_last_update_physical_offset
            )
        if not found.offsets or oldest < begin or oldest == last:
            break
        # Everything that was found only looked like the key: go on with what is older.
        last = oldest
    return QueryMessageResult([], found.index_last_update_timestamp, found.index_last_update_physical_offset)


def _parse(data: bytes | None) -> Record | None:
    try:
        return read_record(data) if data is not None else None
    except CorruptDataError:
        return None
