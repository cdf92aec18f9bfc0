"""The read policy: may this broker serve a read, and which broker should the reader ask next.

One broker alone serves everything and suggests itself. A stage with replicas provides another policy, which sends
readers of old messages to a slave and brings them back.

Source: `PullMessageProcessor#composeResponseHeader`, RocketMQ 5.3.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

from rocketmq_py.remoting.codes import ResponseCode

MASTER_ID: Final = 0


class Direction(NamedTuple):
    """What becomes of a read.

    Attributes:
        code: what the reader is answered.
        suggested: id of the broker that it should ask next.
        hold_millis: longest time that it is held if `code` is PULL_NOT_FOUND; None: as long as it wishes.
    """

    code: ResponseCode
    suggested: int
    hold_millis: int | None = None


class ReadPolicy(Protocol):
    """Decides about one read; called once for a pull, before and after the store was read."""

    #: Whether the hot path may skip this policy: it lets every read pass and suggests the master.
    is_plain: bool

    def refusal(self) -> str | None:
        """Return why reads are refused here with SYSTEM_BUSY, or None."""
        ...

    def direct(self, group: str, code: ResponseCode, is_slow: bool, may_hold: bool) -> Direction:
        """Return what the reader is answered, and whom it should ask next.

        Args:
            group: the reader's group.
            code: what the read alone would be answered.
            is_slow: the store judges that such reads no longer come from memory.
            may_hold: the request could be held: it wishes to be, and was not yet.
        """
        ...


class ServeAll:
    """The policy of a broker without replicas."""

    is_plain = True

    def refusal(self) -> str | None:
        """Refuse nothing."""
        return None

    def direct(self, group: str, code: ResponseCode, is_slow: bool, may_hold: bool) -> Direction:
        """Suggest the master, which is this broker."""
        return Direction(code, MASTER_ID)
