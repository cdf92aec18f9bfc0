"""Stage 02: consume queues, the dispatch that fills them, and the message store as the door to all of it."""

from __future__ import annotations

import os

from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.store.commit_log import CommitLog
from rocketmq_py.store.consume_queue_store import ConsumeQueueStore
from rocketmq_py.store.dispatch import Dispatchers
from rocketmq_py.store.message_store import DEFAULT_MEMORY_BYTES, MessageStore
from rocketmq_py.store.put_message import MessagePutter
from rocketmq_py.store.queue_slot import QueueSlots
from rocketmq_py.store.reput import ReputMessageService
from rocketmq_py.store.tick import Tick


def install(kernel: Kernel) -> None:
    """Provide dispatchers, consume queues, reput and the message store."""
    config, environment = kernel.store_config, kernel.environment
    log = kernel.get(CommitLog)
    dispatchers = kernel.provide(Dispatchers())
    queues = kernel.provide(ConsumeQueueStore(config, environment))
    dispatchers.add(queues)
    reput = kernel.provide(ReputMessageService(log, dispatchers))
    kernel.get(Tick).on_visible = reput.arrived
    store = kernel.provide(
        MessageStore(
            config,
            environment,
            log,
            kernel.get(QueueSlots),
            kernel.get(MessagePutter),
            queues,
            dispatchers,
            reput,
            _memory_bytes(),
        )
    )

    async def sync() -> None:
        await store.sync_queues()

    kernel.periodic.every(queues.flush.thorough_interval, sync, "sync consume queues")


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return DEFAULT_MEMORY_BYTES
