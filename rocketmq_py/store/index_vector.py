"""The index's work by columns, with numpy: the same bytes as one key at a time, in a fifth of the time.

Until numpy is loaded, and without it, keys are added one by one.

Source: the results are those of `IndexFile#putKey`, RocketMQ 5.3; the way is our own.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, Final

#: An array of numpy; the package has no types where it is not installed.
Array = Any

#: Below this many keys the preparation of arrays costs more than they save.
MIN_KEYS: Final = 16


class Vectors:
    """Hashes and links many keys at once.

    Args:
        numpy: the module.
    """

    def __init__(self, numpy: ModuleType) -> None:
        self._numpy: Any = numpy
        self._powers: Array = ()
        self._inverses: Array = ()

    def column(self, values: list[int]) -> Array:
        """Return numbers as an array."""
        return self._numpy.array(values, self._numpy.int64)

    def repeat(self, values: list[int], counts: Array) -> Array:
        """Return each value as often as the count beside it says."""
        return self._numpy.repeat(self.column(values), counts)

    def hash(self, prefixes: list[int], counts: Array, keys: list[bytes]) -> Array | None:
        """Return the index's hash of each key (`index_hash.py`).

        Java's hash of a text is the sum of its letters, each times a power of 31, modulo 2^32.

        Args:
            prefixes: for each record the hash of its `topic#`, modulo 2^32.
            counts: for each record how many keys it has.
            keys: all keys in order.

        Returns:
            An array; None if a key is not ASCII, so that its letters are not its bytes.
        """
        numpy = self._numpy
        text = b"".join(keys)
        if not text.isascii():
            return None
        if len(text) >= len(self._powers):
            self._extend_powers(len(text) + 1)
        lengths = numpy.fromiter(map(len, keys), numpy.int64, len(keys))
        length = int(lengths[0])
        if (lengths == length).all():
            # Unique keys alone, as a rule: each is a row of a matrix.
            rows = numpy.frombuffer(text, numpy.uint8).reshape(len(keys), length)
            hashes = rows @ self._powers[length - 1 :: -1]
        else:
            hashes = self._parts_of_row(text, lengths)
        hashes += self.repeat(prefixes, counts).astype(numpy.uint32) * self._powers[lengths]
        absolute = numpy.abs(hashes.view(numpy.int32))
        # The smallest 32-bit number has no absolute value; RocketMQ takes 0 for it.
        absolute[absolute < 0] = 0
        return absolute

    def _parts_of_row(self, text: bytes, lengths: Array) -> Array:
        """Return the hash of each part of a row of letters, given by their lengths in order.

        In the row letter i counts 31^-i (31 is odd, so it has an inverse). The sum over a part is the difference of two
        running sums, and times 31^(end - 1) it is the hash of that part.
        """
        numpy = self._numpy
        ends = numpy.cumsum(lengths)
        sums = numpy.zeros(len(text) + 1, numpy.uint32)
        letters = numpy.frombuffer(text, numpy.uint8)
        numpy.cumsum(letters * self._inverses[: len(text)], dtype=numpy.uint32, out=sums[1:])
        # A key of no letters is none (`keys_of`), so every end is at least 1.
        return (sums[ends] - sums[ends - lengths]) * self._powers[ends - 1]

    def _extend_powers(self, size: int) -> None:
        """Prepare 31^i and 31^-i, modulo 2^32, for rows of up to `size` letters and a good deal more."""
        numpy = self._numpy
        for name, base in (("_powers", 31), ("_inverses", pow(31, -1, 1 << 32))):
            factors = numpy.full(2 * size, base, numpy.uint32)
            factors[0] = 1
            setattr(self, name, numpy.cumprod(factors, dtype=numpy.uint32))

    def slots(self, buffer: Any, count: int, position: int) -> Array:
        """Return the slots of an index file as an array over its map. It must be gone before the map is closed."""
        return self._numpy.frombuffer(buffer, ">i4", count, position)

    def link(self, slots: Array, hashes: Array, first: int) -> tuple[Array, Array, Array]:
        """Find out how new entries hang in the chains of their slots.

        Args:
            slots: of the file: the number of each slot's newest entry.
            hashes: of the new entries, in order.
            first: number of the first new entry.

        Returns:
            For each entry the one before it in its slot (0 for none); the slots that change; their new content.
        """
        numpy = self._numpy
        wanted = hashes.astype(numpy.int64) % len(slots)
        previous = slots[wanted].astype(numpy.int64)
        previous[(previous < 0) | (previous >= first)] = 0
        # Sorted by slot, in the order of arrival within one: each entry follows the one before it in its slot.
        order = numpy.argsort(wanted, kind="stable")
        ordered = wanted[order]
        follows = ordered[1:] == ordered[:-1]
        previous[order[1:][follows]] = first + order[:-1][follows]
        is_newest = numpy.append(~follows, True)
        return previous, ordered[is_newest], first + order[is_newest]

    def seconds_after(self, begin: int, timestamps: Array, limit: int) -> Array:
        """Return the whole seconds from `begin` (ms) to each time, not below 0 and not above `limit`."""
        return self._numpy.clip((timestamps - begin) // 1_000, 0, limit)

    def entries(self, hashes: Array, offsets: Array, diffs: Array, previous: Array) -> bytes:
        """Return the bytes of entries, given as columns."""
        rows = self._numpy.empty(
            len(hashes), [("hash", ">i4"), ("offset", ">i8"), ("diff", ">i4"), ("previous", ">i4")]
        )
        rows["hash"], rows["offset"], rows["diff"], rows["previous"] = hashes, offsets, diffs, previous
        data: bytes = rows.tobytes()
        return data

    def count_zeros(self, values: Array) -> int:
        """Return how many values are 0."""
        return len(values) - int(self._numpy.count_nonzero(values))
