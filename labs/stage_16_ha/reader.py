"""A consumer for the labs of this stage: writes down what it gets, and when."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.client.consume_service import ConsumeContext
from rocketmq_py.client.consumer_config import PushConsumerConfig
from rocketmq_py.client.orderly import InOrder
from rocketmq_py.client.push_consumer import PushConsumer
from rocketmq_py.common.message import MessageExt
from rocketmq_py.remoting.bodies.heartbeat import ConsumeFromWhere
from rocketmq_py.remoting.codes import RequestCode
from rocketmq_py.remoting.processors import Processors

from .ha_lab import TOPIC, HaLab

GROUP = "billing"


class Reader:
    """One consumer of a topic.

    Attributes:
        got: body and time of the loop of every message.
        gate: the listener waits for it; open unless a lab closes it.
    """

    def __init__(
        self, lab: HaLab, topic: str = TOPIC, name: str = "reader", listener: InOrder | None = None, **settings: Any
    ) -> None:
        self.got: list[tuple[str, float]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        config: dict[str, Any] = {
            "namesrv_addr": lab.namesrv.address,
            "client_ip": "10.1.1.1",
            "instance_name": name,
            "consume_from_where": ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET,
        }
        self.consumer = PushConsumer(GROUP, PushConsumerConfig(**{**config, **settings}), environment=lab.environment)
        self.consumer.register_listener(listener or self._handle)
        self.consumer.subscribe(topic, "*")

    async def _handle(self, messages: Sequence[MessageExt], context: ConsumeContext) -> None:
        await self.gate.wait()
        now = asyncio.get_running_loop().time()
        self.got += [(message.body.decode(), now) for message in messages]

    async def __aenter__(self) -> Reader:
        await self.consumer.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        self.gate.set()
        await self.consumer.stop()

    @property
    def bodies(self) -> Counter[str]:
        """How often each body came."""
        return Counter(body for body, _ in self.got)


class Pulls:
    """Counts the pulls that a broker is asked for, from now on."""

    def __init__(self, broker: Kernel) -> None:
        self.count = 0
        processors = broker.get(Processors)
        del processors.hot[RequestCode.PULL_MESSAGE]

        def counted(request: object) -> None:
            self.count += 1

        processors.guard(RequestCode.PULL_MESSAGE, counted)
