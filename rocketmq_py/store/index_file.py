"""An index file: a hash map on disk, of fixed size, in which colliding keys are linked newest first.

    header (40 bytes) | slots, 4 bytes each | entries, 20 bytes each; entry 0 is never used

A slot holds the number of its newest entry, an entry that of the one before it in the same slot. The key itself is not
stored: what is found by its hash is a candidate.

The slots are allocated when the file is made and written through the map. Entries are written with `pwrite` behind each
other, so that a full disk is an error and not a signal that kills the process.

Source: `IndexFile`, `IndexHeader`, RocketMQ 5.3.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from rocketmq_py.common.file_system import FileSystem
from rocketmq_py.common.java import I32_MAX
from rocketmq_py.common.layout import Field, Layout
from rocketmq_py.store.index_vector import Array, Vectors

HEADER_LAYOUT: Final = Layout(
    "index file header",
    Field("begin_timestamp", "q", "store time of the first entry, ms"),
    Field("end_timestamp", "q", "store time of the last entry, ms"),
    Field("begin_physical_offset", "q", "record of the first entry"),
    Field("end_physical_offset", "q", "record of the last entry"),
    Field("hash_slot_count", "i", "slots that are not empty"),
    Field("index_count", "i", "number of the next free entry: entries + 1"),
)
ENTRY_LAYOUT: Final = Layout(
    "index entry",
    Field("key_hash", "i", "absolute value of the Java hash of topic#key"),
    Field("physical_offset", "q", "record in the commit log"),
    Field("time_diff", "i", "whole seconds after begin_timestamp"),
    Field("previous", "i", "entry before this one in its slot, 0 for none"),
)
SLOT_SIZE: Final = 4
_INT = struct.Struct(">i")


def index_file_size(slots: int, entries: int) -> int:
    """Return the size of a file: 420,000,040 bytes with RocketMQ's 5,000,000 slots and 20,000,000 entries."""
    return HEADER_LAYOUT.size + slots * SLOT_SIZE + entries * ENTRY_LAYOUT.size


