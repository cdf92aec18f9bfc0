"""Replication with Apache RocketMQ 5.3.3: its slave follows our master, our slave follows its master."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.assembly.stages import build_broker
from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.client.admin.client import AdminClient
from rocketmq_py.client.config import ProducerConfig
from rocketmq_py.client.producer import Producer
from rocketmq_py.client.send_result import SendStatus
from rocketmq_py.common.environment import system_environment
from rocketmq_py.common.message import Message
from rocketmq_py.namesrv.config import NamesrvConfig
from rocketmq_py.namesrv.server import Namesrv
from rocketmq_py.remoting.bodies.topic_config import TopicConfig
from rocketmq_py.store.commit_log import CommitLog
from rocketmq_py.store.config import BrokerRole
from rocketmq_py.store.ha.ha_client import HAClient
from rocketmq_py.store.ha.ha_service import HAService
from rocketmq_py.store.message_store import MessageStore
from rocketmq_py.testing.cluster import SMALL_STORE
from rocketmq_py.testing.eventually import eventually

from .apache import BOOT_SECONDS
from .java_tools import BROKER_FLAGS, JavaProgram, free_port, java, mqadmin

pytestmark = [pytest.mark.interop, pytest.mark.serial, pytest.mark.timeout(600)]

TOPIC = "Copied"
QUEUES = 8
#: Messages of a run, and how many are under way at the same time.
MANY = 100_000
WINDOW = 500
FILE_SIZE = 16 << 20
#: An Apache slave registers 10 s after its start and asks then where its master is.
LINK_SECONDS = 90.0


@contextlib.asynccontextmanager
async def apache_broker(folder: Path, namesrv: str, **settings: object) -> AsyncIterator[JavaProgram]:
    """Run a broker of Apache RocketMQ as a member of `broker-a`."""
    lines = {
        "brokerClusterName": "DefaultCluster",
        "brokerName": "broker-a",
        "namesrvAddr": namesrv,
        "brokerIP1": "127.0.0.1",
        "brokerIP2": "127.0.0.1",
        "haListenPort": free_port(),
        "storePathRootDir": folder / "store",
        "mappedFileSizeCommitLog": FILE_SIZE,
        "mappedFileSizeConsumeQueue": 600_000,
        "waitTimeMillsInSendQueue": 10_000,
        "osPageCacheBusyTimeOutMills": 10_000,
        **settings,
    }
    file = _write(folder / "broker.conf", lines)
    program = "org.apache.rocketmq.broker.BrokerStartup"
    async with java(program, "-c", file, home=folder / "home", flags=BROKER_FLAGS) as broker:
        await eventually(lambda: "boot success" in broker.output, seconds=BOOT_SECONDS)
        yield broker


def _write(path: Path, lines: dict[str, object]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{key}={value}\n" for key, value in lines.items()))
    return str(path)


@contextlib.asynccontextmanager
async def our_namesrv(folder: Path) -> AsyncIterator[Namesrv]:
    config = NamesrvConfig(listen_port=0, kv_config_path=str(folder / "kvConfig.json"))
    namesrv = Namesrv(config, system_environment())
    await namesrv.start()
    try:
        yield namesrv
    finally:
        await namesrv.stop()


@contextlib.asynccontextmanager
async def our_broker(
    folder: Path, namesrv: str, role: BrokerRole, broker_id: int, **settings: object
) -> AsyncIterator[Kernel]:
    """Run a broker of ours as a member of `broker-a`."""
    config = BrokerConfig(broker_id=broker_id, listen_port=0, namesrv_addr=namesrv)
    store_config = replace(
        SMALL_STORE,
        store_path_root_dir=str(folder),
        mapped_file_size_commit_log=FILE_SIZE,
        mapped_file_size_consume_queue=600_000,
        broker_role=role,
        **settings,
    )
    kernel = build_broker(config, store_config, system_environment())
    await kernel.start()
    try:
        yield kernel
    finally:
        await kernel.stop()


async def send_many(namesrv: str, count: int) -> None:
    """Send messages of different sizes; every one must be acknowledged with 0."""
    config = ProducerConfig(namesrv_addr=namesrv, send_msg_timeout=15_000)
    async with Producer("shop", config) as producer:

        async def send(numbers: range) -> None:
            for number in numbers:
                body = b"%08d" % number * (1 + number % 40)
                result = await producer.send(Message.of(TOPIC, body, tags=f"tag{number % 3}", keys=f"key{number}"))
                assert result.status is SendStatus.SEND_OK, result

        await asyncio.gather(*(send(range(first, count, WINDOW)) for first in range(WINDOW)))


def log_of(folder: Path, end: int) -> dict[str, bytes]:
    """Return the commit log's files, each up to the end of the log."""
    files = {}
    for path in sorted((folder / "commitlog").iterdir()):
        start = int(path.name)
        if start < end:
            files[path.name] = path.read_bytes()[: end - start]
    return files


