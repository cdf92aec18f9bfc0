"""Files behind one protocol, so that a lab can fill the disk, fail an fsync or cut the power.

Paths are `str`. Descriptors are integers that only the `FileSystem` which opened them understands. All calls are
synchronous; those that may block (everything but `pread_cached`) are run off the loop where the loop would wait.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import sys
from dataclasses import dataclass
from typing import Protocol

from rocketmq_py.common.errors import RocketMQError


class AlreadyLockedError(RocketMQError):
    """Another process holds the lock file."""


@dataclass(frozen=True, slots=True)
class FileStat:
    """Size in bytes and time of last modification in milliseconds since 1970."""

    size: int
    modified_ms: int


@dataclass(frozen=True, slots=True)
class DiskUsage:
    """Bytes of the file system that holds a path."""

    total: int
    free: int

    @property
    def used_ratio(self) -> float:
        """Share in use, 0.0 to 1.0."""
        return (self.total - self.free) / self.total if self.total else 0.0


class FileLock(Protocol):
    """A lock that ends with the process at the latest."""

    def release(self) -> None:
        """Give the lock back. A second call does nothing."""
        ...


class FileSystem(Protocol):
    """What the store needs of a file system. Failures raise `OSError` with the operating system's errno."""

    def open_file(self, path: str, *, create: bool = False, write: bool = True) -> int:
        """Open a file, creating an empty one if `create`, and return its descriptor."""
        ...

    def close(self, fd: int) -> None:
        """Close a descriptor. It does not make written bytes durable."""
        ...

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        """Write at `offset`; return how many bytes were written, which may be fewer than asked."""
        ...

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        """Read up to `size` bytes; fewer only at the end of the file. May wait for the disk."""
        ...

    def pread_cached(self, fd: int, size: int, offset: int) -> bytes | None:
        """Read bytes that are in memory already; None if that would wait for the disk."""
        ...

    def fdatasync(self, fd: int) -> None:
        """Force the written bytes, and the size needed to read them, to disk."""
        ...

    def fsync(self, fd: int) -> None:
        """Force bytes and all metadata of the file to disk."""
        ...

    def sync_directory(self, path: str) -> None:
        """Force the names in a directory to disk."""
        ...

    def allocate(self, fd: int, size: int) -> None:
        """Reserve disk space for the first `size` bytes, zeroed; ENOSPC if there is not enough."""
        ...

    def truncate(self, fd: int, size: int) -> None:
        """Set the size of the file."""
        ...

    def map_file(self, fd: int, size: int, *, writable: bool = False, random_access: bool = False) -> mmap.mmap:
        """Map the first `size` bytes; `random_access` switches read-ahead off, which sparse files need."""
        ...

    def rename(self, old: str, new: str) -> None:
        """Rename, replacing `new` at once."""
        ...

    def unlink(self, path: str) -> None:
        """Remove a file."""
        ...

    def make_directories(self, path: str) -> None:
        """Create a directory and its parents; nothing happens if it exists."""
        ...

    def remove_directory(self, path: str) -> None:
        """Remove an empty directory."""
        ...

    def list_directory(self, path: str) -> list[str]:
        """Return the names in a directory, sorted; an empty list if there is no such directory."""
        ...

    def exists(self, path: str) -> bool:
        """Tell whether there is a file or directory."""
        ...

    def is_directory(self, path: str) -> bool:
        """Tell whether `path` is a directory."""
        ...

    def stat(self, path: str) -> FileStat:
        """Return size and modification time; `FileNotFoundError` if there is no such file."""
        ...

    def disk_usage(self, path: str) -> DiskUsage:
        """Return the usage of the file system that holds `path`."""
        ...

    def lock(self, path: str) -> FileLock:
        """Lock a file for this process, creating it; `AlreadyLockedError` if another holds it."""
        ...

    def read_file(self, path: str) -> bytes:
        """Return the whole content; `FileNotFoundError` if there is no such file."""
        ...


class _OsFileLock:
    def __init__(self, fd: int) -> None:
        self._fd: int | None = fd

    def release(self) -> None:
        if self._fd is not None:
            fcntl.lockf(self._fd, fcntl.LOCK_UN)
            os.close(self._fd)
            self._fd = None


