"""A name server and a broker of ours on the loop of a lab, at ports of their own, for programs of others to talk to."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.assembly.stages import build_broker
from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.common.environment import system_environment
from rocketmq_py.namesrv.config import NamesrvConfig
from rocketmq_py.namesrv.server import Namesrv
from rocketmq_py.store.config import MessageStoreConfig

from .java_tools import free_port


@dataclass(slots=True)
class OurServers:
    """What a lab needs to know of them.

    Attributes:
        namesrv: address of the name server.
        broker: address of the broker.
        kernel: the broker's parts.
    """

    namesrv: str
    broker: str
    kernel: Kernel


@contextlib.asynccontextmanager
async def our_servers(
    folder: Path,
    broker_name: str = "broker-a",
    tls: dict[str, Any] | None = None,
    store: dict[str, Any] | None = None,
    **settings: Any,
) -> AsyncIterator[OurServers]:
    """Run both for the time of a `with` block.

    Args:
        folder: for their files.
        broker_name: the broker's name.
        tls: fields of `TlsSettings`, for both.
        store: further settings of the broker's store.
        settings: further settings of the broker.
    """
    environment = system_environment()
    tls = tls or {}
    kv_config = str(folder / "namesrv" / "kvConfig.json")
    namesrv = Namesrv(NamesrvConfig(listen_port=0, kv_config_path=kv_config, **tls), environment)
    await namesrv.start()
    try:
        kernel = build_broker(
            BrokerConfig(
                broker_name=broker_name, listen_port=free_port(), namesrv_addr=namesrv.address, **tls, **settings
            ),
            MessageStoreConfig(
                store_path_root_dir=str(folder / broker_name),
                mapped_file_size_commit_log=16 << 20,
                max_hash_slot_num=50_000,
                max_index_num=200_000,
                **(store or {}),
            ),
            environment,
        )
        await kernel.start()
        try:
            yield OurServers(namesrv.address, kernel.config.broker_address, kernel)
        finally:
            await kernel.stop()
    finally:
        await namesrv.stop()
