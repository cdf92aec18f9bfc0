"""GET_TIMER_CHECK_POINT (60) and GET_TIMER_METRICS (61): a slave asks what it will have to know as a master.

Source: `AdminBrokerProcessor#getTimerCheckPoint`, `#getTimerMetrics`, RocketMQ 5.3.
"""

from __future__ import annotations

from rocketmq_py.remoting.answer import answer
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.processors import Processors, Request
from rocketmq_py.store.config import MessageStoreConfig
from rocketmq_py.store.timer.timer_message_store import TimerMessageStore


class TimerProcessor:
    """Answers both."""

    def __init__(self, config: MessageStoreConfig, timers: TimerMessageStore) -> None:
        self._config = config
        self._timers = timers

    def register(self, processors: Processors) -> None:
        """Register both codes."""
        processors.register(RequestCode.GET_TIMER_CHECK_POINT, self.get_check_point, "admin")
        processors.register(RequestCode.GET_TIMER_METRICS, self.get_metrics, "admin")

    def get_check_point(self, request: Request) -> RemotingCommand:
        """Return the 56 bytes of the checkpoint."""
        if not self._config.timer_wheel_enable:
            return answer(ResponseCode.SYSTEM_ERROR, "The checkpoint is null")
        return answer(body=self._timers.checkpoint.encode())

    def get_metrics(self, request: Request) -> RemotingCommand:
        """Return how many messages wait for each topic, as JSON."""
        if not self._config.timer_wheel_enable:
            return answer(ResponseCode.SYSTEM_ERROR, "The timer message store is null")
        return answer(body=self._timers.metrics.encode())
