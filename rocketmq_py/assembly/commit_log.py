"""Stage 01: the commit log, the tick that appends to it, its flush, and the gate that completes puts."""

from __future__ import annotations

from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.common.host import encode_host
from rocketmq_py.store.ack import AcknowledgementGate, Condition
from rocketmq_py.store.commit_log import CommitLog, LogObserver
from rocketmq_py.store.flush import FlushService
from rocketmq_py.store.put_hooks import PutHooks
from rocketmq_py.store.put_message import MessagePutter
from rocketmq_py.store.put_result import PutMessageStatus
from rocketmq_py.store.queue_slot import QueueSlots
from rocketmq_py.store.tick import Tick


class GateOfFailure(LogObserver):
    """Tells everyone who waits that the log has failed: their messages are in doubt, not refused."""

    def __init__(self, gate: AcknowledgementGate, tick: Tick) -> None:
        self._gate = gate
        self._tick = tick

    def failed(self, error: OSError) -> None:
        """Stop taking messages, release who waits."""
        self._tick.refuse("the commit log has failed")
        self._gate.fail()


def install(kernel: Kernel) -> None:
    """Provide log, gate, flush service, queue slots, put hooks, tick and putter."""
    environment, store_config = kernel.environment, kernel.store_config
    host = encode_host(kernel.config.broker_ip1, kernel.config.listen_port)
    log = kernel.provide(CommitLog(store_config, environment, host))
    gate = kernel.provide(AcknowledgementGate())
    flush = kernel.provide(FlushService(log, store_config, environment))
    slots = kernel.provide(QueueSlots())
    put_hooks = kernel.provide(PutHooks())
    tick = kernel.provide(Tick(log, gate, environment.clock))
    kernel.provide(MessagePutter(tick, slots, put_hooks, store_config.max_message_size))
    log.observers.append(GateOfFailure(gate, tick))

    def is_flush_waited_for() -> bool:
        """With asynchronous flush a put waits only while the flush is later than it promises to be."""
        return flush.is_sync or flush.is_late()

    def wake_flush() -> None:
        # A put may wait for something else, such as a slave: that is no reason to force every tick to disk.
        if is_flush_waited_for():
            flush.wake()

    flushed = Condition(
        "flushed",
        store_config.sync_flush_timeout / 1000,
        PutMessageStatus.FLUSH_DISK_TIMEOUT,
        is_flush_waited_for,
    )
    gate.conditions.append(flushed)
    gate.on_wait.append(wake_flush)
    tick.waits_until_flushed = flush.is_sync

    def on_flushed(offset: int) -> None:
        # The answers first: they were promised for this offset, and dispatch may take a while.
        gate.advance(flushed, offset)
        tick.flushed(offset)

    flush.listeners.append(on_flushed)
