"""The locks that a consumer holds at the brokers on queues that it consumes in order.

    lock       before a queue is taken over: no messages are pulled without it
    renew      every 20 s, all queues of a broker with one request
    is_held    30 s after the last renewal the consumer itself stops to trust a lock; the broker keeps it for 60 s
    unlock     after the queue was given up and its offset is stored

Source: `RebalanceImpl#lock`, `#lockAll`, `#unlock`, `ProcessQueue#isLockExpired`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable
from typing import Final

from rocketmq_py.client.errors import ClientError
from rocketmq_py.client.instance import MQClientInstance
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.message import MessageQueue
from rocketmq_py.remoting.bodies.queue_lock import LockedQueuesBody, QueueLockBody
from rocketmq_py.remoting.bodies.topic_stats import QueueKey
from rocketmq_py.remoting.codes import RequestCode
from rocketmq_py.remoting.errors import RemotingError
from rocketmq_py.remoting.java_json import decode_body, encode_body

logger = logging.getLogger(__name__)

#: Seconds between two renewals, and for how long a consumer trusts a lock after the last one.
RENEW_SECONDS: Final = 20.0
TRUST_SECONDS: Final = 30.0


class QueueLocks:
    """The locks of one member of a group.

    Args:
        instance: connections, and the client id that locks are held by.
        group: the consumer group.
    """

    def __init__(self, instance: MQClientInstance, group: str) -> None:
        self._instance = instance
        self._group = group
        self._renewed_at: dict[MessageQueue, float] = {}

    def is_held(self, queue: MessageQueue) -> bool:
        """Tell whether the queue is certainly this consumer's."""
        renewed_at = self._renewed_at.get(queue)
        return renewed_at is not None and asyncio.get_running_loop().time() - renewed_at <= TRUST_SECONDS

    async def lock(self, queue: MessageQueue) -> bool:
        """Lock or renew one queue; return whether it is held."""
        await self.lock_all([queue])
        return self.is_held(queue)

    async def lock_all(self, queues: Collection[MessageQueue]) -> list[MessageQueue]:
        """Lock or renew queues.

        Returns:
            The queues that another member has. Those whose broker did not answer are not among them: nothing is known
            of them, and they are trusted until their time is over.
        """
        lost: list[MessageQueue] = []
        for broker_name, asked in _by_broker(queues).items():
            granted = await self._ask_for(broker_name, asked)
            if granted is None:
                continue
            now = asyncio.get_running_loop().time()
            for queue in asked:
                if queue in granted:
                    self._renewed_at[queue] = now
                else:
                    self._renewed_at.pop(queue, None)
                    lost.append(queue)
        return lost

    async def unlock(self, queue: MessageQueue) -> None:
        """Let a queue go, so that its next owner need not wait for the lock's end."""
        if self._renewed_at.pop(queue, None) is None:
            return
        address = self._instance.master_address(queue.broker_name)
        if address is None:
            return
        body = encode_body(self._body([queue]))
        try:
            await self._instance.ask(address, RequestCode.UNLOCK_BATCH_MQ, body=body)
        except (ClientError, RemotingError) as error:
            logger.info("%s stays locked for up to a minute, its broker did not take it back: %s", queue, error)

    async def _ask_for(self, broker_name: str, queues: list[MessageQueue]) -> set[MessageQueue] | None:
        address = self._instance.master_address(broker_name)
        if address is None:
            return None
        body = encode_body(self._body(queues))
        try:
            response = await self._instance.ask(address, RequestCode.LOCK_BATCH_MQ, body=body)
            locked = decode_body(response.body, LockedQueuesBody).locked
        except (ClientError, RemotingError, InvalidInputError) as error:
            logger.warning(
                "broker %s did not lock %d queues for group %s: %s", address, len(queues), self._group, error
            )
            return None
        return {key.queue() for key in locked}

    def _body(self, queues: Iterable[MessageQueue]) -> QueueLockBody:
        return QueueLockBody(
            consumer_group=self._group,
            client_id=self._instance.client_id,
            mq_set=[QueueKey.of(queue) for queue in queues],
        )

    def __repr__(self) -> str:
        return f"<QueueLocks of group {self._group}: {len(self._renewed_at)} queues>"


def _by_broker(queues: Iterable[MessageQueue]) -> dict[str, list[MessageQueue]]:
    found: dict[str, list[MessageQueue]] = {}
    for queue in sorted(queues):
        found.setdefault(queue.broker_name, []).append(queue)
    return found
