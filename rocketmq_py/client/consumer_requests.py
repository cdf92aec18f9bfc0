"""What brokers ask of consumers: rebalance now (40), move your offsets (220), where are you (221), how are you (307),
handle this message (309).

One handler per code serves all consumers of a client instance; it finds the consumer by its group.

Source: `ClientRemotingProcessor`, RocketMQ 5.3.
"""

from __future__ import annotations

import logging
from typing import Protocol

from rocketmq_py.client.errors import ClientError
from rocketmq_py.client.instance import MQClientInstance
from rocketmq_py.common.message import MessageExt, MessageQueue
from rocketmq_py.common.record import decode_record
from rocketmq_py.remoting.answer import answer
from rocketmq_py.remoting.bodies.consume_stats import decode_offset_table, encode_consumer_status
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.header import decode_header
from rocketmq_py.remoting.headers import admin_consumer as headers
from rocketmq_py.remoting.processors import Request

logger = logging.getLogger(__name__)


class ServedConsumer(Protocol):
    """What a consumer offers to brokers."""

    @property
    def group(self) -> str:
        """Its group."""
        ...

    def wake_rebalance(self) -> None:
        """Rebalance soon."""
        ...

    async def reset_offsets(self, topic: str, offsets: dict[MessageQueue, int]) -> None:
        """Go on at these offsets."""
        ...

    def offsets_of(self, topic: str) -> dict[MessageQueue, int]:
        """Return the remembered offsets of a topic."""
        ...

    def running_info(self) -> bytes:
        """Return the body that describes its inside."""
        ...

    async def consume_directly(self, message: MessageExt) -> bytes:
        """Handle one message and return the body that says what became of it."""
        ...


class ConsumerRequests:
    """Answers for the consumers of one instance."""

    def __init__(self, instance: MQClientInstance) -> None:
        self._consumers: dict[str, ServedConsumer] = {}
        self._instance = instance
        for code, handler in (
            (RequestCode.NOTIFY_CONSUMER_IDS_CHANGED, self._ids_changed),
            (RequestCode.RESET_CONSUMER_CLIENT_OFFSET, self._reset_offset),
            (RequestCode.GET_CONSUMER_STATUS_FROM_CLIENT, self._consumer_status),
            (RequestCode.GET_CONSUMER_RUNNING_INFO, self._running_info),
            (RequestCode.CONSUME_MESSAGE_DIRECTLY, self._consume_directly),
        ):
            instance.transport.on_request(code, handler)

    @classmethod
    def of(cls, instance: MQClientInstance) -> ConsumerRequests:
        """Return the one of an instance, made with its first consumer."""
        found = instance.shared.get(cls)
        if not isinstance(found, cls):
            found = instance.shared[cls] = cls(instance)
        return found

    def add(self, consumer: ServedConsumer) -> None:
        """Serve a consumer.

        Raises:
            ClientError: the instance has a consumer of that group already.
        """
        if consumer.group in self._consumers:
            raise ClientError(
                f"this client has a consumer of group {consumer.group} already; give the second one an instance of its own"
            )
        self._consumers[consumer.group] = consumer

    def remove(self, consumer: ServedConsumer) -> None:
        """Serve a consumer no longer."""
        if self._consumers.get(consumer.group) is consumer:
            del self._consumers[consumer.group]

    def _ids_changed(self, request: Request) -> None:
        # All consumers of the instance, as in RocketMQ: asking once too often costs one request.
        for consumer in self._consumers.values():
            consumer.wake_rebalance()

    async def _reset_offset(self, request: Request) -> None:
        header = decode_header(headers.ResetOffsetRequestHeader, request.command.ext_fields)
        consumer = self._consumers.get(header.group)
        if consumer is not None:
            offsets = decode_offset_table(bytes(request.command.body))
            logger.warning("a broker moves group %s in topic %s to %s", header.group, header.topic, offsets)
            await consumer.reset_offsets(header.topic, offsets)

    def _consumer_status(self, request: Request) -> RemotingCommand:
        header = decode_header(headers.GetConsumerStatusRequestHeader, request.command.ext_fields)
        consumer = self._consumers.get(header.group)
        offsets = {} if consumer is None else consumer.offsets_of(header.topic)
        return answer(body=encode_consumer_status(offsets))

    def _running_info(self, request: Request) -> RemotingCommand:
        group = decode_header(headers.GetConsumerRunningInfoRequestHeader, request.command.ext_fields).consumer_group
        consumer = self._consumers.get(group)
        if consumer is None:
            return _unknown(group)
        return answer(body=consumer.running_info())

    async def _consume_directly(self, request: Request) -> RemotingCommand:
        header = decode_header(headers.ConsumeMessageDirectlyResultRequestHeader, request.command.ext_fields)
        consumer = self._consumers.get(header.consumer_group)
        if consumer is None:
            return _unknown(header.consumer_group)
        message = decode_record(bytes(request.command.body))
        message.broker_name = header.broker_name or ""
        return answer(body=await consumer.consume_directly(message))


def _unknown(group: str) -> RemotingCommand:
    return answer(ResponseCode.SYSTEM_ERROR, f"The Consumer Group <{group}> not exist in this consumer")
