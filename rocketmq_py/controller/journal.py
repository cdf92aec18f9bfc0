"""A file of frames on disk, and a snapshot beside it: what a controller has promised to remember.

    frame (little-endian)
     offset  size  field
          0     4  size of the payload
          4     4  CRC-32 of the payload
          8     n  payload

One `append` is one frame, one write and one fsync, so that a crash can damage only the last frame of the file. A
damaged frame with nothing but itself behind it is therefore cut off, and was never acknowledged; one in the middle
means that the disk has changed what was kept, and stops the start.

A snapshot is a file of one frame that replaces the old one by a rename. Then the journal is rewritten the same way with
what the snapshot does not hold; a crash between the two leaves frames that are skipped by their index.
"""

from __future__ import annotations

import logging
import os
import struct
import zlib
from typing import Final

from rocketmq_py.common.environment import Environment
from rocketmq_py.common.errors import CorruptDataError
from rocketmq_py.common.file_system import AlreadyLockedError, FileLock, make_durable_directories, write_atomically

logger = logging.getLogger(__name__)

FRAME: Final = struct.Struct(
    "<"
    "I"  # size
    "I"  # crc
)


class Journal:
    """The files of one controller. All methods block; `append` and `compact` are called by one task at a time.

    Args:
        folder: where the files are.
        environment: its files.

    Attributes:
        size: bytes in the journal.
    """

    def __init__(self, folder: str, environment: Environment) -> None:
        self.folder = folder
        self.size = 0
        self._files = environment.files
        self._path = os.path.join(folder, "journal")
        self._snapshot_path = os.path.join(folder, "snapshot")
        self._fd: int | None = None
        self._lock: FileLock | None = None

    def open(self) -> tuple[bytes | None, list[bytes]]:
        """Open the files, and return the snapshot and the payloads behind it.

        Raises:
            CorruptDataError: a file is damaged, and not by a crash.
            AlreadyLockedError: another controller runs on these files.
        """
        make_durable_directories(self._files, self.folder)
        try:
            self._lock = self._files.lock(os.path.join(self.folder, "lock"))
        except AlreadyLockedError:
            raise AlreadyLockedError(
                f"{self.folder} is locked by another process: a controller runs on it. "
                "Stop that one, or start this one with another controllerStorePath or controllerDLegerSelfId."
            ) from None
        snapshot = self._read_snapshot()
        is_new = not self._files.exists(self._path)
        self._fd = self._files.open_file(self._path, create=True)
        if is_new:
            self._files.sync_directory(self.folder)
        data = self._files.read_file(self._path)
        payloads, self.size = split_frames(data, self._path)
        if self.size < len(data):
            logger.warning(
                "%s: the last %d bytes are half a frame; they were cut off", self._path, len(data) - self.size
            )
            self._files.truncate(self._fd, self.size)
            self._files.fsync(self._fd)
        return snapshot, payloads

    def _read_snapshot(self) -> bytes | None:
        try:
            data = self._files.read_file(self._snapshot_path)
        except FileNotFoundError:
            return None
        payloads, end = split_frames(data, self._snapshot_path)
        if len(payloads) != 1 or end != len(data):
            raise CorruptDataError(
                self._snapshot_path, "one whole frame", f"{len(payloads)} frames in {len(data)} bytes", _HINT
            )
        return payloads[0]

    def append(self, payload: bytes) -> None:
        """Add a payload; it is on disk when this returns.

        Raises:
            OSError: the disk refused. What is in the file then is not known, so nothing may be appended any more.
        """
        if self._fd is None:
            raise OSError(f"{self._path} is closed")
        frame = _frame(payload)
        written = 0
        while written < len(frame):
            written += self._files.pwrite(self._fd, memoryview(frame)[written:], self.size + written)
        self._files.fdatasync(self._fd)
        self.size += len(frame)

    def compact(self, snapshot: bytes, rest: list[bytes]) -> None:
        """Replace the snapshot, then the journal by `rest`.

        Raises:
            OSError: the disk refused; see `append`.
        """
        write_atomically(self._files, self._snapshot_path, _frame(snapshot), keep_backup=False)
        frames = b"".join(map(_frame, rest))
        write_atomically(self._files, self._path, frames, keep_backup=False)
        old, self._fd = self._fd, self._files.open_file(self._path)
        if old is not None:
            self._files.close(old)
        self.size = len(frames)

    def close(self) -> None:
        """Close the files. A second call does nothing."""
        lock, self._lock = self._lock, None
        fd, self._fd = self._fd, None
        if lock is not None:
            lock.release()
        if fd is not None:
            self._files.close(fd)

    def __repr__(self) -> str:
        return f"<Journal {self._path} {self.size} bytes>"


_HINT: Final = (
    "Restore the folder from a copy, or if all other controllers of the group are up, remove it: they send everything"
)


def _frame(payload: bytes) -> bytes:
    return FRAME.pack(len(payload), zlib.crc32(payload)) + payload


def split_frames(data: bytes, place: str) -> tuple[list[bytes], int]:
    """Return the payloads of whole frames, and where the last of them ends.

    Raises:
        CorruptDataError: a frame is damaged although others follow it.
    """
    payloads: list[bytes] = []
    at = 0
    while at < len(data):
        payload = _payload_at(data, at)
        if payload is None:
            _refuse_frames_behind(data, at, place)
            break
        payloads.append(payload)
        at += FRAME.size + len(payload)
    return payloads, at


def _payload_at(data: bytes, at: int) -> bytes | None:
    """Return the payload of the frame that begins at `at`; None if no whole and sound one does."""
    if at + FRAME.size > len(data):
        return None
    size, crc = FRAME.unpack_from(data, at)
    end = at + FRAME.size + size
    if not size or end > len(data):
        return None
    payload = data[at + FRAME.size : end]
    return payload if zlib.crc32(payload) == crc else None


def _refuse_frames_behind(data: bytes, at: int, place: str) -> None:
    """Raise if a sound frame follows the damage at `at`: then more than an unfinished write is damaged.

    The size of the damaged frame may be what is wrong, so the next one is looked for at every byte.
    """
    for next_at in range(at + 1, len(data) - FRAME.size):
        if _payload_at(data, next_at) is not None:
            raise CorruptDataError(
                f"{place} at byte {at}",
                "a whole frame",
                f"damage, and a whole frame behind it at byte {next_at}",
                _HINT,
            )
