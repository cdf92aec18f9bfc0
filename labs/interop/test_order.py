"""Ordered consumption with programs of others: Java's on our broker, ours on Apache's, both in one group."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from rocketmq_py.client.admin.client import AdminClient
from rocketmq_py.client.consumer_config import PushConsumerConfig
from rocketmq_py.client.orderly import ConsumeOrderlyContext, ConsumeOrderlyStatus, InOrder
from rocketmq_py.client.producer import Producer
from rocketmq_py.client.push_consumer import PushConsumer
from rocketmq_py.client.selectors import select_by_hash
from rocketmq_py.common.message import Message, MessageExt
from rocketmq_py.remoting.bodies.heartbeat import ConsumeFromWhere
from rocketmq_py.testing.eventually import eventually

from .apache import apache_servers
from .java_tools import JavaProgram, compile_sources, jars, java
from .our_servers import our_servers

pytestmark = [pytest.mark.interop, pytest.mark.serial, pytest.mark.timeout(300)]

KEYS = [f"order-{number}" for number in range(24)]
STEPS = 10
TOTAL = len(KEYS) * STEPS
MILLIS = 10


class Call(NamedTuple):
    """A message that was handled: queue, body `key:step`, and when, milliseconds since 1970."""

    queue: int
    body: str
    begin: int
    end: int


class OurMember:
    """An orderly consumer of ours that does what `ConsumeInOrder.java` does."""

    def __init__(self, namesrv: str, topic: str, group: str, name: str) -> None:
        self.calls: list[Call] = []
        self._failed: set[int] = set()
        config = PushConsumerConfig(
            namesrv_addr=namesrv,
            instance_name=name,
            consume_from_where=ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET,
            suspend_current_queue_time_millis=200,
        )
        self.consumer = PushConsumer(group, config)
        self.consumer.subscribe(topic)
        self.consumer.register_listener(InOrder(self.handle))

    async def handle(
        self, messages: Sequence[MessageExt], context: ConsumeOrderlyContext
    ) -> ConsumeOrderlyStatus | None:
        begin = time.time_ns() // 1_000_000
        await asyncio.sleep(MILLIS / 1_000)
        if context.queue.queue_id not in self._failed:
            self._failed.add(context.queue.queue_id)
            return ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT
        end = time.time_ns() // 1_000_000
        self.calls += [Call(context.queue.queue_id, message.body.decode(), begin, end) for message in messages]
        return None


def calls_of(program: JavaProgram) -> list[Call]:
    """Return what a Java member wrote down."""
    rows = [line.split(" ") for line in list(program.lines) if line.count(" ") == 3 and ":" in line]
    return [Call(int(row[0]), row[1], int(row[2]), int(row[3])) for row in rows if row[0].isdigit()]


async def send(namesrv: str, topic: str, steps: range) -> None:
    """Send steps of all keys, each to the queue of its key."""
    async with Producer("Orderly", namesrv_addr=namesrv) as producer:
        for step in steps:
            for key in KEYS:
                await producer.send_by(Message.of(topic, f"{key}:{step}".encode()), select_by_hash, key)


def check(calls: list[Call]) -> None:
    """Each step of each key once, in order; never two at a time in a queue."""
    ordered = sorted(calls, key=lambda call: call.begin)
    for key in KEYS:
        steps = [int(call.body.split(":")[1]) for call in ordered if call.body.startswith(f"{key}:")]
        assert steps == list(range(STEPS)), f"{key}: {steps}"
    for queue in {call.queue for call in ordered}:
        mine = [call for call in ordered if call.queue == queue]
        # Two clocks of two processes on one machine: a millisecond is not an overlap.
        assert all(two.begin >= one.end - 1 for one, two in itertools.pairwise(mine)), queue


async def test_java_members_consume_in_order_from_our_broker(tmp_path: Path) -> None:
    """A second Java member joins while messages flow: the locks at our broker keep it out until the first has let go."""
    jars()
    classes = compile_sources(tmp_path / "classes")
    async with our_servers(tmp_path) as servers, AdminClient(namesrv_addr=servers.namesrv) as admin:
        await admin.topics.create("InOrder", queues=4)
        arguments = (servers.namesrv, "InOrder", "JavaOrder")
        async with java(
            "ConsumeInOrder", *arguments, "one", str(MILLIS), home=tmp_path / "one", classes=classes
        ) as one:
            await send(servers.namesrv, "InOrder", range(STEPS // 2))
            await eventually(lambda: len(calls_of(one)) > 10, 60)
            async with java(
                "ConsumeInOrder", *arguments, "two", str(MILLIS), home=tmp_path / "two", classes=classes
            ) as two:
                await send(servers.namesrv, "InOrder", range(STEPS // 2, STEPS))
                await eventually(lambda: len({c.body for c in calls_of(one) + calls_of(two)}) == TOTAL, 90)
                check(calls_of(one) + calls_of(two))


async def test_our_members_consume_in_order_from_an_apache_broker(tmp_path: Path) -> None:
    async with apache_servers(tmp_path) as apache, AdminClient(namesrv_addr=apache.namesrv) as admin:
        await admin.topics.create("InOrder", queues=4)
        one, two = (OurMember(apache.namesrv, "InOrder", "OurOrder", name) for name in ("one", "two"))
        async with one.consumer:
            await send(apache.namesrv, "InOrder", range(STEPS // 2))
            await eventually(lambda: len(one.calls) > 10, 60)
            async with two.consumer:
                await send(apache.namesrv, "InOrder", range(STEPS // 2, STEPS))
                await eventually(lambda: len({call.body for call in one.calls + two.calls}) == TOTAL, 90)
                check(one.calls + two.calls)


async def test_a_java_member_and_one_of_ours_share_a_group_in_order(tmp_path: Path) -> None:
    """Both compute the same division, and hand queues over through the same locks."""
    jars()
    classes = compile_sources(tmp_path / "classes")
    async with our_servers(tmp_path) as servers, AdminClient(namesrv_addr=servers.namesrv) as admin:
        await admin.topics.create("InOrder", queues=4)
        ours = OurMember(servers.namesrv, "InOrder", "Mixed", "ours")
        async with ours.consumer:
            await send(servers.namesrv, "InOrder", range(STEPS // 2))
            await eventually(lambda: len(ours.calls) > 10, 60)
            arguments = (servers.namesrv, "InOrder", "Mixed", "theirs", str(MILLIS))
            async with java("ConsumeInOrder", *arguments, home=tmp_path / "theirs", classes=classes) as theirs:
                await eventually(lambda: "started" in theirs.lines, 60)
                await eventually(lambda: len(ours.consumer.queues) < 5, 60)
                await send(servers.namesrv, "InOrder", range(STEPS // 2, STEPS))
                await eventually(lambda: len({c.body for c in ours.calls + calls_of(theirs)}) == TOTAL, 90)
                check(ours.calls + calls_of(theirs))
                assert calls_of(theirs), "the Java member got no queue"
