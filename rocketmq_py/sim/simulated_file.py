"""One file of the simulated disk: the bytes that readers see, and the bytes that survive a power cut."""

from __future__ import annotations

import mmap
import os
import random
import tempfile
import weakref
from typing import Final

#: What a disk writes as a whole or not at all.
SECTOR: Final = 512
#: What a file system hands out.
BLOCK: Final = 4096


def _anonymous_file() -> int:
    """Return a descriptor of an unnamed file in memory; maps and reads of it agree, as those of a page cache do."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("simulated-file", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class SimulatedFile:
    """An inode: it lives as long as a name, a descriptor or a pending operation refers to it.

    Attributes:
        size: bytes that readers see.
        modified_ms: time of the last write, milliseconds since 1970.
        allocated_bytes: what it takes of the disk.
    """

    def __init__(self, modified_ms: int) -> None:
        self.modified_ms = modified_ms
        self.size = 0
        self._allocated_to = 0
        self._blocks_beyond: set[int] = set()
        self._cache = -1
        self._new_cache()
        # The disk: sectors that are not all zero, and the size.
        self._durable: dict[int, bytes] = {}
        self._durable_size = 0
        # Sector -> the contents that were written since the last sync, oldest first: any one may reach the disk.
        self._pending: dict[int, list[bytes]] = {}
        self._is_size_pending = False
        self._is_map_written = False

    def _new_cache(self) -> None:
        self._cache = _anonymous_file()
        # Maps of the dead process keep the old memory alive; the descriptor must not be.
        self._close_cache = weakref.finalize(self, os.close, self._cache)

    @property
    def allocated_bytes(self) -> int:
        """Bytes of disk space in use."""
        return self._allocated_to + BLOCK * len(self._blocks_beyond)

    @property
    def pending_sectors(self) -> int:
        """How many sectors a power cut could take back."""
        return len(self._pending)

    def read(self, size: int, offset: int) -> bytes:
        """Return what readers see."""
        return os.pread(self._cache, max(0, min(size, self.size - offset)), offset)

    def write(self, data: bytes, offset: int) -> None:
        """Write to the cache and remember the sectors."""
        os.pwrite(self._cache, data, offset)
        self._blocks_beyond.update(self._blocks(offset, len(data)))
        if offset + len(data) > self.size:
            self.size = offset + len(data)
            self._is_size_pending = True
        for sector in range(offset // SECTOR, (offset + len(data) + SECTOR - 1) // SECTOR):
            self._pending.setdefault(sector, []).append(self._sector(sector))

    def damage(self, data: bytes, offset: int) -> None:
        """Change bytes in the cache and on the disk."""
        os.pwrite(self._cache, data, offset)
        for sector in range(offset // SECTOR, (offset + len(data) + SECTOR - 1) // SECTOR):
            self._durable[sector] = self._sector(sector)
            self._pending.pop(sector, None)

    def growth(self, offset: int, size: int) -> int:
        """Return how much disk space a write would take in addition."""
        return BLOCK * len(self._blocks(offset, size) - self._blocks_beyond)

    def _blocks(self, offset: int, size: int) -> set[int]:
        first = max(offset, self._allocated_to) // BLOCK
        return set(range(first, (offset + size + BLOCK - 1) // BLOCK))

    def allocate(self, size: int) -> None:
        """Reserve the first `size` bytes; the file grows, what was there stays."""
        self._allocated_to = max(self._allocated_to, (size + BLOCK - 1) // BLOCK * BLOCK)
        self._blocks_beyond = {block for block in self._blocks_beyond if block * BLOCK >= self._allocated_to}
        if size > self.size:
            self.truncate(size)

    def truncate(self, size: int) -> None:
        """Set the size; space behind it is free again, and reads as zeros if the file grows later."""
        os.ftruncate(self._cache, size)
        if size < self.size:
            first_gone = (size + SECTOR - 1) // SECTOR
            for sector in range(first_gone, (self.size + SECTOR - 1) // SECTOR):
                if sector in self._durable or sector in self._pending:
                    self._pending.setdefault(sector, []).append(bytes(SECTOR))
            if size % SECTOR:
                self._pending.setdefault(size // SECTOR, []).append(self._sector(size // SECTOR))
            self._allocated_to = min(self._allocated_to, (size + BLOCK - 1) // BLOCK * BLOCK)
            self._blocks_beyond = {block for block in self._blocks_beyond if block * BLOCK < size}
        self.size = size
        self._is_size_pending = True

    def map(self, size: int, *, writable: bool) -> mmap.mmap:
        """Map the cache."""
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        self._is_map_written |= writable
        return mmap.mmap(self._cache, size, flags=mmap.MAP_SHARED, prot=protection)

    def sync(self) -> None:
        """Make everything that readers see durable."""
        if self._is_map_written:
            self._note_map_writes()
        for sector in self._pending:
            self._keep(sector, self._sector(sector))
        self._pending.clear()
        self._durable_size = self.size
        self._is_size_pending = False

    def forget_pending(self) -> None:
        """A failed sync: readers go on seeing the pages, which nothing will ever write."""
        self._pending.clear()
        self._is_size_pending = False

    def crash(self, rng: random.Random, keep: float) -> None:
        """Become what the disk holds, with each pending sector kept or dropped by chance."""
        if self._is_map_written:
            self._note_map_writes()
        for sector, versions in sorted(self._pending.items()):
            if rng.random() < keep:
                self._keep(sector, rng.choice(versions) if keep < 1 else versions[-1])
        if self._is_size_pending and rng.random() < keep:
            self._durable_size = self.size
        self._pending.clear()
        self._is_size_pending = self._is_map_written = False
        self._load_durable()

    def _load_durable(self) -> None:
        self._close_cache()
        self._new_cache()
        self.size = self._durable_size
        os.ftruncate(self._cache, self.size)
        for sector, data in list(self._durable.items()):
            left = self.size - sector * SECTOR
            if left <= 0:
                del self._durable[sector]
                continue
            self._durable[sector] = data[:left].ljust(SECTOR, b"\0")
            os.pwrite(self._cache, data[:left], sector * SECTOR)

    def _keep(self, sector: int, data: bytes) -> None:
        if data.count(0) == SECTOR:
            self._durable.pop(sector, None)
        else:
            self._durable[sector] = data

    def _note_map_writes(self) -> None:
        """Find what was written through a map, of which no call told us: whatever differs from the disk."""
        empty = bytes(SECTOR)
        for sector in range((self.size + SECTOR - 1) // SECTOR):
            seen = self._sector(sector)
            if sector not in self._pending and seen != self._durable.get(sector, empty):
                self._pending[sector] = [seen]

    def _sector(self, sector: int) -> bytes:
        return os.pread(self._cache, SECTOR, sector * SECTOR).ljust(SECTOR, b"\0")
