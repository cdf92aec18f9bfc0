"""The clock of deliveries: stored times, compared on a clock that never jumps.

A unit says when its message is due by the wall clock that the broker had when it stored the message. Wall clocks jump:
somebody corrects them, a virtual machine moves. RocketMQ compares with the wall clock of the moment, so a clock that is
set back an hour makes it deliver a 10 s delay after 2 s, and one that is set forward makes everything due at once.

Here time passes on the loop's monotonic clock. What is needed is the difference of the two clocks when a message was
stored. It is looked at whenever delayed messages arrive, and kept with the log offset from which on it holds:

    log       ---- stored by the clock as it was ----|---- stored after it was set ----
    ages      (0, wall - loop)                        (offset, wall - loop)

A step below `TOLERANCE_MS` is not told from the time between two readings.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from typing import Final

from rocketmq_py.common.environment import Clock

#: Smallest step of the wall clock that is noticed, milliseconds.
TOLERANCE_MS: Final = 50
#: Steps that are kept; a clock that jumps more often while messages wait is beyond help.
MAX_AGES: Final = 1_000


class DeliveryClock:
    """Tells the time by the wall clock under which a record was stored.

    Args:
        clock: the wall clock.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # Log offsets from which on the differences hold, and the differences, milliseconds. Only ever appended to.
        self._offsets: list[int] = [0]
        self._differences: list[float] = [0.0]

    def begin(self, newest_ms: int) -> None:
        """Take the present difference for everything that is stored by now.

        Args:
            newest_ms: store time of the newest delayed message. If the wall clock shows less, it was set back since then;
                how long the broker was down is not known, so the time goes on from there.
        """
        self._offsets = [0]
        self._differences = [max(self._clock.wall_ms(), newest_ms) - _loop_ms()]

    def observe(self, physical_offset: int) -> None:
        """Look whether the wall clock has jumped, now that a delayed message has arrived at an offset of the log."""
        difference = self._clock.wall_ms() - _loop_ms()
        if abs(difference - self._differences[-1]) > TOLERANCE_MS:
            self._offsets.append(physical_offset)
            self._differences.append(difference)
            if len(self._offsets) > MAX_AGES:
                del self._offsets[1], self._differences[1]

    def now_ms(self, physical_offset: int) -> int:
        """Return the time by the clock under which the record at an offset was stored, milliseconds since 1970."""
        age = bisect_right(self._offsets, physical_offset) - 1
        # A thousandth of a millisecond against the rounding of sums: never early by more, and not late by one.
        return int(_loop_ms() + self._differences[age] + 0.001)

    def __repr__(self) -> str:
        return f"<DeliveryClock, {len(self._offsets) - 1} jumps seen>"


def _loop_ms() -> float:
    return asyncio.get_running_loop().time() * 1_000
