"""What a store leaves in its folder for the next start: lock, abort file, checkpoint, flushed position."""

from __future__ import annotations

import asyncio
import errno
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from labs.stage_04_recovery.recovery_lab import SYNC, Machine, numbered
from rocketmq_py.common.file_system import OsFileSystem
from rocketmq_py.sim.environment import EPOCH_MS
from rocketmq_py.sim.file_system import Fault, SimulatedFileSystem
from rocketmq_py.store.checkpoint import CHECKPOINT_LAYOUT, StoreCheckpoint
from rocketmq_py.store.lock_file import StoreLock, StoreLockedError

LOCK_AND_WAIT = """
import fcntl, sys
file = open(sys.argv[1], "r+b")
fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0)
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.mark.virtual_time
async def test_a_second_start_on_a_store_in_use_is_refused_and_changes_nothing() -> None:
    """Claim: one process for one store: a second start is refused, says which process has it, and touches nothing.

    Experiment: start a store, write, then start another on the same folder.
    Observe: the second fails before it opens the log; the first goes on. After the first is killed the second starts.
    """
    machine = Machine(flush_interval_commit_log=60_000)
    first = await machine.start()
    await first.write(numbered(0, 3))
    before = machine.snapshot("")

    with pytest.raises(StoreLockedError) as caught:
        await machine.build().start()

    assert f"{machine.path()} is in use by process {os.getpid()}".replace("store/ ", "store ") in str(caught.value)
    assert "storePathRootDir" in str(caught.value)
    assert machine.snapshot("") == before
    await first.write(numbered(3, 1))
    await machine.kill()
    second = await machine.start()
    assert await second.bodies() == numbered(0, 4)
    await machine.stop()


def test_the_lock_is_the_one_that_a_java_broker_takes(tmp_path: Path) -> None:
    """Claim: a broker of either kind keeps the other out.

    Experiment: another process locks the first byte of `lock` with a POSIX record lock, as Java's FileChannel does.
    Observe: our store is refused. When that process ends, however it ends, the lock is free.
    """
    path = tmp_path / "lock"
    path.write_bytes(b"lock")
    lock = StoreLock(OsFileSystem(), str(tmp_path))
    with subprocess.Popen(
        [sys.executable, "-c", LOCK_AND_WAIT, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(StoreLockedError, match="in use by another process"):
            lock.acquire()
        assert not lock.is_held
        other.kill()
        other.wait()

    lock.acquire()
    assert lock.is_held
    assert path.read_bytes() == b"lock"
    lock.release()
    assert not lock.is_held


@pytest.mark.virtual_time
async def test_the_abort_file_lies_there_while_a_store_runs_and_after_it_was_killed() -> None:
    """Claim: the abort file tells the next start whether the last process ended in order.

    Experiment: start, stop, start, kill, start, cut the power, start, stop.
    Observe: it holds the process's number while the store runs and after kill and power cut, and is gone after a stop;
    each start reports how the run before it ended.
    """
    machine = Machine(flush_interval_commit_log=50)
    was_clean = []
    for end in (machine.stop, machine.kill, machine.cut_power, machine.stop, machine.stop):
        running = await machine.start()
        was_clean.append(running.report.was_clean)
        assert machine.disk.read_file(machine.path("abort")) == str(os.getpid()).encode()
        await running.write(numbered(0, 2))
        await end()
        assert machine.disk.exists(machine.path("abort")) == (end != machine.stop)
    assert was_clean == [True, True, False, False, True]


@pytest.mark.virtual_time
@pytest.mark.parametrize("operation", ["fdatasync", "pwrite", "open_file", "rename"])
async def test_the_abort_file_stays_when_a_stop_could_not_write_everything(operation: str) -> None:
    """Claim: a stop counts as clean only if everything is on disk.

    Experiment: let a sync of the log, or a write of the queues, of their list or of the position fail during the stop.
    Observe: the abort file stays, and the next start finds all messages again.
    """
    path_part = {"fdatasync": "commitlog", "pwrite": "consumequeue", "open_file": "derived", "rename": "flushed"}
    machine = Machine(flush_interval_commit_log=60_000)
    running = await machine.start()
    await running.write(numbered(0, 12))
    machine.disk.faults.append(Fault(operation, path_part[operation], errno.EIO, times=-1))
    await machine.stop()
    assert machine.disk.exists(machine.path("abort"))

    machine.disk.faults.clear()
    running = await machine.start()
    assert not running.report.was_clean
    assert await running.bodies() == numbered(0, 12)
    await machine.stop()
    assert not machine.disk.exists(machine.path("abort"))


def test_a_checkpoint_has_the_bytes_of_rocketmq() -> None:
    """Claim: the checkpoint is RocketMQ's file: five numbers at the beginning of 4096 bytes, the rest zero."""
    files = SimulatedFileSystem()
    files.make_directories("/store")
    checkpoint = StoreCheckpoint(files, "/store")
    checkpoint.load(now_ms=2_000_000_000_000)
    checkpoint.physic_msg_timestamp = 1_700_000_000_123
    checkpoint.logics_msg_timestamp = 1_700_000_000_119
    checkpoint.index_msg_timestamp = 1_700_000_000_045
    checkpoint.master_flushed_offset = 77
    checkpoint.confirm_physical_offset = 402
    checkpoint.flush()

    data = files.read_file("/store/checkpoint")
    golden = bytes.fromhex(
        "0000018bcfe5687b"  # physicMsgTimestamp
        "0000018bcfe56877"  # logicsMsgTimestamp
        "0000018bcfe5682d"  # indexMsgTimestamp
        "000000000000004d"  # masterFlushedOffset
        "0000000000000192"  # confirmPhyOffset
    )
    assert data == golden.ljust(4096, b"\0")
    again = StoreCheckpoint(files, "/store")
    again.load(now_ms=2_000_000_000_000)
    assert (again.physic_msg_timestamp, again.confirm_physical_offset) == (1_700_000_000_123, 402)
    # The older of the two, and three seconds before it: time stamps of one moment are not exact.
    assert again.min_timestamp == 1_700_000_000_119 - 3_000


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 39,
        CHECKPOINT_LAYOUT.struct.pack(EPOCH_MS + 1, 1, 1, 0, 0),
        CHECKPOINT_LAYOUT.struct.pack(1, EPOCH_MS + 1, 1, 0, 0),
        CHECKPOINT_LAYOUT.struct.pack(5, 5, -5, 0, 0),
        struct.pack(">5q", -1, -1, -1, -1, -1),
    ],
    ids=["empty", "too short", "log in the future", "queues in the future", "negative", "all ones"],
)
def test_a_checkpoint_that_cannot_be_true_is_worth_nothing(data: bytes) -> None:
    """Claim: a lost or lying checkpoint costs time, never messages: all its values count as 0."""
    files = SimulatedFileSystem()
    files.write_file("/store/checkpoint", data)
    checkpoint = StoreCheckpoint(files, "/store")
    checkpoint.load(now_ms=EPOCH_MS)
    assert checkpoint.min_timestamp == 0
    assert checkpoint.index_msg_timestamp == 0


