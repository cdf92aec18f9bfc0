"""Where a consumer begins in a queue that it takes over.

Source: `RebalancePushImpl#computePullFromWhereWithException`, RocketMQ 5.3.
"""

from __future__ import annotations

from rocketmq_py.client.admin.offsets import OffsetAdmin
from rocketmq_py.client.consumer_config import ConsumerConfig
from rocketmq_py.client.instance import MQClientInstance
from rocketmq_py.client.offset_store import OffsetStore
from rocketmq_py.common.message import MessageQueue
from rocketmq_py.common.topic import is_retry_topic
from rocketmq_py.remoting.bodies.heartbeat import ConsumeFromWhere

#: How long before the start CONSUME_FROM_TIMESTAMP begins if it is not told: half an hour.
DEFAULT_LOOK_BACK_MS = 1_800_000


class StartOffset:
    """Finds the first offset to pull.

    "No offset is stored" is the broker's verdict: for a group that it does not know it answers 0 while the first
    message of the queue is still in memory. A new group on a young topic therefore begins at 0, whatever it asks for.
    """

    def __init__(self, instance: MQClientInstance, config: ConsumerConfig, store: OffsetStore) -> None:
        self._config = config
        self._store = store
        self._offsets = OffsetAdmin(instance)
        self._started_ms = instance.environment.clock.wall_ms()

    async def find(self, queue: MessageQueue) -> int:
        """Return the offset.

        Raises:
            ClientError, RemotingError: it could not be found out; a later try may succeed.
        """
        stored = await self._store.read(queue)
        if stored >= 0:
            return stored
        where = self._config.consume_from_where
        if where is ConsumeFromWhere.CONSUME_FROM_TIMESTAMP and not is_retry_topic(queue.topic):
            timestamp = self._config.consume_timestamp
            if timestamp is None:
                timestamp = self._started_ms - DEFAULT_LOOK_BACK_MS
            return await self._offsets.search_offset(queue, timestamp)
        if where is ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET or is_retry_topic(queue.topic):
            return 0
        return await self._offsets.max_offset(queue)
