"""Stage 07: topics, and sends to them, on the ordinary and on the hot path."""

from __future__ import annotations

import functools

from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.assembly.topics import install_topics
from rocketmq_py.broker.hot.responses import with_status
from rocketmq_py.broker.hot.send import HotSend
from rocketmq_py.broker.processor.broker_stats import BrokerStatsProcessor
from rocketmq_py.broker.processor.send_message import SendMessageProcessor
from rocketmq_py.broker.runtime_info import RuntimeInfo
from rocketmq_py.broker.send_hooks import SendHooks
from rocketmq_py.broker.send_message import SendChecks
from rocketmq_py.broker.statistics import WINDOWS, BrokerStatsManager
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.common.host import encode_host
from rocketmq_py.common.message_id import UniqueIds
from rocketmq_py.remoting.processors import Processors
from rocketmq_py.remoting.server import RemotingServer
from rocketmq_py.store.ack import AcknowledgementGate
from rocketmq_py.store.commit_log import CommitLog
from rocketmq_py.store.put_hooks import PutHooks
from rocketmq_py.store.put_message import MessagePutter
from rocketmq_py.store.queue_slot import QueueSlots
from rocketmq_py.store.tick import Tick

#: Seconds between two looks at whether a new day has begun.
DAY_CHECK_SECONDS = 60.0


def install(kernel: Kernel) -> None:
    """Add what answers a send."""
    install_topics(kernel)
    statistics = _install_statistics(kernel)
    config, environment = kernel.config, kernel.environment
    log, topics, processors = kernel.get(CommitLog), kernel.get(TopicConfigManager), kernel.get(Processors)
    hooks = kernel.provide(SendHooks())
    checks = kernel.provide(SendChecks(config, topics, environment.random))
    ordinary = kernel.provide(
        SendMessageProcessor(
            config=config,
            max_message_size=kernel.store_config.max_message_size,
            log=log,
            checks=checks,
            topics=topics,
            hooks=hooks,
            statistics=statistics,
            putter=kernel.get(MessagePutter),
            unique_ids=_unique_ids(kernel),
        )
    )
    hot = kernel.provide(
        HotSend(
            config=config,
            max_message_size=kernel.store_config.max_message_size,
            log=log,
            checks=checks,
            topics=topics,
            send_hooks=hooks,
            put_hooks=kernel.get(PutHooks),
            statistics=statistics,
            slots=kernel.get(QueueSlots),
            tick=kernel.get(Tick),
        )
    )
    ordinary.register(processors)
    hot.register(processors)
    kernel.get(AcknowledgementGate).unsure = with_status

    def bound(port: int) -> None:
        # With port 0 the operating system chooses; records and message ids name the port that it chose.
        log.store_host = encode_host(config.broker_ip1, config.listen_port)
        hot.address_changed()

    kernel.get(RemotingServer).on_bound.append(bound)


def _install_statistics(kernel: Kernel) -> BrokerStatsManager:
    statistics = kernel.provide(BrokerStatsManager(kernel.config.broker_cluster_name, kernel.environment.clock))
    for window in WINDOWS:
        sample = functools.partial(statistics.sample, window)
        kernel.periodic.every(window.seconds, sample, f"sample {window.name}", delay=0.0)
    kernel.periodic.every(DAY_CHECK_SECONDS, statistics.check_day, "day totals", delay=0.0)
    kernel.get(TopicConfigManager).deleted.append(statistics.drop_topic)
    kernel.get(RuntimeInfo).add(statistics.runtime_info)
    BrokerStatsProcessor(statistics).register(kernel.get(Processors))
    return statistics


def _unique_ids(kernel: Kernel) -> UniqueIds:
    """Return the maker of unique keys for clients that send none."""
    random = kernel.environment.random
    return UniqueIds(kernel.environment.clock, kernel.config.broker_ip1, random.getrandbits(16), random.getrandbits(32))
