"""What the store may do at the moment, as a set of reasons against it.

Source: `RunningFlags`, RocketMQ 5.3.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Final


class RunningFlag(enum.IntFlag):
    """One reason each; the numbers are RocketMQ's."""

    NOT_READABLE = 1
    NOT_WRITEABLE = 2
    WRITE_LOGICS_QUEUE_ERROR = 4
    WRITE_INDEX_FILE_ERROR = 8
    DISK_FULL = 16
    FENCED = 32
    LOGIC_DISK_FULL = 64


_NO_WRITES: Final = ~RunningFlag.NOT_READABLE


class RunningFlags:
    """The flags of one store; in memory only, each start begins without any.

    Attributes:
        listeners: called with this object after a change of what is allowed.
    """

    def __init__(self) -> None:
        self.listeners: list[Callable[[RunningFlags], None]] = []
        self._flags = RunningFlag(0)
        self._reasons: dict[RunningFlag, str] = {}

    @property
    def is_readable(self) -> bool:
        """Whether messages may be given out."""
        return RunningFlag.NOT_READABLE not in self._flags

    @property
    def is_writeable(self) -> bool:
        """Whether messages may be taken."""
        return not self._flags & _NO_WRITES

    @property
    def value(self) -> int:
        """The bits as RocketMQ reports them."""
        return int(self._flags)

    def has(self, flag: RunningFlag) -> bool:
        """Tell whether one flag is set."""
        return flag in self._flags

    def set(self, flag: RunningFlag, reason: str) -> bool:
        """Set a flag, for the reason that refused clients are told; return whether that is news."""
        is_new = flag not in self._flags
        self._flags |= flag
        self._reasons[flag] = reason
        self._tell(is_new)
        return is_new

    def clear(self, flag: RunningFlag) -> bool:
        """Take a flag back; return whether it was set."""
        was_set = flag in self._flags
        self._flags &= ~flag
        self._reasons.pop(flag, None)
        self._tell(was_set)
        return was_set

    def _tell(self, is_change: bool) -> None:
        if is_change:
            for listener in self.listeners:
                listener(self)

    @property
    def write_refusal(self) -> str:
        """Why no message is taken; empty if messages are taken."""
        return "; ".join(reason for flag, reason in self._reasons.items() if flag & _NO_WRITES)

    def __repr__(self) -> str:
        return f"<RunningFlags {self._flags!r}>"
