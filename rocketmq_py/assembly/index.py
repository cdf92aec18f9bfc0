"""Stage 03: index files, so that messages are found by key."""

from __future__ import annotations

from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.store.dispatch import Dispatchers
from rocketmq_py.store.index_service import IndexService
from rocketmq_py.store.message_store import MessageStore


def install(kernel: Kernel) -> None:
    """Provide the index as a dispatcher and as what the store asks for keys; nothing with `messageIndexEnable=false`."""
    if not kernel.store_config.message_index_enable:
        return
    index = kernel.provide(IndexService(kernel.store_config, kernel.environment))
    kernel.get(Dispatchers).add(index)
    kernel.get(MessageStore).index = index
