"""Delivery marks: how far each level is, written with each batch, for the start after a killed process.

`delayOffset.json` is written every 10 s. A process that is killed leaves more behind than that: all that it ever wrote is
in the page cache, the log with the deliveries too. So each batch leaves a mark, 28 bytes at a fixed place of a small
file, and the next start goes on there instead of delivering 10 s of messages again.

After a power cut the file may say more than the log holds. Therefore a mark names the last delivered record, and counts
only if that record is in the log: a log that has it has all deliveries before it.

Nothing depends on this file. Without it, or with one that is damaged, `delayOffset.json` alone counts.

Source: our own; RocketMQ ignores the file.
"""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from rocketmq_py.common.file_system import FileSystem
from rocketmq_py.common.layout import Field, Layout
from rocketmq_py.store.put_result import PutMessageResult

logger = logging.getLogger(__name__)

FILE_NAME: Final = "deliveryMarks"
MARK_LAYOUT: Final = Layout(
    "delivery mark",
    Field("queue_offset", "q", "next message of the level to deliver"),
    Field("physical_offset", "q", "last delivered record: where it lies in the log"),
    Field("store_timestamp", "q", "last delivered record: when it was stored, ms"),
    Field("crc", "I", "CRC-32 of the 24 bytes before"),
)
#: Distance of two marks: no mark spans two sectors of a disk, so none is half old and half new.
SLOT_SIZE: Final = 32
_BODY_SIZE: Final = MARK_LAYOUT.size - 4


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a level was, and the record that shows it."""

    level: int
    queue_offset: int
    physical_offset: int
    store_timestamp: int


class DeliveryMarks:
    """Writes and reads the marks.

    Args:
        files: the file system.
        root_dir: the store's folder.
        levels: how many levels have a place in the file.
    """

    def __init__(self, files: FileSystem, root_dir: str, levels: int) -> None:
        self.path = os.path.join(root_dir, FILE_NAME)
        self._files = files
        self._size = levels * SLOT_SIZE
        self._fd = -1

    def load(self, store_time_of: Callable[[int], int]) -> list[Mark]:
        """Open the file and return the marks that the log confirms. Blocks.

        Args:
            store_time_of: returns the store time of the record at an offset of the log, -1 if there is none.
        """
        try:
            self._fd = self._files.open_file(self.path, create=True)
            data = self._files.pread(self._fd, self._size, 0)
            if len(data) < self._size:
                # Its blocks are there from the beginning: a mark must not fail because the disk is full.
                self._files.allocate(self._fd, self._size)
        except OSError as error:
            self._give_up(error)
            return []
        return [mark for mark in marks_of(data) if store_time_of(mark.physical_offset) == mark.store_timestamp]

    def mark(self, level: int, queue_offset: int, last: PutMessageResult) -> None:
        """Note that all messages of a level before an offset were delivered, the last one with this result.

        A write into the page cache, as that of the log is; it is never forced to disk.
        """
        if self._fd < 0 or level * SLOT_SIZE > self._size:
            return
        body = MARK_LAYOUT.struct.pack(queue_offset, last.wrote_offset, last.store_timestamp, 0)[:_BODY_SIZE]
        data = body + zlib.crc32(body).to_bytes(4, "big")
        try:
            self._files.pwrite(self._fd, data, (level - 1) * SLOT_SIZE)
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """Close the file."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._files.close(fd)

    def _give_up(self, error: OSError) -> None:
        logger.warning("%s cannot be used (%s); after a crash more messages are delivered twice", self.path, error)
        self.close()

    def __repr__(self) -> str:
        return f"<DeliveryMarks {self.path} {'open' if self._fd >= 0 else 'closed'}>"


def marks_of(data: bytes) -> Iterator[Mark]:
    """Yield the marks in a file's bytes that are whole."""
    for at in range(0, len(data) - MARK_LAYOUT.size + 1, SLOT_SIZE):
        queue_offset, physical_offset, store_timestamp, crc = MARK_LAYOUT.struct.unpack_from(data, at)
        if queue_offset > 0 and zlib.crc32(data[at : at + _BODY_SIZE]) == crc:
            yield Mark(at // SLOT_SIZE + 1, queue_offset, physical_offset, store_timestamp)
