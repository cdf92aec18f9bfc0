"""The two topics of a consumer group: what it gets again, and what it gets no more.

    %RETRY%group   retryQueueNums queues, every clustering consumer of the group reads it
    %DLQ%group     one queue, nobody reads it by itself

Both are created when they are needed, and one that exists is left as it is.

Source: `TopicConfigManager#createTopicInSendMessageBackMethod`, RocketMQ 5.3.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from rocketmq_py.broker.refusal import Refusal
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.common.permission import is_writeable
from rocketmq_py.common.topic import dlq_topic, retry_topic
from rocketmq_py.remoting.bodies.subscription_group import SubscriptionGroupConfig
from rocketmq_py.remoting.bodies.topic_config import UNIT_SUBSCRIPTION
from rocketmq_py.remoting.codes import ResponseCode


@dataclass(frozen=True, slots=True)
class Place:
    """Where a message goes.

    Attributes:
        topic: the topic.
        queue_id: the queue.
        is_new_topic: the topic was created for it; it is to be on disk before the message is acknowledged.
    """

    topic: str
    queue_id: int
    is_new_topic: bool = False


class RetryTopics:
    """Finds and creates the topics of groups.

    Args:
        topics: all topics.
        rng: draws a queue.
    """

    def __init__(self, topics: TopicConfigManager, rng: random.Random) -> None:
        self._topics = topics
        self._random = rng

    def retry(self, group: SubscriptionGroupConfig, *, unit_mode: bool) -> Place | Refusal:
        """Return a queue of a group's retry topic."""
        name = retry_topic(group.group_name)
        is_new = self._topics.select(name) is None
        config = self._topics.create_in_send_back(
            name, group.retry_queue_nums, topic_sys_flag=UNIT_SUBSCRIPTION if unit_mode else 0
        )
        if config is None:
            return _not_created(name)
        # Differs from RocketMQ, which draws from `retryQueueNums` alone: when that grew after the topic was created, it
        # stores messages in queues that no consumer reads.
        queues = min(group.retry_queue_nums, config.write_queue_nums, config.read_queue_nums)
        if not is_writeable(config.perm) or queues < 1:
            return Refusal(ResponseCode.NO_PERMISSION, f"the topic[{name}] sending message is forbidden")
        return Place(name, self._random.randrange(queues), is_new)

    def dead_letters(self, group: str) -> Place | Refusal:
        """Return the queue of a group's dead letters."""
        name = dlq_topic(group)
        is_new = self._topics.select(name) is None
        if self._topics.create_in_send_back(name, 1) is None:
            return _not_created(name)
        return Place(name, 0, is_new)


def _not_created(topic: str) -> Refusal:
    return Refusal(ResponseCode.SYSTEM_ERROR, f"topic[{topic}] not exist")
