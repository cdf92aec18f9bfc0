"""How long it takes until somebody else does the work: p50 and p99 over many kills of a master, as processes.

`RMQ_FAILOVER_RUNS` says how many; `make faults` does 50.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
import statistics
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from labs.faults.group import (
    CONTROLLER_SETTINGS,
    SEND_SECONDS,
    SETTINGS,
    SLOW_CONTROLLER_SETTINGS,
    SLOW_SETTINGS,
    running_group,
)
from rocketmq_py.cli.cluster import search_ports
from rocketmq_py.cli.local_cluster import LocalCluster
from rocketmq_py.cli.topology import lay_out, read_topology
from rocketmq_py.client.admin.client import AdminClient
from rocketmq_py.client.config import ClientConfig, ProducerConfig
from rocketmq_py.client.consumer_config import PushConsumerConfig
from rocketmq_py.client.errors import ClientError
from rocketmq_py.client.producer import Producer
from rocketmq_py.client.push_consumer import PushConsumer
from rocketmq_py.client.send_result import SendStatus
from rocketmq_py.common.environment import system_environment
from rocketmq_py.common.message import Message, MessageExt, MessageQueue
from rocketmq_py.remoting.bodies.heartbeat import ConsumeFromWhere
from rocketmq_py.remoting.errors import RemotingError
from rocketmq_py.testing.eventually import eventually

RUNS = int(os.environ.get("RMQ_FAILOVER_RUNS", "1"))
TOPIC = "FailoverLab"
#: Messages on the master that is killed, read one at a time: more than can be read before it is back.
BACKLOG = 3_000
pytestmark = [pytest.mark.serial, pytest.mark.timeout(120 + 60 * RUNS)]


def shown(what: str, seconds: Sequence[float]) -> str:
    """Return p50, p99 and the longest in milliseconds."""
    ordered = sorted(seconds)
    p99 = ordered[min(len(ordered) - 1, round(0.99 * (len(ordered) - 1)))]
    return (
        f"{what}: p50 {statistics.median(ordered) * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms, "
        f"longest {ordered[-1] * 1000:.0f} ms, {len(ordered)} runs"
    )


@asynccontextmanager
async def two_masters_and_slaves(folder: Path) -> AsyncIterator[LocalCluster]:
    files = read_topology("2m-2s-sync", system_environment())
    members = search_ports(
        lambda base: lay_out(files, folder, base, {**SETTINGS, "mappedFileSizeCommitLog": "16777216"})
    )
    cluster = LocalCluster.create(folder, "2m-2s-sync", members)
    names = [member.name for member in members]
    try:
        await cluster.start(names)
        await cluster.wait_until_registered()
        yield cluster
    finally:
        await cluster.stop(names)


class SlowReader:
    """A member of a group that takes a message at a time, and notes when those of one broker came."""

    def __init__(self, namesrv_addr: str, group: str) -> None:
        self.arrivals: list[float] = []
        config = PushConsumerConfig(
            namesrv_addr=namesrv_addr,
            consume_from_where=ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET,
            pull_batch_size=1,
            pull_threshold_for_queue=1,
        )
        self.consumer = PushConsumer(group, config)
        self.consumer.subscribe(TOPIC)

        async def handle(messages: Sequence[MessageExt], context: object) -> None:
            self.arrivals.append(asyncio.get_running_loop().time())

        self.consumer.register_listener(handle)

    def has_read(self, count: int) -> bool:
        """Tell whether so many messages came."""
        return len(self.arrivals) >= count


async def first_after(arrivals: list[float], moment: float, seconds: float = 40.0) -> float:
    """Wait for the first arrival after the longest silence that began around a moment; return how long that was."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not arrivals or arrivals[-1] < moment + 0.05:
        assert loop.time() < deadline, f"nothing was read for {seconds} s after the master was gone"
        await asyncio.sleep(0.005)
    times = [moment, *(at for at in arrivals if at > moment)]
    return max(after - before for before, after in itertools.pairwise(times))


