"""Bytes that recovery cuts off the log are kept, in `cut/`, until somebody has looked at them.

What lies behind the last valid record was never promised to anybody as durable. But if a flipped bit made that record
invalid, the bytes behind it are messages, and only a person or a replica can tell.
"""

from __future__ import annotations

import os
from typing import Final

from rocketmq_py.common.file_system import FileSystem
from rocketmq_py.store.commit_log import CommitLog
from rocketmq_py.store.mapped_file import file_name

_CHUNK: Final = 1 << 20


def set_aside(files: FileSystem, root_dir: str, log: CommitLog, start: int, end: int) -> str:
    """Copy the bytes `start` to `end` of the log to a file of their own, forced to disk, and return its path. Blocks.

    A recovery that was interrupted finds the same bytes again and does not keep them twice.
    """
    folder = os.path.join(root_dir, "cut")
    files.make_directories(folder)
    data = _read(log, start, end)
    path = os.path.join(folder, file_name(start))
    number = 0
    while files.exists(path):
        if files.read_file(path) == data:
            return path
        number += 1
        path = os.path.join(folder, f"{file_name(start)}.{number}")
    fd = files.open_file(path, create=True)
    try:
        written = 0
        while written < len(data):
            written += files.pwrite(fd, memoryview(data)[written:], written)
        files.fsync(fd)
    finally:
        files.close(fd)
    files.sync_directory(folder)
    files.sync_directory(root_dir)
    return path


def _read(log: CommitLog, start: int, end: int) -> bytes:
    parts = []
    while start < end and (file := log.files.find(start)) is not None:
        size = min(_CHUNK, end - start, file.end - start)
        parts.append(file.read_blocking(start - file.start, size))
        start += size
    return b"".join(parts)
