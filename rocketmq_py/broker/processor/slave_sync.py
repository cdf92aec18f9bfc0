"""GET_ALL_CONSUMER_OFFSET (43): a slave copies how far every group is.

The other tables have their answers where they belong: topics (21), groups (201), delay offsets (45), timers (60, 61).

Source: `AdminBrokerProcessor#getAllConsumerOffset`, RocketMQ 5.3.
"""

from __future__ import annotations

from rocketmq_py.broker.consumer_offset import ConsumerOffsetManager
from rocketmq_py.remoting.answer import answer
from rocketmq_py.remoting.codes import RequestCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.processors import Processors, Request


class SlaveSyncProcessor:
    """Answers with the text of `consumerOffset.json`."""

    def __init__(self, offsets: ConsumerOffsetManager) -> None:
        self._offsets = offsets

    def register(self, processors: Processors) -> None:
        """Register the code."""
        processors.register(RequestCode.GET_ALL_CONSUMER_OFFSET, self.get_consumer_offsets, "admin")

    def get_consumer_offsets(self, request: Request) -> RemotingCommand:
        """Return the table as it would be written now."""
        return answer(body=self._offsets.table.encode())
