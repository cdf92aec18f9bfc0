"""GET_ALL_DELAY_OFFSET (45): a slave copies how far its master has delivered each level.

Source: `AdminBrokerProcessor#getAllDelayOffset`, RocketMQ 5.3.
"""

from __future__ import annotations

from rocketmq_py.broker.schedule.delay_offsets import DelayOffsetManager
from rocketmq_py.remoting.answer import answer
from rocketmq_py.remoting.codes import RequestCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.processors import Processors, Request


class DelayOffsetProcessor:
    """Answers with the text of `delayOffset.json`."""

    def __init__(self, offsets: DelayOffsetManager) -> None:
        self._offsets = offsets

    def register(self, processors: Processors) -> None:
        """Register the code."""
        processors.register(RequestCode.GET_ALL_DELAY_OFFSET, self.get_all, "admin")

    def get_all(self, request: Request) -> RemotingCommand:
        """Return the table as it would be written now."""
        return answer(body=self._offsets.table.encode())
