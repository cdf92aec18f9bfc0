"""Tells the members of a group that it changed, so that they divide its queues anew at once.

Without it they would notice by their own rebalance, up to 20 s later.

Source: `DefaultConsumerIdsChangeListener`, `Broker2Client#notifyConsumerIdsChanged`, RocketMQ 5.3.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

from rocketmq_py.broker.client.channel import ClientConnection
from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.filter.consumer_filter import ConsumerFilterManager
from rocketmq_py.common.errors import RocketMQError
from rocketmq_py.remoting.bodies.subscription import SubscriptionData
from rocketmq_py.remoting.codes import RequestCode
from rocketmq_py.remoting.command import RemotingCommand

logger = logging.getLogger(__name__)

#: How often collected changes are sent when they are not sent at once.
COLLECT_SECONDS: Final = 15.0


class ConsumerIdsNotifier:
    """A `ConsumerListener`: sends NOTIFY_CONSUMER_IDS_CHANGED and keeps the filter table informed.

    Args:
        config: whether to tell at all, and whether at once.
        filters: the table of SQL92 filters.
    """

    def __init__(self, config: BrokerConfig, filters: ConsumerFilterManager) -> None:
        self._config = config
        self._filters = filters
        # Changes not sent yet: only the last one of a group counts.
        self._collected: dict[str, list[ClientConnection]] = {}

    def registered(self, group: str, subscriptions: Iterable[SubscriptionData]) -> None:
        """Compile new filters."""
        self._filters.register(group, subscriptions)

    def unregistered(self, group: str) -> None:
        """Mark the group's filters as dead."""
        self._filters.unregister(group)

    def changed(self, group: str, members: list[ClientConnection]) -> None:
        """Tell the members, at once or with the next round."""
        if not self._config.notify_consumer_ids_changed_enable:
            return
        if self._config.real_time_notify_consumer_change:
            self._notify(group, members)
        else:
            self._collected[group] = members

    def send_collected(self) -> None:
        """Tell the members of all groups that changed since the last round."""
        collected, self._collected = self._collected, {}
        for group, members in collected.items():
            self._notify(group, members)

    def _notify(self, group: str, members: list[ClientConnection]) -> None:
        for connection in members:
            command = RemotingCommand.create_request(RequestCode.NOTIFY_CONSUMER_IDS_CHANGED, {"consumerGroup": group})
            try:
                connection.one_way(command)
            except RocketMQError as error:
                # The connection is about to close; the member will learn of the change when it comes back.
                logger.info("group %s: %s was not told of the change: %s", group, connection.remote_address, error)
