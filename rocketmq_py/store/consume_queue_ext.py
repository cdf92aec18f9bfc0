"""The extension of a consume queue: units of any size, for what does not fit into 20 bytes.

With `enableConsumeQueueExt` the last 8 bytes of a queue's unit hold no tags code but an *address* in the extension,
where the real tags code, the store time and the bloom filter's bit map lie. Addresses start at the smallest 64-bit
number, far below every tags code, so that both can be told apart.

    consumequeue_ext/<topic>/<queue id>/<first position of the file, 20 digits>

A unit never crosses the end of a file: where it would not fit, -1 marks the rest as unused.

Source: `ConsumeQueueExt`, RocketMQ 5.3.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rocketmq_py.common.file_system import FileSystem
from rocketmq_py.common.java import I64_MIN
from rocketmq_py.common.layout import Field, Layout

UNIT_LAYOUT: Final = Layout(
    "Consume queue extension unit, without its bit map",
    Field("unit_size", "h", "size of the whole unit, 20 + bit_map_size"),
    Field("tags_code", "q", "Java hash of the tag"),
    Field("store_timestamp", "q", "when the message was stored, milliseconds since 1970"),
    Field("bit_map_size", "h", "bytes of the bit map that follows, 0 if there is none"),
)

#: 48 MiB, the default of mappedFileSizeConsumeQueueExt.
DEFAULT_FILE_SIZE: Final = 50_331_648
#: A unit's size is a signed 16-bit number.
MAX_UNIT_SIZE: Final = 32_767
#: Behind the last unit of a file: nothing more is here.
END_MARK: Final = b"\xff\xff"
#: Bytes at the end of a file that no unit may use.
_RESERVED: Final = 4
#: Every address is at or below this, and no 32-bit tags code is.
MAX_ADDRESS: Final = -2_147_483_649
#: How much a read fetches: neighbours are asked for next.
_WINDOW_SIZE: Final = 65_536
_HEAD: Final = UNIT_LAYOUT.struct
_FOLDER: Final = "consumequeue_ext"


@dataclass(frozen=True, slots=True)
class ExtUnit:
    """What the extension holds for one message.

    Attributes:
        tags_code: Java hash of the message's tag.
        store_timestamp: when it was stored, milliseconds since 1970.
        bit_map: bits of the subscriptions that matched, or nothing.
    """

    tags_code: int
    store_timestamp: int
    bit_map: bytes = b""

    def encode(self) -> bytes:
        """Return the unit's bytes."""
        size = UNIT_LAYOUT.size + len(self.bit_map)
        return _HEAD.pack(size, self.tags_code, self.store_timestamp, len(self.bit_map)) + self.bit_map

    @classmethod
    def decode(cls, data: bytes) -> ExtUnit | None:
        """Return the unit that `data` begins with; None if it begins with no whole unit."""
        if len(data) < UNIT_LAYOUT.size:
            return None
        size, tags_code, store_timestamp, bit_map_size = _HEAD.unpack_from(data)
        if size != UNIT_LAYOUT.size + bit_map_size or bit_map_size < 0 or len(data) < size:
            return None
        return cls(tags_code, store_timestamp, bytes(data[UNIT_LAYOUT.size : size]))


def is_address(tags_code: int) -> bool:
    """Tell whether the last field of a queue's unit is an address in the extension."""
    return tags_code <= MAX_ADDRESS


def to_address(position: int) -> int:
    """Return the address of a position."""
    return position + I64_MIN


def to_position(address: int) -> int:
    """Return the position of an address, in bytes from the first file's start."""
    return address - I64_MIN


