"""The extension files of consume queues: bytes, file ends, cuts."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from rocketmq_py.common.file_system import OsFileSystem
from rocketmq_py.common.java import I64_MIN
from rocketmq_py.store.consume_queue_ext import (
    ConsumeQueueExtStore,
    ExtUnit,
    QueueExtension,
    is_address,
    to_address,
    to_position,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "data" / "store.tar.xz"


def extension(folder: Path, file_size: int = 200) -> QueueExtension:
    """Open the extension in a folder with tiny files."""
    opened = QueueExtension(str(folder), file_size, OsFileSystem())
    opened.load()
    return opened


def unit(number: int, size: int = 14) -> ExtUnit:
    """Return a unit that is unlike its neighbours."""
    return ExtUnit(2_598_919 + number, 1_700_000_000_005 + number, bytes([number % 251 + 1]) * size)


def test_a_unit_has_the_bytes_of_the_format() -> None:
    encoded = ExtUnit(2_598_919, 1_700_000_000_005, bytes(14)).encode()
    assert encoded.hex(" ") == (
        "00 22 "  # size of the unit: 34
        "00 00 00 00 00 27 a8 07 "  # tags code
        "00 00 01 8b cf e5 68 05 "  # store time
        "00 0e "  # size of the bit map: 14
        "00 00 00 00 00 00 00 00 00 00 00 00 00 00"
    )
    assert ExtUnit.decode(encoded) == ExtUnit(2_598_919, 1_700_000_000_005, bytes(14))
    assert ExtUnit.decode(encoded[:-1]) is None


def test_addresses_lie_below_every_tags_code() -> None:
    assert to_address(0) == I64_MIN
    assert to_address(34).to_bytes(8, "big", signed=True).hex() == "8000000000000022"
    assert to_position(to_address(123_456)) == 123_456
    assert is_address(to_address(1 << 40))
    assert not is_address(-(1 << 31))


def test_units_are_read_back_across_file_ends_and_restarts(tmp_path: Path) -> None:
    written = extension(tmp_path)
    units = [unit(number) for number in range(23)]
    addresses = [*written.append(units[:7]), *written.append(units[7:])]
    # A file of 200 bytes holds five units of 34, as the last four bytes are never used; then comes the end mark.
    assert [path.name for path in sorted(tmp_path.iterdir())] == [f"{start:020}" for start in range(0, 1000, 200)]
    first = (tmp_path / f"{0:020}").read_bytes()
    assert len(first) == 200
    assert first[170:172] == b"\xff\xff"
    assert addresses[5] == to_address(200)

    for opened in (written, extension(tmp_path)):
        assert [opened.read(address) for address in addresses if address is not None] == units
        assert opened.end == 4 * 200 + 3 * 34
    assert extension(tmp_path).append([unit(99)]) == [to_address(4 * 200 + 3 * 34)]


def test_a_unit_that_is_too_large_gets_no_address(tmp_path: Path) -> None:
    opened = extension(tmp_path)
    assert opened.append([unit(1, size=190), unit(2)]) == [None, to_address(0)]


def test_what_lies_behind_the_last_address_of_the_queue_is_cut(tmp_path: Path) -> None:
    opened = extension(tmp_path)
    addresses = opened.append([unit(number) for number in range(12)])
    opened.truncate_after(addresses[6])
    assert opened.read(addresses[6] or 0) == unit(6)
    assert opened.read(addresses[7] or 0) is None
    assert opened.append([unit(50)]) == [addresses[7]]
    again = extension(tmp_path)
    assert again.end == opened.end, "Was the old text behind the cut wiped? A restart must not find it."
    again.truncate_after(None)
    assert again.end == 0
    assert again.append([unit(1)]) == [to_address(0)]


def test_files_below_the_queues_first_address_are_deleted(tmp_path: Path) -> None:
    opened = extension(tmp_path)
    addresses = opened.append([unit(number) for number in range(12)])
    opened.delete_before(addresses[5] or 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{200:020}", f"{400:020}"]
    assert opened.read(addresses[4] or 0) is None
    assert opened.read(addresses[11] or 0) == unit(11)


def test_a_deleted_topic_leaves_no_folder(tmp_path: Path) -> None:
    store = ConsumeQueueExtStore(str(tmp_path), 200, OsFileSystem())
    store.get("TopicA", 3).append([unit(1)])
    store.get("TopicB", 0).append([unit(2)])
    store.delete_topic("TopicA")
    assert [path.name for path in (tmp_path / "consumequeue_ext").iterdir()] == ["TopicB"]


def test_an_extension_of_apaches_broker_can_be_read(tmp_path: Path) -> None:
    if not GOLDEN.exists():
        pytest.skip(f"{GOLDEN} is not there")
    prefix = "store/filter-batchcq-53/store/"
    with tarfile.open(GOLDEN) as archive:
        members = [member for member in archive.getmembers() if member.name.startswith(prefix + "consumequeue_ext/")]
        archive.extractall(tmp_path, members, filter="data")
    store = ConsumeQueueExtStore(str(tmp_path / prefix), 2_048, OsFileSystem())
    opened = store.get("GoldFilter", 0)
    assert opened.read(to_address(0)) == ExtUnit(
        3_644, 1_795_263_346_265, bytes.fromhex("4000000002000000200000000000")
    )
    assert opened.read(to_address(34)) == ExtUnit(3_646, 1_795_263_346_290, bytes(14))
    assert opened.end == 408
