"""What a producer learns about a stored message.

Source: `SendResult`, `SendStatus`, `MQClientAPIImpl#processSendResponse`, RocketMQ 5.3.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from rocketmq_py.client.errors import BrokerResponseError
from rocketmq_py.common.message import MessageQueue
from rocketmq_py.remoting.codes import ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.header import decode_header
from rocketmq_py.remoting.headers.send import SendMessageResponseHeader


class SendStatus(enum.Enum):
    """How safe a message is. In every case it is in the broker's log."""

    SEND_OK = ResponseCode.SUCCESS
    FLUSH_DISK_TIMEOUT = ResponseCode.FLUSH_DISK_TIMEOUT
    FLUSH_SLAVE_TIMEOUT = ResponseCode.FLUSH_SLAVE_TIMEOUT
    SLAVE_NOT_AVAILABLE = ResponseCode.SLAVE_NOT_AVAILABLE


@dataclass(frozen=True, slots=True)
class SendResult:
    """Where a message was stored.

    Attributes:
        status: how safe it is.
        msg_id: the unique key that this client gave it; for a batch those of all its messages, joined by commas.
        offset_msg_id: names the broker and the place in its log.
        queue: its queue.
        queue_offset: its position in the queue; for a batch that of the first message.
        transaction_id: of a transactional message.
        recall_handle: names a timer message that can still be taken back (5.3.2).
        region_id: where the broker says it is.
        trace_on: whether the broker lets this message be traced.
    """

    status: SendStatus
    msg_id: str
    offset_msg_id: str
    queue: MessageQueue
    queue_offset: int
    transaction_id: str | None = None
    recall_handle: str | None = None
    region_id: str = "DefaultRegion"
    trace_on: bool = True

    @property
    def is_ok(self) -> bool:
        """Whether the broker did everything that it was configured to do before answering."""
        return self.status is SendStatus.SEND_OK


def read_send_response(response: RemotingCommand, queue: MessageQueue, msg_id: str, address: str) -> SendResult:
    """Return the result that an answer carries.

    Raises:
        BrokerResponseError: the broker refused the message.
        HeaderError: the answer lacks a field.
    """
    try:
        status = SendStatus(response.code)
    except ValueError:
        raise BrokerResponseError(response.code, response.remark, address) from None
    header = decode_header(SendMessageResponseHeader, response.ext_fields)
    return SendResult(
        status=status,
        msg_id=header.batch_uniq_id or msg_id,
        offset_msg_id=header.msg_id,
        queue=MessageQueue(queue.topic, queue.broker_name, header.queue_id),
        queue_offset=header.queue_offset,
        transaction_id=header.transaction_id,
        recall_handle=header.recall_handle,
        region_id=response.ext_fields.get("MSG_REGION") or "DefaultRegion",
        trace_on=response.ext_fields.get("TRACE_ON") != "false",
    )
