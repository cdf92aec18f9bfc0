"""A cluster on this machine: name servers, controllers and brokers as processes, and one folder that knows all of it.

    DIR/cluster.json          the topology's name and the members, written before anything is started
    DIR/conf/NAME.properties  what a member is started with; may be edited before it is started again
    DIR/run/NAME.json         which process it is
    DIR/logs/NAME.log         what it says
    DIR/NAME/                 its store

Nothing else is touched, and nothing outside of the folder is remembered.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec

from rocketmq_py.cli.member_process import MemberProcess, State
from rocketmq_py.cli.output import CliError, Exit
from rocketmq_py.cli.topology import LOOPBACK, Kind, Member
from rocketmq_py.client.admin.client import AdminClient
from rocketmq_py.client.admin.controllers import ControllerAdmin
from rocketmq_py.client.config import ClientConfig
from rocketmq_py.client.errors import ClientError
from rocketmq_py.common.environment import SystemClock
from rocketmq_py.common.errors import RocketMQError
from rocketmq_py.remoting.client import RemotingClient
from rocketmq_py.remoting.errors import RemotingError

#: Seconds that a member may take to serve, and all of them to be registered.
START_SECONDS: Final = 30.0
REGISTRATION_SECONDS: Final = 30.0
#: Seconds after SIGTERM until SIGKILL: a little more than a server gives itself.
STOP_SECONDS: Final = 7.0
#: Seconds for one question about the state of a member.
ASK_SECONDS: Final = 1.0


class _MemberEntry(msgspec.Struct, frozen=True):
    name: str
    kind: str
    address: str
    ports: tuple[int, ...]
    broker_name: str
    broker_id: int


class _ClusterFile(msgspec.Struct, frozen=True):
    topology: str
    members: list[_MemberEntry]


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """What is known of a member.

    Attributes:
        name, kind, address: as in its configuration.
        state: of its process.
        pid: of its process; 0 without one.
        role: ASYNC_MASTER, SYNC_MASTER or SLAVE as the broker says it; empty if it does not answer.
        broker_id: as the broker says it, else as configured.
        end: of its log, in bytes; -1 if it does not answer.
        behind: of a slave: bytes that its master has and it has not; -1 if either does not answer.
        is_in_sync: of a broker of a cluster with controllers: whether it may become master without a loss; None if that is
            not known, or there are none.
        is_answering: whether it answered at all.
    """

    name: str
    kind: str
    broker_name: str
    broker_id: int
    role: str
    address: str
    state: str
    pid: int
    is_answering: bool
    end: int
    behind: int
    is_in_sync: bool | None = None


class LocalCluster:
    """The members of a folder.

    Args:
        folder: of the cluster; absolute.

    Attributes:
        topology: its name, as it was given.
        members: all of them, in the order of their start; without their texts.
    """

    def __init__(self, folder: Path, topology: str, members: Sequence[Member]) -> None:
        self.folder = folder
        self.topology = topology
        self.members = list(members)

    # --- the folder ------------------------------------------------------------------------------------------------------

    @classmethod
    def open(cls, folder: Path) -> LocalCluster:
        """Return the cluster of a folder.

        Raises:
            CliError: there is none.
        """
        path = folder / "cluster.json"
        try:
            found = msgspec.json.decode(path.read_bytes(), type=_ClusterFile)
        except FileNotFoundError:
            raise CliError(
                f"{folder} is not the folder of a cluster",
                Exit.NOT_FOUND,
                f"Start one there: rmq-py cluster up 2m-2s-async --dir {folder}",
            ) from None
        except msgspec.DecodeError as error:
            raise CliError(
                f"{path} is damaged: {error}", next_step="Nothing was touched; see the files in its run/"
            ) from None
        members = [
            Member(entry.name, Kind(entry.kind), entry.address, entry.ports, entry.broker_name, entry.broker_id, "")
            for entry in found.members
        ]
        return cls(folder, found.topology, members)

    @classmethod
    def create(cls, folder: Path, topology: str, members: Sequence[Member]) -> LocalCluster:
        """Write the folder of a cluster; nothing is started.

        Raises:
            CliError: the folder holds something else.
        """
        if folder.exists() and any(folder.iterdir()) and not (folder / "conf").is_dir():
            raise CliError(
                f"{folder} is not empty and holds no cluster", next_step="Give --dir a folder of its own; it is made"
            )
        for member in members:
            path = _config_path(folder, member.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(member.text, "utf-8")
        entries = [
            _MemberEntry(
                member.name, member.kind.value, member.address, member.ports, member.broker_name, member.broker_id
            )
            for member in members
        ]
        temporary = folder / "cluster.json.tmp"
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(_ClusterFile(topology, entries)), indent=2))
        temporary.replace(folder / "cluster.json")
        return cls(folder, topology, members)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Let nobody else change this cluster for as long as the block lasts.

        Raises:
            CliError: somebody does.
        """
        with (self.folder / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise CliError(f"another command changes the cluster in {self.folder} just now", Exit.REFUSED) from None
            yield

    def member(self, name: str) -> Member:
        """Return a member by its name.

        Raises:
            CliError: there is none.
        """
        for member in self.members:
            if member.name == name:
                return member
        known = ", ".join(member.name for member in self.members)
        raise CliError(f"the cluster in {self.folder} has no member {name!r}; it has {known}", Exit.NOT_FOUND)

    def process(self, name: str) -> MemberProcess:
        """Return the process of a member, running or not."""
        return MemberProcess(name, self.folder / "run" / f"{name}.json", self.folder / "logs" / f"{name}.log")

    @property
    def namesrv_addr(self) -> str:
        """The name servers, as clients take them."""
        return ";".join(member.address for member in self.members if member.kind is Kind.NAMESRV)

    @property
    def brokers(self) -> list[Member]:
        """The brokers among the members."""
        return [member for member in self.members if member.kind is Kind.BROKER]

    # --- start and stop ----------------------------------------------------------------------------------------------------

    async def start(self, names: Sequence[str]) -> list[str]:
        """Start members that do not run, servers first and then all brokers at once; return the names of those started.

        Raises:
            CliError: one of them did not start; those that this call started were stopped again.
        """
        wanted = [member for member in self.members if member.name in names]
        stopped = [member for member in wanted if self.process(member.name).state is State.STOPPED]
        self._check_ports(stopped)
        started: list[str] = []
        try:
            for group in ([Kind.CONTROLLER], [Kind.NAMESRV], [Kind.BROKER]):
                members = [member for member in stopped if member.kind in group]
                started += [member.name for member in members]
                results = await asyncio.gather(*map(self._start_member, members), return_exceptions=True)
                for result in results:
                    if isinstance(result, BaseException):
                        raise result
        except BaseException:
            await self.stop(started)
            raise
        return started

    async def _start_member(self, member: Member) -> None:
        command = [member.kind.value, "start", "-c", str(_config_path(self.folder, member.name))]
        await self.process(member.name).start(command, START_SECONDS)

    def _check_ports(self, members: Sequence[Member]) -> None:
        """Refuse before anything is started: half a cluster would be harder to understand."""
        for member in members:
            for port in member.ports:
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    try:
                        probe.bind((LOOPBACK, port))
                    except OSError as error:
                        raise CliError(
                            f"{member.name} needs port {port}: {error.strerror}. Nothing was started",
                            next_step="Stop what uses it, or take other ports: rmq-py cluster up ... --base-port 20000",
                        ) from None

    async def stop(self, names: Sequence[str]) -> list[str]:
        """End members, brokers before servers: SIGTERM, and SIGKILL for what does not end by itself; return who ran."""
        ended: list[str] = []
        for kinds in ([Kind.BROKER], [Kind.CONTROLLER, Kind.NAMESRV]):
            members = [member.name for member in self.members if member.kind in kinds and member.name in names]
            running = [name for name in members if self.process(name).send(signal.SIGTERM)]
            for name in running:
                # A paused process hears SIGTERM when it goes on.
                self.process(name).send(signal.SIGCONT)
            gone = await asyncio.gather(*(self.process(name).ended(STOP_SECONDS) for name in running))
            for name, is_gone in zip(running, gone, strict=True):
                if not is_gone:
                    await self.kill(name)
            ended += running
        return ended

    async def kill(self, name: str) -> bool:
        """End a member at once, by SIGKILL; tell whether it ran."""
        process = self.process(name)
        if not process.send(signal.SIGKILL):
            return False
        if not await process.ended(STOP_SECONDS):
            raise CliError(f"{name} does not end, not even by SIGKILL: it waits for a device")
        return True

    # --- what goes on ------------------------------------------------------------------------------------------------------

    async def wait_until_registered(self, seconds: float = REGISTRATION_SECONDS) -> None:
        """Return when the name servers know every broker that runs, and each controlled group has a master.

        Raises:
            CliError: they do not within the limit; says who is missing.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        async with self._admin() as admin:
            while missing := await self._missing(admin):
                if loop.time() > deadline:
                    raise CliError(
                        f"after {seconds:g} s the name server {self.namesrv_addr} does not know {', '.join(missing)}",
                        next_step=f"The processes run; see what they say: rmq-py cluster logs --dir {self.folder}",
                    )
                await asyncio.sleep(0.05)

    async def _missing(self, admin: AdminClient) -> list[str]:
        running = [member for member in self.brokers if self.process(member.name).state is State.RUNNING]
        try:
            known = (await admin.cluster.cluster_info()).broker_addr_table
        except (RemotingError, ClientError):
            return [member.name for member in running]
        missing = []
        for member in running:
            addresses = known[member.broker_name].broker_addrs if member.broker_name in known else {}
            if member.address not in addresses.values():
                missing.append(member.name)
            elif member.broker_id < 0 and 0 not in addresses:
                missing.append(f"{member.broker_name} with a master")
        return missing

    async def status(self) -> list[MemberStatus]:
        """Ask every member; one that does not answer within `ASK_SECONDS` is shown as such."""
        async with self._admin() as admin:
            found, in_sync = await asyncio.gather(
                asyncio.gather(*(self._ask(admin, member) for member in self.members)), self._ask_in_sync()
            )
        ends = {
            status.broker_name: status.end for status in found if status.role.endswith("MASTER") and status.end >= 0
        }
        return [
            replace(
                _with_distance(status, ends.get(status.broker_name, -1)),
                is_in_sync=status.address in in_sync[status.broker_name] if status.broker_name in in_sync else None,
            )
            for status in found
        ]

    async def _ask_in_sync(self) -> Mapping[str, frozenset[str]]:
        """Ask the controllers which brokers, by address, are in the sync-state set of which broker name."""
        controllers = [member.ports[-1] for member in self.members if member.holds_controller]
        if not controllers:
            return {}
        client = RemotingClient(SystemClock())
        try:
            async with asyncio.timeout(2 * ASK_SECONDS):
                admin = ControllerAdmin(client, SystemClock(), ";".join(f"{LOOPBACK}:{port}" for port in controllers))
                groups = await admin.sync_state(sorted({member.broker_name for member in self.members} - {""}))
        except (RocketMQError, OSError, TimeoutError):
            return {}
        finally:
            await client.close()
        return {
            name: frozenset(replica.broker_address for replica in group.in_sync_replicas)
            for name, group in groups.items()
        }

    async def _ask(self, admin: AdminClient, member: Member) -> MemberStatus:
        process = self.process(member.name)
        state, pid = process.state, process.pid or 0
        info: Mapping[str, str] = {}
        is_answering = False
        if state is not State.STOPPED:
            with contextlib.suppress(RocketMQError, OSError, TimeoutError):
                async with asyncio.timeout(ASK_SECONDS):
                    info = await self._info(admin, member)
                is_answering = True
        return MemberStatus(
            name=member.name,
            kind=member.kind.value,
            broker_name=member.broker_name,
            broker_id=int(info.get("brokerId", member.broker_id)),
            role=info.get("brokerRole", ""),
            address=member.address,
            state=state.value,
            pid=pid,
            is_answering=is_answering,
            end=int(info.get("commitLogMaxOffset", -1)),
            behind=-1,
        )

    async def _info(self, admin: AdminClient, member: Member) -> Mapping[str, str]:
        if member.kind is Kind.NAMESRV:
            return {"": str(await admin.cluster.namesrv_config(member.address))}
        if member.kind is Kind.CONTROLLER:
            _, writer = await asyncio.open_connection(LOOPBACK, member.ports[0])
            writer.close()
            return {}
        config, info = await asyncio.gather(
            admin.cluster.broker_config(member.address), admin.cluster.runtime_info(member.address)
        )
        return {**info, "brokerId": config["brokerId"], "brokerRole": config["brokerRole"]}

    def _admin(self) -> AdminClient:
        return AdminClient(ClientConfig(namesrv_addr=self.namesrv_addr))


def _with_distance(status: MemberStatus, end_of_master: int) -> MemberStatus:
    if status.role != "SLAVE" or status.end < 0 or end_of_master < 0:
        return status
    return replace(status, behind=max(0, end_of_master - status.end))


def _config_path(folder: Path, name: str) -> Path:
    return folder / "conf" / f"{name}.properties"
