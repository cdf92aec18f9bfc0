"""The timer log: one unit for each message that waits, in the order in which they came.

A unit says where the message lies in the commit log, and where the unit before it is that is due in the same second.
Reading the units of a second is walking a chain backwards from the head that the wheel knows.

Units are of one size, so the log has no index: a file holds (file size - 16) / 52 of them, and a blank unit ends it.

Source: `TimerLog`, RocketMQ 5.3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from rocketmq_py.common.environment import Environment
from rocketmq_py.common.errors import ConfigError
from rocketmq_py.common.file_system import make_durable_directories
from rocketmq_py.common.layout import Field, Layout
from rocketmq_py.common.record import MAGIC_BLANK, MIN_RECORD_SIZE
from rocketmq_py.store.mapped_file import MappedFile
from rocketmq_py.store.mapped_file_queue import MappedFileQueue

UNIT_LAYOUT: Final = Layout(
    "timer log unit",
    Field("size", "i", "52"),
    Field("prev_pos", "q", "timer log position of the unit before it in the same slot; -1 if there is none"),
    Field("magic", "i", "1, +2 for a message that is rolled on, +4 for one that deletes another"),
    Field("write_time", "q", "beginning of the slot in which the unit was written, ms"),
    Field("delay", "i", "the unit's slot is this many ms later"),
    Field("physical_offset", "q", "first byte of the message's record in the commit log"),
    Field("record_size", "i", "length of that record"),
    Field("topic_hash", "i", "Java hash of the real topic"),
    Field("reserved", "q", "0"),
)
UNIT_SIZE: Final = UNIT_LAYOUT.size

BLANK_LAYOUT: Final = Layout(
    "blank unit",
    Field("size", "i", "all bytes to the end of the file, these 16 included"),
    Field("reserved", "q", "0"),
    Field("magic", "i", "0xCBD43194"),
)
#: A file always keeps room for a blank unit behind the last one.
BLANK_SIZE: Final = BLANK_LAYOUT.size

DEFAULT: Final = 1
ROLL: Final = 2
DELETE: Final = 4

#: Units that are read at once when the log is read from front to back.
_SCAN_UNITS: Final = 1_260

_struct = UNIT_LAYOUT.struct


class TimerUnit(NamedTuple):
    """One unit; the fields of `UNIT_LAYOUT`."""

    size: int
    prev_pos: int
    magic: int
    write_time: int
    delay: int
    physical_offset: int
    record_size: int
    topic_hash: int
    reserved: int

    @property
    def time_ms(self) -> int:
        """When it is due."""
        return self.write_time + self.delay

    @property
    def is_roll(self) -> bool:
        """Whether the message goes back to the timer topic then."""
        return bool(self.magic & ROLL)

    @property
    def is_delete(self) -> bool:
        """Whether the message deletes another one."""
        return bool(self.magic & DELETE)

    def is_valid_at(self, position: int) -> bool:
        """Tell whether this can be the unit at a position.

        What is cut short by a crash fails one of these: the fields behind the cut are zero.
        """
        return (
            self.size == UNIT_SIZE
            and self.magic & ~(ROLL | DELETE) == DEFAULT
            and -1 <= self.prev_pos < position
            and self.physical_offset >= 0
            and self.record_size >= MIN_RECORD_SIZE
        )


def pack_unit(
    prev_pos: int, magic: int, write_time: int, delay: int, physical_offset: int, record_size: int, topic_hash: int
) -> bytes:
    """Return the bytes of a unit."""
    return _struct.pack(UNIT_SIZE, prev_pos, magic, write_time, delay, physical_offset, record_size, topic_hash, 0)


class TimerLog:
    """The log of one broker.

    Only the enqueue service appends, on the event loop. Methods that say "for a thread" change nothing here; files go
    only while nobody reads (see `TimerFlushService`).

    Args:
        environment: files and blocking calls.
        folder: where the files are.
        file_size: bytes of each.

    Attributes:
        end: position of the next unit.
        flushed: everything before it is on disk.

    Raises:
        ConfigError: the file size holds no unit.
    """

    def __init__(self, environment: Environment, folder: str, file_size: int) -> None:
        if file_size < UNIT_SIZE + BLANK_SIZE:
            raise ConfigError(
                f"mappedFileSizeTimerLog is {file_size}; a file needs {UNIT_SIZE + BLANK_SIZE} bytes or more"
            )
        self.folder = folder
        self.file_size = file_size
        self.units_per_file = (file_size - BLANK_SIZE) // UNIT_SIZE
        self.end = 0
        self.flushed = 0
        self._environment = environment
        self._files = MappedFileQueue(environment, folder, file_size)

    @property
    def min_position(self) -> int:
        """Position of the oldest unit that is there."""
        return self._files.min_offset

    @property
    def files_end(self) -> int:
        """End of the last file."""
        return self._files.end

    # --- positions ----------------------------------------------------------------------------------------------------

    def aligned(self, position: int) -> int:
        """Return the first position at or behind `position` where a unit may begin."""
        start = position - position % self.file_size
        number = -(-(position - start) // UNIT_SIZE)
        return start + number * UNIT_SIZE if number < self.units_per_file else start + self.file_size

    def before(self, position: int) -> int:
        """Return the position of the unit before the one at `position`; negative if there is none."""
        start = position - position % self.file_size
        if position - start >= UNIT_SIZE:
            return position - UNIT_SIZE
        return start - self.file_size + (self.units_per_file - 1) * UNIT_SIZE

    def next_positions(self, count: int) -> list[int]:
        """Return where the next units will go."""
        positions = []
        position = self.aligned(self.end)
        for _ in range(count):
            positions.append(position)
            position = self.aligned(position + UNIT_SIZE)
        return positions

    # --- writing ------------------------------------------------------------------------------------------------------

    async def make_room(self, count: int) -> None:
        """Allocate files, in a thread, until the next `count` units have a place.

        Raises:
            StoreFullError: there is no space.
        """
        last = self.next_positions(count)[-1]
        while self._files.find(last) is None:
            await self._environment.run_blocking(self._add_file)

    def _add_file(self) -> None:
        if not self._files.mapped_files:
            make_durable_directories(self._environment.files, self.folder)
        self._files.append_file(self.end - self.end % self.file_size)

    def append(self, units: Sequence[bytes]) -> None:
        """Write units where `next_positions` said, with one write for each file. There must be room.

        Raises:
            OSError: the file system refused; the log ends where it did before.
        """
        position, left = self.end, list(units)
        while left:
            start = self.aligned(position)
            if start != position:
                self._end_file(position)
            file = self._files.find(start)
            if file is None:
                raise ValueError(f"no room for a unit at {start}; make_room first")
            count = self.units_per_file - (start - file.start) // UNIT_SIZE
            part = b"".join(left[:count])
            file.write(part, start - file.start)
            del left[:count]
            position = start + len(part)
        self.end = position

    def _end_file(self, position: int) -> None:
        """Write the blank unit that says that the file ends here."""
        file = self._files.find(position)
        if file is not None:
            blank = BLANK_LAYOUT.struct.pack(file.end - position, 0, MAGIC_BLANK)
            file.write(blank, position - file.start)

    # --- reading ------------------------------------------------------------------------------------------------------

    def read(self, position: int) -> TimerUnit | None:
        """Return the unit at a position; None if none is there. For a thread."""
        file = self._files.find(position)
        data = file.read_blocking(position - file.start, UNIT_SIZE) if file is not None else b""
        if len(data) < UNIT_SIZE:
            return None
        unit = TimerUnit(*_struct.unpack(data))
        return unit if unit.is_valid_at(position) else None

    def scan(
        self, position: int, end: int | None = None, *, skip_invalid: bool = False
    ) -> Iterator[tuple[int, TimerUnit]]:
        """Yield units and their positions from `position` on, up to `end` or to the first invalid one. For a thread.

        With `skip_invalid` it goes on behind those, up to `end`.
        """
        position = self.aligned(max(position, self.min_position))
        while (file := self._files.find(position)) is not None:
            number = (position - file.start) // UNIT_SIZE
            count = min(_SCAN_UNITS, self.units_per_file - number)
            for fields in _struct.iter_unpack(_whole_units(file, position - file.start, count)):
                unit = TimerUnit(*fields)
                if end is not None and position >= end:
                    return
                if unit.is_valid_at(position):
                    yield position, unit
                elif not skip_invalid:
                    return
                position += UNIT_SIZE
            position = self.aligned(position)

    # --- life ---------------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Open the files; where the log ends is for recovery to find. Blocks.

        Raises:
            StoreError: a file is missing, or the files have another size than configured.
        """
        if self._environment.files.is_directory(self.folder):
            self._files.load()

    def truncate(self, end: int) -> None:
        """Make the log end here, and clear what lies behind. Blocks."""
        self._files.truncate(end)
        self.end = self.flushed = end

    def flush(self, start: int, end: int) -> None:
        """Force the units from `start` to `end` to disk; for a thread."""
        for file in list(self._files.mapped_files):
            if file.start < end and file.end > start:
                file.flush()

    def find_expired(self, log_min_offset: int) -> int:
        """Return how many files from the first on hold nothing but units whose messages the log has deleted.

        For a thread. The last file is never among them.
        """
        count = 0
        for file in list(self._files.mapped_files)[:-1]:
            unit = self.read(file.start + (self.units_per_file - 1) * UNIT_SIZE)
            if file.end > self.flushed or unit is None or unit.physical_offset >= log_min_offset:
                break
            count += 1
        return count

    def take_first(self, count: int) -> list[MappedFile]:
        """Take the first files out of the log; whoever gets them destroys them. Nobody may be reading."""
        return [self._files.remove_first() for _ in range(count)]

    async def close(self) -> None:
        """Close the files."""
        await self._files.close()

    def __repr__(self) -> str:
        return f"<TimerLog {self.min_position}..{self.end} flushed {self.flushed}>"


def _whole_units(file: MappedFile, at: int, count: int) -> bytes:
    data = file.read_blocking(at, count * UNIT_SIZE)
    return data[: len(data) // UNIT_SIZE * UNIT_SIZE]
