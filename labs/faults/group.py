"""A broker group as processes, with proxies on its links, under load: what a fault is applied to and judged by.

Every broker listens on 127.0.0.1; what it announces is 127.0.0.11, .12 ... where proxies stand: one before its port and one
before its port for replication. Its own ways to the name server and the controllers lead through proxies as well.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from labs.faults.fault_proxy import FaultProxy
from labs.faults.history import History, Outcome, Send, outcome_of
from labs.kill.broker_process import QUEUES, TOPIC, PlainClient
from rocketmq_py.cli.cluster import search_ports
from rocketmq_py.cli.local_cluster import LocalCluster
from rocketmq_py.cli.topology import Kind, Member, lay_out, read_topology
from rocketmq_py.client.admin.client import AdminClient
from rocketmq_py.client.errors import ClientError
from rocketmq_py.common.environment import SystemClock, system_environment
from rocketmq_py.common.host import split_address
from rocketmq_py.common.properties import encode_properties
from rocketmq_py.controller.config import parse_peers
from rocketmq_py.remoting.client import RemotingClient
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.errors import RemotingConnectError, RemotingError
from rocketmq_py.remoting.header import encode_header
from rocketmq_py.remoting.headers.send import SendMessageRequestHeader, SendMessageRequestHeaderV2

#: Seconds that a sender waits for an answer: longer than `slaveTimeout`, so that it hears what became of its message.
SEND_SECONDS = 4.0
#: Pause in seconds between two sends of a sender: the load is there to be disturbed, not to fill the machine.
PACE = 0.004
#: Of the measurement of a rate: where it sends to, and how many sends are under way on one connection.
RATE_TOPIC = "FaultLabRate"
UNDER_WAY = 128
#: Small files, quick timers; `fast` of reliability.md.
SETTINGS = {
    "mappedFileSizeCommitLog": str(4 << 20),
    "mappedFileSizeConsumeQueue": "200000",
    "mappedFileSizeTimerLog": "520000",
    "maxHashSlotNum": "5000",
    "maxIndexNum": "20000",
    "defaultTopicQueueNums": str(QUEUES),
    "haHousekeepingInterval": "3000",
    "haSendHeartbeatInterval": "1000",
    "brokerNotActiveTimeoutMillis": "4000",
    "controllerHeartBeatTimeoutMills": "3000",
    "brokerHeartbeatInterval": "500",
    # An empty slave gets the whole log, so that every replica can be compared with everything that was sent.
    "haSendAllToEmptySlave": "true",
}
CONTROLLER_SETTINGS = {"scanNotActiveBrokerInterval": "500", "scanInactiveMasterInterval": "500"}
#: RocketMQ's own timers, for `settings` and `controller_settings` of `running_group`.
SLOW_SETTINGS = {
    "haHousekeepingInterval": "20000",
    "haSendHeartbeatInterval": "5000",
    "brokerNotActiveTimeoutMillis": "10000",
    "controllerHeartBeatTimeoutMills": "10000",
    "brokerHeartbeatInterval": "1000",
}
SLOW_CONTROLLER_SETTINGS = {"scanNotActiveBrokerInterval": "5000", "scanInactiveMasterInterval": "5000"}


@dataclass(slots=True)
class Links:
    """The proxies round one broker."""

    front: FaultProxy
    ha: FaultProxy
    #: Its own ways out: to the name server and the controllers.
    out: list[FaultProxy]

    @property
    def all(self) -> list[FaultProxy]:
        return [self.front, self.ha, *self.out]


@dataclass(slots=True)
class Group:
    """A group under load.

    Attributes:
        cluster: its processes.
        links: broker's process -> proxies.
        between: proxies from a controller to another one, by the names of their processes.
        history: all that was sent.
        master_of_now: returns where senders send to; asked again after each failure.
    """

    cluster: LocalCluster
    links: dict[str, Links]
    between: dict[tuple[str, str], FaultProxy] = field(default_factory=dict)
    history: History = field(default_factory=History)
    is_controlled: bool = False
    clock: Callable[[], float] = lambda: asyncio.get_running_loop().time()
    admin: AdminClient = field(init=False)
    target: str = ""

    @property
    def proxies(self) -> list[FaultProxy]:
        """All that stand round the brokers."""
        return [proxy for links in self.links.values() for proxy in links.all]

    # --- who is who ---------------------------------------------------------------------------------------------------

    async def find_master(self) -> str:
        """Return the name of the process that is master, as the name server says; empty if there is none."""
        try:
            info = await self.admin.cluster.cluster_info()
        except (RemotingError, ClientError):
            return ""
        address = (
            info.broker_addr_table["broker-a"].broker_addrs.get(0) if "broker-a" in info.broker_addr_table else None
        )
        return next((name for name, links in self.links.items() if links.front.address == address), "")

    async def master(self, other_than: str = "", seconds: float = 30.0) -> str:
        """Wait for a master and return its name."""
        deadline = self.clock() + seconds
        while not (name := await self.find_master()) or name == other_than:
            if self.clock() > deadline:
                raise AssertionError(f"no master other than {other_than!r} after {seconds} s\n{self.said()}")
            await asyncio.sleep(0.05)
        return name

    def slaves_of(self, master: str) -> list[str]:
        """Return the others."""
        return [name for name in self.links if name != master]

    def said(self) -> str:
        """The end of what every member said."""
        return "\n".join(
            f"--- {member.name}\n{self.cluster.process(member.name).log_path.read_text('utf-8', 'replace')[-2_000:]}"
            for member in self.cluster.members
            if self.cluster.process(member.name).log_path.exists()
        )

    # --- faults of processes --------------------------------------------------------------------------------------------

    async def kill(self, name: str) -> None:
        """SIGKILL."""
        assert await self.cluster.kill(name)

    async def stop(self, name: str) -> None:
        """SIGTERM, and wait."""
        assert await self.cluster.stop([name]) == [name]

    async def start(self, name: str) -> None:
        """Start again, on its store."""
        await self.cluster.start([name])

    def pause(self, name: str) -> None:
        """SIGSTOP."""
        assert self.cluster.process(name).send(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """SIGCONT."""
        assert self.cluster.process(name).send(signal.SIGCONT)

    def around(self, controller: str) -> list[FaultProxy]:
        """Return the ways between a controller and everybody else: the other controllers, and all brokers."""
        address = self.cluster.member(controller).address
        return [
            *(proxy for ends, proxy in self.between.items() if controller in ends),
            *(proxy for links in self.links.values() for proxy in links.out if proxy.target == address),
        ]

    async def is_acknowledged_by(self, name: str) -> bool:
        """Send once to a broker that should not take it, whoever is master; what it stores is to go again."""
        remoting = RemotingClient(SystemClock())
        try:
            send = Send(b"for a master that is none", self.clock())
            return await _send(remoting, self.links[name].front.address, 0, send) is Outcome.ACKNOWLEDGED
        finally:
            await remoting.close()

    def empty(self, name: str) -> None:
        """Give a broker that does not run a new, empty disk."""
        shutil.rmtree(self.cluster.folder / name / "store")

    async def leader(self, other_than: str = "", seconds: float = 20.0) -> str:
        """Return the name of the process that is leader of the controllers."""
        deadline = self.clock() + seconds
        controllers = {member.ports[-1]: member.name for member in self.cluster.members if member.holds_controller}
        for port in itertools.cycle(controllers):
            remoting = RemotingClient(SystemClock())
            try:
                command = RemotingCommand.create_request(RequestCode.CONTROLLER_GET_METADATA_INFO)
                answer = await remoting.request(f"127.0.0.1:{port}", command, 1.0)
                if answer.ext_fields.get("isLeader") == "true" and controllers[port] != other_than:
                    return controllers[port]
            except (RemotingError, OSError):
                pass
            finally:
                await remoting.close()
            assert self.clock() < deadline, f"the controllers have no leader\n{self.said()}"
            await asyncio.sleep(0.1)
        raise AssertionError("there is no controller")

    # --- load -----------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def load(self) -> AsyncIterator[None]:
        """Send to every queue, one message after the other, for as long as the block lasts."""
        is_over = asyncio.Event()
        tasks = [asyncio.create_task(self._keep_sending(queue, is_over)) for queue in range(QUEUES)]
        try:
            yield
        finally:
            is_over.set()
            await asyncio.gather(*tasks)

    async def _keep_sending(self, queue: int, is_over: asyncio.Event) -> None:
        remoting = RemotingClient(SystemClock())
        try:
            while not is_over.is_set():
                if not self.target:
                    name = await self.find_master()
                    self.target = self.links[name].front.address if name else ""
                    if not self.target:
                        await asyncio.sleep(0.05)
                        continue
                target = self.target
                send = self.history.begin(queue, self.clock())
                send.outcome = await _send(remoting, target, queue, send)
                send.ended = self.clock()
                if send.outcome is Outcome.ACKNOWLEDGED:
                    await asyncio.sleep(PACE)
                    continue
                # The name server says who is master now; senders share what one of them found.
                if self.target == target:
                    self.target = ""
                await asyncio.sleep(0.05)
        finally:
            await remoting.close()

    async def rate(self, seconds: float) -> float:
        """Send to a topic of its own, with many sends under way on each of a few connections.

        Returns:
            How many were acknowledged each second.
        """
        address, deadline = self.links[await self.master()].front.address, self.clock() + seconds
        acknowledged = 0

        async def keep_sending(remoting: RemotingClient, queue: int) -> None:
            nonlocal acknowledged
            while self.clock() < deadline:
                outcome = await _send(remoting, address, queue, Send(b"x" * 1_024, self.clock()), topic=RATE_TOPIC)
                # What is acknowledged after the end counts for nobody.
                acknowledged += outcome is Outcome.ACKNOWLEDGED and self.clock() < deadline

        clients = [RemotingClient(SystemClock()) for _ in range(QUEUES)]
        try:
            await asyncio.gather(
                *(keep_sending(client, queue) for queue, client in enumerate(clients) for _ in range(UNDER_WAY))
            )
        finally:
            for client in clients:
                await client.close()
        return acknowledged / seconds

    async def acknowledged_again(self, since: float, seconds: float) -> float:
        """Wait until a send that began since a moment was acknowledged; return how long that took."""
        while not self.history.acknowledged_since(since):
            if self.clock() - since > seconds:
                raise AssertionError(
                    f"nothing was acknowledged for {seconds} s; sends ended {dict(self.history.count(since))}\n{self.said()}"
                )
            await asyncio.sleep(0.01)
        return self.clock() - since

    # --- the end of an experiment -----------------------------------------------------------------------------------------

    async def settled(self, seconds: float = 30.0) -> None:
        """Wait until every broker runs and has the whole log of the master."""
        deadline = self.clock() + seconds
        while True:
            brokers = [status for status in await self.cluster.status() if status.kind == Kind.BROKER.value]
            ends = {status.end for status in brokers}
            if len(ends) == 1 and -1 not in ends and all(status.role for status in brokers):
                return
            if self.clock() > deadline:
                raise AssertionError(f"after {seconds} s the logs end at different places: {brokers}\n{self.said()}")
            await asyncio.sleep(0.1)

    async def settled_under_load(self, seconds: float = 30.0) -> None:
        """Wait until all brokers answer and no slave is far behind the master that goes on; with a controller, until the
        sync-state set has all of them: nobody else may become master.
        """
        deadline = self.clock() + seconds
        while True:
            brokers = [status for status in await self.cluster.status() if status.kind == Kind.BROKER.value]
            slaves = [status for status in brokers if status.role == "SLAVE"]
            is_near = len(slaves) == len(brokers) - 1 and all(0 <= status.behind < 100_000 for status in slaves)
            if is_near and (not self.is_controlled or all(status.is_in_sync for status in brokers)):
                return
            if self.clock() > deadline:
                raise AssertionError(f"after {seconds} s slaves are behind: {brokers}\n{self.said()}")
            await asyncio.sleep(0.1)

    async def read(self, name: str) -> list[list[bytes]]:
        """Return the bodies of every queue as a broker serves them."""
        client = _Reader(self.cluster.member(name).address)
        try:
            return [await client.read_queue(queue) for queue in range(QUEUES)]
        finally:
            await client.close()

    def log_files(self, name: str) -> dict[str, bytes]:
        """Return the files of a broker's log; it does not run any more."""
        folder = self.cluster.folder / name / "store" / "commitlog"
        return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name.isdigit()}


