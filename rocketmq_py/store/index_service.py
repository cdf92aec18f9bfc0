"""The index service: feeds index files behind the answers, and searches them from the newest to the oldest.

Two keys of a message cost as much as all the rest of a send, so keys are collected and added many at a time: when 1,024
records wait, or after a twentieth of a second. A query adds what waits first.

Source: `IndexService`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import bisect
import logging
import os
import time
from collections.abc import Coroutine
from itertools import chain
from typing import Any, Final, TypeVar

from rocketmq_py.common import sys_flag as flags
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.optional_numpy import load_numpy
from rocketmq_py.store.columns import Columns, Slot
from rocketmq_py.store.config import MessageStoreConfig
from rocketmq_py.store.index_file import IndexFile, index_file_size
from rocketmq_py.store.index_hash import KeyHasher, keys_of
from rocketmq_py.store.index_vector import MIN_KEYS, Vectors
from rocketmq_py.store.query_message import QueryOffsetResult

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

#: Records that wait before they are added at once.
BATCH_RECORDS: Final = 1_024
#: Seconds that a record waits at most.
BATCH_SECONDS: Final = 0.05
#: Digits of a file name: yyyyMMddHHmmssSSS.
NAME_DIGITS: Final = 17


class _Waiting:
    """Records whose keys are not added yet, as columns."""

    __slots__ = ("keys", "offsets", "properties", "slots", "timestamps")

    def __init__(self) -> None:
        self.slots: list[Slot] = []
        self.keys: list[tuple[bytes, ...] | None] = []
        self.properties: list[bytes] = []
        self.offsets: list[int] = []
        self.timestamps: list[int] = []

    def after(self, offset: int) -> _Waiting:
        """Return the records behind a physical offset."""
        first = bisect.bisect_right(self.offsets, offset)
        rest = _Waiting()
        rest.slots, rest.keys, rest.properties = self.slots[first:], self.keys[first:], self.properties[first:]
        rest.offsets, rest.timestamps = self.offsets[first:], self.timestamps[first:]
        return rest


class IndexService:
    """The index of a store. A dispatcher; also what recovery and queries need.

    Args:
        config: sizes; the index lies in the folder `index` of the store.
        environment: files, clock and blocking calls.

    Attributes:
        name: of the dispatcher.
        is_failed: a file could not be written; the index rests until the next start, which makes up for it.
        vectors: adds many keys at once; None until it is loaded, and for good without the extra `fast`.
    """

    name = "index"

    def __init__(self, config: MessageStoreConfig, environment: Environment) -> None:
        self.is_failed = False
        self._folder = os.path.join(config.root_dir, "index")
        self._slots = config.max_hash_slot_num
        self._max_entries = config.max_index_num
        self._environment = environment
        self._files: list[IndexFile] = []
        self._hasher = KeyHasher()
        self._waiting = _Waiting()
        self._timer: asyncio.TimerHandle | None = None
        self._is_damaged = False
        self._background: set[asyncio.Task[Any]] = set()
        self.vectors: Vectors | None = None
        self._asked_for_vectors = False

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
    def is_damaged(self) -> bool:
        """Whether files were found that cannot be index files, and were deleted."""
        return self._is_damaged

    @property
    def end_physical_offset(self) -> int:
        """Offset of the last record that was indexed; -1 if there is no file, 0 if files were damaged."""
        if self._files:
            return int(self._files[-1].end_physical_offset)
        return 0 if self._is_damaged else -1

    def truncate(self, physical_offset: int) -> None:
        """Drop the files that know records at or behind an offset; what they held is dispatched again. Blocks."""
        self.build()
        while self._files and self._files[-1].end_physical_offset >= physical_offset:
            self._files.pop().destroy()

    def destroy(self) -> None:
        """Delete all files. Blocks."""
        while self._files:
            self._files.pop().destroy()

    async def delete_expired(self, min_offset: int) -> int:
        """Delete the files whose records all lie before `min_offset` of the log; return how many.

        The newest file stays, since it is still written to.

        Raises:
            OSError: the file system refused; the next start finds the files that were left, and they go then.
        """
        expired: list[IndexFile] = []
        while len(self._files) > 1 and self._files[0].end_physical_offset < min_offset:
            expired.append(self._files.pop(0))
        if expired:
            await self._background_done()
            for file in expired:
                await self._environment.run_blocking(file.destroy)
        return len(expired)

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

        self._run_in_background(flush())

    def _run_in_background(self, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def _background_done(self) -> None:
        """Wait until no thread uses the files that were there when this was called."""
        await asyncio.gather(*self._background, return_exceptions=True)

    # --- dispatch ----------------------------------------------------------------------------------------------------

    def prepare(self, columns: Columns) -> None:
        """The index changes nothing that others write."""

    def apply(self, columns: Columns) -> None:
        """Take the records; their keys are added with those of others."""
        waiting, rolled_back = self._waiting, flags.TRANSACTION_ROLLBACK
        if any(flag & flags.TRANSACTION_MASK == rolled_back for flag in set(columns.sys_flags)):
            rows = [row for row, flag in enumerate(columns.sys_flags) if flag & flags.TRANSACTION_MASK != rolled_back]
            waiting.slots += [columns.slots[row] for row in rows]
            waiting.keys += [columns.keys[row] for row in rows]
            waiting.properties += [columns.properties[row] for row in rows]
            waiting.offsets += [columns.physical_offsets[row] for row in rows]
            waiting.timestamps += [columns.store_timestamps[row] for row in rows]
        else:
            waiting.slots += columns.slots
            waiting.keys += columns.keys
            waiting.properties += columns.properties
            waiting.offsets += columns.physical_offsets
            waiting.timestamps += columns.store_timestamps
        if len(waiting.offsets) >= BATCH_RECORDS:
            self.build()
        elif waiting.offsets and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(BATCH_SECONDS, self.build)

    def build(self) -> None:
        """Add the keys of all records that wait."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, _Waiting()
        if not waiting.offsets or self.is_failed:
            return
        newest = self._files[-1] if self._files else None
        if newest is not None and newest.index_count > 1 and waiting.offsets[0] <= newest.end_physical_offset:
            # Recovery dispatches records again that are in the index already.
            waiting = waiting.after(newest.end_physical_offset)
        try:
            self._add(waiting)
        except OSError as error:
            self.is_failed = True
            logger.error("the index in %s cannot be written (%s); it rests until the next start", self._folder, error)

    def _add(self, waiting: _Waiting) -> None:
        found = [
            keys_of(properties) if known is None else known
            for known, properties in zip(waiting.keys, waiting.properties, strict=True)
        ]
        keys, counts = list(chain.from_iterable(found)), list(map(len, found))
        if len(keys) >= MIN_KEYS:
            if self.vectors is None:
                self._load_vectors_soon()
            elif self._add_vectors(self.vectors, waiting, keys, counts):
                return
        rows = [row for row, count in enumerate(counts) for _ in range(count)]
        hash_key = self._hasher.hash
        self._put(
            [hash_key(waiting.slots[row].topic_bytes, key) for row, key in zip(rows, keys, strict=True)],
            [waiting.offsets[row] for row in rows],
            [waiting.timestamps[row] for row in rows],
        )

    def _add_vectors(self, vectors: Vectors, waiting: _Waiting, keys: list[bytes], counts: list[int]) -> bool:
        """Add keys by columns; false, with nothing done, if one of them is not ASCII."""
        times = vectors.column(counts)
        hashes = vectors.hash(self._prefixes(waiting.slots), times, keys)
        if hashes is None:
            return False
        offsets, timestamps = vectors.repeat(waiting.offsets, times), vectors.repeat(waiting.timestamps, times)
        at = 0
        while at < len(hashes):
            at += self._open_file().put_vector(vectors, hashes[at:], offsets[at:], timestamps[at:])
        return True

    def _prefixes(self, slots: list[Slot]) -> list[int]:
        """Return the hash of each record's `topic#`."""
        prefixes = {slot: self._hasher.prefix(slot.topic_bytes) for slot in set(slots)}
        return [prefixes[slot] for slot in slots]

    def _load_vectors_soon(self) -> None:
        """Load numpy in a thread, unless that was asked for before."""
        if self._asked_for_vectors:
            return
        self._asked_for_vectors = True

        async def load() -> None:
            numpy = await self._environment.run_blocking(load_numpy)
            self.vectors = Vectors(numpy) if numpy is not None else None

        self._run_in_background(load())

    def _put(self, hashes: list[int], offsets: list[int], timestamps: list[int]) -> None:
        at = 0
        while at < len(hashes):
            at += self._open_file().put(hashes[at:], offsets[at:], timestamps[at:])

    def _open_file(self) -> IndexFile:
        return self._files[-1] if self._files and not self._files[-1].is_full else self._next_file()

    # --- queries -----------------------------------------------------------------------------------------------------

    async def query_offset(self, topic: str, key: str, max_num: int, begin: int, end: int) -> QueryOffsetResult:
        """Return where records with this key may lie, newest first.

        Args:
            topic: of the record.
            key: a unique key, or one of KEYS.
            max_num: at most.
            begin, end: store times in ms, both included, to the second.
        """
        self.build()
        if not self._files:
            return QueryOffsetResult()
        newest = self._files[-1]
        key_hash = self._hasher.hash(topic.encode(), key.encode())
        search = self._environment.run_blocking(self._search, list(self._files), key_hash, max_num, begin, end)
        # Shielded: the thread of a search that nobody waits for any more still reads the files.
        offsets = await asyncio.shield(self._run_in_background(search))
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
        await self._background_done()
        files, self._files = self._files, []
        for file in files:
            try:
                await self._environment.run_blocking(file.flush)
            except OSError as error:
                logger.error("index file %s could not be flushed: %s", file.path, error)
            file.close()

    def __repr__(self) -> str:
        return f"<IndexService {self._folder} {len(self._files)} files, {len(self._waiting.offsets)} records wait>"
