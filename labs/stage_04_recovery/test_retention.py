"""Retention: the log is as long as the disk keeps data; expired files go, and a full disk stops writes, not reads."""

from __future__ import annotations

import asyncio
import errno
import time
from typing import Any

import pytest

from labs.stage_04_recovery.recovery_lab import Machine, RunningStore, numbered
from rocketmq_py.common.file_system import DiskUsage
from rocketmq_py.sim.environment import EPOCH_MS
from rocketmq_py.sim.file_system import Fault
from rocketmq_py.store.config import MessageStoreConfig
from rocketmq_py.store.disk_guard import DiskLevel, DiskLimits, percent_of
from rocketmq_py.store.put_result import PutMessageStatus
from rocketmq_py.store.retention import ClockWatch, count_expired, is_delete_hour
from rocketmq_py.store.tick import Tick
from rocketmq_py.testing.eventually import eventually

HOUR_MS = 3_600_000
HOUR = time.localtime(EPOCH_MS // 1000).tm_hour
#: The hour in which the labs' clock stands, and one in which it does not.
NOW, OTHER = f"{HOUR:02d}", f"{(HOUR + 7) % 24:02d}"


async def aged(machine: Machine, old_files: int, hours: float = 73.0, **settings: Any) -> RunningStore:
    """Fill nine files of the log and let the first few be as old as that."""
    running = await machine.start(**settings)
    for start in range(0, 270, 30):
        await running.write(numbered(start, 30))
        await running.write([f"other-{start}"], topic="Other", queue_id=1)
    assert len(machine.names("commitlog")) >= 9
    await asyncio.sleep(1.5)
    for name in machine.names("commitlog")[:old_files]:
        machine.disk.set_modified(machine.path("commitlog", name), EPOCH_MS - round(hours * HOUR_MS))
    return running


def fill_disk(machine: Machine, percent: int) -> None:
    """Make the disk so large that this much of it is used."""
    used = machine.disk.capacity - machine.disk.disk_usage("/").free
    machine.disk.capacity = used * 100 // percent


@pytest.mark.claim("log-11")
@pytest.mark.virtual_time
async def test_expired_files_are_deleted_at_night_and_everything_derived_follows() -> None:
    """Claim: expired files (72 hours by default) are deleted from the tail; that is all the buffer's limit.

    Experiment: nine files, four of them written to 73 hours ago; `deleteWhen` is this hour; wait two minutes.
    Observe: exactly the four are gone, with their checks, queue files and index files; the minima of the queues point
    to the first message that is left, and a reader from there gets all others. The next start finds all in order.
    """
    machine = Machine(delete_when=f"{OTHER};{NOW}")
    running = await aged(machine, 4)
    content = await running.content()
    names, queue_files = machine.names("commitlog"), machine.names("consumequeue/TopicTest/2")
    index_files = machine.names("index")

    await asyncio.sleep(120)

    assert machine.names("commitlog") == names[4:]
    log_min = int(names[4])
    assert running.log.min_offset == log_min
    assert min(map(int, machine.names("checks"))) == log_min
    assert len(machine.names("consumequeue/TopicTest/2")) < len(queue_files)
    assert len(machine.names("index")) < len(index_files)
    after = await running.content()
    for key, bodies in after.items():
        assert bodies == content[key][-len(bodies) :]
        unit = running.queues.get(*key).unit(running.store.min_offset(*key))
        assert unit is not None
        assert unit[0] >= log_min
        assert running.store.min_offset(*key) + len(bodies) == running.store.max_offset(*key)
    assert sum(map(len, after.values())) < sum(map(len, content.values()))

    await machine.stop()
    running = await machine.start()
    assert running.report.was_clean
    assert (running.report.rebuilt_queues, running.report.index_rebuilt_from) == ([], None)
    assert await running.content() == after
    await machine.stop()


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    ("settings", "hours", "reason"),
    [
        ({"delete_when": OTHER}, 73.0, "it is another hour"),
        ({"delete_when": NOW}, 71.5, "the files are younger than 72 hours"),
        ({"delete_when": NOW, "file_reserved_time": 100}, 73.0, "the files are to be kept for 100 hours"),
    ],
)
async def test_nothing_is_deleted_before_its_time(settings: dict[str, Any], hours: float, reason: str) -> None:
    """Claim: a file goes when it is expired and the hour has come, not before.

    Experiment: four old files; one of the conditions fails; wait ten minutes.
    Observe: all files are there.
    """
    machine = Machine(**settings)
    running = await aged(machine, 4, hours)
    names = machine.names("commitlog")
    await asyncio.sleep(600)
    assert machine.names("commitlog") == names, reason
    assert len((await running.content())["TopicTest", 2]) == 270
    await machine.stop()


