"""A master and its slaves in one loop: the stage for all labs about replicas.

    async with ha_lab(tmp_path, environment) as lab:
        slave = await lab.start("slave-1", role=BrokerRole.SLAVE, broker_id=1)
        await lab.send("one", "two")
        await lab.copied()

Each broker has a name of its own here, which names its folder; to the cluster all of them are `broker-a`.
"""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.assembly.stages import build_broker
from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.ha.broker_role import BrokerRoles, Master
from rocketmq_py.broker.registration import Registration
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.client.config import ProducerConfig
from rocketmq_py.client.producer import Producer
from rocketmq_py.client.send_result import SendResult
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.host import join_address
from rocketmq_py.common.message import Message
from rocketmq_py.common.record import RecordState
from rocketmq_py.namesrv.config import NamesrvConfig
from rocketmq_py.namesrv.server import Namesrv
from rocketmq_py.remoting.bodies.topic_config import TopicConfig
from rocketmq_py.remoting.server import RemotingServer
from rocketmq_py.sim.file_system import SimulatedFileSystem
from rocketmq_py.store.commit_log import CommitLog
from rocketmq_py.store.config import BrokerRole, MessageStoreConfig
from rocketmq_py.store.ha.ha_client import HAClient
from rocketmq_py.store.ha.ha_service import HAService
from rocketmq_py.store.message_store import MessageStore
from rocketmq_py.testing.cluster import SMALL_STORE
from rocketmq_py.testing.eventually import eventually

TOPIC = "TopicA"
MASTER = "master"


