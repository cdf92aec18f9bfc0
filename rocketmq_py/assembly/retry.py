"""Stage 14: messages that failed come again, and end as dead letters."""

from __future__ import annotations

from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.broker.client.rebalance_lock_manager import RebalanceLockManager
from rocketmq_py.broker.processor.send_back import SendBackProcessor
from rocketmq_py.broker.retry.retry_hook import RetryHook
from rocketmq_py.broker.retry.retry_topics import RetryTopics
from rocketmq_py.broker.retry.send_back import SendBackRules
from rocketmq_py.broker.send_hooks import SendHooks
from rocketmq_py.broker.statistics import BrokerStatsManager
from rocketmq_py.broker.subscription_group import SubscriptionGroupManager
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.remoting.processors import Processors
from rocketmq_py.store.message_store import MessageStore


def install(kernel: Kernel) -> None:
    """Add what takes messages back, and the limit of retries that clients make themselves."""
    groups, topics = kernel.get(SubscriptionGroupManager), kernel.get(TopicConfigManager)
    retry_topics = kernel.provide(RetryTopics(topics, kernel.environment.random))
    rules = kernel.provide(SendBackRules(kernel.config, groups, retry_topics))
    processor = SendBackProcessor(rules, kernel.get(MessageStore), topics, kernel.get(BrokerStatsManager))
    processor.register(kernel.get(Processors))
    kernel.get(SendHooks).install(RetryHook(groups, retry_topics, kernel.get(RebalanceLockManager)).hook())