@pytest.mark.claim("log-11")
@pytest.mark.virtual_time
@pytest.mark.parametrize(
    ("percent", "left"),
    [(70, "all"), (76, "unexpired"), (86, "newest")],
    ids=["below 75: none", "above 75: the expired", "above 85: the oldest, expired or not"],
)
async def test_a_filling_disk_deletes_early(percent: int, left: str) -> None:
    """Claim (qualified): data lives 72 hours only while the disk has room: it is deleted earlier when the disk fills.

    Experiment: nine files, three of them expired, at another hour than `deleteWhen`; the disk is 70, 76 or 86 % full,
    and stays so whatever is deleted.
    Observe: nothing goes; the three expired ones go; everything goes but the newest file.
    """
    machine = Machine(delete_when=OTHER)
    running = await aged(machine, 3)
    names = machine.names("commitlog")
    usage = DiskUsage(total=100, free=100 - percent)
    machine.disk.disk_usage = lambda path: usage  # type: ignore[method-assign]

    await asyncio.sleep(90)

    # A file that was allocated ahead is there too.
    used = [name for name in names if int(name) < running.log.max_offset]
    expected = {"all": used, "unexpired": used[3:], "newest": used[-1:]}[left]
    assert [name for name in machine.names("commitlog") if int(name) < running.log.max_offset] == expected
    (result,) = await running.write(["goes on"])
    assert result.status is PutMessageStatus.PUT_OK
    await machine.stop()


@pytest.mark.claim("log-11")
@pytest.mark.virtual_time
async def test_a_full_disk_stops_writes_not_reads_and_needs_no_restart() -> None:
    """Claim: past the last ratio the store refuses writes, keeps serving reads, and comes back by itself.

    Experiment: a disk 91 % full, with one file in the log, so that nothing can be deleted; then space is freed in two
    steps: to 88 %, to 80 %.
    Observe: puts are refused with a text that names disk, percentage and setting; reads go on; at 88 % still refused, at
    80 % taken, by the same process.
    """
    machine = Machine(delete_when=OTHER)
    running = await machine.start()
    await running.write(numbered(0, 5))
    seen = []
    for percent in (91, 88, 80):
        usage = DiskUsage(total=100, free=100 - percent)
        machine.disk.disk_usage = lambda path, usage=usage: usage  # type: ignore[method-assign]
        await asyncio.sleep(75)
        (result,) = await running.write([f"at {percent}"])
        seen.append(result.status.name)
        if percent == 91:
            (reason,) = running.kernel.get(Tick).refusals
            for part in ("/srv/store", "91 % full", "diskSpaceWarningLevelRatio=90", "again at 85 %"):
                assert part in reason
        assert (await running.bodies())[:5] == numbered(0, 5)
    assert seen == ["SERVICE_NOT_AVAILABLE", "SERVICE_NOT_AVAILABLE", "PUT_OK"]
    assert await running.bodies() == [*numbered(0, 5), "at 80"]
    await machine.stop()


