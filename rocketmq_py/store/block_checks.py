"""Block checks: a checksum for each block of the commit log, in side files, so that no damaged byte is ever served.

A record's own CRC covers its body only. A flipped bit in a topic, a property or a time stamp would go unnoticed, so each
64 KiB of the log have a CRC-32 of their own in `checks/<name of the log file>`. It grows with what is appended and is
written after the flush that makes those bytes durable. A block is verified when an old byte of it is first read after a
start, by recovery, and by `store verify`; what this process appended is trusted until it ends.

RocketMQ knows no such files and ignores them. A log that it wrote has no checks until they are made with `cover`.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from rocketmq_py.common.crc import crc32
from rocketmq_py.common.file_system import FileSystem
from rocketmq_py.common.layout import Field, Layout
from rocketmq_py.store.bit_flip import locate_flipped_bit
from rocketmq_py.store.commit_log import CommitLog, LogObserver
from rocketmq_py.store.errors import StoreCorruptError
from rocketmq_py.store.mapped_file import NAME_DIGITS, file_name
from rocketmq_py.store.record_search import find_gaps

logger = logging.getLogger(__name__)

BLOCK_SIZE: Final = 65_536
#: No record is longer: 4 MiB of body (`maxMessageSize`), head, topic and properties.
MAX_RECORD_SIZE: Final = (4 << 20) + (64 << 10)

CHECK_LAYOUT: Final = Layout(
    "block check",
    Field("length", "i", "bytes from the beginning of the block that the CRC covers; 0 if none"),
    Field("crc", "I", "CRC-32 of these bytes"),
)
_pack = CHECK_LAYOUT.struct.pack
_SIZE: Final = CHECK_LAYOUT.size


class _Grown(NamedTuple):
    """A block's check after an append that ended at `end`."""

    end: int
    block: int
    length: int
    crc: int


class Damage(NamedTuple):
    """Bytes `start` to `end` of the log that are not what was written: a byte, the invalid records, or a block."""

    start: int
    end: int
    expected: str
    found: str


def _runs(entries: Mapping[int, bytes]) -> Iterator[tuple[int, bytes]]:
    """Join entries that are neighbours: each write gives the interpreter away, and a thread waits long to get it back."""
    run: list[bytes] = []
    for number in sorted(entries):
        run.append(entries[number])
        if number + 1 not in entries:
            yield number + 1 - len(run), b"".join(run)
            run = []


