"""What Java does with strings and numbers, where files and wire depend on it."""

from __future__ import annotations

import re

from rocketmq_py.common.errors import InvalidInputError

I32_MIN, I32_MAX = -(1 << 31), (1 << 31) - 1
I64_MIN, I64_MAX = -(1 << 63), (1 << 63) - 1

# Java's parser takes an optional sign and ASCII digits here; Python's int() would also take
# blanks, underscores and full-width digits.
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}", re.ASCII)


def to_i32(value: int) -> int:
    """Keep the low 32 bits of `value`, read as a signed number."""
    return ((value + 0x80000000) & 0xFFFFFFFF) - 0x80000000


def string_hash(text: str) -> int:
    """Return Java's `String.hashCode()`: 31 * h + c over UTF-16 code units, as a signed 32-bit number.

    Tags codes, index keys and heartbeat fingerprints are made of it.
    """
    h = 0
    if text.isascii():
        for unit in text.encode("ascii"):
            h = h * 31 + unit & 0xFFFFFFFF
    else:
        encoded = text.encode("utf-16-be", "surrogatepass")
        for i in range(0, len(encoded), 2):
            h = h * 31 + (encoded[i] << 8 | encoded[i + 1]) & 0xFFFFFFFF
    return h - 0x100000000 if h & 0x80000000 else h


def parse_i32(text: str, name: str = "number") -> int:
    """Parse a decimal integer as `Integer.parseInt` does.

    Raises:
        InvalidInputError: not ASCII digits with an optional sign, or outside -2^31..2^31-1.
    """
    return _parse(text, name, I32_MIN, I32_MAX)


def parse_i64(text: str, name: str = "number") -> int:
    """Parse a decimal integer as `Long.parseLong` does; see `parse_i32`."""
    return _parse(text, name, I64_MIN, I64_MAX)


def _parse(text: str, name: str, low: int, high: int) -> int:
    if _INTEGER.fullmatch(text) is None:
        raise InvalidInputError(f"{name} is {text[:64]!r}, which is not a decimal integer")
    value = int(text)
    if not low <= value <= high:
        raise InvalidInputError(f"{name} is {value}, outside {low}..{high}")
    return value


def parse_bool(text: str) -> bool:
    """Parse a boolean as `Boolean.parseBoolean` does: "true" in any case is true, all else is false."""
    return text.lower() == "true"


def utf16_length(text: str) -> int:
    """Return the number of UTF-16 code units: what Java calls the length of a string."""
    return len(text) if text.isascii() else len(text.encode("utf-16-be", "surrogatepass")) // 2
