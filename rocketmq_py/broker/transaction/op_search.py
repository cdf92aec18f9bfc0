"""Was this half message decided? For questions about half messages that the table has forgotten.

The op queue keeps what the table forgets, as long as the log keeps it. The record that names a half message was written
after it, so the search begins at the half message's store time and goes on to the end of the queue.

Ours: RocketMQ does not ask, and commits a message again as often as it is told to.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import AsyncIterator
from typing import Final

from rocketmq_py.broker.transaction.op_batch import OP_QUEUE_ID, OP_TAG, decode_op_body
from rocketmq_py.common import properties as names
from rocketmq_py.common.properties import find_property
from rocketmq_py.common.record import Record, read_record
from rocketmq_py.common.topic import TRANS_OP_HALF_TOPIC
from rocketmq_py.store.get_message import GetMessageResult, GetMessageStatus
from rocketmq_py.store.message_store import MessageStore

#: Most op records that one search reads. With RocketMQ's three seconds between two records this is more than two days.
MAX_RECORDS: Final = 65_536
#: Records of one read.
BATCH: Final = 32

_TAGS: Final = names.TAGS.encode()
_TAG: Final = OP_TAG.encode()


class Found(enum.Enum):
    """What a search came to."""

    DECIDED = "decided"
    NOT_DECIDED = "not decided"
    GAVE_UP = "gave up"


class OpSearch:
    """Searches the op queue; one search at a time, so that late questions cannot take the broker's time.

    Args:
        store: where the queue is.
    """

    def __init__(self, store: MessageStore) -> None:
        self._store = store
        self._turn = asyncio.Lock()

    async def find(self, half_offsets: frozenset[int], since_ms: int) -> Found:
        """Return whether an op record stored at or after `since_ms` (milliseconds since 1970) names one of the offsets."""
        async with self._turn:
            start = await self._store.offset_by_time(TRANS_OP_HALF_TOPIC, OP_QUEUE_ID, since_ms)
            count = 0
            async for record in read_queue(self._store, TRANS_OP_HALF_TOPIC, OP_QUEUE_ID, start):
                if is_op(record) and not half_offsets.isdisjoint(decode_op_body(record.body)):
                    return Found.DECIDED
                count += 1
                if count >= MAX_RECORDS:
                    return Found.GAVE_UP
        return Found.NOT_DECIDED


def is_op(record: Record) -> bool:
    """Tell whether a record of the op queue says that half messages are decided."""
    return find_property(record.properties, _TAGS) == _TAG


async def read_queue(store: MessageStore, topic: str, queue_id: int, offset: int) -> AsyncIterator[Record]:
    """Yield the records of a queue from an offset to its end, as it is when the end is reached.

    Records that are gone or damaged are passed over. Other work gets its turn between two reads.
    """
    while True:
        result = await read_some(store, topic, queue_id, offset)
        if result is None:
            return
        for record in records_of(result):
            yield record
        offset = result.next_begin_offset


async def read_some(store: MessageStore, topic: str, queue_id: int, offset: int) -> GetMessageResult | None:
    """Read up to `BATCH` records; None at the end of the queue. `next_begin_offset` of the result is larger.

    The result holds views of the log: use it before the next `await`.
    """
    await asyncio.sleep(0)
    result = store.get_message(topic, queue_id, offset, BATCH)
    if result is None:
        result = await store.get_message_cold(topic, queue_id, offset, BATCH)
    if result.status is GetMessageStatus.FOUND or result.next_begin_offset > offset:
        return result
    return None


def records_of(result: GetMessageResult) -> list[Record]:
    """Return the records of an answer."""
    records = []
    data, at = result.records, 0
    while at < len(data):
        record = read_record(data, at)
        records.append(record)
        at += record.total_size
    return records
