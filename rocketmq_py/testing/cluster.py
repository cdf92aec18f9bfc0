"""A whole cluster in one process, for tests: name servers and brokers on the running loop.

    async with Cluster(folder, brokers=2) as cluster:
        async with Producer(namesrv_addr=cluster.namesrv_addr) as producer:
            await producer.send(Message.of("TopicA", b"hello"))

Files lie under `folder`. With the simulated environment the whole cluster runs in virtual time over a network in memory.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from types import TracebackType
from typing import Any

from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.assembly.stages import build_broker
from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.common.environment import Environment, system_environment
from rocketmq_py.namesrv.config import NamesrvConfig
from rocketmq_py.namesrv.server import Namesrv
from rocketmq_py.store.config import MessageStoreConfig

#: Sizes that suit a test: small files that are quickly made.
SMALL_STORE = MessageStoreConfig(
    mapped_file_size_commit_log=4 << 20,
    mapped_file_size_consume_queue=20_000,
    max_hash_slot_num=5_000,
    max_index_num=20_000,
    mapped_file_size_timer_log=520_000,
)


class Cluster:
    """Name servers and brokers.

    Args:
        folder: where the files go, one folder for each process.
        brokers: how many brokers; they are called `broker-a`, `broker-b` ...
        name_servers: how many name servers.
        through: the last stage to install; None: all.
        environment: clock, randomness, files; None: those of a real process.
        config: settings of every broker; names and addresses are filled in.
        store_config: settings of every store; its folder is filled in.
        namesrv_config: settings of every name server; port and paths are filled in.

    Attributes:
        namesrvs: the name servers.
        kernels: the brokers' parts, in the order of their names.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        brokers: int = 1,
        name_servers: int = 1,
        through: str | None = None,
        environment: Environment | None = None,
        config: BrokerConfig | None = None,
        store_config: MessageStoreConfig | None = None,
        namesrv_config: NamesrvConfig | None = None,
    ) -> None:
        self.folder = os.fspath(folder)
        self.environment = environment or system_environment()
        self.namesrvs: list[Namesrv] = []
        self.kernels: list[Kernel] = []
        self._names = [f"broker-{chr(ord('a') + number)}" for number in range(brokers)]
        self._name_servers = name_servers
        self._through = through
        self._config = config or BrokerConfig()
        self._store_config = store_config or SMALL_STORE
        self._namesrv_config = namesrv_config or NamesrvConfig()
        self._stack = contextlib.AsyncExitStack()

    @property
    def namesrv_addr(self) -> str:
        """The addresses of all name servers, as clients and brokers take them."""
        return ";".join(namesrv.address for namesrv in self.namesrvs)

    async def start(self) -> None:
        """Start the name servers, then the brokers.

        Raises:
            Exception: whatever a start raised; what had started was stopped again.
        """
        try:
            for number in range(self._name_servers):
                self.namesrvs.append(await self.start_namesrv(f"namesrv-{number}"))
            for name in self._names:
                self.kernels.append(await self.start_broker(name))
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop everything, brokers first. A second call does nothing."""
        await self._stack.aclose()

    async def __aenter__(self) -> Cluster:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    async def start_namesrv(self, name: str, port: int = 0) -> Namesrv:
        """Start one more name server, with files of its own; the cluster stops it at its end."""
        path = os.path.join(self.folder, name, "kvConfig.json")
        config = replace(self._namesrv_config, listen_port=port, kv_config_path=path)
        namesrv = Namesrv(config, self.environment)
        await namesrv.start()
        self._stack.push_async_callback(namesrv.stop)
        return namesrv

    async def start_broker(self, name: str, **settings: Any) -> Kernel:
        """Start one more broker, or one that was stopped; the cluster stops it at its end.

        Args:
            name: its broker name and the name of its folder.
            settings: changes to the broker's settings, such as `listen_port=...`.
        """
        config = replace(
            self._config, **{"broker_name": name, "listen_port": 0, "namesrv_addr": self.namesrv_addr, **settings}
        )
        store_config = replace(self._store_config, store_path_root_dir=os.path.join(self.folder, name))
        kernel = build_broker(config, store_config, self.environment, self._through)
        await kernel.start()
        self._stack.push_async_callback(kernel.stop)
        return kernel
