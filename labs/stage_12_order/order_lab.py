"""Members that consume in order and write down what they do, and when."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from labs.stage_11_rebalance.group_lab import GROUP, TOPIC, GroupLab
from rocketmq_py.broker.client.rebalance_lock_manager import RebalanceLockManager
from rocketmq_py.client.consumer_config import PushConsumerConfig
from rocketmq_py.client.orderly import ConsumeOrderlyContext, ConsumeOrderlyStatus, InOrder
from rocketmq_py.client.push_consumer import PushConsumer
from rocketmq_py.client.selectors import select_by_hash
from rocketmq_py.common.message import Message, MessageExt, MessageQueue
from rocketmq_py.remoting.bodies.heartbeat import ConsumeFromWhere


class Call(NamedTuple):
    """One call of a listener: who, which queue, what, and from when to when (seconds of the loop)."""

    member: str
    queue: MessageQueue
    body: str
    begin: float
    end: float


class OrderedMember:
    """One consumer in a client of its own.

    Attributes:
        calls: every call of the listener that came to its end.
        seconds: how long the listener takes.
        answers: what it returns for a body, in turn; SUCCESS when there is nothing (more).
        manual: commit only when told to.
    """

    def __init__(self, lab: GroupLab, name: str, calls: list[Call], **settings: Any) -> None:
        self.name = name
        self.calls = calls
        self.seconds = 0.0
        self.answers: dict[str, list[ConsumeOrderlyStatus]] = {}
        self.manual = False
        self.running = 0
        defaults: dict[str, Any] = {
            "namesrv_addr": lab.cluster.namesrv_addr,
            "client_ip": "10.1.1.2",
            "instance_name": name,
            "consume_from_where": ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET,
        }
        self.consumer = PushConsumer(GROUP, PushConsumerConfig(**{**defaults, **settings}), environment=lab.environment)
        self.consumer.subscribe(TOPIC)
        self.consumer.register_listener(InOrder(self.handle))

    async def handle(
        self, messages: Sequence[MessageExt], context: ConsumeOrderlyContext
    ) -> ConsumeOrderlyStatus | None:
        context.auto_commit = not self.manual
        begin = asyncio.get_running_loop().time()
        self.running += 1
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.running -= 1
        end = asyncio.get_running_loop().time()
        self.calls += [Call(self.name, context.queue, message.body.decode(), begin, end) for message in messages]
        answers = self.answers.get(messages[0].body.decode())
        return answers.pop(0) if answers else None

    @property
    def queue_ids(self) -> list[int]:
        return sorted(queue.queue_id for queue in self.consumer.queues if queue.topic == TOPIC)

    async def crash(self) -> None:
        """End without a word to anyone."""
        for process_queue in self.consumer.queues.values():
            process_queue.is_dropped = True
        await self.consumer.instance.transport.close()
        self.consumer._queues.clear()
        await self.consumer.stop()


async def join(lab: GroupLab, name: str, calls: list[Call], **settings: Any) -> OrderedMember:
    """Start one more member."""
    member = OrderedMember(lab, name, calls, **settings)
    await member.consumer.start()
    return member


async def send_steps(lab: GroupLab, keys: Sequence[str], steps: Iterable[int]) -> None:
    """Send the steps of each key, mixed with those of the others, to the queue of the key."""
    for step in steps:
        for key in keys:
            await lab.producer.send_by(Message.of(TOPIC, f"{key}:{step}".encode()), select_by_hash, key)


def locks_of(lab: GroupLab) -> RebalanceLockManager:
    return lab.cluster.kernels[0].get(RebalanceLockManager)


def steps_of(calls: Sequence[Call], key: str) -> list[int]:
    """Return the steps of a key in the order in which listeners finished them."""
    return [int(call.body.split(":")[1]) for call in calls if call.body.split(":")[0] == key]


def overlaps(calls: Sequence[Call]) -> list[tuple[Call, Call]]:
    """Return neighbouring calls for one queue of which the second began before the first had ended."""
    found = []
    for queue in {call.queue for call in calls}:
        ordered = sorted((call for call in calls if call.queue == queue), key=lambda call: call.begin)
        found += [(one, two) for one, two in itertools.pairwise(ordered) if two.begin < one.end]
    return found