class OsFileSystem:
    """The operating system's file system."""

    def open_file(self, path: str, *, create: bool = False, write: bool = True) -> int:
        flags = (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        return os.open(path, flags, 0o644)

    def close(self, fd: int) -> None:
        os.close(fd)

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        return os.pwrite(fd, data, offset)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        return os.pread(fd, size, offset)

    def pread_cached(self, fd: int, size: int, offset: int) -> bytes | None:
        buffer = bytearray(size)
        try:
            count = os.preadv(fd, [buffer], offset, _RWF_NOWAIT)
        except BlockingIOError:
            return None
        except OSError as error:
            # Some file systems know no such flag: then nothing can be called cached.
            if error.errno in (errno.EOPNOTSUPP, errno.EINVAL):
                return None
            raise
        if count < size:
            # A short answer is the end of the file, or the border between cached and not cached.
            return None if offset + count < os.fstat(fd).st_size else bytes(buffer[:count])
        return bytes(buffer)

    def fdatasync(self, fd: int) -> None:
        _fdatasync(fd)

    def fsync(self, fd: int) -> None:
        os.fsync(fd)

    def sync_directory(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def allocate(self, fd: int, size: int) -> None:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, size)
        else:
            _write_zeros(fd, os.fstat(fd).st_size, size)

    def truncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def map_file(self, fd: int, size: int, *, writable: bool = False, random_access: bool = False) -> mmap.mmap:
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        mapped = mmap.mmap(fd, size, flags=mmap.MAP_SHARED, prot=protection)
        if random_access and hasattr(mmap, "MADV_RANDOM"):
            mapped.madvise(mmap.MADV_RANDOM)
        return mapped

    def rename(self, old: str, new: str) -> None:
        os.replace(old, new)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def make_directories(self, path: str) -> None:
        os.makedirs(path, exist_ok=True)

    def remove_directory(self, path: str) -> None:
        os.rmdir(path)

    def list_directory(self, path: str) -> list[str]:
        try:
            return sorted(os.listdir(path))
        except FileNotFoundError:
            return []

    def exists(self, path: str) -> bool:
        return os.path.exists(path)

    def is_directory(self, path: str) -> bool:
        return os.path.isdir(path)

    def stat(self, path: str) -> FileStat:
        result = os.stat(path)
        return FileStat(result.st_size, result.st_mtime_ns // 1_000_000)

    def disk_usage(self, path: str) -> DiskUsage:
        result = os.statvfs(path)
        # As `df` and RocketMQ count: what only root may use is neither used nor free.
        used = result.f_blocks - result.f_bfree
        return DiskUsage((used + result.f_bavail) * result.f_frsize, result.f_bavail * result.f_frsize)

    def lock(self, path: str) -> FileLock:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            # A POSIX record lock on the first byte: what Java's FileChannel.tryLock(0, 1) takes, so that a broker of
            # either kind keeps the other out.
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0)
        except OSError as error:
            os.close(fd)
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise AlreadyLockedError(
                    f"{path} is locked by another process: a broker is running on this store. "
                    "Stop it, or start this one with another storePathRootDir."
                ) from None
            raise
        return _OsFileLock(fd)

    def read_file(self, path: str) -> bytes:
        with open(path, "rb") as file:
            return file.read()


_RWF_NOWAIT = getattr(os, "RWF_NOWAIT", 0)
_fdatasync = os.fdatasync if sys.platform != "darwin" else os.fsync


def _write_zeros(fd: int, start: int, end: int) -> None:
    block = bytes(1 << 20)
    while start < end:
        start += os.pwrite(fd, block[: min(len(block), end - start)], start)


def write_atomically(files: FileSystem, path: str, data: bytes, *, keep_backup: bool = True) -> None:
    """Replace a small file so that a crash leaves the old content or the new, never a mixture.

    The bytes go to `path.tmp` and are forced to disk before the name changes; the previous content stays as
    `path.bak` if `keep_backup`.

    Raises:
        OSError: the file system refused; the old file is untouched or, between two renames, still there as `.bak`.
    """
    temporary = path + ".tmp"
    fd = files.open_file(temporary, create=True)
    try:
        files.truncate(fd, 0)
        written = 0
        while written < len(data):
            written += files.pwrite(fd, memoryview(data)[written:], written)
        files.fsync(fd)
    finally:
        files.close(fd)
    if keep_backup:
        with contextlib.suppress(FileNotFoundError):
            files.rename(path, path + ".bak")
    files.rename(temporary, path)
    files.sync_directory(os.path.dirname(path) or ".")


def make_durable_directories(files: FileSystem, path: str) -> None:
    """Create a directory and its parents so that a power cut does not take the new names away again. Blocks."""
    missing = []
    while path and not files.is_directory(path):
        missing.append(path)
        path = os.path.dirname(path)
    for folder in reversed(missing):
        files.make_directories(folder)
        files.sync_directory(os.path.dirname(folder) or ".")