@pytest.mark.virtual_time
async def test_what_is_written_down_is_never_ahead_of_the_disk() -> None:
    """Claim: no position or time stamp is written before the flush that makes it true.

    Experiment: write for 20 s of virtual time with a flush now and then; after every step compare position and
    checkpoint on disk with what a power cut would leave of the log.
    Observe: the position never lies behind the flushed end; the checkpoint's time never is that of an unflushed message.
    """
    machine = Machine(flush_interval_commit_log=700, flush_consume_queue_thorough_interval=3_000)
    running = await machine.start()
    stamps: list[tuple[int, int]] = []
    written = set()
    for number in range(200):
        (result,) = await running.write([f"m{number}"])
        stamps.append((running.log.max_offset, result.store_timestamp))
        await asyncio.sleep(0.1)
        durable = running.log.flushed_offset
        if machine.disk.exists(machine.path("flushedPosition")):
            position = int(machine.disk.read_file(machine.path("flushedPosition")).split()[1])
            assert position <= durable
            written.add(position)
        if machine.disk.exists(machine.path("checkpoint")):
            physic, logics, *_ = CHECKPOINT_LAYOUT.struct.unpack_from(
                machine.disk.read_file(machine.path("checkpoint"))
            )
            flushed_stamps = [0, *(stamp for end, stamp in stamps if end <= durable)]
            assert physic in flushed_stamps
            assert logics in [0, *(stamp for _, stamp in stamps)]
    assert len(written) > 10, "the position was hardly ever written: the lab proves nothing"
    await machine.stop()


@pytest.mark.virtual_time
async def test_a_failed_sync_ends_writing_and_the_next_start_goes_on() -> None:
    """Claim: after a failed sync nothing is acknowledged any more; reads go on; a restart recovers what is on disk.

    Experiment: SYNC_FLUSH; the disk reports an error for one sync, then would report success.
    Observe: the put is told "in doubt", later puts are refused, reads are served; after kill and power cut the messages
    that were acknowledged are there.
    """
    machine = Machine(**SYNC)
    running = await machine.start()
    await running.write(numbered(0, 4))
    machine.disk.faults.append(Fault("fdatasync", "commitlog", errno.EIO, times=1))
    (doubtful,) = await running.write(["doubtful"])
    (refused,) = await running.write(["refused"])
    assert (doubtful.status.name, refused.status.name) == ("FLUSH_DISK_TIMEOUT", "SERVICE_NOT_AVAILABLE")
    assert (await running.bodies())[:4] == numbered(0, 4)
    await machine.stop()
    assert machine.disk.exists(machine.path("abort"))
    await machine.cut_power(keep=0.0)

    running = await machine.start()

    assert await running.bodies() == numbered(0, 4)
    (result,) = await running.write(["again"])
    assert (result.status.name, result.queue_offset) == ("PUT_OK", 4)
    await machine.stop()
