"""A group of brokers in controller mode with its controller, in one loop: the stage for all labs about fail-over.

    async with autoswitch_lab(tmp_path, environment, brokers=3) as lab:
        master = await lab.settled()          # elected, and all three in the sync state set
        results = await lab.send("one")
        await lab.kill(master)

Every broker reaches the controller through a port of its own, so that one of them can be cut off from it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.assembly.stages import build_broker
from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.ha.controller.controller_client import ControllerClient
from rocketmq_py.broker.ha.controller.replicas_manager import ReplicasManager, Standing
from rocketmq_py.broker.registration import Registration
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.record import RecordState
from rocketmq_py.controller.broker_group import BrokerGroup
from rocketmq_py.controller.config import ControllerConfig
from rocketmq_py.controller.server import Controller
from rocketmq_py.namesrv.config import NamesrvConfig
from rocketmq_py.namesrv.server import Namesrv
from rocketmq_py.remoting.bodies.topic_config import TopicConfig
from rocketmq_py.remoting.server import RemotingServer
from rocketmq_py.sim.file_system import SimulatedFileSystem
from rocketmq_py.sim.loop import VirtualLoop
from rocketmq_py.store.commit_log import CommitLog
from rocketmq_py.store.draft import Draft
from rocketmq_py.store.ha.autoswitch.auto_switch_ha_service import AutoSwitchHAService
from rocketmq_py.store.ha.ha_client import HAClient
from rocketmq_py.store.ha.ha_service import HAService
from rocketmq_py.store.message_store import MessageStore
from rocketmq_py.store.put_result import PutMessageResult
from rocketmq_py.testing.cluster import SMALL_STORE
from rocketmq_py.testing.eventually import eventually

TOPIC = "TopicA"
GROUP = "broker-a"


class AutoSwitchLab:
    """What a lab works with.

    Attributes:
        brokers: the running brokers, by the name of their folder.
        controller: the controller; None while it is stopped.
        namesrv: the name server.
    """

    def __init__(self, folder: Path, environment: Environment, stack: AsyncExitStack) -> None:
        self.folder = folder
        self.environment = environment
        self.brokers: dict[str, Kernel] = {}
        self.controller: Controller | None = None
        self.settings: dict[str, Any] = {}
        self.config: dict[str, Any] = {}
        self.disks: dict[str, SimulatedFileSystem] = {}
        self.has_disks = False
        self._boots = 0
        self._ports: dict[str, int] = {}
        self._controller_ports: dict[str, int] = {}
        self._stack = stack

    @property
    def network(self) -> Any:
        """The simulated network."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        return loop.network

    # --- servers ------------------------------------------------------------------------------------------------------

    async def start_namesrv(self) -> None:
        """Start the name server."""
        config = NamesrvConfig(listen_port=0, kv_config_path=str(self.folder / "namesrv" / "kvConfig.json"))
        self.namesrv = Namesrv(config, self.environment)
        await self.namesrv.start()
        self._stack.push_async_callback(self.namesrv.stop)

    async def start_controller(self, **settings: Any) -> None:
        """Start the controller, or start it again."""
        config = ControllerConfig(
            controller_port=9878,
            controller_store_path=str(self.folder / "controllers"),
            scan_not_active_broker_interval=1_000,
            scan_inactive_master_interval=1_000,
            **settings,
        )
        self.controller = Controller(config, self.environment)
        await self.controller.start()
        self._stack.push_async_callback(self.controller.stop)
        for name in self._controller_ports:
            self._open_way(name)

    async def stop_controller(self) -> None:
        """Stop the controller: nobody leads, nobody answers."""
        assert self.controller is not None
        for port in self._controller_ports.values():
            self.network.unlisten(port)
        await self.controller.stop()
        self.controller = None

    def _open_way(self, name: str) -> None:
        assert self.controller is not None
        factory = self.network._listeners[self.controller.port].factory
        self.network.listen(factory, "127.0.0.1", self._controller_ports[name])

    async def start(self, name: str) -> Kernel:
        """Start a broker, or one that was stopped or killed before; it has the port that it had."""
        environment = self.environment
        if self.has_disks:
            if name not in self.disks:
                self.disks[name] = SimulatedFileSystem(environment.clock)
                self._boot(name)
            environment = replace(environment, files=self.disks[name])
        if name not in self._controller_ports:
            number = len(self._controller_ports)
            self._controller_ports[name] = 19_000 + number
            self._ports[name] = 20_000 + 10 * number
            self._open_way(name)
        address = f"127.0.0.1:{self._controller_ports[name]}"
        config = replace(
            BrokerConfig(),
            **{
                "broker_name": GROUP,
                "listen_port": self._ports[name],
                "namesrv_addr": self.namesrv.address,
                "enable_controller_mode": True,
                "controller_addr": address,
                "controller_heart_beat_timeout_mills": 4_000,
                **self.config,
            },
        )
        store_config = replace(
            SMALL_STORE,
            **{
                "store_path_root_dir": str(self.folder / name),
                "all_ack_in_sync_state_set": True,
                "min_in_sync_replicas": 2,
                **self.settings,
            },
        )
        kernel = build_broker(config, store_config, environment)
        client = kernel.get(ControllerClient)
        ask_leader = client._ask_leader

        async def ask_own_way(asked: str) -> tuple[str, bool]:
            found, is_itself = await ask_leader(asked)
            return (asked if found else ""), is_itself

        client._ask_leader = ask_own_way  # type: ignore[method-assign]
        await kernel.start()
        self.brokers[name] = kernel
        self._stack.push_async_callback(kernel.stop)
        return kernel

    async def stop(self, name: str) -> None:
        """Stop a broker in order."""
        await self.brokers.pop(name).stop()

    def _boot(self, name: str) -> None:
        self._boots += 1
        self.disks[name].write_file("/proc/sys/kernel/random/boot_id", f"boot-{self._boots}\n".encode())

    async def kill(self, name: str) -> None:
        """End a broker at once, as SIGKILL does; what it has written is there."""
        self.disks[name].kill()
        await self._end(name)

    async def cut_power(self, name: str, rng: random.Random) -> None:
        """Cut the power: of what was not flushed each sector is there or not."""
        self.disks[name].crash(rng)
        await self._end(name)
        self._boot(name)

    async def _end(self, name: str) -> None:
        """Let nothing more come from a broker whose disk is gone."""
        kernel = self.brokers.pop(name)
        manager = kernel.get(ReplicasManager)
        manager.lease.revoke()
        manager.standing = Standing.UNKNOWN
        kernel.get(HAService).close_connections("it was killed")
        link = kernel.get(HAClient).link
        if link is not None:
            link.close("it was killed")
        for connection in kernel.get(RemotingServer).connections:
            connection.abort("it was killed")
        registration = kernel.get(Registration)

        async def say_nothing(address: str) -> None:
            pass

        registration._unregister = say_nothing  # type: ignore[method-assign]
        await kernel.stop()

    def cut_from_controller(self, name: str) -> None:
        """Hold back everything between a broker and the controller."""
        self.network.cut(self._controller_ports[name])

    def heal(self, name: str) -> None:
        """Let it through again."""
        self.network.heal(self._controller_ports[name])

    # --- who is what --------------------------------------------------------------------------------------------------

    def name_of(self, kernel: Kernel) -> str:
        """Return the lab's name of a broker."""
        return next(name for name, known in self.brokers.items() if known is kernel)

    @property
    def group(self) -> BrokerGroup:
        """The group as the controller knows it."""
        assert self.controller is not None
        group = self.controller.manager.machine.state.find(GROUP)
        assert group is not None
        return group

    def masters(self) -> list[Kernel]:
        """All that take themselves for the master and have a lease."""
        return [kernel for kernel in self.brokers.values() if kernel.get(ReplicasManager).has_lease()]

    async def elected(self, *, but: Kernel | None = None, seconds: float = 30) -> Kernel:
        """Wait until a broker (another than `but`) is master and takes messages."""
        found: list[Kernel] = []

        def is_there() -> bool:
            found[:] = [kernel for kernel in self.masters() if kernel is not but]
            return bool(found)

        await eventually(is_there, seconds)
        return found[0]

    async def settled(self, count: int | None = None, *, but: Kernel | None = None, seconds: float = 30) -> Kernel:
        """Wait until there is a master and so many brokers (all that run) are in its sync state set."""
        wanted = len(self.brokers) if count is None else count
        master = await self.elected(but=but, seconds=seconds)
        await eventually(lambda: len(replication(master).state.members) == wanted, seconds)
        return master

    # --- messages -----------------------------------------------------------------------------------------------------

    def create_topic(self, kernel: Kernel, topic: str = TOPIC, queues: int = 2) -> None:
        """Make a topic on a master."""
        kernel.get(TopicConfigManager).update(
            [TopicConfig(topic_name=topic, read_queue_nums=queues, write_queue_nums=queues)]
        )

    async def put(self, kernel: Kernel, body: str, queue_id: int = 0) -> PutMessageResult:
        """Put one message at a broker, and wait for what it says."""
        now = self.environment.clock.wall_ms()
        draft = Draft(topic=TOPIC, queue_id=queue_id, body=body.encode(), born_host=bytes(8), born_timestamp=now)
        return await kernel.get(MessageStore).put_message(draft)

    def bodies(self, kernel: Kernel) -> list[str]:
        """Return the bodies of the topic in the order of the log."""
        log = kernel.get(CommitLog)
        return [
            check.record.body.decode()
            for _, check in log.scan(log.min_offset)
            if check.state is RecordState.VALID and check.record is not None and check.record.topic == TOPIC.encode()
        ]

    def read(self, kernel: Kernel, queue_id: int = 0, start: int = 0) -> list[str]:
        """Return the bodies that a consumer of one queue would see, from a queue offset on."""
        store, found = kernel.get(MessageStore), []
        for offset in range(max(store.min_offset(TOPIC, queue_id), start), store.max_offset(TOPIC, queue_id)):
            queue = store.queues.find(TOPIC, queue_id)
            assert queue is not None
            unit = queue.unit(offset)
            assert unit is not None
            _, check = next(kernel.get(CommitLog).scan(unit[0]))
            assert check.record is not None and check.record.queue_offset == offset
            found.append(check.record.body.decode())
        return found

    async def equal(self, *kernels: Kernel, seconds: float = 30) -> None:
        """Wait until logs (of all brokers that run) end at the same place, and see that they hold the same bytes."""
        wanted = list(kernels or self.brokers.values())
        await eventually(lambda: len({kernel.get(CommitLog).max_offset for kernel in wanted}) == 1, seconds)
        first, *others = [log_bytes(kernel) for kernel in wanted]
        assert all(other == first for other in others), "the logs end at the same offset and differ"


