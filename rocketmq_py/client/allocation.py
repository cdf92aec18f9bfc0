"""Strategies that divide the queues of a topic among the members of a group.

Nobody hands out queues. Every member gets the same list of members and of queues, sorts both, and computes its own
share; the shares fit together because all members compute the same. A strategy is therefore a pure function, and all
members of a group must use the same one.

Source: `AllocateMessageQueueStrategy` and its implementations, `ConsistentHashRouter`, RocketMQ 5.3.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.message import MessageQueue


class AllocationStrategy(Protocol):
    """Computes one member's share."""

    @property
    def name(self) -> str:
        """RocketMQ's name of the strategy."""
        ...

    def allocate(
        self, group: str, me: str, queues: Sequence[MessageQueue], members: Sequence[str]
    ) -> list[MessageQueue]:
        """Return the share of one member.

        Args:
            group: the consumer group.
            me: this member's client id.
            queues: the queues of the topic, sorted.
            members: the client ids of all members, sorted.

        Raises:
            InvalidInputError: there is nothing to divide, or nobody to divide among.
        """
        ...


def index_of(me: str, queues: Sequence[MessageQueue], members: Sequence[str]) -> int | None:
    """Return this member's place among the members, or None if it is not (yet) one of them.

    Raises:
        InvalidInputError: an id, the queues or the members are empty.
    """
    if not me or not queues or not members:
        raise InvalidInputError(f"cannot divide {len(queues)} queues among {len(members)} members for client {me!r}")
    return members.index(me) if me in members else None


@dataclass(frozen=True, slots=True)
class Averagely:
    """Neighbouring queues in shares of equal size; the first members get one more where it does not come out even."""

    name: str = "AVG"

    def allocate(
        self, group: str, me: str, queues: Sequence[MessageQueue], members: Sequence[str]
    ) -> list[MessageQueue]:
        """Return the share of `me`; see `AllocationStrategy`."""
        index = index_of(me, queues, members)
        if index is None:
            return []
        share, rest = divmod(len(queues), len(members))
        start = index * share + min(index, rest)
        return list(queues[start : start + share + (index < rest)])


@dataclass(frozen=True, slots=True)
class AveragelyByCircle:
    """Queues dealt out like cards."""

    name: str = "AVG_BY_CIRCLE"

    def allocate(
        self, group: str, me: str, queues: Sequence[MessageQueue], members: Sequence[str]
    ) -> list[MessageQueue]:
        """Return the share of `me`; see `AllocationStrategy`."""
        index = index_of(me, queues, members)
        return [] if index is None else list(queues[index :: len(members)])


@dataclass(frozen=True, slots=True)
class ByConfig:
    """A list that the operator fixed, whoever else is there."""

    queues: Sequence[MessageQueue]
    name: str = "CONFIG"

    def allocate(
        self, group: str, me: str, queues: Sequence[MessageQueue], members: Sequence[str]
    ) -> list[MessageQueue]:
        """Return the fixed list."""
        return list(self.queues)


@dataclass(frozen=True, slots=True)
class ByMachineRoom:
    """Only queues on brokers named `<room>@<name>` whose room is one of some; divided evenly, the rest one each."""

    rooms: frozenset[str]
    name: str = "MACHINE_ROOM"

    def allocate(
        self, group: str, me: str, queues: Sequence[MessageQueue], members: Sequence[str]
    ) -> list[MessageQueue]:
        """Return the share of `me`; see `AllocationStrategy`."""
        index = index_of(me, queues, members)
        if index is None:
            return []
        kept = [queue for queue in queues if self._is_wanted(queue)]
        share, rest = divmod(len(kept), len(members))
        mine = kept[index * share : (index + 1) * share]
        if index < rest:
            mine.append(kept[index + share * len(members)])
        return mine

    def _is_wanted(self, queue: MessageQueue) -> bool:
        parts = queue.broker_name.split("@")
        return len(parts) == 2 and parts[0] in self.rooms


@dataclass(frozen=True, slots=True)
class ByMachineRoomNearby:
    """Queues go to members of their own room; those of rooms without members are divided among all.

    Attributes:
        inner: divides within a room.
        room_of_broker, room_of_client: where a broker or a client id is.
    """

    inner: AllocationStrategy
    room_of_broker: Callable[[str], str]
    room_of_client: Callable[[str], str]

    @property
    def name(self) -> str:
        """The name, with that of the inner strategy."""
        return f"MACHINE_ROOM_NEARBY-{self.inner.name}"

    def allocate(
        self, group: str, me: str, queues: Sequence[MessageQueue], members: Sequence[str]
    ) -> list[MessageQueue]:
        """Return the share of `me`; see `AllocationStrategy`.

        Raises:
            InvalidInputError: as always, or a broker or client is in no room.
        """
        if index_of(me, queues, members) is None:
            return []
        queues_of: dict[str, list[MessageQueue]] = {}
        for queue in queues:
            queues_of.setdefault(_room(self.room_of_broker, queue.broker_name), []).append(queue)
        members_of: dict[str, list[str]] = {}
        for member in members:
            members_of.setdefault(_room(self.room_of_client, member), []).append(member)
        mine: list[MessageQueue] = []
        own_room = self.room_of_client(me)
        if own_room in queues_of:
            mine += self.inner.allocate(group, me, queues_of[own_room], members_of[own_room])
        for room in sorted(queues_of):
            if room not in members_of:
                mine += self.inner.allocate(group, me, queues_of[room], members)
        return mine


def _room(resolve: Callable[[str], str], name: str) -> str:
    room = resolve(name)
    if not room:
        raise InvalidInputError(
            f"{name!r} is in no machine room; the resolver must name one for every broker and client"
        )
    return room


@dataclass(frozen=True, slots=True)
class ConsistentHash:
    """Members and queues on a ring; a queue belongs to the next member. Few queues move when a member comes or goes.

    Attributes:
        virtual_nodes: points of each member on the ring.
    """

    virtual_nodes: int = 10
    name: str = field(default="CONSISTENT_HASH")

    def allocate(
        self, group: str, me: str, queues: Sequence[MessageQueue], members: Sequence[str]
    ) -> list[MessageQueue]:
        """Return the share of `me`; see `AllocationStrategy`.

        Raises:
            InvalidInputError: as always, or the number of virtual nodes is negative.
        """
        if index_of(me, queues, members) is None:
            return []
        if self.virtual_nodes < 0:
            raise InvalidInputError(f"illegal virtualNodeCnt {self.virtual_nodes}; it is 0 or more")
        ring = sorted(
            (ring_hash(f"{member}-{number}"), member) for member in members for number in range(self.virtual_nodes)
        )
        points = [point for point, _ in ring]
        mine = []
        for queue in queues:
            text = f"MessageQueue [topic={queue.topic}, brokerName={queue.broker_name}, queueId={queue.queue_id}]"
            at = bisect.bisect_left(points, ring_hash(text))
            if ring and ring[at % len(ring)][1] == me:
                mine.append(queue)
        return mine


def ring_hash(text: str) -> int:
    """Return the first four bytes of the MD5 digest as an unsigned number."""
    return int.from_bytes(hashlib.md5(text.encode(), usedforsecurity=False).digest()[:4], "big")


def strategy_by_name(name: str) -> AllocationStrategy:
    """Return a strategy that needs no settings.

    Raises:
        InvalidInputError: there is none of that name.
    """
    known: list[AllocationStrategy] = [Averagely(), AveragelyByCircle(), ConsistentHash()]
    for strategy in known:
        if strategy.name == name:
            return strategy
    raise InvalidInputError(f"no strategy is called {name!r}; there are {', '.join(each.name for each in known)}")
