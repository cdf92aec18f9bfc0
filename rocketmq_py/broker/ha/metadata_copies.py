"""What a slave copies besides the log: each kind of metadata, what it is asked by, and how its answer is taken in.

    topics             21    replaced if the version is another one
    groups            201    likewise
    consumer offsets   43    taken over; what only the slave has stays
    delay offsets      45    taken over, and used once the slave's log has what was delivered
    timer checkpoint   60    likewise
    timer metrics      61    replaced if the version is another one

Everything is written to the slave's own files, under the names that a master uses.

Source: `SlaveSynchronize`, RocketMQ 5.3.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from rocketmq_py.broker.consumer_offset import ConsumerOffsetFile, ConsumerOffsetManager
from rocketmq_py.broker.schedule.delay_offsets import DelayOffsetFile, DelayOffsetManager
from rocketmq_py.broker.subscription_group import SubscriptionGroupManager
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.common.data_version import DataVersion
from rocketmq_py.common.topic import is_light_queue
from rocketmq_py.remoting.bodies.subscription_group import SubscriptionGroupWrapper
from rocketmq_py.remoting.bodies.topic_config import TopicConfigTable
from rocketmq_py.remoting.codes import RequestCode
from rocketmq_py.remoting.java_json import decode_body
from rocketmq_py.store.message_store import MessageStore
from rocketmq_py.store.timer.timer_checkpoint import CHECKPOINT_LAYOUT, TimerCheckpoint
from rocketmq_py.store.timer.timer_message_store import TimerMessageStore

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answered:
    """One answer of the master.

    Attributes:
        body: what it said.
        log_end: where its log ended a moment later; 0 if it does not say.
    """

    body: bytes
    log_end: int


@dataclass(frozen=True, slots=True)
class MetadataCopy:
    """One kind of metadata.

    Attributes:
        name: for logs.
        code: the request.
        take: takes an answer in and has written it when it returns; raises `InvalidInputError` or `ValueError` for an
            answer that is none.
        is_watched: whether a change of it is told at once.
    """

    name: str
    code: int
    take: Callable[[Answered], Awaitable[None]]
    is_watched: bool = False


class TopicCopy:
    """Copies topics, and removes the queues of those that the master does not have any more.

    The queues go one copy later than the topics: a slave may be ahead with the log, and know a topic from a consumer
    before its master's answer names it.

    Attributes:
        version: that of the master's table when it was copied last.
    """

    def __init__(self, topics: TopicConfigManager, store: MessageStore) -> None:
        self.version = DataVersion()
        self._topics = topics
        self._store = store
        self._unused: set[str] = set()

    async def take(self, answered: Answered) -> None:
        """Take the answer of GET_ALL_TOPIC_CONFIG in."""
        table = decode_body(answered.body, TopicConfigTable)
        self.version = table.data_version
        if self._topics.adopt(table):
            await self._topics.persist()
        elif not self._unused:
            return
        unused = {topic for topic, _ in self._store.topics_and_queues() if self._is_unused(topic)}
        for topic in sorted(unused & self._unused):
            logger.info("the queues of %s are removed: the master has no such topic", topic)
            self._store.delete_topic(topic)
        self._unused = unused - self._unused

    def _is_unused(self, topic: str) -> bool:
        return (
            self._topics.select(topic) is None and not self._topics.is_system_topic(topic) and not is_light_queue(topic)
        )


class GroupCopy:
    """Copies groups.

    Attributes:
        version: that of the master's table when it was copied last.
    """

    def __init__(self, groups: SubscriptionGroupManager) -> None:
        self.version = DataVersion()
        self._groups = groups

    async def take(self, answered: Answered) -> None:
        """Take the answer of GET_ALL_SUBSCRIPTIONGROUP_CONFIG in."""
        wrapper = decode_body(answered.body, SubscriptionGroupWrapper)
        self.version = wrapper.data_version
        if self._groups.adopt(wrapper):
            await self._groups.persist()


class ProgressCopy:
    """Copies how far consumers, levels and timers are, to a slave, and back to a master that was away.

    Args:
        consumer_offsets: of groups.
        delay_offsets: of levels.
        timers: checkpoint and counts.
        has_timers: whether there are timers at all (`timerWheelEnable`).
    """

    def __init__(
        self,
        consumer_offsets: ConsumerOffsetManager,
        delay_offsets: DelayOffsetManager,
        timers: TimerMessageStore,
        *,
        has_timers: bool,
    ) -> None:
        self.has_timers = has_timers
        self._consumer_offsets = consumer_offsets
        self._delay_offsets = delay_offsets
        self._timers = timers

    async def take_consumer_offsets(self, answered: Answered) -> None:
        """Take the answer of GET_ALL_CONSUMER_OFFSET in."""
        self._consumer_offsets.adopt(decode_body(answered.body, ConsumerOffsetFile))
        await self._consumer_offsets.table.persist_soon()

    async def take_delay_offsets(self, answered: Answered) -> None:
        """Take the answer of GET_ALL_DELAY_OFFSET in."""
        self._delay_offsets.adopt(decode_body(answered.body, DelayOffsetFile), answered.log_end)
        await self._delay_offsets.table.persist_soon()

    async def take_timer_checkpoint(self, answered: Answered) -> None:
        """Take the answer of GET_TIMER_CHECK_POINT in."""
        await self._timers.adopt(_decode_checkpoint(answered.body), answered.log_end)

    async def take_timer_metrics(self, answered: Answered) -> None:
        """Take the answer of GET_TIMER_METRICS in."""
        if self._timers.metrics.adopt(answered.body):
            await self._timers.metrics.table.persist_soon()

    # --- the way back -------------------------------------------------------------------------------------------------

    def take_back_consumer_offsets(self, body: bytes) -> None:
        """Take over what groups committed to a slave while this master was away, where it is further."""
        mine = self._consumer_offsets.snapshot()
        theirs = decode_body(body, ConsumerOffsetFile)
        theirs.offset_table = {
            key: {queue: max(offset, mine.get(key, {}).get(queue, offset)) for queue, offset in queues.items()}
            | {queue: offset for queue, offset in mine.get(key, {}).items() if queue not in queues}
            for key, queues in theirs.offset_table.items()
        }
        theirs.data_version = self._consumer_offsets.data_version
        self._consumer_offsets.adopt(theirs)

    def take_back_delay_offsets(self, body: bytes) -> None:
        """Take over how far a slave delivered levels while this master was away, where it is further."""
        mine = self._delay_offsets.offsets()
        theirs = decode_body(body, DelayOffsetFile)
        theirs.offset_table = {
            level: max(offset, mine.get(level, offset)) for level, offset in theirs.offset_table.items()
        }
        theirs.data_version = self._delay_offsets.data_version
        self._delay_offsets.adopt(theirs, 0)

    async def take_back_timer_checkpoint(self, body: bytes) -> None:
        """Take over how far a slave delivered timers while this master was away, if it did."""
        theirs = _decode_checkpoint(body)
        if theirs.last_read_time_ms > self._timers.checkpoint.last_read_time_ms:
            await self._timers.adopt(theirs, 0)

    def copies(self) -> list[MetadataCopy]:
        """Return all of them, in the order in which they are asked for."""
        found = [
            MetadataCopy("consumer offsets", RequestCode.GET_ALL_CONSUMER_OFFSET, self.take_consumer_offsets),
            MetadataCopy("delay offsets", RequestCode.GET_ALL_DELAY_OFFSET, self.take_delay_offsets),
        ]
        if self.has_timers:
            found += [
                MetadataCopy("timer checkpoint", RequestCode.GET_TIMER_CHECK_POINT, self.take_timer_checkpoint),
                MetadataCopy("timer metrics", RequestCode.GET_TIMER_METRICS, self.take_timer_metrics),
            ]
        return found


def _decode_checkpoint(body: bytes) -> TimerCheckpoint:
    if not 32 <= len(body) <= CHECKPOINT_LAYOUT.size:
        raise ValueError(f"a timer checkpoint has 32 to {CHECKPOINT_LAYOUT.size} bytes, not {len(body)}")
    return TimerCheckpoint.decode(body)