class BlockChecks(LogObserver):
    """The checks of one log. Blocks are named by the offset of their first byte.

    Attributes:
        damages: what was found damaged since the start, by block.
    """

    def __init__(self, files: FileSystem, root_dir: str, log: CommitLog) -> None:
        self.folder = os.path.join(root_dir, "checks")
        self.damages: dict[int, tuple[Damage, ...]] = {}
        self._files = files
        self._log = log
        self._file_size = log.file_size
        # One byte for each block of a file: 16 KiB for a file of 1 GiB.
        self._good: dict[int, bytearray] = {}
        self._loaded: dict[int, bytes] = {}
        # The block that grows, how much of it is covered, and the CRC so far; -1: to be found at the next append.
        self._position = -1
        self._crc = 0
        self._grown: deque[_Grown] = deque()
        self._unwritten: dict[int, tuple[int, int]] = {}

    # --- while the log grows ------------------------------------------------------------------------------------------

    def appended(self, offset: int, data: bytes | memoryview) -> None:
        """Extend the check of the block that grows."""
        if offset != self._position:
            self._resume(offset)
        view = memoryview(data)
        while view:
            block = self._block_of(offset)
            block_end = self._block_end(block)
            part = view[: block_end - offset]
            self._crc = crc32(part, self._crc)
            offset += len(part)
            self._grown.append(_Grown(offset, block, offset - block, self._crc))
            if offset == block_end:
                self._crc = 0
            view = view[len(part) :]
        self._position = offset

    def _resume(self, offset: int) -> None:
        """Begin in the middle: after a start, or where the log jumped to the next file."""
        block = self._block_of(offset)
        self._crc = crc32(self._bytes(block, offset - block)) if offset > block else 0

    def flushed(self, offset: int) -> None:
        """Note that checks up to here describe what is on disk."""
        grown, unwritten = self._grown, self._unwritten
        while grown and grown[0].end <= offset:
            check = grown.popleft()
            unwritten[check.block] = (check.length, check.crc)

    def truncated(self, offset: int) -> None:
        """Forget what was known about bytes behind the new end."""
        self._position = -1
        self._grown.clear()
        self._unwritten = {block: check for block, check in self._unwritten.items() if block + check[0] <= offset}
        self._loaded.clear()

    def take_unwritten(self) -> dict[int, tuple[int, int]]:
        """Return the checks of what was flushed since the last time, for `write`; on the loop."""
        unwritten, self._unwritten = self._unwritten, {}
        return unwritten

    def put_back(self, checks: Mapping[int, tuple[int, int]]) -> None:
        """Take back checks that could not be written, for the next time; on the loop."""
        for block, check in checks.items():
            self._unwritten.setdefault(block, check)

    def write(self, checks: Mapping[int, tuple[int, int]]) -> None:
        """Write checks into their side files. Blocks.

        A check that a power cut keeps from the disk is an older one for fewer bytes, which is true as well.

        Raises:
            OSError: the file system refused; some may have been written, and all can be written again.
        """
        by_file: dict[int, dict[int, bytes]] = {}
        for block, check in checks.items():
            start = block - block % self._file_size
            by_file.setdefault(start, {})[(block - start) // BLOCK_SIZE] = _pack(*check)
        if by_file:
            self._files.make_directories(self.folder)
        for start, entries in by_file.items():
            fd = self._files.open_file(self._path(start), create=True)
            try:
                for first, run in _runs(entries):
                    self._files.pwrite(fd, run, first * _SIZE)
            finally:
                self._files.close(fd)

    # --- verifying ----------------------------------------------------------------------------------------------------

    def verify(self, offset: int, size: int) -> None:
        """Check the blocks that hold bytes of an earlier process, each once. Reads them, so it may wait for the disk.

        Raises:
            StoreCorruptError: some of these bytes are damaged. Bytes of the same block that are known to be good can
                still be read.
        """
        block, end = self._block_of(offset), offset + size
        while block < end:
            if not self._is_good(block):
                for damage in self.check(block):
                    if damage.start < end and damage.end > offset:
                        raise self.error(damage)
            block = self._block_end(block)

    def is_verified(self, offset: int, size: int) -> bool:
        """Tell whether `verify` would say yes without reading anything."""
        block, end = self._block_of(offset), offset + size
        while block < end:
            if not self._is_good(block):
                return False
            block = self._block_end(block)
        return True

    def is_intact(self, start: int, end: int) -> bool:
        """Tell whether checks cover all bytes from `start` to `end`, and all of them hold. Reads them."""
        block = self._block_of(start)
        while block < end:
            if self._stored(block)[0] < min(self._block_end(block), end) - block or self.check(block):
                return False
            block = self._block_end(block)
        return True

    def _is_good(self, block: int) -> bool:
        start = block - block % self._file_size
        good = self._good.get(start)
        return good is not None and good[(block - start) // BLOCK_SIZE] == 1

    def _set_good(self, block: int) -> None:
        start = block - block % self._file_size
        good = self._good.setdefault(start, bytearray(-(-self._file_size // BLOCK_SIZE)))
        good[(block - start) // BLOCK_SIZE] = 1

    def check(self, block: int) -> tuple[Damage, ...]:
        """Check one block; return what is wrong with it. A block without a check is believed."""
        if block in self.damages:
            return self.damages[block]
        length, expected = self._stored(block)
        found = crc32(self._bytes(block, length)) if length else expected
        if found == expected:
            self._set_good(block)
            return ()
        damages = self.damages[block] = self._locate(block, length, expected, found)
        for damage in damages:
            logger.error("%s", self.error(damage))
        return damages

    def _locate(self, block: int, length: int, expected: int, found: int) -> tuple[Damage, ...]:
        """Say which bytes of a damaged block are: one bit if one explains it, else invalid records, else all."""
        texts = f"CRC {expected:08x} of {length} bytes", f"{found:08x}"
        place = locate_flipped_bit(expected, found, length)
        if place is not None:
            byte, bit = place
            return (Damage(block + byte, block + byte + 1, *(texts[0], f"{texts[1]}: bit {bit} of this byte flipped")),)
        # The record that lies across the block's beginning may have begun long before.
        start, end = max(block - MAX_RECORD_SIZE, block - block % self._file_size), block + length
        gaps = [gap for gap in find_gaps(self._log, start, end) if gap.end > block]
        if gaps:
            return tuple(Damage(*gap) for gap in gaps)
        return (Damage(block, end, *texts),)

    def error(self, damage: Damage) -> StoreCorruptError:
        """Return the error that names a damage."""
        file = self._log.files.find(damage.start)
        start = file.start if file is not None else 0
        return StoreCorruptError(
            f"{file.path if file else 'commit log'} at byte {damage.start - start} (offset {damage.start})",
            damage.expected,
            damage.found,
            "The bytes changed after they were written. Messages there are not served; others are. "
            "Copy the file from a replica or a backup while the broker is stopped",
        )

    def covered(self, start: int = 0) -> Iterator[int]:
        """Yield every block of the log, from an offset on, that has a check, in order. Blocks."""
        for file in list(self._log.files.mapped_files):
            if file.end <= start:
                continue
            block = max(file.start, self._block_of(start) if start > file.start else 0)
            while block < min(file.end, self._log.max_offset):
                if self._stored(block)[0]:
                    yield block
                block = self._block_end(block)

    def cover(self, block: int, length: int) -> None:
        """Make a check for a block that has none, such as of a log that RocketMQ wrote. Reads the block."""
        self._unwritten[block] = (length, crc32(self._bytes(block, length)))
        self._loaded.pop(block - block % self._file_size, None)

    def extend(self, start: int, end: int) -> None:
        """Make checks for bytes from `start` to `end` that have none: they came after the last check that was written.

        For recovery, when the records there were judged one by one. A block that is damaged stays so.
        """
        block = self._block_of(start)
        while block < end:
            length = min(self._block_end(block), end) - block
            if self._stored(block)[0] < length and block not in self.damages:
                self.cover(block, length)
            block = self._block_end(block)

    # --- cutting and deleting -----------------------------------------------------------------------------------------

    def cut(self, offset: int) -> None:
        """Remove the checks of bytes behind a new end of the log, before the log itself is cut. Blocks.

        In this order a crash in between leaves bytes without a check, never a check for bytes that are gone.
        """
        self.truncated(offset)
        for name in self._files.list_directory(self.folder):
            start = int(name) if len(name) == NAME_DIGITS and name.isdigit() else -1
            if start >= offset:
                self._files.unlink(self._path(start))
            elif start >= 0 and start + self._file_size > offset:
                self._cut_file(start, offset)

    def _cut_file(self, start: int, offset: int) -> None:
        block = self._block_of(offset)
        length = self._stored(block)[0]
        keep = (block - start) // BLOCK_SIZE * _SIZE
        if block + length <= offset and self._files.stat(self._path(start)).size <= keep + _SIZE:
            return
        self._loaded.pop(start, None)
        fd = self._files.open_file(self._path(start))
        try:
            self._files.truncate(fd, keep)
            if offset > block and length:
                covered = min(length, offset - block)
                self._files.pwrite(fd, _pack(covered, crc32(self._bytes(block, covered))), keep)
            self._files.fdatasync(fd)
        finally:
            self._files.close(fd)

    def delete_before(self, offset: int) -> None:
        """Remove the checks of log files that were deleted. Blocks."""
        for name in self._files.list_directory(self.folder):
            if len(name) == NAME_DIGITS and name.isdigit() and int(name) + self._file_size <= offset:
                self._files.unlink(self._path(int(name)))
        self._good = {start: good for start, good in self._good.items() if start >= offset}
        self.damages = {block: damage for block, damage in self.damages.items() if block >= offset}
        self._loaded = {start: data for start, data in self._loaded.items() if start >= offset}

    # --- helpers ------------------------------------------------------------------------------------------------------

    def _stored(self, block: int) -> tuple[int, int]:
        """Return length and CRC of a block as its side file has them; (0, 0) if it has none."""
        start = block - block % self._file_size
        data = self._loaded.get(start)
        if data is None:
            try:
                data = self._files.read_file(self._path(start))
            except FileNotFoundError:
                data = b""
            self._loaded[start] = data
        at = (block - start) // BLOCK_SIZE * _SIZE
        if len(data) < at + _SIZE:
            return 0, 0
        length, crc = CHECK_LAYOUT.struct.unpack_from(data, at)
        # A side file can be damaged too; a length that cannot be makes the block one without a check.
        return (length, crc) if 0 < length <= self._block_end(block) - block else (0, 0)

    def _bytes(self, offset: int, size: int) -> bytes:
        file = self._log.files.find(offset)
        if file is None:
            return b""
        return file.read_blocking(offset - file.start, size)

    def _block_of(self, offset: int) -> int:
        start = offset - offset % self._file_size
        return offset - (offset - start) % BLOCK_SIZE

    def _block_end(self, block: int) -> int:
        start = block - block % self._file_size
        return min(block + BLOCK_SIZE, start + self._file_size)

    def _path(self, start: int) -> str:
        return os.path.join(self.folder, file_name(start))

    def __repr__(self) -> str:
        return (
            f"<BlockChecks {self.folder} {sum(map(sum, self._good.values()))} blocks good, {len(self.damages)} damaged>"
        )
