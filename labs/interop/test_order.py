"""Ordered messages with programs of others: theirs on our broker, ours on Apache's, both in one group."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
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
from .java_tools import OLDER, VERSION, JavaProgram, java, java_client
from .other_clients import cpp_client, go_client, node_client
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
    """An orderly consumer of ours that does what `Consume.java` does in order."""

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
    """Return what a member of another client wrote down."""
    rows = [line.split(" ") for line in list(program.lines) if line.count(" ") == 3 and ":" in line]
    return [Call(int(row[0]), row[1], int(row[2]), int(row[3])) for row in rows if row[0].isdigit()]


async def send(namesrv: str, topic: str, steps: range) -> None:
    """Send steps of all keys, each to the queue of its key."""
    async with Producer("Orderly", namesrv_addr=namesrv) as producer:
        for step in steps:
            for key in KEYS:
                await producer.send_by(Message.of(topic, f"{key}:{step}".encode()), select_by_hash, key)


def check(calls: list[Call], times: int = 1) -> None:
    """Each step of each key in order; never two at a time in a queue.

    Args:
        calls: what was handled, by whichever member.
        times: how often the same message may come when its queue changes hands. The other clients do not store the
            offset of what their listener handled while they were told to let the queue go.
    """
    ordered = sorted(calls, key=lambda call: call.begin)
    for key in KEYS:
        steps = [int(call.body.split(":")[1]) for call in ordered if call.body.startswith(f"{key}:")]
        first_of_each = [step for at, step in enumerate(steps) if step not in steps[:at]]
        assert first_of_each == list(range(STEPS)), f"{key}: {steps}"
        assert max(steps.count(step) for step in steps) <= times, f"{key}: {steps}"
    for queue in {call.queue for call in ordered}:
        mine = [call for call in ordered if call.queue == queue]
        # Two clocks of two processes on one machine: a millisecond is not an overlap.
        assert all(two.begin >= one.end - 1 for one, two in itertools.pairwise(mine)), queue


Member = Callable[[str, str], AbstractAsyncContextManager[JavaProgram]]


def members(client: str, namesrv: str, topic: str, folder: Path) -> Member:
    """Return what starts a member of a group by the names of the group and of the member; skip without the client."""
    if client.startswith("Java"):
        keywords = java_client(client.removeprefix("Java "), folder)
        options = ("mode=orderly", f"millis={MILLIS}", "fail=first", "print=queue,body,begin,end")
        return lambda group, name: java(
            "Consume", namesrv, topic, group, name, *options, home=folder / name, **keywords
        )
    program = {"Go": go_client, "C++": cpp_client, "Node": node_client}[client]()
    return lambda group, name: program.run(
        "consume", namesrv, group, topic, name, "ordered", str(MILLIS), home=folder / name
    )


@pytest.mark.parametrize("client", [f"Java {VERSION}", f"Java {OLDER}", "Go", "C++", "Node"])
async def test_members_of_a_client_consume_in_order_from_our_broker(tmp_path: Path, client: str) -> None:
    """A second member joins while messages flow: the locks at our broker keep it out until the first has let go."""
    if client == "Node":
        pytest.skip(
            "ali-ons 3.12.0 never asks for a lock: it has no ordered consumption, only one member can be in order"
        )
    async with our_servers(tmp_path) as servers, AdminClient(namesrv_addr=servers.namesrv) as admin:
        await admin.topics.create("InOrder", queues=4)
        start = members(client, servers.namesrv, "InOrder", tmp_path)
        async with start("TheirOrder", "one") as one:
            await send(servers.namesrv, "InOrder", range(STEPS // 2))
            await eventually(lambda: len(calls_of(one)) > 10, 60)
            async with start("TheirOrder", "two") as two:
                # The queues change hands while there is work.
                for step in range(STEPS // 2, STEPS):
                    await send(servers.namesrv, "InOrder", range(step, step + 1))
                    await asyncio.sleep(0.5)
                await eventually(lambda: len({c.body for c in calls_of(one) + calls_of(two)}) == TOTAL, 120)
                calls = calls_of(one) + calls_of(two)
                repeated = len(calls) - TOTAL
                print(f"{client}: shares {len(calls_of(one))} and {len(calls_of(two))}, {repeated} handled twice")
                check(calls, times=2)


async def test_one_node_member_gets_each_queue_in_order(tmp_path: Path) -> None:
    async with our_servers(tmp_path) as servers, AdminClient(namesrv_addr=servers.namesrv) as admin:
        await admin.topics.create("InOrder", queues=4)
        start = members("Node", servers.namesrv, "InOrder", tmp_path)
        async with start("TheirOrder", "one") as one:
            await eventually(lambda: "started" in one.lines, 30)
            await send(servers.namesrv, "InOrder", range(STEPS))
            await eventually(lambda: len({c.body for c in calls_of(one)}) == TOTAL, 90)
            check(calls_of(one))


@pytest.mark.parametrize("client", [f"Java {VERSION}", f"Java {OLDER}", "Go", "C++", "Node"])
async def test_what_a_client_sends_in_order_is_consumed_in_order_by_ours(tmp_path: Path, client: str) -> None:
    """The client chooses the queue of each order by its own hash; one order never has two queues."""
    if client == "Node":
        pytest.skip("ali-ons 3.12.0 takes queue 0 for no queue: keys that belong there go to all queues in turn")
    async with our_servers(tmp_path) as servers, AdminClient(namesrv_addr=servers.namesrv) as admin:
        await admin.topics.create("InOrder", queues=4)
        if client.startswith("Java"):
            keywords = java_client(client.removeprefix("Java "), tmp_path)
            producer = java(
                "Produce", servers.namesrv, "InOrder", str(TOTAL), "kind=ordered", f"keys={len(KEYS)}",
                home=tmp_path / "producer", **keywords,
            )  # fmt: skip
        else:
            program = {"Go": go_client, "C++": cpp_client}[client]()
            arguments = (servers.namesrv, "TheirProducers", "InOrder", str(TOTAL), "ordered", str(len(KEYS)))
            producer = program.run("produce", *arguments, home=tmp_path / "producer")
        async with producer as running:
            assert await running.wait(120) == 0, running.output[-2_000:]
            assert {f"stored {TOTAL}", f"sent {TOTAL}"} & set(running.lines), running.output[-2_000:]
        one, two = (OurMember(servers.namesrv, "InOrder", "OurOrder", name) for name in ("one", "two"))
        async with one.consumer, two.consumer:
            await eventually(lambda: len({call.body for call in one.calls + two.calls}) == TOTAL, 60)
        check(one.calls + two.calls)
        used = {call.queue for call in one.calls + two.calls}
        assert len(used) > 1, "all orders went to one queue"


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


@pytest.mark.parametrize("client", [f"Java {VERSION}", f"Java {OLDER}", "Go", "C++"])
async def test_a_member_of_a_client_and_one_of_ours_share_a_group_in_order(tmp_path: Path, client: str) -> None:
    """Both compute the same division, and hand queues over through the same locks."""
    async with our_servers(tmp_path) as servers, AdminClient(namesrv_addr=servers.namesrv) as admin:
        await admin.topics.create("InOrder", queues=4)
        start = members(client, servers.namesrv, "InOrder", tmp_path)
        ours = OurMember(servers.namesrv, "InOrder", "Mixed", "ours")
        async with ours.consumer:
            await send(servers.namesrv, "InOrder", range(STEPS // 2))
            await eventually(lambda: len(ours.calls) > 10, 60)
            async with start("Mixed", "theirs") as theirs:
                await eventually(lambda: "started" in theirs.lines, 60)
                await eventually(lambda: sum(queue.topic == "InOrder" for queue in ours.consumer.queues) == 2, 60)
                await send(servers.namesrv, "InOrder", range(STEPS // 2, STEPS))
                await eventually(lambda: len({c.body for c in ours.calls + calls_of(theirs)}) == TOTAL, 90)
                print(f"{client}: shares {len(ours.calls)} of ours and {len(calls_of(theirs))} of theirs")
                # The C++ client asks where the group is before it has the lock, and begins at what was known then.
                check(ours.calls + calls_of(theirs), times=2 if client == "C++" else 1)
                assert calls_of(theirs), "the other member got no queue"
