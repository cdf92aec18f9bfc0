"""The lock file: one process for one store directory.

Two brokers appending to one log would overwrite each other's records. The lock is the kind that a Java broker takes as
well, and the operating system gives it back when the process ends, however it ends.

Source: `DefaultMessageStore#start` (`lockFile`), RocketMQ 5.3.
"""

from __future__ import annotations

import contextlib
import os

from rocketmq_py.common.errors import RocketMQError
from rocketmq_py.common.file_system import AlreadyLockedError, FileLock, FileSystem, make_durable_directories
from rocketmq_py.store.run_state import read_process_id


class StoreLockedError(AlreadyLockedError, RocketMQError):
    """Another process uses the store directory."""


class StoreLock:
    """The lock of one store directory."""

    def __init__(self, files: FileSystem, root_dir: str) -> None:
        self.path = os.path.join(root_dir, "lock")
        self._files = files
        self._root_dir = root_dir
        self._lock: FileLock | None = None

    @property
    def is_held(self) -> bool:
        """Whether this object holds the lock."""
        return self._lock is not None

    def acquire(self) -> None:
        """Take the lock. A second call does nothing.

        Raises:
            StoreLockedError: another process has it; the text names the process if it can be known.
        """
        if self._lock is not None:
            return
        make_durable_directories(self._files, self._root_dir)
        # The lock belongs to the process and ends when any descriptor of the file is closed, so the four bytes that
        # RocketMQ puts in go in before the lock is taken. Whoever holds it wrote the same four.
        if not self._files.exists(self.path):
            with contextlib.suppress(OSError):
                fd = self._files.open_file(self.path, create=True)
                self._files.pwrite(fd, b"lock", 0)
                self._files.close(fd)
        try:
            self._lock = self._files.lock(self.path)
        except AlreadyLockedError:
            owner = read_process_id(self._files, self._root_dir)
            raise StoreLockedError(
                f"the store {self._root_dir} is in use by {f'process {owner}' if owner else 'another process'}. "
                "Stop that broker, or start this one with another storePathRootDir."
            ) from None

    def release(self) -> None:
        """Give the lock back. A second call does nothing."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __repr__(self) -> str:
        return f"<StoreLock {self.path} {'held' if self.is_held else 'free'}>"
