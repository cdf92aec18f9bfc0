"""The files of all consume queues of one kind: opened when needed, never mapped, hardly kept open.

A broker may have fifty thousand queues. A map and a descriptor for each would cost gigabytes of page cache and more
descriptors than a process may have, so a queue is an object without either: the few hundred files that are being read
keep a descriptor in an LRU, and writing opens a file, writes what has gathered, and closes it.

    <folder>/<topic>/<queue id>/<position of the file's first byte, 20 digits>

Source: `MappedFileQueue` as `ConsumeQueue` uses it, RocketMQ 5.3, which maps every file.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from typing import Final

from rocketmq_py.common.file_system import FileSystem
from rocketmq_py.store.mapped_file import NAME_DIGITS, file_name

logger = logging.getLogger(__name__)

#: Descriptors that are kept open for reading.
MAX_DESCRIPTORS: Final = 2_048

#: Units are read in windows of twice this size, which is that of 204 units; most pulls find theirs in memory.
WINDOW_SIZE: Final = 4_080
#: Windows that are kept, 8 KB each; beyond it all are forgotten.
MAX_WINDOWS: Final = 512

Key = tuple[str, int]


class QueueFiles:
    """Reads and writes the byte streams of queues, each cut into files of equal size.

    `read` and the LRU belong to the event loop. Everything else opens files of its own and may run in a thread.

    Args:
        files: the file system.
        folder: `consumequeue` or `batchconsumequeue` of the store.
        file_size: bytes of each file, a multiple of the unit.
        filler: a unit that is written in front of a stream which begins inside a file.
        max_descriptors: size of the LRU.
    """

    def __init__(
        self, files: FileSystem, folder: str, file_size: int, filler: bytes, max_descriptors: int = MAX_DESCRIPTORS
    ) -> None:
        self.folder = folder
        self.file_size = file_size
        self._files = files
        self._filler = filler
        self._max_descriptors = max_descriptors
        self._descriptors: OrderedDict[tuple[Key, int], int] = OrderedDict()
        # By queue, and by position / WINDOW_SIZE.
        self._windows: dict[Key, dict[int, bytes]] = {}
        self._window_count = 0

    # --- finding ------------------------------------------------------------------------------------------------------

    def queues(self) -> list[Key]:
        """Return topic and queue id of every queue that has a folder. Other names are passed over. Blocks."""
        found: list[Key] = []
        for topic in self._files.list_directory(self.folder):
            path = os.path.join(self.folder, topic)
            if self._files.is_directory(path):
                names = self._files.list_directory(path)
                found += [(topic, int(name)) for name in names if name.isascii() and name.isdigit()]
        return found

    def starts(self, key: Key) -> list[int]:
        """Return the positions at which a queue's files begin, sorted. Blocks."""
        names = self._files.list_directory(self._folder_of(key))
        return [int(name) for name in names if len(name) == NAME_DIGITS and name.isascii() and name.isdigit()]

    # --- reading ------------------------------------------------------------------------------------------------------

    def read(self, key: Key, position: int, size: int, limit: int) -> bytes | None:
        """Return bytes of one file, fewer at its end, none without the file; None if that would wait for the disk.

        Up to `limit`, which is where the written bytes end, nothing changes until it is cut or deleted. So a window
        around what is asked for is read along and kept: the same reader will ask for the rest of it next.
        """
        number = position // WINDOW_SIZE
        windows = self._windows.get(key)
        window = windows.get(number) if windows is not None else None
        at = position - number * WINDOW_SIZE
        if window is not None and at + size <= len(window):
            return window[at : at + size]
        start = position - position % self.file_size
        try:
            if number * WINDOW_SIZE < start or size > WINDOW_SIZE:
                size = min(size, start + self.file_size - position)
                return self._files.pread_cached(self._descriptor(key, start), size, position - start)
            return self._read_window(key, number, start, min(limit, start + self.file_size), at, size)
        except FileNotFoundError:
            # Somebody deleted it. The next start makes it again from the log.
            return b""

    def _read_window(self, key: Key, number: int, start: int, limit: int, at: int, size: int) -> bytes | None:
        """Read a window of the file that begins at `start`, keep it, and return `size` bytes at `at` of it."""
        begin = number * WINDOW_SIZE
        # Two windows long, so that what begins in it also ends in it.
        data = self._files.pread_cached(
            self._descriptor(key, start), min(2 * WINDOW_SIZE, limit - begin), begin - start
        )
        if data is None:
            return None
        if self._window_count >= MAX_WINDOWS:
            self._windows.clear()
            self._window_count = 0
        self._window_count += 1
        self._windows.setdefault(key, {})[number] = data
        return data[at : at + size]

    def read_blocking(self, key: Key, position: int, size: int) -> bytes:
        """Return bytes of one file, waiting for the disk if need be; nothing if there is no such file."""
        start = position - position % self.file_size
        try:
            fd = self._files.open_file(self.path(key, start), write=False)
        except FileNotFoundError:
            return b""
        try:
            return self._files.pread(fd, min(size, start + self.file_size - position), position - start)
        finally:
            self._files.close(fd)

    def _descriptor(self, key: Key, start: int) -> int:
        place = (key, start)
        fd = self._descriptors.get(place)
        if fd is not None:
            self._descriptors.move_to_end(place)
            return fd
        fd = self._descriptors[place] = self._files.open_file(self.path(key, start), write=False)
        if len(self._descriptors) > self._max_descriptors:
            self._files.close(self._descriptors.popitem(last=False)[1])
        return fd

    def release(self, key: Key, start: int) -> None:
        """Close the descriptor of one file, if it is open."""
        fd = self._descriptors.pop((key, start), None)
        if fd is not None:
            self._files.close(fd)

    def close(self) -> None:
        """Close all descriptors."""
        while self._descriptors:
            self._files.close(self._descriptors.popitem()[1])

    # --- writing ------------------------------------------------------------------------------------------------------

    def write(self, key: Key, position: int, data: bytes) -> list[int]:
        """Write whole units at a position, creating files as needed; return the starts of the files touched. Blocks.

        Raises:
            OSError: the file system refused. Writing the same bytes again is harmless.
        """
        touched: list[int] = []
        view = memoryview(data)
        while view:
            start = position - position % self.file_size
            part = view[: start + self.file_size - position]
            fd = self._open_for_writing(key, start, position - start)
            try:
                _write_all(self._files, fd, part, position - start)
            finally:
                self._files.close(fd)
            touched.append(start)
            view, position = view[len(part) :], position + len(part)
        return touched

    def _open_for_writing(self, key: Key, start: int, filled: int) -> int:
        path = self.path(key, start)
        try:
            return self._files.open_file(path)
        except FileNotFoundError:
            pass
        self._files.make_directories(self._folder_of(key))
        fd = self._files.open_file(path, create=True)
        try:
            # RocketMQ expects the whole size. What was never written is a hole and takes no space.
            self._files.truncate(fd, self.file_size)
            if filled:
                _write_all(self._files, fd, memoryview(self._filler * (filled // len(self._filler))), 0)
        except BaseException:
            # Without this the next attempt would find the file and believe its beginning filled.
            self._files.close(fd)
            self._files.unlink(path)
            raise
        return fd

    def sync(self, key: Key, start: int) -> None:
        """Force one file to disk. Blocks."""
        try:
            fd = self._files.open_file(self.path(key, start))
        except FileNotFoundError:
            return
        try:
            self._files.fdatasync(fd)
        finally:
            self._files.close(fd)

    # --- cutting and deleting -----------------------------------------------------------------------------------------

    def cut(self, key: Key, end: int) -> None:
        """Remove everything at and behind a position: later files go, the rest of its file becomes zeros.

        Blocks. Nobody may read what is being cut.
        """
        self._windows.pop(key, None)
        for start in self.starts(key):
            if start >= end:
                self.delete(key, start)
            elif start + self.file_size > end:
                fd = self._files.open_file(self.path(key, start))
                try:
                    # Shorter and longer again: the file system gives zeros, and no old unit can be taken for a new one.
                    self._files.truncate(fd, end - start)
                    self._files.truncate(fd, self.file_size)
                finally:
                    self._files.close(fd)

    def delete(self, key: Key, start: int) -> None:
        """Delete one file. Blocks."""
        self._windows.pop(key, None)
        self.release(key, start)
        self._files.unlink(self.path(key, start))

    def delete_queue(self, key: Key) -> None:
        """Delete all files of a queue and its folder, and the topic's folder with the last queue. Blocks."""
        for start in self.starts(key):
            self.delete(key, start)
        for folder in (self._folder_of(key), os.path.join(self.folder, key[0])):
            if self._files.is_directory(folder) and not self._files.list_directory(folder):
                self._files.remove_directory(folder)

    def path(self, key: Key, start: int) -> str:
        """Return the path of one file."""
        return os.path.join(self._folder_of(key), file_name(start))

    @staticmethod
    def can_hold(topic: str) -> bool:
        """Whether a topic's name can be that of a folder.

        Names were validated at the border, but no checksum of a record covers its topic: one that is read back from a
        damaged log may be anything.
        """
        return topic not in ("", ".", "..") and "/" not in topic and "\0" not in topic and len(topic.encode()) <= 255

    def _folder_of(self, key: Key) -> str:
        topic, queue_id = key
        if not self.can_hold(topic):
            raise ValueError(f"topic {topic!r} cannot be the name of a folder")
        return os.path.join(self.folder, topic, str(queue_id))

    def __repr__(self) -> str:
        return f"<QueueFiles {self.folder} {len(self._descriptors)} open>"


def _write_all(files: FileSystem, fd: int, data: memoryview, position: int) -> None:
    while data:
        written = files.pwrite(fd, data, position)
        data, position = data[written:], position + written
