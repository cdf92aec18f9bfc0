"""Bodies about the progress of consumer groups: statistics, resets, positions of clients.

Maps whose keys are message queues have no standard JSON form; they are written as Java does and read in any form.

Source: `ConsumeStats`, `OffsetWrapper`, `ConsumeStatsList`, `ResetOffsetBody`, `ResetOffsetBodyForC`,
`GetConsumerStatusBody`, `QueryConsumeTimeSpanBody`, `QueryCorrectionOffsetBody`, `QuerySubscriptionResponseBody`,
RocketMQ 5.3.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from rocketmq_py.common.message import MessageQueue
from rocketmq_py.remoting.bodies.subscription import SubscriptionData
from rocketmq_py.remoting.bodies.topic_stats import QueueKey
from rocketmq_py.remoting.java_json import decode_body, encode_body, encode_object_map


class OffsetWrapper(msgspec.Struct, rename="camel", kw_only=True):
    """A group's progress in one queue.

    Attributes:
        broker_offset: the queue's next position.
        consumer_offset: the group's.
        pull_offset: where its last pull ended.
        last_timestamp: when the last consumed message was stored, milliseconds since 1970; 0 if unknown.
    """

    broker_offset: int = 0
    consumer_offset: int = 0
    pull_offset: int = 0
    last_timestamp: int = 0


def encode_queue_map(entries: Mapping[MessageQueue, object]) -> msgspec.Raw:
    """Encode a map keyed by queues."""
    return encode_object_map((QueueKey.of(queue), value) for queue, value in entries.items())


def decode_queue(key: str) -> MessageQueue:
    """Read a queue that was the key of a map."""
    return decode_body(key.encode(), QueueKey).queue()


class _ConsumeStats(msgspec.Struct, rename="camel", kw_only=True):
    consume_tps: float = 0.0
    offset_table: dict[str, OffsetWrapper] = {}


class ConsumeStats(msgspec.Struct, kw_only=True):
    """Answer of GET_CONSUME_STATS.

    Attributes:
        offset_table: progress by queue.
        consume_tps: messages that the group receives in a second, over the last minute.
    """

    offset_table: dict[MessageQueue, OffsetWrapper]
    consume_tps: float = 0.0

    @property
    def total_diff(self) -> int:
        """How many messages the group has yet to consume."""
        return sum(offset.broker_offset - offset.consumer_offset for offset in self.offset_table.values())

    @property
    def total_inflight(self) -> int:
        """How many messages the group has received but not committed."""
        return sum(offset.pull_offset - offset.consumer_offset for offset in self.offset_table.values())

    def to_json(self) -> dict[str, object]:
        """Return what `encode_body` takes."""
        return {"consumeTps": self.consume_tps, "offsetTable": encode_queue_map(self.offset_table)}

    def encode(self) -> bytes:
        """Return the body."""
        return encode_body(self.to_json())

    @classmethod
    def decode(cls, data: bytes) -> ConsumeStats:
        """Read a body.

        Raises:
            InvalidInputError: it is not one.
        """
        body = decode_body(data, _ConsumeStats)
        table = {decode_queue(key): offset for key, offset in body.offset_table.items()}
        return cls(offset_table=table, consume_tps=body.consume_tps)


class _OffsetTable(msgspec.Struct, rename="camel", kw_only=True):
    offset_table: dict[str, int] = {}


def encode_offset_table(offsets: Mapping[MessageQueue, int]) -> bytes:
    """Return a `ResetOffsetBody`: a position for each queue."""
    return encode_body({"offsetTable": encode_queue_map(offsets)})


def encode_offset_table_for_c(offsets: Mapping[MessageQueue, int]) -> bytes:
    """Return a `ResetOffsetBodyForC`: the same as a list, for the C++ client."""
    return encode_body(
        {
            "offsetTable": [
                {"brokerName": queue.broker_name, "offset": offset, "queueId": queue.queue_id, "topic": queue.topic}
                for queue, offset in offsets.items()
            ]
        }
    )


def decode_offset_table(data: bytes) -> dict[MessageQueue, int]:
    """Read a `ResetOffsetBody`.

    Raises:
        InvalidInputError: it is not one.
    """
    body = decode_body(data, _OffsetTable)
    return {decode_queue(key): offset for key, offset in body.offset_table.items()}


class _ConsumerStatus(msgspec.Struct, rename="camel", kw_only=True):
    message_queue_table: dict[str, int] = {}


def decode_consumer_status(data: bytes) -> dict[MessageQueue, int]:
    """Read the positions of one client from its `GetConsumerStatusBody`."""
    body = decode_body(data, _ConsumerStatus)
    return {decode_queue(key): offset for key, offset in body.message_queue_table.items()}


def encode_consumer_status(offsets: Mapping[MessageQueue, int]) -> bytes:
    """Return a client's answer with its positions."""
    return encode_body({"consumerTable": {}, "messageQueueTable": encode_queue_map(offsets)})


def encode_consumer_statuses(by_client: Mapping[str, Mapping[MessageQueue, int]]) -> bytes:
    """Return the broker's answer with the positions of several clients."""
    table = {client: encode_queue_map(offsets) for client, offsets in by_client.items()}
    return encode_body({"consumerTable": table, "messageQueueTable": {}})


class QueueTimeSpan(msgspec.Struct, rename="camel", kw_only=True):
    """How old the messages of one queue are, all times in milliseconds since 1970.

    Attributes:
        message_queue: the queue.
        min_time_stamp, max_time_stamp: when its first and last message were stored.
        consume_time_stamp: when the last consumed one was stored.
        delay_time: age in milliseconds of the next message that the group has to consume; 0 if there is none.
    """

    message_queue: QueueKey
    min_time_stamp: int = 0
    max_time_stamp: int = 0
    consume_time_stamp: int = 0
    delay_time: int = 0


class QueryConsumeTimeSpanBody(msgspec.Struct, rename="camel", kw_only=True):
    """Answer of QUERY_CONSUME_TIME_SPAN."""

    consume_time_span_set: list[QueueTimeSpan] = []


class QueryCorrectionOffsetBody(msgspec.Struct, rename="camel", kw_only=True):
    """Answer of QUERY_CORRECTION_OFFSET, by queue id."""

    correction_offsets: dict[int, int] = {}


class QuerySubscriptionResponseBody(msgspec.Struct, rename="camel", kw_only=True):
    """Answer of QUERY_SUBSCRIPTION_BY_CONSUMER; without a subscription that member is left out."""

    group: str
    topic: str | None = None
    subscription_data: SubscriptionData | msgspec.UnsetType = msgspec.UNSET
