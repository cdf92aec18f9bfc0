"""Many queues: what writing behind costs for thousands of them, counted in writes, descriptors and steps."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from labs.stage_02_consume_queue.store_lab import StoreLab, draft, store_lab
from rocketmq_py.common.environment import system_environment
from rocketmq_py.common.file_system import OsFileSystem
from rocketmq_py.sim.environment import simulated_environment
from rocketmq_py.sim.file_system import SimulatedFileSystem
from rocketmq_py.store.consume_queue_unit import UNIT_SIZE
from rocketmq_py.store.flush_consume_queue import QUEUES_PER_STEP

QUEUES = 1_000
ROUNDS = 5


class CountingDisk(SimulatedFileSystem):
    """A disk in memory that counts what happens to the files of queues."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[int] = []
        self.open: set[int] = set()
        self.most_open = 0

    def open_file(self, path: str, *, create: bool = False, write: bool = True) -> int:
        fd = super().open_file(path, create=create, write=write)
        if "/consumequeue/" in path:
            self.open.add(fd)
            self.most_open = max(self.most_open, len(self.open))
        return fd

    def close(self, fd: int) -> None:
        self.open.discard(fd)
        super().close(fd)

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        if fd in self.open:
            self.writes.append(len(data))
        return super().pwrite(fd, data, offset)


async def put_to_all(lab: StoreLab, body: str, queues: int = QUEUES) -> None:
    for start in range(0, queues, 200):
        await lab.put(*(draft(body, topic="Many", queue_id=start + number) for number in range(200)))


@pytest.mark.claim("cq-06")
@pytest.mark.virtual_time
async def test_a_queue_is_written_once_for_all_that_gathered_and_holds_no_descriptor() -> None:
    """Claim: tens of thousands of queues leave writing nearly unchanged, as queues are only small index files.

    The argument needs no clock. An append of the log carries the messages of a turn, whatever their queues; a queue adds
    20 bytes in memory. Later each queue costs one write for all the units that gathered, so more queues make more
    writes, but in a thread, in steps of a bounded number of queues, and never one for each message.

    Experiment: five messages to each of 1,000 queues within one interval of the write-behind, then wait.
    Observe: one write of 100 bytes for each queue, not five; no more than one queue file open at a time; no step with
        more queues than allowed; and no queue written again while nothing new arrives.
    """
    disk = CountingDisk()
    environment = simulated_environment(files=disk)
    sizes = {"mapped_file_size_commit_log": 16 << 20, "mapped_file_size_consume_queue": 2_000}
    async with store_lab(Path("/store"), environment=environment, flush_interval_consume_queue=1_000, **sizes) as lab:
        for number in range(ROUNDS):
            await put_to_all(lab, f"m{number}")
        assert disk.writes == [], "nothing is written while messages are put"
        await asyncio.sleep(3)
        assert disk.writes == [ROUNDS * UNIT_SIZE] * QUEUES
        assert disk.most_open == 1
        assert disk.open == set()
        assert lab.queues.flush.steps == QUEUES // QUEUES_PER_STEP
        await asyncio.sleep(30)
        assert len(disk.writes) == QUEUES
        assert all(queue.tail == b"" for queue in (lab.queue("Many", number) for number in range(QUEUES)))
        assert lab.read(0, topic="Many", queue_id=QUEUES - 1) == [f"m{number}" for number in range(ROUNDS)]


async def test_a_start_with_many_queues_keeps_few_of_their_files_open(tmp_path: Path) -> None:
    """Opening looks at every queue, with no more descriptors than the LRU of readers has."""

    class Descriptors(OsFileSystem):
        """The real file system; remembers which descriptors belong to files of queues."""

        def __init__(self) -> None:
            self.open: set[int] = set()
            self.most = 0

        def open_file(self, path: str, *, create: bool = False, write: bool = True) -> int:
            fd = super().open_file(path, create=create, write=write)
            if "/consumequeue/" in path:
                self.open.add(fd)
                self.most = max(self.most, len(self.open))
            return fd

        def close(self, fd: int) -> None:
            self.open.discard(fd)
            super().close(fd)

    async with store_lab(tmp_path, mapped_file_size_commit_log=1 << 20) as lab:
        await put_to_all(lab, "a", 400)
    files = Descriptors()
    environment = replace(system_environment(), files=files)
    sizes = {"mapped_file_size_commit_log": 1 << 20}
    async with store_lab(tmp_path, environment=environment, start=False, **sizes) as lab:
        lab.queues._files._max_descriptors = 20
        await lab.kernel.start()
        assert files.most <= 21
        assert sorted(lab.queues.keys()) == [("Many", number) for number in range(400)]
        assert [lab.queue("Many", number).max_offset for number in (0, 399)] == [1, 1]
        assert lab.read(0, topic="Many", queue_id=217) == ["a"]
    assert files.open == set()
