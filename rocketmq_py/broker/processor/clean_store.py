"""What an operator may clean at once instead of waiting for its hour: old log files, old queues, queues of topics that
do not exist any more.

Source: `AdminBrokerProcessor#deleteExpiredCommitLog`, `#cleanExpiredConsumeQueue`, `#cleanUnusedTopic`, RocketMQ 5.3.
"""

from __future__ import annotations

import logging

from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.common.topic import is_light_queue, is_system_topic
from rocketmq_py.remoting.answer import answer
from rocketmq_py.remoting.codes import RequestCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.processors import Processors, Request
from rocketmq_py.store.message_store import MessageStore
from rocketmq_py.store.retention import CleanCommitLogService

logger = logging.getLogger(__name__)


class CleanStoreProcessor:
    """Answers DELETE_EXPIRED_COMMITLOG (329), CLEAN_EXPIRED_CONSUMEQUEUE (306) and CLEAN_UNUSED_TOPIC (316)."""

    def __init__(self, cleaning: CleanCommitLogService, store: MessageStore, topics: TopicConfigManager) -> None:
        self._cleaning = cleaning
        self._store = store
        self._topics = topics

    def register(self, processors: Processors) -> None:
        """Register the three codes."""
        for code, handler in (
            (RequestCode.DELETE_EXPIRED_COMMITLOG, self.delete_expired),
            (RequestCode.CLEAN_EXPIRED_CONSUMEQUEUE, self.clean_queues),
            (RequestCode.CLEAN_UNUSED_TOPIC, self.clean_topics),
        ):
            processors.register(code, handler, "admin")

    def delete_expired(self, request: Request) -> RemotingCommand:
        """Let the next passes delete expired files whatever the hour."""
        self._cleaning.delete_soon()
        return answer()

    def clean_queues(self, request: Request) -> RemotingCommand:
        """Do nothing: queues follow the log in each pass, so none is left behind that could be cleaned."""
        return answer()

    def clean_topics(self, request: Request) -> RemotingCommand:
        """Delete the queues of topics without a record; those of the system and light queues stay."""
        for topic in sorted({topic for topic, _ in self._store.queues.keys()}):
            if self._topics.select(topic) is None and not is_system_topic(topic) and not is_light_queue(topic):
                logger.info("the queues of topic %s, which does not exist, are deleted", topic)
                self._store.delete_topic(topic)
        return answer()
