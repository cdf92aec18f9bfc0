"""The commit log: every message of every topic, one after another in the order of arrival, appended only.

It is one long sequence of bytes in files of equal size. A record never spans two files: where the next one does not fit,
a blank record fills the rest. An offset in bytes therefore names a message for ever, and everything else that the store
knows about messages can be rebuilt from here.

Who writes: only the tick (`tick.py`), on the event loop; on a replica only `append_raw`. Who reads: anyone.

Source: `CommitLog`, RocketMQ 5.3.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

from rocketmq_py.common.environment import Environment
from rocketmq_py.common.record import BLANK_SIZE, RecordCheck, RecordState, check_record, encode_blank
from rocketmq_py.store.config import MessageStoreConfig
from rocketmq_py.store.errors import LogFailedError, StoreClosedError
from rocketmq_py.store.mapped_file import MappedFile
from rocketmq_py.store.mapped_file_queue import MappedFileQueue

logger = logging.getLogger(__name__)


class LogObserver:
    """Learns what happens to the log; once per tick and flush, never per message. Override what you need."""

    def appended(self, offset: int, data: bytes | memoryview) -> None:
        """`data` was appended at `offset`."""

    def flushed(self, offset: int) -> None:
        """All bytes before `offset` are on disk."""

    def truncated(self, offset: int) -> None:
        """The log now ends at `offset`, which is before where it ended."""

    def failed(self, error: OSError) -> None:
        """A write or sync failed; the log takes nothing any more."""


class CommitLog:
    """The log of one broker.

    Args:
        config: sizes and ways of writing.
        environment: files and blocking calls.
        store_host: the broker's address as records carry it, 8 or 20 bytes.

    Attributes:
        max_offset: where the next record goes, in bytes. Grows with every append.
        flushed_offset: everything before it is on disk. Only the flush service moves it.
        observers: who learns of appends and flushes.
        verify: called before old bytes (written by an earlier process) are given out, with offset and size;
            raises `StoreCorruptError` if they are not what was written. Installed by stage recovery.
        is_verified: tells whether `verify` would say yes without reading from the disk.
        failure: the error that ended writing, or None.
    """

    def __init__(self, config: MessageStoreConfig, environment: Environment, store_host: bytes) -> None:
        self.store_host = store_host
        self.file_size = config.mapped_file_size_commit_log
        self.check_crc = config.check_crc_on_recover
        self.files = MappedFileQueue(
            environment,
            config.commit_log_dir,
            self.file_size,
            config.log_write_mode,
            config.warm_maped_file_enable,
        )
        self.observers: list[LogObserver] = []
        self.verify: Callable[[int, int], None] | None = None
        self.is_verified: Callable[[int, int], bool] = lambda offset, size: True
        self.max_offset = 0
        self.flushed_offset = 0
        self.failure: OSError | None = None
        self._old_end = 0
        self._current: MappedFile | None = None
        self._is_closed = False

    # --- opening -------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Open the files. Where the log ends is not known before `truncate` was told. Blocks.

        Raises:
            StoreCorruptError: a file is missing.
            StoreError: the files have another size than configured.
        """
        self.files.load()
        self.max_offset = self.flushed_offset = self._old_end = self.files.end

    def find_end(self) -> int:
        """Return where the valid records end, by reading all of them. Blocks."""
        end = self.min_offset
        for offset, check in self.scan(self.min_offset):
            if check.state is RecordState.INVALID:
                break
            end = offset + check.size
        return end

    def scan(self, offset: int) -> Iterator[tuple[int, RecordCheck]]:
        """Yield offset and verdict of every record from `offset` on, blank ones too, up to and including an invalid one.

        Blocks while it reads. What lies behind an invalid record is for the caller to judge.
        """
        while (file := self.files.find(offset)) is not None and offset < self.max_offset:
            # Views of the map must not outlive this step: a file with views cannot be closed.
            view = file.read(0, file.size)
            try:
                check = check_record(view, offset - file.start, position=offset, check_crc=self.check_crc)
            finally:
                view.release()
            yield offset, check
            if check.state is RecordState.INVALID:
                return
            offset += check.size

    def truncate(self, offset: int, clear_to: int | None = None) -> None:
        """Make the log end at `offset`: clear and flush what lies behind it, up to `clear_to` if given. Blocks.

        The cleared bytes are on disk before anything new is appended, so that a crash brings no old record back.
        """
        offset = max(offset, self.min_offset)
        self.files.truncate(offset, clear_to)
        self.max_offset = self.flushed_offset = self._old_end = offset
        self._current = self.files.find(offset)
        for observer in self.observers:
            observer.truncated(offset)

    # --- writing -------------------------------------------------------------------------------------------------

    @property
    def is_writable(self) -> bool:
        """Whether records can be appended: open, and no write has failed."""
        return self.failure is None and not self._is_closed

    @property
    def room(self) -> int:
        """Bytes that records may take in the current file; behind them a blank record must always fit."""
        return max(self._current.end - self.max_offset - BLANK_SIZE, 0) if self._current is not None else 0

    def roll(self) -> None:
        """Close the current file with a blank record and go on in the next one.

        Raises:
            StoreFullError: the next file could not be allocated; nothing was written.
            LogFailedError: the blank record could not be written; final.
        """
        old = self._current
        begin = None if self.files.mapped_files else self.max_offset - self.max_offset % self.file_size
        # The new file first: without it the old one must stay open for smaller records.
        new = self.files.append_file(begin)
        if old is not None and self.max_offset < old.end:
            self._write(old, encode_blank(old.end - self.max_offset))
            self.max_offset = old.end
        self._current = new
        self.files.allocate_ahead()

    def append(self, data: bytes) -> None:
        """Append whole records that fit into `room`, with one write.

        Raises:
            StoreClosedError: the log was closed.
            LogFailedError: the write failed; final for this process.
        """
        if self._is_closed:
            raise StoreClosedError("the commit log is closed; start the broker again")
        if self._current is None or len(data) > self.room:
            raise ValueError(f"{len(data)} bytes do not fit into {self.room}; roll first")
        self._write(self._current, data)
        self.max_offset += len(data)

    def append_raw(self, offset: int, data: bytes | memoryview) -> None:
        """Append bytes of another broker's log, which may begin or end inside a record.

        Raises:
            ValueError: `offset` is not where this log ends.
            StoreFullError: a file could not be allocated; the bytes before it were appended.
            LogFailedError: a write failed; final.
        """
        if self.files.mapped_files and offset != self.max_offset:
            raise ValueError(f"bytes for offset {offset} do not continue a log that ends at {self.max_offset}")
        self.max_offset = offset
        while data:
            if self._current is None or self.max_offset == self._current.end:
                self._current = self.files.append_file(offset - offset % self.file_size)
                self.files.allocate_ahead()
            part = data[: self._current.end - self.max_offset]
            self._write(self._current, part)
            self.max_offset += len(part)
            data = data[len(part) :]

    def _write(self, file: MappedFile, data: bytes | memoryview) -> None:
        if self.failure is not None:
            raise LogFailedError(f"the commit log failed earlier and takes nothing any more: {self.failure}")
        offset = self.max_offset
        try:
            file.write(data, offset - file.start)
        except OSError as error:
            self.fail(error)
            raise LogFailedError(f"{file.path}: writing {len(data)} bytes failed: {error}") from error
        for observer in self.observers:
            observer.appended(offset, data)

    def fail(self, error: OSError) -> None:
        """Note that a write or sync failed: from here on the log is read-only."""
        if self.failure is None:
            self.failure = error
            logger.critical(
                "the commit log in %s failed (%s): no message is accepted any more. "
                "Check the disk, then restart the broker",
                self.files.folder,
                error,
            )
            for observer in self.observers:
                observer.failed(error)

    # --- flushing ------------------------------------------------------------------------------------------------

    def flush_files(self, start: int, end: int) -> None:
        """Force the files that hold offsets `start` to `end` to disk; for a thread. Changes no state here."""
        for file in list(self.files.mapped_files):
            if file.start < end and file.end > start:
                file.flush()

    def mark_flushed(self, offset: int) -> None:
        """Note that everything before `offset` is on disk, and tell the observers."""
        if offset > self.flushed_offset:
            self.flushed_offset = offset
            for observer in self.observers:
                observer.flushed(offset)

    # --- reading -------------------------------------------------------------------------------------------------

    @property
    def min_offset(self) -> int:
        """Offset of the oldest byte that is still there."""
        return self.files.min_offset

    def read(self, offset: int, size: int) -> memoryview | None:
        """Return a view of bytes, or None if the offset is not in the log (deleted, or not written yet).

        The view ends at the end of its file. Do not keep it across an `await`: files with views cannot be closed.

        Raises:
            StoreCorruptError: the bytes were damaged since they were written.
        """
        file = self.files.find(offset)
        if file is None or offset >= self.max_offset:
            return None
        if offset < self._old_end and self.verify is not None:
            self.verify(offset, size)
        return file.read(offset - file.start, min(size, self.max_offset - offset))

    def young_view(self, offset: int, size: int) -> memoryview | None:
        """Return a view of whole records that this process has written; None if they are older, or in two files."""
        file = self.files.find(offset)
        if file is None or offset < self._old_end or offset + size > file.end:
            return None
        return file.read(offset - file.start, size)

    def young_views(self, offsets: Sequence[int], sizes: Sequence[int]) -> list[bytes | memoryview] | None:
        """Like `young_view`, for several records in the order of the log."""
        first, last = offsets[0], offsets[-1]
        file = self.files.find(first)
        if file is None or first < self._old_end or last + sizes[-1] > file.end:
            return None
        return file.read_each(offsets, sizes)

    def read_cached(self, offset: int, size: int) -> bytes | None:
        """Return bytes if they are in memory; None if they are not, or not in the log. Never waits for the disk."""
        file = self.files.find(offset)
        if file is None or offset >= self.max_offset:
            return None
        if offset < self._old_end and not self.is_verified(offset, size):
            # To be verified where waiting is allowed, see `read_blocking`.
            return None
        return file.read_cached(offset - file.start, min(size, self.max_offset - offset))

    def read_blocking(self, offset: int, size: int) -> bytes | None:
        """Return bytes, waiting for the disk if need be; for a thread. See `read`."""
        file = self.files.find(offset)
        if file is None or offset >= self.max_offset:
            return None
        if offset < self._old_end and self.verify is not None:
            self.verify(offset, size)
        return file.read_blocking(offset - file.start, min(size, self.max_offset - offset))

    def is_old(self, offset: int) -> bool:
        """Tell whether the byte was written by an earlier process, so that it may not be in memory."""
        return offset < self._old_end

    # --- life ----------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Close the files; what was appended stays in the page cache or on disk."""
        self._is_closed = True
        self._current = None
        await self.files.close()

    async def stop(self) -> None:
        """Close; the name that the kernel calls."""
        await self.close()

    def __repr__(self) -> str:
        state = "failed" if self.failure else "closed" if self._is_closed else "open"
        return f"<CommitLog {self.min_offset}..{self.max_offset} flushed {self.flushed_offset} {state}>"
