"""Finding messages by key: the index says where to look, the records say whether it is true.

The index knows 32 bits of a key and whole seconds. Two keys can have one hash, so what it finds are candidates: each
record is read and asked for its keys and its time.

Source: `DefaultMessageStore#queryMessage`, RocketMQ 5.3, which leaves the second look to the client, and so answers
nothing where all that the first look found is of another key.
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
#: How often a query asks the index for more because some of what it found could not be used, and how many times more.
MAX_ROUNDS: Final = 3
CANDIDATES_PER_ROUND: Final = 8


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

    @property
    def end_physical_offset(self) -> int:
        """Offset of the last record in the index; -1 if it is empty."""
        ...

    def truncate(self, physical_offset: int) -> None:
        """Drop the files that know records at or behind an offset; what they held is dispatched again. Blocks."""
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
    wanted, limit = topic.encode(), max_num
    # By offset: a message that names a key twice is in the index twice.
    looked: dict[int, bytes | None] = {}
    for _ in range(MAX_ROUNDS):
        found = await index.query_offset(topic, key, limit, begin - INDEX_PRECISION_MS, end)
        for offset in found.offsets:
            if offset not in looked:
                looked[offset] = await _look_for(look, offset, wanted, key, begin, end)
        hits = [offset for offset, data in looked.items() if data is not None]
        if len(hits) >= max_num or len(found.offsets) < limit:
            break
        # Some only looked like the key, and there may be more behind them.
        limit *= CANDIDATES_PER_ROUND
    records = [data for offset in sorted(hits[:max_num]) if (data := looked[offset]) is not None]
    return QueryMessageResult(records, found.index_last_update_timestamp, found.index_last_update_physical_offset)


async def _look_for(
    look: Callable[[int], Awaitable[bytes | None]], offset: int, topic: bytes, key: str, begin: int, end: int
) -> bytes | None:
    """Return the record at an offset if it has the key and a store time from `begin` to `end`."""
    data = await look(offset)
    record = _parse(data)
    if record is None or not begin <= record.store_timestamp <= end or not has_key(record, topic, key):
        return None
    return data


def _parse(data: bytes | None) -> Record | None:
    try:
        return read_record(data) if data is not None else None
    except CorruptDataError:
        return None
