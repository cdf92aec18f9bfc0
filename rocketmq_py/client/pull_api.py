"""One pull: the request, the answer, and the messages in it.

The broker chooses by the hash codes of tags, and two tags may share one; the client therefore compares the tags
themselves, here, before anyone sees the messages.

Source: `PullAPIWrapper`, `MQClientAPIImpl#processPullResponse`, RocketMQ 5.3.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from rocketmq_py.client.errors import BrokerResponseError, ClientError, NoBrokerError
from rocketmq_py.client.instance import FoundBroker, MQClientInstance
from rocketmq_py.common import properties as names
from rocketmq_py.common import sys_flag as flags
from rocketmq_py.common.compression import decompress
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.message import MessageExt, MessageQueue
from rocketmq_py.common.record import decode_records
from rocketmq_py.remoting.bodies.heartbeat import CheckClientRequestBody
from rocketmq_py.remoting.bodies.subscription import SubscriptionData, is_tag_type
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.errors import RemotingError
from rocketmq_py.remoting.header import decode_header, encode_header
from rocketmq_py.remoting.headers.pull import PullMessageRequestHeader, PullMessageResponseHeader
from rocketmq_py.remoting.java_json import encode_body

#: Largest body that is made of a compressed one.
MAX_BODY_SIZE: Final = 64 << 20
#: Property of a message whose body is as it was stored, because it could not be decompressed: why not. It exists in this
#: process only.
UNREADABLE: Final = names.TRANSIENT_PREFIX + "UNREADABLE"


class PullStatus(enum.Enum):
    """What an answer means."""

    FOUND = "messages"
    NO_NEW_MSG = "the queue ends here"
    NO_MATCHED_MSG = "what was looked at is not wanted"
    OFFSET_ILLEGAL = "the offset is outside the queue"


_STATUSES: Final = {
    ResponseCode.SUCCESS: PullStatus.FOUND,
    ResponseCode.PULL_NOT_FOUND: PullStatus.NO_NEW_MSG,
    ResponseCode.PULL_RETRY_IMMEDIATELY: PullStatus.NO_MATCHED_MSG,
    ResponseCode.PULL_OFFSET_MOVED: PullStatus.OFFSET_ILLEGAL,
}


@dataclass(slots=True)
class PullResult:
    """Answer of one pull.

    Attributes:
        status: what it means.
        next_begin_offset: where to go on, units.
        min_offset, max_offset: the ends of the queue.
        messages: what was found and is wanted.
    """

    status: PullStatus
    next_begin_offset: int
    min_offset: int
    max_offset: int
    messages: list[MessageExt] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class PullRequest:
    """One pull to make.

    Attributes:
        queue: where.
        offset: from where, units.
        max_messages, max_bytes: how much at most.
        commit_offset: progress to store with it; None for none.
        suspend_millis: how long the broker may hold the request if there is nothing; 0: not at all.
        timeout: seconds to wait for the answer.
        sends_subscription: whether the expression travels along; else that of the last heartbeat counts.
        is_lite: asks with the code of lite pull consumers.
    """

    queue: MessageQueue
    offset: int
    max_messages: int = 32
    max_bytes: int = 256 << 10
    commit_offset: int | None = None
    suspend_millis: int = 0
    timeout: float = 30.0
    sends_subscription: bool = False
    is_lite: bool = False


class PullApi:
    """Pulls for one group.

    Args:
        instance: connections and routes.
        group: the consumer group.
        keeps_unreadable: a message whose body cannot be decompressed comes with the property `UNREADABLE`; otherwise it
            makes the pull fail.

    Attributes:
        filter_hooks: each may drop messages of a list that was pulled.
    """

    def __init__(self, instance: MQClientInstance, group: str, *, keeps_unreadable: bool = False) -> None:
        self.filter_hooks: list[Callable[[list[MessageExt]], list[MessageExt]]] = []
        self._instance = instance
        self._group = group
        self._keeps_unreadable = keeps_unreadable
        # The broker process that was last suggested for a queue: a slave, if the master has better things to do.
        self._suggested: dict[MessageQueue, int] = {}

    async def pull(self, request: PullRequest, subscription: SubscriptionData) -> PullResult:
        """Pull once.

        Raises:
            NoBrokerError: no address of the queue's broker is known.
            BrokerResponseError: the broker refused.
            RemotingError: it did not answer.
            CorruptDataError: what it sent are no records.
            InvalidInputError: the body of a message cannot be decompressed, and `keeps_unreadable` is false.
        """
        queue = request.queue
        found = self._instance.find_broker(queue.broker_name, self._suggested.get(queue, 0))
        if found is None:
            await self._instance.update_route(queue.topic)
            found = self._instance.find_broker(queue.broker_name, self._suggested.get(queue, 0))
        if found is None:
            raise NoBrokerError(queue.broker_name)
        try:
            response = await self._ask(found, request, subscription)
        except ConnectionError:
            # Differs from RocketMQ, whose consumers find the slave of a dead master when they next look at the route,
            # after up to 30 s: the name server knows already that the connection is gone.
            other = await self._elsewhere(queue, found)
            if other is None:
                raise
            found = other
            response = await self._ask(found, request, subscription)
        status = _STATUSES.get(ResponseCode(response.code)) if response.code in _KNOWN_CODES else None
        if status is None:
            raise BrokerResponseError(response.code, response.remark, found.address)
        return self._result(status, request, response, subscription)

    async def _ask(self, found: FoundBroker, request: PullRequest, subscription: SubscriptionData) -> RemotingCommand:
        header = self._header(request, subscription, found.is_slave)
        code = RequestCode.LITE_PULL_MESSAGE if request.is_lite else RequestCode.PULL_MESSAGE
        command = RemotingCommand.create_request(code, encode_header(header))
        return await self._instance.request(found.address, command, request.timeout)

    async def _elsewhere(self, queue: MessageQueue, gone: FoundBroker) -> FoundBroker | None:
        """Return another process that has a queue, if the name server knows one now."""
        try:
            route = await self._instance.fetch_route(queue.topic)
            names_now = {data.broker_name for data in route.broker_datas if data.broker_addrs}
            if queue.broker_name not in names_now:
                # A broker without slaves that starts again: the queue is kept, and asked for until the broker is back.
                return None
            await self._instance.update_route(queue.topic)
            found = self._instance.find_broker(queue.broker_name, self._suggested.get(queue, 0))
            if found == gone:
                # The route of another topic, such as the group's retry topic, still has the address.
                await self._instance.update_routes()
        except (ClientError, RemotingError):
            return None
        found = self._instance.find_broker(queue.broker_name, self._suggested.get(queue, 0))
        return found if found is not None and found.address != gone.address else None

    async def check_expression(self, subscription: SubscriptionData) -> None:
        """Ask a broker of the topic whether it can use an SQL92 expression; tags need no asking.

        Raises:
            BrokerResponseError: it cannot, with its reason.
            RemotingError: it did not answer.
        """
        address = self._instance.any_broker_of(subscription.topic)
        if is_tag_type(subscription.expression_type) or address is None:
            return
        body = CheckClientRequestBody(
            client_id=self._instance.client_id, group=self._group, subscription_data=subscription
        )
        await self._instance.ask(address, RequestCode.CHECK_CLIENT_CONFIG, body=encode_body(body))

    def _header(self, request: PullRequest, subscription: SubscriptionData, is_slave: bool) -> PullMessageRequestHeader:
        sys_flag = 0
        # A slave does not keep offsets.
        commits = request.commit_offset is not None and not is_slave
        sys_flag |= flags.PULL_COMMIT_OFFSET if commits else 0
        sys_flag |= flags.PULL_SUSPEND if request.suspend_millis else 0
        sys_flag |= flags.PULL_SUBSCRIPTION if request.sends_subscription else 0
        sys_flag |= flags.PULL_LITE if request.is_lite else 0
        return PullMessageRequestHeader(
            consumer_group=self._group,
            topic=request.queue.topic,
            queue_id=request.queue.queue_id,
            queue_offset=request.offset,
            max_msg_nums=request.max_messages,
            max_msg_bytes=request.max_bytes,
            sys_flag=sys_flag,
            commit_offset=request.commit_offset or 0,
            suspend_timeout_millis=request.suspend_millis,
            subscription=subscription.sub_string if request.sends_subscription else None,
            sub_version=subscription.sub_version,
            expression_type=subscription.expression_type,
            broker_name=request.queue.broker_name,
        )

    def _result(
        self, status: PullStatus, request: PullRequest, response: RemotingCommand, subscription: SubscriptionData
    ) -> PullResult:
        header = decode_header(PullMessageResponseHeader, response.ext_fields)
        self._suggested[request.queue] = header.suggest_which_broker_id
        result = PullResult(status, header.next_begin_offset, header.min_offset, header.max_offset)
        if status is PullStatus.FOUND:
            wanted = frozenset(subscription.tags_set)
            messages = [
                _finish(self._unpack(message), request.queue, header)
                for message in decode_records(memoryview(response.body))
                if not wanted or message.tags in wanted
            ]
            for hook in self.filter_hooks:
                messages = hook(messages)
            result.messages = messages
        return result

    def _unpack(self, message: MessageExt) -> MessageExt:
        if self._keeps_unreadable:
            return unpacked(message)
        message.body = decompress(message.body, message.sys_flag, MAX_BODY_SIZE)
        return message


_KNOWN_CODES: Final = frozenset(int(code) for code in _STATUSES)


def unpacked(message: MessageExt) -> MessageExt:
    """Decompress the body of a message, or note in its property `UNREADABLE` why that cannot be."""
    try:
        message.body = decompress(message.body, message.sys_flag, MAX_BODY_SIZE)
    except InvalidInputError as error:
        message.properties[UNREADABLE] = str(error)
    return message


def _finish(message: MessageExt, queue: MessageQueue, header: PullMessageResponseHeader) -> MessageExt:
    """Make of a stored record the message that an application gets."""
    message.broker_name = queue.broker_name
    message.queue_id = queue.queue_id
    message.queue_offset += header.offset_delta or 0
    message.properties[names.MIN_OFFSET] = str(header.min_offset)
    message.properties[names.MAX_OFFSET] = str(header.max_offset)
    return message
