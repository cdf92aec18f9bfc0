"""Sending failed messages back to the broker, which keeps them and delivers them later.

    1  CONSUMER_SEND_MSG_BACK to the broker that stored the message: it has it already, only a few numbers travel
    2  if that fails: send the message as a new one to the group's retry topic, on any broker
    3  if that fails too: keep it, give it to the listener again after five seconds

After 1 and 2 the consumer is done with the message: the queue's offset passes it, and a crash of the consumer loses
nothing. Failed requests may have been carried out all the same, so a message can come twice.

Source: `DefaultMQPushConsumerImpl#sendMessageBack`, `ConsumeMessageOrderlyService#sendMessageBack`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from rocketmq_py.client.config import ProducerConfig
from rocketmq_py.client.errors import BrokerResponseError, ClientError, NoBrokerError
from rocketmq_py.client.expired_messages import ExpiredMessages
from rocketmq_py.client.instance import MQClientInstance
from rocketmq_py.client.producer import Producer
from rocketmq_py.client.pull_api import UNREADABLE
from rocketmq_py.common import properties as names
from rocketmq_py.common.errors import InvalidInputError, RocketMQError
from rocketmq_py.common.message import Message, MessageExt
from rocketmq_py.common.topic import retry_topic
from rocketmq_py.remoting.bodies.heartbeat import MessageModel
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.errors import RemotingError
from rocketmq_py.remoting.header import encode_header
from rocketmq_py.remoting.headers.send_back import ConsumerSendMsgBackRequestHeader

if TYPE_CHECKING:
    from rocketmq_py.client.consume_service import ConsumeContext
    from rocketmq_py.client.push_consumer import PushConsumer

logger = logging.getLogger(__name__)

#: Seconds for one request.
REQUEST_SECONDS: Final = 5.0
#: Delay level of the first try that the client asks for itself; the broker has the same rule.
FIRST_LEVEL: Final = 3
INNER_PRODUCER_GROUP: Final = "CLIENT_INNER_PRODUCER"
#: Seconds before the first look for the route of a new retry topic, and before the last one; then the usual refresh
#: of routes takes over.
FIRST_LOOK_SECONDS: Final = 0.2
LAST_LOOK_SECONDS: Final = 10.0

#: What only this process knows of a message, or what belonged to the copy before.
_NOT_SENT: Final = (
    *(names.MIN_OFFSET, names.MAX_OFFSET, names.CONSUME_START_TIME, names.TRAN_MSG, names.WAIT),
    *(names.TRANSIENT_TOPIC_CONFIG, names.TRANSIENT_GROUP_CONFIG),
)
#: The broker has stored the message, but did not flush or replicate it in time: a success with a warning, as for sends.
_STORED: Final = frozenset(
    (ResponseCode.FLUSH_DISK_TIMEOUT, ResponseCode.FLUSH_SLAVE_TIMEOUT, ResponseCode.SLAVE_NOT_AVAILABLE)
)


def make_policy(consumer: PushConsumer) -> SendBack:
    """Return the failure policy of a push consumer that was told no other."""
    return SendBack(consumer)


class SendBack:
    """The failure policy of clustering consumers.

    Args:
        consumer: whose messages.
    """

    def __init__(self, consumer: PushConsumer) -> None:
        self._consumer = consumer
        self._topic = retry_topic(consumer.group)
        self._expired = ExpiredMessages(consumer, self.send_back)
        self._look: asyncio.Task[None] | None = None

    # --- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Look for the route of the retry topic, and for messages that the listener never finishes."""
        if self._consumer.config.message_model is MessageModel.CLUSTERING:
            self._look = asyncio.get_running_loop().create_task(self._find_route(), name=f"route of {self._topic}")
            self._expired.start()

    def stop(self) -> None:
        """End both."""
        if self._look is not None:
            self._look.cancel()
            self._look = None
            self._expired.stop()

    async def _find_route(self) -> None:
        """Ask for the route of the retry topic until it is there.

        The first heartbeat of a new group creates the topic. Differs from RocketMQ, whose consumers learn of it with the
        next refresh of routes, up to 30 s later, so that the first retry of a new group comes late.
        """
        instance, pause = self._consumer.instance, FIRST_LOOK_SECONDS
        while self._topic not in instance.routes and pause < LAST_LOOK_SECONDS:
            await asyncio.sleep(pause)
            try:
                await instance.update_route(self._topic)
            except RocketMQError as error:
                logger.debug("%s", error)
            pause *= 2

    # --- failures -----------------------------------------------------------------------------------------------------

    async def failed(self, messages: Sequence[MessageExt], context: ConsumeContext) -> list[MessageExt]:
        """Send messages back, all at a time, and return those that could not be sent.

        Cancellation: what was sent by then comes later; nothing is committed, so all come again as well.
        """
        window = self._consumer.queues.get(context.queue)
        # What the window has no more took too long and was sent back then.
        mine = [message for message in messages if window is None or message in window]
        level = context.delay_level_when_next_consume
        sent = await asyncio.gather(*(self.send_back(message, level) for message in mine))
        return [message for message, is_sent in zip(mine, sent, strict=True) if not is_sent]

    async def exhausted(self, message: MessageExt) -> bool:
        """Send a message that failed as often as it may in order to the retry topic: the broker makes it a dead letter."""
        return await self._send_anew(message, 0)

    async def send_back(self, message: MessageExt, delay_level: int) -> bool:
        """Let a message come again.

        Args:
            message: from one of the consumer's queues.
            delay_level: when; 0: the broker decides, negative: never, it is a dead letter.

        Returns:
            Whether a broker keeps it now.
        """
        try:
            await self._ask(message, delay_level)
        except (ClientError, RemotingError) as error:
            logger.warning("group %s could not send message %s back: %s", self._consumer.group, _id(message), error)
            return await self._send_anew(message, delay_level)
        return True

    @property
    def _limit(self) -> int | None:
        """How often a message may come again; None: as often as the group's `retryMaxTimes` says.

        Differs from RocketMQ, whose consumers ask for 16 times if they are not told, whatever the group's setting is.
        """
        limit = self._consumer.config.max_reconsume_times
        return limit if limit >= 0 else None

    async def _ask(self, message: MessageExt, delay_level: int) -> None:
        instance = self._consumer.instance
        address = instance.master_address(message.broker_name)
        if address is None:
            raise NoBrokerError(message.broker_name)
        header = ConsumerSendMsgBackRequestHeader(
            offset=message.commit_log_offset,
            group=self._consumer.group,
            delay_level=delay_level,
            origin_msg_id=_id(message),
            origin_topic=message.topic,
            unit_mode=self._consumer.config.unit_mode,
            max_reconsume_times=self._limit,
            broker_name=message.broker_name,
        )
        try:
            await instance.ask(
                address, RequestCode.CONSUMER_SEND_MSG_BACK, encode_header(header), timeout=REQUEST_SECONDS
            )
        except BrokerResponseError as error:
            if error.code not in _STORED:
                raise
            logger.warning("message %s is stored for its next try, but: %s", _id(message), error)

    async def _send_anew(self, message: MessageExt, delay_level: int) -> bool:
        if UNREADABLE in message.properties:
            # As a new message it would say nothing of how its body is compressed.
            return False
        try:
            producer = await InnerProducer.of(self._consumer.instance)
            await producer.send(self._new_message(message, delay_level))
        except (ClientError, RemotingError, InvalidInputError) as error:
            logger.warning("message %s stays with group %s: %s", _id(message), self._consumer.group, error)
            return False
        return True

    def _new_message(self, message: MessageExt, delay_level: int) -> Message:
        """Return the message for the retry topic; the broker takes the tries from its properties.

        Differs from RocketMQ, which forgets here what level the listener asked for.
        """
        properties = {name: value for name, value in message.properties.items() if name not in _NOT_SENT}
        properties.setdefault(names.ORIGIN_MESSAGE_ID, _id(message))
        properties[names.RETRY_TOPIC] = message.topic
        # One more than none is allowed makes a dead letter.
        limit = self._limit if delay_level >= 0 else message.reconsume_times
        properties[names.RECONSUME_TIME] = str(message.reconsume_times + 1)
        if limit is not None:
            properties[names.MAX_RECONSUME_TIMES] = str(limit)
        properties[names.DELAY] = str(max(delay_level, 0) or FIRST_LEVEL + message.reconsume_times)
        return Message(self._topic, message.body, properties, message.flag)

    def __repr__(self) -> str:
        return f"<SendBack of group {self._consumer.group}>"


class InnerProducer:
    """The producer that the consumers of a client share, for messages that they could not send back."""

    def __init__(self, instance: MQClientInstance) -> None:
        self._producer = Producer(
            INNER_PRODUCER_GROUP, ProducerConfig(unit_mode=instance.config.unit_mode), instance=instance
        )

    @classmethod
    async def of(cls, instance: MQClientInstance) -> Producer:
        """Return the producer of a client, started; it ends with the client."""
        shared = instance.shared.get(cls)
        if not isinstance(shared, cls):
            shared = instance.shared[cls] = cls(instance)
        await shared._producer.start()
        return shared._producer


def _id(message: MessageExt) -> str:
    return message.unique_key or message.msg_id
