"""The units of a queue as they are, for operators who look for a message that does not come (321).

Source: `AdminBrokerProcessor#queryConsumeQueue`, `QueryConsumeQueueResponseBody`, RocketMQ 5.3.
"""

from __future__ import annotations

from typing import Any

import msgspec

from rocketmq_py.broker.subscriptions import Selection, Subscriptions
from rocketmq_py.remoting.answer import answer
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.header import I32, I64, decode_header
from rocketmq_py.remoting.headers.pull import PullMessageRequestHeader
from rocketmq_py.remoting.java_json import encode_body
from rocketmq_py.remoting.processors import Processors, Request
from rocketmq_py.store.consume_queue import ConsumeQueue
from rocketmq_py.store.message_store import MessageStore

#: Most units that one request gets.
MAX_UNITS = 1_024


class QueryConsumeQueueRequestHeader(msgspec.Struct, rename="camel", kw_only=True):
    """QUERY_CONSUME_QUEUE (321).

    Attributes:
        topic, queue_id: the queue.
        index: offset of the first unit.
        count: how many.
        consumer_group: show what this group's filter says of each unit.
    """

    topic: str
    queue_id: I32
    index: I64
    count: I32
    consumer_group: str | None = None


class QueryConsumeQueueProcessor:
    """Answers QUERY_CONSUME_QUEUE."""

    def __init__(self, store: MessageStore, subscriptions: Subscriptions) -> None:
        self._store = store
        self._subscriptions = subscriptions

    def register(self, processors: Processors) -> None:
        """Register the code."""
        processors.register(RequestCode.QUERY_CONSUME_QUEUE, self.query, "admin")

    async def query(self, request: Request) -> RemotingCommand:
        """Return units, and for a group that is online what it would get of them."""
        header = decode_header(QueryConsumeQueueRequestHeader, request.command.ext_fields)
        queue = self._store.find_queue(header.topic, header.queue_id)
        if not isinstance(queue, ConsumeQueue):
            return answer(ResponseCode.SYSTEM_ERROR, f"{header.queue_id}@{header.topic} is not exist!")
        selection = self._selection(header) if header.consumer_group else None
        body: dict[str, Any] = {"minQueueIndex": queue.min_offset, "maxQueueIndex": queue.max_offset}
        if isinstance(selection, Selection):
            body["subscriptionData"] = selection.subscription
        elif header.consumer_group:
            body["filterData"] = f"{header.consumer_group} is not online!"
        count = max(0, min(header.count, MAX_UNITS, queue.max_offset - header.index))
        if header.index < queue.min_offset or count == 0:
            remark = f"Index {header.index} of {header.queue_id}@{header.topic} is not exist!"
            return answer(remark=remark, body=encode_body(body))
        body["queueData"] = [_describe(queue, header.index + row, selection) for row in range(count)]
        return answer(body=encode_body(body))

    def _selection(self, header: QueryConsumeQueueRequestHeader) -> Selection | None:
        found = self._subscriptions.resolve(
            header.consumer_group or "",
            PullMessageRequestHeader(
                consumer_group=header.consumer_group or "",
                topic=header.topic,
                queue_id=header.queue_id,
                queue_offset=header.index,
                max_msg_nums=1,
                sys_flag=0,
                commit_offset=0,
                suspend_timeout_millis=0,
                sub_version=0,
            ),
        )
        return found if isinstance(found, Selection) else None


def _describe(queue: ConsumeQueue, number: int, selection: Selection | None) -> dict[str, Any]:
    unit = queue.unit(number)
    if unit is None:
        return {"physicOffset": -1, "physicSize": 0, "tagsCode": 0, "eval": False, "msg": "no unit is there"}
    physical_offset, size, tags_code = unit
    is_wanted = selection is not None and selection.filter.matches_entry(tags_code, None)
    return {"physicOffset": physical_offset, "physicSize": size, "tagsCode": tags_code, "eval": is_wanted}
