"""The errors of every layer descend from one class, so that a caller can catch "anything of RocketMQ's"."""

from __future__ import annotations


class RocketMQError(Exception):
    """Base of all errors that this package raises on purpose.

    The text says what failed, with the values, why, and what to do next.
    """


class InvalidInputError(RocketMQError, ValueError):
    """A value from outside (a name, a number, an expression, bytes) breaks a rule; nothing was changed."""


class ConfigError(RocketMQError, ValueError):
    """A configuration file, option or environment variable cannot be used as it stands."""


class CorruptDataError(RocketMQError):
    """Bytes that were read back are not what was written.

    Attributes:
        place: file name or stream, and the byte offset in it.
        expected: what should be there.
        found: what is there.
    """

    def __init__(self, place: str, expected: object, found: object, hint: str = "") -> None:
        super().__init__(f"{place}: expected {expected}, found {found}{'. ' + hint if hint else ''}")
        self.place = place
        self.expected = expected
        self.found = found
