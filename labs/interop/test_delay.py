"""Delay levels with programs of others: Java's on our broker, ours on Apache's, and stores with waiting messages."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.assembly.stages import build_broker
from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.client.admin.client import AdminClient
from rocketmq_py.client.config import ProducerConfig
from rocketmq_py.client.consume_service import ConsumeContext
from rocketmq_py.client.consumer_config import PushConsumerConfig
from rocketmq_py.client.producer import Producer
from rocketmq_py.client.pull_api import PullStatus
from rocketmq_py.client.pull_consumer import PullConsumer
from rocketmq_py.client.push_consumer import PushConsumer
from rocketmq_py.common.environment import system_environment
from rocketmq_py.common.message import Message, MessageExt
from rocketmq_py.namesrv.config import NamesrvConfig
from rocketmq_py.namesrv.server import Namesrv
from rocketmq_py.remoting.bodies.heartbeat import ConsumeFromWhere
from rocketmq_py.store.config import MessageStoreConfig
from rocketmq_py.testing.eventually import eventually

from .apache import apache_servers
from .java_tools import OLDER, VERSION, JavaProgram, free_port, jars, java, java_client, mqadmin
from .other_clients import cpp_client, go_client, node_client
from .other_clients import received as rows_of
from .our_servers import our_servers

pytestmark = [pytest.mark.interop, pytest.mark.serial, pytest.mark.timeout(400)]

TOPIC = "Later"
#: Delays of RocketMQ's default levels 1 to 3, milliseconds.
DELAYS = {1: 1_000, 2: 5_000, 3: 10_000}
#: A table of levels that a lab can wait for. Level 2 outlives the change of brokers.
LEVELS = "1s 20s 25s"


class Watch:
    """A push consumer of ours and what it got."""

    def __init__(self, namesrv: str, group: str) -> None:
        self.got: list[MessageExt] = []
        config = PushConsumerConfig(namesrv_addr=namesrv, consume_from_where=ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET)
        self.consumer = PushConsumer(group, config)
        self.consumer.subscribe(TOPIC, "TagA")
        self.consumer.register_listener(self.handle)

    async def handle(self, messages: Sequence[MessageExt], context: ConsumeContext) -> None:
        self.got += messages

    @property
    def counts(self) -> Counter[str]:
        return Counter(message.body.decode() for message in self.got)


async def send(namesrv: str, level: int, bodies: Sequence[str]) -> None:
    """Send messages of a level, patiently: a virtual machine that has just started is slow."""
    async with Producer("Shop", ProducerConfig(namesrv_addr=namesrv, send_msg_timeout=20_000)) as producer:
        for body in bodies:
            message = Message.of(TOPIC, body.encode(), tags="TagA", keys=f"key-{body}")
            message.delay_level = level
            assert (await producer.send(message)).is_ok


def received(program: JavaProgram) -> list[tuple[str, int, int]]:
    """Return body, level and waited milliseconds of what a Java consumer wrote down."""
    rows = [line.split(" ") for line in list(program.lines) if line.count(" ") == 2 and ":" in line]
    return [(body, int(level), int(waited)) for body, level, waited in rows]


@pytest.mark.parametrize("version", [VERSION, OLDER])
async def test_java_programs_delay_messages_at_our_broker(tmp_path: Path, version: str) -> None:
    """Claim: programs written for Apache RocketMQ delay messages at our broker unchanged.

    Experiment: a Java producer sends 100 messages of each of the levels 1, 2 and 3; a Java consumer with a tag waits.
    Observe: each comes once, never before its time, and soon after it; mqadmin shows how far each level is.
    """
    client = java_client(version, tmp_path)
    async with our_servers(tmp_path) as servers, AdminClient(namesrv_addr=servers.namesrv) as admin:
        await admin.topics.create(TOPIC, queues=4)
        consume = (servers.namesrv, TOPIC, "JavaLate", "one", "tags=TagA", "print=body,level,waited")
        produce = (servers.namesrv, TOPIC, "300", "kind=delayed", "levels=1,2,3", "threads=1")
        async with java("Consume", *consume, home=tmp_path / "c", **client) as consumer:
            await eventually(lambda: "started" in consumer.lines, 60)
            async with java("Produce", *produce, home=tmp_path / "p", **client) as producer:
                assert await producer.wait(120) == 0, producer.output[-2_000:]
                assert "stored 300" in producer.lines, producer.output[-2_000:]
            await eventually(lambda: len(received(consumer)) >= 300, 60)
            rows = received(consumer)
            await consumer.close_input()
            await consumer.wait(30)
        status = await mqadmin(tmp_path, "brokerStatus", "-b", servers.broker)
    for level in DELAYS:
        assert re.search(rf"^scheduleMessageOffset_{level} +: 100,100", status, re.MULTILINE), status
    assert Counter(body for body, _, _ in rows) == Counter(f"{level}:{n}" for level in DELAYS for n in range(100))
    late = sorted(waited - DELAYS[level] for _, level, waited in rows)
    print(
        f"late by {late[0]} to {late[-1]} ms, half of them by at most {late[150]} ms, counted from the producer's clock"
    )
    assert late[0] >= 0
    # RocketMQ looks every 100 ms. On a busy machine it takes longer, but not as long as to the next level's time.
    assert late[150] <= 2_000


@pytest.mark.parametrize("name", ["Go", "C++", "Node"])
async def test_programs_in_other_languages_delay_messages_at_our_broker(tmp_path: Path, name: str) -> None:
    """Claim: clients that are not Java's delay messages by level, and by timers with a property, at our broker.

    Experiment: a producer sends 120 messages, in turn with level 1, level 2, a delay of 3 seconds, one of 4,321
    milliseconds, one of 6 seconds, and for a time that is 5,678 milliseconds away; a consumer of the same client waits.
    Observe: the consumer gets each once. By the broker's clock none was delivered before its time.
    """
    program = {"Go": go_client, "C++": cpp_client, "Node": node_client}[name]()
    waits = {"1": 1_000, "2": 5_000, "3s": 3_000, "4321ms": 4_321, "6s": 6_000, "@5678": 5_678}
    async with our_servers(tmp_path) as servers, AdminClient(namesrv_addr=servers.namesrv) as admin:
        await admin.topics.create(TOPIC, queues=4)
        consume = ("consume", servers.namesrv, "Late", TOPIC, "one")
        produce = ("produce", servers.namesrv, "Shop", TOPIC, "120", "delayed", ",".join(waits))
        async with program.run(*consume, home=tmp_path / "consumer") as consumer:
            await eventually(lambda: "started" in consumer.lines, 60)
            async with program.run(*produce, home=tmp_path / "producer") as producer:
                assert await producer.wait(120) == 0, producer.output[-2_000:]
                assert "sent 120" in producer.lines, producer.output[-2_000:]
            await eventually(lambda: len(bodies_of(consumer)) >= 120, 120)
            got = Counter(bodies_of(consumer))
        assert got == Counter(f"body {number}" for number in range(120))
        delivered = await read_all(servers.namesrv)
        assert len(delivered) == 120
    late: dict[str, list[int]] = {wait: [] for wait in waits}
    for message in delivered:
        wait = list(waits)[int(message.body.decode().split(" ")[1]) % len(waits)]
        # The time that was asked for, or what the producer's clock said when the message was sent.
        due = int(message.properties.get("TIMER_DELIVER_MS", message.born_timestamp + waits[wait]))
        late[wait].append(message.store_timestamp - due)
    for wait, times in late.items():
        print(f"{name}, wait {wait}: {min(times)} to {max(times)} ms late")
        assert len(times) == 20
        assert min(times) >= 0


def bodies_of(consumer: JavaProgram) -> list[str]:
    """Return the bodies that a consumer in another language has printed."""
    return [body for _, _, body in rows_of(consumer)]


async def read_all(namesrv: str) -> list[MessageExt]:
    """Return what lies in the topic."""
    found: list[MessageExt] = []
    async with PullConsumer("Reader", namesrv_addr=namesrv) as consumer:
        for queue in await consumer.fetch_queues(TOPIC):
            offset = 0
            while (result := await consumer.pull(queue, offset)).status is PullStatus.FOUND:
                found += result.messages
                offset = result.next_begin_offset
    return found


async def test_our_programs_delay_messages_at_an_apache_broker(tmp_path: Path) -> None:
    async with apache_servers(tmp_path) as apache, AdminClient(namesrv_addr=apache.namesrv) as admin:
        await admin.topics.create(TOPIC, queues=4)
        watch = Watch(apache.namesrv, "OurLate")
        async with watch.consumer:
            for level in DELAYS:
                await send(apache.namesrv, level, [f"{level}:{n}" for n in range(20)])
            await eventually(lambda: len(watch.got) >= 60, 60)
        assert set(watch.counts.values()) == {1}
        assert len(watch.counts) == 60
        for message in watch.got:
            level = int(message.body.decode().split(":")[0])
            assert message.delay_level == level
            assert message.store_timestamp - message.born_timestamp >= DELAYS[level]


@asynccontextmanager
async def our_broker(store: Path, folder: Path) -> AsyncIterator[tuple[str, Kernel]]:
    """Run a name server and a broker of ours on a store, with the sizes of the Apache labs; yields the name server."""
    environment = system_environment()
    namesrv = Namesrv(NamesrvConfig(listen_port=0, kv_config_path=str(folder / "kv.json")), environment)
    await namesrv.start()
    store_config = MessageStoreConfig(
        store_path_root_dir=str(store),
        mapped_file_size_commit_log=16 << 20,
        mapped_file_size_consume_queue=600_000,
        message_delay_level=LEVELS,
    )
    config = BrokerConfig(broker_name="apache-a", listen_port=free_port(), namesrv_addr=namesrv.address)
    kernel = build_broker(config, store_config, environment)
    try:
        await kernel.start()
        yield namesrv.address, kernel
    finally:
        await kernel.stop()
        await namesrv.stop()


async def test_what_waits_in_a_store_of_ours_is_delivered_by_an_apache_broker_and_back(tmp_path: Path) -> None:
    """Claim: brokers can be exchanged in both directions while messages wait: nothing is lost, nothing comes twice.

    Experiment: 40 messages of 20 s and 20 of 1 s at our broker; when the short ones have come it is stopped, and an
    Apache broker opens the store. The same with it: 40 of 20 s and 20 of 1 s, stop, ours opens the store.
    Observe: the second broker delivers what the first has not, and only that, in the order in which it was sent.
    """
    jars()
    ours, theirs = tmp_path / "ours", tmp_path / "apache"
    async with our_broker(ours, tmp_path) as (namesrv, _):
        async with AdminClient(namesrv_addr=namesrv) as admin:
            await admin.topics.create(TOPIC, queues=1)
        watch = Watch(namesrv, "Readers")
        async with watch.consumer:
            await send(namesrv, 2, [f"ours-2:{n}" for n in range(40)])
            await send(namesrv, 1, [f"ours-1:{n}" for n in range(20)])
            await eventually(lambda: len(watch.got) >= 20, 30)
        assert set(watch.counts) == {f"ours-1:{n}" for n in range(20)}, "the long ones came already: a slow machine"

    shutil.copytree(ours, theirs / "store")
    async with apache_servers(theirs, messageDelayLevel=LEVELS) as apache:
        watch = Watch(apache.namesrv, "Readers")
        async with watch.consumer:
            await eventually(lambda: len(watch.got) >= 40, 90)
            assert [m.body.decode() for m in watch.got] == [f"ours-2:{n}" for n in range(40)], "order or number"
            await send(apache.namesrv, 2, [f"theirs-2:{n}" for n in range(40)])
            await send(apache.namesrv, 1, [f"theirs-1:{n}" for n in range(20)])
            await eventually(lambda: len(watch.got) >= 60, 60)
        assert set(watch.counts) == {f"ours-2:{n}" for n in range(40)} | {f"theirs-1:{n}" for n in range(20)}

    async with our_broker(theirs / "store", tmp_path) as (namesrv, _):
        watch = Watch(namesrv, "Everything")
        async with watch.consumer:
            await eventually(lambda: len(watch.got) >= 120, 60)
        assert watch.counts == Counter(
            [
                f"{who}-{level}:{n}"
                for who in ("ours", "theirs")
                for level, many in ((2, 40), (1, 20))
                for n in range(many)
            ]
        )
        assert [m.body.decode() for m in watch.got][-40:] == [f"theirs-2:{n}" for n in range(40)]
