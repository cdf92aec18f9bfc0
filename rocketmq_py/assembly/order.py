"""Stage 12: locks on queues, for consumers that must not overlap."""

from __future__ import annotations

import asyncio

from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.broker.client.rebalance_lock_manager import LOCK_SECONDS, RebalanceLockManager
from rocketmq_py.broker.processor.queue_lock import QueueLockProcessor
from rocketmq_py.remoting.processors import Processors


def install(kernel: Kernel) -> None:
    """Add the table of locks and its requests."""
    locks = kernel.provide(RebalanceLockManager())
    QueueLockProcessor(locks).register(kernel.get(Processors))
    kernel.periodic.every(LOCK_SECONDS, lambda: locks.sweep(asyncio.get_running_loop().time()), "sweep queue locks")
