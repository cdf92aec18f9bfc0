"""Dead letters: what failed as often as it may. Which groups have some, what they are, and sending them again.

    async with AdminClient(namesrv_addr="127.0.0.1:9876") as admin:
        letters = DeadLetterAdmin(admin.instance)
        async for letter in letters.read("Billing"):
            await letters.resend(letter)

A dead letter that is sent again stays where it is until it expires. The new message has its body, its keys and its other
properties, and names the dead letter in two properties that RocketMQ reserves:

    DLQ_ORIGIN_TOPIC        %DLQ%Billing
    DLQ_ORIGIN_MESSAGE_ID   the dead letter's own id

By them a consumer knows what it has before it, and `resend` that it did its work already.

Source: RocketMQ has no such requests; its dashboard pushes a dead letter to one consumer that is online
(CONSUME_MESSAGE_DIRECTLY), and nothing is kept when that fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

from rocketmq_py.client.admin.consumers import ConsumerAdmin, brokers_of
from rocketmq_py.client.admin.messages import MessageAdmin
from rocketmq_py.client.admin.offsets import OffsetAdmin
from rocketmq_py.client.admin.topics import TopicAdmin
from rocketmq_py.client.errors import BrokerResponseError, ClientError, NoBrokerError, NoRouteError
from rocketmq_py.client.instance import MQClientInstance
from rocketmq_py.client.pull_api import UNREADABLE, PullApi, PullRequest, PullStatus
from rocketmq_py.client.pull_consumer import PULL_SECONDS
from rocketmq_py.client.send_back import InnerProducer
from rocketmq_py.client.send_result import SendResult
from rocketmq_py.common import properties as names
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.message import Message, MessageExt, MessageQueue
from rocketmq_py.common.message_id import parse_offset_id
from rocketmq_py.common.topic import DLQ_TOPIC_PREFIX, dlq_topic, is_dlq_topic, retry_topic, validate_group
from rocketmq_py.remoting.bodies.consume_queue import QueryConsumeQueueResponseBody
from rocketmq_py.remoting.bodies.consumer_running_info import PROP_CONSUMEORDERLY, ConsumerRunningInfo
from rocketmq_py.remoting.bodies.subscription import build_subscription
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.errors import RemotingError
from rocketmq_py.remoting.header import encode_header
from rocketmq_py.remoting.headers.admin_consumer import GetConsumerRunningInfoRequestHeader
from rocketmq_py.remoting.headers.pull import QueryConsumeQueueRequestHeader
from rocketmq_py.remoting.java_json import decode_body

#: The name under which dead letters are read; it never commits.
READING_GROUP: Final = "TOOLS_CONSUMER"
#: Dead letters of one read.
BATCH: Final = 32

#: What a message that is sent again does not take along: how and how long it waited, and what the broker says anew.
_LEFT_BEHIND: Final = frozenset(
    (
        *(names.DELAY, names.REAL_TOPIC, names.REAL_QID, names.WAIT, names.TRAN_MSG),
        *(names.RECONSUME_TIME, names.MAX_RECONSUME_TIMES, names.CONSUME_START_TIME),
        *(names.MIN_OFFSET, names.MAX_OFFSET, names.CRC32, names.MSG_REGION, names.TRACE_ON, names.CLUSTER),
        *(names.POP_CK, names.POP_CK_OFFSET, names.FIRST_POP_TIME, names.INNER_NUM, names.INNER_BASE),
        *(names.INNER_MULTI_DISPATCH, names.INNER_MULTI_QUEUE_OFFSET, names.TRANSACTION_CHECK_TIMES),
        *(names.TRANSIENT_TOPIC_CONFIG, names.TRANSIENT_GROUP_CONFIG),
    )
)
_TIMER: Final = "TIMER_"


@dataclass(frozen=True, slots=True)
class DeadLetterSummary:
    """The dead letters of one group.

    Attributes:
        group: the consumer group.
        messages: how many are there; those that were sent again are counted too.
        oldest_ms, newest_ms: when the first and the last of them died, milliseconds since 1970; 0 if there is none.
    """

    group: str
    messages: int
    oldest_ms: int
    newest_ms: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One of them.

    Attributes:
        group: the consumer group that failed.
        message: as it lies in the dead-letter topic; `msg_id` names this copy, `unique_key` all copies.
    """

    group: str
    message: MessageExt

    @property
    def topic(self) -> str:
        """The topic that it was sent to at first."""
        return self.message.properties.get(names.RETRY_TOPIC, "")

    @property
    def origin_message_id(self) -> str:
        """The id of its first copy."""
        return self.message.properties.get(names.ORIGIN_MESSAGE_ID, "")

    @property
    def tries(self) -> int:
        """How often a listener was given it, by the count in the record: the first time, and each time that it came again."""
        return self.message.reconsume_times

    def again(self, *, to_topic: bool = False) -> Message:
        """Return the message to send.

        Args:
            to_topic: for everybody who consumes the first topic; otherwise for the group that failed.

        Raises:
            ClientError: the dead letter does not say what its first topic was, or its body cannot be read.
        """
        if reason := self.message.properties.get(UNREADABLE):
            raise ClientError(f"dead letter {self.message.msg_id} cannot be sent again, nobody could read it: {reason}")
        if not self.topic:
            raise ClientError(
                f"dead letter {self.message.msg_id} has no property {names.RETRY_TOPIC}: where it was sent is not known"
            )
        properties = {
            name: value
            for name, value in self.message.properties.items()
            if name not in _LEFT_BEHIND and not name.startswith(_TIMER)
        }
        properties[names.DLQ_ORIGIN_TOPIC] = dlq_topic(self.group)
        properties[names.DLQ_ORIGIN_MESSAGE_ID] = self.message.msg_id
        if to_topic:
            del properties[names.RETRY_TOPIC]
        return Message(
            self.topic if to_topic else retry_topic(self.group), self.message.body, properties, self.message.flag
        )


