"""Stage 15: messages that depend on how a transaction of their producer ends, and replies that find who asked."""

from __future__ import annotations

import os

from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.assembly.reply import install_reply
from rocketmq_py.broker.client.producer_manager import ProducerManager
from rocketmq_py.broker.consumer_offset import ConsumerOffsetManager
from rocketmq_py.broker.processor.end_transaction import EndTransactionProcessor
from rocketmq_py.broker.processor.resume_half_message import ResumeHalfMessageProcessor
from rocketmq_py.broker.processor.send_message import SendMessageProcessor
from rocketmq_py.broker.send_hooks import SendHooks
from rocketmq_py.broker.statistics import BrokerStatsManager
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.broker.transaction.check_request import CheckSender
from rocketmq_py.broker.transaction.check_service import RELIEF_SECONDS, TransactionalMessageCheckService
from rocketmq_py.broker.transaction.load import TransactionLoader
from rocketmq_py.broker.transaction.op_batch import TransactionalOpBatchService
from rocketmq_py.broker.transaction.op_search import OpSearch
from rocketmq_py.broker.transaction.send_hook import transaction_hook
from rocketmq_py.broker.transaction.transaction_metrics import TransactionMetrics
from rocketmq_py.broker.transaction.transaction_table import TransactionTable
from rocketmq_py.common.live_config import LiveConfig
from rocketmq_py.common.topic import TRANS_CHECK_MAX_TIME_TOPIC, TRANS_HALF_TOPIC
from rocketmq_py.remoting.headers.send import SendMessageResponseHeader
from rocketmq_py.remoting.processors import Processors
from rocketmq_py.store.commit_log import CommitLog
from rocketmq_py.store.draft import Draft
from rocketmq_py.store.message_store import MessageStore
from rocketmq_py.store.recovery import Recovery


def install(kernel: Kernel) -> None:
    """Add what this stage adds."""
    install_transaction(kernel)
    install_reply(kernel)


def install_transaction(kernel: Kernel) -> None:
    """Add half messages, their ends, and the service that asks for missing ends."""
    config, store_config, environment = kernel.config, kernel.store_config, kernel.environment
    store, processors = kernel.get(MessageStore), kernel.get(Processors)
    log, offsets = kernel.get(CommitLog), kernel.get(ConsumerOffsetManager)
    kernel.get(SendHooks).install(transaction_hook(config, store_config.max_message_size))

    table = kernel.provide(TransactionTable())
    metrics = _install_metrics(kernel)
    ops = kernel.provide(
        TransactionalOpBatchService(config, store, environment.clock, lambda: log.store_host, table.recorded)
    )
    search = kernel.provide(OpSearch(store))
    recovery = kernel.get(Recovery)
    kernel.provide(
        TransactionLoader(
            store, offsets, table, metrics, environment.run_blocking, ops.add, lambda: not recovery.report.was_clean
        )
    )
    EndTransactionProcessor(
        config=config,
        max_message_size=store_config.max_message_size,
        store=store,
        table=table,
        ops=ops,
        search=search,
        metrics=metrics,
        statistics=kernel.get(BrokerStatsManager),
    ).register(processors)
    ResumeHalfMessageProcessor(
        store=store,
        table=table,
        ops=ops,
        search=search,
        metrics=metrics,
        clock=environment.clock,
        reserved_hours=store_config.file_reserved_time,
    ).register(processors)
    _install_checks(kernel, table, ops, metrics)


def _install_metrics(kernel: Kernel) -> TransactionMetrics:
    """Add the counts of open transactions, which begin with a stored send."""
    path = os.path.join(kernel.store_config.store_path_root_dir, "config", "transactionMetrics")
    metrics = kernel.provide(TransactionMetrics(path, kernel.environment))

    def stored(draft: Draft, header: SendMessageResponseHeader) -> None:
        if draft.topic == TRANS_HALF_TOPIC:
            metrics.begun(draft.stored_properties)

    kernel.get(SendMessageProcessor).on_stored.append(stored)
    kernel.get(TopicConfigManager).deleted.append(metrics.remove)
    kernel.tables.add(metrics.table)
    seconds = kernel.config.transaction_metric_flush_interval / 1_000
    kernel.periodic.every(seconds, metrics.table.persist_soon, "persist transaction metrics")
    return metrics


def _install_checks(
    kernel: Kernel, table: TransactionTable, ops: TransactionalOpBatchService, metrics: TransactionMetrics
) -> None:
    config, environment, topics = kernel.config, kernel.environment, kernel.get(TopicConfigManager)

    async def make_topic() -> None:
        topics.create_in_send_back(TRANS_CHECK_MAX_TIME_TOPIC, 1)
        await topics.persist()

    service = kernel.provide(
        TransactionalMessageCheckService(
            config=config,
            reserved_hours=kernel.store_config.file_reserved_time,
            store=kernel.get(MessageStore),
            offsets=kernel.get(ConsumerOffsetManager),
            table=table,
            ops=ops,
            sender=CheckSender(config, kernel.get(ProducerManager), kernel.get(CommitLog)),
            metrics=metrics,
            clock=environment.clock,
            make_topic=make_topic,
        )
    )
    # A slave pauses; its periods run all the same.
    service.is_paused = not config.is_master
    work = kernel.periodic.every(config.transaction_check_interval / 1_000, service.run, "check half messages")
    kernel.periodic.every(RELIEF_SECONDS, service.relieve, "keep the transaction table small")

    def settings_changed(keys: frozenset[str]) -> None:
        # From the next run on.
        work.seconds = config.transaction_check_interval / 1_000

    kernel.get(LiveConfig).listeners.append(settings_changed)
