"""What Apache finds in its index files is found here, and its files are made again from their keys, rolled ones too."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from labs.golden.test_index import entries_of, golden, open_file
from rocketmq_py.store.index_hash import KeyHasher
from rocketmq_py.store.index_vector import Vectors

FILES = golden()
EVER = (0, 1 << 60)


def by_store() -> dict[str, list[tuple[dict[str, Any], bytes]]]:
    """Return expectation and bytes of the index files of each store, oldest first."""
    stores: dict[str, list[tuple[dict[str, Any], bytes]]] = {}
    for store, expected, data in sorted(FILES, key=lambda row: (row[0], row[1]["name"])):
        stores.setdefault(store, []).append((expected, data))
    return stores


STORES = by_store()


@pytest.mark.parametrize(("store", "expected", "data"), FILES, ids=[f"{row[0]}-{row[1]['name']}" for row in FILES])
def test_every_key_leads_to_the_records_that_apache_finds(
    store: str, expected: dict[str, Any], data: bytes, tmp_path: Path
) -> None:
    """Keys in any script, keys of several messages, keys at the edge of a full file; the newest record first."""
    (tmp_path / expected["name"]).write_bytes(data)
    file = open_file(tmp_path / expected["name"], expected["slots"], expected["maxIndexNum"])
    assert (file.hash_slot_count, file.index_count) == (expected["hashSlotCount"], expected["indexCount"])
    assert entries_of(file) == [tuple(entry) for entry in expected["entries"]]
    hasher, found = KeyHasher(), {}
    for text in expected["queries"]:
        topic, _, key = text.partition("#")
        # A message that names a key twice has two entries; a query counts it once.
        offsets = file.find(hasher.hash(topic.encode(), key.encode()), 1_000, *EVER)
        found[text] = offsets
    file.close()
    assert found == expected["queries"]


@pytest.mark.parametrize("by_columns", [False, True], ids=["one by one", "columns"])
@pytest.mark.parametrize("store", list(STORES))
def test_the_files_of_a_store_are_made_again_byte_for_byte(
    store: str, by_columns: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Each file begins where the one before it ended, which is what its first entry counts its seconds from.

    A file tells the seconds of its entries, and the milliseconds of the first and the last; that is enough to put it
    again, since records between them add nothing but seconds.
    """
    vectors = Vectors(request.getfixturevalue("numpy")) if by_columns else None
    for (before, _), (expected, data) in itertools.pairwise([({}, b""), *STORES[store]]):
        file = open_file(tmp_path / expected["name"], expected["slots"], expected["maxIndexNum"])
        if before:
            file.begin_after(before["endTimestamp"], before["endPhyOffset"])
        hashes, offsets, seconds, _ = zip(*expected["entries"], strict=True)
        stamps = [expected["beginTimestamp"] + 1_000 * second for second in seconds]
        stamps[0], stamps[-1] = expected["beginTimestamp"], expected["endTimestamp"]
        if vectors is None:
            assert file.put(hashes, offsets, stamps) == len(hashes)
        else:
            columns = [vectors.column(list(values)) for values in (hashes, offsets, stamps)]
            assert file.put_vector(vectors, *columns) == len(hashes)
        file.close()
        assert (tmp_path / expected["name"]).read_bytes() == data, f"{store}/{expected['name']}"
