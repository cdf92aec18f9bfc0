"""The timer wheel: for each second of two weeks, the newest unit of the timer log that is due then.

A slot is found by a division, and names the head of a chain through the timer log. Slots are never cleared: a slot that
carries another time than the one that is asked for is empty.

    slot number = (time / precision) modulo 1,209,600

The wheel is held in memory, which costs only the pages that were ever used, and its changed pages are written to
`timerwheel` now and then, after the units that they point to.

Source: `TimerWheel`, `Slot`, RocketMQ 5.3.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from rocketmq_py.common.file_system import FileSystem
from rocketmq_py.common.layout import Field, Layout
from rocketmq_py.store.errors import StoreError

SLOT_LAYOUT: Final = Layout(
    "timer wheel slot",
    Field("time", "q", "time of the slot divided by the precision; 0 if it was never used"),
    Field("first_pos", "q", "timer log position of the first unit that came"),
    Field("last_pos", "q", "timer log position of the newest unit: head of the chain"),
    Field("num", "i", "messages in the slot; a deletion counts as -1"),
    Field("magic", "i", "always 0"),
)
SLOT_SIZE: Final = SLOT_LAYOUT.size

#: Slots that may be ahead at any time: seven days of seconds, whatever the precision.
SLOTS_AHEAD: Final = 7 * 86_400
#: Twice as many, so that what was not delivered for a week is not overwritten.
SLOTS: Final = 2 * SLOTS_AHEAD
WHEEL_SIZE: Final = SLOTS * SLOT_SIZE

#: What is written and read as one piece. A page lies in whole sectors, and a sector holds whole slots.
PAGE: Final = 4_096
_LOAD_CHUNK: Final = 16 * PAGE

_struct = SLOT_LAYOUT.struct
#: All slots of a page in one call.
_page_struct = struct.Struct(">" + SLOT_LAYOUT.struct.format.removeprefix(">") * (PAGE // SLOT_SIZE))


class Slot(NamedTuple):
    """One slot; positions are those of units in the timer log."""

    time_ms: int
    first_pos: int
    last_pos: int
    num: int


class WheelSummary(NamedTuple):
    """What the slots from some time on have in common.

    Attributes:
        latest_ms: time of the last one; 0 if there is none.
        num: messages in all of them.
        first_pos: position of the oldest unit of any; None if there is none.
        last_pos: position of the newest; -1 if there is none.
    """

    latest_ms: int
    num: int
    first_pos: int | None
    last_pos: int


class TimerWheel:
    """The wheel of one broker. Changed on the event loop only.

    Args:
        files: the file system.
        path: the file.
        precision_ms: length of a slot.

    Attributes:
        latest_ms: time of the last slot in use: behind it nothing is due.
        waiting: messages in the slots that were not delivered yet; kept by `put` and `passed`.
    """

    def __init__(self, files: FileSystem, path: str, precision_ms: int) -> None:
        self.path = path
        self.precision_ms = precision_ms
        self.latest_ms = 0
        self.waiting = 0
        self._files = files
        # The pages that were ever used, by their number; the others are zero.
        self._pages: dict[int, bytearray] = {}
        self._dirty_pages: set[int] = set()

    def floor(self, time_ms: int) -> int:
        """Return the beginning of the slot that a moment lies in."""
        return time_ms - time_ms % self.precision_ms

    # --- slots --------------------------------------------------------------------------------------------------------

    def get(self, time_ms: int) -> Slot | None:
        """Return the slot of a time; None if nothing is in it."""
        ticks = time_ms // self.precision_ms
        at = ticks % SLOTS * SLOT_SIZE
        page = self._pages.get(at // PAGE)
        if page is None:
            return None
        stored, first, last, num, _ = _struct.unpack_from(page, at % PAGE)
        if stored != ticks or last < 0:
            return None
        return Slot(ticks * self.precision_ms, first, last, num)

    def put(self, slot: Slot) -> None:
        """Set a slot."""
        ticks = slot.time_ms // self.precision_ms
        before = self.get(slot.time_ms)
        self.waiting += slot.num - (before.num if before is not None else 0)
        self._write(ticks % SLOTS, _struct.pack(ticks, slot.first_pos, slot.last_pos, slot.num, 0))
        self.latest_ms = max(self.latest_ms, ticks * self.precision_ms)

    def passed(self, slot: Slot) -> None:
        """Note that a slot was delivered; what it holds stays as it is."""
        self.waiting -= slot.num

    def clear(self, time_ms: int) -> None:
        """Make the slot of a time empty, as if it had never been used."""
        before = self.get(time_ms)
        self.waiting -= before.num if before is not None else 0
        self._write(time_ms // self.precision_ms % SLOTS, bytes(SLOT_SIZE))

    def _write(self, number: int, data: bytes) -> None:
        number, at = divmod(number * SLOT_SIZE, PAGE)
        page = self._pages.get(number)
        if page is None:
            page = self._pages[number] = bytearray(PAGE)
        page[at : at + SLOT_SIZE] = data
        self._dirty_pages.add(number)

    def slots(self, since_ms: int) -> Iterator[Slot]:
        """Yield the slots in use whose time is `since_ms` or later, in no order."""
        least = max(-(-since_ms // self.precision_ms), 1)
        for page in list(self._pages.values()):
            for ticks, first, last, num, _ in _struct.iter_unpack(bytes(page)):
                if ticks >= least and last >= 0:
                    yield Slot(ticks * self.precision_ms, first, last, num)

    def summary(self, since_ms: int) -> WheelSummary:
        """Look at all slots in use whose time is `since_ms` or later. Takes a while with many; for a thread."""
        least = max(-(-since_ms // self.precision_ms), 1)
        latest, num, first_pos, last_pos = 0, 0, None, -1
        for page in list(self._pages.values()):
            # Columns of a whole page at once: a broker with timers in every second starts so much faster.
            fields = _page_struct.unpack(page)
            wanted = [at for at, ticks in enumerate(fields[0::5]) if ticks >= least and fields[5 * at + 2] >= 0]
            if wanted:
                latest = max(latest, *[fields[5 * at] for at in wanted])
                first = min([fields[5 * at + 1] for at in wanted])
                first_pos = first if first_pos is None else min(first_pos, first)
                last_pos = max(last_pos, *[fields[5 * at + 2] for at in wanted])
                num += sum([fields[5 * at + 3] for at in wanted])
        return WheelSummary(latest * self.precision_ms, num, first_pos, last_pos)

    def reset(self) -> None:
        """Forget everything; the file follows with the next flush."""
        for number in self._pages:
            self._pages[number] = bytearray(PAGE)
        self._dirty_pages.update(self._pages)
        self.latest_ms = self.waiting = 0

    # --- the file -----------------------------------------------------------------------------------------------------

    def load(self) -> bool:
        """Read the file; return whether there was one. Blocks.

        Raises:
            StoreError: it has another size than a wheel.
        """
        try:
            size = self._files.stat(self.path).size
        except FileNotFoundError:
            return False
        if size == 0:
            return False
        if size != WHEEL_SIZE:
            raise StoreError(
                f"{self.path} has {size} bytes instead of {WHEEL_SIZE}. It is made again from the timer log if you "
                "remove it and start again"
            )
        fd = self._files.open_file(self.path, write=False)
        try:
            self._load(fd)
        finally:
            self._files.close(fd)
        # Slots that were used once keep their time, so this asks for nothing but the greatest.
        self.latest_ms = (
            max((max(_page_struct.unpack(page)[0::5]) for page in self._pages.values()), default=0) * self.precision_ms
        )
        return True

    def _load(self, fd: int) -> None:
        nothing = bytes(_LOAD_CHUNK)
        for start in range(0, WHEEL_SIZE, _LOAD_CHUNK):
            data = self._files.pread(fd, min(_LOAD_CHUNK, WHEEL_SIZE - start), start)
            if data == nothing[: len(data)]:
                # Most of the file is a hole.
                continue
            for at in range(0, len(data), PAGE):
                page = data[at : at + PAGE]
                if page != nothing[:PAGE]:
                    self._pages[(start + at) // PAGE] = bytearray(page)

    @property
    def is_dirty(self) -> bool:
        """Whether slots were changed since they were last taken for writing."""
        return bool(self._dirty_pages)

    def take_dirty(self) -> list[tuple[int, bytes]]:
        """Return the changed pages as they are now, neighbours joined: position in the file, and bytes."""
        pages, self._dirty_pages = sorted(self._dirty_pages), set()
        runs: list[tuple[int, int]] = []
        for page in pages:
            if runs and runs[-1][1] == page:
                runs[-1] = (runs[-1][0], page + 1)
            else:
                runs.append((page, page + 1))
        return [(first * PAGE, b"".join([self._pages[page] for page in range(first, end)])) for first, end in runs]

    def put_back(self, parts: list[tuple[int, bytes]]) -> None:
        """Note that these parts could not be written."""
        for at, data in parts:
            self._dirty_pages.update(range(at // PAGE, (at + len(data)) // PAGE))

    def write(self, parts: list[tuple[int, bytes]]) -> None:
        """Write parts to the file and force them to disk; for a thread.

        Raises:
            OSError: the file system refused; some may have been written.
        """
        fd = self._files.open_file(self.path, create=True)
        try:
            is_new = self._files.stat(self.path).size != WHEEL_SIZE
            if is_new:
                # A hole, unlike other files of the store: little of it is ever used.
                self._files.truncate(fd, WHEEL_SIZE)
            for at, data in parts:
                if self._files.pwrite(fd, data, at) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.path)
            self._files.fdatasync(fd)
        finally:
            self._files.close(fd)
        if is_new:
            self._files.sync_directory(os.path.dirname(self.path))

    def __repr__(self) -> str:
        return f"<TimerWheel {len(self._pages)} pages in use, {len(self._dirty_pages)} changed>"
