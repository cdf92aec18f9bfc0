"""A cluster of stage 08 for labs: a topic with known messages, a client that pulls by hand, and the ordinary consumers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.client.config import ProducerConfig
from rocketmq_py.client.consumer_config import ConsumerConfig, LitePullConsumerConfig
from rocketmq_py.client.lite_pull_consumer import LitePullConsumer
from rocketmq_py.client.producer import Producer
from rocketmq_py.client.pull_consumer import PullConsumer
from rocketmq_py.common import sys_flag as flags
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.message import Message, MessageExt, MessageQueue
from rocketmq_py.common.record import decode_records
from rocketmq_py.remoting.bodies.topic_config import TopicConfig
from rocketmq_py.remoting.client import RemotingClient
from rocketmq_py.remoting.codes import RequestCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.header import encode_header
from rocketmq_py.remoting.headers.pull import PullMessageRequestHeader
from rocketmq_py.remoting.processors import Processors
from rocketmq_py.testing.cluster import Cluster

TOPIC = "Orders"
GROUP = "Audit"
SECONDS = 60.0


class PullLab:
    """What a lab works with.

    Attributes:
        cluster: name servers and brokers.
        producer: fills queues.
        client: sends requests as they are.
    """

    def __init__(self, cluster: Cluster, producer: Producer, client: RemotingClient) -> None:
        self.cluster = cluster
        self.producer = producer
        self.client = client

    @property
    def kernel(self) -> Kernel:
        """The first broker's parts."""
        return self.cluster.kernels[0]

    @property
    def address(self) -> str:
        """The first broker's address."""
        return self.kernel.config.broker_address

    @staticmethod
    def queue(number: int, broker: str = "broker-a") -> MessageQueue:
        """Name a queue of the lab's topic."""
        return MessageQueue(TOPIC, broker, number)

    def create_topic(self, name: str, queues: int, **settings: Any) -> None:
        """Create a topic on every broker, as an operator does."""
        for kernel in self.cluster.kernels:
            config = TopicConfig(topic_name=name, read_queue_nums=queues, write_queue_nums=queues, **settings)
            kernel.get(TopicConfigManager).update([config])

    async def send(self, *bodies: str, queue: int = 0, tags: str = "", broker: str = "broker-a") -> None:
        """Send messages to one queue."""
        for body in bodies:
            await self.producer.send(Message.of(TOPIC, body.encode(), tags=tags), queue=self.queue(queue, broker))

    async def request(self, code: int, fields: dict[str, str], timeout: float = SECONDS) -> RemotingCommand:
        """Send any request to the first broker."""
        return await self.client.request(self.address, RemotingCommand.create_request(code, fields), timeout)

    async def pull(self, offset: int, *, code: int = RequestCode.PULL_MESSAGE, **changes: Any) -> RemotingCommand:
        """Pull from queue 0 of the lab's topic; `changes` are fields of the header."""
        return await self.request(code, pull_fields(offset, **changes))

    def consumer(self, group: str = GROUP, **settings: Any) -> PullConsumer:
        """Make a pull consumer; start it with `async with`."""
        config = ConsumerConfig(namesrv_addr=self.cluster.namesrv_addr, **settings)
        return PullConsumer(group, config, environment=self.cluster.environment)

    def lite(self, group: str = GROUP, **settings: Any) -> LitePullConsumer:
        """Make a lite pull consumer; start it with `async with`."""
        config = LitePullConsumerConfig(namesrv_addr=self.cluster.namesrv_addr, **settings)
        return LitePullConsumer(group, config, environment=self.cluster.environment)

    async def restart(self, number: int = 0) -> None:
        """Stop a broker properly and start it again on the same port and files."""
        kernel = self.cluster.kernels[number]
        await kernel.stop()
        self.cluster.kernels[number] = await self.cluster.start_broker(
            kernel.config.broker_name, listen_port=kernel.config.listen_port
        )


def pull_fields(offset: int, **changes: Any) -> dict[str, str]:
    """Return the fields of a pull; no value is a default of anything."""
    fields: dict[str, Any] = {
        "consumer_group": GROUP,
        "topic": TOPIC,
        "queue_id": 0,
        "queue_offset": offset,
        "max_msg_nums": 32,
        "sys_flag": flags.PULL_SUBSCRIPTION,
        "commit_offset": 0,
        "suspend_timeout_millis": 15_000,
        "sub_version": 1_768_464_000_111,
        "subscription": "*",
        "expression_type": "TAG",
    }
    return encode_header(PullMessageRequestHeader(**{**fields, **changes}))


def bodies(found: Sequence[MessageExt] | RemotingCommand) -> list[str]:
    """Return the bodies of messages, or of those in a response."""
    messages = decode_records(memoryview(found.body)) if isinstance(found, RemotingCommand) else found
    return [message.body.decode() for message in messages]


@asynccontextmanager
async def pull_lab(
    folder: Path,
    environment: Environment,
    *,
    queues: int = 4,
    hot: bool = True,
    through: str = "pull",
    brokers: int = 1,
    name_servers: int = 1,
    **settings: Any,
) -> AsyncIterator[PullLab]:
    """Run a cluster with a topic.

    Args:
        folder: for its files.
        environment: its clock and files.
        queues: of the topic, on each broker.
        hot: false takes the hot handlers away, so that every request takes the ordinary path.
        through: the last stage of the brokers.
        brokers, name_servers: how many.
        settings: of the brokers.
    """
    cluster = Cluster(
        folder,
        brokers=brokers,
        name_servers=name_servers,
        through=through,
        environment=environment,
        config=BrokerConfig(**settings),
    )
    client = RemotingClient(environment.clock)
    async with cluster:
        if not hot:
            for kernel in cluster.kernels:
                kernel.get(Processors).hot.clear()
        config = ProducerConfig(namesrv_addr=cluster.namesrv_addr)
        async with Producer("Sellers", config, environment=environment) as producer:
            lab = PullLab(cluster, producer, client)
            lab.create_topic(TOPIC, queues)
            try:
                yield lab
            finally:
                await client.close()