async def test_an_apache_slave_follows_our_master(tmp_path: Path) -> None:
    """Its log is ours, byte for byte; our synchronous sends wait for its reports; it makes the queues that we made."""
    settings = {"in_sync_replicas": 2, "slave_timeout": 10_000}
    async with (
        our_namesrv(tmp_path) as namesrv,
        our_broker(tmp_path / "ours", namesrv.address, BrokerRole.SYNC_MASTER, 0, **settings) as master,
    ):
        master.get(TopicConfigManager).update(
            [TopicConfig(topic_name=TOPIC, read_queue_nums=QUEUES, write_queue_nums=QUEUES)]
        )
        async with apache_broker(
            tmp_path / "apache", namesrv.address, brokerRole="SLAVE", brokerId=1, listenPort=free_port()
        ):
            service, log = master.get(HAService), master.get(CommitLog)
            await eventually(lambda: any(link.next_offset >= 0 for link in service.connections), LINK_SECONDS)
            await send_many(namesrv.address, MANY)
            assert service.acks.largest == log.max_offset, "all were acknowledged, so all were reported"
            end = log.max_offset
            # Its dispatch is a thread of its own.
            await asyncio.sleep(2)
    ours, theirs = log_of(tmp_path / "ours", end), log_of(tmp_path / "apache" / "store", end)
    assert list(theirs) == list(ours)
    assert len(ours) > 1, "too few messages for a border between files"
    assert theirs == ours
    assert queues_of(tmp_path / "apache" / "store") == queues_of(tmp_path / "ours")


async def test_an_apache_slave_catches_up_with_our_master(tmp_path: Path) -> None:
    """It comes late and empty, and gets everything in frames that are sixteen times as large as those of its own master."""
    async with (
        our_namesrv(tmp_path) as namesrv,
        our_broker(
            tmp_path / "ours", namesrv.address, BrokerRole.ASYNC_MASTER, 0, ha_send_all_to_empty_slave=True
        ) as master,
    ):
        master.get(TopicConfigManager).update(
            [TopicConfig(topic_name=TOPIC, read_queue_nums=QUEUES, write_queue_nums=QUEUES)]
        )
        await send_many(namesrv.address, MANY)
        end = master.get(CommitLog).max_offset
        async with apache_broker(
            tmp_path / "apache", namesrv.address, brokerRole="SLAVE", brokerId=1, listenPort=free_port()
        ):
            await eventually(lambda: master.get(HAService).acks.largest == end, LINK_SECONDS)
            await asyncio.sleep(2)
    assert log_of(tmp_path / "apache" / "store", end) == log_of(tmp_path / "ours", end)
    assert queues_of(tmp_path / "apache" / "store") == queues_of(tmp_path / "ours")


async def test_our_slave_follows_an_apache_master(tmp_path: Path) -> None:
    """Apache's synchronous sends are acknowledged by our reports alone."""
    port = free_port()
    master_settings = {
        "brokerRole": "SYNC_MASTER",
        "inSyncReplicas": 2,
        "slaveTimeout": 10_000,
        "brokerId": 0,
        "listenPort": port,
    }
    async with (
        our_namesrv(tmp_path) as namesrv,
        apache_broker(tmp_path / "apache", namesrv.address, **master_settings),
    ):
        async with AdminClient(namesrv_addr=namesrv.address) as admin, asyncio.timeout(BOOT_SECONDS):
            while not (await admin.cluster.cluster_info()).cluster_addr_table:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        output = await mqadmin(
            tmp_path, "updateTopic", "-b", f"127.0.0.1:{port}", "-t", TOPIC, "-r", str(QUEUES), "-w", str(QUEUES)
        )
        assert "success" in output, output
        async with our_broker(tmp_path / "ours", namesrv.address, BrokerRole.SLAVE, 1) as slave:
            client, log = slave.get(HAClient), slave.get(CommitLog)
            begin = asyncio.get_running_loop().time()
            await eventually(lambda: client.link is not None, 5.0)
            print(f"linked after {asyncio.get_running_loop().time() - begin:.2f} s")
            await send_many(namesrv.address, MANY)
            end = log.max_offset
            assert client.faults == 0
            store = slave.get(MessageStore)
            await eventually(
                lambda: sum(store.max_offset(TOPIC, queue) for queue in range(QUEUES)) == MANY, seconds=30.0
            )
    ours, theirs = log_of(tmp_path / "ours", end), log_of(tmp_path / "apache" / "store", end)
    assert list(theirs) == list(ours)
    assert len(ours) > 1, "too few messages for a border between files"
    assert theirs == ours
    assert queues_of(tmp_path / "apache" / "store") == queues_of(tmp_path / "ours")


def queues_of(store: Path) -> dict[str, bytes]:
    """Return the units of the topic's queues, without what is allocated behind them."""
    found = {}
    for path in sorted((store / "consumequeue" / TOPIC).rglob("*")):
        if path.is_file():
            found[str(path.relative_to(store))] = path.read_bytes().rstrip(b"\0")
    return found
