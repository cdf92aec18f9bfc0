"""Where the queues of a topic begin and end.

Source: `TopicStatsTable`, `TopicOffset`, RocketMQ 5.3.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from rocketmq_py.common.message import MessageQueue
from rocketmq_py.remoting.java_json import decode_body, encode_body, encode_object_map


class QueueKey(msgspec.Struct, rename="camel", kw_only=True, frozen=True):
    """A message queue in the place of a key."""

    broker_name: str
    queue_id: int
    topic: str

    @classmethod
    def of(cls, queue: MessageQueue) -> QueueKey:
        """Build the key of a queue."""
        return cls(broker_name=queue.broker_name, queue_id=queue.queue_id, topic=queue.topic)

    def queue(self) -> MessageQueue:
        """Return the queue."""
        return MessageQueue(self.topic, self.broker_name, self.queue_id)


class TopicOffset(msgspec.Struct, rename="camel", kw_only=True):
    """One queue.

    Attributes:
        last_update_timestamp: when its last message was stored, milliseconds since 1970; 0 if there is none.
        max_offset: the offset that the next message gets.
        min_offset: the offset of the first message that is still there.
    """

    last_update_timestamp: int = 0
    max_offset: int = 0
    min_offset: int = 0


class _Encoded(msgspec.Struct, rename="camel"):
    offset_table: msgspec.Raw
    topic_put_tps: float


class _Decoded(msgspec.Struct, rename="camel"):
    offset_table: dict[str, TopicOffset] = {}
    topic_put_tps: float = 0.0


class TopicStatsTable(msgspec.Struct, kw_only=True):
    """Answer of GET_TOPIC_STATS_INFO.

    Attributes:
        offset_table: every queue of the topic, also the empty ones.
        topic_put_tps: messages stored in a second, over the last minute.
    """

    offset_table: Mapping[MessageQueue, TopicOffset]
    topic_put_tps: float = 0.0

    def encode(self) -> bytes:
        """Return the body."""
        entries = [(QueueKey.of(queue), offset) for queue, offset in self.offset_table.items()]
        return encode_body(_Encoded(encode_object_map(entries), self.topic_put_tps))

    @classmethod
    def decode(cls, data: bytes) -> TopicStatsTable:
        """Read a body.

        Raises:
            InvalidInputError: it is not one.
        """
        body = decode_body(data, _Decoded)
        table = {decode_body(key.encode(), QueueKey).queue(): offset for key, offset in body.offset_table.items()}
        return cls(offset_table=table, topic_put_tps=body.topic_put_tps)
