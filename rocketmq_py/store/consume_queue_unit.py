"""The unit of a consume queue: 20 bytes that say where a message lies, how long it is and what its tag is.

Unit n of a queue is at byte 20 * n of the queue's files, which is why a queue can be read like an array.

Source: `ConsumeQueue`, RocketMQ 5.3.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence
from typing import Final

from rocketmq_py.common.java import I32_MAX
from rocketmq_py.common.layout import Field, Layout

UNIT_LAYOUT: Final = Layout(
    "ConsumeQueue unit",
    Field("physical_offset", "q", "first byte of the record in the commit log"),
    Field("size", "i", "length of the record in bytes"),
    Field("tags_code", "q", "Java hash of the tag, or the delivery time of a delayed message"),
)

UNIT_SIZE: Final = UNIT_LAYOUT.size

#: What stands in front of the first message of a queue that does not begin at 0, so that unit n stays at byte 20 * n.
#: To a reader it is a valid unit whose record cannot be read.
FILLER: Final = UNIT_LAYOUT.struct.pack(0, I32_MAX, 0)
FILLER_SIZE: Final = I32_MAX


@functools.lru_cache(maxsize=1024)
def units_struct(count: int) -> struct.Struct:
    """Return the struct of `count` units in a row: one call packs or unpacks them all."""
    return struct.Struct(">" + "qiq" * count)


def pack_units(physical_offsets: Sequence[int], sizes: Sequence[int], tags_codes: Sequence[int]) -> bytes:
    """Return the bytes of consecutive units, given as columns of equal length."""
    count = len(physical_offsets)
    if count == 1:
        return UNIT_LAYOUT.struct.pack(physical_offsets[0], sizes[0], tags_codes[0])
    flat = [0] * (3 * count)
    flat[0::3], flat[1::3], flat[2::3] = physical_offsets, sizes, tags_codes
    return units_struct(count).pack(*flat)


def unpack_units(data: bytes | bytearray | memoryview) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Return physical offsets, sizes and tags codes of all whole units in `data`, as columns."""
    count = len(data) // UNIT_SIZE
    flat = units_struct(count).unpack_from(data)
    return flat[0::3], flat[1::3], flat[2::3]


@functools.lru_cache(maxsize=1024)
def _places_struct(count: int) -> struct.Struct:
    """Return the struct of `count` units in a row without their tags codes."""
    return struct.Struct(">" + "qi8x" * count)


def unpack_places(data: bytes | bytearray | memoryview) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return physical offsets and sizes of all whole units in `data`, for readers who want every message."""
    flat = _places_struct(len(data) // UNIT_SIZE).unpack_from(data)
    return flat[0::2], flat[1::2]


_PHYSICAL_OFFSET = struct.Struct(">q").unpack_from


@functools.lru_cache(maxsize=1024)
def _sizes_struct(count: int) -> struct.Struct:
    """Return the struct of `count` units in a row of which only the sizes are read."""
    return struct.Struct(">" + "8xi8x" * count)


def unpack_span(data: bytes | bytearray | memoryview) -> tuple[int, int, tuple[int, ...]]:
    """Return the physical offsets of the first and the last unit in `data`, and the sizes of all of them.

    If the sizes add up to the distance, the records are neighbours in the log and their offsets need not be unpacked.
    """
    sizes = _sizes_struct(len(data) // UNIT_SIZE).unpack(data)
    return _PHYSICAL_OFFSET(data)[0], _PHYSICAL_OFFSET(data, len(data) - UNIT_SIZE)[0], sizes


def valid_prefix(data: bytes, after: int = -1) -> tuple[int, int]:
    """Judge units read from a file.

    A valid unit has a size above 0 and lies behind the unit before it in the log. Fillers are valid anywhere.

    Args:
        data: whole units.
        after: where the record of the unit before them ends, -1 if there is none.

    Returns:
        How many units from the start are valid, and where the record of the last valid one ends (`after` if none).
    """
    offsets, sizes, _ = unpack_units(data)
    for number, (offset, size) in enumerate(zip(offsets, sizes, strict=True)):
        if size == FILLER_SIZE and offset == 0:
            continue
        if size <= 0 or offset < after or offset < 0:
            return number, after
        after = offset + size
    return len(offsets), after
