"""Where a producer may send: the queues of its topics, kept up with the routes.

Source: `DefaultMQProducerImpl#tryToFindTopicPublishInfo`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from rocketmq_py.client.config import ProducerConfig
from rocketmq_py.client.errors import NoBrokerError, NoRouteError
from rocketmq_py.client.fault_strategy import MQFaultStrategy
from rocketmq_py.client.instance import MQClientInstance
from rocketmq_py.client.route import TopicPublishInfo, publish_queues
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.message import MessageQueue
from rocketmq_py.remoting.bodies.route import TopicRouteData


class PublishQueues:
    """The queues of the topics that one producer has sent to.

    Args:
        config: the producer's settings.
        instance: routes.
        faults: which brokers to avoid.
        environment: randomness.
    """

    def __init__(
        self, config: ProducerConfig, instance: MQClientInstance, faults: MQFaultStrategy, environment: Environment
    ) -> None:
        self._config = config
        self._instance = instance
        self._faults = faults
        self._environment = environment
        self._topics: set[str] = set()
        self._infos: dict[str, TopicPublishInfo] = {}

    def attach(self) -> None:
        """Let the instance refresh the routes of these topics, and hear of changes."""
        self._instance.topic_sources.append(self._used_topics)
        self._instance.route_listeners.append(self._route_changed)

    def detach(self) -> None:
        """Undo `attach`."""
        self._instance.topic_sources.remove(self._used_topics)
        self._instance.route_listeners.remove(self._route_changed)

    async def choose(self, topic: str, last_broker: str | None) -> MessageQueue:
        """Return the queue for the next attempt; not on `last_broker` if there is another one.

        Raises:
            NoRouteError: nobody has the topic, or lets one write.
        """
        info = await self.find(topic)
        queue = self._faults.select(info, last_broker, asyncio.get_running_loop().time())
        if queue is None:
            raise _not_writable(topic)
        return queue

    async def find(self, topic: str) -> TopicPublishInfo:
        """Return the queues of a topic; ask for its route if they are not known, then for the template's.

        Raises:
            NoRouteError: nobody has the topic, or lets one write.
        """
        info = self._infos.get(topic)
        if info is not None and info.queues:
            return info
        self._topics.add(topic)
        known = self._instance.routes.get(topic)
        if known is not None:
            self._route_changed(topic, known)
        if not self._has_queues(topic):
            try:
                await self._instance.update_route(topic)
            except NoRouteError:
                # The topic may come into being by the send itself, on a broker that has the template.
                await self._use_template(topic)
        if not self._has_queues(topic):
            raise _not_writable(topic)
        return self._infos[topic]

    def _has_queues(self, topic: str) -> bool:
        return topic in self._infos and bool(self._infos[topic].queues)

    async def _use_template(self, topic: str) -> None:
        try:
            await self._instance.update_route(
                topic, use_default=True, default_queue_nums=self._config.default_topic_queue_nums
            )
        except NoRouteError:
            raise NoRouteError(
                topic, "no name server knows it, and no broker creates topics by itself; create it first"
            ) from None

    async def master_of(self, queue: MessageQueue) -> str:
        """Return the address that takes messages for a queue.

        Raises:
            NoBrokerError: no name server knows a master of that broker name.
        """
        address = self._instance.master_address(queue.broker_name)
        if address is None:
            await self._instance.update_route(queue.topic)
            address = self._instance.master_address(queue.broker_name)
        if address is None:
            raise NoBrokerError(queue.broker_name)
        return address

    def _used_topics(self) -> Iterable[str]:
        return self._topics

    def _route_changed(self, topic: str, route: TopicRouteData) -> None:
        if topic in self._topics:
            self._infos[topic] = TopicPublishInfo(publish_queues(route, topic), self._environment.random)

    def __repr__(self) -> str:
        return f"<PublishQueues {len(self._topics)} topics>"


def _not_writable(topic: str) -> NoRouteError:
    return NoRouteError(topic, "no broker that has it lets one write and has a master")
