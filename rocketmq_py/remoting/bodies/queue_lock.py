"""Bodies of the requests that lock queues for one consumer.

Source: `LockBatchRequestBody`, `LockBatchResponseBody`, `UnlockBatchRequestBody`, RocketMQ 5.3.
"""

from __future__ import annotations

import msgspec

from rocketmq_py.remoting.bodies.topic_stats import QueueKey


class QueueLockBody(msgspec.Struct, rename="camel", kw_only=True):
    """LOCK_BATCH_MQ (41) and UNLOCK_BATCH_MQ (42).

    Attributes:
        consumer_group: the group whose queues these are.
        client_id: the member that wants them, or lets them go.
        mq_set: the queues.
        only_this_broker: do not ask the other members of the broker's group (5.x).
    """

    consumer_group: str | None = None
    client_id: str | None = None
    only_this_broker: bool = False
    mq_set: list[QueueKey] = []


class LockedQueuesBody(msgspec.Struct, kw_only=True):
    """Answer of LOCK_BATCH_MQ: the queues that the member has now; what is missing belongs to another."""

    locked: list[QueueKey] = msgspec.field(default_factory=list, name="lockOKMQSet")
