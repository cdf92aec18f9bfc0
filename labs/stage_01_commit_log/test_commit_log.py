"""The commit log: one sequence of bytes in files of one size, with everything in the order of arrival."""

from __future__ import annotations

import errno
import time
from pathlib import Path

import pytest

from labs.stage_01_commit_log.log_lab import FILE_SIZE, draft, log_lab
from rocketmq_py.common.environment import Environment, system_environment
from rocketmq_py.common.record import RecordState
from rocketmq_py.sim.environment import simulated_environment
from rocketmq_py.sim.file_system import Fault, SimulatedFileSystem
from rocketmq_py.store.config import LogWriteMode, MessageStoreConfig
from rocketmq_py.store.errors import StoreCorruptError, StoreError
from rocketmq_py.store.mapped_file import MappedFile, file_name
from rocketmq_py.store.put_result import PutMessageStatus
from rocketmq_py.testing.eventually import eventually


@pytest.mark.claim("log-01")
async def test_messages_of_all_topics_lie_in_one_log_in_the_order_of_arrival(
    tmp_path: Path, environment: Environment
) -> None:
    """Claim: a broker has one commit log, and the messages of interleaved topics lie in it as they came.

    Experiment: put 30 messages to three topics in turn, and read the log from its start.
    Observe: topics alternate in the log as they did in the puts, and each begins where the one before it ends.
    """
    async with log_lab(tmp_path, environment, mapped_file_size_commit_log=1 << 20) as lab:
        sent = [(f"Topic{'ABC'[i % 3]}", f"message {i}".encode()) for i in range(30)]
        for topic, body in sent:
            assert (await lab.putter.put_message(draft(topic, body))).status is PutMessageStatus.PUT_OK

        records = lab.records()

        assert [(topic, body) for _, topic, _, body in records] == sent
        assert [queue_offset for _, _, queue_offset, _ in records] == [i // 3 for i in range(30)]
        offsets = [offset for offset, _ in lab.log.scan(0)]
        assert offsets[0] == 0
        assert offsets == sorted(offsets)
    assert [path.name for path in (tmp_path / "commitlog").iterdir()] == ["0" * 20]


@pytest.mark.claim("log-02")
async def test_a_file_is_named_after_the_offset_of_its_first_byte(tmp_path: Path, environment: Environment) -> None:
    """Claim: 20 decimal digits, zero padded; with 1 GiB files the second is 00000000001073741824.

    Experiment: ask for the names of the first two default files; fill three small files and list the folder.
    Observe: the names are multiples of the file size, written with 20 digits.
    """
    default = MessageStoreConfig().mapped_file_size_commit_log
    assert [file_name(0), file_name(default)] == ["00000000000000000000", "00000000001073741824"]

    async with log_lab(tmp_path, environment) as lab:
        for i in range(60):
            await lab.putter.put_message(draft(body=b"%03d" % i * 20))
        count = len(lab.log.files.mapped_files)
        assert count >= 3
        names = sorted(path.name for path in (tmp_path / "commitlog").iterdir())
        assert names[:count] == [f"{i * FILE_SIZE:020d}" for i in range(count)]


@pytest.mark.claim("log-03")
async def test_a_record_never_spans_two_files(tmp_path: Path, environment: Environment) -> None:
    """Claim: where the next record does not fit, a blank record fills the file and a new file is started.

    Experiment: put records of growing sizes until several files were used; scan the log.
    Observe: every record lies within one file, and every file but the last ends with a blank record that reaches its end.
    """
    async with log_lab(tmp_path, environment) as lab:
        for i in range(60):
            await lab.putter.put_message(draft(body=bytes([i]) * (17 * i % 700)))

        blanks = []
        for offset, check in lab.log.scan(0):
            if check.state is RecordState.INVALID:
                break
            assert offset // FILE_SIZE == (offset + check.size - 1) // FILE_SIZE
            if check.state is RecordState.BLANK:
                blanks.append(offset + check.size)
        assert len(blanks) >= 3
        assert blanks == [(i + 1) * FILE_SIZE for i in range(len(blanks))]
        assert len(lab.records()) == 60


@pytest.mark.parametrize(("left", "fits"), [(8, True), (7, False), (0, False)])
async def test_a_file_always_keeps_eight_bytes_for_its_blank_record(
    tmp_path: Path, environment: Environment, left: int, fits: bool
) -> None:
    """A record fits when 8 bytes stay free behind it; with 7 or none it goes to the next file."""
    async with log_lab(tmp_path, environment) as lab:
        overhead = 91 + len("TopicA")
        await lab.putter.put_message(draft(body=bytes(FILE_SIZE - overhead - 500)))
        used = lab.log.max_offset
        body = bytes(FILE_SIZE - used - overhead - left)
        await lab.putter.put_message(draft(body=body))
        assert (lab.log.max_offset <= FILE_SIZE) is fits
        assert len(lab.records()) == 2


async def test_topics_that_are_named_after_a_group_may_be_longer_than_others(
    tmp_path: Path, environment: Environment
) -> None:
    """A group with a long name gets its retries, and its dead letters as well: records of version 2."""
    async with log_lab(tmp_path, environment) as lab:
        for topic, is_taken in (("t" * 128, False), ("%RETRY%" + "g" * 200, True), ("%DLQ%" + "g" * 250, True)):
            result = await lab.putter.put_message(draft(topic=topic))
            assert result.is_stored is is_taken, topic
        result = await lab.putter.put_message(draft(topic="%DLQ%" + "g" * 251))
        assert result.status is PutMessageStatus.MESSAGE_ILLEGAL


async def test_a_record_that_fits_into_no_file_is_refused_and_nothing_changes(
    tmp_path: Path, environment: Environment
) -> None:
    async with log_lab(tmp_path, environment) as lab:
        await lab.putter.put_message(draft(body=b"before"))
        end = lab.log.max_offset
        result = await lab.putter.put_message(draft(body=bytes(FILE_SIZE)))
        assert result.status is PutMessageStatus.MESSAGE_ILLEGAL
        assert (lab.log.max_offset, lab.slots.get("TopicA", 0).next_offset) == (end, 1)


@pytest.mark.claim("log-04")
async def test_an_offset_finds_its_file_and_its_record(tmp_path: Path, environment: Environment) -> None:
    """Claim: the file of an offset is found among the sorted starting offsets, the record by subtraction.

    Experiment: fill several files, then read each record by nothing but the offset that its put returned.
    Observe: every offset leads to the file whose start is the largest not above it, and to the right body.
    """
    async with log_lab(tmp_path, environment) as lab:
        places = {}
        for i in range(60):
            body = b"%04d" % i * 15
            places[(await lab.putter.put_message(draft(body=body))).physical_offsets[0]] = body
        assert len(lab.log.files.mapped_files) >= 3

        for offset, body in places.items():
            file = lab.log.files.find(offset)
            assert file is not None
            assert file.start == max(known.start for known in lab.log.files.mapped_files if known.start <= offset)
            view = lab.log.read(offset, 88 + len(body))
            assert view is not None
            found = bytes(view[88:])
            view.release()
            assert found == body
        assert lab.log.read(lab.log.max_offset, 1) is None
        assert lab.log.files.find(-1) is None


@pytest.mark.claim("log-05", "log-10")
async def test_both_ways_of_writing_give_the_same_bytes_at_a_different_price(
    tmp_path: Path, environment: Environment, capsys: pytest.CaptureFixture[str]
) -> None:
    """Claim: a file of fixed size is mapped whole, and reads and writes go through the map without copies.

    That is half of it: reads do; writes may, and here by default do not. A pool of buffers off the map (RocketMQ's
    transientStorePoolEnable) separates the write path from the read path, and `pwrite` separates them as well: the
    bytes go to the file with a system call, and readers use the map.

    Experiment: the same messages with PWRITE and with MMAP; compare the files; measure 2,000 appends of 10 KiB each way.
    Observe: equal bytes, read back through the map both times. The times are printed; no limit is asserted on them.
    """
    contents = {}
    for mode in LogWriteMode:
        folder = tmp_path / mode.name
        async with log_lab(folder, simulated_clock_of(environment), log_write_mode=mode) as lab:
            for i in range(40):
                await lab.putter.put_message(draft(body=bytes([i]) * 120))
            assert len(lab.records()) == 40
        contents[mode] = [path.read_bytes() for path in sorted((folder / "commitlog").iterdir())][:2]
    assert contents[LogWriteMode.PWRITE] == contents[LogWriteMode.MMAP]

    blob, count = bytes(10_240), 2_000
    for mode in LogWriteMode:
        file = MappedFile(environment.files, str(tmp_path / f"{mode.name}.bin"), 0, len(blob) * count, mode)
        began = time.perf_counter()
        for i in range(count):
            file.write(blob, i * len(blob))
        micros = (time.perf_counter() - began) / count * 1e6
        file.destroy()
        with capsys.disabled():
            print(f"\n  {mode.name}: {micros:.1f} us for each append of 10 KiB to a fresh file", end="")


def simulated_clock_of(environment: Environment) -> Environment:
    """Return an environment whose clock stands still, so that two runs store the same times."""

    class Still:
        def wall_ms(self) -> int:
            return 1_700_000_000_000

    return Environment(Still(), environment.random, environment.files, environment.run_blocking)


@pytest.mark.claim("log-06")
async def test_the_next_file_is_allocated_before_it_is_needed(tmp_path: Path, environment: Environment) -> None:
    """Claim: the next file is there ahead of time, so that rolling to it does not stall an append.

    Experiment: put one message, wait for the background allocation, then look at the folder and roll.
    Observe: the second file exists in full size before the first is full, and rolling opens no further file itself.
    """
    async with log_lab(tmp_path, environment) as lab:
        await lab.putter.put_message(draft())
        second = tmp_path / "commitlog" / file_name(FILE_SIZE)
        await eventually(second.exists)
        await eventually(lambda: second.stat().st_size == FILE_SIZE)
        assert len(lab.log.files.mapped_files) == 1
        inode = second.stat().st_ino

        while lab.log.max_offset < FILE_SIZE:
            await lab.putter.put_message(draft(body=bytes(300)))

        assert second.stat().st_ino == inode
        assert [file.start for file in lab.log.files.mapped_files] == [0, FILE_SIZE]


@pytest.mark.claim("log-07")
def test_a_fresh_map_can_be_warmed(tmp_path: Path) -> None:
    """Claim: touching a new file page by page brings it into memory, so that the first writes do not fault.

    Experiment: map a fresh file of 4 MiB with and without warming, and count the pages of it that are in memory.
    Observe: all pages are there after warming.
    """
    files = system_environment().files
    size = 4 << 20
    warm = MappedFile(files, str(tmp_path / "warm"), 0, size, LogWriteMode.MMAP, warm=True)
    cold = MappedFile(files, str(tmp_path / "cold"), 0, size, LogWriteMode.MMAP)
    resident_warm, resident_cold = resident_kib(tmp_path / "warm"), resident_kib(tmp_path / "cold")
    warm.close()
    cold.close()
    assert resident_warm == size >> 10
    assert resident_cold < resident_warm


def resident_kib(path: Path) -> int:
    """Return how much of a mapped file this process has in memory, as /proc tells it."""
    smaps = Path("/proc/self/smaps")
    if not smaps.exists():
        pytest.skip("this system has no /proc/self/smaps to count pages with")
    found = False
    for line in smaps.read_text().splitlines():
        if line.endswith(str(path)):
            found = True
        elif found and line.startswith("Rss:"):
            return int(line.split()[1])
    raise AssertionError(f"{path} is not mapped")


@pytest.mark.claim("log-13")
def test_a_file_may_be_larger_than_two_gigabytes() -> None:
    """Claim: a memory map is limited to 1.5-2 GiB, hence files of 1 GiB.

    That is a limit of the JVM, whose buffers are indexed by 32-bit numbers, not of memory maps.
    Experiment: map a sparse file of 3 GiB and write and read behind 2 GiB.
    Observe: it works.
    """
    import tempfile

    files = system_environment().files
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/large"
        fd = files.open_file(path, create=True)
        files.truncate(fd, 3 << 30)
        mapped = files.map_file(fd, 3 << 30, writable=True, random_access=True)
        mapped[(5 << 29) : (5 << 29) + 5] = b"hello"
        assert mapped[(5 << 29) : (5 << 29) + 5] == b"hello"
        mapped.close()
        files.close(fd)


async def test_a_log_opens_again_and_goes_on_behind_its_last_record(tmp_path: Path, environment: Environment) -> None:
    async with log_lab(tmp_path, environment) as lab:
        for i in range(30):
            await lab.putter.put_message(draft(body=b"%02d" % i * 50))
        end, before = lab.log.max_offset, lab.records()
    async with log_lab(tmp_path, environment) as lab:
        assert lab.log.max_offset == end
        assert lab.records() == before
        lab.slots.set_next_offset("TopicA", 0, 30)
        await lab.putter.put_message(draft(body=b"after"))
        assert lab.records()[-1][1:] == ("TopicA", 30, b"after")


async def test_a_missing_file_is_named_and_nothing_is_touched(tmp_path: Path, environment: Environment) -> None:
    async with log_lab(tmp_path, environment) as lab:
        for _ in range(40):
            await lab.putter.put_message(draft(body=bytes(300)))
        assert len(lab.log.files.mapped_files) >= 3
    (tmp_path / "commitlog" / file_name(FILE_SIZE)).unlink()
    before = sorted(path.name for path in (tmp_path / "commitlog").iterdir())
    with pytest.raises(StoreCorruptError, match=f"expected a file that begins at {FILE_SIZE}"):
        async with log_lab(tmp_path, environment):
            pass
    assert sorted(path.name for path in (tmp_path / "commitlog").iterdir()) == before


async def test_a_store_of_another_file_size_is_refused_with_both_sizes(
    tmp_path: Path, environment: Environment
) -> None:
    async with log_lab(tmp_path, environment) as lab:
        await lab.putter.put_message(draft())
    with pytest.raises(StoreError, match=r"4096 bytes.*8192"):
        async with log_lab(tmp_path, environment, mapped_file_size_commit_log=8192):
            pass


@pytest.mark.virtual_time
async def test_a_full_disk_refuses_messages_and_takes_them_again_when_there_is_room() -> None:
    """No room for the next file is no failure: nothing was written, queue offsets are given back, reading goes on."""
    disk = SimulatedFileSystem()
    environment = simulated_environment(files=disk)
    async with log_lab(Path("/store"), environment) as lab:
        fault = Fault("allocate", code=errno.ENOSPC, times=-1)
        await lab.putter.put_message(draft(body=b"first"))
        await eventually(lambda: lab.log.files._ahead is not None)
        while lab.log.max_offset < FILE_SIZE:
            disk.faults.append(fault) if fault not in disk.faults else None
            await lab.putter.put_message(draft(body=bytes(500)))
        statuses = [(await lab.putter.put_message(draft(body=bytes(500)))).status for _ in range(20)]
        assert PutMessageStatus.CREATE_MAPPED_FILE_FAILED in statuses
        stored = len(lab.records())
        assert lab.slots.get("TopicA", 0).next_offset == stored
        assert lab.log.is_writable

        disk.faults.clear()
        result = await lab.putter.put_message(draft(body=b"there is room again"))

        assert result.status is PutMessageStatus.PUT_OK
        assert lab.records()[-1][2:] == (stored, b"there is room again")
