"""RECALL_MESSAGE (370): a producer takes a message back that waits for its time.

Nothing is searched. A deletion is put into the wheel for the same second as the message; when that second comes, the two
meet. So success means that the deletion is stored, not that the message was still there.

Source: `RecallMessageProcessor`, RocketMQ 5.3.2.
"""

from __future__ import annotations

from typing import Final

from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.refusal import Refusal
from rocketmq_py.broker.statistics import BrokerStatsManager
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.common import properties as names
from rocketmq_py.common.environment import Clock
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.java import parse_i64, string_hash
from rocketmq_py.common.permission import is_writeable
from rocketmq_py.common.properties import encode_properties
from rocketmq_py.common.recall_handle import RecallMessageHandle
from rocketmq_py.remoting.answer import answer
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.header import decode_header
from rocketmq_py.remoting.headers.recall import RecallMessageRequestHeader, RecallMessageResponseHeader
from rocketmq_py.remoting.processors import Processors, Request
from rocketmq_py.store.config import BrokerRole, MessageStoreConfig
from rocketmq_py.store.draft import Draft
from rocketmq_py.store.message_store import MessageStore
from rocketmq_py.store.timer.timer_records import build_delete_key

RECALL_MESSAGE_TAG: Final = "_RECALL_TAG_"


class RecallMessageProcessor:
    """Checks a recall, and puts the deletion."""

    def __init__(
        self,
        config: BrokerConfig,
        store_config: MessageStoreConfig,
        clock: Clock,
        store: MessageStore,
        topics: TopicConfigManager,
        statistics: BrokerStatsManager,
    ) -> None:
        self._config = config
        self._store_config = store_config
        self._clock = clock
        self._store = store
        self._topics = topics
        self._statistics = statistics

    def register(self, processors: Processors) -> None:
        """Register the code."""
        processors.register(RequestCode.RECALL_MESSAGE, self.recall, "send")

    async def recall(self, request: Request) -> RemotingCommand:
        """Note that a message is not to be delivered."""
        header = decode_header(RecallMessageRequestHeader, request.command.ext_fields)
        now = self._clock.wall_ms()
        found = self._refuse_broker(now) or self._check(header, now)
        response = await self._put(request, header, found, now) if isinstance(found, RecallMessageHandle) else None
        if response is None:
            response = found.to_response() if isinstance(found, Refusal) else _failed("execute error").to_response()
        response.ext_fields[names.MSG_REGION] = self._config.region_id
        return response

    # --- checks, in RocketMQ's order ----------------------------------------------------------------------------------

    def _refuse_broker(self, now_ms: int) -> Refusal | None:
        config = self._config
        if not config.recall_message_enable:
            return Refusal(ResponseCode.NO_PERMISSION, "recall failed, operation is forbidden")
        unavailable = "recall failed, broker service not available"
        if self._store_config.broker_role is BrokerRole.SLAVE:
            return Refusal(ResponseCode.SLAVE_NOT_AVAILABLE, unavailable)
        is_closed = not is_writeable(config.broker_permission) and not config.allow_recall_when_broker_not_writeable
        if now_ms < config.start_accept_send_request_time_stamp or is_closed:
            return Refusal(ResponseCode.SERVICE_NOT_AVAILABLE, unavailable)
        return None

    def _check(self, header: RecallMessageRequestHeader, now_ms: int) -> RecallMessageHandle | Refusal:
        if self._topics.select(header.topic) is None:
            return Refusal(ResponseCode.TOPIC_NOT_EXIST, f"recall failed, the topic[{header.topic}] not exist")
        try:
            handle = RecallMessageHandle.decode(header.recall_handle)
        except InvalidInputError as error:
            return Refusal(ResponseCode.ILLEGAL_OPERATION, str(error))
        if handle.topic != header.topic:
            return _illegal("topic not match")
        if handle.broker_name != self._config.broker_name:
            return _illegal("broker service not available")
        try:
            left = parse_i64(handle.timestamp) - now_ms
        except InvalidInputError:
            left = -1
        if not 0 < left < self._store_config.timer_max_delay_sec * 1000:
            return _illegal("timestamp invalid")
        return handle

    # --- the deletion -------------------------------------------------------------------------------------------------

    async def _put(
        self, request: Request, header: RecallMessageRequestHeader, handle: RecallMessageHandle, now_ms: int
    ) -> RemotingCommand | None:
        """Put the deletion; None if the store did not take it."""
        try:
            draft = deletion(handle, header.producer_group, now_ms, request.connection.born_host)
        except InvalidInputError:
            # The handle holds a separator of properties.
            return _illegal("timestamp invalid").to_response()
        result = await self._store.put_message(draft)
        if not result.is_stored:
            return None
        self._statistics.topic_put(draft.topic).add(1, len(draft.body))
        return answer(header=RecallMessageResponseHeader(msg_id=handle.message_id))


def deletion(handle: RecallMessageHandle, producer_group: str | None, now_ms: int, born_host: bytes) -> Draft:
    """Return the message that deletes another one.

    Raises:
        InvalidInputError: the handle cannot be put into properties.
    """
    properties = {
        names.TAGS: RECALL_MESSAGE_TAG,
        names.TIMER_DEL_UNIQKEY: build_delete_key(handle.topic, handle.message_id),
        names.UNIQ_KEY: handle.message_id,
        names.TIMER_DELIVER_MS: handle.timestamp,
        names.BORN_TIMESTAMP: str(now_ms),
        names.TRACE_CONTEXT: "",
    }
    if producer_group is not None:
        properties[names.PGROUP] = producer_group
    return Draft(
        topic=handle.topic,
        queue_id=0,
        body=b"0",
        properties=properties,
        stored_properties=encode_properties(properties),
        born_timestamp=now_ms,
        born_host=born_host,
        tags_code=string_hash(RECALL_MESSAGE_TAG),
    )


def _illegal(why: str) -> Refusal:
    return Refusal(ResponseCode.ILLEGAL_OPERATION, f"recall failed, {why}")


def _failed(why: str) -> Refusal:
    return Refusal(ResponseCode.SYSTEM_ERROR, f"recall failed, {why}")
