"""The pull consumer: the application walks the queues itself and keeps its offsets itself.

    async with PullConsumer("Audit", namesrv_addr="127.0.0.1:9876") as consumer:
        for queue in await consumer.fetch_queues("Orders"):
            offset = 0
            while (result := await consumer.pull(queue, offset)).status is PullStatus.FOUND:
                offset = result.next_begin_offset

It belongs to no rebalancing: two programs with the same group read the same messages.

Source: `DefaultMQPullConsumerImpl`, RocketMQ 5.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType

from rocketmq_py.client.admin.offsets import OffsetAdmin
from rocketmq_py.client.consumer_config import ConsumerConfig
from rocketmq_py.client.instance import MQClientInstance
from rocketmq_py.client.offset_store import RemoteOffsetStore
from rocketmq_py.client.pull_api import PullApi, PullRequest, PullResult
from rocketmq_py.client.route import subscribe_queues
from rocketmq_py.client.validators import check_consumer_group
from rocketmq_py.common.environment import Environment, system_environment
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.message import MessageQueue
from rocketmq_py.remoting.bodies.subscription import TAG, build_subscription

#: Seconds to wait for the answer of a pull that the broker may not hold.
PULL_SECONDS = 10.0


class PullConsumer:
    """Reads queues at offsets of the application's choice.

    Args:
        group: under which name offsets are stored.
        config: the settings; None: the defaults.
        namesrv_addr: the name servers, instead of those in `config`.
        instance: share connections and routes of another client; whoever made it starts and stops it.
        environment: clock and randomness, for tests.

    Attributes:
        instance: connections and routes.
        offsets: questions about the ends of queues, and about times.
    """

    def __init__(
        self,
        group: str,
        config: ConsumerConfig | None = None,
        *,
        namesrv_addr: str = "",
        instance: MQClientInstance | None = None,
        environment: Environment | None = None,
    ) -> None:
        check_consumer_group(group)
        self.config = replace(config) if config is not None else ConsumerConfig()
        if namesrv_addr:
            self.config.namesrv_addr = namesrv_addr
        self.config.check()
        environment = environment or (instance.environment if instance is not None else system_environment())
        self.group = group
        self.instance = instance or MQClientInstance(self.config, environment)
        self._owns_instance = instance is None
        self.offsets = OffsetAdmin(self.instance)
        self._api = PullApi(self.instance, group)
        self._store = RemoteOffsetStore(self.instance, group)
        self._topics: set[str] = set()

    # --- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Become able to pull. A second call does nothing."""
        if self._owns_instance:
            await self.instance.start()
        if self._known_topics not in self.instance.topic_sources:
            self.instance.topic_sources.append(self._known_topics)

    async def stop(self) -> None:
        """Close. Offsets that were not committed are forgotten. A second call does nothing."""
        if self._known_topics in self.instance.topic_sources:
            self.instance.topic_sources.remove(self._known_topics)
        if self._owns_instance:
            await self.instance.stop()

    async def __aenter__(self) -> PullConsumer:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    def _known_topics(self) -> set[str]:
        return self._topics

    # --- reading ------------------------------------------------------------------------------------------------------

    async def fetch_queues(self, topic: str) -> list[MessageQueue]:
        """Return the queues of a topic, sorted.

        Raises:
            NoRouteError: no name server knows the topic.
        """
        self._topics.add(topic)
        await self.instance.update_route(topic)
        return sorted(subscribe_queues(self.instance.routes[topic], topic))

    async def pull(
        self,
        queue: MessageQueue,
        offset: int,
        expression: str = "*",
        max_messages: int = 32,
        *,
        expression_type: str = TAG,
        waits: bool = False,
    ) -> PullResult:
        """Read messages of one queue.

        Args:
            queue: the queue.
            offset: the first one wanted, units.
            expression: tags separated by `||`, `*` for all, or an SQL92 condition.
            max_messages: how many at most.
            expression_type: `TAG` or `SQL92`.
            waits: let the broker hold the request, for `broker_suspend_max_time_millis`, if there is nothing yet.

        Returns:
            What was found; `next_begin_offset` says where to go on, whatever the status.

        Raises:
            InvalidInputError: a negative offset, no messages wanted, or a malformed tag expression.
            BrokerResponseError: the broker refused, for example an SQL92 expression.
            RemotingError: it did not answer.
        """
        if offset < 0 or max_messages < 1:
            raise InvalidInputError(f"cannot pull {max_messages} messages of {queue} at offset {offset}")
        if queue.topic not in self._topics:
            await self.fetch_queues(queue.topic)
        config = self.config
        request = PullRequest(
            queue=queue,
            offset=offset,
            max_messages=max_messages,
            max_bytes=config.pull_batch_size_in_bytes,
            suspend_millis=config.broker_suspend_max_time_millis if waits else 0,
            timeout=config.consumer_timeout_millis_when_suspend / 1_000 if waits else PULL_SECONDS,
            sends_subscription=True,
        )
        return await self._api.pull(request, build_subscription(queue.topic, expression, expression_type))

    # --- offsets ------------------------------------------------------------------------------------------------------

    async def committed(self, queue: MessageQueue) -> int:
        """Return the offset that the group has stored at the broker; -1 if there is none."""
        return await self._store.read(queue, zero_if_young=False)

    async def commit(self, offsets: Mapping[MessageQueue, int]) -> None:
        """Store offsets of the group at the brokers, smaller ones too; what fails is logged."""
        for queue, offset in offsets.items():
            self._store.update(queue, offset, increase_only=False)
        await self._store.persist(list(offsets))

    def __repr__(self) -> str:
        return f"<PullConsumer {self.group} {len(self._topics)} topics>"