class DeadLetterAdmin:
    """Operations on dead letters.

    All methods raise `BrokerResponseError` if a server refuses and `RemotingError` if one does not answer; those that
    are given a group raise `NoRouteError` if it never had a dead letter.

    Args:
        instance: connections and routes; started.
    """

    def __init__(self, instance: MQClientInstance) -> None:
        self._instance = instance
        self._topics = TopicAdmin(instance)
        self._messages = MessageAdmin(instance)
        self._consumers = ConsumerAdmin(instance)
        self._offsets = OffsetAdmin(instance)
        self._api = PullApi(instance, READING_GROUP, keeps_unreadable=True)

    # --- looking ------------------------------------------------------------------------------------------------------

    async def groups(self) -> list[DeadLetterSummary]:
        """Return a summary for every group that has a dead-letter topic."""
        topics = [topic for topic in await self._topics.names() if is_dlq_topic(topic)]
        return [await self._summary(topic) for topic in topics]

    async def _summary(self, topic: str) -> DeadLetterSummary:
        offsets = (await self._topics.stats(topic)).offset_table
        used = {queue: offset for queue, offset in offsets.items() if offset.max_offset > offset.min_offset}
        oldest = [await self._offsets.earliest_store_time(queue) for queue in used]
        return DeadLetterSummary(
            topic.removeprefix(DLQ_TOPIC_PREFIX),
            sum(offset.max_offset - offset.min_offset for offset in used.values()),
            min((time for time in oldest if time > 0), default=0),
            max((offset.last_update_timestamp for offset in used.values()), default=0),
        )

    async def read(self, group: str, *, newest: int | None = None) -> AsyncIterator[DeadLetter]:
        """Yield the dead letters that a group has now, oldest first in each queue.

        Args:
            group: the consumer group.
            newest: only so many of each queue, the last ones.
        """
        validate_group(group)
        for queue, offset in (await self._topics.stats(dlq_topic(group))).offset_table.items():
            begin = offset.min_offset if newest is None else max(offset.min_offset, offset.max_offset - newest)
            async for message in self._read_queue(queue, begin, offset.max_offset):
                yield DeadLetter(group, message)

    async def newest(self, group: str, count: int) -> list[DeadLetter]:
        """Return the last dead letters of a group over all brokers, oldest first."""
        found = [letter async for letter in self.read(group, newest=count)]
        found.sort(key=lambda letter: letter.message.store_timestamp)
        return found[max(len(found) - count, 0) :]

    async def find(self, group: str, message_id: str) -> list[DeadLetter]:
        """Return the dead letters with an id, oldest first.

        Args:
            group: the consumer group.
            message_id: that of the dead letter itself, or the unique key of the message: that may have died twice.
        """
        validate_group(group)
        topic = dlq_topic(group)
        found = await self._messages.copies(topic, message_id) or await self._at_place(topic, message_id)
        return [DeadLetter(group, message) for message in found]

    async def _at_place(self, topic: str, message_id: str) -> list[MessageExt]:
        """Return the message of an offset id. The brokers are asked under the addresses that they have now."""
        try:
            _, offset = parse_offset_id(message_id)
        except InvalidInputError:
            return []
        found = []
        for address in brokers_of(await self._topics.route(topic)):
            try:
                message = await self._messages.at_offset(address, offset)
            except BrokerResponseError:
                continue
            if message is not None and (message.msg_id, message.topic) == (message_id.upper(), topic):
                found.append(message)
        return found

    async def _read_queue(self, queue: MessageQueue, begin: int, end: int) -> AsyncIterator[MessageExt]:
        await self._instance.update_route(queue.topic)
        read = self._pull
        offset = begin
        while offset < end:
            try:
                messages, offset = await read(queue, offset)
            except BrokerResponseError as error:
                if error.code != ResponseCode.NO_PERMISSION or read == self._look_up:
                    raise
                # Brokers up to 4.9.1 make dead-letter topics that nobody may read.
                read = self._look_up
                continue
            for message in messages:
                if message.queue_offset < end:
                    yield message

    async def _pull(self, queue: MessageQueue, offset: int) -> tuple[Sequence[MessageExt], int]:
        request = PullRequest(
            queue=queue, offset=offset, max_messages=BATCH, timeout=PULL_SECONDS, sends_subscription=True
        )
        result = await self._api.pull(request, build_subscription(queue.topic, "*"))
        messages = result.messages if result.status is PullStatus.FOUND else ()
        return messages, max(result.next_begin_offset, offset + 1)

    async def _look_up(self, queue: MessageQueue, offset: int) -> tuple[Sequence[MessageExt], int]:
        """Read without permission: the units of the queue say where the messages are."""
        address = self._instance.master_address(queue.broker_name)
        if address is None:
            raise NoBrokerError(queue.broker_name)
        header = QueryConsumeQueueRequestHeader(
            topic=queue.topic, queue_id=queue.queue_id, index=offset, count=BATCH, consumer_group=READING_GROUP
        )
        response = await self._instance.ask(address, RequestCode.QUERY_CONSUME_QUEUE, encode_header(header))
        units = decode_body(response.body, QueryConsumeQueueResponseBody).queue_data
        found = [await self._messages.at_offset(address, unit.physic_offset) for unit in units]
        return [message for message in found if message is not None], offset + max(len(units), 1)

    # --- sending again ------------------------------------------------------------------------------------------------

    async def sent_again(self, letter: DeadLetter) -> int:
        """Return when a dead letter was sent again, milliseconds since 1970; 0 if it was not, or that has expired.

        It is found by its unique key, so of a message without one nothing is known.
        """
        key = letter.message.unique_key
        if not key:
            return 0
        times = [0]
        for topic in (retry_topic(letter.group), letter.topic):
            try:
                copies = await self._messages.copies(topic, key) if topic else []
            except NoRouteError:
                continue
            times += [
                copy.store_timestamp
                for copy in copies
                if copy.properties.get(names.DLQ_ORIGIN_MESSAGE_ID) == letter.message.msg_id
                and not copy.reconsume_times
            ]
        return max(times)

    async def resend(self, letter: DeadLetter, *, to_topic: bool = False, again: bool = False) -> SendResult | None:
        """Send a dead letter again: its consumer gets it with the count of tries at zero, now or when it is there.

        Args:
            letter: stays where it is.
            to_topic: send it to its first topic, where every group gets it; otherwise only its own group does.
            again: also if it was sent again before.

        Returns:
            Where it is stored; None if it was sent again before.

        Raises:
            ClientError: it does not say where it was sent to at first.
            SendFailedError, SendTimeoutError: see `Producer.send`.
        """
        message = letter.again(to_topic=to_topic)
        if not again and await self.sent_again(letter):
            return None
        producer = await InnerProducer.of(self._instance)
        return await producer.send(message)

    async def consumes_in_order(self, group: str) -> bool:
        """Tell whether a member of a group that is online consumes in order.

        A broker makes a dead letter of whatever is sent to the retry topic of such a group.
        """
        try:
            await self._instance.update_route(retry_topic(group))
            connection = await self._consumers.connections(group)
            members = [] if connection is None else [member.client_id for member in connection.connection_set]
            answers = await asyncio.gather(*(self._is_in_order(group, client_id) for client_id in members[:BATCH]))
        except NoRouteError:
            return False
        return any(answers)

    async def _is_in_order(self, group: str, client_id: str) -> bool:
        address = self._instance.any_broker_of(retry_topic(group))
        if address is None:
            return False
        header = GetConsumerRunningInfoRequestHeader(consumer_group=group, client_id=client_id)
        try:
            response = await self._instance.ask(address, RequestCode.GET_CONSUMER_RUNNING_INFO, encode_header(header))
        except (BrokerResponseError, RemotingError):
            # Clients of other languages may not answer that.
            return False
        info = ConsumerRunningInfo.decode(bytes(response.body))
        return info.properties.get(PROP_CONSUMEORDERLY) == "true"
