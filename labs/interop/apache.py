"""A name server and a broker of Apache RocketMQ, in processes of their own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from rocketmq_py.client.admin.client import AdminClient
from rocketmq_py.testing.eventually import eventually

from .java_tools import BROKER_FLAGS, JavaProgram, free_port, java, mqadmin

#: Seconds that a JVM may take to come up on a busy machine.
BOOT_SECONDS = 120


@dataclass(slots=True)
class ApacheServers:
    """Where they listen."""

    namesrv: str
    broker: str
    broker_program: JavaProgram


@contextlib.asynccontextmanager
async def apache_servers(folder: Path, **settings: object) -> AsyncIterator[ApacheServers]:
    """Run both for the time of a `with` block; `settings` are further lines of the broker's file."""
    namesrv_port, broker_port = free_port(), free_port()
    namesrv, broker = f"127.0.0.1:{namesrv_port}", f"127.0.0.1:{broker_port}"
    namesrv_file = _write(folder / "namesrv.conf", listenPort=namesrv_port, bindAddress="127.0.0.1")
    broker_file = _write(
        folder / "broker.conf",
        brokerClusterName="DefaultCluster",
        brokerName="apache-a",
        brokerId=0,
        namesrvAddr=namesrv,
        brokerIP1="127.0.0.1",
        listenPort=broker_port,
        storePathRootDir=folder / "store",
        mappedFileSizeCommitLog=16 << 20,
        mappedFileSizeConsumeQueue=600_000,
        enablePropertyFilter="true",
        # A JVM that has just started is slow; the defaults of 200 ms and 1 s would refuse sends.
        waitTimeMillsInSendQueue=10_000,
        osPageCacheBusyTimeOutMills=10_000,
        **settings,
    )
    async with (
        java("org.apache.rocketmq.namesrv.NamesrvStartup", "-c", namesrv_file, home=folder / "ns") as first,
        java(
            "org.apache.rocketmq.broker.BrokerStartup", "-c", broker_file, home=folder / "br", flags=BROKER_FLAGS
        ) as second,
    ):
        for program in (first, second):
            await eventually(lambda program=program: "boot success" in program.output, seconds=BOOT_SECONDS)
        await _registered(namesrv)
        yield ApacheServers(namesrv, broker, second)


async def _registered(namesrv: str) -> None:
    """Wait until the name server knows the broker: "boot success" is said a moment before."""
    async with AdminClient(namesrv_addr=namesrv) as admin, asyncio.timeout(BOOT_SECONDS):
        while not (await admin.cluster.cluster_info()).cluster_addr_table:  # noqa: ASYNC110
            # Nobody tells a client of a registration; it has to ask.
            await asyncio.sleep(0.1)


async def create_topic(servers: ApacheServers, folder: Path, topic: str, queues: int) -> None:
    """Create a topic, and wait until the name server has its route: it comes a moment after the answer."""
    output = await mqadmin(
        folder, "updateTopic", "-b", servers.broker, "-t", topic, "-r", str(queues), "-w", str(queues)
    )
    assert "success" in output, output


def _write(path: Path, **lines: object) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{key}={value}\n" for key, value in lines.items()))
    return str(path)
