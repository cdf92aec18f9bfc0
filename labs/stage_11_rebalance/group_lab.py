"""A cluster with a topic, and consumers that write down what they get."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.client.consume_service import ConsumeContext, ConsumeStatus
from rocketmq_py.client.consumer_config import PushConsumerConfig
from rocketmq_py.client.failure_policy import RetryLocally
from rocketmq_py.client.producer import Producer
from rocketmq_py.client.push_consumer import PushConsumer
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.message import Message, MessageExt, MessageQueue
from rocketmq_py.remoting.bodies.heartbeat import ConsumeFromWhere
from rocketmq_py.remoting.bodies.topic_config import TopicConfig
from rocketmq_py.testing.cluster import Cluster
from rocketmq_py.testing.eventually import eventually

TOPIC = "Orders"
GROUP = "billing"


class Member:
    """One consumer in a client of its own.

    Attributes:
        got: body, queue id and time (seconds of the loop) of every message that its listener was given.
        gate: the listener waits for it; open unless a lab closes it.
        fails: the listener raises for bodies in it.
    """

    def __init__(self, lab: GroupLab, name: str, group: str = GROUP, **settings: Any) -> None:
        self.got: list[tuple[str, int, float]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.fails: set[str] = set()
        self.running = self.most_running = 0
        defaults: dict[str, Any] = {
            "namesrv_addr": lab.cluster.namesrv_addr,
            "client_ip": "10.1.1.1",
            "instance_name": name,
            "consume_from_where": ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET,
        }
        self.consumer = PushConsumer(group, PushConsumerConfig(**{**defaults, **settings}), environment=lab.environment)
        self.consumer.register_listener(self.handle)
        # What this stage has, also where the code of later ones is there.
        self.consumer.failure_policy = RetryLocally()

    async def handle(self, messages: Sequence[MessageExt], context: ConsumeContext) -> ConsumeStatus | None:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            now = asyncio.get_running_loop().time()
            self.got += [(message.body.decode(), message.queue_id, now) for message in messages]
            await self.gate.wait()
            if any(message.body.decode() in self.fails for message in messages):
                raise ValueError("the lab told this listener to fail")
        finally:
            self.running -= 1
        return None

    @property
    def bodies(self) -> list[str]:
        return [body for body, _, _ in self.got]

    @property
    def queue_ids(self) -> list[int]:
        return sorted(queue.queue_id for queue in self.consumer.queues if queue.topic == TOPIC)

    async def crash(self) -> None:
        """End without a word to anyone: nothing is committed, nobody is told."""
        consumer = self.consumer
        for process_queue in consumer.queues.values():
            process_queue.is_dropped = True
        await consumer.instance.transport.close()
        consumer._queues.clear()
        await consumer.stop()


class GroupLab:
    """What a lab works with."""

    def __init__(self, cluster: Cluster, producer: Producer, environment: Environment, queues: int) -> None:
        self.cluster = cluster
        self.producer = producer
        self.environment = environment
        self.queues = [MessageQueue(TOPIC, "broker-a", number) for number in range(queues)]
        self.members: list[Member] = []

    async def join(self, name: str, expression: str = "*", **settings: Any) -> Member:
        """Start one more member and wait until all members agree about the queues."""
        member = Member(self, name, **settings)
        member.consumer.subscribe(TOPIC, expression)
        await member.consumer.start()
        self.members.append(member)
        return member

    async def leave(self, member: Member) -> None:
        """Stop a member properly."""
        self.members.remove(member)
        await member.consumer.stop()

    async def send(self, *bodies: str, queue: int | None = None, tags: str = "") -> None:
        """Send messages, to the queues in turn or to one of them."""
        for number, body in enumerate(bodies):
            target = self.queues[number % len(self.queues) if queue is None else queue]
            await self.producer.send(Message.of(TOPIC, body.encode(), tags=tags), queue=target)

    async def settled(self) -> None:
        """Wait until every queue has exactly one owner and all members have a fair share."""

        def is_settled() -> bool:
            owned = Counter(number for member in self.members for number in member.queue_ids)
            shares = [len(member.queue_ids) for member in self.members]
            return owned == Counter(range(len(self.queues))) and max(shares) - min(shares) <= 1

        await eventually(is_settled, 60)

    def bodies(self) -> Counter[str]:
        """Count how often each message was given to any listener."""
        return Counter(body for member in self.members for body in member.bodies)


@asynccontextmanager
async def group_lab(
    folder: Path, environment: Environment, queues: int = 4, **broker_settings: Any
) -> AsyncIterator[GroupLab]:
    """Run a cluster of one broker with a topic of some queues, and a producer."""
    cluster = Cluster(folder, environment=environment, config=BrokerConfig(**broker_settings))
    async with (
        cluster,
        Producer("shop", namesrv_addr=cluster.namesrv_addr, environment=environment) as producer,
    ):
        topics = cluster.kernels[0].get(TopicConfigManager)
        topics.update([TopicConfig(topic_name=TOPIC, read_queue_nums=queues, write_queue_nums=queues)])
        lab = GroupLab(cluster, producer, environment, queues)
        try:
            yield lab
        finally:
            for member in lab.members:
                member.gate.set()
                await member.consumer.stop()
