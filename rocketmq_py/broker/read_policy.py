"""The read policy: may this broker serve a read, and which broker should the reader ask next.

One broker alone serves everything and suggests itself. A stage with replicas provides another policy, which sends
readers of old messages to a slave and brings them back.

Source: `PullMessageProcessor#composeResponseHeader`, RocketMQ 5.3.
"""

from __future__ import annotations

from typing import Final, Protocol

MASTER_ID: Final = 0


class ReadPolicy(Protocol):
    """Decides about one read; called once for a pull, before and after the store was read."""

    #: Whether the hot path may skip this policy: it lets every read pass and suggests the master.
    is_plain: bool

    def refusal(self) -> str | None:
        """Return why reads are refused here with SYSTEM_BUSY, or None."""
        ...

    def suggest(self, group: str, behind_bytes: int, is_slow: bool) -> int:
        """Return the id of the broker that should be asked next.

        Args:
            group: the reader's group.
            behind_bytes: distance in bytes from what was read to the end of the log.
            is_slow: the store judges that such reads no longer come from memory.
        """
        ...


class ServeAll:
    """The policy of a broker without replicas."""

    is_plain = True

    def refusal(self) -> str | None:
        """Refuse nothing."""
        return None

    def suggest(self, group: str, behind_bytes: int, is_slow: bool) -> int:
        """Suggest the master, which is this broker."""
        return MASTER_ID
