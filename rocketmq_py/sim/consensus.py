"""A group of controllers that agree by magic: a lab says who leads, and which commands are lost.

It satisfies the `Consensus` protocol of `rocketmq_py/controller/consensus.py`, without votes, disks or messages.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from typing import Any, Protocol


class _StateMachine(Protocol):
    def apply(self, command: bytes) -> Any: ...


class Fate(enum.Enum):
    """What becomes of the next command.

    Attributes:
        KEPT: applied everywhere, and confirmed.
        LOST: applied nowhere; the proposer hears that it leads no longer.
        DOUBTFUL: applied everywhere, but the proposer hears that it leads no longer.
    """

    KEPT = "kept"
    LOST = "lost"
    DOUBTFUL = "doubtful"


class SimulatedGroup:
    """What the members agree on.

    Args:
        not_leader: makes the error of a member that does not lead: `NotLeaderError`.
        seconds: how long agreement takes.

    Attributes:
        leader: who leads; None for nobody.
        fates: of the next commands, in order; `KEPT` when there is none left.
    """

    def __init__(self, not_leader: Callable[[str], Exception], seconds: float = 0.001) -> None:
        self.leader: str | None = None
        self.fates: list[Fate] = []
        self.not_leader = not_leader
        self.seconds = seconds
        self._members: dict[str, SimulatedConsensus] = {}

    def member(self, own_id: str, machine: _StateMachine) -> SimulatedConsensus:
        """Return a new member of the group."""
        member = SimulatedConsensus(self, own_id, machine)
        self._members[own_id] = member
        return member

    def elect(self, leader: str | None) -> None:
        """Let another member lead, or nobody."""
        old, self.leader = self.leader, leader
        if old != leader:
            for own_id, is_leader in ((old, False), (leader, True)):
                member = self._members.get(own_id or "")
                if member is not None:
                    for listener in member.on_leadership:
                        listener(is_leader)

    async def propose(self, own_id: str, command: bytes) -> Any:
        """Let all members apply a command, or whatever its fate is."""
        self._check(own_id)
        await asyncio.sleep(self.seconds)
        self._check(own_id)
        fate = self.fates.pop(0) if self.fates else Fate.KEPT
        if fate is Fate.LOST:
            raise self.not_leader("the command was lost")
        results = {member: known.machine.apply(command) for member, known in self._members.items()}
        if fate is Fate.DOUBTFUL:
            raise self.not_leader("the lead was lost before the answer")
        return results[own_id]

    def _check(self, own_id: str) -> None:
        if self.leader != own_id:
            raise self.not_leader(f"{own_id} does not lead, {self.leader} does")


class SimulatedConsensus:
    """One member; see `Consensus`."""

    def __init__(self, group: SimulatedGroup, own_id: str, machine: _StateMachine) -> None:
        self.on_leadership: list[Callable[[bool], None]] = []
        self.machine = machine
        self._group = group
        self._own_id = own_id

    @property
    def is_leader(self) -> bool:
        """Whether the lab says so."""
        return self._group.leader == self._own_id

    @property
    def leader_id(self) -> str | None:
        """Whom the lab has named."""
        return self._group.leader

    async def start(self) -> None:
        """Nothing has to be read."""

    async def stop(self) -> None:
        """Leave the lead to nobody."""
        if self.is_leader:
            self._group.elect(None)

    async def propose(self, command: bytes) -> Any:
        """Let the group apply a command."""
        return await self._group.propose(self._own_id, command)
