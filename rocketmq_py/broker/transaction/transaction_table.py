"""What a broker knows of its half messages: which are decided, which were copied, and how far all have been looked at.

    half queue    0  1  2  3  4  5  6  7  8
                  passed     | looked at by the next run of the check service
                             progress
    decided       4, 6                       an op record says so, or will
    copies        2 -> 7                     2 was undecided, was asked about, and lies once more at 7

Everything before the progress is decided, or was copied to a place behind it, or was set aside. So the table holds only
what lies between the progress and the end of the half queue, some seconds' worth, and the undecided that were copied.

No method waits; all are called on the event loop.

Source: the maps of `TransactionalMessageServiceImpl#check`, RocketMQ 5.3, which are made anew in each run there.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

#: Stands for the place of an op record that is not stored yet.
UNWRITTEN: Final = -1


class HalfState(enum.Enum):
    """What the table says of a half message.

    PASSED: it lies before the progress and has no living copy; only the op queue knows what became of it.
    """

    UNDECIDED = "undecided"
    DECIDED = "decided"
    PASSED = "passed"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a half message lies: queue offset (units) and physical offset (bytes)."""

    queue_offset: int
    physical_offset: int


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision, and what undoes it.

    Attributes:
        origin: queue offset of the transaction's first half message.
        offsets: what its op record names: the half message that was decided, the first one, and the newest copy.
        copy: the newest copy, if there is one.
    """

    origin: int
    offsets: tuple[int, ...]
    copy: Place | None


class TransactionTable:
    """The half messages of one broker.

    Attributes:
        progress: queue offset of the first half message that has not been passed.
    """

    def __init__(self) -> None:
        self.progress = 0
        # Queue offset of a decided half message at or behind the progress -> queue offset of its op record.
        self._decided: dict[int, int] = {}
        # Queue offset of a transaction's first half message -> its newest copy. Undecided transactions only.
        self._copies: dict[int, Place] = {}

    # --- asking -------------------------------------------------------------------------------------------------------

    def state(self, offset: int, origin: int) -> HalfState:
        """Return what is known of the half message at `offset`, of the transaction that began at `origin`."""
        if offset in self._decided or origin in self._decided:
            return HalfState.DECIDED
        if origin in self._copies or offset >= self.progress:
            return HalfState.UNDECIDED
        return HalfState.PASSED

    def newest(self, origin: int) -> Place | None:
        """Return the newest copy of an undecided transaction, if it was copied."""
        return self._copies.get(origin)

    def is_recorded(self, offset: int) -> bool:
        """Tell whether a half message is decided and its op record is stored."""
        return self._decided.get(offset, UNWRITTEN) != UNWRITTEN

    def is_waiting(self, offset: int) -> bool:
        """Tell whether a half message is decided and its op record is not stored yet."""
        return self._decided.get(offset) == UNWRITTEN

    def is_over(self, offset: int, origin: int) -> bool:
        """Tell whether a half message need not be checked: it is decided, or there is a newer copy of it."""
        copy = self._copies.get(origin)
        is_decided = offset in self._decided or origin in self._decided
        return is_decided or (copy is not None and copy.queue_offset > offset)

    # --- deciding -----------------------------------------------------------------------------------------------------

    def decide(self, offset: int, origin: int) -> Decision:
        """Note that a transaction is decided; from now on nobody decides it again."""
        copy = self._copies.pop(origin, None)
        offsets = {offset, origin} if copy is None else {offset, origin, copy.queue_offset}
        decision = Decision(origin, tuple(sorted(offsets)), copy)
        for each in decision.offsets:
            if each >= self.progress:
                self._decided[each] = UNWRITTEN
        return decision

    def undo(self, decision: Decision) -> None:
        """Take a decision back, because it could not be stored."""
        for offset in decision.offsets:
            self._decided.pop(offset, None)
        if decision.copy is not None:
            self._copies[decision.origin] = decision.copy

    def recorded(self, offsets: Iterable[int], op_offset: int) -> None:
        """Note that the op record at `op_offset` of the op queue says of half messages that they are decided."""
        for offset in offsets:
            if offset >= self.progress:
                self._decided[offset] = op_offset

    # --- passing ------------------------------------------------------------------------------------------------------

    def copied(self, offset: int, origin: int, copy: Place) -> bool:
        """Note that the half message at `offset` lies once more at the end of the half queue.

        Returns:
            False if it was decided in the meantime: then the copy is decided too, and has to be in an op record.
        """
        if offset in self._decided or origin in self._decided:
            self._decided[copy.queue_offset] = UNWRITTEN
            return False
        self._copies[origin] = copy
        return True

    def given_up(self, origin: int) -> None:
        """Note that a transaction was set aside: it has no living half message any more."""
        self._copies.pop(origin, None)

    def pass_to(self, offset: int) -> None:
        """Move the progress; what is known of half messages before it is forgotten."""
        if offset - self.progress > len(self._decided):
            self._decided = {half: op for half, op in self._decided.items() if half >= offset}
        else:
            for passed in range(self.progress, offset):
                self._decided.pop(passed, None)
        self.progress = offset

    def op_progress(self, end: int) -> int:
        """Return the first op record that is still of use, `end` (the end of the op queue) if none is."""
        return min((op for op in self._decided.values() if op != UNWRITTEN), default=end)

    def clear(self, progress: int) -> None:
        """Forget everything, before it is read anew."""
        self._decided.clear()
        self._copies.clear()
        self.progress = progress

    def __len__(self) -> int:
        return len(self._decided) + len(self._copies)

    def __repr__(self) -> str:
        return f"<TransactionTable from {self.progress}, {len(self._decided)} decided, {len(self._copies)} undecided copies>"
