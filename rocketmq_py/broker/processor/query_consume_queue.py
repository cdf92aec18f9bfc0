"""The units of a queue as they are, for operators who look for a message that does not come (321).

Source: `AdminBrokerProcessor#queryConsumeQueue`, RocketMQ 5.3.
"""

from __future__ import annotations

from rocketmq_py.broker.subscriptions import Selection, Subscriptions
from rocketmq_py.common.environment import Environment
from rocketmq_py.remoting.answer import answer
from rocketmq_py.remoting.bodies.consume_queue import ConsumeQueueData, QueryConsumeQueueResponseBody
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.header import decode_header
from rocketmq_py.remoting.headers.pull import PullMessageRequestHeader, QueryConsumeQueueRequestHeader
from rocketmq_py.remoting.java_json import encode_body
from rocketmq_py.remoting.processors import Processors, Request
from rocketmq_py.store.consume_queue import ConsumeQueue
from rocketmq_py.store.consume_queue_unit import unpack_units
from rocketmq_py.store.message_store import MessageStore

#: Most units that one request gets.
MAX_UNITS = 1_024


class QueryConsumeQueueProcessor:
    """Answers QUERY_CONSUME_QUEUE.

    Args:
        store: holds the queues.
        subscriptions: what groups that are online want.
        environment: runs reads that have to wait for the disk.
    """

    def __init__(self, store: MessageStore, subscriptions: Subscriptions, environment: Environment) -> None:
        self._store = store
        self._subscriptions = subscriptions
        self._environment = environment

    def register(self, processors: Processors) -> None:
        """Register the code."""
        processors.register(RequestCode.QUERY_CONSUME_QUEUE, self.query, "admin")

    async def query(self, request: Request) -> RemotingCommand:
        """Return units of one file, and for a group that is online what it would get of them."""
        header = decode_header(QueryConsumeQueueRequestHeader, request.command.ext_fields)
        queue = self._store.find_queue(header.topic, header.queue_id)
        if not isinstance(queue, ConsumeQueue):
            return answer(ResponseCode.SYSTEM_ERROR, f"{header.queue_id}@{header.topic} is not exist!")
        body = QueryConsumeQueueResponseBody(min_queue_index=queue.min_offset, max_queue_index=queue.max_offset)
        selection = self._selection(header) if header.consumer_group else None
        if selection is not None:
            body.subscription_data = selection.subscription
        elif header.consumer_group:
            body.filter_data = f"{header.consumer_group} is not online!"
        count = min(header.count, MAX_UNITS, queue.max_offset - header.index)
        if header.index < queue.min_offset or count <= 0:
            remark = f"Index {header.index} of {header.queue_id}@{header.topic} is not exist!"
            return answer(remark=remark, body=encode_body(body))
        units = queue.read(header.index, count)
        if units is None:
            units = await self._environment.run_blocking(queue.cold_read(header.index, count))
        body.queue_data = _describe(units, selection)
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


def _describe(units: bytes | bytearray, selection: Selection | None) -> list[ConsumeQueueData]:
    return [
        ConsumeQueueData(
            physic_offset=physical_offset,
            physic_size=size,
            tags_code=tags_code,
            eval=selection is not None and selection.filter.matches_entry(tags_code, None),
        )
        for physical_offset, size, tags_code in zip(*unpack_units(units), strict=True)
    ]
