"""Who waits for which reply. The broker brings replies over the client's own connection (326); one handler per client
instance finds the future by the correlation id.

Source: `RequestFutureHolder`, `ClientRemotingProcessor#receiveReplyMessage`, RocketMQ 5.3. Differs from RocketMQ: the
table is one client's, not the process's, and whoever waits takes its future out again: nothing scans for old ones.
"""

from __future__ import annotations

import asyncio
import logging

from rocketmq_py.client.errors import ClientError
from rocketmq_py.client.instance import MQClientInstance
from rocketmq_py.common import properties as names
from rocketmq_py.common.compression import decompress
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.message import MessageExt
from rocketmq_py.common.properties import decode_properties
from rocketmq_py.remoting.answer import answer
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.header import decode_header
from rocketmq_py.remoting.headers.reply import ReplyMessageRequestHeader
from rocketmq_py.remoting.processors import Request

logger = logging.getLogger(__name__)


class TooManyRequestsError(ClientError):
    """Too many requests wait for their replies; this one was not sent."""


class RequestFutures:
    """The requests of one client instance that wait for replies.

    Attributes:
        unclaimed: how many replies came for which nobody waited (any more).
    """

    def __init__(self, instance: MQClientInstance) -> None:
        self.unclaimed = 0
        self._waiting: dict[str, asyncio.Future[MessageExt]] = {}
        self._instance = instance
        instance.transport.on_request(RequestCode.PUSH_REPLY_MESSAGE_TO_CLIENT, self._reply_came)

    @classmethod
    def of(cls, instance: MQClientInstance) -> RequestFutures:
        """Return the one of an instance, made with its first use."""
        found = instance.shared.get(cls)
        if not isinstance(found, cls):
            found = instance.shared[cls] = cls(instance)
        return found

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, correlation_id: str) -> asyncio.Future[MessageExt]:
        """Return the future of a reply. Whoever adds it removes it, however the wait ends."""
        future: asyncio.Future[MessageExt] = asyncio.get_running_loop().create_future()
        self._waiting[correlation_id] = future
        return future

    def remove(self, correlation_id: str) -> None:
        """Wait for a reply no longer: if it comes, it is dropped."""
        self._waiting.pop(correlation_id, None)

    def _reply_came(self, request: Request) -> RemotingCommand:
        header = decode_header(ReplyMessageRequestHeader, request.command.ext_fields)
        properties = decode_properties((header.properties or "").encode())
        correlation_id = properties.get(names.CORRELATION_ID, "")
        future = self._waiting.get(correlation_id)
        if future is None or future.done():
            # As in RocketMQ the broker is told SUCCESS: to send the reply again would not make it less late.
            self.unclaimed += 1
            logger.warning(
                "a reply from %s is dropped, because nobody waits for it: correlation id %s; "
                "it was too late, or the request was answered twice", header.born_host, correlation_id or "missing",
            )  # fmt: skip
            return answer()
        properties[names.ARRIVE_TIME] = str(request.received_ms)
        try:
            body = decompress(bytes(request.command.body), header.sys_flag, self._instance.config.max_message_size)
        except InvalidInputError as error:
            future.set_exception(ClientError(f"the reply from {header.born_host} cannot be read: {error}"))
            return answer(ResponseCode.SYSTEM_ERROR, "process reply message fail")
        future.set_result(_message(header, properties, body))
        return answer()

    def __repr__(self) -> str:
        return f"<RequestFutures {len(self._waiting)} waiting, {self.unclaimed} unclaimed>"


def _message(header: ReplyMessageRequestHeader, properties: dict[str, str], body: bytes) -> MessageExt:
    return MessageExt(
        topic=header.topic,
        body=body,
        properties=properties,
        flag=header.flag,
        queue_id=header.queue_id,
        sys_flag=header.sys_flag,
        born_timestamp=header.born_timestamp,
        born_host=header.born_host,
        store_timestamp=header.store_timestamp,
        store_host=header.store_host,
        reconsume_times=header.reconsume_times or 0,
        msg_id=properties.get(names.UNIQ_KEY, ""),
    )