class _Reader(PlainClient):
    """Reads to the end, at a slave too: which sends a reader that is through to the master, by code 20."""

    async def pull(self, queue_id: int, offset: int) -> tuple[list[bytes], int]:
        try:
            return await super().pull(queue_id, offset)
        except AssertionError as error:
            if f"answered {ResponseCode.PULL_RETRY_IMMEDIATELY:d}: OFFSET_OVERFLOW_ONE" in str(error):
                return [], offset
            raise


async def _send(remoting: RemotingClient, address: str, queue: int, send: Send, topic: str = TOPIC) -> Outcome:
    """Send once and tell how it ended."""
    header = SendMessageRequestHeader(
        producer_group="FaultLab",
        topic=topic,
        default_topic="TBW102",
        default_topic_queue_nums=QUEUES,
        queue_id=queue,
        sys_flag=0,
        born_timestamp=1_768_463_999_123,
        flag=5,
        properties=encode_properties({"UNIQ_KEY": send.body[:40].decode()}).decode(),
        reconsume_times=0,
        unit_mode=False,
        batch=False,
    )
    fields = encode_header(SendMessageRequestHeaderV2.from_v1(header))
    command = RemotingCommand.create_request(RequestCode.SEND_MESSAGE_V2, fields, send.body)
    try:
        answer = await remoting.request(address, command, SEND_SECONDS)
    except RemotingConnectError:
        return Outcome.REFUSED
    except (RemotingError, OSError):
        return Outcome.UNKNOWN
    return outcome_of(answer.code)


