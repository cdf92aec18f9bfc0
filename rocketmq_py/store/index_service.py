"""The index service: feeds index files behind the answers, and searches them from the newest to the oldest.

Two keys of a message cost as much as all the rest of a send, so keys are collected and added many at a time: when 128
records wait, or after a few milliseconds. A query adds what waits first.

Source: `IndexService`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import Final

from rocketmq_py.common import sys_flag as flags
from rocketmq_py.common.environment import Environment
from rocketmq_py.store.columns import Columns
from rocketmq_py.store.config import MessageStoreConfig
from rocketmq_py.store.index_file import IndexFile, index_file_size
from rocketmq_py.store.index_hash import KeyHasher, keys_of
from rocketmq_py.store.query_message import QueryOffsetResult

logger = logging.getLogger(__name__)

#: Records that wait before they are added at once.
BATCH_RECORDS: Final = 128
#: Seconds that a record waits at most.
BATCH_SECONDS: Final = 0.005
#: Digits of a file name: yyyyMMddHHmmssSSS.
NAME_DIGITS: Final = 17

_Row = tuple[bytes, bytes, int, int]


class IndexService:
    """The index of a store. A dispatcher; also what recovery and queries need.

    Args:
        config: sizes; the index lies in the folder `index` of the store.
        environment: files, clock and blocking calls.

    Attributes:
        name: of the dispatcher.
        is_failed: a file could not be written; the index rests until the next start, which makes up for it.
    """

    name = "index"

    def __init__(self, config: MessageStoreConfig, environment: Environment) -> None:
        self.is_failed = False
        self._folder = os.path.join(config.root_dir, "index")
        self._slots = config.max_hash_slot_num
        self._max_entries = config.max_index_num
        self._max_results = config.max_msgs_num_batch
        self._environment = environment
        self._files: list[IndexFile] = []
        self._hasher = KeyHasher()
        self._waiting: list[_Row] = []
        self._timer: asyncio.TimerHandle | None = None
        self._is_damaged = False
        self._flushes: set[asyncio.Task[None]] = set()

    # --- files -------------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Open the files. One that cannot be an index file is deleted with all younger ones; recovery makes them anew.

        Blocks.
        """
        files = self._environment.files
        files.make_directories(self._folder)
        size = index_file_size(self._slots, self._max_entries)
        for name in files.list_directory(self._folder):
            path = os.path.join(self._folder, name)
            if not name.isdigit():
                logger.warning("%s is no index file and was ignored", path)
                continue
            found = files.stat(path).size
            if not self._is_damaged and found == size:
                file = IndexFile(files, path, self._slots, self._max_entries)
                if file.index_count <= file.max_entries and file.end_physical_offset >= file.begin_physical_offset:
                    self._files.append(file)
                    continue
                file.close()
            logger.error(
                "index file %s is damaged (%d bytes, expected %d) and is made again from the log", path, found, size
            )
            self._is_damaged = True
            files.unlink(path)

    @property
    def files(self) -> list[IndexFile]:
        """The open files, oldest first."""
        return list(self._files)

    def names(self) -> list[str]:
        """Return the names of the files, oldest first."""
        return [os.path.basename(file.path) for file in self._files]

    @property
    def end_physical_offset(self) -> int:
        """Offset of the last record that was indexed; -1 if there is no file, 0 if files were damaged."""
        if self._files:
            return int(self._files[-1].end_physical_offset)
        return 0 if self._is_damaged else -1

    def truncate(self, physical_offset: int) -> None:
        """Drop the files that know records at or behind an offset; what they held is dispatched again. Blocks."""
        while (
            self._files and self._files[-1].index_count > 1 and self._files[-1].end_physical_offset >= physical_offset
        ):
            self._files.pop().destroy()
            self._is_damaged = True

    def destroy(self) -> None:
        """Delete all files. Blocks."""
        while self._files:
            self._files.pop().destroy()

    def delete_expired(self, min_offset: int) -> int:
        """Delete the files whose records all lie before `min_offset` of the log; return how many. Blocks.

        The newest file stays, since it is still written to.
        """
        count = 0
        while len(self._files) > 1 and self._files[0].end_physical_offset < min_offset:
            self._files.pop(0).destroy()
            count += 1
        return count

    def _next_file(self) -> IndexFile:
        name = self._name_now()
        path = os.path.join(self._folder, name)
        file = IndexFile(self._environment.files, path, self._slots, self._max_entries)
        if self._files:
            last = self._files[-1]
            file.begin_after(last.end_timestamp, last.end_physical_offset)
            self._flush_soon(last)
        self._files.append(file)
        return file

    def _name_now(self) -> str:
        wall_ms = self._environment.clock.wall_ms()
        name = time.strftime("%Y%m%d%H%M%S", time.localtime(wall_ms // 1000)) + f"{wall_ms % 1000:03d}"
        last = os.path.basename(self._files[-1].path) if self._files else ""
        # Sorted names are the order of the files, also when two are made within a millisecond.
        return name if name > last else f"{int(last) + 1:0{NAME_DIGITS}d}"

    def _flush_soon(self, file: IndexFile) -> None:
        async def flush() -> None:
            try:
                await self._environment.run_blocking(file.flush)
            except OSError as error:
                logger.error("index file %s could not be flushed: %s", file.path, error)

        task = asyncio.get_running_loop().create_task(flush())
        self._flushes.add(task)
        task.add_done_callback(self._flushes.discard)

    # --- dispatch ----------------------------------------------------------------------------------------------------

    def prepare(self, columns: Columns) -> None:
        """The index changes nothing that others write."""

    def apply(self, columns: Columns) -> None:
        """Take the records; their keys are added with those of others."""
        waiting = self._waiting
        for row, sys_flag in enumerate(columns.sys_flags):
            if sys_flag & flags.TRANSACTION_MASK != flags.TRANSACTION_ROLLBACK and columns.properties[row]:
                waiting.append(
                    (
                        columns.slots[row].topic_bytes,
                        columns.properties[row],
                        columns.physical_offsets[row],
                        columns.store_timestamps[row],
                    )
                )
        if len(waiting) >= BATCH_RECORDS:
            self.build()
        elif waiting and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(BATCH_SECONDS, self.build)

    def build(self) -> None:
        """Add the keys of all records that wait."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        rows, self._waiting = self._waiting, []
        if not rows or self.is_failed:
            return
        done = self._files[-1].end_physical_offset if self._files and self._files[-1].index_count > 1 else -1
        hashes: list[int] = []
        offsets: list[int] = []
        timestamps: list[int] = []
        hash_key = self._hasher.hash
        for topic, properties, offset, timestamp in rows:
            # Recovery dispatches records again that are in the index already.
            if offset <= done:
                continue
            for key in keys_of(properties):
                hashes.append(hash_key(topic, key))
                offsets.append(offset)
                timestamps.append(timestamp)
        try:
            self._put(hashes, offsets, timestamps)
        except OSError as error:
            self.is_failed = True
            logger.error("the index in %s cannot be written (%s); it rests until the next start", self._folder, error)

    def _put(self, hashes: list[int], offsets: list[int], timestamps: list[int]) -> None:
        at = 0
        while at < len(hashes):
            file = self._files[-1] if self._files and not self._files[-1].is_full else self._next_file()
            at += file.put(hashes[at:], offsets[at:], timestamps[at:])

    # --- queries -----------------------------------------------------------------------------------------------------

    async def query_offset(self, topic: str, key: str, max_num: int, begin: int, end: int) -> QueryOffsetResult:
        """Return where records with this key may lie, newest first.

        Args:
            topic: of the record.
            key: a unique key, or one of KEYS.
            max_num: at most; 64 in any case (`maxMsgsNumBatch`).
            begin, end: store times in ms, both included, to the second.
        """
        self.build()
        if not self._files:
            return QueryOffsetResult()
        newest = self._files[-1]
        offsets = await self._environment.run_blocking(
            self._search,
            list(self._files),
            self._hasher.hash(topic.encode(), key.encode()),
            min(max_num, self._max_results),
            begin,
            end,
        )
        return QueryOffsetResult(offsets, newest.end_timestamp, newest.end_physical_offset)

    @staticmethod
    def _search(files: list[IndexFile], key_hash: int, max_num: int, begin: int, end: int) -> list[int]:
        found: list[int] = []
        for file in reversed(files):
            if file.overlaps(begin, end):
                found += file.find(key_hash, max_num - len(found), begin, end)
            if file.begin_timestamp < begin or len(found) >= max_num:
                break
        return found

    async def close(self) -> None:
        """Add what waits, force the files to disk and close them."""
        self.build()
        await asyncio.gather(*self._flushes)
        files, self._files = self._files, []
        for file in files:
            await self._environment.run_blocking(file.flush)
            file.close()

    def __repr__(self) -> str:
        return f"<IndexService {self._folder} {len(self._files)} files, {len(self._waiting)} records wait>"
