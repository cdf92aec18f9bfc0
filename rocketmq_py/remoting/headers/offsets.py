"""Headers of consumer offsets (14, 15) and of positions in a queue (29 to 32).

Source: `QueryConsumerOffsetRequestHeader`, `UpdateConsumerOffsetRequestHeader`, `SearchOffsetRequestHeader`,
`GetMaxOffsetRequestHeader`, `GetMinOffsetRequestHeader`, `GetEarliestMsgStoretimeRequestHeader`, RocketMQ 5.3.
"""

from __future__ import annotations

import msgspec

from rocketmq_py.remoting.header import I32, I64


class QueryConsumerOffsetRequestHeader(msgspec.Struct, rename="camel", kw_only=True):
    """Ask how far a group is in a queue.

    Attributes:
        consumer_group: the group.
        topic: the topic.
        queue_id: the queue.
        set_zero_if_not_found: false forbids the broker to answer 0 for a group that it does not know (5.x).
    """

    consumer_group: str
    topic: str
    queue_id: I32
    set_zero_if_not_found: bool | None = None


class UpdateConsumerOffsetRequestHeader(msgspec.Struct, rename="camel", kw_only=True):
    """Store how far a group is in a queue: the offset of the next message that it wants."""

    consumer_group: str
    topic: str
    queue_id: I32 | None = None
    commit_offset: I64 | None = None


class SearchOffsetRequestHeader(msgspec.Struct, rename="camel", kw_only=True):
    """Find the position of a time in a queue.

    Attributes:
        topic: the topic.
        queue_id: the queue.
        timestamp: store time, milliseconds.
        boundary_type: `LOWER` (the default): the first message not older; `UPPER`: the last not younger (5.x).
    """

    topic: str
    queue_id: I32
    timestamp: I64
    boundary_type: str | None = None


class GetMaxOffsetRequestHeader(msgspec.Struct, rename="camel", kw_only=True):
    """Ask for the next position to be written; `committed` = false counts what is not yet visible (5.x)."""

    topic: str
    queue_id: I32
    committed: bool | None = None


class GetMinOffsetRequestHeader(msgspec.Struct, rename="camel", kw_only=True):
    """Ask for the first position that still exists."""

    topic: str
    queue_id: I32


class GetEarliestMsgStoretimeRequestHeader(msgspec.Struct, rename="camel", kw_only=True):
    """Ask for the store time of the first message that still exists."""

    topic: str
    queue_id: I32


class OffsetResponseHeader(msgspec.Struct, rename="camel", kw_only=True):
    """A position in a queue, in units; the answer to 14, 29, 30 and 31."""

    offset: I64


class GetEarliestMsgStoretimeResponseHeader(msgspec.Struct, rename="camel", kw_only=True):
    """A store time in milliseconds; -1 for an empty queue."""

    timestamp: I64
