"""The tour's chapter about a master that is lost: a cluster of processes, one of which is killed while messages flow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from rocketmq_py.cli.cluster import search_ports
from rocketmq_py.cli.local_cluster import LocalCluster, MemberStatus
from rocketmq_py.cli.output import CliError
from rocketmq_py.cli.topology import lay_out, read_topology
from rocketmq_py.cli.tour_guide import PATIENCE, Guide, wait_for
from rocketmq_py.client.admin.client import AdminClient
from rocketmq_py.client.config import ClientConfig, ProducerConfig
from rocketmq_py.client.producer import Producer
from rocketmq_py.client.send_result import SendStatus
from rocketmq_py.common.message import Message

TOPIC = "Bookings"
TOPOLOGY = "2m-2s-sync"
#: Small files, as everywhere in the tour.
SETTINGS = {"mappedFileSizeCommitLog": "1048576", "maxHashSlotNum": "1000", "maxIndexNum": "4000"}


async def master_lost(guide: Guide) -> None:
    """Kill a master while messages flow, read from its slave, bring it back."""
    guide.say(
        f"Now a cluster of processes, with the files of RocketMQ's `{TOPOLOGY}`: two masters, and a slave for each that "
        "copies its log. A master acknowledges a message when its slave has it, too."
    )
    guide.code(f"rmq-py cluster up {TOPOLOGY} --dir DIR", "rmq-py cluster kill broker-a --dir DIR")
    async with _cluster(Path(guide.folder) / "cluster", guide) as cluster:
        guide.table(
            "broker", "role", "id", "address",
            rows=[(s.name, s.role, s.broker_id, s.address) for s in await cluster.status() if s.role],
        )  # fmt: skip
        acknowledged = await _send_while_a_master_is_killed(cluster)
        names = list(dict.fromkeys(acknowledged.values()))
        guide.check("both masters took messages", ["broker-a", "broker-b"], sorted(names))
        last = list(acknowledged.values())[-50:]
        guide.check("and broker-b alone after the kill", {"broker-b"}, set(last))
        guide.say(
            "The master `broker-a` is gone, and with fixed roles nobody takes its place: what it had is read from its slave, "
            "what is sent goes to the other master."
        )
        async with guide.consumer("Clerks", TOPIC, namesrv_addr=cluster.namesrv_addr) as inbox:
            await wait_for(lambda: set(inbox.bodies) >= acknowledged.keys(), "what was acknowledged")
        of_dead = sum(name == "broker-a" for name in acknowledged.values())
        guide.check(
            f"all {len(acknowledged)} acknowledged messages were read, {of_dead} of them are the dead master's",
            0, len(acknowledged.keys() - set(inbox.bodies)),
        )  # fmt: skip
        guide.code("rmq-py cluster start broker-a --dir DIR", "rmq-py cluster status --dir DIR")
        await cluster.start(["broker-a"])
        statuses = await _settled(cluster)
        guide.table("broker", "role", "log ends at", rows=[(s.name, s.role, s.end) for s in statuses])
        ends = {status.name: status.end for status in statuses}
        guide.check("it is back, with every byte that its slave has", ends["broker-a-s"], ends["broker-a"])


@asynccontextmanager
async def _cluster(folder: Path, guide: Guide) -> AsyncIterator[LocalCluster]:
    files = read_topology(TOPOLOGY, guide.environment)
    members = search_ports(lambda base: lay_out(files, folder, base, SETTINGS))
    cluster = LocalCluster.create(folder, TOPOLOGY, members)
    names = [member.name for member in members]
    try:
        await cluster.start(names)
        await cluster.wait_until_registered()
        yield cluster
    finally:
        await cluster.stop(names)


async def _send_while_a_master_is_killed(cluster: LocalCluster) -> dict[str, str]:
    """Send until some time after the kill; return which broker acknowledged each message."""
    async with (
        AdminClient(ClientConfig(namesrv_addr=cluster.namesrv_addr)) as admin,
        Producer("Desk", ProducerConfig(namesrv_addr=cluster.namesrv_addr)) as producer,
    ):
        await admin.topics.create(TOPIC, queues=2)
        acknowledged: dict[str, str] = {}
        killing: asyncio.Task[bool] | None = None
        for number in range(300):
            if number == 100:
                killing = asyncio.create_task(cluster.kill("broker-a"))
            body = f"booking {number}"
            result = await producer.send(Message.of(TOPIC, body.encode()))
            if result.status is SendStatus.SEND_OK:
                acknowledged[body] = result.queue.broker_name
        if killing is None or not await killing:
            raise CliError("broker-a did not run when it was to be killed")
        return acknowledged


async def _settled(cluster: LocalCluster) -> list[MemberStatus]:
    """Wait until slaves have what their masters have, and return the brokers."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE
    while True:
        statuses = [status for status in await cluster.status() if status.kind == "broker"]
        if all(status.role and (status.role != "SLAVE" or status.behind == 0) for status in statuses):
            return statuses
        if loop.time() > deadline:
            raise CliError(f"slaves did not catch up within {PATIENCE:g} s: {statuses}")
        await asyncio.sleep(0.05)
