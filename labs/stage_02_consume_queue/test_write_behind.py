"""Units gather in memory and are written behind: when, how many at once, and what happens when the disk refuses."""

from __future__ import annotations

import asyncio
import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labs.stage_02_consume_queue.store_lab import StoreLab, draft, store_lab
from rocketmq_py.common.environment import system_environment
from rocketmq_py.common.file_system import OsFileSystem
from rocketmq_py.sim.environment import simulated_environment
from rocketmq_py.sim.file_system import Fault, SimulatedFileSystem
from rocketmq_py.store.columns import Arrivals, Columns
from rocketmq_py.store.consume_queue import ConsumeQueue
from rocketmq_py.store.consume_queue_unit import FILLER, UNIT_SIZE
from rocketmq_py.store.flush_consume_queue import FULL_TAIL_BYTES, QUEUES_PER_STEP
from rocketmq_py.store.get_message import ColdReadError
from rocketmq_py.store.queue_files import QueueFiles
from rocketmq_py.store.reput import read_columns

FOREVER = {"flush_interval_consume_queue": 3_600_000, "mapped_file_size_consume_queue": 6_000_000}


class CountingFiles(OsFileSystem):
    """The real file system; counts the descriptors of queue files that are open, and can pretend to be cold."""

    def __init__(self) -> None:
        self.open: dict[int, str] = {}
        self.most = 0
        self.is_cold = False

    def open_file(self, path: str, *, create: bool = False, write: bool = True) -> int:
        fd = super().open_file(path, create=create, write=write)
        if "consumequeue" in path:
            self.open[fd] = path
            self.most = max(self.most, len(self.open))
        return fd

    def close(self, fd: int) -> None:
        self.open.pop(fd, None)
        super().close(fd)

    def pread_cached(self, fd: int, size: int, offset: int) -> bytes | None:
        return None if self.is_cold else super().pread_cached(fd, size, offset)


