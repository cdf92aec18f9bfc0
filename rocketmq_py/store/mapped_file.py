"""One file of fixed size, written at its end and read through a map of the whole.

There are two ways to write. `PWRITE` (the default) copies bytes into the page cache with a system call; `MMAP`,
RocketMQ's way, copies them into the map. Both end in the same page cache, so the files are equal byte for byte and a map
shows at once what `pwrite` wrote. What differs is the price: a write through the map takes a page fault for each new page, makes
the log part of the process's memory, cannot be told "no space" except by a fatal signal, and its flush holds the
interpreter lock.

Source: `DefaultMappedFile`, RocketMQ 5.3.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence

from rocketmq_py.common.file_system import FileSystem
from rocketmq_py.store.config import LogWriteMode
from rocketmq_py.store.errors import StoreError

#: Digits of a file name: the offset of the first byte.
NAME_DIGITS = 20


def file_name(offset: int) -> str:
    """Return the name of the file whose first byte has this offset: 20 decimal digits."""
    return f"{offset:0{NAME_DIGITS}d}"


class MappedFile:
    """A pre-allocated file of `size` bytes whose first byte has the offset `start`.

    Args:
        files: the file system.
        path: the file; created and allocated if it is missing.
        start: offset of its first byte in the whole queue of files.
        size: bytes.
        mode: how to write.
        warm: touch every page of a new file, so that the first writes meet no fault.
        is_shared: the file may be in the making by a thread of this process: its space is allocated whatever size it
            has, and it is not removed on failure.

    Raises:
        OSError: it cannot be opened, or the space cannot be allocated (then nothing is left behind).
        StoreError: a file of another size lies there.
    """

    def __init__(
        self,
        files: FileSystem,
        path: str,
        start: int,
        size: int,
        mode: LogWriteMode = LogWriteMode.PWRITE,
        warm: bool = False,
        is_shared: bool = False,
    ) -> None:
        self.path = path
        self.start = start
        self.size = size
        self.mode = mode
        self._files = files
        is_new = is_shared or not files.exists(path)
        self._fd = files.open_file(path, create=True)
        try:
            if is_new:
                # Allocated in full before the first record: later there is no "no space", and what was never written
                # reads as zeros, so nothing old can look like a record.
                files.allocate(self._fd, size)
                files.fsync(self._fd)
            elif (found := files.stat(path).size) != size:
                raise StoreError(
                    f"{path} has {found} bytes, but this store is configured for files of {size}: "
                    "start with the sizes that the store was written with"
                )
            # Read-ahead would pull whole megabytes of a file whose pages are read here and there.
            self._map = files.map_file(
                self._fd, size, writable=mode is LogWriteMode.MMAP, random_access=mode is LogWriteMode.MMAP
            )
        except BaseException:
            files.close(self._fd)
            if is_new and not is_shared:
                files.unlink(path)
            raise
        self._view = memoryview(self._map)
        if is_new and warm:
            self.warm()

    @property
    def end(self) -> int:
        """Offset behind its last byte."""
        return self.start + self.size

    def write(self, data: bytes | memoryview, position: int) -> None:
        """Write all of `data` at a position within the file.

        Raises:
            OSError: the operating system refused; some of the bytes may have been written.
        """
        if self.mode is LogWriteMode.MMAP:
            self._map[position : position + len(data)] = data
            return
        written = self._files.pwrite(self._fd, data, position)
        while written < len(data):
            written += self._files.pwrite(self._fd, memoryview(data)[written:], position + written)

    def read(self, position: int, size: int) -> memoryview:
        """Return a view of bytes; no copy. The file cannot be closed while the view lives, so do not keep it."""
        return self._view[position : position + size]

    def read_each(self, offsets: Sequence[int], sizes: Sequence[int]) -> list[bytes | memoryview]:
        """Return views of several ranges, given by their offsets in the whole queue of files; see `read`."""
        view, start = self._view, self.start
        return [view[offset - start : offset - start + size] for offset, size in zip(offsets, sizes, strict=True)]

    def read_cached(self, position: int, size: int) -> bytes | None:
        """Return bytes that are in memory; None if reading them would wait for the disk."""
        return self._files.pread_cached(self._fd, size, position)

    def read_blocking(self, position: int, size: int) -> bytes:
        """Return bytes, waiting for the disk if need be; for a thread."""
        return self._files.pread(self._fd, size, position)

    def flush(self) -> None:
        """Force what was written to disk; for a thread.

        Differs from RocketMQ: `mmap.flush` would hold the interpreter lock, while `fdatasync` lets other threads run
        and writes the dirty pages of the map as well.
        """
        self._files.fdatasync(self._fd)

    def warm(self, page: int = mmap.PAGESIZE) -> None:
        """Touch every page, so that each is in memory before the first record comes."""
        for position in range(0, self.size, page):
            if self.mode is LogWriteMode.MMAP:
                self._map[position] = self._map[position]
            else:
                self._view[position]

    def close(self) -> None:
        """Close the map and the descriptor."""
        self._view.release()
        try:
            self._map.close()
        except BufferError:
            # A view of an answer that is still being sent; the map ends with it.
            pass
        self._files.close(self._fd)

    def destroy(self) -> None:
        """Close and delete the file."""
        self.close()
        self._files.unlink(self.path)

    def __repr__(self) -> str:
        return f"<MappedFile {self.path} {self.start}..{self.end} {self.mode.name}>"
