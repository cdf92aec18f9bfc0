"""The master's lease: for how long this broker may believe that nobody else was elected.

The controller elects another master when it has not heard of this one for `controllerHeartBeatTimeoutMills`. The lease
is as long, and begins when the heartbeat that was answered was *sent*: the controller got it later, so its patience ends
later. Time is the loop's monotonic time, which goes on while the process is stopped: a master that was paused for half a
minute wakes up without a lease, and looks at the clock before it acknowledges anything.

Not in RocketMQ, where a master that is cut off goes on acknowledging (issue 7017).
"""

from __future__ import annotations

from typing import Final

#: Clocks of two machines do not run equally fast; the lease ends this part earlier.
DRIFT: Final = 0.05


class MasterLease:
    """The lease of one broker; it has none before a controller leader has answered.

    Args:
        seconds: how long the controller waits for a heartbeat.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds * (1 - DRIFT)
        self.valid_until = float("-inf")

    def renew(self, sent_at: float) -> None:
        """The leader has answered a heartbeat that was sent at `sent_at`. Answers may overtake each other."""
        self.valid_until = max(self.valid_until, sent_at + self.seconds)

    def revoke(self) -> None:
        """End it: the controller knows another master, or a later epoch."""
        self.valid_until = float("-inf")

    def is_valid(self, now: float) -> bool:
        """Tell whether acknowledging is still allowed."""
        return now < self.valid_until

    def __repr__(self) -> str:
        return f"<MasterLease of {self.seconds:.2f} s until {self.valid_until:.3f}>"
