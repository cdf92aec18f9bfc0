"""The flushed position: what log and queues must hold, kept in a small file of its own.

After a power cut pages that were never flushed may be on disk or not, in any order. So an invalid record behind the
flushed position is the torn end of the log, to be cut off; before it, it is damage, to be reported. RocketMQ's checkpoint
holds times only, and cannot tell the two apart. The smallest offset is there too: a log whose first file was lost looks
like one whose first file was deleted in order.

The same file says how far the records' units are in the files of their queues, so that the start after a killed process
dispatches again what is missing, and no more. That holds while the page cache does: after a power cut, which another
boot id tells, only the manifest (`derived_manifest.py`) counts.

The file is text, `<min> <flushed> <queues written> <running or stopped> <boot id> <crc>`, unknown to RocketMQ and ignored
by it.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import zlib
from typing import Final

from rocketmq_py.common.file_system import FileSystem, write_atomically
from rocketmq_py.store.commit_log import LogObserver

logger = logging.getLogger(__name__)

_TEXT: Final = re.compile(rb"((\d{1,19}) (\d{1,19}) (\d{1,19}) (running|stopped) (\S{1,64})) ([0-9a-f]{8})\n?")
#: In the place of a boot id that is not known.
_UNKNOWN: Final = "-"
#: Linux makes a new one at each boot of the machine.
_BOOT_ID_PATH: Final = "/proc/sys/kernel/random/boot_id"


def read_boot_id(files: FileSystem) -> str:
    """Return what names this run of the operating system; empty where it cannot be known."""
    try:
        text = files.read_file(_BOOT_ID_PATH).decode("ascii", "replace").strip()
    except OSError:
        return ""
    return text if re.fullmatch(r"[\w-]{1,64}", text) else ""


class FlushedPosition(LogObserver):
    """Remembers both ends of the log across a crash; at most as old as its period, never ahead of the truth.

    Attributes:
        min_offset: the log begins here, or later if a deletion was under way.
        offset: everything from there to here is on disk; None if the file says nothing (a store that RocketMQ wrote).
        queues_written: the units of all records before it are in the queues' files.
        is_stopped: it was written last by a process that stopped in order: everything is on disk.
        boot_id: the run of the operating system in which the file was written; empty if not known.
    """

    def __init__(self, files: FileSystem, root_dir: str) -> None:
        self.path = os.path.join(root_dir, "flushedPosition")
        self.min_offset = 0
        self.offset: int | None = None
        self.queues_written = 0
        self.is_stopped = True
        self.boot_id = ""
        self._files = files
        self._written = b""

    def load(self) -> None:
        """Read the file; one that is missing or damaged says nothing. Blocks."""
        try:
            data = self._files.read_file(self.path)
        except FileNotFoundError:
            return
        match = _TEXT.fullmatch(data)
        if match is None or match[7] != _crc(match[1]):
            logger.warning("%s is damaged and is ignored; the end of the log is found without it", self.path)
            return
        self.min_offset, self.offset, self.queues_written = map(int, match.groups()[1:4])
        self.is_stopped = match[5] == b"stopped"
        boot_id = match[6].decode("ascii", "replace")
        self.boot_id = "" if boot_id == _UNKNOWN else boot_id
        self._written = match[1]

    def flushed(self, offset: int) -> None:
        """Note that the log was forced to disk up to here."""
        self.offset = offset

    def truncated(self, offset: int) -> None:
        """Note that the log ends here now; the cut itself is flushed."""
        self.offset = offset
        self.queues_written = min(self.queues_written, offset)

    def write(self) -> None:
        """Write the position if it changed. Blocks; it was true before this call, so it is true after."""
        if self.offset is None:
            return
        state = "stopped" if self.is_stopped else "running"
        fields = (self.min_offset, self.offset, self.queues_written, state, self.boot_id or _UNKNOWN)
        text = " ".join(map(str, fields)).encode("ascii")
        if text != self._written:
            data = text + b" " + _crc(text) + b"\n"
            try:
                # No backup: an older position is worth less than none when the log was cut since.
                write_atomically(self._files, self.path, data, keep_backup=False)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                # Retention frees space, and must write this first. One sector that is there already needs no space.
                self._overwrite(data)
            self._written = text

    def _overwrite(self, data: bytes) -> None:
        fd = self._files.open_file(self.path)
        try:
            self._files.pwrite(fd, data, 0)
            self._files.truncate(fd, len(data))
            self._files.fdatasync(fd)
        finally:
            self._files.close(fd)

    def __repr__(self) -> str:
        return f"<FlushedPosition {self.min_offset}..{self.offset} queues {self.queues_written}>"


def _crc(text: bytes) -> bytes:
    return f"{zlib.crc32(text):08x}".encode("ascii")
