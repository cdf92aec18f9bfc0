"""How much of the log may be sent to slaves now, so that a slave that catches up leaves the network to the clients.

Source: `FlowMonitor`, RocketMQ 5.3.
"""

from __future__ import annotations

from collections.abc import Callable


class FlowLimit:
    """An allowance of so many bytes a second, shared by all slaves.

    Differs from RocketMQ, which counts per slave and forgets the count when a second is over: here what is saved up never
    exceeds one second, and a second that has just begun does not double the rate.

    Args:
        bytes_per_second: returns the limit that is set now; None: there is no limit.
        now: returns seconds that only grow.
    """

    def __init__(self, bytes_per_second: Callable[[], int | None], now: Callable[[], float]) -> None:
        self._bytes_per_second = bytes_per_second
        self._now = now
        self._allowance = 0.0
        self._counted_at = 0.0

    def allowed(self) -> int | None:
        """Return how many bytes may be sent now; None: as many as there are."""
        limit = self._bytes_per_second()
        if limit is None:
            return None
        now = self._now()
        self._allowance = min(self._allowance + (now - self._counted_at) * limit, float(limit))
        self._counted_at = now
        return int(self._allowance)

    def spend(self, size: int) -> None:
        """Note that bytes were sent."""
        self._allowance -= size
