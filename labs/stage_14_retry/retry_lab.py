"""Consumers whose listeners fail, and what becomes of the messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from labs.stage_11_rebalance.group_lab import GROUP, TOPIC, GroupLab
from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.client.consume_service import ConsumeContext, ConsumeStatus
from rocketmq_py.client.consumer_config import PushConsumerConfig
from rocketmq_py.client.push_consumer import PushConsumer
from rocketmq_py.common.message import MessageExt
from rocketmq_py.common.record import RecordState, to_message
from rocketmq_py.remoting.bodies.heartbeat import ConsumeFromWhere
from rocketmq_py.store.commit_log import CommitLog
from rocketmq_py.store.message_store import MessageStore

#: Delay levels of the tries, seconds: 3 to 18 of the table that RocketMQ comes with.
DELAYS = [10, 30, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600, 1_200, 1_800, 3_600, 7_200]


@dataclass(frozen=True)
class Try:
    """One call of the listener: when (seconds of the loop) and with what."""

    at: float
    body: str
    message: MessageExt


class FailingMember:
    """A consumer with the failure policy that it has by itself.

    Attributes:
        tries: every call of the listener, one entry for each message.
        fails: tells for a message whether the listener fails.
        delay_level: what the listener asks for, in `delay_level_when_next_consume`.
    """

    def __init__(
        self,
        lab: GroupLab,
        name: str = "c0",
        group: str = GROUP,
        *,
        fails: Callable[[MessageExt], bool] = lambda message: True,
        expression: str = "*",
        topic: str = TOPIC,
        **settings: Any,
    ) -> None:
        self.tries: list[Try] = []
        self.fails = fails
        self.delay_level = 0
        defaults: dict[str, Any] = {
            "namesrv_addr": lab.cluster.namesrv_addr,
            "client_ip": "10.1.1.4",
            "instance_name": name,
            "consume_from_where": ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET,
        }
        self.consumer = PushConsumer(group, PushConsumerConfig(**{**defaults, **settings}), environment=lab.environment)
        self.consumer.subscribe(topic, expression)
        self.consumer.register_listener(self.handle)

    async def handle(self, messages: Sequence[MessageExt], context: ConsumeContext) -> ConsumeStatus | None:
        context.delay_level_when_next_consume = self.delay_level
        now = asyncio.get_running_loop().time()
        self.tries += [Try(now, message.body.decode(), message) for message in messages]
        return ConsumeStatus.RECONSUME_LATER if any(map(self.fails, messages)) else None

    @property
    def bodies(self) -> list[str]:
        return [one.body for one in self.tries]

    def times(self, body: str) -> list[float]:
        """Return when the listener was given a message."""
        return [one.at for one in self.tries if one.body == body]

    async def crash(self) -> None:
        """End without a word to anyone: nothing is committed, nobody is told."""
        for process_queue in self.consumer.queues.values():
            process_queue.is_dropped = True
        await self.consumer.instance.transport.close()
        self.consumer._queues.clear()
        await self.consumer.stop()


def stored(kernel: Kernel, topic: str) -> list[MessageExt]:
    """Return the messages of a topic in the order of the log."""
    log = kernel.get(CommitLog)
    messages = [
        to_message(check.record)
        for _, check in log.scan(log.min_offset)
        if check.state is RecordState.VALID and check.record is not None
    ]
    return [message for message in messages if message.topic == topic]


def count(kernel: Kernel, topic: str) -> int:
    """Return how many messages a topic of one queue has."""
    return kernel.get(MessageStore).max_offset(topic, 0)
