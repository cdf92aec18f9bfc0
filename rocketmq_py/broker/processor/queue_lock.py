"""LOCK_BATCH_MQ (41) and UNLOCK_BATCH_MQ (42): members of a group claim queues for ordered consumption.

Source: `AdminBrokerProcessor#lockBatchMQ`, `#unlockBatchMQ`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio

from rocketmq_py.broker.client.rebalance_lock_manager import RebalanceLockManager
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.remoting.answer import answer
from rocketmq_py.remoting.bodies.queue_lock import LockedQueuesBody, QueueLockBody
from rocketmq_py.remoting.bodies.topic_stats import QueueKey
from rocketmq_py.remoting.codes import RequestCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.java_json import decode_body, encode_body
from rocketmq_py.remoting.processors import Processors, Request

#: Most queues that one request may name.
MAX_QUEUES = 65_536


class QueueLockProcessor:
    """Answers from the table of locks."""

    def __init__(self, locks: RebalanceLockManager) -> None:
        self._locks = locks

    def register(self, processors: Processors) -> None:
        """Register both codes."""
        processors.register(RequestCode.LOCK_BATCH_MQ, self.lock, "client manage")
        processors.register(RequestCode.UNLOCK_BATCH_MQ, self.unlock, "client manage")

    def lock(self, request: Request) -> RemotingCommand:
        """Return the queues that the member has now; a queue of another member is simply missing."""
        body = _decode(request)
        granted = self._locks.lock(
            body.consumer_group or "",
            body.client_id or "",
            [key.queue() for key in body.mq_set],
            asyncio.get_running_loop().time(),
        )
        return answer(body=encode_body(LockedQueuesBody(locked=[QueueKey.of(queue) for queue in granted])))

    def unlock(self, request: Request) -> RemotingCommand:
        """Let the member's queues go."""
        body = _decode(request)
        self._locks.unlock(body.consumer_group or "", body.client_id or "", [key.queue() for key in body.mq_set])
        return answer()


def _decode(request: Request) -> QueueLockBody:
    body = decode_body(request.command.body, QueueLockBody)
    if len(body.mq_set) > MAX_QUEUES:
        raise InvalidInputError(f"{len(body.mq_set)} queues in one request, at most {MAX_QUEUES} are locked at once")
    return body
