"""SEND_REPLY_MESSAGE (324, 325): a reply is passed on, over its own connection, to the client that asked.

A reply is a message and a call at once. Its property `REPLY_TO_CLIENT` names a client; the broker looks for a producer
connection of that client and hands the reply over (326). Then it stores the reply, whether it arrived or not, so that
an operator can look at what was answered. Nobody consumes the topic of replies.

Source: `ReplyMessageProcessor`, RocketMQ 5.3.
"""

from __future__ import annotations

import logging
from typing import Final

from rocketmq_py.broker.client.producer_manager import ProducerManager
from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.refusal import Refusal
from rocketmq_py.broker.send_message import (
    STORED,
    SendChecks,
    Target,
    illegal_message,
    stored_properties,
    tags_code,
    without_owned,
)
from rocketmq_py.broker.statistics import BrokerStatsManager
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.common import properties as names
from rocketmq_py.common import sys_flag as flags
from rocketmq_py.common.environment import Clock
from rocketmq_py.common.message_id import create_offset_id
from rocketmq_py.common.properties import MAX_PROPERTIES_LENGTH, decode_properties, encode_properties
from rocketmq_py.remoting.answer import answer
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.errors import RemotingError
from rocketmq_py.remoting.header import decode_header, encode_header
from rocketmq_py.remoting.headers.reply import ReplyMessageRequestHeader
from rocketmq_py.remoting.headers.send import (
    SendMessageRequestHeader,
    SendMessageRequestHeaderV2,
    SendMessageResponseHeader,
)
from rocketmq_py.remoting.processors import Processors, Request
from rocketmq_py.store.commit_log import CommitLog
from rocketmq_py.store.draft import Draft
from rocketmq_py.store.put_message import MessagePutter

logger = logging.getLogger(__name__)

#: Seconds that the client may take to say that it has the reply.
PUSH_SECONDS: Final = 10.0


