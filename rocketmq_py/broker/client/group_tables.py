"""What the tables of groups and consumers say to a pull that relies on its registered subscription.

Source: `PullMessageProcessor#processRequest`, RocketMQ 5.3.
"""

from __future__ import annotations

from rocketmq_py.broker.client.consumer_manager import ConsumerManager
from rocketmq_py.broker.filter.consumer_filter import ConsumerFilterManager
from rocketmq_py.broker.refusal import Refusal
from rocketmq_py.broker.subscription_group import SubscriptionGroupManager
from rocketmq_py.broker.subscriptions import GROUP_NOT_ONLINE
from rocketmq_py.remoting.answer import FAQ
from rocketmq_py.remoting.bodies.heartbeat import MessageModel
from rocketmq_py.remoting.bodies.subscription import SubscriptionData, is_tag_type
from rocketmq_py.remoting.codes import ResponseCode
from rocketmq_py.remoting.headers.pull import ForbiddenType, PullMessageRequestHeader


class RegisteredGroups:
    """Answers `Subscriptions.tables`.

    Args:
        groups: the configurations of groups.
        consumers: the members of groups and what they subscribe.
        filters: the compiled SQL92 filters.
    """

    def __init__(
        self, groups: SubscriptionGroupManager, consumers: ConsumerManager, filters: ConsumerFilterManager
    ) -> None:
        self._groups = groups
        self._consumers = consumers
        self._filters = filters

    @property
    def version(self) -> int:
        """Grows with every change of a group, a member or a subscription."""
        return self._groups.version + self._consumers.version

    @version.setter
    def version(self, value: int) -> None:
        raise AttributeError("the version follows from the tables")

    def check_group(self, group: str) -> Refusal | None:
        """Refuse a group that does not exist and may not be created, or that may not consume."""
        config = self._groups.find(group)
        if config is None:
            remark = f"subscription group [{group}] does not exist, {FAQ}"
            return Refusal(ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST, remark)
        if not config.consume_enable:
            return _forbid(f"subscription group no permission, {group}", ForbiddenType.GROUP)
        return None

    def find_subscription(
        self, group: str, header: PullMessageRequestHeader
    ) -> tuple[SubscriptionData, int | None] | Refusal:
        """Return the registered subscription of the group to the topic and the group's flag."""
        info = self._consumers.find(group)
        if info is None:
            return Refusal(ResponseCode.SUBSCRIPTION_NOT_EXIST, GROUP_NOT_ONLINE + FAQ)
        config = self._groups.find(group)
        is_broadcasting = info.message_model is MessageModel.BROADCASTING
        if is_broadcasting and config is not None and not config.consume_broadcast_enable:
            remark = f"the consumer group[{group}] can not consume by broadcast way"
            return _forbid(remark, ForbiddenType.BROADCASTING_DISABLED)
        if self._groups.is_forbidden(group, header.topic):
            remark = f"the consumer group[{group}] is forbidden for topic[{header.topic}]"
            return _forbid(remark, ForbiddenType.SUBSCRIPTION)
        subscription = info.subscriptions.get(header.topic)
        if subscription is None:
            return Refusal(ResponseCode.SUBSCRIPTION_NOT_EXIST, "the consumer's subscription not exist" + FAQ)
        if subscription.sub_version < header.sub_version:
            return Refusal(ResponseCode.SUBSCRIPTION_NOT_LATEST, "the consumer's subscription not latest")
        refusal = self._check_filter(group, header, subscription)
        if refusal is not None:
            return refusal
        return subscription, 0 if config is None else config.group_sys_flag

    def _check_filter(
        self, group: str, header: PullMessageRequestHeader, subscription: SubscriptionData
    ) -> Refusal | None:
        if is_tag_type(subscription.expression_type):
            return None
        data = self._filters.get(header.topic, group)
        if data is None or data.compiled is None:
            return Refusal(
                ResponseCode.FILTER_DATA_NOT_EXIST,
                "The broker's consumer filter data is not exist!Your expression may be wrong!",
            )
        if data.record.client_version < header.sub_version:
            return Refusal(ResponseCode.FILTER_DATA_NOT_LATEST, "the consumer's consumer filter data not latest")
        return None

    def describe(self, group: str) -> int | None:
        """Return the group's flag, or None for an unknown group."""
        config = self._groups.select(group)
        return None if config is None else config.group_sys_flag


def _forbid(remark: str, kind: ForbiddenType) -> Refusal:
    return Refusal(ResponseCode.NO_PERMISSION, remark, {"forbiddenType": str(kind.value)})
