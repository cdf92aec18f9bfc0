"""How far a consumer group is: per queue, in messages and in time.

Source: `AdminBrokerProcessor#getConsumeStats`, `#queryConsumeTimeSpan`, `#queryCorrectionOffset`, RocketMQ 5.3.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rocketmq_py.broker.client.consumer_manager import ConsumerManager
from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.consumer_offset import ConsumerOffsetManager
from rocketmq_py.broker.statistics import GROUP_GET_NUMS, MINUTE, BrokerStatsManager
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.common.environment import Clock
from rocketmq_py.common.java import I64_MAX
from rocketmq_py.common.message import MessageQueue
from rocketmq_py.remoting.bodies.consume_stats import ConsumeStats, OffsetWrapper, QueueTimeSpan
from rocketmq_py.remoting.bodies.topic_stats import QueueKey
from rocketmq_py.store.message_store import MessageStore

#: What `correction_offsets` gives for a queue in which the compared group is behind.
NO_CORRECTION: Final = I64_MAX


class ConsumeProgress:
    """Computes progress from offsets, topics and the store; changes nothing."""

    def __init__(
        self,
        config: BrokerConfig,
        clock: Clock,
        store: MessageStore,
        topics: TopicConfigManager,
        offsets: ConsumerOffsetManager,
        consumers: ConsumerManager,
        statistics: BrokerStatsManager,
    ) -> None:
        self._config = config
        self._clock = clock
        self._store = store
        self._topics = topics
        self._offsets = offsets
        self._consumers = consumers
        self._statistics = statistics

    def topics_of(self, group: str, topic: str | None = None) -> list[str]:
        """Return the topics to report for a group: the given one or all with offsets, as far as they are subscribed.

        A topic that the group no longer subscribes would show an ever-growing lag that nobody works on.
        """
        topics = [topic] if topic else self._offsets.topics_of(group)
        info = self._consumers.find(group)
        if info is None or not info.subscriptions:
            return topics
        return [name for name in topics if name in info.subscriptions]

    def stats(self, group: str, topics: Iterable[str]) -> ConsumeStats:
        """Return the group's progress in every read queue of some topics; unknown topics are skipped."""
        stats = ConsumeStats(offset_table={})
        for topic in topics:
            config = self._topics.select(topic)
            if config is None:
                continue
            for queue_id in range(config.read_queue_nums):
                queue = MessageQueue(topic, self._config.broker_name, queue_id)
                stats.offset_table[queue] = self.of_queue(group, topic, queue_id)
            view = self._statistics.view(GROUP_GET_NUMS, f"{topic}@{group}")
            if view is not None:
                stats.consume_tps += view[MINUTE.name].tps
        return stats

    def of_queue(self, group: str, topic: str, queue_id: int) -> OffsetWrapper:
        """Return the group's progress in one queue."""
        consumer_offset = max(self._offsets.query(group, topic, queue_id), 0)
        stored = self._store_time(topic, queue_id, consumer_offset - 1) if consumer_offset > 0 else 0
        return OffsetWrapper(
            broker_offset=max(self._store.max_offset(topic, queue_id), 0),
            consumer_offset=consumer_offset,
            pull_offset=max(consumer_offset, self._offsets.query_pull(group, topic, queue_id)),
            last_timestamp=max(stored, 0),
        )

    def time_span(self, group: str, topic: str, queue_id: int) -> QueueTimeSpan:
        """Return how old the messages of a queue are, and the next one that the group has to consume."""
        minimum = self._store.min_offset(topic, queue_id)
        maximum = self._store.max_offset(topic, queue_id)
        consumed = self._offsets.query(group, topic, queue_id)
        first = self._store_time(topic, queue_id, minimum)
        delay = 0
        if consumed < maximum:
            following = self._store_time(topic, queue_id, max(consumed, minimum))
            delay = self._clock.wall_ms() - following if following > 0 else 0
        return QueueTimeSpan(
            message_queue=QueueKey(broker_name=self._config.broker_name, queue_id=queue_id, topic=topic),
            min_time_stamp=first,
            max_time_stamp=self._store_time(topic, queue_id, maximum - 1),
            consume_time_stamp=self._store_time(topic, queue_id, consumed - 1) if consumed > 0 else first,
            delay_time=max(delay, 0),
        )

    def correction_offsets(self, topic: str, compare_group: str, groups: Iterable[str]) -> dict[int, int]:
        """Return, for each queue, the smallest offset of some groups that lies in the queue.

        A queue in which `compare_group` is behind that offset gets `NO_CORRECTION`.
        """
        smallest: dict[int, int] = {}
        for group in groups:
            for queue_id, offset in self._offsets.query_all(group, topic).items():
                if offset >= self._store.min_offset(topic, queue_id):
                    smallest[queue_id] = min(offset, smallest.get(queue_id, offset))
        compared = self._offsets.query_all(compare_group, topic)
        return {
            queue_id: NO_CORRECTION if offset > compared.get(queue_id, offset) else offset
            for queue_id, offset in smallest.items()
        }

    def _store_time(self, topic: str, queue_id: int, offset: int) -> int:
        return self._store.store_time(topic, queue_id, offset) if offset >= 0 else -1