class QueueExtension:
    """The extension of one queue. Like the queue it holds no descriptor: files are opened for each call.

    Appending, cutting and deleting happen on the loop; `read` may also be called from a thread that serves a cold
    pull, as it only replaces its window by another one.

    Args:
        folder: `consumequeue_ext/<topic>/<queue id>`; created with the first unit.
        file_size: size of each file in bytes (`mappedFileSizeConsumeQueueExt`).
        files: the file system.
    """

    def __init__(self, folder: str, file_size: int, files: FileSystem) -> None:
        self.folder = folder
        self.file_size = file_size
        self.end = 0
        self._files = files
        self._starts: list[int] = []
        self._dirty: set[int] = set()
        # What was read last: its position and bytes. Replaced as a whole, never changed.
        self._window: tuple[int, bytes] = (0, b"")

    def load(self) -> None:
        """Find the files and the end of the last unit."""
        names = self._files.list_directory(self.folder)
        self._starts = sorted(int(name) for name in names if len(name) == 20 and name.isascii() and name.isdigit())
        self.end = 0
        # Units are only ever appended, so the last file that holds one holds the end.
        for start in reversed(self._starts):
            used = self._used(start)
            self.end = start + used
            if used:
                break

    def append(self, units: Sequence[ExtUnit]) -> list[int | None]:
        """Write units behind the last one.

        Returns:
            The address of each; None for a unit that is larger than a unit may be.

        Raises:
            OSError: the file system refused; nothing that was written then counts.
        """
        addresses: list[int | None] = []
        blob = bytearray()
        at = self.end
        for unit in units:
            data = unit.encode() if UNIT_LAYOUT.size + len(unit.bit_map) <= MAX_UNIT_SIZE else b""
            if not data or len(data) > self.file_size - _RESERVED:
                addresses.append(None)
                continue
            room = self.file_size - at % self.file_size
            if len(data) > room - _RESERVED:
                self._write(at - len(blob), bytes(blob) + END_MARK)
                blob.clear()
                at += room
            addresses.append(to_address(at))
            blob += data
            at += len(data)
        self._write(at - len(blob), bytes(blob))
        self.end = at
        return addresses

    def read(self, address: int) -> ExtUnit | None:
        """Return the unit at an address; None if there is none, such as after a crash."""
        position = to_position(address)
        start, data = self._window
        unit = ExtUnit.decode(data[position - start : position - start + MAX_UNIT_SIZE]) if position >= start else None
        if unit is None and 0 <= position < self.end:
            data = self._read(position, _WINDOW_SIZE)
            self._window = (position, data)
            unit = ExtUnit.decode(data[:MAX_UNIT_SIZE])
        return unit

    def truncate_after(self, address: int | None) -> None:
        """Cut everything behind the unit at `address`, or everything if there is none."""
        unit = None if address is None else self.read(address)
        end = 0 if address is None or unit is None else to_position(address) + UNIT_LAYOUT.size + len(unit.bit_map)
        if end >= self.end:
            return
        while self._starts and self._starts[-1] >= max(end, 1):
            self._remove(self._starts.pop())
        self._window = (0, b"")
        self.end = end
        if self._starts and end > self._starts[-1]:
            self._blank(end)
        elif self._starts:
            self._remove(self._starts.pop())

    def delete_before(self, address: int) -> None:
        """Delete the files that only hold units below `address`: their messages are gone."""
        position = to_position(address)
        while len(self._starts) > 1 and self._starts[0] + self.file_size <= position:
            self._remove(self._starts.pop(0))

    def flush(self) -> None:
        """Force what was written to disk. Blocks."""
        while self._dirty:
            start = self._dirty.pop()
            fd = self._files.open_file(self._path(start))
            try:
                self._files.fdatasync(fd)
            finally:
                self._files.close(fd)

    def destroy(self) -> None:
        """Delete all files and the folder."""
        for start in self._starts:
            self._remove(start)
        self._starts.clear()
        self.end = 0
        self._window = (0, b"")
        if self._files.is_directory(self.folder):
            self._files.remove_directory(self.folder)

    def _path(self, start: int) -> str:
        return os.path.join(self.folder, f"{start:020}")

    def _used(self, start: int) -> int:
        """Return how many bytes of a file are units, by walking from one to the next."""
        at = 0
        while at < self.file_size:
            window = self._read(start + at, _WINDOW_SIZE)
            consumed = 0
            while (unit := ExtUnit.decode(window[consumed : consumed + MAX_UNIT_SIZE])) is not None:
                consumed += UNIT_LAYOUT.size + len(unit.bit_map)
            if not consumed:
                break
            at += consumed
        return at

    def _read(self, position: int, size: int) -> bytes:
        start = position // self.file_size * self.file_size
        if start not in self._starts:
            return b""
        fd = self._files.open_file(self._path(start), write=False)
        try:
            return self._files.pread(fd, min(size, start + self.file_size - position), position - start)
        finally:
            self._files.close(fd)

    def _write(self, position: int, data: bytes) -> None:
        if not data:
            return
        start = position // self.file_size * self.file_size
        is_new = start not in self._starts
        if is_new:
            self._files.make_directories(self.folder)
        fd = self._files.open_file(self._path(start), create=is_new)
        try:
            if is_new:
                # RocketMQ refuses files of another size. The rest is a hole: this costs no space.
                self._files.truncate(fd, self.file_size)
                self._starts.append(start)
            view = memoryview(data)
            written = 0
            while written < len(data):
                written += self._files.pwrite(fd, view[written:], position - start + written)
        finally:
            self._files.close(fd)
        self._dirty.add(start)

    def _blank(self, end: int) -> None:
        """Make the rest of the last file a hole again, so that no old unit is found there."""
        start = self._starts[-1]
        fd = self._files.open_file(self._path(start))
        try:
            self._files.truncate(fd, end - start)
            self._files.truncate(fd, self.file_size)
        finally:
            self._files.close(fd)
        self._dirty.add(start)

    def _remove(self, start: int) -> None:
        self._dirty.discard(start)
        self._files.unlink(self._path(start))

    def __repr__(self) -> str:
        return f"<QueueExtension {self.folder} {len(self._starts)} files, end {self.end}>"


class ConsumeQueueExtStore:
    """The extensions of all queues of a store, loaded when first used.

    Args:
        store_path: the store's root.
        file_size: size of each file in bytes.
        files: the file system.
    """

    def __init__(self, store_path: str, file_size: int, files: FileSystem) -> None:
        self._root = os.path.join(store_path, _FOLDER)
        self._file_size = file_size
        self._files = files
        self._queues: dict[tuple[str, int], QueueExtension] = {}

    def get(self, topic: str, queue_id: int) -> QueueExtension:
        """Return the extension of a queue."""
        extension = self._queues.get((topic, queue_id))
        if extension is None:
            folder = os.path.join(self._root, topic, str(queue_id))
            extension = self._queues[topic, queue_id] = QueueExtension(folder, self._file_size, self._files)
            extension.load()
        return extension

    def read(self, topic: str, queue_id: int, address: int) -> ExtUnit | None:
        """Return the unit at an address of a queue's extension, or None."""
        return self.get(topic, queue_id).read(address)

    def flush(self) -> None:
        """Force everything written to disk. Blocks."""
        for extension in list(self._queues.values()):
            extension.flush()

    def delete_topic(self, topic: str) -> None:
        """Delete the extensions of a topic's queues."""
        folder = os.path.join(self._root, topic)
        for name in self._files.list_directory(folder):
            if name.isascii() and name.isdigit():
                self.get(topic, int(name)).destroy()
                del self._queues[topic, int(name)]
        if self._files.is_directory(folder) and not self._files.list_directory(folder):
            self._files.remove_directory(folder)

    def __repr__(self) -> str:
        return f"<ConsumeQueueExtStore {self._root} {len(self._queues)} queues>"
