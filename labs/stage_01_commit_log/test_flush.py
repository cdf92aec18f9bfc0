"""Flush: what an acknowledgement promises, and what it costs."""

from __future__ import annotations

import asyncio
import errno
import random
from pathlib import Path

import pytest

from labs.stage_01_commit_log.log_lab import draft, log_lab
from rocketmq_py.sim.environment import simulated_environment
from rocketmq_py.sim.file_system import Fault, SimulatedFileSystem
from rocketmq_py.store.config import FlushDiskType
from rocketmq_py.store.put_result import PutMessageStatus
from rocketmq_py.testing.eventually import eventually

STORE = Path("/store")
SYNC = {"flush_disk_type": FlushDiskType.SYNC_FLUSH, "mapped_file_size_commit_log": 1 << 20}
ASYNC = {"flush_disk_type": FlushDiskType.ASYNC_FLUSH, "mapped_file_size_commit_log": 1 << 20}


@pytest.mark.claim("log-09")
@pytest.mark.virtual_time
async def test_a_synchronous_put_is_on_disk_when_it_is_acknowledged_and_many_share_one_flush() -> None:
    """Claim: synchronous flush acknowledges after the bytes were forced to disk; one flush serves many (group commit).

    Experiment: 100 puts at the same time with SYNC_FLUSH, then a power cut that loses every unflushed sector.
    Observe: at most three flushes were made for 100 acknowledgements, and all 100 messages are on the disk.
    """
    disk = SimulatedFileSystem()
    async with log_lab(STORE, simulated_environment(files=disk), **SYNC) as lab:
        results = await asyncio.gather(*(lab.putter.put_message(draft(body=b"message %03d" % i)) for i in range(100)))
        assert {result.status for result in results} == {PutMessageStatus.PUT_OK}
        print(f"100 puts, {lab.flush.flushes} flushes")
        assert 1 <= lab.flush.flushes <= 3
        disk.crash(random.Random(1), keep=0.0)
        lab.log.failure = OSError(errno.EIO, "the power is off")

    async with log_lab(STORE, simulated_environment(files=disk), **SYNC) as lab:
        assert [body for *_, body in lab.records()] == [b"message %03d" % i for i in range(100)]


@pytest.mark.virtual_time
async def test_an_asynchronous_put_is_acknowledged_at_once_and_on_disk_within_a_second() -> None:
    disk = SimulatedFileSystem()
    async with log_lab(STORE, simulated_environment(files=disk), **ASYNC) as lab:
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert (await lab.putter.put_message(draft(body=b"soon"))).status is PutMessageStatus.PUT_OK
        assert loop.time() - began < 0.01
        assert lab.log.flushed_offset < lab.log.max_offset
        await eventually(lambda: lab.log.flushed_offset == lab.log.max_offset, 1.0)


@pytest.mark.virtual_time
async def test_with_synchronous_flush_nothing_is_visible_before_it_is_on_disk() -> None:
    """A consumer must not see what a power cut can take back."""
    disk = SimulatedFileSystem()
    async with log_lab(STORE, simulated_environment(files=disk), **SYNC) as lab:
        put = asyncio.ensure_future(lab.putter.put_message(draft()))
        while not lab.log.max_offset:
            assert not lab.visible
            await asyncio.sleep(0)
        await put
        assert [len(columns) for columns in lab.visible] == [1]
        assert lab.log.flushed_offset >= lab.visible[0].end_offset


@pytest.mark.virtual_time
@pytest.mark.parametrize("settings", [SYNC, ASYNC], ids=["sync", "async"])
async def test_a_failed_fsync_is_final_and_nobody_is_told_that_a_message_is_safe_or_absent(
    settings: dict[str, object],
) -> None:
    """The kernel reports a failed write-back once and then forgets it: a second fsync would succeed and lie."""
    disk = SimulatedFileSystem()
    async with log_lab(STORE, simulated_environment(files=disk), **settings) as lab:
        await lab.putter.put_message(draft(body=b"safe"))
        await eventually(lambda: lab.log.flushed_offset == lab.log.max_offset, 2.0)
        disk.faults.append(Fault("fdatasync", times=1))

        doubtful = await lab.putter.put_message(draft(body=b"doubtful"))
        await eventually(lambda: not lab.log.is_writable, 2.0)
        later = await lab.putter.put_message(draft(body=b"later"))

        assert doubtful.status is (PutMessageStatus.FLUSH_DISK_TIMEOUT if settings is SYNC else PutMessageStatus.PUT_OK)
        assert later.status is PutMessageStatus.SERVICE_NOT_AVAILABLE
        assert b"safe" in [body for *_, body in lab.records()]


@pytest.mark.virtual_time
async def test_a_failed_write_leaves_the_put_in_doubt_and_the_log_read_only() -> None:
    disk = SimulatedFileSystem()
    async with log_lab(STORE, simulated_environment(files=disk), **ASYNC) as lab:
        await lab.putter.put_message(draft(body=b"before"))
        disk.faults.append(Fault("pwrite", "commitlog", times=1))
        assert (await lab.putter.put_message(draft(body=b"torn"))).status is PutMessageStatus.FLUSH_DISK_TIMEOUT
        assert (await lab.putter.put_message(draft(body=b"no"))).status is PutMessageStatus.SERVICE_NOT_AVAILABLE
        assert lab.records()[0][-1] == b"before"


@pytest.mark.virtual_time
async def test_a_put_that_waits_too_long_for_the_disk_is_in_doubt_after_five_seconds() -> None:
    """`syncFlushTimeout`: the record is in the log, and the answer says that it may not be on disk."""
    disk = SimulatedFileSystem()
    environment = simulated_environment(files=disk)
    gate = asyncio.Event()

    async def stuck(function: object, *args: object) -> object:
        if getattr(function, "__name__", "") == "flush_files":
            await gate.wait()
        return function(*args)  # type: ignore[operator]

    stalled = type(environment)(environment.clock, environment.random, disk, stuck)  # type: ignore[arg-type]
    async with log_lab(STORE, stalled, **SYNC) as lab:
        loop = asyncio.get_running_loop()
        began = loop.time()
        result = await lab.putter.put_message(draft())
        assert result.status is PutMessageStatus.FLUSH_DISK_TIMEOUT
        assert loop.time() - began == pytest.approx(5.0, abs=0.01)
        gate.set()


@pytest.mark.virtual_time
async def test_when_the_disk_falls_behind_asynchronous_puts_wait() -> None:
    """Claim of the promise "at most a second": when unflushed bytes are older than 0.9 s, acknowledgements wait."""
    disk = SimulatedFileSystem()
    environment = simulated_environment(files=disk)
    gate = asyncio.Event()

    async def slow(function: object, *args: object) -> object:
        if getattr(function, "__name__", "") == "flush_files":
            await gate.wait()
        return function(*args)  # type: ignore[operator]

    stalled = type(environment)(environment.clock, environment.random, disk, slow)  # type: ignore[arg-type]
    async with log_lab(STORE, stalled, **ASYNC) as lab:
        await lab.putter.put_message(draft(body=b"first"))
        await asyncio.sleep(2)
        waiting = asyncio.ensure_future(lab.putter.put_message(draft(body=b"second")))
        await asyncio.sleep(1)
        assert not waiting.done()
        gate.set()
        assert (await waiting).status is PutMessageStatus.PUT_OK
        assert lab.log.flushed_offset >= (await waiting).physical_offsets[0]
