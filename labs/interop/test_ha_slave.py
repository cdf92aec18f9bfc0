"""What a slave copies besides the log, between ours and Apache RocketMQ 5.3.3; and `mqadmin` about groups of ours."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.assembly.stages import build_broker
from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.consumer_offset import ConsumerOffsetManager
from rocketmq_py.broker.ha.broker_role import BrokerRoles
from rocketmq_py.broker.ha.slave_synchronize import SlaveSynchronize
from rocketmq_py.broker.schedule.delay_offsets import DelayOffsetManager
from rocketmq_py.broker.subscription_group import SubscriptionGroupManager
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.client.producer import Producer
from rocketmq_py.common.environment import system_environment
from rocketmq_py.common.message import Message
from rocketmq_py.remoting.bodies.subscription_group import SubscriptionGroupConfig
from rocketmq_py.remoting.bodies.topic_config import TopicConfig
from rocketmq_py.store.config import BrokerRole, MessageStoreConfig
from rocketmq_py.testing.eventually import eventually

from .apache import BOOT_SECONDS, apache_servers, create_topic
from .java_tools import BROKER_FLAGS, free_port, jars, java, mqadmin
from .our_servers import our_servers

pytestmark = [pytest.mark.interop, pytest.mark.serial, pytest.mark.timeout(300)]


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    jars()


@contextlib.asynccontextmanager
async def our_slave(folder: Path, namesrv: str, broker_name: str, **settings: Any) -> AsyncIterator[Kernel]:
    """Run a slave of ours for the time of a `with` block."""
    config = BrokerConfig(
        broker_name=broker_name, broker_id=1, listen_port=free_port(), namesrv_addr=namesrv, **settings
    )
    store_config = MessageStoreConfig(
        store_path_root_dir=str(folder / "our-slave"),
        broker_role=BrokerRole.SLAVE,
        mapped_file_size_commit_log=16 << 20,
        max_hash_slot_num=50_000,
        max_index_num=200_000,
    )
    kernel = build_broker(config, store_config, system_environment())
    await kernel.start()
    try:
        yield kernel
    finally:
        await kernel.stop()


async def test_mqadmin_shows_a_group_of_ours(tmp_path: Path) -> None:
    async with (
        our_servers(tmp_path) as servers,
        our_slave(tmp_path, servers.namesrv, "broker-a") as slave,
        Producer("shop", namesrv_addr=servers.namesrv) as producer,
    ):
        topic = TopicConfig(topic_name="LabTopic", read_queue_nums=4, write_queue_nums=4)
        servers.kernel.get(TopicConfigManager).update([topic])
        await asyncio.sleep(1)
        for _ in range(20):
            await producer.send(Message.of("LabTopic", b"x" * 100))
        await asyncio.sleep(1)
        ns = ("-n", servers.namesrv)
        output = await mqadmin(tmp_path, "haStatus", *ns, "-c", "DefaultCluster")
        print(output)
        assert "Exception" not in output
        for pattern in (
            rf"#MasterAddr\s+{servers.broker}",
            r"#SlaveNum\s+1",
            r"#InSyncSlaveNum\s+1",
            r"127\.0\.0\.1:\d+ +[1-9]\d* +0 .*OK",
        ):
            assert re.search(pattern, output), f"{pattern!r} is not in the output:\n{output}"
        address = slave.config.broker_address
        output = await mqadmin(tmp_path, "haStatus", *ns, "-b", address)
        print(output)
        assert "Exception" not in output and "#CommitLogMaxOffset" in output, output
        output = await mqadmin(tmp_path, "clusterList", *ns)
        print(output)
        for broker_id, broker in ((0, servers.broker), (1, address)):
            assert re.search(rf"^DefaultCluster +broker-a +{broker_id} +{broker} +V5_3_3 ", output, re.MULTILINE), (
                output
            )
        output = await mqadmin(tmp_path, "deleteSubGroup", *ns, "-c", "DefaultCluster", "-g", "billing")
        print(output)
        assert "success" in output and "Exception" not in output
        output = await mqadmin(tmp_path, "updateTopic", "-b", address, "-t", "OnSlave")
        assert "Can't modify topic or subscription group from slave broker" in output, output


async def test_our_slave_copies_the_metadata_of_an_apache_master(tmp_path: Path) -> None:
    async with apache_servers(tmp_path) as servers:
        await create_topic(servers, tmp_path, "LabTopic", 3)
        ns = ("-n", servers.namesrv)
        await mqadmin(
            tmp_path, "updateSubGroup", *ns, "-c", "DefaultCluster", "-g", "billing", "-q", "2", "-r", "5", "-w", "3"
        )
        async with Producer("shop", namesrv_addr=servers.namesrv) as producer:
            await producer.send(Message("LabTopic", b"later", properties={"DELAY": "1"}))
        async with our_slave(tmp_path, servers.namesrv, "apache-a") as slave:
            await eventually(lambda: slave.get(BrokerRoles).master.address == servers.broker, 60)
            await eventually(lambda: slave.get(SlaveSynchronize).rounds > 0, 30)
            topic = slave.get(TopicConfigManager).select("LabTopic")
            assert topic is not None and topic.read_queue_nums == 3
            group = slave.get(SubscriptionGroupManager).select("billing")
            assert group is not None
            assert (group.retry_queue_nums, group.retry_max_times, group.which_broker_when_consume_slowly) == (2, 5, 3)
            await eventually(lambda: slave.get(DelayOffsetManager).get(1) == 1, 30)
            assert slave.get(SlaveSynchronize).failures == 0


async def test_an_apache_slave_copies_the_metadata_of_our_master(tmp_path: Path) -> None:
    async with our_servers(tmp_path) as servers:
        master = servers.kernel
        topic = TopicConfig(topic_name="LabTopic", read_queue_nums=3, write_queue_nums=3)
        master.get(TopicConfigManager).update([topic])
        master.get(SubscriptionGroupManager).update([SubscriptionGroupConfig(group_name="billing", retry_max_times=5)])
        master.get(ConsumerOffsetManager).commit("billing", "LabTopic", 2, 41)
        async with Producer("shop", namesrv_addr=servers.namesrv) as producer:
            await producer.send(Message("LabTopic", b"later", properties={"DELAY": "1"}))
        port, store = free_port(), tmp_path / "apache-slave"
        lines = {
            "brokerClusterName": "DefaultCluster",
            "brokerName": "broker-a",
            "brokerId": 1,
            "brokerRole": "SLAVE",
            "namesrvAddr": servers.namesrv,
            "brokerIP1": "127.0.0.1",
            "listenPort": port,
            "storePathRootDir": store,
            "mappedFileSizeCommitLog": 16 << 20,
        }
        file = tmp_path / "slave.conf"
        file.write_text("".join(f"{key}={value}\n" for key, value in lines.items()))
        async with java(
            "org.apache.rocketmq.broker.BrokerStartup", "-c", str(file), home=tmp_path / "br", flags=BROKER_FLAGS
        ) as program:
            await eventually(lambda: "boot success" in program.output, seconds=BOOT_SECONDS)
            # It looks once a minute.
            wanted = {
                "topics.json": r'"LabTopic"',
                "subscriptionGroup.json": r'"billing"',
                "consumerOffset.json": r'"LabTopic@billing":\{[^}]*2:41',
                "delayOffset.json": r"1:1\b",
            }

            def missing() -> list[str]:
                found = {name: (store / "config" / name) for name in wanted}
                return [
                    name
                    for name, path in found.items()
                    if not path.exists() or not re.search(wanted[name], re.sub(r"\s", "", path.read_text()))
                ]

            await eventually(lambda: not missing(), seconds=120)
