"""Header fields of the requests about topics that a broker answers.

Source: `CreateTopicRequestHeader`, `DeleteTopicRequestHeader`, `GetTopicConfigRequestHeader`,
`GetTopicStatsInfoRequestHeader`, `GetAllTopicConfigResponseHeader`, RocketMQ 5.3.
"""

from __future__ import annotations

import msgspec

from rocketmq_py.remoting.bodies.topic_config import SINGLE_TAG
from rocketmq_py.remoting.header import I32


class CreateTopicRequestHeader(msgspec.Struct, rename="camel", kw_only=True):
    """UPDATE_AND_CREATE_TOPIC (17).

    Attributes:
        default_topic: sent by clients and read by nobody.
        attributes: changes, `+message.type=FIFO,-reserve.time`.
    """

    topic: str
    default_topic: str = ""
    read_queue_nums: I32
    write_queue_nums: I32
    perm: I32
    topic_filter_type: str = SINGLE_TAG
    topic_sys_flag: I32 | None = None
    order: bool = False
    attributes: str | None = None


class TopicNameRequestHeader(msgspec.Struct, rename="camel", kw_only=True):
    """DELETE_TOPIC_IN_BROKER (215), GET_TOPIC_CONFIG (351) and GET_TOPIC_STATS_INFO (202)."""

    topic: str


class GetAllTopicConfigRequestHeader(msgspec.Struct, rename="camel", kw_only=True):
    """GET_ALL_TOPIC_CONFIG (21).

    Attributes:
        topic_seq: position of the first topic wanted, for callers that read page by page; None asks for all.
        data_version: the version of the earlier pages, as JSON; with another one the reading begins anew.
        max_topic_num: how many topics a page may have.
    """

    topic_seq: I32 | None = None
    data_version: str | None = None
    max_topic_num: I32 | None = None


class GetAllTopicConfigResponseHeader(msgspec.Struct, rename="camel", kw_only=True):
    """Answer of 21: how many topics there are."""

    total_topic_num: I32


class GetBrokerConfigResponseHeader(msgspec.Struct, rename="camel", kw_only=True):
    """Answer of GET_BROKER_CONFIG (26): the version of the settings, as JSON."""

    version: str