class IndexFile:
    """One index file, open.

    Args:
        files: the file system.
        path: the file; made if it is missing.
        slots: number of slots.
        max_entries: entries, the unused entry 0 included.

    Attributes:
        begin_timestamp, end_timestamp: store times of the first and last entry, ms.
        begin_physical_offset, end_physical_offset: their records.
        hash_slot_count: slots in use.
        index_count: number of the next entry; 1 for a file without entries.
    """

    def __init__(self, files: FileSystem, path: str, slots: int, max_entries: int) -> None:
        self.path = path
        self.slots = slots
        self.max_entries = max_entries
        self._files = files
        self._entries_at = HEADER_LAYOUT.size + slots * SLOT_SIZE
        size = index_file_size(slots, max_entries)
        is_new = not files.exists(path)
        self._fd = files.open_file(path, create=True)
        try:
            if is_new:
                files.allocate(self._fd, self._entries_at)
                files.truncate(self._fd, size)
            self._map = files.map_file(self._fd, size, writable=True, random_access=True)
        except BaseException:
            files.close(self._fd)
            if is_new:
                files.unlink(path)
            raise
        (
            self.begin_timestamp,
            self.end_timestamp,
            self.begin_physical_offset,
            self.end_physical_offset,
            self.hash_slot_count,
            count,
        ) = HEADER_LAYOUT.struct.unpack_from(self._map)
        self.index_count: int = max(count, 1)

    @property
    def is_full(self) -> bool:
        """Whether no entry fits any more."""
        return self.index_count >= self.max_entries

    def begin_after(self, timestamp: int, physical_offset: int) -> None:
        """Begin an empty file with the end of the one before it, as RocketMQ does; its first entry counts from there."""
        if timestamp > 0:
            self.begin_timestamp = self.end_timestamp = timestamp
        if physical_offset > 0:
            self.begin_physical_offset = self.end_physical_offset = physical_offset

    def put(self, hashes: Sequence[int], offsets: Sequence[int], timestamps: Sequence[int]) -> int:
        """Add entries and return how many; fewer than given if the file is full then.

        Args:
            hashes: of the keys, see `index_hash.py`.
            offsets: of their records, growing.
            timestamps: store times of their records, ms.

        Raises:
            OSError: the entries could not be written; the file is as it was.
        """
        count = min(len(hashes), self.max_entries - self.index_count)
        if count <= 0:
            return 0
        if self.index_count == 1:
            # The first entry may count from the end of the file before; the others count from the first.
            self._put(hashes[:1], offsets[:1], timestamps[:1])
            self.begin_timestamp, self.begin_physical_offset = timestamps[0], offsets[0]
            self._write_header()
            if count == 1:
                return 1
            self._put(hashes[1:count], offsets[1:count], timestamps[1:count])
        else:
            self._put(hashes[:count], offsets[:count], timestamps[:count])
        self._write_header()
        return count

    def put_vector(self, vectors: Vectors, hashes: Array, offsets: Array, timestamps: Array) -> int:
        """Do what `put` does, with the same bytes, for columns that are arrays."""
        count = min(len(hashes), self.max_entries - self.index_count)
        if count <= 0:
            return 0
        begun = 0
        if self.index_count == 1:
            # See `put`.
            begun = self.put(hashes[:1].tolist(), offsets[:1].tolist(), timestamps[:1].tolist())
        if begun < count:
            self._put_vector(vectors, hashes[begun:count], offsets[begun:count], timestamps[begun:count])
            self._write_header()
        return count

    def _put(self, hashes: Sequence[int], offsets: Sequence[int], timestamps: Sequence[int]) -> None:
        begin = self.begin_timestamp
        if begin <= 0:
            diffs = [0] * len(timestamps)
        else:
            diffs = [min(max(stamp - begin, 0) // 1000, I32_MAX) for stamp in timestamps]
        self._put_one_by_one(hashes, offsets, diffs)
        self.end_timestamp, self.end_physical_offset = timestamps[-1], offsets[-1]

    def _put_one_by_one(self, hashes: Sequence[int], offsets: Sequence[int], diffs: Sequence[int]) -> None:
        first, unpack, pack = self.index_count, _INT.unpack_from, ENTRY_LAYOUT.struct.pack
        newest: dict[int, int] = {}
        entries: list[bytes] = []
        fresh = 0
        for number, key_hash in enumerate(hashes, first):
            at = HEADER_LAYOUT.size + key_hash % self.slots * SLOT_SIZE
            previous = newest.get(at)
            if previous is None:
                previous = unpack(self._map, at)[0]
                if not 0 < previous < first:
                    previous = 0
            fresh += previous == 0
            newest[at] = number
            row = number - first
            entries.append(pack(key_hash, offsets[row], diffs[row], previous))
        self._write_entries(first, b"".join(entries))
        # The slots last: whoever follows one finds the entry written.
        for at, number in newest.items():
            _INT.pack_into(self._map, at, number)
        self.hash_slot_count += fresh
        self.index_count = first + len(hashes)

    def _put_vector(self, vectors: Vectors, hashes: Array, offsets: Array, timestamps: Array) -> None:
        first = self.index_count
        slots = vectors.slots(self._map, self.slots, HEADER_LAYOUT.size)
        previous, changed, newest = vectors.link(slots, hashes, first)
        diffs = vectors.seconds_after(self.begin_timestamp, timestamps, I32_MAX) if self.begin_timestamp > 0 else 0
        self._write_entries(first, vectors.entries(hashes, offsets, diffs, previous))
        # The slots last, as above.
        slots[changed] = newest
        self.hash_slot_count += vectors.count_zeros(previous)
        self.index_count = first + len(hashes)
        self.end_timestamp, self.end_physical_offset = int(timestamps[-1]), int(offsets[-1])

    def _write_entries(self, first: int, data: bytes) -> None:
        at = self._entries_at + first * ENTRY_LAYOUT.size
        written = 0
        while written < len(data):
            written += self._files.pwrite(self._fd, memoryview(data)[written:], at + written)

    def _write_header(self) -> None:
        HEADER_LAYOUT.struct.pack_into(
            self._map,
            0,
            self.begin_timestamp,
            self.end_timestamp,
            self.begin_physical_offset,
            self.end_physical_offset,
            self.hash_slot_count,
            self.index_count,
        )

    def find(self, key_hash: int, max_num: int, begin: int, end: int) -> list[int]:
        """Return physical offsets of entries with a hash, newest first, stored from `begin` to `end` (ms, whole seconds).

        The walk is bounded by the entries of the file: a chain that does not lead to ever older entries is damaged and
        ends there.
        """
        found: list[int] = []
        number = _INT.unpack_from(self._map, HEADER_LAYOUT.size + key_hash % self.slots * SLOT_SIZE)[0]
        limit = self.index_count
        while 0 < number < limit and len(found) < max_num:
            entry_hash, offset, diff, previous = self.entry(number)
            # Entry 1 may count from the end of the file before, see `put`. Its time is the file's beginning.
            # Differs from RocketMQ: that takes it for younger than it is, and does not find it by its own time.
            stored = self.begin_timestamp + (diff * 1000 if number > 1 else 0)
            if diff < 0 or stored < begin:
                break
            if entry_hash == key_hash and stored <= end:
                found.append(offset)
            limit, number = number, previous
        return found

    def entry(self, number: int) -> tuple[int, int, int, int]:
        """Return key hash, physical offset, time difference (s) and previous entry of an entry."""
        at = self._entries_at + number * ENTRY_LAYOUT.size
        key_hash, offset, diff, previous = ENTRY_LAYOUT.struct.unpack_from(self._map, at)
        return key_hash, offset, diff, previous

    def overlaps(self, begin: int, end: int) -> bool:
        """Tell whether the file has entries from a span of store times, ms."""
        return self.index_count > 1 and self.begin_timestamp <= end and self.end_timestamp >= begin

    def flush(self) -> None:
        """Force everything to disk. Blocks."""
        self._files.fdatasync(self._fd)

    def close(self) -> None:
        """Close the file."""
        self._map.close()
        self._files.close(self._fd)

    def destroy(self) -> None:
        """Close and delete the file. Blocks."""
        self.close()
        self._files.unlink(self.path)

    def __repr__(self) -> str:
        span = f"{self.begin_physical_offset}..{self.end_physical_offset}"
        return f"<IndexFile {self.path} {self.index_count - 1} entries, log {span}>"
