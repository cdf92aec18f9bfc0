"""Epochs: which master wrote which part of the log, and up to where two logs are the same.

    epoch 1 [0 ........ 202) epoch 2 [202 ........ 402) epoch 4 [402 ....
            master A                 master B                   master A again

Every election gives the new master a number that nobody had before. It notes where its log ended when it began. Two
logs that have the same epoch with the same start are the same up to where the shorter of the two epochs ends: within an
epoch there was one writer. Behind that point each may have bytes that the other never had.

Source: `EpochEntry`, `EpochFileCache#findConsistentPoint`, RocketMQ 5.3.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final, NamedTuple

from rocketmq_py.common.errors import RocketMQError

#: A master answers a handshake with no more epochs than this, the newest ones.
MAX_EPOCHS: Final = 1_000


class Epoch(NamedTuple):
    """One epoch: its number, and the physical offset at which its master began to write."""

    number: int
    start: int


class NoCommonEpochError(RocketMQError):
    """Two logs have no point in common, so one of them must be copied anew."""


def check_epochs(epochs: Sequence[Epoch]) -> None:
    """Make sure that numbers and starts only grow.

    Raises:
        ValueError: they do not; the text names the two entries.
    """
    for before, after in itertools.pairwise(epochs):
        if after.number <= before.number or after.start <= before.start:
            raise ValueError(f"epoch {after.number}-{after.start} cannot follow {before.number}-{before.start}")
    if epochs and (epochs[0].number < 0 or epochs[0].start < 0):
        raise ValueError(f"epoch {epochs[0].number}-{epochs[0].start} is negative")


def end_of(epochs: Sequence[Epoch], index: int, max_offset: int) -> int:
    """Return where an epoch ends: where the next one begins, or at the end of the log."""
    return epochs[index + 1].start if index + 1 < len(epochs) else max_offset


def epoch_at(epochs: Sequence[Epoch], offset: int) -> int | None:
    """Return the index of the epoch to which a physical offset belongs; None if it lies before all of them."""
    found = None
    for index, epoch in enumerate(epochs):
        if epoch.start > offset:
            break
        found = index
    return found


def consistent_point(
    mine: Sequence[Epoch], my_max_offset: int, theirs: Sequence[Epoch], their_max_offset: int
) -> int | None:
    """Return the offset up to which two logs are the same; None if they have no epoch in common.

    The greatest epoch that both have with the same start decides. An epoch with the same number and another start is
    none: somebody's file is wrong, and only what came before it can be trusted.
    """
    by_number = {epoch.number: index for index, epoch in enumerate(theirs)}
    for index in range(len(mine) - 1, -1, -1):
        other = by_number.get(mine[index].number)
        if other is not None and theirs[other].start == mine[index].start:
            return min(end_of(mine, index, my_max_offset), end_of(theirs, other, their_max_offset))
    return None


def truncation_point(
    mine: Sequence[Epoch], my_min_offset: int, my_max_offset: int, theirs: Sequence[Epoch], their_max_offset: int
) -> int:
    """Return where a slave's log must end before it follows its master; its own end if all of it fits.

    Raises:
        NoCommonEpochError: no part of a log that is not empty is known to be the master's.
    """
    if my_max_offset == my_min_offset:
        return my_max_offset
    if not mine:
        # A log from before controller mode: nobody noted who wrote it. The same as the master's, or a part of it, if
        # the pair was one before; what arrives is checked record by record.
        if my_max_offset <= their_max_offset:
            return my_max_offset
        raise NoCommonEpochError(
            f"this log has no epochs and ends at {my_max_offset}, behind the master's {their_max_offset}; "
            "move its store away to copy the master's log anew"
        )
    point = consistent_point(mine, my_max_offset, theirs, their_max_offset)
    if point is None or point < my_min_offset:
        raise NoCommonEpochError(
            f"no epoch of this log ({_text(mine)}, {my_min_offset}..{my_max_offset}) is one of the master's "
            f"({_text(theirs)}, to {their_max_offset}); move its store away to copy the master's log anew"
        )
    return min(point, my_max_offset)


def _text(epochs: Sequence[Epoch]) -> str:
    shown = " ".join(f"{number}-{start}" for number, start in epochs[-5:])
    return f"... {shown}" if len(epochs) > 5 else shown or "none"
