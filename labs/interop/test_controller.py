"""Brokers of Apache RocketMQ 5.3.3 in controller mode, and its mqadmin, against our controller."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rocketmq_py.common.environment import system_environment
from rocketmq_py.controller.broker_group import BrokerGroup
from rocketmq_py.controller.config import ControllerConfig
from rocketmq_py.controller.server import Controller
from rocketmq_py.namesrv.config import NamesrvConfig
from rocketmq_py.namesrv.server import Namesrv
from rocketmq_py.testing.eventually import eventually

from .java_tools import BROKER_FLAGS, JavaProgram, free_port, jars, java, mqadmin

pytestmark = [pytest.mark.interop, pytest.mark.serial, pytest.mark.timeout(400)]

#: Seconds that a JVM may take to come up and do something on a busy machine.
PATIENCE = 120
GROUP = "broker-c"


@pytest.fixture(scope="module", autouse=True)
def _tools():
    jars()


@contextlib.asynccontextmanager
async def controller_and_namesrv(folder: Path) -> AsyncIterator[tuple[Controller, Namesrv]]:
    """Run both on the loop of the lab."""
    environment = system_environment()
    controller = Controller(
        ControllerConfig(
            controller_port=0, controller_store_path=str(folder / "controller"), controller_d_leger_group="group1"
        ),
        environment,
    )
    namesrv = Namesrv(NamesrvConfig(listen_port=0, kv_config_path=str(folder / "kv" / "kvConfig.json")), environment)
    await controller.start()
    await namesrv.start()
    try:
        yield controller, namesrv
    finally:
        await namesrv.stop()
        await controller.stop()


@contextlib.asynccontextmanager
async def apache_broker(
    folder: Path, controller: Controller, namesrv: Namesrv, port: int
) -> AsyncIterator[JavaProgram]:
    """Run a broker of Apache's in controller mode."""
    lines = {
        "brokerClusterName": "DefaultCluster",
        "brokerName": GROUP,
        "brokerId": -1,
        "brokerRole": "SLAVE",
        "enableControllerMode": "true",
        "controllerAddr": controller.address,
        "namesrvAddr": namesrv.address,
        "brokerIP1": "127.0.0.1",
        "brokerIP2": "127.0.0.1",
        "listenPort": port,
        "allAckInSyncStateSet": "true",
        "storePathRootDir": folder / "store",
        "storePathEpochFile": folder / "store" / "epochFileCheckpoint",
        "storePathBrokerIdentity": folder / "store" / "brokerIdentity",
        "mappedFileSizeCommitLog": 16 << 20,
        "mappedFileSizeConsumeQueue": 600_000,
    }
    file = _write(folder, lines)
    async with java("org.apache.rocketmq.broker.BrokerStartup", "-c", file, home=folder, flags=BROKER_FLAGS) as program:
        await eventually(lambda: "boot success" in program.output or not program.is_running, seconds=PATIENCE)
        assert program.is_running, program.output
        yield program


def _write(folder: Path, lines: dict[str, object]) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "broker.conf"
    file.write_text("".join(f"{key}={value}\n" for key, value in lines.items()))
    return str(file)


def check(output: str, *patterns: str) -> None:
    """Print what mqadmin said, and look for every pattern in it."""
    print(output)
    assert "Exception" not in output
    for pattern in patterns:
        assert re.search(pattern, output, re.MULTILINE), f"{pattern!r} is not in the output:\n{output}"


async def test_an_apache_broker_becomes_master_a_second_one_joins_and_takes_over_when_the_first_is_killed(tmp_path):
    async with controller_and_namesrv(tmp_path) as (controller, namesrv):
        groups = controller.manager.machine.state.groups

        def group() -> BrokerGroup:
            return groups[GROUP]

        first_port, second_port = free_port(), free_port()
        async with apache_broker(tmp_path / "one", controller, namesrv, first_port) as first:
            await eventually(lambda: GROUP in groups and group().master == 1, seconds=PATIENCE)
            assert (group().master_epoch, group().sync_state_set) == (1, [1]), repr(group())
            assert group().master_address == f"127.0.0.1:{first_port}"

            async with apache_broker(tmp_path / "two", controller, namesrv, second_port):
                await eventually(lambda: group().sync_state_set == [1, 2], seconds=PATIENCE)

                await _mqadmin_sees_them(tmp_path, controller, first_port, second_port)

                await first.kill()
                await eventually(lambda: group().master == 2, seconds=PATIENCE)
                assert (group().master_epoch, group().sync_state_set) == (2, [2]), repr(group())
                await eventually(
                    lambda: (
                        namesrv.routes.tables.broker_addr_table[GROUP].broker_addrs.get(0) == f"127.0.0.1:{second_port}"
                    ),
                    seconds=PATIENCE,
                )

                # It comes back with its old files, is told that it is a slave now, and joins again.
                async with apache_broker(tmp_path / "one", controller, namesrv, first_port):
                    await eventually(lambda: group().sync_state_set == [1, 2], seconds=PATIENCE)
                    assert (group().master, group().master_epoch) == (2, 2), repr(group())

                    output = await mqadmin(
                        tmp_path, "electMaster", "-a", controller.address, "-b", "1", "-bn", GROUP,
                        "-c", "DefaultCluster",
                    )  # fmt: skip
                    check(output, rf"127\.0\.0\.1:{first_port}")
                    assert (group().master, group().master_epoch) == (1, 3), repr(group())
                    await eventually(lambda: group().sync_state_set == [1, 2], seconds=PATIENCE)


async def _mqadmin_sees_them(folder: Path, controller: Controller, first_port: int, second_port: int) -> None:
    check(
        await mqadmin(folder, "getControllerMetaData", "-a", controller.address),
        r"^#ControllerGroup\s+group1",
        r"^#ControllerLeaderId\s+n0",
        rf"^#ControllerLeaderAddress\s+{re.escape(controller.address)}",
        rf"^#Peer:\s+n0:{re.escape(controller.address)}",
    )
    check(
        await mqadmin(folder, "getSyncStateSet", "-a", controller.address, "-b", GROUP),
        rf"#brokerName\s+{GROUP}",
        r"#MasterBrokerId\s+1",
        rf"#MasterAddr\s+127\.0\.0\.1:{first_port}",
        r"#MasterEpoch\s+1",
        r"#SyncStateSetNums\s+2",
        rf"127\.0\.0\.1:{second_port}",
    )


async def test_mqadmin_reads_and_changes_the_settings_and_forgets_brokers(tmp_path):
    async with controller_and_namesrv(tmp_path) as (controller, _):
        check(
            await mqadmin(tmp_path, "getControllerConfig", "-a", controller.address),
            r"enableElectUncleanMaster\s*=\s*false",
            r"controllerDLegerGroup\s*=\s*group1",
        )
        check(
            await mqadmin(
                tmp_path, "updateControllerConfig", "-a", controller.address, "-k", "enableElectUncleanMaster",
                "-v", "true",
            ),
            r"update controller config success",
        )  # fmt: skip
        assert controller.config.enable_elect_unclean_master is True
        refused = await mqadmin(
            tmp_path, "updateControllerConfig", "-a", controller.address, "-k", "controllerStorePath", "-v", "/tmp/else"
        )
        assert "cannot be changed while the server runs" in refused, refused
        refused = await mqadmin(
            tmp_path, "cleanBrokerMetadata", "-a", controller.address, "-bn", GROUP, "-c", "DefaultCluster"
        )
        assert "is not existed" in refused, refused
