"""What controllers need of one another: the same commands in the same order, none lost that was said to be kept.

Behind this protocol are a single controller with a file (`alone.py`), several that follow Raft (`raft/`), and a
simulated group for labs (`rocketmq_py/sim/consensus.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from rocketmq_py.common.errors import RocketMQError


class NotLeaderError(RocketMQError):
    """This controller is not the leader, or ceased to be it; a command under way may be kept all the same."""


class ConsensusTimeoutError(RocketMQError):
    """A command was not confirmed in time; it may be kept all the same."""


class StateMachine(Protocol):
    """What the commands change, the same way on every controller."""

    def apply(self, command: bytes) -> Any:
        """Apply one command; what it returns goes to the one who proposed it, on that controller only."""
        ...

    def snapshot(self) -> bytes:
        """Return the whole state."""
        ...

    def restore(self, data: bytes) -> None:
        """Become a state that `snapshot` returned; `ValueError` if it is none."""
        ...


class Consensus(Protocol):
    """The agreement of a group of controllers.

    Attributes:
        on_leadership: called with True when this controller begins to lead and has applied all that was kept before,
            with False when it ceases to.
    """

    on_leadership: list[Callable[[bool], None]]

    @property
    def is_leader(self) -> bool:
        """Whether this controller leads, and has applied everything that was kept before it did."""
        ...

    @property
    def leader_id(self) -> str | None:
        """The leader's id, as far as this controller knows."""
        ...

    async def start(self) -> None:
        """Read what is kept, and take part.

        Raises:
            CorruptDataError: the files are damaged in a way that a crash cannot explain.
        """
        ...

    async def stop(self) -> None:
        """Take part no longer; proposals under way end with `NotLeaderError`. A second call does nothing."""
        ...

    async def propose(self, command: bytes) -> Any:
        """Keep a command on so many disks that it cannot be lost, apply it, and return what applying it gave.

        Raises:
            NotLeaderError: nothing was kept, or this controller lost the lead meanwhile.
            ConsensusTimeoutError: too few of the others answered in time.
            OSError: the disk refused; this controller takes part no longer.

        Cancellation: the command may be kept and applied all the same.
        """
        ...
