"""The flushed position: up to where the log is known to be on disk, kept in a small file of its own.

After a power cut pages that were never flushed may be on disk or not, in any order. So an invalid record behind the
flushed position is the torn end of the log, to be cut off; before it, it is damage, to be reported. RocketMQ's checkpoint
holds times only, and cannot tell the two apart.

The file is text, `<offset> <crc>`, unknown to RocketMQ and ignored by it.
"""

from __future__ import annotations

import logging
import os
import zlib

from rocketmq_py.common.file_system import FileSystem, write_atomically
from rocketmq_py.store.commit_log import LogObserver

logger = logging.getLogger(__name__)


class FlushedPosition(LogObserver):
    """Remembers the flushed offset across a crash; at most as old as its period, never ahead of the truth.

    Attributes:
        offset: everything before it is on disk; None if the file says nothing (a store that RocketMQ wrote).
    """

    def __init__(self, files: FileSystem, root_dir: str) -> None:
        self.path = os.path.join(root_dir, "flushedPosition")
        self.offset: int | None = None
        self._files = files
        self._written: int | None = None

    def load(self) -> None:
        """Read the file; one that is missing or damaged says nothing. Blocks."""
        try:
            text = self._files.read_file(self.path)
        except FileNotFoundError:
            return
        number, _, crc = text.strip().partition(b" ")
        if not number.isdigit() or crc != _crc(number):
            logger.warning("%s is damaged and is ignored; the end of the log is found without it", self.path)
            return
        self.offset = self._written = int(number)

    def flushed(self, offset: int) -> None:
        """Note that the log was forced to disk up to here."""
        self.offset = offset

    def truncated(self, offset: int) -> None:
        """Note that the log ends earlier now; the cut itself is flushed."""
        self.offset = offset

    def write(self) -> None:
        """Write the position if it changed. Blocks; the position was true before this call, so it is true after."""
        offset = self.offset
        if offset is None or offset == self._written:
            return
        number = str(offset).encode("ascii")
        # No backup: an older position is worth less than none when the log was cut since.
        write_atomically(self._files, self.path, number + b" " + _crc(number) + b"\n", keep_backup=False)
        self._written = offset

    def __repr__(self) -> str:
        return f"<FlushedPosition {self.offset} written {self._written}>"


def _crc(number: bytes) -> bytes:
    return f"{zlib.crc32(number):08x}".encode("ascii")
