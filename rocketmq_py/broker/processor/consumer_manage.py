"""GET_CONSUMER_LIST_BY_GROUP (38): who else is in my group? Every consumer asks before it divides the queues.

Source: `ConsumerManageProcessor`, RocketMQ 5.3.
"""

from __future__ import annotations

from rocketmq_py.broker.client.consumer_manager import ConsumerManager
from rocketmq_py.remoting.answer import answer
from rocketmq_py.remoting.bodies.heartbeat import GetConsumerListByGroupResponseBody
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.header import decode_header
from rocketmq_py.remoting.headers.heartbeat import GetConsumerListByGroupRequestHeader
from rocketmq_py.remoting.java_json import encode_body
from rocketmq_py.remoting.processors import Processors, Request


class ConsumerManageProcessor:
    """Answers from the table of consumers."""

    def __init__(self, consumers: ConsumerManager) -> None:
        self._consumers = consumers

    def install(self, processors: Processors) -> None:
        """Register the handler."""
        processors.register(RequestCode.GET_CONSUMER_LIST_BY_GROUP, self.get_consumer_list, "client manage")

    def get_consumer_list(self, request: Request) -> RemotingCommand:
        """Return the client ids of a group, one per connection."""
        group = decode_header(GetConsumerListByGroupRequestHeader, request.command.ext_fields).consumer_group
        info = self._consumers.find(group)
        if info is None:
            return answer(ResponseCode.SYSTEM_ERROR, f"no consumer for this group, {group}")
        return answer(body=encode_body(GetConsumerListByGroupResponseBody(consumer_id_list=info.client_ids)))
