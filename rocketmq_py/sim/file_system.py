"""A file system in memory whose power can be cut.

Every file has two contents: what its readers see (the page cache), and what would be there after a power cut (the
disk). A `pwrite` changes the first at once and the second only with `fdatasync`; in between its 512-byte sectors are
pending, and a crash keeps or drops each of them independently. Names in directories have the same two lives, with
`sync_directory` in the place of `fdatasync`.

    disk = SimulatedFileSystem(clock)
    ... run a store on it ...
    disk.crash(random.Random(7))      # pending sectors are kept or lost by chance; descriptors and locks are gone
    ... run another store on what is left ...
"""

from __future__ import annotations

import errno
import mmap
import os
import posixpath
import random
import threading
from dataclasses import dataclass, field
from typing import Any

from rocketmq_py.common.environment import Clock, SystemClock
from rocketmq_py.common.file_system import AlreadyLockedError, DiskUsage, FileLock, FileStat
from rocketmq_py.sim.simulated_file import SimulatedFile
from rocketmq_py.sim.simulated_names import Personality, SimulatedNames

__all__ = ["Fault", "Personality", "SimulatedFileSystem"]


@dataclass(slots=True)
class Fault:
    """An error that the next matching calls raise.

    Attributes:
        operation: name of a `FileSystem` method, such as "fdatasync" or "pwrite".
        path_part: the call's path contains this text; "" matches all.
        code: `errno` value of the `OSError`.
        times: how many calls fail; -1 for all from now on.
    """

    operation: str
    path_part: str = ""
    code: int = errno.EIO
    times: int = 1


@dataclass(slots=True)
class _Open:
    file: SimulatedFile
    path: str
    is_writable: bool


@dataclass(slots=True)
class _Lock:
    owner: SimulatedFileSystem
    path: str
    epoch: int

    def release(self) -> None:
        self.owner._release(self)


@dataclass(slots=True)
class _Counters:
    """How often each operation was called; labs count syncs with it."""

    calls: dict[str, int] = field(default_factory=dict)

    def count(self, operation: str) -> None:
        self.calls[operation] = self.calls.get(operation, 0) + 1