class ReplyMessageProcessor:
    """Passes replies on, and stores them."""

    def __init__(
        self,
        *,
        config: BrokerConfig,
        max_message_size: int,
        clock: Clock,
        log: CommitLog,
        checks: SendChecks,
        topics: TopicConfigManager,
        producers: ProducerManager,
        statistics: BrokerStatsManager,
        putter: MessagePutter,
    ) -> None:
        self._config = config
        self._max_message_size = max_message_size
        self._clock = clock
        self._log = log
        self._checks = checks
        self._topics = topics
        self._producers = producers
        self._statistics = statistics
        self._putter = putter

    def register(self, processors: Processors) -> None:
        """Register both codes; they differ in the names of the header's fields only."""
        for code in (RequestCode.SEND_REPLY_MESSAGE, RequestCode.SEND_REPLY_MESSAGE_V2):
            processors.register(code, self.process_request, "reply")

    async def process_request(self, request: Request) -> RemotingCommand:
        """Check a reply, pass it on, store it, and answer whether it arrived."""
        header = reply_header(request.command)
        target = self._checks.refuse_broker(request.received_ms) or self._checks.check(
            header, request.connection.remote_address
        )
        if isinstance(target, Refusal):
            return self._with_region(target.to_response())
        draft = self._draft(request, header, target)
        if isinstance(draft, Refusal):
            return self._with_region(draft.to_response())
        if target.is_new_topic:
            await self._topics.persist()
        response = await self._push(request, header, draft)
        if self._config.store_reply_message_enable:
            await self._store(draft, response)
        return self._with_region(response)

    def _draft(self, request: Request, header: SendMessageRequestHeader, target: Target) -> Draft | Refusal:
        # An empty body is an answer, too: the Go client v2.1.2 sends its replies so.
        body = bytes(request.command.body)
        if header.batch:
            return Refusal(ResponseCode.MESSAGE_ILLEGAL, "a reply is one message, not a batch")
        client = without_owned((header.properties or "").encode())
        decision = decode_properties(client)
        # What travels on and what is stored: the client's text, and where it was. The cluster is not added: only who
        # receives a request needs it.
        stored = stored_properties(client, encode_properties(self._region()))
        if len(body) > self._max_message_size or len(stored) > MAX_PROPERTIES_LENGTH or names.INNER_NUM in decision:
            return illegal_message(self._max_message_size)
        return Draft(
            topic=header.topic,
            queue_id=target.queue_id,
            body=body,
            properties=decision,
            stored_properties=stored,
            flag=header.flag,
            # Differs from RocketMQ, which stores a compressed reply without saying that it is compressed.
            sys_flag=header.sys_flag & flags.COMPRESSION_MASK,
            born_timestamp=header.born_timestamp,
            born_host=request.connection.born_host,
            reconsume_times=header.reconsume_times or 0,
            tags_code=tags_code(decision.get(names.TAGS, "")),
        )

    # --- to the client ------------------------------------------------------------------------------------------------

    async def _push(self, request: Request, header: SendMessageRequestHeader, draft: Draft) -> RemotingCommand:
        """Hand a reply to the client that it names, and return what its sender is told."""
        client_id = draft.properties.get(names.REPLY_TO_CLIENT)
        if client_id is None:
            return _failure("reply message properties[REPLY_TO_CLIENT] is null")
        connection = self._producers.find_connection(client_id)
        if connection is None:
            return _failure(f"push reply message fail, channel of <{client_id}> not found.")
        push = RemotingCommand.create_request(
            RequestCode.PUSH_REPLY_MESSAGE_TO_CLIENT,
            encode_header(self._push_header(request, header, draft)),
            draft.body,
        )
        try:
            answered = await connection.request(push, PUSH_SECONDS)
        except RemotingError as error:
            logger.warning("the reply for client %s did not reach it: %s", client_id, error)
            return _failure(f"push reply message to {client_id}fail.")
        if answered.code != ResponseCode.SUCCESS:
            logger.warning("client %s refused a reply with code %d: %s", client_id, answered.code, answered.remark)
            return _failure(f"push reply message to {client_id}fail.")
        return answer(header=SendMessageResponseHeader(msg_id="0", queue_id=draft.queue_id, queue_offset=0))

    def _push_header(
        self, request: Request, header: SendMessageRequestHeader, draft: Draft
    ) -> ReplyMessageRequestHeader:
        now = self._clock.wall_ms()
        pushed = encode_properties({names.PUSH_REPLY_TIME: str(now)})
        return ReplyMessageRequestHeader(
            producer_group=header.producer_group,
            topic=header.topic,
            default_topic=header.default_topic,
            default_topic_queue_nums=header.default_topic_queue_nums,
            queue_id=header.queue_id,
            sys_flag=header.sys_flag,
            born_timestamp=header.born_timestamp,
            flag=header.flag,
            properties=(draft.stored_properties + pushed).decode(),
            reconsume_times=header.reconsume_times,
            unit_mode=header.unit_mode,
            born_host=request.connection.remote_address,
            store_host=self._config.broker_address,
            store_timestamp=now,
        )

    # --- into the log -------------------------------------------------------------------------------------------------

    async def _store(self, draft: Draft, response: RemotingCommand) -> None:
        """Store a reply, and tell where in the response, whose code stays what the push made of it."""
        result = await self._putter.put_message(draft)
        if result.status not in STORED:
            logger.warning("a reply for topic %s was not stored: %s", draft.topic, result.status.name)
            return
        self._statistics.topic_put(draft.topic).add(1, len(draft.body))
        place = SendMessageResponseHeader(
            msg_id=create_offset_id(self._log.store_host, result.physical_offsets[0]),
            queue_id=draft.queue_id,
            queue_offset=result.queue_offset,
        )
        response.ext_fields.update(encode_header(place))

    # --- answers ------------------------------------------------------------------------------------------------------

    def _region(self) -> dict[str, str]:
        return {
            names.MSG_REGION: self._config.region_id,
            names.TRACE_ON: "true" if self._config.trace_on else "false",
        }

    def _with_region(self, response: RemotingCommand) -> RemotingCommand:
        response.ext_fields.update(self._region())
        return response


def _failure(remark: str) -> RemotingCommand:
    return answer(ResponseCode.SYSTEM_ERROR, remark)


def reply_header(command: RemotingCommand) -> SendMessageRequestHeader:
    """Return the header of a reply in its long form; code 324 has long names on the wire, 325 short ones."""
    if command.code == RequestCode.SEND_REPLY_MESSAGE:
        return decode_header(SendMessageRequestHeader, command.ext_fields)
    return decode_header(SendMessageRequestHeaderV2, command.ext_fields).to_v1()
