"""Bookkeeping: what a running store writes down for its next start, whichever way this run ends.

    every second   block checks of what was flushed, flushed position, checkpoint
    every minute   the consume queues forced to disk; then what they hold, as checkpoint and manifest
    at the stop    the same once more; then the abort file goes

Nothing is written down before it is true: a value is taken, the flush that makes it true is awaited, then it is written.
What is written may be old, never ahead.

Source: `StoreCheckpoint` and its timers in `DefaultMessageStore`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine, Mapping
from typing import Any

from rocketmq_py.common.environment import Environment
from rocketmq_py.store.block_checks import BlockChecks
from rocketmq_py.store.checkpoint import StoreCheckpoint
from rocketmq_py.store.derived_manifest import DerivedManifest, Manifest, describe, index_of
from rocketmq_py.store.flush import FlushService
from rocketmq_py.store.flushed_position import FlushedPosition
from rocketmq_py.store.lock_file import StoreLock
from rocketmq_py.store.message_store import MessageStore
from rocketmq_py.store.recovery import Recovery
from rocketmq_py.store.run_state import RunState

logger = logging.getLogger(__name__)

#: Seconds between two writes of what is on disk.
WRITE_SECONDS = 1.0
#: Seconds after a start until the queues are forced to disk for the first time.
FIRST_SYNC_SECONDS = 5.0


class Bookkeeping:
    """Keeps the files that recovery reads up to date, and the abort file and the lock until the end.

    Args:
        environment: blocking calls.
        store: what it writes about.
        flush: forces the log to disk at the stop.
        recovery: says whether the store came up at all.
        run_state: the abort file.
        lock: the lock file.
        checkpoint: time stamps.
        position: offsets.
        checks: block checks.
        manifest: the list of queues and index files.
    """

    def __init__(
        self,
        environment: Environment,
        store: MessageStore,
        flush: FlushService,
        recovery: Recovery,
        *,
        run_state: RunState,
        lock: StoreLock,
        checkpoint: StoreCheckpoint,
        position: FlushedPosition,
        checks: BlockChecks,
        manifest: DerivedManifest,
    ) -> None:
        #: Held while the files of queues and index are listed or deleted.
        self.lock = asyncio.Lock()
        self._environment = environment
        self._store = store
        self._flush = flush
        self._recovery = recovery
        self._run_state = run_state
        self._store_lock = lock
        self._checkpoint = checkpoint
        self._position = position
        self._checks = checks
        self._manifest = manifest
        # Moments and how far dispatch had got then; each waits until the queues' files have caught up with it.
        self._marks: deque[tuple[float, int]] = deque()
        # End of the log and the store time there; waits until that is flushed.
        self._unflushed: tuple[int, int] | None = None
        self._write_lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_failing = False
        self._is_all_written = False

    # --- every second -------------------------------------------------------------------------------------------------

    async def write(self) -> None:
        """Write down how far log and queues are on disk or in the page cache.

        Cancellation: what has begun is finished, and the next call waits for it.
        """
        await self._unbroken(self._write())

    async def _unbroken(self, work: Coroutine[Any, Any, None]) -> None:
        # A thread that writes cannot be stopped half-way, and the next must not write the same files beside it.
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.shield(task)

    async def _write(self) -> None:
        async with self._write_lock:
            if self._recovery.is_done:
                await self._write_once()

    async def _write_once(self) -> None:
        self._note_flushed()
        self._note_queues_written()
        checks = self._checks.take_unwritten()
        try:
            await self._environment.run_blocking(self._write_files, checks)
        except OSError as error:
            self._checks.put_back(checks)
            if not self._is_failing:
                # A full disk, as a rule: what was written last time stays true, it only gets old.
                logger.error("positions and block checks could not be written (%s); it is tried again", error)
            self._is_failing = True
        else:
            self._is_failing = False

    def _write_files(self, checks: Mapping[int, tuple[int, int]]) -> None:
        # Checks first: recovery reads faster when they reach as far as the position.
        self._checks.write(checks)
        self._position.write()
        self._checkpoint.flush()

    def truncated(self, offset: int) -> None:
        """Forget what waits to be written about bytes that were cut off a running store's log."""
        self._unflushed = None
        self._marks = deque((when, min(dispatched, offset)) for when, dispatched in self._marks)

    def _note_flushed(self) -> None:
        log, stamp = self._store.commit_log, self._store.queues.last_store_timestamp
        if self._unflushed is not None and self._unflushed[0] <= log.flushed_offset:
            self._checkpoint.physic_msg_timestamp = max(self._checkpoint.physic_msg_timestamp, self._unflushed[1])
            self._unflushed = None
        if self._unflushed is None:
            self._unflushed = (log.max_offset, stamp)

    def _note_queues_written(self) -> None:
        index, marks = index_of(self._store), self._marks
        if index is not None:
            index.build()
            if index.is_failed:
                # The index stopped somewhere. The next start dispatches from the last position at which it had not.
                return
        # As the queues date their tails: 0.0 is no time.
        marks.append((asyncio.get_running_loop().time() or 1e-9, self._store.reput.reput_from_offset))
        oldest = self._store.queues.flush.oldest_tail
        while marks and (oldest is None or marks[0][0] < oldest):
            self._position.queues_written = max(self._position.queues_written, marks.popleft()[1])

    # --- every minute -------------------------------------------------------------------------------------------------

    async def sync(self) -> None:
        """Force queues and completed index files to disk, then write down what they hold; see `write`."""
        await self._unbroken(self._sync())

    async def _sync(self) -> None:
        async with self.lock:
            if self._recovery.is_done:
                await self.sync_locked()

    async def sync_locked(self) -> bool:
        """Like `sync`, for whoever holds `lock`; false if not everything could be written."""
        return await self._sync_once(with_newest_index_file=False)

    async def _sync_once(self, *, with_newest_index_file: bool) -> bool:
        if (index := index_of(self._store)) is not None:
            index.build()
        manifest = describe(self._store)
        if (extensions := self._store.queues.extensions) is not None:
            await self._environment.run_blocking(extensions.flush)
        if not await self._store.sync_queues() or not await self._sync_index(with_newest_index_file):
            return False
        synced = self._store.queues.flush.synced_timestamp
        self._checkpoint.logics_msg_timestamp = max(self._checkpoint.logics_msg_timestamp, synced)
        return await self._write_manifest(manifest)

    async def _sync_index(self, with_newest: bool) -> bool:
        index = index_of(self._store)
        if index is None or index.is_failed:
            return index is None
        files = list(index.files)
        for file in files if with_newest else files[:-1]:
            if file.end_timestamp > self._checkpoint.index_msg_timestamp:
                await self._environment.run_blocking(file.flush)
                self._checkpoint.index_msg_timestamp = file.end_timestamp
        return True

    async def _write_manifest(self, manifest: Manifest) -> bool:
        try:
            await self._environment.run_blocking(self._manifest.write, manifest)
        except OSError as error:
            logger.error("%r could not be written: %s", self._manifest, error)
            return False
        return True

    # --- at the stop --------------------------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Force everything to disk and write it down; nothing comes any more."""
        if not self._recovery.is_done:
            return
        # What waits for the flush to become visible is dispatched by it.
        is_flushed = await self._flush.flush()
        async with self.lock:
            is_synced = await self._sync_once(with_newest_index_file=True)
        self._unflushed = (self._store.commit_log.max_offset, self._store.queues.last_store_timestamp)
        self._position.is_stopped = is_flushed and is_synced and self._is_all_in_files
        await self.write()
        self._is_all_written = self._position.is_stopped and not self._is_failing

    def finish(self) -> None:
        """Remove the abort file if everything is on disk, and give the lock back; at the very end. Blocks."""
        if self._is_all_written and self._is_all_in_files:
            self._run_state.mark_stopped()
        elif self._recovery.is_done:
            logger.warning("not everything could be written; the abort file stays, and the next start looks closely")
        self._store_lock.release()

    @property
    def _is_all_in_files(self) -> bool:
        log = self._store.commit_log
        is_flushed = log.failure is None and log.flushed_offset == log.max_offset == self._position.offset
        # A replica may be stopped long before its queues have caught up with what it copied.
        is_dispatched = self._store.reput.reput_from_offset == log.max_offset
        return is_flushed and is_dispatched and not any(queue.tail for queue in self._store.queues)

    def __repr__(self) -> str:
        return f"<Bookkeeping {self._position!r} {self._checkpoint!r}>"
