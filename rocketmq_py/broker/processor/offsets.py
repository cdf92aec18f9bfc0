"""Processors of consumer offsets (14, 15) and of positions in a queue (29 to 32).

Source: `ConsumerManageProcessor`, `AdminBrokerProcessor`, RocketMQ 5.3.
"""

from __future__ import annotations

from rocketmq_py.broker.consumer_offset import ConsumerOffsetManager
from rocketmq_py.broker.refusal import Refusal
from rocketmq_py.broker.subscriptions import Subscriptions
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.remoting.answer import answer
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.header import decode_header
from rocketmq_py.remoting.headers import offsets as headers
from rocketmq_py.remoting.processors import Processors, Request
from rocketmq_py.store.message_store import MessageStore
from rocketmq_py.store.offset_search import BoundaryType

NOT_FOUND_NOT_ZERO = "Not found, do not set to zero, maybe this group boot first"
NOT_FOUND = "Not found, V3_0_6_SNAPSHOT maybe this group consumer boot first"


class ConsumerOffsetProcessor:
    """Answers QUERY_CONSUMER_OFFSET and UPDATE_CONSUMER_OFFSET."""

    def __init__(
        self,
        offsets: ConsumerOffsetManager,
        topics: TopicConfigManager,
        subscriptions: Subscriptions,
        store: MessageStore,
    ) -> None:
        self._offsets = offsets
        self._topics = topics
        self._subscriptions = subscriptions
        self._store = store

    def register(self, processors: Processors) -> None:
        """Register the two codes."""
        processors.register(RequestCode.QUERY_CONSUMER_OFFSET, self.query)
        processors.register(RequestCode.UPDATE_CONSUMER_OFFSET, self.update)

    def query(self, request: Request) -> RemotingCommand:
        """Return a group's offset, or 0 for a new group on a queue that still has its first messages at hand."""
        header = decode_header(headers.QueryConsumerOffsetRequestHeader, request.command.ext_fields)
        offset = self._offsets.query(header.consumer_group, header.topic, header.queue_id)
        if offset < 0:
            if header.set_zero_if_not_found is False:
                return Refusal(ResponseCode.QUERY_NOT_FOUND, NOT_FOUND_NOT_ZERO).to_response()
            if not self._is_young(header.topic, header.queue_id):
                return Refusal(ResponseCode.QUERY_NOT_FOUND, NOT_FOUND).to_response()
            offset = 0
        return answer(header=headers.OffsetResponseHeader(offset=offset))

    def _is_young(self, topic: str, queue_id: int) -> bool:
        """Tell whether message 0 of the queue exists and is near the end of the log.

        By this rule a new group reads a young queue from its beginning, whatever it is set to.
        """
        if self._store.min_offset(topic, queue_id) > 0 or self._store.max_offset(topic, queue_id) == 0:
            return False
        return self._store.is_in_memory(topic, queue_id, 0)

    def update(self, request: Request) -> RemotingCommand:
        """Store a group's offset; ignored while an administrator's reset waits for the group."""
        header = decode_header(headers.UpdateConsumerOffsetRequestHeader, request.command.ext_fields)
        group, topic = header.consumer_group, header.topic
        if not self._subscriptions.knows_group(group):
            return Refusal(ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST, f"Group {group} not exist!").to_response()
        if self._topics.select(topic) is None:
            return Refusal(ResponseCode.TOPIC_NOT_EXIST, f"Topic {topic} not exist!").to_response()
        if header.queue_id is None:
            return Refusal(ResponseCode.INVALID_PARAMETER, f"QueueId is null, topic is {topic}").to_response()
        if header.commit_offset is None:
            return Refusal(ResponseCode.INVALID_PARAMETER, f"Offset is null, topic is {topic}").to_response()
        if self._offsets.has_reset(group, topic, header.queue_id):
            return answer(remark="Offset has been previously reset")
        self._offsets.commit(group, topic, header.queue_id, header.commit_offset)
        return answer()


class QueueOffsetProcessor:
    """Answers what the store knows about the positions in a queue."""

    def __init__(self, store: MessageStore) -> None:
        self._store = store

    def register(self, processors: Processors) -> None:
        """Register the four codes."""
        processors.register(RequestCode.SEARCH_OFFSET_BY_TIMESTAMP, self.search)
        processors.register(RequestCode.GET_MAX_OFFSET, self.maximum)
        processors.register(RequestCode.GET_MIN_OFFSET, self.minimum)
        processors.register(RequestCode.GET_EARLIEST_MSG_STORETIME, self.earliest_store_time)

    async def search(self, request: Request) -> RemotingCommand:
        """Return the offset of a store time, found by bisection; see `MessageStore.offset_by_time`."""
        header = decode_header(headers.SearchOffsetRequestHeader, request.command.ext_fields)
        # As in RocketMQ, every other text than "upper" means LOWER.
        is_upper = (header.boundary_type or "").upper() == BoundaryType.UPPER.value
        boundary = BoundaryType.UPPER if is_upper else BoundaryType.LOWER
        offset = await self._store.offset_by_time(header.topic, header.queue_id, header.timestamp, boundary)
        return answer(header=headers.OffsetResponseHeader(offset=offset))

    def maximum(self, request: Request) -> RemotingCommand:
        """Return the next offset to be written."""
        header = decode_header(headers.GetMaxOffsetRequestHeader, request.command.ext_fields)
        return answer(header=headers.OffsetResponseHeader(offset=self._store.max_offset(header.topic, header.queue_id)))

    def minimum(self, request: Request) -> RemotingCommand:
        """Return the first offset that still exists."""
        header = decode_header(headers.GetMinOffsetRequestHeader, request.command.ext_fields)
        return answer(header=headers.OffsetResponseHeader(offset=self._store.min_offset(header.topic, header.queue_id)))

    def earliest_store_time(self, request: Request) -> RemotingCommand:
        """Return when the first message that still exists was stored; -1 for an empty queue."""
        header = decode_header(headers.GetEarliestMsgStoretimeRequestHeader, request.command.ext_fields)
        minimum = self._store.min_offset(header.topic, header.queue_id)
        stored = self._store.store_time(header.topic, header.queue_id, minimum)
        return answer(header=headers.GetEarliestMsgStoretimeResponseHeader(timestamp=stored))
