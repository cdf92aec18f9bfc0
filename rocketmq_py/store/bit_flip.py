"""Which bit flipped: from the checksum that a block should have and the one that it has.

A CRC is linear: the checksums of two blocks of equal length that differ in one bit differ by a pattern that depends only
on the bit and on how many bytes follow it. In blocks of 64 KiB all these patterns are different, so the pattern names the
bit. That turns "these 65,536 bytes are damaged" into "this one message is".
"""

from __future__ import annotations

from typing import Final


def _table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0xEDB88320 if value & 1 else 0)
        table.append(value)
    return tuple(table)


#: What one byte does to the CRC's register, as in zlib.
_TABLE: Final = _table()
#: The highest byte of each entry is unique, so a step of the register can be taken back.
_INDEX_BY_TOP: Final = {entry >> 24: index for index, entry in enumerate(_TABLE)}
#: Pattern of a flipped bit in the last byte.
_BIT_BY_PATTERN: Final = {_TABLE[1 << bit]: bit for bit in range(8)}


def locate_flipped_bit(expected_crc: int, found_crc: int, length: int) -> tuple[int, int] | None:
    """Return byte and bit (0 is the lowest) of the one bit that explains a wrong CRC-32.

    Returns:
        None if no single bit does. Damage of many bits looks like that of one bit with a chance of 1 in 8,000.
    """
    pattern = expected_crc ^ found_crc
    for followers in range(length):
        bit = _BIT_BY_PATTERN.get(pattern)
        if bit is not None:
            return length - 1 - followers, bit
        index = _INDEX_BY_TOP[pattern >> 24]
        pattern = (pattern ^ _TABLE[index]) << 8 & 0xFFFFFFFF | index
    return None
