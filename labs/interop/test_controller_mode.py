"""A group in controller mode whose brokers are ours and Apache's, in both roles, with our controller."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.assembly.stages import build_broker
from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.ha.controller.replicas_manager import ReplicasManager, Standing
from rocketmq_py.client.config import ProducerConfig
from rocketmq_py.client.producer import Producer
from rocketmq_py.common.environment import system_environment
from rocketmq_py.common.message import Message
from rocketmq_py.controller.server import Controller
from rocketmq_py.namesrv.server import Namesrv
from rocketmq_py.store.commit_log import CommitLog
from rocketmq_py.store.config import MessageStoreConfig
from rocketmq_py.store.ha.autoswitch.auto_switch_ha_service import AutoSwitchHAService
from rocketmq_py.testing.eventually import eventually

from .java_tools import free_port, jars, mqadmin
from .test_controller import GROUP, PATIENCE, apache_broker, check, controller_and_namesrv

pytestmark = [pytest.mark.interop, pytest.mark.serial, pytest.mark.timeout(400)]

TOPIC = "Mixed"


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    jars()


async def our_broker(folder: Path, controller: Controller, namesrv: Namesrv, port: int) -> Kernel:
    """Start a broker of ours in controller mode."""
    config = BrokerConfig(
        broker_name=GROUP,
        listen_port=port,
        namesrv_addr=namesrv.address,
        enable_controller_mode=True,
        controller_addr=controller.address,
    )
    store_config = MessageStoreConfig(
        store_path_root_dir=str(folder / "store"),
        mapped_file_size_commit_log=16 << 20,
        mapped_file_size_consume_queue=600_000,
        all_ack_in_sync_state_set=True,
    )
    kernel = build_broker(config, store_config, system_environment())
    await kernel.start()
    return kernel


async def send(namesrv: Namesrv, count: int, name: str) -> None:
    """Send messages; each must be acknowledged."""
    producer = Producer("mixed", ProducerConfig(namesrv_addr=namesrv.address))
    await producer.start()
    try:
        # Few at a time: an Apache broker on a busy machine refuses what has waited for 200 ms.
        for start in range(0, count, 10):
            numbers = range(start, min(start + 10, count))
            results = await asyncio.gather(
                *(producer.send(Message.of(TOPIC, f"{name} {number}".encode() * 10)) for number in numbers)
            )
            assert {result.status.name for result in results} == {"SEND_OK"}
    finally:
        await producer.stop()


def log_of(folder: Path, start: int, end: int) -> bytes:
    """Return bytes of a log from its files."""
    files = sorted((folder / "store" / "commitlog").iterdir())
    return b"".join(file.read_bytes() for file in files)[start - int(files[0].name) : end - int(files[0].name)]


async def test_an_apache_slave_follows_our_master_takes_over_and_our_broker_follows_it(tmp_path: Path) -> None:
    """Observe: the set in sync, equal logs, epochs as mqadmin shows them; after the change the same the other way round."""
    async with controller_and_namesrv(tmp_path) as (controller, namesrv):
        groups = controller.manager.machine.state.groups
        our_port, apache_port = free_port(), free_port()
        ours = await our_broker(tmp_path / "ours", controller, namesrv, our_port)
        manager = ours.get(ReplicasManager)
        try:
            await eventually(manager.has_lease, seconds=30)
            async with apache_broker(tmp_path / "apache", controller, namesrv, apache_port):
                await eventually(lambda: groups[GROUP].sync_state_set == [1, 2], seconds=PATIENCE)
                await send(namesrv, 2_000, "first")
                end = ours.get(CommitLog).max_offset
                assert ours.get(AutoSwitchHAService).confirm_offset == end
                # Acknowledged means that the Apache slave has it, in its page cache at least.
                assert log_of(tmp_path / "apache", 0, end) == log_of(tmp_path / "ours", 0, end)

                check(
                    await mqadmin(tmp_path, "getBrokerEpoch", "-n", namesrv.address, "-b", GROUP),
                    rf"^#brokerAddr\s+127\.0\.0\.1:{our_port}",
                    rf"^#Epoch: EpochEntry\{{epoch=1, startOffset=0, endOffset={end}\}}",
                )
                check(
                    await mqadmin(tmp_path, "getSyncStateSet", "-a", controller.address, "-b", GROUP),
                    r"^#MasterBrokerId\s+1",
                    r"^#SyncStateSetNums\s+2",
                )

                await ours.stop()
                await eventually(lambda: groups[GROUP].master == 2, seconds=PATIENCE)
                ours = await our_broker(tmp_path / "ours", controller, namesrv, our_port)
                manager = ours.get(ReplicasManager)
                await eventually(lambda: manager.standing is Standing.SLAVE, seconds=30)
                await eventually(lambda: groups[GROUP].sync_state_set == [1, 2], seconds=PATIENCE)
                await send(namesrv, 2_000, "second")
                after = ours.get(CommitLog).max_offset
                await asyncio.sleep(1)
                assert ours.get(CommitLog).max_offset == after > end
                assert log_of(tmp_path / "ours", 0, after) == log_of(tmp_path / "apache", 0, after)
                assert [epoch.number for epoch in ours.get(AutoSwitchHAService).epochs.epochs] == [1, 2]
        finally:
            await ours.stop()