@asynccontextmanager
async def running_group(
    folder: Path,
    topology: str,
    *,
    names: str = "broker-",
    controller_settings: Mapping[str, str] = CONTROLLER_SETTINGS,
    **settings: str,
) -> AsyncIterator[Group]:
    """Start one group of a topology with proxies on its links; all ends with the block.

    Args:
        folder: of the cluster.
        topology: its name.
        names: brokers whose names begin so are started, beside the servers.
        controller_settings: of every controller.
        settings: of every broker.
    """
    files = [
        file
        for file in read_topology(topology, system_environment())
        if file.kind is not Kind.BROKER or file.name.startswith(names)
    ]
    members = search_ports(lambda base: lay_out(files, folder, base, {**SETTINGS, **settings}))
    links: dict[str, Links] = {}
    between: dict[tuple[str, str], FaultProxy] = {}
    placed = []
    for number, member in enumerate(members):
        if member.kind is Kind.BROKER:
            member, links[member.name] = await _with_proxies(member, f"127.0.0.{11 + number}", members)
        elif "controllerDLegerPeers" in member.text:
            member, ways = await _with_peer_proxies(_with(member, controller_settings))
            between |= ways
        placed.append(member)
    cluster = LocalCluster.create(folder, topology, placed)
    group = Group(cluster, links, between, is_controlled=topology.startswith("controller"))
    group.admin = AdminClient(namesrv_addr=cluster.namesrv_addr)
    try:
        await cluster.start([member.name for member in placed])
        async with group.admin:
            await group.master()
            yield group
    finally:
        await cluster.stop([member.name for member in placed])
        for proxy in [*between.values(), *(proxy for around in links.values() for proxy in around.all)]:
            await proxy.stop()


