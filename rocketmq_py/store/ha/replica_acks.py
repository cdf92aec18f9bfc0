"""Who has how much of the master's log: plain numbers, no sockets.

Reports only grow and never pass the master's end. What they say together is one offset: up to there as many replicas
have the log as are asked for. That number releases every put before it.

Source: `GroupTransferService#doWaitTransfer`, `DefaultHAService#inSyncReplicasNums`, RocketMQ 5.3.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from typing import Final

#: Ask every member of the sync state set, instead of a number of replicas.
ALL_MEMBERS: Final = -1


class ReplicaAcks:
    """The reports of the slaves that are linked now.

    Args:
        log_end: returns where the master's own log ends.

    Attributes:
        members: the replicas that count for `ALL_MEMBERS`, the master not among them; the union of the old and the new
            set while a change of the set is under way. Whoever decides about the set writes it.
    """

    def __init__(self, log_end: Callable[[], int]) -> None:
        self.members: Collection[Hashable] = ()
        self._log_end = log_end
        self._reported: dict[Hashable, int] = {}

    def join(self, replica: Hashable) -> None:
        """Count a replica from now on; it has nothing yet, as far as is known."""
        self._reported.setdefault(replica, 0)

    def leave(self, replica: Hashable) -> None:
        """Forget a replica whose link is gone."""
        self._reported.pop(replica, None)

    def report(self, replica: Hashable, offset: int) -> bool:
        """Note what a replica has.

        Returns:
            Whether it was believed. A report behind an earlier one, or past the end of the log, says that the other
            side is no replica of this log.
        """
        if not self._reported.get(replica, 0) <= offset <= self._log_end():
            return False
        self._reported[replica] = offset
        return True

    def reported(self, replica: Hashable) -> int:
        """Return what a replica has; 0 if it is not linked."""
        return self._reported.get(replica, 0)

    def reached(self, need: int) -> int:
        """Return the offset up to which `need` replicas, the master one of them, have the log.

        `need` may be `ALL_MEMBERS`. The answer is 0 while too few replicas are linked.
        """
        if need == ALL_MEMBERS:
            return min((self._reported.get(member, 0) for member in self.members), default=self._log_end())
        if need <= 1:
            return self._log_end()
        offsets = sorted(self._reported.values(), reverse=True)
        return offsets[need - 2] if len(offsets) >= need - 1 else 0

    @property
    def largest(self) -> int:
        """The most that any slave has; 0 if none is linked."""
        return max(self._reported.values(), default=0)

    def in_sync(self, max_gap: int) -> int:
        """Return how many replicas, the master one of them, are less than `max_gap` bytes behind."""
        end = self._log_end()
        return 1 + sum(end - offset < max_gap for offset in self._reported.values())

    def __len__(self) -> int:
        return len(self._reported)

    def __repr__(self) -> str:
        return f"<ReplicaAcks {self._reported} of {self._log_end()}>"
