"""The sync state set: the replicas that have everything which was acknowledged, as the master keeps it.

Whoever is in the set may become master without a loss, so a message may be acknowledged only when every member has it
(`allAckInSyncStateSet`), and a replica may enter only when it has everything that was. The controller decides what the
set is; the master proposes. Between a proposal and the answer nobody but the controller knows which set is valid, and the
answer may be lost. So **the union of both sets counts** until it is known again: an acknowledgement that holds in both
sets is right whichever of them the controller has.

    members   what the controller said last
    joining   near enough to enter soon; already waited for, so that what is acknowledged meanwhile is there too
    proposed  what the controller was asked for; None when no question is open

This object is pure: events in, decisions out. Times are seconds of the loop.

Source: `AutoSwitchHAService#maybeExpandInSyncStateSet`, `#maybeShrinkSyncStateSet`, `#computeConfirmOffset`, RocketMQ 5.3.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from rocketmq_py.store.ha.log_intake import OVERLAP

#: Seconds that a member may be without a connection: a link that was reset comes back within a tenth of that. Sends wait
#: for as long, whether the member was stopped, killed or cut off.
LEAVE_SECONDS: Final = 1.0
#: Seconds that a replica may take from "near enough" to "has everything"; then sends no longer wait for it.
JOIN_SECONDS: Final = 2.0


@dataclass(slots=True)
class Replica:
    """What the master knows of one connected slave.

    Attributes:
        is_learner: it never enters the set.
        ack_offset: end of its log by its last report; -1 before the first.
        sent_end: where the master's log ended when something was last sent to it.
        sent_at: when that was.
        caught_up_at: when it last had everything.
        joining_since: since when acknowledgements wait for it though it is no member; None if they do not.
        has_lost: a member that reported less than it had acknowledged before: a power cut took the rest.
    """

    is_learner: bool
    caught_up_at: float
    ack_offset: int = -1
    sent_end: int = -1
    sent_at: float = 0.0
    joining_since: float | None = None
    has_lost: bool = False


class SyncState:
    """The set of one master, from its election on.

    Args:
        broker_id: the master's own id at the controller.
        needs_all_acks: whether every member must have a message before it counts as confirmed.
        max_not_caught_up: seconds after which a member that lags leaves (`haMaxTimeSlaveNotCatchup`).

    Attributes:
        members: the set that the controller named last.
        epoch: how often the set has changed.
        proposed: the set that the controller was asked for.
        confirm_offset: everything before it is with all that count. It never goes back.
    """

    def __init__(self, broker_id: int, *, needs_all_acks: bool, max_not_caught_up: float) -> None:
        self.broker_id = broker_id
        self.members: frozenset[int] = frozenset({broker_id})
        self.epoch = 0
        self.proposed: frozenset[int] | None = None
        self.confirm_offset = 0
        self._needs_all_acks = needs_all_acks
        self._max_not_caught_up = max_not_caught_up
        self._epoch_start = 0
        self._replicas: dict[int, Replica] = {}
        # When members without a connection must come back, or leave.
        self._missed: dict[int, float] = {}

    def begin(self, members: Iterable[int], epoch: int, *, epoch_start: int, confirm_offset: int, now: float) -> None:
        """Become master: take the set that the controller named; nobody is connected yet."""
        self.members, self.epoch, self.proposed = frozenset(members), epoch, None
        self.confirm_offset, self._epoch_start = confirm_offset, epoch_start
        self._replicas.clear()
        self._missed = dict.fromkeys(self.members, now + self._max_not_caught_up)

    # --- who counts ---------------------------------------------------------------------------------------------------

    @property
    def joining(self) -> frozenset[int]:
        """Replicas that are waited for though they are not in the set yet."""
        return frozenset(number for number, replica in self._replicas.items() if replica.joining_since is not None)

    @property
    def counted(self) -> frozenset[int]:
        """All that must have a message before it is acknowledged: the union of every set that may be valid."""
        return self.members | (self.proposed or frozenset()) | self.joining

    @property
    def is_anybody_needed(self) -> bool:
        """Whether a message must be with anybody but the master before it is acknowledged."""
        return self.counted != {self.broker_id}

    @property
    def in_sync_replicas_nums(self) -> int:
        """The number that `minInSyncReplicas` is compared with.

        Differs from RocketMQ, which takes the greater of two sets while a change is under way: if the smaller one is
        already valid, a message would be acknowledged with too few copies.
        """
        return min(len(self.members), len(self.proposed) if self.proposed is not None else len(self.members))

    def replica(self, broker_id: int) -> Replica | None:
        """Return what is known of a connected slave."""
        return self._replicas.get(broker_id)

    # --- events -------------------------------------------------------------------------------------------------------

    def connected(self, broker_id: int, now: float, *, is_learner: bool = False) -> None:
        """A slave has shaken hands. What it reported over an earlier connection is void."""
        self._replicas[broker_id] = Replica(is_learner, caught_up_at=now)

    def disconnected(self, broker_id: int, now: float) -> None:
        """The slave's connection has ended."""
        if self._replicas.pop(broker_id, None) is not None:
            self._missed[broker_id] = now + LEAVE_SECONDS

    def sent(self, broker_id: int, max_offset: int, now: float) -> None:
        """Something was sent to a slave while the master's log ended at `max_offset`."""
        replica = self._replicas.get(broker_id)
        if replica is not None:
            replica.sent_end, replica.sent_at = max_offset, now

    def acked(self, broker_id: int, offset: int, max_offset: int, now: float) -> None:
        """A slave reported the end of its log; reports only grow and never pass the master's end.

        Raises:
            ValueError: this one does not: the slave's log is not a copy of ours, or it is no slave at all.
        """
        replica = self._replicas.get(broker_id)
        if replica is None:
            return
        if not replica.ack_offset <= offset <= max_offset:
            raise ValueError(
                f"broker {broker_id} reports {offset} after {replica.ack_offset}, and this log ends at {max_offset}"
            )
        if replica.ack_offset < 0 and broker_id in self.members:
            # A slave asks from a little before its end, to compare.
            replica.has_lost = offset + OVERLAP < self.confirm_offset
        replica.ack_offset = offset
        if offset >= self.confirm_offset:
            replica.has_lost = False
        if offset == max_offset:
            replica.caught_up_at = now
        elif 0 <= replica.sent_end <= offset:
            replica.caught_up_at = max(replica.caught_up_at, replica.sent_at)
        self._consider(broker_id, replica, max_offset, now)

    def _consider(self, broker_id: int, replica: Replica, max_offset: int, now: float) -> None:
        """Begin to wait for a replica that has nearly everything."""
        if broker_id in self.members or replica.is_learner or replica.joining_since is not None:
            return
        if replica.ack_offset >= self._epoch_start and (
            replica.ack_offset == max_offset or 0 <= replica.sent_end <= replica.ack_offset
        ):
            replica.joining_since = now

    # --- decisions ----------------------------------------------------------------------------------------------------

    def confirm(self, max_offset: int) -> int:
        """Return up to where everything is confirmed, now that this log ends at `max_offset`."""
        reached = max_offset
        others = self.counted - {self.broker_id}
        if self._needs_all_acks and others:
            # A member that is not connected holds everything up. It leaves the set, or it comes back.
            reached = min(
                replica.ack_offset if (replica := self._replicas.get(number)) is not None else -1 for number in others
            )
        self.confirm_offset = max(self.confirm_offset, min(reached, max_offset))
        return self.confirm_offset

    def joins_now(self, broker_id: int) -> bool:
        """Tell whether a replica may enter: the controller can be asked at once."""
        return (
            self.proposed is None
            and broker_id in self.joining
            and self._replicas[broker_id].ack_offset >= self._join_offset()
        )

    def wanted(self, now: float) -> frozenset[int] | None:
        """Return the set that the controller should be asked for; None if it is right, or a question is open."""
        if self.proposed is not None:
            return None
        target = {number for number in self.members if number == self.broker_id or self._stays(number, now)}
        target |= {number for number in self.joining if self._replicas[number].ack_offset >= self._join_offset()}
        for number, replica in self._replicas.items():
            is_late = replica.joining_since is not None and now - replica.joining_since > JOIN_SECONDS
            if is_late and number not in target:
                replica.joining_since = None
        return frozenset(target) if target != self.members else None

    def _stays(self, broker_id: int, now: float) -> bool:
        replica = self._replicas.get(broker_id)
        if replica is None:
            return now < self._missed.get(broker_id, now)
        if replica.has_lost:
            return False
        return now - replica.caught_up_at <= self._max_not_caught_up

    def _join_offset(self) -> int:
        """Return what a replica must have to enter: all that was acknowledged, if that is what membership promises."""
        return self.confirm_offset if self._needs_all_acks else self._epoch_start

    # --- the controller's answers -------------------------------------------------------------------------------------

    def propose(self, members: frozenset[int]) -> None:
        """Note that the controller is asked for another set: from now on both count."""
        self.proposed = members

    def settled(self, members: Iterable[int], epoch: int) -> None:
        """Note which set the controller has. Only this ends the time in which two sets count."""
        if epoch < self.epoch:
            return
        self.members, self.epoch, self.proposed = frozenset(members), epoch, None
        for number in self.members & self._replicas.keys():
            self._replicas[number].joining_since = None

    def __repr__(self) -> str:
        proposed = f" proposed {sorted(self.proposed)}" if self.proposed is not None else ""
        joining = f" joining {sorted(self.joining)}" if self.joining else ""
        return (
            f"<SyncState {sorted(self.members)} epoch {self.epoch}{proposed}{joining} confirmed {self.confirm_offset}>"
        )
