"""A cut of a running store: the log ends earlier, and everything that was derived from the bytes behind goes with them.

    log          cleared and flushed first: after a crash no old record comes back, whatever else was done
    block checks, flushed position, checkpoint marks
    queues, index, then dispatch goes on at the cut (or where the index was cut)
    timers       what was taken in from records that are gone
    what the gate believes to be flushed or replicated

Nobody writes meanwhile: this broker is a slave that is about to copy its master's log, or a master that begins. On the
loop it blocks for as long as clearing the tail takes; with `allAckInSyncStateSet` the tail is what nobody acknowledged.

Source: `AutoSwitchHAService#truncateInvalidMsg`, `DefaultMessageStore#truncateFiles`, RocketMQ 5.3.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from rocketmq_py.common.environment import Environment
from rocketmq_py.store.ack import AcknowledgementGate
from rocketmq_py.store.block_checks import BlockChecks
from rocketmq_py.store.bookkeeping import Bookkeeping
from rocketmq_py.store.derived_manifest import DerivedIndex, index_of
from rocketmq_py.store.flush import FlushService
from rocketmq_py.store.message_store import MessageStore
from rocketmq_py.store.set_aside import set_aside
from rocketmq_py.store.tick import Tick

logger = logging.getLogger(__name__)

#: A tail that is longer is cut without a copy; it would be hours of messages that no producer was told were kept.
MAX_SET_ASIDE = 256 << 20


class StoreCut:
    """Cuts one store.

    Args:
        environment: files and blocking calls.
        store: what is cut.
        flush: forces the log to disk, and must not do it meanwhile.
        tick: what it hides is forgotten.
        gate: what it believes is corrected.
        checks: checks of bytes behind the cut go.
        bookkeeping: what it would write is corrected.

    Attributes:
        derived: called with the offset after log and queues were cut, for what else was derived from the log.
        cuts: how often something was cut off.
    """

    def __init__(
        self,
        environment: Environment,
        store: MessageStore,
        flush: FlushService,
        tick: Tick,
        gate: AcknowledgementGate,
        checks: BlockChecks,
        bookkeeping: Bookkeeping,
    ) -> None:
        self.derived: list[Callable[[int], Awaitable[None]]] = []
        self.cuts = 0
        self._environment = environment
        self._store = store
        self._flush = flush
        self._tick = tick
        self._gate = gate
        self._checks = checks
        self._bookkeeping = bookkeeping

    async def cut(self, offset: int, reason: str) -> None:
        """Make the log end at an offset, the border of a record. The bytes behind are kept in `cut/`.

        Args:
            offset: the new end.
            reason: for the log.
        """
        store, log = self._store, self._store.commit_log
        end, root = log.max_offset, store.config.root_dir
        if offset >= end:
            return
        path = ""
        if end - offset <= MAX_SET_ASIDE:
            path = await self._environment.run_blocking(set_aside, self._environment.files, root, log, offset, end)
        logger.warning(
            "the log is cut at %d, %d bytes before its end: %s%s",
            offset,
            end - offset,
            reason,
            f"; they are kept in {path}" if path else "",
        )
        # What is to be cut is on disk or not; what stays must be, before the end moves.
        await self._flush.flush()
        async with self._flush.lock, store.queues.flush.lock:
            self._cut(offset, end)
        self.cuts += 1
        for derived in self.derived:
            await derived(offset)
        await self._bookkeeping.write()

    def _cut(self, offset: int, end: int) -> None:
        store, log, reput = self._store, self._store.commit_log, self._store.reput
        self._checks.cut(offset)
        log.truncate(offset, end)
        self._tick.truncated(offset)
        self._gate.truncated(offset)
        self._bookkeeping.truncated(offset)
        store.queues.truncate(offset)
        reput.reput_from_offset = min(reput.reput_from_offset, offset, self._cut_index(offset))
        queue_ends = {queue.key: queue.max_offset for queue in store.queues}
        for slot in store.slots:
            slot.next_offset = queue_ends.get((slot.topic, slot.queue_id), 0)

    def _cut_index(self, offset: int) -> int:
        """Drop the index files that know records behind a cut, and return from where the index must be made again."""
        index: DerivedIndex | None = index_of(self._store)
        if index is None:
            return offset
        index.build()
        doubtful = [file.begin_physical_offset for file in index.files if file.end_physical_offset >= offset]
        if not doubtful:
            return offset
        start = min(doubtful)
        index.truncate(start)
        return max(start, self._store.commit_log.min_offset)
