"""Where the log ends: a torn tail is cut and kept aside; damage before it is reported by place."""

from __future__ import annotations

import logging
import struct

import pytest

from labs.stage_04_recovery.recovery_lab import ROOT, Machine, numbered
from rocketmq_py.common.record import MAGIC_V1
from rocketmq_py.store.errors import StoreCorruptError

FILE = "00000000000000000000"


async def written(machine: Machine, count: int, width: int = 6) -> list[int]:
    """Write messages, kill the store, and return where each record begins, and where the last ends."""
    running = await machine.start()
    results = await running.write(numbered(0, count, width))
    borders = [result.wrote_offset for result in results] + [running.log.max_offset]
    await running.bookkeeping.write()
    await machine.kill()
    return borders


def forget(machine: Machine, *names: str) -> None:
    """Remove files that the store keeps for itself."""
    for name in names:
        if machine.disk.exists(machine.path(name)):
            machine.disk.unlink(machine.path(name))


@pytest.mark.claim("log-12")
@pytest.mark.virtual_time
async def test_a_log_that_is_cut_at_any_byte_begins_with_whole_messages() -> None:
    """Claim: a torn tail is cut off; what is left is a prefix of what was written.

    Experiment: take a log of four records, replace everything from byte N on by zeros, for every N; start a store.
    Observe: it serves the records that lie whole before N, and takes the next message behind them.
    """
    machine = Machine()
    borders = await written(machine, 4)
    whole = machine.disk.read_file(machine.path("commitlog", FILE))
    bodies = numbered(0, 4)

    for cut in range(borders[-1] + 1):
        torn = Machine()
        torn.disk.write_file(torn.path("abort"), b"1")
        torn.disk.write_file(torn.path("commitlog", FILE), whole[:cut].ljust(len(whole), b"\0"))
        running = await torn.start()
        count = sum(border <= cut for border in borders[1:])
        assert await running.bodies() == bodies[:count], f"cut at byte {cut}"
        (result,) = await running.write(["next"])
        assert (result.wrote_offset, result.queue_offset) == (borders[count], count)
        assert await running.bodies() == [*bodies[:count], "next"]
        await torn.stop()


@pytest.mark.virtual_time
async def test_torn_bytes_are_kept_aside_and_the_log_says_where(caplog: pytest.LogCaptureFixture) -> None:
    """Claim: bytes that are cut off are not thrown away: they may be messages behind a flipped bit.

    Experiment: six records, none flushed; the magic of the third is overwritten, as when its sector was lost.
    Observe: two messages remain. The bytes from the third record on lie in `cut/`, byte for byte, and the start says
    what it expected, what it found, that valid records follow, and where the bytes are. Another start adds nothing.
    """
    machine = Machine(flush_interval_commit_log=60_000)
    borders = await written(machine, 6)
    before = machine.disk.read_file(machine.path("commitlog", FILE))
    machine.disk.damage(machine.path("commitlog", FILE), borders[2] + 4, b"\xde\xad\xbe\xef")
    forget(machine, "flushedPosition")

    with caplog.at_level(logging.WARNING):
        running = await machine.start()

    assert await running.bodies() == numbered(0, 2)
    assert running.report.set_aside == machine.path("cut", f"{borders[2]:020d}")
    kept = machine.disk.read_file(running.report.set_aside)
    assert kept == before[borders[2] : borders[2] + 4] + b"\xde\xad\xbe\xef" + before[borders[2] + 8 : borders[6]]
    text = next(record.getMessage() for record in caplog.records if "was cut at" in record.getMessage())
    for part in (str(borders[2]), "daa320a7", "deadbeef", f"valid records again from {borders[3]}", "cut/"):
        assert part in text
    assert machine.disk.read_file(machine.path("commitlog", FILE))[borders[2] :].strip(b"\0") == b""

    await machine.kill()
    running = await machine.start()
    assert (running.report.cut_bytes, machine.names("cut")) == (0, [f"{borders[2]:020d}"])
    await machine.stop()


