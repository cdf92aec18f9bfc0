"""Which of several replicas becomes the master.

Source: `DefaultElectPolicy`, RocketMQ 5.3.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Protocol

from rocketmq_py.common.java import I32_MAX


@dataclass(frozen=True, slots=True)
class BrokerProgress:
    """What a broker said of itself in its last heartbeat.

    Attributes:
        epoch: of the last master that it followed, or was.
        max_offset: end of its log, bytes.
        election_priority: the smaller, the sooner it is chosen.
    """

    epoch: int = -1
    max_offset: int = -1
    election_priority: int = I32_MAX


#: Of a broker that has not said anything.
UNKNOWN_PROGRESS: Final = BrokerProgress()


class Liveness(Protocol):
    """Which brokers live. Only the controller that decides looks at it; it is no part of what is remembered."""

    def is_active(self, cluster_name: str, broker_name: str, broker_id: int) -> bool:
        """Whether it has been heard of within its time-out."""
        ...

    def is_gone(self, cluster_name: str, broker_name: str, broker_id: int) -> bool:
        """Whether it has fallen silent; neither this nor `is_active` holds for one that had no time yet to be heard."""
        ...

    def progress(self, cluster_name: str, broker_name: str, broker_id: int) -> BrokerProgress:
        """What it said last; `UNKNOWN_PROGRESS` if it said nothing."""
        ...


def choose(
    sets: Collection[Collection[int]],
    living: Collection[int],
    progress: dict[int, BrokerProgress],
    old_master: int | None,
    designated: int | None,
) -> int | None:
    """Return the new master, the old one if it may stay, or None.

    Args:
        sets: where to look, one after the other: the sync state set, then (unclean) all replicas.
        living: the brokers that are alive.
        progress: how far each of them is.
        old_master: stays if it is among the candidates and nobody else is designated.
        designated: it, or nobody of a set.
    """
    for members in sets:
        candidates = sorted(set(members) & set(living))
        if old_master in candidates and designated in (None, old_master):
            return old_master
        if designated is not None:
            if designated in candidates:
                return designated
        elif candidates:
            return min(candidates, key=lambda broker_id: _rank(broker_id, progress))
    return None


def _rank(broker_id: int, progress: dict[int, BrokerProgress]) -> tuple[int, int, int, int]:
    said = progress.get(broker_id, UNKNOWN_PROGRESS)
    # The id comes last. Differs from RocketMQ, whose sorted set keeps any one of several brokers that are equal.
    return -said.epoch, -said.max_offset, said.election_priority, broker_id
