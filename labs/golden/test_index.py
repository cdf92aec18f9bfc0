"""Index files that Apache RocketMQ 5.3.3 and 4.9.7 wrote: read here, and made again here."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from rocketmq_py.common.environment import system_environment
from rocketmq_py.store.index_file import IndexFile, index_file_size

FILES = system_environment().files
GOLDEN = Path(__file__).parent / "data/store.tar.xz"


def open_file(path: Path, slots: int, entries: int) -> IndexFile:
    return IndexFile(FILES, str(path), slots, entries)


def entries_of(file: IndexFile) -> list[tuple[int, int, int, int]]:
    return [file.entry(number) for number in range(1, file.index_count)]


def golden() -> list[tuple[str, dict[str, Any], bytes]]:
    """Return store, expectation and bytes of every index file of Apache."""
    found = []
    with tarfile.open(GOLDEN) as archive:
        members = {member.name: member for member in archive}
        for name, member in members.items():
            if name.endswith("/expected.json"):
                store = name.split("/")[-2]
                expected = json.load(archive.extractfile(member))
                for row in expected["index"]:
                    data = archive.extractfile(members[f"store/{store}/store/index/{row['name']}"]).read()
                    found.append((store, row, data))
    return found


@pytest.mark.parametrize(
    ("store", "expected", "data"), golden(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_an_index_file_of_apache_is_read(store: str, expected: dict[str, Any], data: bytes, tmp_path: Path) -> None:
    """Header, entries and chains, from what brokers 5.3.3 and 4.9.7 wrote."""
    path = tmp_path / expected["name"]
    path.write_bytes(data)
    assert len(data) == expected["size"] == index_file_size(expected["slots"], expected["maxIndexNum"])
    file = open_file(path, expected["slots"], expected["maxIndexNum"])
    assert (file.begin_timestamp, file.end_timestamp) == (expected["beginTimestamp"], expected["endTimestamp"])
    assert (file.begin_physical_offset, file.end_physical_offset) == (
        expected["beginPhyOffset"],
        expected["endPhyOffset"],
    )
    assert entries_of(file) == [tuple(entry) for entry in expected["entries"]][: file.index_count - 1]
    file.close()


def test_the_same_keys_make_the_bytes_that_apache_made(tmp_path: Path) -> None:
    """The first file of a store of 5.3.3, put again key by key from its entries: every byte is the same."""
    _, expected, data = next(row for row in golden() if row[0] == "rolled-53")
    file = open_file(tmp_path / "again", expected["slots"], expected["maxIndexNum"])
    entries = [tuple(entry) for entry in expected["entries"]]
    begin = expected["beginTimestamp"]
    for number, (key_hash, offset, seconds, _) in enumerate(entries, 1):
        stamp = expected["endTimestamp"] if number == len(entries) else begin + seconds * 1_000
        file.put([key_hash], [offset], [stamp])
    file.close()
    assert (tmp_path / "again").read_bytes() == data
