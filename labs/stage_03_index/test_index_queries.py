"""What a query finds when keys collide, files roll, logs are cut, disks are full and brokers start again."""

from __future__ import annotations

import errno
import shutil
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from labs.stage_02_consume_queue.store_lab import START_MS, LabClock, StoreLab, draft, snapshot, store_lab
from rocketmq_py.common import sys_flag as flags
from rocketmq_py.common.environment import system_environment
from rocketmq_py.common.file_system import OsFileSystem
from rocketmq_py.common.properties import encode_properties
from rocketmq_py.common.record import decode_records
from rocketmq_py.store.index_service import IndexService
from rocketmq_py.store.index_vector import Vectors

SMALL = {"max_hash_slot_num": 8, "max_index_num": 100}


def index_lab(folder: Path, **settings):
    return store_lab(folder, through="index", **{**SMALL, **settings})


async def put(lab: StoreLab, body: str, keys: str = "", unique_key: str = "", **more) -> None:
    named = {"KEYS": keys, "UNIQ_KEY": unique_key}
    await lab.put(draft(body, properties=encode_properties({k: v for k, v in named.items() if v}), **more))


async def query(lab: StoreLab, key: str, begin: int = 0, end: int = 1 << 60, limit: int = 32) -> list[str]:
    result = await lab.store.query_messages("TopicTest", key, limit, begin, end)
    return [message.body.decode() for record in result.records for message in decode_records(record)]


async def test_the_first_key_of_a_file_is_found_at_its_time(tmp_path: Path) -> None:
    """Its entry counts from the end of the file before, an hour earlier, and yet it is not an hour too young."""
    clock = LabClock()
    async with index_lab(tmp_path, clock=clock, max_index_num=3) as lab:
        for number in range(2):
            await put(lab, f"old {number}", "k")
        clock.now += 3_600_000
        for number in range(2):
            await put(lab, f"new {number}", "k")
        assert await query(lab, "k", clock.now, clock.now) == ["new 0", "new 1"]
        assert await query(lab, "k", START_MS, START_MS) == ["old 0", "old 1"]
        index = lab.kernel.get(IndexService)
        assert [file.entry(1)[2] for file in index.files] == [0, 3_600]


async def test_messages_behind_many_collisions_are_found(tmp_path: Path) -> None:
    """ "Aa" and "BB" have one hash. The one message that was asked for lies behind forty that only look like it."""
    async with index_lab(tmp_path) as lab:
        await put(lab, "wanted", "Aa")
        for number in range(40):
            await put(lab, f"other {number}", "BB")
        assert await query(lab, "Aa", limit=1) == ["wanted"]
        assert await query(lab, "Aa", limit=32) == ["wanted"]
        assert await query(lab, "BB", limit=2) == ["other 38", "other 39"]


async def test_a_message_that_names_a_key_twice_is_one_message(tmp_path: Path) -> None:
    async with index_lab(tmp_path) as lab:
        await put(lab, "twice", "k k", "k")
        await put(lab, "once", "k")
        assert await query(lab, "k") == ["twice", "once"]


async def test_a_query_returns_no_more_than_max_msgs_num_batch(tmp_path: Path) -> None:
    """64 by default, whatever was asked for, and the youngest of them."""
    async with index_lab(tmp_path) as lab:
        for number in range(70):
            await put(lab, f"m{number}", "k")
        assert await query(lab, "k", limit=1_000) == [f"m{number}" for number in range(6, 70)]


async def test_prepared_messages_are_indexed_and_rolled_back_ones_are_not(tmp_path: Path) -> None:
    async with index_lab(tmp_path) as lab:
        await put(lab, "prepared", "k", sys_flag=flags.TRANSACTION_PREPARED, units=0)
        await put(lab, "rolled back", "k", sys_flag=flags.TRANSACTION_ROLLBACK, units=0)
        await put(lab, "committed", "k", sys_flag=flags.TRANSACTION_COMMIT)
        assert await query(lab, "k") == ["prepared", "committed"]


async def test_keys_in_other_scripts_are_found(tmp_path: Path) -> None:
    """Java hashes UTF-16 units: a letter beyond 65,535 counts as two."""
    async with index_lab(tmp_path) as lab:
        for key in ("ключ", "键", "🔑x", "é"):
            await put(lab, f"has {key}", f"{key} plain")
        for key in ("ключ", "键", "🔑x", "é"):
            assert await query(lab, key) == [f"has {key}"]
        assert len(await query(lab, "plain")) == 4


