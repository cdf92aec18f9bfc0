"""Our clients and our command line against a name server and a broker of Apache RocketMQ 5.3.3; stores exchanged."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from rocketmq_py.assembly.stages import build_broker
from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.client.admin.client import AdminClient
from rocketmq_py.client.config import ProducerConfig
from rocketmq_py.client.consume_service import ConsumeContext
from rocketmq_py.client.consumer_config import LitePullConsumerConfig, PushConsumerConfig
from rocketmq_py.client.lite_pull_subscriber import LitePullSubscriber
from rocketmq_py.client.producer import Producer
from rocketmq_py.client.pull_api import PullStatus
from rocketmq_py.client.pull_consumer import PullConsumer
from rocketmq_py.client.push_consumer import PushConsumer
from rocketmq_py.client.selectors import select_by_hash
from rocketmq_py.common.compression import CompressionType
from rocketmq_py.common.environment import system_environment
from rocketmq_py.common.message import Message, MessageExt
from rocketmq_py.namesrv.config import NamesrvConfig
from rocketmq_py.namesrv.server import Namesrv
from rocketmq_py.remoting.bodies.heartbeat import ConsumeFromWhere, MessageModel
from rocketmq_py.remoting.bodies.subscription import SQL92
from rocketmq_py.store.config import MessageStoreConfig
from rocketmq_py.store.message_store import MessageStore
from rocketmq_py.testing.cluster import Cluster
from rocketmq_py.testing.eventually import eventually

from .apache import apache_servers
from .java_tools import free_port

pytestmark = [pytest.mark.interop, pytest.mark.serial, pytest.mark.timeout(400)]

FIRST = ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET
#: Messages of the large run.
MANY = 10_000


class Reader:
    """A push consumer of ours and what it got: bodies, and the queues that they came from."""

    def __init__(
        self, namesrv: str, group: str, topic: str, expression: str = "*", kind: str = "TAG", **settings
    ) -> None:
        self.got: list[MessageExt] = []
        config = PushConsumerConfig(namesrv_addr=namesrv, consume_from_where=FIRST, **settings)
        self.consumer = PushConsumer(group, config)
        self.consumer.subscribe(topic, expression, kind)
        self.consumer.register_listener(self.handle)

    async def handle(self, messages: Sequence[MessageExt], context: ConsumeContext) -> None:
        self.got += messages

    @property
    def bodies(self) -> list[str]:
        return sorted(message.body.decode() for message in self.got)


async def test_ten_thousand_messages_and_two_consumers_that_share_the_queues(tmp_path: Path) -> None:
    """None is lost, each comes once, both consumers work, and order within each queue is that of the offsets."""
    async with apache_servers(tmp_path) as apache, AdminClient(namesrv_addr=apache.namesrv) as admin:
        await admin.topics.create("Many", queues=8)
        one, two = (Reader(apache.namesrv, "Sharers", "Many", instance_name=name) for name in ("one", "two"))
        # As long as a virtual machine may take that has just started and shares its cores.
        config = ProducerConfig(namesrv_addr=apache.namesrv, send_msg_timeout=20_000)
        async with one.consumer, two.consumer, Producer("P", config) as producer:
            await eventually(lambda: len(one.consumer.queues) and len(two.consumer.queues), 60)
            for start in range(0, MANY, 50):
                sends = [producer.send(Message.of("Many", str(n).encode())) for n in range(start, start + 50)]
                assert all(result.is_ok for result in await asyncio.gather(*sends))
            await eventually(
                lambda: len(one.got) + len(two.got) >= MANY and len({*one.bodies, *two.bodies}) == MANY, 120
            )
        assert {*one.bodies, *two.bodies} == {str(number) for number in range(MANY)}
        assert one.got
        assert two.got
        repeated = len(one.got) + len(two.got) - MANY
        print(f"{len(one.got)} + {len(two.got)} messages, {repeated} of them came twice while the queues were divided")
        assert repeated < MANY / 10
        stats = await admin.consumers.consume_stats("Sharers")
        behind = [(q, row) for q, row in stats.offset_table.items() if q.topic == "Many"]
        assert len(behind) == 8
        assert all(row.broker_offset == row.consumer_offset for _, row in behind)


async def test_every_kind_of_send_filter_and_read(tmp_path: Path) -> None:
    """Batches, compression, selectors, one-way; tags, SQL92, broadcasting; pulls by hand; the administration."""
    async with apache_servers(tmp_path) as apache, AdminClient(namesrv_addr=apache.namesrv) as admin:
        await admin.topics.create("Kinds", queues=4)
        long_body = b"abcdefgh" * 2_000
        for kind in CompressionType:
            config = ProducerConfig(namesrv_addr=apache.namesrv, compress_type=kind, instance_name=kind.name)
            async with Producer("Compressing", config) as producer:
                assert (await producer.send(Message.of("Kinds", long_body, tags="long"))).is_ok
        async with Producer("P", namesrv_addr=apache.namesrv) as producer:
            for number in range(10):
                message = Message.of(
                    "Kinds", f"n{number}".encode(), tags="even" if number % 2 == 0 else "odd", keys=f"k{number}"
                )
                message.properties["n"] = str(number)
                await producer.send(message)
            batch = await producer.send_batch([Message.of("Kinds", f"b{n}".encode(), tags="batch") for n in range(5)])
            assert batch.is_ok
            assert len(batch.msg_id.split(",")) == 5
            queues = {
                (await producer.send_by(Message.of("Kinds", b"same", tags="sharded"), select_by_hash, "key")).queue
                for _ in range(5)
            }
            assert len(queues) == 1
            await producer.send_one_way(Message.of("Kinds", b"one way", tags="oneway"))

        readers = {
            "tags": Reader(apache.namesrv, "Tags", "Kinds", "even || batch", instance_name="t"),
            "sql": Reader(
                apache.namesrv, "Sql", "Kinds", "n BETWEEN 3 AND 6 AND TAGS = 'odd'", SQL92, instance_name="s"
            ),
            "long": Reader(apache.namesrv, "Long", "Kinds", "long || oneway", instance_name="l"),
        }
        async with readers["tags"].consumer, readers["sql"].consumer, readers["long"].consumer:
            await eventually(lambda: len(readers["tags"].got) >= 10, 60)
            await eventually(lambda: len(readers["sql"].got) >= 2, 60)
            await eventually(lambda: len(readers["long"].got) >= len(CompressionType) + 1, 60)
        assert readers["tags"].bodies == sorted([*(f"b{n}" for n in range(5)), *(f"n{n}" for n in range(0, 10, 2))])
        assert readers["sql"].bodies == ["n3", "n5"]
        assert readers["long"].bodies == sorted([long_body.decode()] * len(CompressionType) + ["one way"])

        screens = [
            Reader(
                apache.namesrv, "Screens", "Kinds", "sharded", instance_name=name,
                message_model=MessageModel.BROADCASTING, local_offset_store_dir=str(tmp_path / "offsets"),
            )
            for name in ("left", "right")
        ]  # fmt: skip
        async with screens[0].consumer, screens[1].consumer:
            await eventually(lambda: all(len(screen.got) >= 5 for screen in screens), 60)
        assert [screen.bodies for screen in screens] == [["same"] * 5] * 2

        async with PullConsumer("Walker", namesrv_addr=apache.namesrv) as walker:
            walked: Counter[bytes] = Counter()
            for queue in await walker.fetch_queues("Kinds"):
                offset = await walker.offsets.min_offset(queue)
                while (found := await walker.pull(queue, offset)).status is PullStatus.FOUND:
                    walked.update(message.body for message in found.messages)
                    offset = found.next_begin_offset
                assert offset == await walker.offsets.max_offset(queue)
        assert sum(walked.values()) == len(CompressionType) + 10 + 5 + 5 + 1

        config = LitePullConsumerConfig(namesrv_addr=apache.namesrv, consume_from_where=FIRST)
        lite = LitePullSubscriber("Lite", config)
        lite.subscribe("Kinds", "odd")
        polled: list[bytes] = []
        async with lite:
            while len(polled) < 5:
                messages = await lite.poll(10)
                assert messages
                polled += [message.body for message in messages]
        assert sorted(polled) == [f"n{n}".encode() for n in range(1, 10, 2)]

        by_key = await admin.messages.by_key("Kinds", "k7")
        assert [message.body for message in by_key] == [b"n7"]
        assert (await admin.messages.view("Kinds", by_key[0].msg_id)) is not None
        await admin.consumers.reset_offset_by_time("Kinds", "Tags", 0)
        again = Reader(apache.namesrv, "Tags", "Kinds", "even || batch", instance_name="again")
        async with again.consumer:
            await eventually(lambda: len(again.got) >= 10, 60)
        assert again.bodies == readers["tags"].bodies


async def test_the_command_line_works_on_an_apache_cluster(tmp_path: Path) -> None:
    async with apache_servers(tmp_path) as apache:

        async def rmq(*words: str) -> str:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "rocketmq_py.cli.main", *words, "-n", apache.namesrv,
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            out, errors = await process.communicate()
            assert process.returncode == 0, errors.decode()
            return out.decode()

        assert json.loads(await rmq("topic", "create", "Cli", "--queues", "3", "--json"))["brokers"] == [apache.broker]
        assert "Cli" in await rmq("topic", "list")
        sent = json.loads(await rmq("message", "send", "Cli", "hello", "--keys", "k1", "--tags", "t", "--json"))[
            "items"
        ][0]
        assert sent["status"] == "SEND_OK"
        assert "hello" in await rmq("message", "query", "Cli", "--key", "k1")
        assert "hello" in await rmq("message", "query", "Cli", "--id", sent["offsetMsgId"])
        assert "hello" in await rmq("message", "consume", "Cli", "--group", "CliGroup", "--count", "1", "--wait", "20")
        assert json.loads(await rmq("topic", "describe", "Cli", "--json"))["items"]
        await rmq("topic", "delete", "Cli", "--yes")
        assert "Cli" not in await rmq("topic", "list")


async def read_all(namesrv: str, topic: str) -> Counter[tuple[int, int, bytes]]:
    """Return queue id, offset and body of every message of a topic."""
    found: Counter[tuple[int, int, bytes]] = Counter()
    async with PullConsumer("Reader", namesrv_addr=namesrv) as consumer:
        for queue in await consumer.fetch_queues(topic):
            offset = await consumer.offsets.min_offset(queue)
            while (result := await consumer.pull(queue, offset)).status is PullStatus.FOUND:
                found.update((m.queue_id, m.queue_offset, m.body) for m in result.messages)
                offset = result.next_begin_offset
    return found


async def test_a_store_of_ours_is_opened_by_the_apache_broker_and_back(tmp_path: Path) -> None:
    """Write with ours, read and write on with Apache's, read again with ours: messages, queues, keys, group offsets."""
    environment = system_environment()
    sizes = {"mapped_file_size_commit_log": 16 << 20, "mapped_file_size_consume_queue": 600_000}
    small = MessageStoreConfig(**sizes, max_hash_slot_num=5_000_000, max_index_num=20_000_000)
    async with Cluster(tmp_path / "ours", environment=environment, store_config=small) as cluster:
        async with (
            AdminClient(namesrv_addr=cluster.namesrv_addr) as admin,
            Producer("P", namesrv_addr=cluster.namesrv_addr) as producer,
        ):
            await admin.topics.create("Moved", queues=3)
            for number in range(300):
                await producer.send(Message.of("Moved", f"ours {number}".encode(), keys=f"ours-{number}", tags="a"))
            reader = Reader(cluster.namesrv_addr, "Readers", "Moved")
            async with reader.consumer:
                await eventually(lambda: len(reader.got) == 300, 30)
        written = await read_all(cluster.namesrv_addr, "Moved")
    assert len(written) == 300

    shutil.copytree(tmp_path / "ours/broker-a", tmp_path / "apache/store")
    async with apache_servers(tmp_path / "apache") as apache, AdminClient(namesrv_addr=apache.namesrv) as admin:
        assert await read_all(apache.namesrv, "Moved") == written
        assert [m.body for m in await admin.messages.by_key("Moved", "ours-17")] == [b"ours 17"]
        late = Reader(apache.namesrv, "Readers", "Moved")
        async with late.consumer, Producer("P", namesrv_addr=apache.namesrv) as producer:
            for number in range(100):
                await producer.send(Message.of("Moved", f"theirs {number}".encode(), keys=f"theirs-{number}", tags="a"))
            await eventually(lambda: len(late.got) >= 100, 60)
        assert late.bodies == sorted(f"theirs {number}" for number in range(100)), "the group went on where it was"
        both = await read_all(apache.namesrv, "Moved")
    assert len(both) == 400

    namesrv = Namesrv(NamesrvConfig(listen_port=0, kv_config_path=str(tmp_path / "kv.json")), environment)
    await namesrv.start()
    store_config = MessageStoreConfig(store_path_root_dir=str(tmp_path / "apache/store"), **sizes)
    config = BrokerConfig(broker_name="broker-a", listen_port=free_port(), namesrv_addr=namesrv.address)
    kernel = build_broker(config, store_config, environment)
    try:
        await kernel.start()
        assert await read_all(namesrv.address, "Moved") == both
        async with AdminClient(namesrv_addr=namesrv.address) as admin:
            for key in ("ours-299", "theirs-99"):
                assert [m.body for m in await admin.messages.by_key("Moved", key)] == [key.replace("-", " ").encode()]
        assert kernel.get(MessageStore).log.max_offset > 0
    finally:
        await kernel.stop()
        await namesrv.stop()
