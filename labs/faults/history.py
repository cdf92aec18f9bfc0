"""What was sent, how each send ended, and whether what is stored agrees with it.

A send has one of three ends. *Acknowledged*: SEND_OK; it must be there. *Refused*: an answer that says that it was not
stored, or no connection at all; it must not be there, ever. *Unknown*: a time-out, a lost connection, FLUSH_DISK_TIMEOUT,
FLUSH_SLAVE_TIMEOUT or SLAVE_NOT_AVAILABLE; either is right.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from rocketmq_py.remoting.codes import ResponseCode

_UNKNOWN_CODES = (
    ResponseCode.FLUSH_DISK_TIMEOUT,
    ResponseCode.FLUSH_SLAVE_TIMEOUT,
    ResponseCode.SLAVE_NOT_AVAILABLE,
)


class Outcome(enum.Enum):
    """How a send ended."""

    ACKNOWLEDGED = "acknowledged"
    UNKNOWN = "unknown"
    REFUSED = "refused"


def outcome_of(code: int) -> Outcome:
    """Return what an answer to a send means."""
    if code == ResponseCode.SUCCESS:
        return Outcome.ACKNOWLEDGED
    return Outcome.UNKNOWN if code in _UNKNOWN_CODES else Outcome.REFUSED


@dataclass(slots=True)
class Send:
    """One message: never sent a second time.

    Attributes:
        body: unique.
        began, ended: seconds of the loop.
        outcome: UNKNOWN until an answer says otherwise.
    """

    body: bytes
    began: float
    ended: float = 0.0
    outcome: Outcome = Outcome.UNKNOWN


@dataclass(slots=True)
class History:
    """All sends by queue, in the order in which they began.

    Attributes:
        sends: queue -> sends.
    """

    sends: dict[int, list[Send]] = field(default_factory=dict)

    def begin(self, queue: int, now: float) -> Send:
        """Note that a send begins, and return it with a body of its own."""
        of_queue = self.sends.setdefault(queue, [])
        send = Send(f"{queue}-{len(of_queue):07d}-".encode() + b"x" * (37 * len(of_queue) % 500), now)
        of_queue.append(send)
        return send

    def count(self, since: float = 0.0) -> Counter[str]:
        """Return how many sends that began since a moment ended how."""
        return Counter(
            send.outcome.value for sends in self.sends.values() for send in sends if since <= send.began and send.ended
        )

    def longest_gap(self, since: float, until: float) -> float:
        """Return the longest time in seconds without an acknowledgement in a span of time."""
        ends = sorted(
            send.ended
            for sends in self.sends.values()
            for send in sends
            if send.outcome is Outcome.ACKNOWLEDGED and since <= send.ended <= until
        )
        return max(after - before for before, after in zip([since, *ends], [*ends, until], strict=True))

    def acknowledged_since(self, since: float) -> bool:
        """Tell whether a send that began since a moment was acknowledged."""
        return any(
            send.began >= since and send.outcome is Outcome.ACKNOWLEDGED
            for sends in self.sends.values()
            for send in reversed(sends)
        )

    def problems(self, queue: int, stored: Sequence[bytes], *, lost_is_allowed: int = 0) -> list[str]:
        """Compare the messages of a queue with what was sent to it.

        Args:
            queue: which.
            stored: the bodies, in the order of the queue.
            lost_is_allowed: so many of the last acknowledged messages may be missing.

        Returns:
            What is wrong; empty if all is well.
        """
        sends = self.sends.get(queue, [])
        place_of = {send.body: number for number, send in enumerate(sends)}
        found: list[str] = []
        places = [place_of.get(body, -1) for body in stored]
        if -1 in places:
            found.append(f"queue {queue} holds {places.count(-1)} messages that nobody sent")
        twice = [place for place, count in Counter(places).items() if count > 1 and place >= 0]
        if twice:
            found.append(f"queue {queue} holds {len(twice)} messages twice, the first is number {min(twice)}")
        if places != sorted(places):
            at = next(index for index in range(1, len(places)) if places[index] < places[index - 1])
            found.append(f"queue {queue}: number {places[at]} is stored behind {places[at - 1]}, which was sent later")
        is_stored = set(places)
        refused = [place for place, send in enumerate(sends) if send.outcome is Outcome.REFUSED and place in is_stored]
        if refused:
            found.append(f"queue {queue} holds {len(refused)} messages that were refused, the first is {refused[0]}")
        lost = [
            place for place, send in enumerate(sends) if send.outcome is Outcome.ACKNOWLEDGED and place not in is_stored
        ]
        if len(lost) > lost_is_allowed:
            found.append(f"queue {queue} lost {len(lost)} acknowledged messages: {lost[:5]} of {len(sends)}")
        return found
