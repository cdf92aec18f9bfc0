"""Installs the topics of a broker, and what operators ask about topics and broker; the first half of stage send."""

from __future__ import annotations

import os

from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.broker.processor.admin_broker import MUTABLE_KEYS, AdminBrokerProcessor
from rocketmq_py.broker.processor.admin_topic import AdminTopicProcessor
from rocketmq_py.broker.processor.clean_store import CleanStoreProcessor
from rocketmq_py.broker.registration import Registered, Registration
from rocketmq_py.broker.runtime_info import RuntimeInfo
from rocketmq_py.broker.store_info import StoreInfo
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.common.live_config import LiveConfig
from rocketmq_py.remoting.processors import Processors
from rocketmq_py.store.message_store import MessageStore
from rocketmq_py.store.retention import CleanCommitLogService

#: Seconds between two looks at whether the table of topics must be written; whoever waits for it writes at once.
PERSIST_SECONDS = 5.0


def install_topics(kernel: Kernel) -> None:
    """Add topics, runtime information and changeable settings, and register their request codes."""
    config, environment = kernel.config, kernel.environment
    config_folder = os.path.join(kernel.store_config.root_dir, "config")
    processors, store, registration = kernel.get(Processors), kernel.get(MessageStore), kernel.get(Registration)

    topics = kernel.provide(TopicConfigManager(config, os.path.join(config_folder, "topics.json"), environment))
    kernel.tables.add(topics.table)
    kernel.periodic.every(PERSIST_SECONDS, topics.persist, "persist topics")
    _connect(topics, registration)

    live_config = LiveConfig(
        [config, kernel.store_config],
        MUTABLE_KEYS,
        lambda: config.config_black_list,
        os.path.join(config_folder, "broker.override.properties"),
        environment,
    )
    kernel.provide(live_config).load()
    kernel.tables.add(live_config.table)

    def settings_changed(keys: frozenset[str]) -> None:
        if "brokerPermission" in keys:
            # It is part of what name servers are told of every topic.
            topics.bump_version()

    live_config.listeners.append(settings_changed)

    runtime_info = kernel.provide(RuntimeInfo())
    runtime_info.add(StoreInfo(config, kernel.store_config, store, environment).collect)
    kernel.provide(AdminTopicProcessor(config, topics, store, registration)).install(processors)
    kernel.provide(AdminBrokerProcessor(live_config, runtime_info)).install(processors)
    CleanStoreProcessor(kernel.get(CleanCommitLogService)).register(processors)


def _connect(topics: TopicConfigManager, registration: Registration) -> None:
    """Let name servers learn of topics, and topics of what name servers answer."""

    def topic_changed(_: str | None) -> None:
        registration.register_soon()

    def registered(answer: Registered) -> None:
        topics.update_order_config(answer.order_topics or ())

    registration.topics = topics
    topics.on_change.append(topic_changed)
    registration.listeners.append(registered)
