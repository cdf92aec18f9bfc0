"""Message filters: which messages of a queue a reader wants.

A filter is asked twice. First with the queue's unit, which costs nothing: the tags code lies in it. Then, for what
passed, with the record, which must be read from the log. Two tags can have one code, so the first answer may say yes
too often, but never no to a message that the filter wants.

Source: `MessageFilter`, RocketMQ 5.3.
"""

from __future__ import annotations

from typing import Final, Protocol


class MessageFilter(Protocol):
    """Chooses messages. Both methods are called on the event loop, once per unit: they must be quick and not fail."""

    def matches_entry(self, tags_code: int, extension: object | None) -> bool:
        """Judge a queue unit.

        Args:
            tags_code: Java hash of the message's tag, or 0.
            extension: what the queue's extension file says about the unit, if there is one.

        Returns:
            False if the message is certainly not wanted.
        """
        ...

    def matches_record(self, record: bytes | memoryview) -> bool:
        """Judge the whole record as it lies in the commit log."""
        ...


class _MatchAll:
    """Wants every message."""

    def matches_entry(self, tags_code: int, extension: object | None) -> bool:
        return True

    def matches_record(self, record: bytes | memoryview) -> bool:
        return True

    def __repr__(self) -> str:
        return "<ALL>"


#: The filter that wants every message. Readers compare with `is ALL` and then skip the questions.
ALL: Final[MessageFilter] = _MatchAll()