@pytest.mark.virtual_time
async def test_damage_before_the_flushed_position_is_reported_by_place_and_the_rest_is_served(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Claim: an invalid record that had been flushed is damage: it is named, and never taken for the end of the log.

    Experiment: six flushed records; a byte of the third one's body is overwritten while the store is down.
    Observe: the start names file, byte, expected and found; the five others are served, and nothing was cut.
    """
    machine = Machine(flush_interval_commit_log=10)
    running = await machine.start()
    results = await running.write(numbered(0, 6, width=40))
    borders = [result.wrote_offset for result in results] + [running.log.max_offset]
    await machine.stop()
    machine.disk.damage(machine.path("commitlog", FILE), borders[2] + 100, b"!!")

    with caplog.at_level(logging.ERROR):
        running = await machine.start()

    (damage,) = running.report.damages
    assert (damage.start, damage.end) == (borders[2], borders[3])
    for part in (f"commitlog/{FILE} at byte {borders[2]}", "expected", "found", "damage, not a torn end"):
        assert part in str(damage.error)
    assert any(str(damage.error) in record.getMessage() for record in caplog.records)
    bodies = numbered(0, 6, width=40)
    assert await running.bodies() == bodies[:2] + bodies[3:]
    assert (running.log.max_offset, running.report.cut_bytes) == (borders[6], 0)
    await machine.stop()


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    ("name", "spoil", "parts"),
    [
        (
            "the end is gone",
            "zero the end",
            ["was flushed up to", "expected magic", "found 00000000", "remove the file"],
        ),
        ("the newest file is gone", "unlink last", ["files up to offset", "Copy the file from a replica"]),
        ("a file in the middle is gone", "unlink middle", ["a file that begins at 4096", "8192", "A file is missing"]),
        (
            "the first file is gone",
            "unlink first",
            ["a commit log from 0 to", "begins at 4096", "Put the missing files"],
        ),
        ("all files are gone", "unlink all", ["a commit log from 0 to", "found no file", "start again"]),
        ("a file of another size", "shorten middle", ["has 100 bytes", "files of 4096"]),
    ],
)
async def test_a_log_that_lacks_what_was_flushed_is_refused_and_left_alone(
    name: str, spoil: str, parts: list[str]
) -> None:
    """Claim: what was flushed and is gone is never silently skipped.

    Experiment: a log of four files, stopped in order; then bytes at its end or whole files disappear.
    Observe: the start fails, the error says what is missing and what to do, and not one byte was changed.
    """
    machine = Machine(flush_interval_commit_log=10)
    running = await machine.start()
    results = await running.write(numbered(0, 90))
    last_but_one = results[-2].wrote_offset % 4096
    assert len(machine.names("commitlog")) >= 4
    await machine.stop()
    paths = [machine.path("commitlog", name) for name in machine.names("commitlog")]
    if spoil == "zero the end":
        machine.disk.damage(paths[-1], last_but_one, bytes(300))
    elif spoil == "shorten middle":
        machine.disk.write_file(paths[1], bytes(100))
    else:
        doomed = {"first": paths[:1], "middle": paths[1:2], "last": paths[-1:], "all": paths}[spoil.split()[1]]
        for path in doomed:
            machine.disk.unlink(path)
    before = machine.disk.snapshot(ROOT)

    with pytest.raises(Exception) as caught:
        await machine.start()

    for part in parts:
        assert part in str(caught.value), name
    assert machine.disk.snapshot(ROOT) == before


@pytest.mark.virtual_time
async def test_a_damaged_log_goes_on_when_a_person_says_so() -> None:
    """Claim: the refusal names the way out: without `flushedPosition` the first invalid record ends the log.

    Experiment: zero the last two of six flushed records; start (refused); remove the file; start.
    Observe: four messages are served.
    """
    machine = Machine(flush_interval_commit_log=10)
    running = await machine.start()
    borders = [result.wrote_offset for result in await running.write(numbered(0, 6))] + [running.log.max_offset]
    await machine.stop()
    machine.disk.damage(machine.path("commitlog", FILE), borders[4], bytes(borders[6] - borders[4]))

    with pytest.raises(StoreCorruptError, match="remove the file flushedPosition"):
        await machine.start()
    forget(machine, "flushedPosition")
    running = await machine.start()

    assert await running.bodies() == numbered(0, 4)
    await machine.stop()


@pytest.mark.virtual_time
async def test_an_old_record_behind_the_end_never_comes_back() -> None:
    """Claim: what was cut off is cleared on disk, and a record must carry its own offset.

    Experiment: cut a log in the middle, write shorter messages over the place, kill, start; then put a valid record
    of another place behind the end.
    Observe: neither the old record behind the new ones nor the foreign record is taken.
    """
    machine = Machine(flush_interval_commit_log=60_000)
    borders = await written(machine, 6, width=60)
    whole = machine.disk.read_file(machine.path("commitlog", FILE))
    machine.disk.damage(machine.path("commitlog", FILE), borders[2] + 4, b"\0\0\0\0")
    forget(machine, "flushedPosition")
    running = await machine.start()
    await running.write(["short"])
    end = running.log.max_offset
    await machine.kill()
    # A foreign record: valid in itself, of offset 0.
    assert struct.unpack_from(">i", whole, 4) == (MAGIC_V1,)
    machine.disk.damage(machine.path("commitlog", FILE), end, whole[: borders[1]])
    forget(machine, "flushedPosition")

    running = await machine.start()

    assert await running.bodies() == [*numbered(0, 2, width=60), "short"]
    assert running.log.max_offset == end
    await machine.stop()
