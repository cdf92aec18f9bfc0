"""The index file: a hash map on disk, in Apache's bytes, with numpy and without."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rocketmq_py.common.environment import system_environment
from rocketmq_py.common.optional_numpy import load_numpy
from rocketmq_py.store.config import MessageStoreConfig
from rocketmq_py.store.index_file import ENTRY_LAYOUT, HEADER_LAYOUT, SLOT_SIZE, IndexFile
from rocketmq_py.store.index_hash import KeyHasher, index_hash
from rocketmq_py.store.index_vector import Vectors

FILES = system_environment().files
SLOTS, ENTRIES = 7, 40


def open_file(path: Path, slots: int = SLOTS, entries: int = ENTRIES) -> IndexFile:
    return IndexFile(FILES, str(path), slots, entries)


def entries_of(file: IndexFile) -> list[tuple[int, int, int, int]]:
    return [file.entry(number) for number in range(1, file.index_count)]


@pytest.mark.claim("idx-01")
def test_a_file_of_the_default_size_is_a_hash_map_of_420_million_bytes(tmp_path: Path) -> None:
    """Claim: an index file is a hash map on disk of fixed size: 40 + 5,000,000*4 + 20,000,000*20 = 420,000,040 bytes.

    Experiment: make a file with the default settings, and put one key.
    Observe: its size; the slot of the key holds 1, entry 1 lies behind the slots and the unused entry 0.
    """
    config = MessageStoreConfig()
    path = tmp_path / "index"
    file = open_file(path, config.max_hash_slot_num, config.max_index_num)
    file.put([12_345_678], [4_711], [1_700_000_000_000])
    file.close()
    assert path.stat().st_size == 40 + 5_000_000 * 4 + 20_000_000 * 20 == 420_000_040
    with path.open("rb") as raw:
        raw.seek(HEADER_LAYOUT.size + 12_345_678 % 5_000_000 * SLOT_SIZE)
        assert raw.read(4) == b"\0\0\0\1"
        raw.seek(40 + 5_000_000 * 4 + 20)
        assert ENTRY_LAYOUT.struct.unpack(raw.read(20)) == (12_345_678, 4_711, 0, 0)


@pytest.mark.claim("idx-04")
def test_colliding_keys_are_chained_newest_first(tmp_path: Path) -> None:
    """Claim: colliding keys are linked in their slot, newest first; a query re-checks the key on the message itself.

    Experiment: six keys, of which four share slot 3 of seven, and two of those the whole hash.
    Observe: the slot leads to the newest; each entry to the one before it; a search by hash returns the two that have
        it, newest first. (That a message is asked for its keys is in `test_index_service.py`.)
    """
    file = open_file(tmp_path / "index")
    hashes = [3, 10, 4, 17, 10, 5]
    file.put(hashes, [100 * number for number in range(6)], [1_000 * number for number in range(1, 7)])
    assert [entry[3] for entry in entries_of(file)] == [0, 1, 0, 2, 4, 0]
    assert file.find(10, 10, 0, 1 << 60) == [400, 100]
    assert file.find(3, 10, 0, 1 << 60) == [0]
    assert file.find(24, 10, 0, 1 << 60) == [], "same slot, no such hash"
    assert file.hash_slot_count == 3
    file.close()


def test_the_header_says_what_the_file_covers(tmp_path: Path) -> None:
    file = open_file(tmp_path / "index")
    file.put([1, 2, 3], [10, 20, 30], [5_000, 6_500, 9_999])
    file.close()
    raw = (tmp_path / "index").read_bytes()
    assert HEADER_LAYOUT.struct.unpack_from(raw) == (5_000, 9_999, 10, 30, 3, 4)
    again = open_file(tmp_path / "index")
    assert [entry[2] for entry in entries_of(again)] == [0, 1, 4], "whole seconds after the first"
    assert again.find(3, 1, 9_000, 9_000) == [30]
    assert again.find(3, 1, 10_000, 11_000) == []
    again.close()


def test_a_file_takes_what_fits(tmp_path: Path) -> None:
    """It says how many; the caller goes on in the next file, which begins where this one ends."""
    file = open_file(tmp_path / "one", entries=5)
    assert file.put([1, 2, 3, 4, 5, 6], [0, 10, 20, 30, 40, 50], [1_000] * 6) == 4
    assert file.is_full
    assert file.put([9], [60], [2_000]) == 0
    following = open_file(tmp_path / "two", entries=5)
    following.begin_after(file.end_timestamp, file.end_physical_offset)
    following.put([5, 6], [40, 50], [4_000, 4_500])
    assert following.entry(1)[2] == 3, "the first entry counts from the end of the file before"
    assert following.begin_timestamp == 4_000
    file.close()
    following.close()


def test_a_damaged_chain_ends(tmp_path: Path) -> None:
    """An entry that leads to itself or to a younger one would be an endless walk."""
    file = open_file(tmp_path / "index")
    file.put([3, 10, 17], [0, 10, 20], [1_000] * 3)
    at = HEADER_LAYOUT.size + SLOTS * SLOT_SIZE + 1 * ENTRY_LAYOUT.size
    file.close()
    raw = bytearray((tmp_path / "index").read_bytes())
    raw[at + 16 : at + 20] = (3).to_bytes(4, "big")
    (tmp_path / "index").write_bytes(raw)
    damaged = open_file(tmp_path / "index")
    assert damaged.find(3, 10, 0, 1 << 60) == [0]
    assert damaged.find(24, 10, 0, 1 << 60) == []
    damaged.close()


def test_numpy_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)
    assert load_numpy() is None


BATCHES = st.lists(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=30), min_size=1, max_size=5)


@pytest.fixture(scope="module")
def vectors(numpy: ModuleType) -> Vectors:
    return Vectors(numpy)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(batches=BATCHES, seconds=st.lists(st.integers(0, 5_000), min_size=150, max_size=150))
def test_columns_and_single_keys_make_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, vectors: Vectors, batches: list[list[int]], seconds: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("index")
    one, two = open_file(folder / "one"), open_file(folder / "two")
    number, now = 0, 1_000
    for hashes in batches:
        offsets = [100 * (number + row) for row in range(len(hashes))]
        times = [now := now + seconds[(number + row) % 150] for row in range(len(hashes))]
        number += len(hashes)
        assert one.put(hashes, offsets, times) == two.put_vector(
            vectors, *(vectors.column(values) for values in (hashes, offsets, times))
        )
    one.close()
    two.close()
    assert (folder / "one").read_bytes() == (folder / "two").read_bytes()


@given(st.text(st.characters(codec="utf-8"), max_size=20), st.text(st.characters(codec="utf-8"), max_size=40))
def test_the_hash_is_javas(topic: str, key: str) -> None:
    """Put together from parts that are kept, and yet the hash of the whole text."""
    from rocketmq_py.common.java import string_hash

    assert KeyHasher().hash(topic.encode(), key.encode()) == index_hash(string_hash(f"{topic}#{key}"))


def test_hashes_by_columns_are_the_same(vectors: Vectors) -> None:
    keys = ["", "a", "order-17", "7F0000012334DF533C518367DBA70001", "x" * 200, "polygenelubricants"]
    hasher = KeyHasher()
    for topic in (b"T", b"TopicTest"):
        counts = vectors.column([2, 1, 3])
        found = vectors.hash([hasher.prefix(topic)] * 3, counts, [key.encode() for key in keys])
        assert found is not None
        assert found.tolist() == [hasher.hash(topic, key.encode()) for key in keys]
    assert vectors.hash([0], vectors.column([1]), ["ключ".encode()]) is None
    assert index_hash(-(2**31)) == 0, "the only number without an absolute value"


def test_the_hash_that_has_no_absolute_value_is_zero_in_columns_too(vectors: Vectors) -> None:
    """A key is made whose text has Java's smallest hash, letter by letter in base 31."""
    hasher = KeyHasher()
    letters = 7
    powers = [31**power for power in reversed(range(letters))]
    rest = (2**31 - hasher.prefix(b"T") * 31**letters - 64 * sum(powers)) % 2**32
    key = bytes(64 + rest // power % 31 for power in powers)
    assert hasher.hash(b"T", key) == 0
    found = vectors.hash([hasher.prefix(b"T")], vectors.column([2]), [key, b"other"])
    assert found is not None
    assert found.tolist() == [0, hasher.hash(b"T", b"other")]
