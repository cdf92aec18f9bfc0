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

    def load(self) -> None:
        """Open the files that are there.

        Raises:
            StoreCorruptError: the names leave a gap or do not fit the file size.
            StoreError: a file has another size.
        """
        files = self._environment.files
        files.make_directories(self.folder)
        for name in files.list_directory(self.folder):
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
            if files.stat(path).size == 0 and self.mapped_files:
                # Allocated ahead by a process that was killed before it could reserve the space.
                files.unlink(path)
                logger.warning("%s was empty and has been removed", path)
                continue
            self.mapped_files.append(self._open(start))

    def _open(self, start: int) -> MappedFile:
        path = os.path.join(self.folder, file_name(start))
        return MappedFile(self._environment.files, path, start, self.file_size, self._mode, self._warm)

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
                file = self._open(begin)
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
        try:
            file = await self._environment.run_blocking(self._open_durably, start)
        except OSError as error:
            # Not a failure yet: whoever needs the file tries again and says what is wrong.
            logger.warning("the next file of %s could not be allocated ahead: %s", self.folder, error)
            return
        if start == self.end and self._ahead is None:
            self._ahead = file
        else:
            file.close()

    def _open_durably(self, start: int) -> MappedFile:
        file = self._open(start)
        self._environment.files.sync_directory(self.folder)
        return file

    def truncate(self, offset: int) -> None:
        """Drop the files that begin at or behind `offset` and clear the rest of the file that holds it. Blocks.

        The rest is zeroed and flushed, so that no old record behind the new end can ever look valid.
        """
        while self.mapped_files and self.mapped_files[-1].start >= offset and len(self.mapped_files) > 1:
            self.mapped_files.pop().destroy()
        file = self.find(offset) or (self.mapped_files[0] if self.mapped_files else None)
        if file is None:
            return
        position = max(offset - file.start, 0)
        zeros = bytes(1 << 16)
        while position < file.size:
            count = min(len(zeros), file.size - position)
            # Pages that are zero already need no write: most of a file behind the end was never touched.
            if bytes(file.read(position, count)) != zeros[:count]:
                file.write(zeros[:count], position)
            position += count
        file.flush()

    def delete_first(self) -> MappedFile:
        """Delete the first file and return it, closed. Blocks."""
        file = self.mapped_files.pop(0)
        file.destroy()
        return file

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