async def until_sent(producer: Producer, killed_at: float) -> float:
    """Send one message after the other; return when the first that began after the kill was acknowledged."""
    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        try:
            result = await producer.send(Message.of(TOPIC, b"on the other master"))
        except (ClientError, RemotingError):
            continue
        if began >= killed_at and result.status is SendStatus.SEND_OK:
            assert result.queue.broker_name == "broker-b"
            return loop.time() - killed_at


async def test_fixed_roles_until_others_send_and_slaves_are_read(tmp_path: Path) -> None:
    """Kill a master: how long until a producer sends on the other master, and until a running consumer reads the dead
    master's messages from its slave. The consumer is in the middle of a backlog, with one message in its hands.
    """
    loop = asyncio.get_running_loop()
    sent, read = [], []
    async with two_masters_and_slaves(tmp_path / "cluster") as cluster:
        async with AdminClient(ClientConfig(namesrv_addr=cluster.namesrv_addr)) as admin:
            await admin.topics.create(TOPIC, queues=1)
        for number in range(RUNS):
            async with Producer("Failover", ProducerConfig(namesrv_addr=cluster.namesrv_addr)) as producer:
                queue = MessageQueue(TOPIC, "broker-a", 0)
                for start in range(0, BACKLOG, 100):
                    batch = [Message.of(TOPIC, b"%d" % (start + index)) for index in range(100)]
                    await producer.send_batch(batch, queue=queue)
                reader = SlowReader(cluster.namesrv_addr, f"Reader{number}")
                async with reader.consumer:
                    await eventually(functools.partial(reader.has_read, 20))
                    assert await cluster.kill("broker-a")
                    killed_at = loop.time()
                    sent.append(await until_sent(producer, killed_at))
                    read.append(await first_after(reader.arrivals, killed_at))
            await cluster.start(["broker-a"])
            await cluster.wait_until_registered()
    print("\n" + shown("until a producer sent on the other master", sent))
    print(shown("until a consumer read from the slave", read))
    assert max(sent) <= 5.0
    assert max(read) <= 5.0


@pytest.mark.parametrize("fault", ["killed", "paused"])
@pytest.mark.parametrize(("timers", "limit"), [("fast", 8.0), ("RocketMQ's", 16.0)])
async def test_controller_mode_until_another_master_acknowledges(
    tmp_path: Path, fault: str, timers: str, limit: float
) -> None:
    """Take the master of three replicas away: how long until the name server names another one, and until that one has
    acknowledged a send.

    A killed process is missed as soon as its connections close. One that is paused, or cut off, is missed when its
    heartbeats are late: after 3 s with fast timers, after 10 to 15 s with RocketMQ's, which look every 5 s.
    """
    elected, acknowledged = [], []
    slow = timers != "fast"
    async with running_group(
        tmp_path / "cluster",
        "controller",
        controller_settings=SLOW_CONTROLLER_SETTINGS if slow else CONTROLLER_SETTINGS,
        **(SLOW_SETTINGS if slow else {}),
    ) as group:
        for _ in range(RUNS):
            async with group.load():
                await group.settled_under_load()
                await group.acknowledged_again(group.clock(), 20)
                master = await group.master()
                began = group.clock()
                if fault == "killed":
                    await group.kill(master)
                else:
                    group.pause(master)
                await group.master(other_than=master)
                elected.append(group.clock() - began)
                await group.acknowledged_again(group.clock(), 20)
                acknowledged.append(group.history.longest_gap(began, group.clock()))
                if fault == "killed":
                    await group.start(master)
                else:
                    group.resume(master)
                await group.settled_under_load()
    print("\n" + shown(f"{fault}, {timers} timers: until another master was elected and registered", elected))
    print(shown(f"{fault}, {timers} timers: longest time without an acknowledgement", acknowledged))
    # A send that was begun before the election may have to run into its time-out first.
    assert max(acknowledged) <= limit + SEND_SECONDS
