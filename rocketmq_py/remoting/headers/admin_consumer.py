"""Headers of the administrative requests about groups, consumers and their progress.

Source: `ResetOffsetRequestHeader`, `GetConsumeStatsRequestHeader` and their neighbours, RocketMQ 5.3.
"""

from __future__ import annotations

import msgspec

from rocketmq_py.remoting.header import I32, I64


class _Header(msgspec.Struct, rename="camel", kw_only=True):
    """Base: camel case on the wire, fields by name only."""


class DeleteSubscriptionGroupRequestHeader(_Header, kw_only=True):
    """Delete a group; `remove_offset` is the name that 4.9 has for `clean_offset`."""

    group_name: str
    clean_offset: bool = False
    remove_offset: bool = False


class GetSubscriptionGroupConfigRequestHeader(_Header, kw_only=True):
    """Read one group's configuration."""

    group: str


class GetAllSubscriptionGroupRequestHeader(_Header, kw_only=True):
    """Read all groups, or a page of them from position `group_seq` (newer than 5.3.3)."""

    group_seq: I32 | None = None
    data_version: str | None = None
    max_group_num: I32 | None = None


class UpdateGroupForbiddenRequestHeader(_Header, kw_only=True):
    """Ask, or with `readable` set, whether a group may read a topic."""

    group: str
    topic: str
    readable: bool | None = None


class GetConsumerConnectionListRequestHeader(_Header, kw_only=True):
    """Who is connected in a consumer group?"""

    consumer_group: str


class GetProducerConnectionListRequestHeader(_Header, kw_only=True):
    """Who is connected in a producer group?"""

    producer_group: str


class GetConsumeStatsRequestHeader(_Header, kw_only=True):
    """How far is a group? `topic_list` separates topics by `;` and goes before `topic`."""

    consumer_group: str
    topic: str | None = None
    topic_list: str | None = None


class GetConsumeStatsInBrokerHeader(_Header, kw_only=True):
    """How far is every group? `is_order` restricts the answer to ordered topics."""

    is_order: bool


class ResetOffsetRequestHeader(_Header, kw_only=True):
    """Set a group's position in a topic.

    Attributes:
        group, topic: whose, where.
        timestamp: to the first message stored then or later; -1 for the end.
        is_force: whether a group that is behind that time may be moved forward (client-side reset).
        queue_id: one queue, or -1 for all.
        offset: an exact position in that queue.
    """

    group: str
    topic: str
    timestamp: I64 = 0
    is_force: bool
    queue_id: I32 = -1
    offset: I64 | None = None


class GetConsumerStatusRequestHeader(_Header, kw_only=True):
    """Ask the members of a group for their positions; `client_addr` is a client id."""

    topic: str
    group: str
    client_addr: str | None = None


class GetConsumerRunningInfoRequestHeader(_Header, kw_only=True):
    """Ask one consumer about its inside."""

    consumer_group: str
    client_id: str
    jstack_enable: bool = False


class ConsumeMessageDirectlyResultRequestHeader(_Header, kw_only=True):
    """Let one consumer handle one message now."""

    consumer_group: str
    client_id: str | None = None
    msg_id: str | None = None
    broker_name: str | None = None
    topic: str | None = None
    topic_sys_flag: I32 | None = None
    group_sys_flag: I32 | None = None


class QueryTopicConsumeByWhoRequestHeader(_Header, kw_only=True):
    """Which groups consume a topic?"""

    topic: str


class QueryTopicsByConsumerRequestHeader(_Header, kw_only=True):
    """In which topics does a group have progress?"""

    group: str


class QuerySubscriptionByConsumerRequestHeader(_Header, kw_only=True):
    """What does a group subscribe of a topic?"""

    group: str
    topic: str | None = None


class QueryConsumeTimeSpanRequestHeader(_Header, kw_only=True):
    """How old is what a group has yet to read?"""

    topic: str
    group: str


class QueryCorrectionOffsetRequestHeader(_Header, kw_only=True):
    """Which positions would let a group catch up with the others? Groups in a list are separated by commas."""

    filter_groups: str | None = None
    compare_group: str
    topic: str


class CloneGroupOffsetRequestHeader(_Header, kw_only=True):
    """Copy the progress of one group to another."""

    src_group: str
    dest_group: str
    topic: str | None = None
    offline: bool = False