@pytest.mark.virtual_time
async def test_no_space_for_the_next_file_refuses_puts_until_there_is() -> None:
    """Claim: a disk that is full to the last byte loses nothing and kills nothing.

    Experiment: a disk with room for three files of the log and no more; write until a put is refused; read; free space.
    Observe: every refused put is not in the log, what was acknowledged is served, the next put after space is freed is
    taken, and a restart finds the same.
    """
    machine = Machine(message_index_enable=False)
    running = await machine.start()
    machine.disk.capacity = machine.disk.capacity - machine.disk.disk_usage("/").free + 3 * 4096 + 3 * 4096
    accepted: list[str] = []
    refused = 0
    for body in numbered(0, 400):
        (result,) = await running.write([body])
        if result.status is PutMessageStatus.PUT_OK:
            accepted.append(body)
        else:
            assert result.status is PutMessageStatus.CREATE_MAPPED_FILE_FAILED
            refused += 1
            if refused == 5:
                break
        await asyncio.sleep(0.05)
    assert refused == 5
    assert await running.bodies() == accepted
    await asyncio.sleep(30)

    machine.disk.capacity = 1 << 30
    (result,) = await running.write(["there is room"])
    assert (result.status, result.queue_offset) == (PutMessageStatus.PUT_OK, len(accepted))
    await asyncio.sleep(5)
    await machine.cut_power(keep=0.0)
    running = await machine.start()
    assert await running.bodies() == [*accepted, "there is room"]
    await machine.stop()


@pytest.mark.virtual_time
async def test_a_full_disk_is_freed_although_nothing_can_be_written() -> None:
    """Claim: files can be deleted on a disk without a free byte.

    Experiment: nine old files; every call that needs new space fails with ENOSPC.
    Observe: the files go; after a kill the store starts.
    """
    machine = Machine(delete_when=NOW)
    running = await aged(machine, 4)
    names = machine.names("commitlog")
    for part in ("flushedPosition.tmp", "derivedManifest.json.tmp", "consumequeue", "checks"):
        machine.disk.faults.append(Fault("pwrite", part, errno.ENOSPC, times=-1))

    await asyncio.sleep(120)

    assert machine.names("commitlog") == names[4:]
    left = await running.content()
    await machine.kill()
    machine.disk.faults.clear()
    running = await machine.start()
    assert await running.content() == left
    await machine.stop()


@pytest.mark.virtual_time
async def test_a_crash_in_the_middle_of_a_deletion_is_no_loss() -> None:
    """Claim: a log whose first files were being deleted is not taken for one that lost files.

    Experiment: nine files, four expired; cut the power at twenty moments of the deletion.
    Observe: each start succeeds, and serves everything that had not expired.
    """
    for step in range(20):
        machine = Machine(step, delete_when=NOW, delete_commit_log_files_interval=200)
        running = await aged(machine, 4)
        names = machine.names("commitlog")
        content = await running.content()
        # The first pass comes a minute after the start; it takes one second and three pauses.
        await eventually(lambda running=running: running.log.min_offset, 120, step=0.1)
        await asyncio.sleep(step * 0.1)
        await machine.cut_power(keep=0.5)

        running = await machine.start()

        assert set(machine.names("commitlog")) >= set(names[4:-1])
        after = await running.content()
        for key, bodies in content.items():
            kept = after.get(key, [])
            assert kept == bodies[len(bodies) - len(kept) :], f"step {step}"
            assert running.store.max_offset(*key) == len(bodies)
        assert running.log.min_offset <= int(names[4])
        await machine.kill()


