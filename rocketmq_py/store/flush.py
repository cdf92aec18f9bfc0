"""The flush service: moves `flushed_offset` forward, in a thread, and tells who waits for it.

Asynchronous flush runs every `flushIntervalCommitLog` (500 ms) whatever the amount, so that a power cut takes at most a
second. Synchronous flush runs as soon as a put waits, again and again while any does: one `fdatasync` takes everything
that was appended before it began, so a hundred waiting puts cost one (group commit).

Source: `FlushRealTimeService`, `GroupCommitService`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Final

from rocketmq_py.common.environment import Environment
from rocketmq_py.store.commit_log import CommitLog
from rocketmq_py.store.config import FlushDiskType, MessageStoreConfig

logger = logging.getLogger(__name__)

#: With asynchronous flush, puts wait when the oldest unflushed byte is older than this many seconds: the promise that a
#: power cut takes at most a second of acknowledged messages cannot be kept otherwise.
MAX_UNFLUSHED_SECONDS: Final = 0.9


class FlushService:
    """Flushes the commit log of one broker.

    Attributes:
        flushes: how often the log was forced to disk.
        listeners: called on the loop with the flushed offset after each flush.
    """

    def __init__(self, log: CommitLog, config: MessageStoreConfig, environment: Environment) -> None:
        self.flushes = 0
        self.listeners: list[Callable[[int], None]] = []
        self.is_sync = config.flush_disk_type is FlushDiskType.SYNC_FLUSH
        self._interval = config.flush_interval_commit_log / 1000
        #: Held during a flush. Who cuts the log holds it, lest a flush that ends later claims bytes that are gone.
        self.lock = asyncio.Lock()
        self._log = log
        self._environment = environment
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_stopping = False
        self._clean_since = 0.0

    async def start(self) -> None:
        """Begin."""
        self._clean_since = asyncio.get_running_loop().time()
        self._task = asyncio.get_running_loop().create_task(self._run(), name="FlushService")

    async def stop(self) -> None:
        """Flush what is left and end."""
        self._is_stopping = True
        self._wanted.set()
        if self._task is not None:
            await self._task
            self._task = None

    def wake(self) -> None:
        """Flush now: a put waits for it."""
        self._wanted.set()

    def is_late(self) -> bool:
        """Tell whether unflushed bytes are older than asynchronous flush promises; then nothing may be acknowledged."""
        return (
            not self.is_sync
            and self._log.max_offset > self._log.flushed_offset
            and asyncio.get_running_loop().time() - self._clean_since > MAX_UNFLUSHED_SECONDS
        )

    async def flush(self) -> bool:
        """Force everything appended so far to disk.

        Returns:
            Whether it succeeded. A failure is final: the log is read-only from here on.
        """
        async with self.lock:
            return await self._flush()

    async def _flush(self) -> bool:
        log, began = self._log, asyncio.get_running_loop().time()
        # Taken before the call: what is appended while it runs may or may not be on disk when it returns.
        start, end = log.flushed_offset, log.max_offset
        if log.failure is not None:
            return False
        if end > start:
            try:
                await self._environment.run_blocking(log.flush_files, start, end)
            except OSError as error:
                # The kernel drops the dirty pages after it reported the error once: a second try would succeed and lie.
                log.fail(error)
                return False
            self.flushes += 1
            log.mark_flushed(end)
            for listener in self.listeners:
                listener(end)
        self._clean_since = began
        return True

    async def _run(self) -> None:
        while not self._is_stopping and self._log.failure is None:
            if not self._wanted.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._interval):
                        await self._wanted.wait()
            self._wanted.clear()
            await self.flush()
        await self.flush()
