"""The abort file: it lies in the store while a broker runs, and stays behind if the broker did not stop cleanly.

Source: `DefaultMessageStore#createTempFile`, `#load`, RocketMQ 5.3.
"""

from __future__ import annotations

import contextlib
import os

from rocketmq_py.common.file_system import FileSystem

_NAME = "abort"


def read_process_id(files: FileSystem, root_dir: str) -> int | None:
    """Return the process that the abort file names; None if there is no such file, or no number in it."""
    try:
        text = files.read_file(os.path.join(root_dir, _NAME)).decode("ascii", "replace").strip()
    except OSError:
        return None
    return int(text) if text.isascii() and text.isdigit() else None


class RunState:
    """Whether the store was left in order the last time, and the mark that says so the next time."""

    def __init__(self, files: FileSystem, root_dir: str) -> None:
        self.path = os.path.join(root_dir, _NAME)
        self._files = files

    @property
    def was_clean(self) -> bool:
        """Whether the last process stopped cleanly (or there was none). Ask before `mark_running`."""
        return not self._files.exists(self.path)

    def mark_running(self, process_id: int) -> None:
        """Create the file, with the process's number as RocketMQ 5 writes it. Blocks."""
        data = str(process_id).encode("ascii")
        fd = self._files.open_file(self.path, create=True)
        try:
            self._files.truncate(fd, 0)
            self._files.pwrite(fd, data, 0)
            self._files.fsync(fd)
        finally:
            self._files.close(fd)
        # Durable before the first message: if the power goes, the next start must know.
        self._files.sync_directory(os.path.dirname(self.path))

    def mark_stopped(self) -> None:
        """Remove the file: everything is on disk. Blocks."""
        with contextlib.suppress(FileNotFoundError):
            self._files.unlink(self.path)
        self._files.sync_directory(os.path.dirname(self.path))

    def __repr__(self) -> str:
        return f"<RunState {'no abort file' if self.was_clean else 'abort file'} in {os.path.dirname(self.path)}>"
