"""Which member of a group may consume a queue in order: one at a time, as long as it renews its lock.

Members divide the queues among themselves without a coordinator, and for a moment two may think that a queue is theirs.
For ordered consumption that moment is too long, so the queue's broker decides. A lock is renewed every 20 s and ends 60 s
after the last renewal: a member that crashed blocks its queues for a minute, one that leaves gives them back.

The table is in memory only. After a restart of the broker whoever asks first has the queue, and that is the member that
renews.

Source: `RebalanceLockManager`, RocketMQ 5.3.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from rocketmq_py.common.message import MessageQueue

#: Seconds that a lock lasts after it was asked for the last time.
LOCK_SECONDS: Final = 60.0


class QueueLock(NamedTuple):
    """Who has a queue, and since when (seconds of the loop's clock) nobody else may take it."""

    client_id: str
    renewed_at: float


class RebalanceLockManager:
    """The locks of all groups.

    Args:
        lock_seconds: how long a lock lasts without renewal.
    """

    def __init__(self, lock_seconds: float = LOCK_SECONDS) -> None:
        self._lock_seconds = lock_seconds
        self._locks: dict[str, dict[MessageQueue, QueueLock]] = {}

    def lock(self, group: str, client_id: str, queues: Iterable[MessageQueue], now: float) -> list[MessageQueue]:
        """Lock or renew queues for a member and return those that it has now.

        Args:
            group: the consumer group.
            client_id: the member.
            queues: what it asks for.
            now: seconds of the loop's clock.
        """
        locks = self._locks.setdefault(group, {})
        granted = []
        for queue in queues:
            lock = locks.get(queue)
            if lock is None or lock.client_id == client_id or self._is_over(lock, now):
                locks[queue] = QueueLock(client_id, now)
                granted.append(queue)
        if not locks:
            del self._locks[group]
        return granted

    def unlock(self, group: str, client_id: str, queues: Iterable[MessageQueue]) -> None:
        """Let queues go; those of other members stay locked."""
        locks = self._locks.get(group, {})
        for queue in queues:
            lock = locks.get(queue)
            if lock is not None and lock.client_id == client_id:
                del locks[queue]
        if not locks:
            self._locks.pop(group, None)

    def owner(self, group: str, queue: MessageQueue, now: float) -> str | None:
        """Return the member that has a queue, or None."""
        lock = self._locks.get(group, {}).get(queue)
        return None if lock is None or self._is_over(lock, now) else lock.client_id

    def has_locks(self, group: str, now: float) -> bool:
        """Tell whether any member of a group has a queue: the group consumes in order."""
        return any(not self._is_over(lock, now) for lock in self._locks.get(group, {}).values())

    def sweep(self, now: float) -> None:
        """Forget locks that are over, so that groups which come and go leave nothing behind."""
        for group, locks in list(self._locks.items()):
            kept = {queue: lock for queue, lock in locks.items() if not self._is_over(lock, now)}
            if kept:
                self._locks[group] = kept
            else:
                del self._locks[group]

    def _is_over(self, lock: QueueLock, now: float) -> bool:
        return now - lock.renewed_at > self._lock_seconds

    def __len__(self) -> int:
        return sum(map(len, self._locks.values()))

    def __repr__(self) -> str:
        return f"<RebalanceLockManager {len(self)} locks of {len(self._locks)} groups>"
