"""Subscriptions: which messages of a topic does this reader want?

A request may carry its subscription; otherwise the group's registered one counts. Here is the first way. The second
needs the tables of groups and consumers, and expressions other than tags need their language: later stages install
both, in `tables` and in `filters`.

Source: `PullMessageProcessor#processRequest`, RocketMQ 5.3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from rocketmq_py.broker.refusal import Refusal
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.sys_flag import PULL_SUBSCRIPTION
from rocketmq_py.remoting.answer import FAQ
from rocketmq_py.remoting.bodies.subscription import TAG, SubscriptionData, build_subscription
from rocketmq_py.remoting.codes import ResponseCode
from rocketmq_py.remoting.headers.pull import PullMessageRequestHeader
from rocketmq_py.store.filter import ALL, MessageFilter

GROUP_NOT_ONLINE: Final = "the consumer's group info not exist"


@dataclass(frozen=True, slots=True)
class Selection:
    """What a reader wants.

    Attributes:
        subscription: the topic and expression.
        filter: chooses the messages; `ALL` lets every one pass.
        group_sys_flag: the group's flag, told to the client if it is known.
    """

    subscription: SubscriptionData
    filter: MessageFilter
    group_sys_flag: int | None = None


#: Makes the filter of a subscription whose expression has the builder's type.
FilterBuilder = Callable[[str, SubscriptionData], "MessageFilter | Refusal"]


class GroupTables(Protocol):
    """What the tables of groups and consumers tell about a reader."""

    #: Grows with every change of a group, a consumer or a subscription; what was derived before is then void.
    version: int

    def check_group(self, group: str) -> Refusal | None:
        """Refuse a group that does not exist and may not be created, or that may not consume."""
        ...

    def find_subscription(
        self, group: str, header: PullMessageRequestHeader
    ) -> tuple[SubscriptionData, int | None] | Refusal:
        """Return the registered subscription of the group to the topic and the group's flag."""
        ...

    def describe(self, group: str) -> int | None:
        """Return the group's flag, or None for an unknown group."""
        ...


class Subscriptions:
    """Finds out what a pull request wants.

    Attributes:
        filters: a builder for each expression type; without one for its type an expression lets everything pass,
            as RocketMQ does with a type that it does not know.
        tables: the tables of groups and consumers, once there are some.
    """

    def __init__(self) -> None:
        self.filters: dict[str, FilterBuilder] = {}
        self.tables: GroupTables | None = None

    @property
    def version(self) -> int:
        """Changes whenever an earlier selection may be void."""
        return 0 if self.tables is None else self.tables.version

    def check_group(self, group: str) -> Refusal | None:
        """Return why the group may not read at all, or None."""
        return None if self.tables is None else self.tables.check_group(group)

    def knows_group(self, group: str) -> bool:
        """Tell whether the group exists; without a table of groups every group does."""
        return self.tables is None or self.tables.describe(group) is not None

    def resolve(self, group: str, header: PullMessageRequestHeader) -> Selection | Refusal:
        """Return the selection of a request, after `check_group`."""
        if header.sys_flag & PULL_SUBSCRIPTION:
            return self._from_request(group, header)
        if self.tables is None:
            return Refusal(ResponseCode.SUBSCRIPTION_NOT_EXIST, GROUP_NOT_ONLINE + FAQ)
        found = self.tables.find_subscription(group, header)
        if isinstance(found, Refusal):
            return found
        return self._select(group, *found)

    def _from_request(self, group: str, header: PullMessageRequestHeader) -> Selection | Refusal:
        try:
            subscription = build_subscription(
                header.topic, header.subscription, header.expression_type, header.sub_version
            )
        except InvalidInputError:
            return Refusal(ResponseCode.SUBSCRIPTION_PARSE_FAILED, "parse the consumer's subscription failed")
        return self._select(group, subscription, None if self.tables is None else self.tables.describe(group))

    def _select(self, group: str, subscription: SubscriptionData, group_sys_flag: int | None) -> Selection | Refusal:
        build = self.filters.get(subscription.expression_type or TAG)
        if build is None:
            return Selection(subscription, ALL, group_sys_flag)
        message_filter = build(group, subscription)
        if isinstance(message_filter, Refusal):
            return message_filter
        return Selection(subscription, message_filter, group_sys_flag)
