"""What a topic or a broker allows: bits that topic configurations and routes carry."""

from __future__ import annotations

from typing import Final

INHERIT: Final = 0x1
WRITE: Final = 0x2
READ: Final = 0x4
PRIORITY: Final = 0x8
READ_WRITE: Final = READ | WRITE


def is_readable(permission: int) -> bool:
    """Tell whether consumers may read."""
    return permission & READ == READ


def is_writeable(permission: int) -> bool:
    """Tell whether producers may write."""
    return permission & WRITE == WRITE


def is_inherited(permission: int) -> bool:
    """Tell whether the topic is a template that new topics copy (TBW102)."""
    return permission & INHERIT == INHERIT


def is_valid(permission: int) -> bool:
    """Tell whether the bits are a permission at all (0 to 7), as `PermName.isValid` does."""
    return 0 <= permission < PRIORITY


def to_text(permission: int) -> str:
    """Return the three letters that tools print, such as `RW-`."""
    return "".join(letter if permission & bit else "-" for letter, bit in (("R", READ), ("W", WRITE), ("X", INHERIT)))
