"""The send hook of retries that clients make themselves.

A consumer sends a message to its group's retry topic when it could not send it back: the broker that has it is down, or
the queue is consumed in order and the message failed too often there. The broker has to see for itself that such a
message is at its end, or it would come again for ever.

Source: `SendMessageProcessor#handleRetryAndDLQ`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio

from rocketmq_py.broker.client.rebalance_lock_manager import RebalanceLockManager
from rocketmq_py.broker.refusal import Refusal
from rocketmq_py.broker.retry.failed_message import no_delay
from rocketmq_py.broker.retry.retry_topics import RetryTopics
from rocketmq_py.broker.retry.send_back import group_not_exist
from rocketmq_py.broker.retry.verdict import retry_limit
from rocketmq_py.broker.send_hooks import SendContext, SendHook
from rocketmq_py.broker.subscription_group import SubscriptionGroupManager
from rocketmq_py.common import properties as names
from rocketmq_py.common.properties import change_properties
from rocketmq_py.common.topic import RETRY_TOPIC_PREFIX, is_retry_topic


class RetryHook:
    """Makes dead letters of messages to a retry topic that are beyond their limit.

    Args:
        groups: the consumer groups.
        topics: the topics of groups.
        locks: tell which groups consume in order.
    """

    def __init__(self, groups: SubscriptionGroupManager, topics: RetryTopics, locks: RebalanceLockManager) -> None:
        self._groups = groups
        self._topics = topics
        self._locks = locks

    def hook(self) -> SendHook:
        """Return the hook. It has no trigger: a retry topic never takes the hot path."""
        return SendHook("retry limit", (), self.apply)

    def apply(self, context: SendContext) -> Refusal | None:
        """Send a message to the dead letters if it may not come again."""
        draft, header = context.draft, context.header
        if not is_retry_topic(draft.topic):
            return None
        name = draft.topic.removeprefix(RETRY_TOPIC_PREFIX)
        group = self._groups.find(name)
        if group is None:
            return group_not_exist(name)
        limit = retry_limit(group, header.max_reconsume_times, context.client_version)
        # A consumer in order asks for a message again in its own queue; what it sends here is at its end.
        is_ordered = self._locks.has_locks(name, asyncio.get_running_loop().time())
        if draft.reconsume_times <= limit and not is_ordered:
            return None
        place = self._topics.dead_letters(name)
        if isinstance(place, Refusal):
            return place
        context.has_new_topic |= place.is_new_topic
        draft.topic, draft.queue_id = place.topic, place.queue_id
        draft.stored_properties = change_properties(draft.stored_properties, {names.DELAY: "-1"})
        no_delay(draft)
        return None
