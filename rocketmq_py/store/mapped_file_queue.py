"""A queue of equally large files that together are one long sequence of bytes.

Files are sorted by their first offset, so the file of an offset is found by division. The file after the last is
allocated ahead of time in a thread, so that moving on to it costs nothing.

Source: `MappedFileQueue`, `AllocateMappedFileService`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import logging
import os

from rocketmq_py.common.environment import Environment
from rocketmq_py.common.file_system import make_durable_directories
from rocketmq_py.store.config import LogWriteMode
from rocketmq_py.store.errors import StoreCorruptError, StoreFullError
from rocketmq_py.store.mapped_file import NAME_DIGITS, MappedFile, file_name

logger = logging.getLogger(__name__)


class MappedFileQueue:
    """The files of one folder.

    Args:
        environment: files and blocking calls.
        folder: where the files are; created if missing.
        file_size: bytes of each.
        mode: how they are written.
        warm: touch the pages of new files.
    """

    def __init__(
        self,
        environment: Environment,
        folder: str,
        file_size: int,
        mode: LogWriteMode = LogWriteMode.PWRITE,
        warm: bool = False,
    ) -> None:
        self.folder = folder
        self.file_size = file_size
        self.mapped_files: list[MappedFile] = []
        self._environment = environment
        self._mode = mode
        self._warm = warm
        self._ahead: MappedFile | None = None
        self._allocating: asyncio.Task[None] | None = None
        self._allocating_start = -1

    def load(self) -> None:
        """Open the files that are there.

        Raises:
            StoreCorruptError: the names leave a gap or do not fit the file size.
            StoreError: a file has another size.
        """
        files = self._environment.files
        make_durable_directories(files, self.folder)
        names = files.list_directory(self.folder)
        for name in names:
            path = os.path.join(self.folder, name)
            if not (len(name) == NAME_DIGITS and name.isascii() and name.isdigit()) or files.is_directory(path):
                logger.warning("%s is no file of this queue and was ignored", path)
                continue
            start = int(name)
            expected = self.mapped_files[-1].end if self.mapped_files else start - start % self.file_size
            if start != expected:
                raise StoreCorruptError(
                    path,
                    f"a file that begins at {expected}",
                    start,
                    "A file is missing, or the store was written with another file size",
                )
            if files.stat(path).size < self.file_size and self._is_unused(path, names):
                # Allocated ahead by a process that was killed before it had reserved the space.
                files.unlink(path)
                logger.warning("%s was not yet in use and has been removed", path)
                continue
            self.mapped_files.append(self._open(start))

    def _is_unused(self, path: str, names: list[str]) -> bool:
        return os.path.basename(path) == names[-1] and not self._environment.files.read_file(path).strip(b"\0")

    def _open(self, start: int, is_shared: bool = False) -> MappedFile:
        path = os.path.join(self.folder, file_name(start))
        return MappedFile(self._environment.files, path, start, self.file_size, self._mode, self._warm, is_shared)

    @property
    def min_offset(self) -> int:
        """Offset of the first byte of the first file; 0 if there is none."""
        return self.mapped_files[0].start if self.mapped_files else 0

    @property
    def end(self) -> int:
        """Offset behind the last byte of the last file."""
        return self.mapped_files[-1].end if self.mapped_files else 0

    def find(self, offset: int) -> MappedFile | None:
        """Return the file that holds an offset, or None."""
        if not self.mapped_files:
            return None
        index = (offset - self.mapped_files[0].start) // self.file_size
        return self.mapped_files[index] if 0 <= index < len(self.mapped_files) else None

    def append_file(self, start: int | None = None) -> MappedFile:
        """Add the next file, the one that was allocated ahead if it is ready, and return it.

        Args:
            start: first offset, for the first file of an empty queue; otherwise it follows from the last file.

        Raises:
            StoreFullError: there is no space for it; nothing changed.
        """
        begin = self.end if start is None or self.mapped_files else start
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead.start == begin:
            file = ahead
        else:
            try:
                # A thread may be busy with the same file; then both fill it, and the thread's descriptor is closed.
                file = self._open(begin, is_shared=begin == self._allocating_start)
                self._environment.files.sync_directory(self.folder)
            except OSError as error:
                raise StoreFullError(
                    f"no file of {self.file_size} bytes could be allocated in {self.folder}: {error.strerror or error}"
                ) from error
        self.mapped_files.append(file)
        return file

    def allocate_ahead(self) -> None:
        """Begin to allocate the file after the last one in a thread, unless it is ready or under way."""
        if self._ahead is None and (self._allocating is None or self._allocating.done()):
            self._allocating = asyncio.get_running_loop().create_task(self._allocate(self.end))

    async def _allocate(self, start: int) -> None:
        self._allocating_start = start
        try:
            file = await self._environment.run_blocking(self._open_durably, start)
        except OSError as error:
            self._allocating_start = -1
            # Not a failure yet: whoever needs the file tries again and says what is wrong.
            logger.warning("the next file of %s could not be allocated ahead: %s", self.folder, error)
            path = os.path.join(self.folder, file_name(start))
            if start == self.end and self._environment.files.exists(path):
                self._environment.files.unlink(path)
            return
        self._allocating_start = -1
        if start == self.end and self._ahead is None:
            self._ahead = file
        else:
            file.close()

    def _open_durably(self, start: int) -> MappedFile:
        file = self._open(start, is_shared=True)
        self._environment.files.sync_directory(self.folder)
        return file

    def truncate(self, offset: int, clear_to: int | None = None) -> None:
        """Drop the files that begin at or behind `offset` and clear the rest of the file that holds it. Blocks.

        The rest is zeroed and flushed, so that no old record behind the new end can ever look valid.

        Args:
            offset: the new end.
            clear_to: all bytes from there on are known to be zero; None if nothing is known.
        """
        while self.mapped_files and self.mapped_files[-1].start >= offset and len(self.mapped_files) > 1:
            self.mapped_files.pop().destroy()
        file = self.find(offset) or (self.mapped_files[0] if self.mapped_files else None)
        if file is None:
            return
        position = max(offset - file.start, 0)
        limit = file.size if clear_to is None else min(file.size, clear_to - file.start)
        zeros = bytes(1 << 16)
        while position < limit:
            count = min(len(zeros), limit - position)
            # Pages that are zero already need no write: most of a file behind the end was never touched. Read, not
            # mapped: pages of a map that was walked through count as the process's memory.
            if file.read_blocking(position, count) != zeros[:count]:
                file.write(zeros[:count], position)
            position += count
        file.flush()

    def remove_first(self) -> MappedFile:
        """Take the first file out of the queue and return it, still open: a thread may be reading it."""
        return self.mapped_files.pop(0)

    async def close(self) -> None:
        """Close all files; one that was allocated ahead stays on disk for the next start."""
        if self._allocating is not None:
            await asyncio.gather(self._allocating, return_exceptions=True)
        if self._ahead is not None:
            self._ahead.destroy()
            self._ahead = None
        for file in self.mapped_files:
            file.close()
        self.mapped_files.clear()

    def __repr__(self) -> str:
        return f"<MappedFileQueue {self.folder} {self.min_offset}..{self.end} in {len(self.mapped_files)} files>"