class SimulatedFileSystem:
    """The `FileSystem` protocol in memory, with faults and power cuts. Safe to call from several threads.

    Args:
        clock: gives modification times.
        personality: how durable names are, see `Personality`.
        capacity: bytes of the disk; more than that is ENOSPC.

    Attributes:
        faults: planned errors, see `Fault`.
        is_cold: `pread_cached` answers None, as if nothing were in memory.
        calls: how often each operation was called.
    """

    def __init__(
        self,
        clock: Clock | None = None,
        *,
        personality: Personality = Personality.EXT4,
        capacity: int = 1 << 40,
    ) -> None:
        self._clock = clock or SystemClock()
        self._names = SimulatedNames(personality)
        self._guard = threading.RLock()
        self._open: dict[int, _Open] = {}
        self._next_fd = 1000
        self._locks: dict[str, _Lock] = {}
        self._epoch = 0
        self._counters = _Counters()
        self.capacity = capacity
        self.faults: list[Fault] = []
        self.is_cold = False

    @property
    def calls(self) -> dict[str, int]:
        """Number of calls by operation."""
        return self._counters.calls

    # --- files -------------------------------------------------------------------------------------------------------

    def open_file(self, path: str, *, create: bool = False, write: bool = True) -> int:
        """Open a file; the descriptor ends with `close`, `kill` or `crash`."""
        with self._guard:
            self._enter("open_file", path)
            path = posixpath.normpath(path)
            file = self._names.files.get(path)
            if file is None:
                if not create:
                    raise self._error(errno.ENOENT, path)
                file = SimulatedFile(self._clock.wall_ms())
                self._names.create(path, file)
            self._next_fd += 1
            self._open[self._next_fd] = _Open(file, path, write)
            return self._next_fd

    def close(self, fd: int) -> None:
        """Close a descriptor; pending sectors stay pending."""
        with self._guard:
            self._entry(fd, "close")
            del self._open[fd]

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        """Write to the page cache: readers see it, a power cut may take it back."""
        with self._guard:
            entry = self._entry(fd, "pwrite")
            if not entry.is_writable:
                raise self._error(errno.EBADF, entry.path)
            self._make_room(entry, offset, len(data))
            entry.file.write(bytes(data), offset)
            entry.file.modified_ms = self._clock.wall_ms()
            return len(data)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        """Read from the page cache."""
        with self._guard:
            return self._entry(fd, "pread").file.read(size, offset)

    def pread_cached(self, fd: int, size: int, offset: int) -> bytes | None:
        """Read without waiting: None while `is_cold`."""
        with self._guard:
            entry = self._entry(fd, "pread_cached")
            return None if self.is_cold else entry.file.read(size, offset)

    def fdatasync(self, fd: int) -> None:
        """Make what was written to the file durable, with its size (and with EXT4 all names)."""
        self._sync(fd, "fdatasync")

    def fsync(self, fd: int) -> None:
        """As `fdatasync`."""
        self._sync(fd, "fsync")

    def _sync(self, fd: int, operation: str) -> None:
        with self._guard:
            try:
                entry = self._entry(fd, operation)
            except OSError:
                # As Linux does: the pages are marked clean although they reached no disk, and the next sync succeeds.
                if fd in self._open:
                    self._open[fd].file.forget_pending()
                raise
            entry.file.sync()
            self._names.file_synced()

    def allocate(self, fd: int, size: int) -> None:
        """Reserve the first `size` bytes; they read as zeros."""
        with self._guard:
            entry = self._entry(fd, "allocate")
            self._make_room(entry, 0, size)
            entry.file.allocate(size)

    def truncate(self, fd: int, size: int) -> None:
        """Set the size; it is pending until a sync."""
        with self._guard:
            entry = self._entry(fd, "truncate")
            entry.file.truncate(size)
            entry.file.modified_ms = self._clock.wall_ms()

    def map_file(self, fd: int, size: int, *, writable: bool = False, random_access: bool = False) -> mmap.mmap:
        """Map the page cache of the file; what is written through the map is pending like any write."""
        with self._guard:
            return self._entry(fd, "map_file").file.map(size, writable=writable)

    # --- names -------------------------------------------------------------------------------------------------------

    def sync_directory(self, path: str) -> None:
        """Make the names in a directory durable."""
        with self._guard:
            self._enter("sync_directory", path)
            self._names.sync(posixpath.normpath(path))

    def rename(self, old: str, new: str) -> None:
        """Rename at once for readers; a power cut leaves the old names or the new, never a mixture."""
        with self._guard:
            self._enter("rename", old)
            self._names.rename(posixpath.normpath(old), posixpath.normpath(new))

    def unlink(self, path: str) -> None:
        """Remove a name; open descriptors keep reading."""
        with self._guard:
            self._enter("unlink", path)
            self._names.unlink(posixpath.normpath(path))

    def make_directories(self, path: str) -> None:
        """Create a directory and its parents."""
        with self._guard:
            self._enter("make_directories", path)
            self._names.make_directories(posixpath.normpath(path))

    def remove_directory(self, path: str) -> None:
        """Remove an empty directory."""
        with self._guard:
            self._enter("remove_directory", path)
            self._names.remove_directory(posixpath.normpath(path))

    def list_directory(self, path: str) -> list[str]:
        """Return the names in a directory, sorted."""
        with self._guard:
            self._enter("list_directory", path)
            return self._names.children(posixpath.normpath(path))

    def exists(self, path: str) -> bool:
        """Tell whether a file or directory has this name."""
        path = posixpath.normpath(path)
        return path in self._names.files or path in self._names.directories

    def is_directory(self, path: str) -> bool:
        """Tell whether a directory has this name."""
        return posixpath.normpath(path) in self._names.directories

    def stat(self, path: str) -> FileStat:
        """Return size and modification time."""
        with self._guard:
            file = self._named(path, "stat")
            return FileStat(file.size, file.modified_ms)

    def disk_usage(self, path: str) -> DiskUsage:
        """Return capacity and what is left of it."""
        with self._guard:
            self._enter("disk_usage", path)
            return DiskUsage(self.capacity, max(0, self.capacity - self._used()))

    def lock(self, path: str) -> FileLock:
        """Lock a file until `release`, `kill` or `crash`."""
        with self._guard:
            self._enter("lock", path)
            path = posixpath.normpath(path)
            if path in self._locks:
                raise AlreadyLockedError(f"{path} is locked by another process: a broker is running on this store.")
            if path not in self._names.files:
                self._names.create(path, SimulatedFile(self._clock.wall_ms()))
            lock = self._locks[path] = _Lock(self, path, self._epoch)
            return lock

    def _release(self, lock: _Lock) -> None:
        if self._locks.get(lock.path) is lock:
            del self._locks[lock.path]

    def read_file(self, path: str) -> bytes:
        """Return the whole content."""
        with self._guard:
            file = self._named(path, "read_file")
            return file.read(file.size, 0)

    # --- what only a simulation can do -------------------------------------------------------------------------------

    def write_file(self, path: str, data: bytes) -> None:
        """Put a file there, durable at once: for preparing a disk and for damaging one."""
        with self._guard:
            path = posixpath.normpath(path)
            self._names.make_directories(posixpath.dirname(path))
            file = SimulatedFile(self._clock.wall_ms())
            file.write(data, 0)
            file.sync()
            self._names.create(path, file)
            self._names.sync_all()

    def damage(self, path: str, offset: int, data: bytes) -> None:
        """Change bytes in the page cache and on the disk, as a failing medium does; the size stays."""
        with self._guard:
            file = self._names.files[posixpath.normpath(path)]
            file.damage(data, offset)

    def flip_bit(self, path: str, offset: int, bit: int = 0) -> None:
        """Flip one bit of the byte at `offset`, in memory and on the disk."""
        byte = self._names.files[posixpath.normpath(path)].read(1, offset)[0]
        self.damage(path, offset, bytes((byte ^ (1 << bit),)))

    def set_modified(self, path: str, modified_ms: int) -> None:
        """Set the modification time of a file."""
        self._names.files[posixpath.normpath(path)].modified_ms = modified_ms

    def paths(self) -> list[str]:
        """Return the paths of all files that readers see, sorted."""
        return sorted(self._names.files)

    def snapshot(self, under: str = "") -> dict[str, bytes]:
        """Return path and content of every file below a directory."""
        prefix = posixpath.normpath(under) + "/" if under else ""
        return {path: self.read_file(path) for path in self.paths() if path.startswith(prefix)}

    def kill(self) -> None:
        """End the process that used the disk: descriptors and locks are gone, the page cache stays."""
        with self._guard:
            self._open.clear()
            self._locks.clear()
            self._epoch += 1

    def crash(self, rng: random.Random, *, keep: float = 0.5) -> None:
        """Cut the power, and start the machine again.

        Args:
            rng: decides which pending sectors and names reached the disk.
            keep: probability of each; 0.0 loses all that was not synced, 1.0 keeps everything.
        """
        with self._guard:
            self.kill()
            for file in self._names.all_files():
                file.crash(rng, keep)
            self._names.crash(rng, keep)

    # --- helpers -----------------------------------------------------------------------------------------------------

    def _enter(self, operation: str, path: str) -> None:
        self._counters.count(operation)
        for fault in self.faults:
            if fault.operation == operation and fault.path_part in path and fault.times:
                fault.times -= 1
                raise self._error(fault.code, path)

    def _entry(self, fd: int, operation: str) -> _Open:
        entry = self._open.get(fd)
        if entry is None:
            raise OSError(errno.EBADF, f"descriptor {fd} is not open: closed, or its process was killed")
        self._enter(operation, entry.path)
        return entry

    def _named(self, path: str, operation: str) -> SimulatedFile:
        self._enter(operation, path)
        file = self._names.files.get(posixpath.normpath(path))
        if file is None:
            raise self._error(errno.ENOENT, path)
        return file

    def _used(self) -> int:
        return sum(file.allocated_bytes for file in self._names.all_files())

    def _make_room(self, entry: _Open, offset: int, size: int) -> None:
        wanted = entry.file.growth(offset, size)
        if wanted and self._used() + wanted > self.capacity:
            raise self._error(errno.ENOSPC, entry.path)

    @staticmethod
    def _error(code: int, path: str) -> OSError:
        # OSError picks its subclass (FileNotFoundError, ...) from the code.
        return OSError(code, os.strerror(code), path)

    def __repr__(self) -> str:
        pending = sum(file.pending_sectors for file in self._names.all_files())
        return f"<SimulatedFileSystem {len(self._names.files)} files, {pending} pending sectors, {self._used()} bytes>"

    def __getstate__(self) -> Any:
        raise TypeError("a SimulatedFileSystem lives in one process; copy it with snapshot() and write_file()")
