"""Processors that find single messages: by key (12) and by physical offset (33).

Source: `QueryMessageProcessor`, RocketMQ 5.3.
"""

from __future__ import annotations

from rocketmq_py.broker.refusal import Refusal
from rocketmq_py.common.java import parse_bool
from rocketmq_py.remoting.answer import answer
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.header import decode_header
from rocketmq_py.remoting.headers import pull as headers
from rocketmq_py.remoting.processors import Processors, Request
from rocketmq_py.store.message_store import MessageStore

#: Most messages that one query may ask for.
MAX_QUERY = 1_024


class QueryMessageProcessor:
    """Answers QUERY_MESSAGE and VIEW_MESSAGE_BY_ID.

    Args:
        store: finds the messages.
        unique_key_limit: how many messages a query by unique key gets (`defaultQueryMaxNum`).
    """

    def __init__(self, store: MessageStore, unique_key_limit: int) -> None:
        self._store = store
        self._unique_key_limit = unique_key_limit

    def register(self, processors: Processors) -> None:
        """Register the two codes."""
        processors.register(RequestCode.QUERY_MESSAGE, self.query)
        processors.register(RequestCode.VIEW_MESSAGE_BY_ID, self.view)

    async def query(self, request: Request) -> RemotingCommand:
        """Return the records that carry a key, oldest first."""
        fields = request.command.ext_fields
        header = decode_header(headers.QueryMessageRequestHeader, fields)
        limit = max(0, min(header.max_num, MAX_QUERY))
        if parse_bool(fields.get(headers.UNIQUE_KEY_QUERY) or ""):
            limit = self._unique_key_limit
        found = await self._store.query_messages(
            header.topic, header.key, limit, header.begin_timestamp, header.end_timestamp
        )
        reach = headers.QueryMessageResponseHeader(
            index_last_update_timestamp=found.index_last_update_timestamp,
            index_last_update_phyoffset=found.index_last_update_physical_offset,
        )
        if not found.records:
            remark = "can not find message, maybe time range not correct"
            return answer(ResponseCode.QUERY_NOT_FOUND, remark, header=reach)
        return answer(header=reach, body=b"".join(found.records))

    async def view(self, request: Request) -> RemotingCommand:
        """Return the record at a physical offset.

        Differs from RocketMQ: an offset at which no record begins is refused, not answered with what lies there.
        """
        header = decode_header(headers.ViewMessageRequestHeader, request.command.ext_fields)
        record = await self._store.look_message(header.offset)
        if record is None:
            remark = f"can not find message by the offset, {header.offset}"
            return Refusal(ResponseCode.SYSTEM_ERROR, remark).to_response()
        return answer(body=record)
