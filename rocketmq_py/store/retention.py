"""Retention: old files go, from the front, whole files at a time; what is derived from them follows.

The log's buffer is as long as the disk lasts. A file is expired when nothing was written to it for `fileReservedTime`
(72 hours), and expired files are deleted in the hour `deleteWhen` (04), or at any hour when the disk fills
(`disk_guard.py`). The file that is written to always stays.

    1 write down that the log may begin later     a crash in between must not look like a lost file
    2 take the files out of the log               readers find nothing there any more
    3 move the minima of the queues, write the list of what must be there from now on
    4 delete log files, their checks, queue files, index files

Source: `CleanCommitLogService`, `CleanConsumeQueueService` in `DefaultMessageStore`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from typing import Final

from rocketmq_py.common.environment import Environment
from rocketmq_py.store.block_checks import BlockChecks
from rocketmq_py.store.bookkeeping import Bookkeeping
from rocketmq_py.store.config import MessageStoreConfig
from rocketmq_py.store.derived_manifest import index_of
from rocketmq_py.store.disk_guard import DiskGuard, DiskLevel
from rocketmq_py.store.flushed_position import FlushedPosition
from rocketmq_py.store.mapped_file import MappedFile
from rocketmq_py.store.message_store import MessageStore

logger = logging.getLogger(__name__)

#: Seconds until the first pass after a start, as in RocketMQ.
FIRST_PASS_SECONDS: Final = 60.0
#: Seconds between taking a file out of the log and closing it: threads that were reading it are done by then.
GRACE_SECONDS: Final = 1.0
#: Passes that an operator's request makes, whatever the hour.
MANUAL_PASSES: Final = 20
_HOUR_MS: Final = 3_600_000


def is_delete_hour(delete_when: str, now_ms: int) -> bool:
    """Tell whether the local hour is one of `deleteWhen`, such as `04` or `03;15`; the whole hour counts."""
    hour = f"{time.localtime(now_ms // 1000).tm_hour:02d}"
    return hour in {part.strip().zfill(2) for part in delete_when.split(";")}


def count_expired(modified_ms: Sequence[int], now_ms: int, reserved_ms: int, limit: int, *, at_once: bool) -> int:
    """Return how many files from the front are to be deleted in one pass.

    Args:
        modified_ms: when each file that may go was last written to, oldest file first.
        now_ms: the wall clock.
        reserved_ms: how long a file is kept after that.
        limit: no more than so many.
        at_once: also files that are not expired.
    """
    count = 0
    for modified in modified_ms[:limit]:
        if not at_once and now_ms < modified + reserved_ms:
            break
        count += 1
    return count


class ClockWatch:
    """Notices a wall clock that jumped forward: for an hour then, nothing is deleted by its word.

    A clock that is set wrong, and right again within the hour, must not cost three days of messages.
    """

    def __init__(self) -> None:
        self._last: tuple[int, float] | None = None
        self._ahead_ms = 0.0
        self._trusted_from = 0.0

    def is_trusted(self, wall_ms: int, loop_seconds: float) -> bool:
        """Compare the wall clock with the time that passed; call it in every pass."""
        if self._last is not None:
            drift = (wall_ms - self._last[0]) - (loop_seconds - self._last[1]) * 1000
            if abs(drift) > _HOUR_MS:
                self._ahead_ms += drift
                if self._ahead_ms > _HOUR_MS:
                    logger.warning("the clock jumped by %.1f h; files are judged by it in an hour", drift / _HOUR_MS)
                    self._trusted_from = loop_seconds + _HOUR_MS / 1000
                else:
                    self._trusted_from = 0.0
        self._last = (wall_ms, loop_seconds)
        if loop_seconds < self._trusted_from:
            return False
        self._ahead_ms = 0.0
        return True


class CleanCommitLogService:
    """Deletes what has expired.

    Args:
        config: how long, when and how much; read anew in each pass.
        environment: files, clock and blocking calls.
        store: what it cleans.
        guard: how full the disks are.
        bookkeeping: writes down what there must be.
        position: knows where the log begins.
        checks: of the log.

    Attributes:
        deleted_files: log files deleted since the start.
        manual_passes: passes that an operator asked for and that are still to come.
    """

    def __init__(
        self,
        config: MessageStoreConfig,
        environment: Environment,
        store: MessageStore,
        guard: DiskGuard,
        bookkeeping: Bookkeeping,
        position: FlushedPosition,
        checks: BlockChecks,
    ) -> None:
        self.deleted_files = 0
        self.manual_passes = 0
        self._config = config
        self._environment = environment
        self._store = store
        self._guard = guard
        self._bookkeeping = bookkeeping
        self._position = position
        self._checks = checks
        self._clock_watch = ClockWatch()

    def delete_soon(self) -> None:
        """Delete expired files whatever the hour, as an operator asks for."""
        self.manual_passes = MANUAL_PASSES

    async def run(self) -> None:
        """Look at the disk, and delete what is to be deleted now: one pass.

        Raises:
            OSError: the file system refused; what was not deleted is tried again in the next pass.
        """
        run_blocking = self._environment.run_blocking
        level = self._guard.judge(*await run_blocking(self._guard.measure))
        now_ms = self._environment.clock.wall_ms()
        is_trusted = self._clock_watch.is_trusted(now_ms, asyncio.get_running_loop().time())
        is_manual, self.manual_passes = self.manual_passes > 0, max(self.manual_passes - 1, 0)
        at_once = level >= DiskLevel.FORCED and self._config.clean_file_forcibly_enable
        is_time = is_trusted and (
            level >= DiskLevel.USED or is_manual or is_delete_hour(self._config.delete_when, now_ms)
        )
        if not (is_time or at_once):
            return
        modified = await run_blocking(self._modified_times)
        reserved_ms = self._config.file_reserved_time * _HOUR_MS
        count = count_expired(modified, now_ms, reserved_ms, self._config.delete_file_batch_max, at_once=at_once)
        if count:
            await self._delete(count)
        elif at_once:
            logger.warning("%r: nothing is left to delete but the newest file of the log", self._guard)

    def _modified_times(self) -> list[int]:
        log, files = self._store.commit_log, self._environment.files
        # The newest file is being written to; one that a flush may be busy with waits for the next pass.
        candidates = [file for file in log.files.mapped_files[:-1] if file.end <= log.flushed_offset]
        return [files.stat(file.path).modified_ms for file in candidates]

    async def _delete(self, count: int) -> None:
        store, log, run_blocking = self._store, self._store.commit_log, self._environment.run_blocking
        async with self._bookkeeping.lock:
            new_min = log.files.mapped_files[count - 1].end
            self._position.min_offset = new_min
            await run_blocking(self._position.write)
            removed = [log.files.remove_first() for _ in range(count)]
            logger.info("%d files of the log go; it begins at %d now", count, new_min)
            try:
                needed = await store.queues.find_needed(new_min)
                await self._bookkeeping.sync_locked()
                await asyncio.sleep(GRACE_SECONDS)
                await self._destroy(removed)
            finally:
                # Of a pass that is cut short files may be left: the next start finds and deletes them.
                for file in removed:
                    with contextlib.suppress(OSError):
                        file.close()
            await run_blocking(self._checks.delete_before, new_min)
            await store.queues.delete_before(needed)
            if (index := index_of(store)) is not None:
                await index.delete_expired(new_min)

    async def _destroy(self, removed: list[MappedFile]) -> None:
        while removed:
            # The oldest first: what a crash leaves of them is still without a gap.
            await self._environment.run_blocking(removed.pop(0).destroy)
            self.deleted_files += 1
            if removed:
                await asyncio.sleep(self._config.delete_commit_log_files_interval / 1000)

    def __repr__(self) -> str:
        return f"<CleanCommitLogService {self.deleted_files} files deleted, {self._guard!r}>"
