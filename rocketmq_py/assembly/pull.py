"""Stage 08: pulls on the ordinary and on the hot path, consumer offsets, and looking up single messages."""

from __future__ import annotations

import os

from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.broker.consumer_offset import ConsumerOffsetManager
from rocketmq_py.broker.hot.pull import HotPull
from rocketmq_py.broker.processor.offsets import ConsumerOffsetProcessor, QueueOffsetProcessor
from rocketmq_py.broker.processor.pull_message import PullMessageProcessor
from rocketmq_py.broker.processor.query_consume_queue import QueryConsumeQueueProcessor
from rocketmq_py.broker.processor.query_message import QueryMessageProcessor
from rocketmq_py.broker.pull_message import PullChecks, PullMessageService
from rocketmq_py.broker.read_policy import ReadPolicy, ServeAll
from rocketmq_py.broker.statistics import BrokerStatsManager
from rocketmq_py.broker.subscriptions import Subscriptions
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.remoting.processors import Processors
from rocketmq_py.store.message_store import MessageStore

#: Seconds before consumer offsets are written for the first time, as in RocketMQ.
FIRST_PERSIST_SECONDS = 10.0


def install(kernel: Kernel) -> None:
    """Add what answers a pull and keeps the progress of groups."""
    config, store = kernel.config, kernel.get(MessageStore)
    topics, processors = kernel.get(TopicConfigManager), kernel.get(Processors)
    offsets = _install_offsets(kernel, topics)
    subscriptions = kernel.provide(Subscriptions())
    policy = kernel.provide(ServeAll(), ReadPolicy)
    statistics = kernel.get(BrokerStatsManager)
    checks = kernel.provide(PullChecks(config, topics, subscriptions, policy, statistics, offsets))
    service = kernel.provide(PullMessageService(config, store, offsets, policy))
    PullMessageProcessor(checks, service).register(processors)
    HotPull(checks, service).register(processors)
    ConsumerOffsetProcessor(offsets, topics, subscriptions, store).register(processors)
    QueueOffsetProcessor(store).register(processors)
    QueryConsumeQueueProcessor(store, subscriptions, kernel.environment).register(processors)
    QueryMessageProcessor(store, kernel.store_config.default_query_max_num).register(processors)


def _install_offsets(kernel: Kernel, topics: TopicConfigManager) -> ConsumerOffsetManager:
    config = kernel.config
    folder = os.path.join(kernel.store_config.root_dir, "config")
    offsets = kernel.provide(
        ConsumerOffsetManager(folder, kernel.environment, config.consumer_offset_update_version_step)
    )
    kernel.tables.add(offsets.table)
    kernel.periodic.every(
        config.flush_consumer_offset_interval / 1_000,
        offsets.table.persist_soon,
        "persist consumer offsets",
        delay=FIRST_PERSIST_SECONDS,
    )
    topics.deleted.append(offsets.drop_topic)
    return offsets