async def test_a_cut_log_takes_its_keys_along(tmp_path: Path) -> None:
    """The last record is torn. What comes in its place must be found, and what was torn must not."""
    async with index_lab(tmp_path) as lab:
        for number in range(3):
            await put(lab, f"m{number}", f"k{number} all")
        last = lab.queue().unit(2)
    log = tmp_path / "commitlog" / ("0" * 20)
    data = bytearray(log.read_bytes())
    data[last[0] : last[0] + last[1]] = bytes(last[1])
    log.write_bytes(data)
    async with index_lab(tmp_path) as lab:
        await put(lab, "in its place", "k9 all")
        assert await query(lab, "all") == ["m0", "m1", "in its place"]
        assert await query(lab, "k9") == ["in its place"]
        assert await query(lab, "k2") == []


async def test_starting_again_makes_the_bytes_of_a_run_without_a_stop(tmp_path: Path) -> None:
    """Every message in a run of its own, or all in one: the files are equal, also where one is full."""
    for folder, runs in (("one", [range(12)]), ("two", [range(n, n + 1) for n in range(12)])):
        for numbers in runs:
            clock = LabClock(START_MS + 700 * numbers[0])
            async with index_lab(tmp_path / folder, clock=clock, max_index_num=6) as lab:
                for number in numbers:
                    clock.now = START_MS + 700 * number
                    await put(lab, f"m{number}", f"a{number % 3}", f"U{number}")
    one, two = (list(snapshot(tmp_path / folder / "index").values()) for folder in ("one", "two"))
    assert len(one) == 5
    assert one == two


async def test_a_lost_index_is_made_again(tmp_path: Path) -> None:
    async with index_lab(tmp_path, max_index_num=6) as lab:
        for number in range(12):
            await put(lab, f"m{number}", f"a{number % 3}", f"U{number}")
    before = list(snapshot(tmp_path / "index").values())
    shutil.rmtree(tmp_path / "index")
    async with index_lab(tmp_path, max_index_num=6) as lab:
        assert await query(lab, "a1") == ["m1", "m4", "m7", "m10"]
        assert await query(lab, "U7") == ["m7"]
    assert list(snapshot(tmp_path / "index").values()) == before


@pytest.fixture(scope="module")
def vectors(numpy: ModuleType) -> Vectors:
    return Vectors(numpy)


async def test_a_broker_with_numpy_writes_what_one_without_writes(tmp_path: Path, vectors: Vectors) -> None:
    """Four hundred messages in turns of forty, two keys each, over several files, one turn with a key that is not ASCII."""
    for folder in ("with", "without"):
        clock = LabClock()
        async with index_lab(tmp_path / folder, clock=clock, max_index_num=150, max_hash_slot_num=31) as lab:
            index = lab.kernel.get(IndexService)
            index._asked_for_vectors = True
            index.vectors = vectors if folder == "with" else None
            for turn in range(10):
                clock.now += 1_300
                rows = [
                    {"KEYS": f"k{number % 17} {'ü' * (turn == 4)}x{number}", "UNIQ_KEY": f"7F00{turn:02}{number:04}"}
                    for number in range(40)
                ]
                await lab.put(*(draft("b", properties=encode_properties(row)) for row in rows))
            index.build()
    first, second = (list(snapshot(tmp_path / folder / "index").values()) for folder in ("with", "without"))
    assert len(first) > 5
    assert first == second


class FullDisk(OsFileSystem):
    """Refuses to write index entries while it is full."""

    def __init__(self) -> None:
        self.is_full = False
        self.index_files: set[int] = set()

    def open_file(self, path: str, *, create: bool = False, write: bool = True) -> int:
        fd = super().open_file(path, create=create, write=write)
        (self.index_files.add if "/index/" in path else self.index_files.discard)(fd)
        return fd

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        if self.is_full and fd in self.index_files:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().pwrite(fd, data, offset)


async def test_a_full_disk_stops_the_index_and_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Messages are still stored and read, keys from before are still found; the next start makes up for the rest."""
    files = FullDisk()
    environment = replace(system_environment(), files=files)
    async with index_lab(tmp_path, environment=environment) as lab:
        await put(lab, "before", "k")
        assert await query(lab, "k") == ["before"]
        files.is_full = True
        await put(lab, "meanwhile", "k")
        assert await query(lab, "k") == ["before"]
        assert lab.kernel.get(IndexService).is_failed
        assert "rests until the next start" in caplog.text
        files.is_full = False
        await put(lab, "after", "k")
        assert await query(lab, "k") == ["before"], "a gap in the index would be worse than its end"
        assert lab.read(0) == ["before", "meanwhile", "after"]
    async with index_lab(tmp_path) as lab:
        assert await query(lab, "k") == ["before", "meanwhile", "after"]
