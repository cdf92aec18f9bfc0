"""The bloom filter behind the bit maps in the consume queue's extension.

Each SQL92 subscription (a group on a topic) owns a few bit positions. When a message is stored, the bits of every
subscription that matches it are set; when a group pulls, entries whose bit map lacks one of the group's bits cannot
match, and their messages need not be read. The reverse may fail: bits set for other groups can cover a group's bits,
so an entry that passes is still evaluated.

Files of Apache's broker hold these bits: the hash, its seed and the order of bits are part of the file format.

Source: `BloomFilter`, `BitsArray`, RocketMQ 5.3.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.java import to_i32

_MASK = (1 << 64) - 1
_C1 = 0x87C37B91114253D5
_C2 = 0x4CF5AD432745937F


class BloomFilterData(msgspec.Struct, rename="camel", frozen=True):
    """The bits of one subscription.

    Attributes:
        bit_pos: positions, possibly with repetitions.
        bit_num: the size of the whole map in bits.
    """

    bit_pos: tuple[int, ...] = ()
    bit_num: int = 0


class BloomFilter:
    """Computes positions, and sets and tests them in bit maps.

    Args:
        error_rate: accepted share of wrong "may match" answers in percent, 1 to 99.
        expected: how many subscriptions of one topic to expect.

    Attributes:
        hashes: positions that a subscription has (`k`).
        bits: size of a map in bits (`m`), a multiple of 8.

    Raises:
        InvalidInputError: `error_rate` is not 1 to 99, or `expected` is below 1.
    """

    def __init__(self, error_rate: int = 20, expected: int = 32) -> None:
        if not 1 <= error_rate <= 99 or expected < 1:
            raise InvalidInputError(
                f"a bloom filter with maxErrorRateOfBloomFilter={error_rate} and expectConsumerNumUseFilter={expected} "
                "cannot be made; the rate is 1 to 99 percent and the number at least 1"
            )
        self.hashes = math.ceil(math.log(error_rate / 100, 0.5))
        exact = expected * math.log2(100 / error_rate) * math.log2(math.e)
        self.bits = (math.ceil(exact) + 7) // 8 * 8

    @property
    def size(self) -> int:
        """Bytes of a map."""
        return self.bits // 8

    def positions(self, text: str) -> tuple[int, ...]:
        """Return the bit positions of a text: one hash, stretched to `hashes` positions."""
        value = murmur3_low64(text.encode("utf-8"))
        low, high = to_i32(value), to_i32(value >> 32)
        positions = []
        for i in range(1, self.hashes + 1):
            combined = to_i32(low + i * high)
            positions.append((~combined if combined < 0 else combined) % self.bits)
        return tuple(positions)

    def generate(self, group: str, topic: str) -> BloomFilterData:
        """Return the bits of a group's subscription to a topic."""
        return BloomFilterData(self.positions(f"{group}#{topic}"), self.bits)

    def is_valid(self, data: BloomFilterData | None) -> bool:
        """Tell whether bits were made with the parameters of this filter."""
        return data is not None and data.bit_num == self.bits and len(data.bit_pos) == self.hashes

    def new_map(self) -> bytearray:
        """Return a map with no bit set."""
        return bytearray(self.size)


def set_bits(bit_map: bytearray, positions: Iterable[int]) -> None:
    """Set bits; bit `p` is bit `p % 8` of byte `p // 8`, the least significant one first."""
    for position in positions:
        bit_map[position >> 3] |= 1 << (position & 7)


def has_bits(bit_map: bytes | bytearray, positions: Iterable[int]) -> bool:
    """Tell whether all the bits are set."""
    return all(bit_map[position >> 3] >> (position & 7) & 1 for position in positions)


def murmur3_low64(data: bytes) -> int:
    """Return the first 8 bytes of the 128-bit murmur3 hash (x64 form, seed 0), read as a little-endian number."""
    h1 = h2 = 0
    tail_at = len(data) // 16 * 16
    for at in range(0, tail_at, 16):
        h1 ^= _mix_k1(int.from_bytes(data[at : at + 8], "little"))
        h1 = (_rotate(h1, 27) + h2) * 5 + 0x52DCE729 & _MASK
        h2 ^= _mix_k2(int.from_bytes(data[at + 8 : at + 16], "little"))
        h2 = (_rotate(h2, 31) + h1) * 5 + 0x38495AB5 & _MASK
    tail = data[tail_at:]
    h2 ^= _mix_k2(int.from_bytes(tail[8:], "little"))
    h1 ^= _mix_k1(int.from_bytes(tail[:8], "little"))
    h1 ^= len(data)
    h2 ^= len(data)
    h1 = h1 + h2 & _MASK
    h2 = h2 + h1 & _MASK
    return _finish(h1) + _finish(h2) & _MASK


def _rotate(value: int, bits: int) -> int:
    return (value << bits | value >> 64 - bits) & _MASK


def _mix_k1(k: int) -> int:
    return _rotate(k * _C1 & _MASK, 31) * _C2 & _MASK


def _mix_k2(k: int) -> int:
    return _rotate(k * _C2 & _MASK, 33) * _C1 & _MASK


def _finish(value: int) -> int:
    value = (value ^ value >> 33) * 0xFF51AFD7ED558CCD & _MASK
    value = (value ^ value >> 33) * 0xC4CEB9FE1A85EC53 & _MASK
    return value ^ value >> 33
