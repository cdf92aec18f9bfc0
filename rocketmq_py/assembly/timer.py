"""Installs the timer wheel; the second half of stage delay."""

from __future__ import annotations

from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.broker.processor.recall_message import RecallMessageProcessor
from rocketmq_py.broker.processor.send_message import SendMessageProcessor
from rocketmq_py.broker.processor.timer import TimerProcessor
from rocketmq_py.broker.runtime_info import RuntimeInfo
from rocketmq_py.broker.statistics import BrokerStatsManager
from rocketmq_py.broker.timer_answers import TimerAnswers
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.common.topic import TIMER_TOPIC
from rocketmq_py.remoting.bodies.topic_config import TopicConfig
from rocketmq_py.remoting.processors import Processors
from rocketmq_py.store.draft import Draft
from rocketmq_py.store.flush import FlushService
from rocketmq_py.store.message_store import MessageStore
from rocketmq_py.store.put_hooks import PutHooks
from rocketmq_py.store.recovery import Recovery
from rocketmq_py.store.timer.timer_message_store import TimerMessageStore

#: Seconds between two writes of the counts of waiting messages, and between two looks for topics that are gone.
PERSIST_SECONDS = 10.0
CLEAN_SECONDS = 180.0


def install_timer(kernel: Kernel) -> None:
    """Add the timers, their hook, and what clients and operators ask about them."""
    config, environment, store = kernel.store_config, kernel.environment, kernel.get(MessageStore)
    processors, topics = kernel.get(Processors), kernel.get(TopicConfigManager)
    statistics, recovery = kernel.get(BrokerStatsManager), kernel.get(Recovery)
    timers = kernel.provide(
        TimerMessageStore(config, environment, store, kernel.get(FlushService), lambda: recovery.report.was_clean)
    )
    kernel.get(PutHooks).install(timers.hook.hook())
    TimerProcessor(config, timers).register(processors)
    RecallMessageProcessor(kernel.config, config, environment.clock, store, topics, statistics).register(processors)
    _install_answers(kernel, timers)
    if not config.timer_wheel_enable:
        return
    topics.add_system_topic(TopicConfig(topic_name=TIMER_TOPIC, read_queue_nums=1, write_queue_nums=1))
    topics.deleted.append(timers.metrics.remove)

    def delivered(draft: Draft) -> None:
        statistics.topic_put(draft.topic).add(1, len(draft.body))

    timers.delivery.on_delivered.append(delivered)
    kernel.tables.add(timers.metrics.table)
    periodic = kernel.periodic
    periodic.every(config.timer_flush_interval_ms / 1000, timers.flush, "flush timers")
    periodic.every(PERSIST_SECONDS, timers.metrics.table.persist_soon, "persist timer metrics")
    periodic.every(CLEAN_SECONDS, lambda: timers.metrics.clean(topics.topics.keys()), "clean timer metrics")


def _install_answers(kernel: Kernel, timers: TimerMessageStore) -> None:
    answers = TimerAnswers(kernel.config, kernel.store_config, timers)
    send = kernel.get(SendMessageProcessor)
    send.refusals.update(answers.refusals())
    send.on_stored.append(answers.attach_recall_handle)
    kernel.get(RuntimeInfo).add(answers.runtime_info)
