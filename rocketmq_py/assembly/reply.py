"""The second half of stage transaction: replies, which the broker passes on to the clients that asked."""

from __future__ import annotations

from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.broker.client.producer_manager import ProducerManager
from rocketmq_py.broker.processor.reply_message import ReplyMessageProcessor
from rocketmq_py.broker.send_message import SendChecks
from rocketmq_py.broker.statistics import BrokerStatsManager
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.remoting.processors import Processors
from rocketmq_py.store.commit_log import CommitLog
from rocketmq_py.store.put_message import MessagePutter


def install_reply(kernel: Kernel) -> None:
    """Add what passes replies on."""
    processor = ReplyMessageProcessor(
        config=kernel.config,
        max_message_size=kernel.store_config.max_message_size,
        clock=kernel.environment.clock,
        log=kernel.get(CommitLog),
        checks=kernel.get(SendChecks),
        topics=kernel.get(TopicConfigManager),
        producers=kernel.get(ProducerManager),
        statistics=kernel.get(BrokerStatsManager),
        putter=kernel.get(MessagePutter),
    )
    processor.register(kernel.get(Processors))