@pytest.mark.virtual_time
async def test_a_clock_that_jumps_forward_deletes_nothing_for_an_hour() -> None:
    """Claim: retention never deletes early because of a jump of the clock, without a second look.

    Experiment: nine files of today; the clock jumps 100 hours ahead, and after half an hour back again. Then it jumps
    ahead and stays.
    Observe: nothing is deleted while the clock is wrong for half an hour; when it stays, files go after an hour.
    """
    machine = Machine(delete_when=";".join(f"{hour:02d}" for hour in range(24)))
    running = await aged(machine, 0)
    names = machine.names("commitlog")
    await asyncio.sleep(100)
    machine.clock.offset_ms += 100 * HOUR_MS
    await asyncio.sleep(1_800)
    machine.clock.offset_ms -= 100 * HOUR_MS
    await asyncio.sleep(1_800)
    assert machine.names("commitlog") == names
    machine.clock.offset_ms += 100 * HOUR_MS
    await asyncio.sleep(3_500)
    assert machine.names("commitlog") == names
    await asyncio.sleep(300)
    assert len(machine.names("commitlog")) < len(names)
    assert await running.bodies()
    await machine.stop()


def test_the_hour_of_deletion_is_read_as_rocketmq_reads_it() -> None:
    """Claim: `deleteWhen` is one or several hours of the day, separated by semicolons; the whole hour counts."""
    assert is_delete_hour(NOW, EPOCH_MS)
    assert is_delete_hour(f"{OTHER};{NOW}", EPOCH_MS + 59 * 60_000)
    assert is_delete_hour(str(HOUR), EPOCH_MS)
    assert not is_delete_hour(NOW, EPOCH_MS + HOUR_MS)
    assert not is_delete_hour(OTHER, EPOCH_MS)
    assert not is_delete_hour("", EPOCH_MS)


def test_how_many_files_go_is_decided_from_their_ages() -> None:
    """Claim: from the front, up to the first that is not expired, at most `deleteFileBatchMax`."""
    ages = [100, 90, 80, 10, 70]
    modified = [1_000_000_000 - age for age in ages]
    assert count_expired(modified, 1_000_000_000, 75, 10, at_once=False) == 3
    assert count_expired(modified, 1_000_000_000, 75, 2, at_once=False) == 2
    assert count_expired(modified, 1_000_000_000, 100, 10, at_once=False) == 1
    assert count_expired(modified, 1_000_000_000, 101, 10, at_once=False) == 0
    assert count_expired(modified, 1_000_000_000, 101, 4, at_once=True) == 4
    assert count_expired([], 1_000_000_000, 1, 4, at_once=True) == 0


def test_the_limits_of_the_disk_are_rocketmqs() -> None:
    """Claim: 75, 85 and 90 %, and bounds that no setting passes; the use is rounded up."""
    limits = DiskLimits.of(MessageStoreConfig())
    assert limits == DiskLimits(used=75, forced=85, full=90)
    assert [limits.level(percent) for percent in (75, 76, 85, 86, 90, 91)] == [
        *(DiskLevel.FINE, DiskLevel.USED, DiskLevel.USED, DiskLevel.FORCED, DiskLevel.FORCED, DiskLevel.FULL)
    ]
    wild = MessageStoreConfig(
        disk_max_used_space_ratio=99, disk_space_clean_forcibly_ratio=99, disk_space_warning_level_ratio=99
    )
    assert DiskLimits.of(wild) == DiskLimits(used=95, forced=85, full=90)
    tiny = MessageStoreConfig(
        disk_max_used_space_ratio=1, disk_space_clean_forcibly_ratio=2, disk_space_warning_level_ratio=3
    )
    assert DiskLimits.of(tiny) == DiskLimits(used=10, forced=30, full=35)
    assert percent_of(DiskUsage(total=1_000, free=249)) == 76


def test_a_clock_watch_believes_small_steps() -> None:
    """Claim: minutes are corrected all the time; only a jump of more than an hour is doubted."""
    watch = ClockWatch()
    assert watch.is_trusted(EPOCH_MS, 0.0)
    assert watch.is_trusted(EPOCH_MS + 30 * 60_000, 10.0)
    assert not watch.is_trusted(EPOCH_MS + 3 * HOUR_MS, 20.0)
    assert not watch.is_trusted(EPOCH_MS + 3 * HOUR_MS + 10_000, 30.0)
    assert watch.is_trusted(EPOCH_MS + 3 * HOUR_MS + 3_610_000, 3_630.0)
