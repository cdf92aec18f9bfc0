"""The ordinary path of a send (10, 310, 320): any header form, any property, hooks, new topics, batches.

It makes a `Draft` of the request, lets the hooks change it, and appends it in the same tick as the hot path does. No
await lies between the request and the append unless a topic was created: messages of one connection keep their order.

Source: `SendMessageProcessor`, RocketMQ 5.3.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.refusal import Refusal
from rocketmq_py.broker.send_hooks import SendContext, SendHooks, join_triggers
from rocketmq_py.broker.send_message import (
    BROKER_OWNED,
    MAX_BATCH_MESSAGES,
    RESULTS,
    SPECIAL_PROPERTIES,
    STORED,
    SendChecks,
    Target,
    batch_suffixes,
    illegal_message,
    stored_properties,
    stored_suffix,
    tags_code,
    unavailable,
    unsupported,
    without_owned,
)
from rocketmq_py.broker.statistics import BrokerStatsManager
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.common import properties as names
from rocketmq_py.common import sys_flag as flags
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.java import parse_bool
from rocketmq_py.common.message_batch import BatchItem, decode_batch
from rocketmq_py.common.message_id import UniqueIds, create_offset_id
from rocketmq_py.common.properties import MAX_PROPERTIES_LENGTH, decode_properties, find_property
from rocketmq_py.common.record import MAX_V1_TOPIC_LENGTH
from rocketmq_py.common.topic import is_retry_topic
from rocketmq_py.remoting.answer import answer
from rocketmq_py.remoting.bodies.topic_config import MULTI_TAG
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.header import decode_header
from rocketmq_py.remoting.headers.send import (
    SendMessageRequestHeader,
    SendMessageRequestHeaderV2,
    SendMessageResponseHeader,
)
from rocketmq_py.remoting.processors import DEFERRED, Answer, Processors, Request
from rocketmq_py.store.commit_log import CommitLog
from rocketmq_py.store.draft import Draft
from rocketmq_py.store.put_message import MessagePutter
from rocketmq_py.store.put_result import PutMessageResult, PutMessageStatus

#: Transaction types that have a place in their queue; a prepared message has none, unless a hook makes one of it.
_QUEUED: Final = (flags.TRANSACTION_NOT, flags.TRANSACTION_COMMIT)


class SendMessageProcessor:
    """Answers sends.

    Attributes:
        refusals: what a client is told of a verdict of the put hooks that a later stage has installed.
        on_stored: called with each single message that was stored and the header of its answer, before that is sent.
    """

    def __init__(
        self,
        *,
        config: BrokerConfig,
        max_message_size: int,
        log: CommitLog,
        checks: SendChecks,
        topics: TopicConfigManager,
        hooks: SendHooks,
        statistics: BrokerStatsManager,
        putter: MessagePutter,
        unique_ids: UniqueIds,
    ) -> None:
        self.refusals: dict[PutMessageStatus, Callable[[], Refusal]] = {}
        self.on_stored: list[Callable[[Draft, SendMessageResponseHeader], None]] = []
        self._config = config
        self._max_message_size = max_message_size
        self._log = log
        self._checks = checks
        self._topics = topics
        self._hooks = hooks
        self._statistics = statistics
        self._putter = putter
        self._unique_ids = unique_ids
        self._suffix = stored_suffix(config)
        self._has_special = join_triggers(SPECIAL_PROPERTIES)

    def register(self, processors: Processors) -> None:
        """Register the three codes. What makes a batch is the header's flag, not the code."""
        for code in (RequestCode.SEND_MESSAGE, RequestCode.SEND_MESSAGE_V2, RequestCode.SEND_BATCH_MESSAGE):
            processors.register(code, self.process_request, "send")

    def process_request(self, request: Request) -> Answer | Awaitable[Answer]:
        """Check a send and append it."""
        header = send_header(request.command)
        target = self._checks.refuse_broker(request.received_ms) or self._checks.check(
            header, request.connection.remote_address
        )
        if isinstance(target, Refusal):
            return self._refuse(target)
        if target.is_new_topic:
            return self._send_to_new_topic(request, header, target)
        return self._send(request, header, target)

    async def _send_to_new_topic(self, request: Request, header: SendMessageRequestHeader, target: Target) -> Answer:
        # An acknowledged message must not lie in a topic that a crash forgets.
        await self._topics.persist()
        result = self._send(request, header, target)
        return await result if isinstance(result, Awaitable) else result

    def _send(self, request: Request, header: SendMessageRequestHeader, target: Target) -> Answer | Awaitable[Answer]:
        if header.batch:
            return self._send_batch(request, header, target)
        draft = self._draft(request, header, target)
        if isinstance(draft, Refusal):
            return self._refuse(draft)
        context = SendContext(header, target.config, draft, request.connection.remote_address, request.command.version)
        refusal = self._hooks.apply(context)
        if refusal is not None:
            return self._refuse(refusal)
        append = partial(self._append, request, target, [draft], draft.properties.get(names.UNIQ_KEY))
        return self._after_persist(append) if context.has_new_topic else append()

    async def _after_persist(self, append: Callable[[], Answer]) -> Answer:
        await self._topics.persist()
        return append()

    # --- one message --------------------------------------------------------------------------------------------------

    def _draft(self, request: Request, header: SendMessageRequestHeader, target: Target) -> Draft | Refusal:
        """Make the draft of a single message."""
        body = bytes(request.command.body)
        if not body:
            return Refusal(ResponseCode.SYSTEM_ERROR, "the message has no body")
        if len(body) > self._max_message_size:
            return illegal_message(self._max_message_size)
        client = (header.properties or "").encode()
        decision = decode_properties(client)
        if refusal := self._refuse_properties(client, decision):
            return refusal
        stored = self._stored(client, decision)
        if len(stored) > MAX_PROPERTIES_LENGTH:
            return illegal_message(self._max_message_size)
        sys_flag = self._sys_flag(header, target)
        return Draft(
            topic=header.topic,
            queue_id=target.queue_id,
            body=body,
            properties=decision,
            stored_properties=stored,
            flag=header.flag,
            sys_flag=sys_flag,
            born_timestamp=header.born_timestamp,
            born_host=request.connection.born_host,
            reconsume_times=header.reconsume_times or 0,
            tags_code=tags_code(decision.get(names.TAGS, "")),
            wait=parse_bool(decision.get(names.WAIT, "true")),
            units=1 if flags.transaction_type(sys_flag) in _QUEUED else 0,
        )

    def _refuse_properties(self, client: bytes, decision: dict[str, str]) -> Refusal | None:
        if names.INNER_NUM in decision:
            return illegal_message(self._max_message_size)
        return unsupported(decision, (*self._hooks.triggers, *self._putter.hooks.triggers))

    def _stored(self, client: bytes, decision: dict[str, str]) -> bytes:
        """Return the stored properties, and bring the decision properties to the same state."""
        if self._has_special(b"\x02" + client):
            client = without_owned(client)
            for name in BROKER_OWNED:
                decision.pop(name, None)
        if names.UNIQ_KEY not in decision:
            decision[names.UNIQ_KEY] = self._unique_ids.create()
            unique = f"{names.UNIQ_KEY}\x01{decision[names.UNIQ_KEY]}\x02".encode()
            return stored_properties(client, unique + self._suffix)
        return stored_properties(client, self._suffix)

    def _sys_flag(self, header: SendMessageRequestHeader, target: Target) -> int:
        return header.sys_flag | (flags.MULTI_TAGS if target.config.topic_filter_type == MULTI_TAG else 0)

    # --- a batch ------------------------------------------------------------------------------------------------------

    def _send_batch(self, request: Request, header: SendMessageRequestHeader, target: Target) -> Answer:
        """Append all messages of a batch, or none."""
        client = (header.properties or "").encode()
        decision = decode_properties(client)
        items = self._batch_items(header, decision, bytes(request.command.body))
        if isinstance(items, Refusal):
            return self._refuse(items)
        own = without_owned(client) if self._has_special(b"\x02" + client) else client
        suffix, suffix_with_key = batch_suffixes(own, self._suffix)
        drafts = []
        for item in items:
            has_key = find_property(item.properties, names.UNIQ_KEY.encode()) is not None
            stored = stored_properties(item.properties, suffix if has_key else suffix_with_key)
            if len(stored) > MAX_PROPERTIES_LENGTH or len(item.body) > self._max_message_size:
                return self._refuse(illegal_message(self._max_message_size))
            properties = decode_properties(item.properties)
            drafts.append(
                Draft(
                    topic=header.topic,
                    queue_id=target.queue_id,
                    body=item.body,
                    properties=properties,
                    stored_properties=stored,
                    flag=item.flag,
                    sys_flag=self._sys_flag(header, target),
                    born_timestamp=header.born_timestamp,
                    born_host=request.connection.born_host,
                    reconsume_times=header.reconsume_times or 0,
                    tags_code=tags_code(properties.get(names.TAGS, "")),
                    wait=parse_bool(decision.get(names.WAIT, "true")),
                )
            )
        return self._append(request, target, drafts, decision.get(names.UNIQ_KEY), is_batch=True)

    def _batch_items(
        self, header: SendMessageRequestHeader, decision: dict[str, str], body: bytes
    ) -> list[BatchItem] | Refusal:
        """Split a batch after the checks of a batch as a whole."""
        topic = header.topic
        if len(topic.encode()) > MAX_V1_TOPIC_LENGTH:
            return Refusal(ResponseCode.MESSAGE_ILLEGAL, f"message topic length too long {len(topic)}")
        if is_retry_topic(topic):
            return Refusal(ResponseCode.MESSAGE_ILLEGAL, f"batch request does not support retry group {topic}")
        special = names.DELAY in decision or names.TRAN_MSG in decision or names.INNER_NUM in decision
        if special or flags.transaction_type(header.sys_flag) or not 0 < len(body) <= self._max_message_size:
            return illegal_message(self._max_message_size)
        try:
            return decode_batch(body, MAX_BATCH_MESSAGES)
        except InvalidInputError as error:
            return Refusal(ResponseCode.MESSAGE_ILLEGAL, str(error))

    # --- append and answer --------------------------------------------------------------------------------------------

    def _append(
        self,
        request: Request,
        target: Target,
        drafts: list[Draft],
        transaction_id: str | None,
        is_batch: bool = False,
    ) -> Answer:
        """Append drafts in one go; the answer follows when the store says that they are as safe as it promises."""

        def done(result: PutMessageResult) -> None:
            request.reply(self._answer(result, target, drafts, transaction_id, is_batch))

        self._putter.put(drafts, done)
        return DEFERRED

    def _answer(
        self,
        result: PutMessageResult,
        target: Target,
        drafts: list[Draft],
        transaction_id: str | None,
        is_batch: bool,
    ) -> RemotingCommand:
        if result.status not in STORED:
            return self._refuse(self._refusal(result.status))
        size = sum(len(draft.body) for draft in drafts)
        self._statistics.topic_put(drafts[0].topic).add(len(drafts), size)
        code, remark = RESULTS[result.status]
        header = SendMessageResponseHeader(
            msg_id=",".join(create_offset_id(self._log.store_host, offset) for offset in result.physical_offsets),
            queue_id=target.queue_id,
            queue_offset=result.queue_offset,
            transaction_id=transaction_id,
        )
        if not is_batch:
            for fill_in in self.on_stored:
                fill_in(drafts[0], header)
        return self._with_region(answer(code, remark, header=header))

    def _refusal(self, status: PutMessageStatus) -> Refusal:
        if status in self.refusals:
            return self.refusals[status]()
        if status in (PutMessageStatus.MESSAGE_ILLEGAL, PutMessageStatus.PROPERTIES_SIZE_EXCEEDED):
            return illegal_message(self._max_message_size)
        if status is PutMessageStatus.SERVICE_NOT_AVAILABLE:
            why = self._putter.refusal
            return unavailable(f"[{why}]" if why else "")
        code, remark = RESULTS.get(status, (ResponseCode.SYSTEM_ERROR, "UNKNOWN_ERROR DEFAULT"))
        return Refusal(code, remark or "")

    def _refuse(self, refusal: Refusal) -> RemotingCommand:
        return self._with_region(refusal.to_response())

    def _with_region(self, response: RemotingCommand) -> RemotingCommand:
        """Add what every answer to a send carries."""
        response.ext_fields[names.MSG_REGION] = self._config.region_id
        response.ext_fields[names.TRACE_ON] = "true" if self._config.trace_on else "false"
        return response


def send_header(command: RemotingCommand) -> SendMessageRequestHeader:
    """Return the header of a send in its long form; code 10 has long names on the wire, the other two short ones."""
    if command.code == RequestCode.SEND_MESSAGE:
        return decode_header(SendMessageRequestHeader, command.ext_fields)
    return decode_header(SendMessageRequestHeaderV2, command.ext_fields).to_v1()
