"""A queue of units of equal size: the old ones in files, the young ones in memory.

    unit      first            flushed            end
    files       |================|                  |
    tail                         |++++++++++++++++++|
                 read through an LRU   answered from memory: what live consumers ask for

Appending only adds to the tail. A background step (`consume_queue_store.py`) writes tails to files; units that a crash
takes with it are made again from the commit log.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar

from rocketmq_py.store.queue_files import Key, QueueFiles


class QueueSnapshot:
    """A queue as it was at one moment, for a search in a thread; files are read with descriptors of its own.

    Attributes:
        first: number of the first unit.
        end: number behind the last unit.
    """

    __slots__ = ("_files", "_flushed", "_key", "_tail", "_unit_size", "end", "first")

    def __init__(self, queue: UnitQueue) -> None:
        self.first = queue.first
        self.end = queue.end
        self._key: Key = (queue.topic, queue.queue_id)
        self._files = queue.files
        self._unit_size = queue.unit_size
        self._flushed = queue.flushed
        self._tail = bytes(queue.tail)

    def unit(self, number: int) -> bytes:
        """Return one unit, waiting for the disk if need be; nothing if it is not there."""
        size = self._unit_size
        if number >= self._flushed:
            at = (number - self._flushed) * size
            return self._tail[at : at + size]
        return self._files.read_blocking(self._key, number * size, size)


class UnitQueue:
    """One queue's units, by number. Its subclasses know what a unit means.

    Attributes:
        topic: name of the topic.
        queue_id: number of the queue.
        files: where units are kept.
        first: number of the unit at the beginning of the first file.
        flushed: units before this number are in files.
        tail: the units from `flushed` on.
        dirty_since: loop time at which the oldest unit of the tail came; 0.0 if the tail is empty.
        is_deleted: the topic was deleted; nothing is written any more.
        units_per_file: 300,000 by default.
    """

    __slots__ = (
        "dirty_since",
        "files",
        "first",
        "flushed",
        "is_deleted",
        "queue_id",
        "tail",
        "topic",
        "units_per_file",
    )

    unit_size: ClassVar[int]

    def __init__(self, topic: str, queue_id: int, files: QueueFiles) -> None:
        self.topic = topic
        self.queue_id = queue_id
        self.files = files
        self.first = 0
        self.flushed = 0
        self.tail = bytearray()
        self.dirty_since = 0.0
        self.is_deleted = False
        self.units_per_file = files.file_size // self.unit_size

    @property
    def end(self) -> int:
        """Number behind the last unit."""
        return self.flushed + len(self.tail) // self.unit_size

    @property
    def key(self) -> Key:
        """Topic and queue id."""
        return (self.topic, self.queue_id)

    def read(self, start: int, count: int) -> bytes | bytearray | None:
        """Return up to `count` units from number `start` on, all of one file.

        Returns:
            Fewer units at the end of a file or of the queue; None if reading would wait for the disk.
        """
        size, per_file, flushed = self.unit_size, self.units_per_file, self.flushed
        count = min(count, per_file - start % per_file)
        if start >= flushed:
            at = (start - flushed) * size
            return self.tail[at : at + count * size]
        count = min(count, self.end - start)
        if start < self.first or count <= 0:
            return b""
        old = min(count, flushed - start)
        data = self.files.read((self.topic, self.queue_id), start * size, old * size, flushed * size)
        if data is None or len(data) != old * size:
            # A file that was deleted or cut by somebody else ends with its last whole unit.
            return data and data[: len(data) // size * size]
        return data + self.tail[: (count - old) * size]

    def read_blocking(self, start: int, count: int) -> bytes | bytearray:
        """Like `read`, but waits for the disk."""
        data = self.read(start, count)
        return data if data is not None else self.cold_read(start, count)()

    def cold_read(self, start: int, count: int) -> Callable[[], bytes]:
        """Return what reads units that `read` answered None for; for a thread.

        Where they lie is decided here, on the loop, so the thread touches neither the queue nor the kept descriptors.
        """
        old = min(count, self.flushed - start)
        return partial(
            self.files.read_blocking, (self.topic, self.queue_id), start * self.unit_size, old * self.unit_size
        )

    def snapshot(self) -> QueueSnapshot:
        """Return the queue as it is now, for use in a thread."""
        return QueueSnapshot(self)

    def cut(self, end: int) -> None:
        """Remove the units from number `end` on. Blocks if some of them are in files."""
        if end >= self.flushed:
            del self.tail[(end - self.flushed) * self.unit_size :]
            return
        self.tail.clear()
        self.files.cut(self.key, end * self.unit_size)
        self.flushed = end
        self.first = min(self.first, end)

    # --- write-behind -------------------------------------------------------------------------------------------------

    def pending(self) -> tuple[int, bytes]:
        """Return the position of the tail in bytes, and a copy of it."""
        return self.flushed * self.unit_size, bytes(self.tail)

    def written(self, position: int, data: bytes, now: float) -> bool:
        """Note that what `pending` returned is in files. What came since stays in memory.

        Returns:
            False, and nothing changes, if the queue was cut or began anew while a thread wrote: its tail is another one.
        """
        if position != self.flushed * self.unit_size or not self.tail.startswith(data):
            return False
        del self.tail[: len(data)]
        self.flushed += len(data) // self.unit_size
        self.dirty_since = now if self.tail else 0.0
        return True

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.topic}-{self.queue_id} units {self.first}..{self.end} flushed {self.flushed}>"
