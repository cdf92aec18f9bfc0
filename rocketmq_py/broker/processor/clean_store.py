"""What an operator may have cleaned at once instead of waiting for its hour: old files of the log and its queues.

Source: `AdminBrokerProcessor#deleteExpiredCommitLog`, `#cleanExpiredConsumeQueue`, RocketMQ 5.3.
"""

from __future__ import annotations

from rocketmq_py.remoting.answer import answer
from rocketmq_py.remoting.codes import RequestCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.processors import Processors, Request
from rocketmq_py.store.retention import CleanCommitLogService


class CleanStoreProcessor:
    """Answers DELETE_EXPIRED_COMMITLOG (329) and CLEAN_EXPIRED_CONSUMEQUEUE (306)."""

    def __init__(self, cleaning: CleanCommitLogService) -> None:
        self._cleaning = cleaning

    def register(self, processors: Processors) -> None:
        """Register both codes."""
        processors.register(RequestCode.DELETE_EXPIRED_COMMITLOG, self.delete_expired, "admin")
        processors.register(RequestCode.CLEAN_EXPIRED_CONSUMEQUEUE, self.clean_queues, "admin")

    def delete_expired(self, request: Request) -> RemotingCommand:
        """Let the next passes delete expired files whatever the hour."""
        self._cleaning.delete_soon()
        return answer()

    def clean_queues(self, request: Request) -> RemotingCommand:
        """Do nothing: queues follow the log in each pass, so none is left behind that could be cleaned."""
        return answer()
