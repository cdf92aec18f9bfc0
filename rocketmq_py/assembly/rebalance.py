"""Installs stage rebalance in a broker: who is there, which groups exist, and what operators ask about both."""

from __future__ import annotations

import os

from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.broker.client.channel import SCAN_SECONDS
from rocketmq_py.broker.client.consumer_ids_notifier import COLLECT_SECONDS, ConsumerIdsNotifier
from rocketmq_py.broker.client.consumer_manager import ConsumerManager
from rocketmq_py.broker.client.group_tables import RegisteredGroups
from rocketmq_py.broker.client.housekeeping import ClientHousekeepingService
from rocketmq_py.broker.client.producer_manager import ProducerManager
from rocketmq_py.broker.consume_progress import ConsumeProgress
from rocketmq_py.broker.consumer_offset import ConsumerOffsetManager
from rocketmq_py.broker.filter.consumer_filter import ConsumerFilterManager
from rocketmq_py.broker.filter.sql_compiler import SqlCompiler
from rocketmq_py.broker.processor.admin_consumer import AdminConsumerProcessor
from rocketmq_py.broker.processor.admin_group import AdminGroupProcessor
from rocketmq_py.broker.processor.client_manage import ClientManageProcessor
from rocketmq_py.broker.processor.consume_stats import ConsumeStatsProcessor
from rocketmq_py.broker.processor.consumer_manage import ConsumerManageProcessor
from rocketmq_py.broker.reset_offset import OffsetResetter
from rocketmq_py.broker.statistics import BrokerStatsManager
from rocketmq_py.broker.subscription_group import SubscriptionGroupManager
from rocketmq_py.broker.subscriptions import Subscriptions
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.remoting.processors import Processors
from rocketmq_py.remoting.server import RemotingServer
from rocketmq_py.store.message_store import MessageStore

#: Seconds between two looks at whether the table of groups must be written.
PERSIST_SECONDS = 5.0


def install(kernel: Kernel) -> None:
    """Add the tables of clients and groups, and register their request codes."""
    config, environment = kernel.config, kernel.environment
    groups = kernel.provide(
        SubscriptionGroupManager(config, os.path.join(kernel.store_config.root_dir, "config"), environment)
    )
    kernel.tables.add(groups.table)
    kernel.periodic.every(PERSIST_SECONDS, groups.persist, "persist subscription groups")

    expired_seconds = config.channel_expired_timeout / 1_000
    consumers = kernel.provide(ConsumerManager(expired_seconds))
    producers = kernel.provide(ProducerManager(expired_seconds))
    _watch_clients(kernel, consumers, producers)

    filters, compiler = kernel.get(ConsumerFilterManager), kernel.get(SqlCompiler)
    kernel.get(Subscriptions).tables = RegisteredGroups(groups, consumers, filters)
    processors, topics = kernel.get(Processors), kernel.get(TopicConfigManager)
    ClientManageProcessor(config, environment, consumers, producers, groups, topics, compiler).install(processors)
    ConsumerManageProcessor(consumers).install(processors)
    _install_administration(kernel, groups, consumers, producers)


def _watch_clients(kernel: Kernel, consumers: ConsumerManager, producers: ProducerManager) -> None:
    notifier = kernel.provide(ConsumerIdsNotifier(kernel.config, kernel.get(ConsumerFilterManager)))
    consumers.listeners.append(notifier)
    kernel.periodic.every(COLLECT_SECONDS, notifier.send_collected, "notify consumers")

    housekeeping = kernel.provide(ClientHousekeepingService(consumers, producers))
    kernel.get(RemotingServer).on_closed.append(housekeeping.closed)
    kernel.periodic.every(SCAN_SECONDS, housekeeping.scan, "scan clients")


def _install_administration(
    kernel: Kernel, groups: SubscriptionGroupManager, consumers: ConsumerManager, producers: ProducerManager
) -> None:
    config, processors = kernel.config, kernel.get(Processors)
    store, topics = kernel.get(MessageStore), kernel.get(TopicConfigManager)
    offsets, statistics = kernel.get(ConsumerOffsetManager), kernel.get(BrokerStatsManager)
    AdminGroupProcessor(groups, offsets, statistics).install(processors)
    progress = kernel.provide(
        ConsumeProgress(config, kernel.environment.clock, store, topics, offsets, consumers, statistics)
    )
    ConsumeStatsProcessor(config, progress, topics, groups, offsets, consumers).install(processors)
    resetter = kernel.provide(OffsetResetter(config, store, topics, groups, offsets, consumers))
    AdminConsumerProcessor(config, store, topics, groups, offsets, consumers, producers, resetter).install(processors)
