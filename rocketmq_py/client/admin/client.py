"""Everything an operator asks or changes, over one client.

    async with AdminClient(namesrv_addr="127.0.0.1:9876") as admin:
        await admin.topics.create("Orders", queues=8)
        print((await admin.topics.stats("Orders")).offset_table)

Source: `DefaultMQAdminExt`, RocketMQ 5.3.
"""

from __future__ import annotations

from types import TracebackType

from rocketmq_py.client.admin.cluster import ClusterAdmin
from rocketmq_py.client.admin.consumers import ConsumerAdmin
from rocketmq_py.client.admin.messages import MessageAdmin
from rocketmq_py.client.admin.offsets import OffsetAdmin
from rocketmq_py.client.admin.topics import TopicAdmin
from rocketmq_py.client.config import ClientConfig
from rocketmq_py.client.instance import MQClientInstance
from rocketmq_py.common.environment import Environment, system_environment


class AdminClient:
    """Connections and routes of its own, and the operations by subject.

    Args:
        config: the settings; None: the defaults.
        namesrv_addr: the name servers, instead of those in `config`.
        environment: clock and randomness, for tests.

    Attributes:
        instance: connections and routes.
        cluster, topics, offsets, messages, consumers: the operations.
    """

    def __init__(
        self, config: ClientConfig | None = None, *, namesrv_addr: str = "", environment: Environment | None = None
    ) -> None:
        settings = config if config is not None else ClientConfig()
        if namesrv_addr:
            settings.namesrv_addr = namesrv_addr
        self.instance = MQClientInstance(settings, environment or system_environment())
        self.cluster = ClusterAdmin(self.instance)
        self.topics = TopicAdmin(self.instance)
        self.offsets = OffsetAdmin(self.instance)
        self.messages = MessageAdmin(self.instance)
        self.consumers = ConsumerAdmin(self.instance)

    async def start(self) -> None:
        """Become able to ask. A second call does nothing."""
        await self.instance.start()

    async def stop(self) -> None:
        """Close all connections. A second call does nothing."""
        await self.instance.stop()

    async def __aenter__(self) -> AdminClient:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()