async def _with_peer_proxies(member: Member) -> tuple[Member, dict[tuple[str, str], FaultProxy]]:
    """Return a controller's configuration that leads to the others through proxies, and the proxies, listening."""
    settings = dict(line.split("=", 1) for line in member.text.splitlines() if "=" in line)
    own_id = settings["controllerDLegerSelfId"]
    peers = parse_peers(settings["controllerDLegerPeers"], own_id)
    ways = {}
    for peer in peers.keys() - {own_id}:
        way = ways[member.name, f"controller-{peer}"] = FaultProxy(peers[peer])
        await way.start()
        peers[peer] = way.address
    text = ";".join(f"{peer}-{address}" for peer, address in peers.items())
    return _with(member, {"controllerDLegerPeers": text}), ways


async def _with_proxies(member: Member, host: str, members: list[Member]) -> tuple[Member, Links]:
    """Return a broker's configuration that leads through proxies, and the proxies, listening."""
    front = FaultProxy(member.address, f"{host}:{member.ports[0]}")
    ha = FaultProxy(f"127.0.0.1:{member.ports[1]}", f"{host}:{member.ports[1]}")
    changes = {"brokerIP1": host, "brokerIP2": host}
    out = []
    for key, ports in (
        ("namesrvAddr", [other.ports[0] for other in members if other.kind is Kind.NAMESRV]),
        ("controllerAddr", [other.ports[-1] for other in members if "controllerDLegerPeers" in other.text]),
    ):
        ways = [FaultProxy(f"127.0.0.1:{port}") for port in ports]
        for way in ways:
            await way.start()
        out += ways
        if ways:
            changes[key] = ";".join(way.address for way in ways)
    await front.start()
    await ha.start()
    assert split_address(front.address)[0] == host
    return dataclasses.replace(_with(member, changes), address=front.address), Links(front, ha, out)


def _with(member: Member, changes: Mapping[str, str]) -> Member:
    return dataclasses.replace(member, text=member.text + "".join(f"{key}={value}\n" for key, value in changes.items()))