def replication(kernel: Kernel) -> AutoSwitchHAService:
    """Return a broker's replication."""
    return kernel.get(AutoSwitchHAService)


def standing(kernel: Kernel) -> Standing:
    """Return what a broker takes itself for."""
    return kernel.get(ReplicasManager).standing


def ha_port(kernel: Kernel) -> int:
    """Return a broker's port for slaves."""
    return kernel.get(HAService).port


def log_bytes(kernel: Kernel) -> bytes:
    """Return the bytes of a broker's log."""
    log, parts = kernel.get(CommitLog), []
    offset = log.min_offset
    while offset < log.max_offset:
        part = log.read_blocking(offset, min(log.max_offset - offset, log.file_size - offset % log.file_size))
        assert part
        parts.append(part)
        offset += len(part)
    return b"".join(parts)


def names_of(results: Iterable[PutMessageResult]) -> list[str]:
    """Return what puts were told."""
    return [result.status.name for result in results]


@asynccontextmanager
async def autoswitch_lab(
    folder: Path,
    environment: Environment,
    *,
    brokers: int = 3,
    has_disks: bool = False,
    config: dict[str, Any] | None = None,
    controller: dict[str, Any] | None = None,
    **store_settings: Any,
) -> AsyncIterator[AutoSwitchLab]:
    """Run a name server, a controller and brokers `a`, `b`, `c`; the first to come is the first master.

    Args:
        folder: where all files go.
        environment: of everybody.
        brokers: how many.
        has_disks: whether every broker has a simulated disk of its own, so that it can be killed.
        config: changes to the settings of every broker.
        controller: changes to the controller's.
        store_settings: changes to the settings of every store.
    """
    async with AsyncExitStack() as stack:
        lab = AutoSwitchLab(folder, environment, stack)
        lab.has_disks = has_disks
        lab.config, lab.settings = config or {}, store_settings
        await lab.start_namesrv()
        await lab.start_controller(**(controller or {}))
        for number in range(brokers):
            await lab.start("abcdefgh"[number])
            if number == 0:
                lab.create_topic(await lab.elected())
        yield lab
