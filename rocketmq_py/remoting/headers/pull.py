"""Headers of pulling (11, 361), of reading single messages (12, 33) and of looking at a queue's units (321).

Source: `PullMessageRequestHeader`, `PullMessageResponseHeader`, `QueryMessageRequestHeader`,
`QueryMessageResponseHeader`, `ViewMessageRequestHeader`, `QueryConsumeQueueRequestHeader`, RocketMQ 5.3.
"""

from __future__ import annotations

import enum

import msgspec

from rocketmq_py.remoting.header import I32, I64


class ForbiddenType(enum.IntEnum):
    """Why a pull was refused with NO_PERMISSION, as the answer's `forbiddenType` says."""

    BROKER = 1
    GROUP = 2
    TOPIC = 3
    BROADCASTING_DISABLED = 4
    SUBSCRIPTION = 5


class PullMessageRequestHeader(msgspec.Struct, rename="camel", kw_only=True):
    """What a consumer wants from one queue.

    Attributes:
        consumer_group: the reader's group.
        topic: the topic.
        queue_id: the queue.
        queue_offset: the first position wanted, in units.
        max_msg_nums: how many messages at most.
        sys_flag: PULL bits of `common/sys_flag.py`.
        commit_offset: the group's progress, to be stored if the commit bit is set.
        suspend_timeout_millis: how long the broker may hold the request if there is nothing yet.
        subscription: filter expression, used if the subscription bit is set.
        sub_version: version of the consumer's subscription.
        expression_type: `TAG` (also when absent or empty) or `SQL92`.
        max_msg_bytes: how many bytes at most (5.x).
        request_source: which part of a proxy asks (5.x); -1 for a client itself.
        proxy_froward_client_id: the client behind a proxy (5.x); spelled as on the wire.
        broker_name: the broker that the client means (5.x).
    """

    consumer_group: str
    topic: str
    queue_id: I32
    queue_offset: I64
    max_msg_nums: I32
    sys_flag: I32
    commit_offset: I64
    suspend_timeout_millis: I64
    sub_version: I64
    subscription: str | None = None
    expression_type: str | None = None
    max_msg_bytes: I32 | None = None
    request_source: I32 | None = None
    proxy_froward_client_id: str | None = None
    broker_name: str | None = msgspec.field(default=None, name="bname")


class PullMessageResponseHeader(msgspec.Struct, rename="camel", kw_only=True):
    """Where the consumer goes on, and what the queue holds.

    Attributes:
        suggest_which_broker_id: the broker to ask next; 0 is the master.
        next_begin_offset: the position to ask for next.
        min_offset: the queue's first position that still exists.
        max_offset: the queue's next position to be written.
        offset_delta: what a reader of a static topic adds to queue offsets.
        topic_sys_flag: the topic's flag (5.x).
        group_sys_flag: the group's flag (5.x).
        forbidden_type: a `ForbiddenType`, with NO_PERMISSION.
    """

    suggest_which_broker_id: I64
    next_begin_offset: I64
    min_offset: I64
    max_offset: I64
    offset_delta: I64 | None = None
    topic_sys_flag: I32 | None = None
    group_sys_flag: I32 | None = None
    forbidden_type: I32 | None = None


class QueryMessageRequestHeader(msgspec.Struct, rename="camel", kw_only=True):
    """Find messages by key.

    The free field `_UNIQUE_KEY_QUERY` = `true` (`UNIQUE_KEY_QUERY`) says that the key is a UNIQ_KEY.

    Attributes:
        topic: the topic.
        key: one key, or a UNIQ_KEY.
        max_num: how many messages at most.
        begin_timestamp: earliest store time, milliseconds.
        end_timestamp: latest store time, milliseconds.
    """

    topic: str
    key: str
    max_num: I32
    begin_timestamp: I64
    end_timestamp: I64


UNIQUE_KEY_QUERY = "_UNIQUE_KEY_QUERY"


class QueryMessageResponseHeader(msgspec.Struct, rename="camel", kw_only=True):
    """How far the index reaches: store time and physical offset of its newest entry."""

    index_last_update_timestamp: I64
    index_last_update_phyoffset: I64


class ViewMessageRequestHeader(msgspec.Struct, rename="camel", kw_only=True):
    """Read the message at a physical offset, the second half of an offset message id."""

    offset: I64
    topic: str | None = None


class QueryConsumeQueueRequestHeader(msgspec.Struct, rename="camel", kw_only=True):
    """Show the units of a queue.

    Attributes:
        topic, queue_id: the queue.
        index: offset of the first unit.
        count: how many.
        consumer_group: show what this group's filter says of each unit.
    """

    topic: str
    queue_id: I32
    index: I64
    count: I32
    consumer_group: str | None = None