class HaLab:
    """What a lab works with.

    Attributes:
        brokers: the running brokers by the name that the lab gave them.
        environment: clock, randomness and files that all brokers share; `start` takes another for one of them.
        namesrv: the name server.
        disks: of the brokers, by name, if each has one of its own.
    """

    def __init__(self, folder: Path, environment: Environment, namesrv: Namesrv, stack: AsyncExitStack) -> None:
        self.folder = folder
        self.environment = environment
        self.namesrv = namesrv
        self.brokers: dict[str, Kernel] = {}
        self.master_name = MASTER
        self.disks: dict[str, SimulatedFileSystem] = {}
        self.has_disks = False
        self._ports: dict[str, tuple[int, int]] = {}
        self._producer: Producer | None = None
        self._stack = stack

    # --- brokers ------------------------------------------------------------------------------------------------------

    async def start(
        self,
        name: str,
        role: BrokerRole = BrokerRole.SLAVE,
        broker_id: int = 1,
        *,
        environment: Environment | None = None,
        config: dict[str, Any] | None = None,
        follow: bool = True,
        prepare: Callable[[Kernel], None] = lambda kernel: None,
        **store_settings: Any,
    ) -> Kernel:
        """Start a broker of `broker-a`, or one that was stopped or killed before.

        Args:
            name: of its folder.
            role: what it is.
            broker_id: 0 for a master.
            environment: its own clock, randomness and files.
            config: changes to the broker's settings.
            follow: tell a slave at once where the running master is, instead of letting it ask.
            prepare: called with the broker before it starts.
            store_settings: changes to the store's settings.
        """
        broker_config = replace(
            BrokerConfig(),
            **{
                "broker_name": "broker-a",
                "broker_id": broker_id,
                "listen_port": self._ports.get(name, (0, 0))[0],
                "namesrv_addr": self.namesrv.address,
                **(config or {}),
            },
        )
        store_settings = {"ha_listen_port": self._ports.get(name, (0, 0))[1], **store_settings}
        store_config: MessageStoreConfig = replace(
            SMALL_STORE, store_path_root_dir=str(self.folder / name), broker_role=role, **store_settings
        )
        environment = environment or self.environment
        if self.has_disks:
            disk = self.disks.setdefault(name, SimulatedFileSystem(environment.clock))
            environment = replace(environment, files=disk)
        kernel = build_broker(broker_config, store_config, environment)
        prepare(kernel)
        await kernel.start()
        self.brokers[name] = kernel
        # A broker that comes back has its old addresses.
        self._ports[name] = (kernel.config.listen_port, kernel.get(HAService).port)
        self._stack.push_async_callback(kernel.stop)
        if role is BrokerRole.SLAVE and follow and self.master_name in self.brokers:
            kernel.get(BrokerRoles).set_master(self.master_address)
        return kernel

    async def kill(self, name: str) -> None:
        """End a broker at once, as SIGKILL does; it needs a disk of its own."""
        self.disks[name].kill()
        await self._end(name)

    async def cut_power(self, *names: str, keep: float = 0.0, seed: int = 7) -> None:
        """Cut the power of brokers at the same moment; of what was not flushed a part is kept, by chance."""
        for name in names:
            self.disks[name].crash(random.Random(f"{seed} {name}"), keep=keep)
        for name in names:
            await self._end(name)

    async def _end(self, name: str) -> None:
        """Let nothing more come from a broker whose disk is gone."""
        kernel = self.brokers.pop(name)
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

    async def stop(self, name: str) -> None:
        """Stop a broker in order."""
        await self.brokers.pop(name).stop()

    @property
    def master(self) -> Kernel:
        """The master."""
        return self.brokers[self.master_name]

    @property
    def slaves(self) -> list[Kernel]:
        """All that are no masters."""
        return [kernel for kernel in self.brokers.values() if kernel.store_config.broker_role is BrokerRole.SLAVE]

    @property
    def master_address(self) -> Master:
        """Where the master is, as a slave is told."""
        return Master(self.master.config.broker_address, join_address("127.0.0.1", self.ha_port))

    @property
    def ha_port(self) -> int:
        """The master's port for slaves; cut, refuse or reset it in the simulated network."""
        return self.master.get(HAService).port

    # --- messages -----------------------------------------------------------------------------------------------------

    async def producer(self) -> Producer:
        """A producer without retries, so that every answer is seen."""
        if self._producer is None:
            self._producer = Producer(
                "shop",
                ProducerConfig(
                    namesrv_addr=self.namesrv.address,
                    retry_times_when_send_failed=0,
                    # Longer than `slaveTimeout`: by default both are 3 s, and a producer may give up before it is told.
                    send_msg_timeout=10_000,
                ),
                environment=self.environment,
            )
            await self._producer.start()
            self._stack.push_async_callback(self._producer.stop)
        return self._producer

    def create_topic(self, topic: str = TOPIC, queues: int = 4) -> None:
        """Make a topic on the master."""
        self.master.get(TopicConfigManager).update(
            [TopicConfig(topic_name=topic, read_queue_nums=queues, write_queue_nums=queues)]
        )

    async def send(self, *bodies: str | bytes, topic: str = TOPIC) -> list[SendResult]:
        """Send messages one after the other and return the answers."""
        producer = await self.producer()
        return [
            await producer.send(Message.of(topic, body if isinstance(body, bytes) else body.encode()))
            for body in bodies
        ]

    # --- what became of them ------------------------------------------------------------------------------------------

    async def linked(self, count: int | None = None) -> None:
        """Wait until slaves (all that run) have reported to the master."""
        wanted = len(self.slaves) if count is None else count
        service = self.master.get(HAService)
        await eventually(lambda: sum(link.next_offset >= 0 for link in service.connections) == wanted, 30)

    async def copied(self, *slaves: Kernel) -> None:
        """Wait until slaves (all that run) have the master's log, and their queues as well."""
        end = self.master.get(CommitLog).max_offset

        def is_done() -> bool:
            return all(
                slave.get(CommitLog).max_offset >= end and slave.get(MessageStore).reput.reput_from_offset >= end
                for slave in slaves or self.slaves
            )

        await eventually(is_done, 30)

    def log_bytes(self, kernel: Kernel, start: int = 0) -> bytes:
        """Return the bytes of a broker's log from an offset to its end."""
        log, parts = kernel.get(CommitLog), []
        offset = max(start, log.min_offset)
        while offset < log.max_offset:
            part = log.read_blocking(offset, log.file_size - offset % log.file_size)
            assert part, f"no bytes at {offset} of {log!r}"
            parts.append(part)
            offset += len(part)
        return b"".join(parts)

    def bodies(self, kernel: Kernel, topic: str = TOPIC) -> list[bytes]:
        """Return the bodies of a topic in the order of the log."""
        log = kernel.get(CommitLog)
        return [
            check.record.body
            for _, check in log.scan(log.min_offset)
            if check.state is RecordState.VALID and check.record is not None and check.record.topic == topic.encode()
        ]

    def queue_files(self, name: str) -> dict[str, bytes]:
        """Return the files of a broker's queues; stop it first, so that all is written."""
        root = self.folder / name / "consumequeue"
        return {os.path.relpath(path, root): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}

    def links(self) -> Iterable[HAClient]:
        """The slaves' ends of the links."""
        return [slave.get(HAClient) for slave in self.slaves]


@asynccontextmanager
async def ha_lab(
    folder: Path,
    environment: Environment,
    *,
    slaves: int = 0,
    role: BrokerRole = BrokerRole.ASYNC_MASTER,
    config: dict[str, Any] | None = None,
    disks: bool = False,
    **store_settings: Any,
) -> AsyncIterator[HaLab]:
    """Run a name server, a master with a topic, and some slaves that are linked to it.

    Args:
        folder: where all files go.
        environment: of all brokers.
        slaves: how many; they are called `slave-1`, `slave-2` ...
        role: of the master.
        config: changes to the settings of every broker.
        disks: give every broker a simulated disk of its own, so that it can be killed or lose its power.
        store_settings: changes to the settings of every store.
    """
    async with AsyncExitStack() as stack:
        namesrv_config = NamesrvConfig(listen_port=0, kv_config_path=str(folder / "namesrv" / "kvConfig.json"))
        namesrv = Namesrv(namesrv_config, environment)
        await namesrv.start()
        stack.push_async_callback(namesrv.stop)
        lab = HaLab(folder, environment, namesrv, stack)
        lab.has_disks = disks
        await lab.start(MASTER, role, 0, config=config, **store_settings)
        lab.create_topic()
        for number in range(1, slaves + 1):
            await lab.start(f"slave-{number}", broker_id=number, config=config, **store_settings)
        await lab.linked()
        yield lab
