"""The configuration of a consumer group, and the bodies that carry it.

Source: `SubscriptionGroupConfig`, `SubscriptionGroupWrapper`, `SubscriptionGroupList`, `GroupForbidden`, RocketMQ 5.3.
"""

from __future__ import annotations

from typing import Any

import msgspec

from rocketmq_py.common.data_version import DataVersion


class SubscriptionGroupConfig(msgspec.Struct, rename="camel", kw_only=True):
    """What a consumer group may do.

    Attributes:
        group_name: the group.
        consume_enable: false stops all reading.
        consume_from_min_enable: stored, without effect.
        consume_broadcast_enable: whether the group may read in broadcasting mode.
        consume_message_orderly: for proxies.
        retry_queue_nums: queues of the group's retry topic.
        retry_max_times: how often a failed message comes again before it is a dead letter.
        group_retry_policy: when it comes again, for pop consumers.
        broker_id, which_broker_when_consume_slowly: where to read when fast and when slow.
        notify_consumer_ids_changed_enable: whether members are told of each other's coming and going.
        group_sys_flag: told to consumers with each pull.
        consume_timeout_minute: for proxies.
        subscription_data_set: subscriptions fixed by an administrator.
        attributes: none is defined.
    """

    group_name: str = ""
    consume_enable: bool = True
    consume_from_min_enable: bool = True
    consume_broadcast_enable: bool = True
    consume_message_orderly: bool = False
    retry_queue_nums: int = 1
    retry_max_times: int = 16
    group_retry_policy: dict[str, Any] = msgspec.field(default_factory=lambda: {"type": "CUSTOMIZED"})
    broker_id: int = 0
    which_broker_when_consume_slowly: int = 1
    notify_consumer_ids_changed_enable: bool = True
    group_sys_flag: int = 0
    consume_timeout_minute: int = 15
    subscription_data_set: list[dict[str, Any]] | msgspec.UnsetType | None = msgspec.UNSET
    attributes: dict[str, str] = {}


class SubscriptionGroupWrapper(msgspec.Struct, rename="camel", kw_only=True):
    """All groups of a broker: answer of GET_ALL_SUBSCRIPTIONGROUP_CONFIG and content of `subscriptionGroup.json`.

    Attributes:
        subscription_group_table: by group.
        forbidden_table: by group and topic, the bits of what is forbidden; 4 is reading.
        data_version: version of both.
    """

    subscription_group_table: dict[str, SubscriptionGroupConfig] = {}
    forbidden_table: dict[str, dict[str, int]] = {}
    data_version: DataVersion = msgspec.field(default_factory=DataVersion)


class SubscriptionGroupList(msgspec.Struct, rename="camel", kw_only=True):
    """Several groups to create or change at once."""

    group_config_list: list[SubscriptionGroupConfig] = []


class GroupForbidden(msgspec.Struct, rename="camel", kw_only=True):
    """Whether a group may read a topic."""

    topic: str = ""
    group: str = ""
    readable: bool = True


class GroupList(msgspec.Struct, rename="camel", kw_only=True):
    """Names of groups."""

    group_list: list[str] = []
