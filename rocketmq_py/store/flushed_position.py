"""The flushed position: what the log must hold, kept in a small file of its own.

After a power cut pages that were never flushed may be on disk or not, in any order. So an invalid record behind the
flushed position is the torn end of the log, to be cut off; before it, it is damage, to be reported. RocketMQ's checkpoint
holds times only, and cannot tell the two apart. The smallest offset is there too: a log whose first file was lost looks
like one whose first file was deleted in order.

The file is text, `<min offset> <flushed offset> <crc>`, unknown to RocketMQ and ignored by it.
"""

from __future__ import annotations

import logging
import os
import re
import zlib
from typing import Final

from rocketmq_py.common.file_system import FileSystem, write_atomically
from rocketmq_py.store.commit_log import LogObserver

logger = logging.getLogger(__name__)

_TEXT: Final = re.compile(rb"(\d{1,19} \d{1,19}) ([0-9a-f]{8})\n?")


class FlushedPosition(LogObserver):
    """Remembers both ends of the log across a crash; at most as old as its period, never ahead of the truth.

    Attributes:
        min_offset: the log begins here, or later if a deletion was under way.
        offset: everything from there to here is on disk; None if the file says nothing (a store that RocketMQ wrote).
    """

    def __init__(self, files: FileSystem, root_dir: str) -> None:
        self.path = os.path.join(root_dir, "flushedPosition")
        self.min_offset = 0
        self.offset: int | None = None
        self._files = files
        self._written = b""

    def load(self) -> None:
        """Read the file; one that is missing or damaged says nothing. Blocks."""
        try:
            data = self._files.read_file(self.path)
        except FileNotFoundError:
            return
        match = _TEXT.fullmatch(data)
        if match is None or match[2] != _crc(match[1]):
            logger.warning("%s is damaged and is ignored; the end of the log is found without it", self.path)
            return
        self.min_offset, self.offset = map(int, match[1].split())
        self._written = match[1]

    def flushed(self, offset: int) -> None:
        """Note that the log was forced to disk up to here."""
        self.offset = offset

    def truncated(self, offset: int) -> None:
        """Note that the log ends here now; the cut itself is flushed."""
        self.offset = offset

    def write(self) -> None:
        """Write the position if it changed. Blocks; it was true before this call, so it is true after."""
        if self.offset is None:
            return
        numbers = b"%d %d" % (self.min_offset, self.offset)
        if numbers != self._written:
            # No backup: an older position is worth less than none when the log was cut since.
            write_atomically(self._files, self.path, numbers + b" " + _crc(numbers) + b"\n", keep_backup=False)
            self._written = numbers

    def __repr__(self) -> str:
        return f"<FlushedPosition {self.min_offset}..{self.offset}>"


def _crc(numbers: bytes) -> bytes:
    return f"{zlib.crc32(numbers):08x}".encode("ascii")
