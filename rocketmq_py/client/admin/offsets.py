"""Where queues begin and end, and which message was stored when.

Source: `MQAdminImpl`, RocketMQ 5.3.
"""

from __future__ import annotations

from rocketmq_py.client.errors import NoBrokerError
from rocketmq_py.client.instance import MQClientInstance
from rocketmq_py.common.message import MessageQueue
from rocketmq_py.remoting.codes import RequestCode
from rocketmq_py.remoting.header import decode_header, encode_header
from rocketmq_py.remoting.headers import offsets as headers


class OffsetAdmin:
    """Questions about single queues, asked of the queue's master.

    All methods raise `NoBrokerError` if no master is known, `BrokerResponseError` if it refuses and `RemotingError`
    if it does not answer.

    Args:
        instance: connections and routes; started.
    """

    def __init__(self, instance: MQClientInstance) -> None:
        self._instance = instance

    async def max_offset(self, queue: MessageQueue) -> int:
        """Return the offset that the queue's next message gets."""
        header = headers.GetMaxOffsetRequestHeader(topic=queue.topic, queue_id=queue.queue_id)
        return await self._offset(queue, RequestCode.GET_MAX_OFFSET, encode_header(header))

    async def min_offset(self, queue: MessageQueue) -> int:
        """Return the offset of the queue's first message that is still there."""
        header = headers.GetMinOffsetRequestHeader(topic=queue.topic, queue_id=queue.queue_id)
        return await self._offset(queue, RequestCode.GET_MIN_OFFSET, encode_header(header))

    async def search_offset(self, queue: MessageQueue, timestamp: int, *, upper: bool = False) -> int:
        """Return the offset of the first message that was stored at `timestamp` (milliseconds since 1970) or later.

        Args:
            queue: where.
            timestamp: when.
            upper: the last message that was stored at `timestamp` or earlier, instead.
        """
        header = headers.SearchOffsetRequestHeader(
            topic=queue.topic,
            queue_id=queue.queue_id,
            timestamp=timestamp,
            boundary_type="UPPER" if upper else "LOWER",
        )
        return await self._offset(queue, RequestCode.SEARCH_OFFSET_BY_TIMESTAMP, encode_header(header))

    async def earliest_store_time(self, queue: MessageQueue) -> int:
        """Return when the queue's first message was stored, milliseconds since 1970; -1 if there is none."""
        header = headers.GetEarliestMsgStoretimeRequestHeader(topic=queue.topic, queue_id=queue.queue_id)
        address = await self._master_of(queue)
        response = await self._instance.ask(address, RequestCode.GET_EARLIEST_MSG_STORETIME, encode_header(header))
        return decode_header(headers.GetEarliestMsgStoretimeResponseHeader, response.ext_fields).timestamp

    async def _offset(self, queue: MessageQueue, code: RequestCode, fields: dict[str, str]) -> int:
        response = await self._instance.ask(await self._master_of(queue), code, fields)
        return decode_header(headers.OffsetResponseHeader, response.ext_fields).offset

    async def _master_of(self, queue: MessageQueue) -> str:
        address = self._instance.master_address(queue.broker_name)
        if address is None:
            await self._instance.update_route(queue.topic)
            address = self._instance.master_address(queue.broker_name)
        if address is None:
            raise NoBrokerError(queue.broker_name)
        return address
