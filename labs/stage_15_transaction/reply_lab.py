"""A cluster, a producer that asks, and a consumer that answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.client.consume_service import ConsumeContext
from rocketmq_py.client.consumer_config import PushConsumerConfig
from rocketmq_py.client.push_consumer import PushConsumer
from rocketmq_py.client.request_producer import RequestProducer
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.message import MessageExt
from rocketmq_py.remoting.bodies.heartbeat import ConsumeFromWhere
from rocketmq_py.remoting.bodies.topic_config import TopicConfig
from rocketmq_py.testing.cluster import Cluster

TOPIC = "Questions"
REPLY_TOPIC = "DefaultCluster_REPLY_TOPIC"

Answering = Callable[[MessageExt], Awaitable[bytes | None]]


async def shout(request: MessageExt) -> bytes | None:
    """Answer at once: the question in capitals."""
    return request.body.upper()


class Replier:
    """A consumer in a client of its own, and the producer that sends its replies.

    Attributes:
        answer: makes the body of a reply; None: no reply.
        requests: every message that came.
        failures: what sending a reply raised.
    """

    def __init__(self, lab: ReplyLab, answer: Answering = shout) -> None:
        self.answer = answer
        self.requests: list[MessageExt] = []
        self.failures: list[Exception] = []
        self.producer = RequestProducer("Repliers", namesrv_addr=lab.cluster.namesrv_addr, environment=lab.environment)
        config = PushConsumerConfig(
            namesrv_addr=lab.cluster.namesrv_addr,
            client_ip="10.1.1.9",
            instance_name="replier",
            consume_from_where=ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET,
        )
        self.consumer = PushConsumer("Answering", config, environment=lab.environment)
        self.consumer.subscribe(TOPIC)
        self.consumer.register_listener(self.handle)

    async def handle(self, messages: Sequence[MessageExt], context: ConsumeContext) -> None:
        for request in messages:
            self.requests.append(request)
            body = await self.answer(request)
            if body is not None:
                try:
                    await self.producer.reply(request, body)
                except Exception as error:
                    self.failures.append(error)

    async def __aenter__(self) -> Replier:
        await self.producer.start()
        await self.consumer.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.consumer.stop()
        await self.producer.stop()


class ReplyLab:
    """What a lab works with."""

    def __init__(self, cluster: Cluster, environment: Environment) -> None:
        self.cluster = cluster
        self.environment = environment

    def asker(self, group: str = "Askers", **settings: Any) -> RequestProducer:
        """Return a producer that asks, not yet started."""
        return RequestProducer(group, namesrv_addr=self.cluster.namesrv_addr, environment=self.environment, **settings)

    def replier(self, answer: Answering = shout) -> Replier:
        """Return a consumer that answers, not yet started."""
        return Replier(self, answer)


def after(seconds: float) -> Answering:
    """Answer late."""

    async def answer(request: MessageExt) -> bytes | None:
        await asyncio.sleep(seconds)
        return request.body.upper()

    return answer


@asynccontextmanager
async def reply_lab(
    folder: Path, environment: Environment, brokers: int = 1, queues: int = 4, **settings: Any
) -> AsyncIterator[ReplyLab]:
    """Run a cluster whose brokers all have the topic of questions."""
    cluster = Cluster(folder, brokers=brokers, environment=environment, config=BrokerConfig(**settings))
    async with cluster:
        for kernel in cluster.kernels:
            kernel.get(TopicConfigManager).update(
                [TopicConfig(topic_name=TOPIC, read_queue_nums=queues, write_queue_nums=queues)]
            )
        yield ReplyLab(cluster, environment)
