"""The version of a table that brokers, name servers and slaves compare: who has the newer one.

Source: `DataVersion`, RocketMQ 5.3.
"""

from __future__ import annotations

import msgspec


class DataVersion(msgspec.Struct, rename="camel"):
    """Version of a table. Equal versions mean equal content; nothing else may be read from the numbers.

    Attributes:
        state_version: epoch of the broker in controller mode, else 0.
        timestamp: when it last changed, milliseconds since 1970.
        counter: how often it changed.
    """

    state_version: int = 0
    timestamp: int = 0
    counter: int = 0

    def next_version(self, wall_ms: int) -> None:
        """Count one change made at `wall_ms`."""
        self.timestamp = wall_ms
        self.counter += 1

    def assign(self, other: DataVersion) -> None:
        """Take over the numbers of another version."""
        self.state_version, self.timestamp, self.counter = other.state_version, other.timestamp, other.counter