async def test_a_page_of_units_is_due_at_once_and_a_single_one_when_it_is_old(tmp_path: Path) -> None:
    """204 units are a page of 4 KiB. Fewer wait until they are as old as `flushIntervalConsumeQueue`."""
    async with store_lab(tmp_path, flush_interval_consume_queue=1_000, mapped_file_size_consume_queue=6_000_000) as lab:
        now = asyncio.get_running_loop().time()
        flush = lab.queues.flush
        await lab.write(["x"], queue_id=1)
        assert flush.select_due(now + 0.9) == []
        assert flush.select_due(now + 1.5) == [lab.queue(queue_id=1)]
        await lab.write(["x"] * (FULL_TAIL_BYTES // UNIT_SIZE), queue_id=2)
        assert flush.select_due(now) == [lab.queue(queue_id=2)]


async def test_the_more_tails_wait_the_older_they_may_become(tmp_path: Path) -> None:
    """With 10,000 waiting tails they are written after two seconds instead of one, and 200 in one step."""
    async with store_lab(tmp_path, flush_interval_consume_queue=1_000, mapped_file_size_commit_log=64 << 20) as lab:
        flush = lab.queues.flush
        now = asyncio.get_running_loop().time()
        for queue_id in range(10_000):
            queue = lab.queues.get("Many", queue_id)
            queue.append(0, [queue_id * 100], [100], [0])
            flush.note(queue)
        assert flush.select_due(now + 1.5) == []
        assert len(flush.select_due(now + 60)) == QUEUES_PER_STEP
        flush._dirty.clear()


@pytest.mark.virtual_time
async def test_the_background_writes_within_the_interval_and_only_what_is_new() -> None:
    disk = SimulatedFileSystem()
    environment = simulated_environment(files=disk)
    path = "/store/consumequeue/TopicTest/3/" + "0" * 20
    async with store_lab(
        Path("/store"), environment=environment, flush_interval_consume_queue=1_000, mapped_file_size_consume_queue=200
    ) as lab:
        await lab.write(["a", "b"])
        assert not disk.exists(path)
        await asyncio.sleep(2)
        first = disk.read_file(path)
        assert any(first[20:40])
        assert not any(first[40:])
        assert lab.queue().tail == b""
        await lab.write(["c"])
        assert lab.queue().pending()[0] == 40
        await asyncio.sleep(2)
        assert disk.read_file(path)[:40] == first[:40]
        assert any(disk.read_file(path)[40:60])


@pytest.mark.virtual_time
async def test_a_disk_that_refuses_costs_nothing_but_memory_until_it_has_room_again() -> None:
    """Units stay readable in memory; the next round writes them, and the files are complete."""
    disk = SimulatedFileSystem()
    environment = simulated_environment(files=disk)
    async with store_lab(Path("/store"), environment=environment, flush_interval_consume_queue=1_000) as lab:
        await lab.write(["warm"])
        await asyncio.sleep(2)
        fault = Fault("pwrite", path_part="consumequeue", code=errno.ENOSPC, times=-1)
        disk.faults.append(fault)
        await lab.write([f"m{number}" for number in range(5)])
        await asyncio.sleep(5)
        assert lab.queues.flush.failures >= 2
        assert lab.queue().flushed == 1
        assert lab.read(0) == ["warm", *(f"m{number}" for number in range(5))]
        disk.faults.clear()
        await asyncio.sleep(2)
        assert lab.queue().flushed == 6
        assert lab.read(0) == ["warm", *(f"m{number}" for number in range(5))]


@pytest.mark.virtual_time
async def test_a_queue_that_cannot_be_written_keeps_no_other_in_memory() -> None:
    disk = SimulatedFileSystem()
    environment = simulated_environment(files=disk)
    async with store_lab(Path("/store"), environment=environment, flush_interval_consume_queue=1_000) as lab:
        disk.faults.append(Fault("pwrite", path_part="/Bad/", code=errno.EIO, times=-1))
        await lab.write(["x"], topic="Bad")
        await lab.write(["y"], topic="Good")
        await asyncio.sleep(3)
        assert lab.queue("Good").flushed == 1
        assert lab.queue("Bad").flushed == 0
        assert lab.read(0, topic="Bad") == ["x"]
        disk.faults.clear()


async def test_a_name_that_is_no_folder_makes_no_queue_and_harms_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No checksum of a record covers its topic: one that is read back from a damaged log may be anything."""
    async with store_lab(tmp_path) as lab:
        await lab.write(["a", "b"])
        (columns,) = (columns for columns, _ in read_columns(lab.log, 0, lab.log.max_offset) if len(columns))
        for bad in ("../../etc", "a\0b", "..", "x" * 300):
            arrivals = Arrivals(bad, 0, (0,), (0,), (100,), (0,), (0,), (1,), (1,))
            good = Columns()
            good.store_timestamps = columns.store_timestamps
            good.arrivals = [arrivals, Arrivals("Good", 0, (0,), (0,), (100,), (0,), (0,), (1,), (1,))]
            lab.queues.apply(good)
        assert sorted(lab.queues.keys()) == [("Good", 0), ("TopicTest", 3)]
        assert "name is damaged" in caplog.text
    assert sorted(os.listdir(tmp_path / "consumequeue")) == ["Good", "TopicTest"]


async def test_a_queue_that_begins_anew_while_a_thread_writes_it_keeps_its_new_units(tmp_path: Path) -> None:
    """What the thread wrote is the tail of before. It must not be taken for the tail that is there now."""
    async with store_lab(tmp_path, **FOREVER) as lab:
        await lab.write(["a", "b", "c"])
        queue, run_blocking = lab.queue(), system_environment().run_blocking
        end = queue.max_physical_offset

        async def and_then_begin_anew(function, *arguments):
            result = await run_blocking(function, *arguments)
            queue.append(0, [end], [70], [5])
            return result

        flush = lab.queues.flush
        flush._environment = replace(flush._environment, run_blocking=and_then_begin_anew)
        await flush.write_all()
        assert (queue.flushed, queue.max_offset) == (0, 1)
        assert queue.unit(0) == (end, 70, 5)
        flush._environment = replace(flush._environment, run_blocking=run_blocking)
        await flush.write_all()
        assert queue.flushed == 1
        assert queue.unit(0) == (end, 70, 5)


async def test_reading_many_queues_keeps_few_descriptors_and_leaves_none_open(tmp_path: Path) -> None:
    """A small LRU serves any number of queues; the answers do not depend on what is kept."""
    files = CountingFiles()
    environment = replace(system_environment(), files=files)
    async with store_lab(tmp_path, environment=environment) as lab:
        lab.queues._files._max_descriptors = 5
        for queue_id in range(30):
            await lab.write([f"{queue_id} {number}" for number in range(3)], queue_id=queue_id)
        await lab.queues.flush.write_all()
        assert files.open == {}, "writing opens, writes and closes"
        for _ in range(2):
            lab.queues._files._windows.clear()
            for queue_id in range(30):
                assert lab.read(0, queue_id=queue_id) == [f"{queue_id} {number}" for number in range(3)]
        assert files.most <= 6
    assert files.open == {}


async def test_a_cold_read_is_no_answer_and_the_thread_gives_the_same_one(tmp_path: Path) -> None:
    """Nothing on the loop waits for a disk: None says "cold", and the cold way gives what the warm way would."""
    files = CountingFiles()
    environment = replace(system_environment(), files=files)
    async with store_lab(tmp_path, environment=environment) as lab:
        await lab.write([f"m{number}" for number in range(25)])
    async with store_lab(tmp_path, environment=environment) as lab:
        files.is_cold = True
        assert lab.store.get_message("TopicTest", 3, 0, 32) is None
        cold = await lab.store.get_message_cold("TopicTest", 3, 4, 32)
        files.is_cold = False
        warm = lab.store.get_message("TopicTest", 3, 4, 32)
        assert warm is not None
        assert (cold.status, cold.next_begin_offset, cold.records) == (warm.status, 10, warm.records)
        assert cold.message_count == 6, "one read ends with the file of the queue"


async def test_what_a_cold_read_runs_in_a_thread_touches_no_kept_descriptor(tmp_path: Path) -> None:
    """Descriptors that are kept belong to the loop: a thread that used one could read another file under its number."""
    files = CountingFiles()
    async with store_lab(tmp_path, environment=replace(system_environment(), files=files)) as lab:
        await lab.write([f"m{number}" for number in range(25)])
        await lab.queues.flush.write_all()
        queue = lab.queue()
        expected = queue.read(12, 8)
        queue.files.close()
        queue.files._windows.clear()
        files.is_cold = True
        with pytest.raises(ColdReadError) as cold:
            lab.store._reader.get(queue, 12, 32, Nobody(), 1 << 20)
        queue.files.close()
        files.is_cold = False
        assert cold.value.fetch() == expected
        assert queue.files._descriptors == {}


class Nobody:
    """A filter that wants nothing, so that only units are read."""

    def matches_entry(self, tags_code: int, extension: object | None) -> bool:
        return False

    def matches_record(self, record: bytes | memoryview) -> bool:
        return False


# --- the queue against a model ----------------------------------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 12)),
        st.tuples(st.just("flush"), st.just(0)),
        st.tuples(st.just("cut"), st.integers(0, 60)),
        st.tuples(st.just("again"), st.integers(0, 60)),
        st.tuples(st.just("restart"), st.just(0)),
        st.tuples(st.just("crash"), st.just(0)),
    ),
    max_size=25,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(begin=st.integers(0, 25), steps=STEPS)
def test_a_queue_behaves_like_a_list_whatever_happens_to_it(
    tmp_path_factory: pytest.TempPathFactory, begin: int, steps: list[tuple[str, int]]
) -> None:
    """Appending, flushing, cutting, repeating, restarting and crashing give what a list of units would give.

    After a crash the tail is gone, and the log gives it back: everything is dispatched again.
    """
    folder = str(tmp_path_factory.mktemp("queue"))

    def opened() -> ConsumeQueue:
        return ConsumeQueue("T", 0, QueueFiles(OsFileSystem(), folder, 10 * UNIT_SIZE, FILLER))

    def flush(queue: ConsumeQueue) -> None:
        position, data = queue.pending()
        queue.files.write(queue.key, position, data)
        assert queue.written(position, data, 0.0)

    model: list[tuple[int, int, int]] = []
    queue = opened()
    for step, number in steps:
        if step == "append":
            start = model[-1][0] + model[-1][1] if model else 1_000
            fresh = [(start + 100 * i, 100, start % 7 - 3) for i in range(number)]
            queue.append(begin + len(model), *zip(*fresh, strict=True))
            model += fresh
        elif step == "flush":
            flush(queue)
        elif step == "cut" and model:
            keep = min(number, len(model))
            queue.truncate(model[keep][0] if keep < len(model) else 1 << 40)
            del model[keep:]
            if not model:
                # An empty queue begins wherever its next message says.
                queue = opened()
        elif step == "again" and model:
            first = min(number, len(model) - 1)
            queue.append(begin + first, *zip(*model[first:], strict=True))
            queue.append(begin, *zip(*model[: first + 1], strict=True))
        elif step in ("restart", "crash"):
            if step == "restart":
                flush(queue)
            queue.files.close()
            queue = opened()
            queue.load()
            if model:
                queue.append(begin, *zip(*model, strict=True))
        if model:
            assert queue.max_offset == begin + len(model), repr(queue)
            assert queue.max_physical_offset == sum(model[-1][:2])
            assert [queue.unit(begin + i) for i in range(len(model))] == model
    queue.files.close()


def lab_units(lab: StoreLab) -> list[tuple[int, int, int] | None]:
    return [lab.queue().unit(number) for number in range(lab.queue().max_offset)]


async def test_a_store_that_was_killed_before_a_tail_was_written_has_every_unit(tmp_path: Path) -> None:
    """The files of queues are copied while their units are still in memory; a store opens on the copy."""
    async with store_lab(tmp_path / "one", **FOREVER) as lab:
        await lab.write([f"m{number}" for number in range(7)])
        await lab.queues.flush.write_all()
        await lab.write([f"m{number}" for number in range(7, 12)])
        assert len(lab.queue().tail) == 5 * UNIT_SIZE
        await lab.put(draft("flushed", queue_id=9))
        expected = lab_units(lab)
        for path in (tmp_path / "one").rglob("*"):
            copy = tmp_path / "two" / path.relative_to(tmp_path / "one")
            copy.mkdir(parents=True, exist_ok=True) if path.is_dir() else (
                copy.parent.mkdir(parents=True, exist_ok=True),
                copy.write_bytes(path.read_bytes()),
            )
    async with store_lab(tmp_path / "two", **FOREVER) as lab:
        assert lab_units(lab) == expected
        assert lab.read(0) == [f"m{number}" for number in range(12)]
