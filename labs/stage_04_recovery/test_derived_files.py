"""Queues and index are derived from the log: lost or damaged they are made again; after a crash only what is missing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from labs.stage_04_recovery.recovery_lab import Content, Machine, RunningStore, numbered
from rocketmq_py.sim.environment import EPOCH_MS


async def filled(machine: Machine, count: int = 60) -> tuple[Content, dict[str, bytes]]:
    """Write to three queues, stop in order, and return the content and the derived files."""
    running = await machine.start()
    for number in range(count):
        await running.write([f"n{number:04d}"], topic="TopicTest" if number % 3 else "Other", queue_id=number % 2)
    content = await running.content()
    await machine.stop()
    return content, machine.snapshot("consumequeue", "index")


async def found_by_key(running: RunningStore, body: str) -> list[int]:
    """Return where the index says the message with this body lies."""
    topic = "TopicTest" if int(body[1:]) % 3 else "Other"
    result = await running.store.query_messages(topic, f"key-{body}", 8, EPOCH_MS - 1_000, EPOCH_MS + 3_600_000)
    return [int.from_bytes(record[28:36], "big") for record in result.records]


def delete(machine: Machine, path: str) -> None:
    machine.disk.unlink(path)


def halve(machine: Machine, path: str) -> None:
    machine.disk.write_file(path, machine.disk.read_file(path)[: machine.disk.stat(path).size // 2])


def zero(machine: Machine, path: str) -> None:
    machine.disk.damage(path, 0, bytes(machine.disk.stat(path).size))


@pytest.mark.virtual_time
@pytest.mark.parametrize("spoil", [delete, halve, zero])
@pytest.mark.parametrize("which", ["first file of a queue", "last file of a queue", "whole queue", "all queues"])
async def test_a_lost_or_damaged_consume_queue_is_made_again_byte_for_byte(
    which: str, spoil: Callable[[Machine, str], None]
) -> None:
    """Claim: a consume queue holds nothing that the log does not hold: lost or damaged it is made again.

    Experiment: after a clean stop delete, shorten or zero files of one queue or of all; start.
    Observe: the start names the queue, consumers find every message, and the files are those from before.
    """
    machine = Machine()
    content, before = await filled(machine)
    queue = [path for path in before if "/consumequeue/TopicTest/1/" in path]
    assert len(queue) >= 2
    doomed = {
        "first file of a queue": queue[:1],
        "last file of a queue": queue[-1:],
        "whole queue": queue,
        "all queues": [path for path in before if "/consumequeue/" in path],
    }[which]
    for path in doomed:
        spoil(machine, path)

    running = await machine.start()

    assert await running.content() == content
    if which != "all queues":
        assert running.report.rebuilt_queues == ["TopicTest-1"]
    await machine.stop()
    assert machine.snapshot("consumequeue") == {path: data for path, data in before.items() if "/consumequeue/" in path}


@pytest.mark.virtual_time
@pytest.mark.parametrize("spoil", [delete, halve])
@pytest.mark.parametrize("which", ["oldest", "newest", "all"])
async def test_a_lost_index_is_made_again(which: str, spoil: Callable[[Machine, str], None]) -> None:
    """Claim: index files are derived too: a missing or shortened one is made again, and every key is found.

    Experiment: after a clean stop delete or shorten index files; start; query every key.
    Observe: each is found once, where it was.
    """
    machine = Machine()
    content, before = await filled(machine)
    files = [path for path in before if "/index/" in path]
    assert len(files) >= 2
    for path in {"oldest": files[:1], "newest": files[-1:], "all": files}[which]:
        spoil(machine, path)

    running = await machine.start()

    assert running.report.index_rebuilt_from is not None
    for bodies in content.values():
        for body in bodies:
            assert len(await found_by_key(running, body)) == 1, body
    await machine.stop()


@pytest.mark.virtual_time
@pytest.mark.parametrize("fault", ["kill", "power cut, all lost", "power cut, half lost"])
async def test_after_a_crash_only_what_is_missing_is_dispatched_again(fault: str) -> None:
    """Claim: what a start costs depends on what the last process had not finished, not on what the store holds.

    Experiment: write for 90 s of virtual time, then kill the process or cut the power; start.
    Observe: every surviving message is found in its queue and by its key; after a kill dispatch begins seconds before
    the end, after a power cut at the last minute's sync, never at the beginning.
    """
    machine = Machine()
    running = await machine.start()
    for number in range(300):
        await running.write([f"n{number:04d}"], topic="TopicTest" if number % 3 else "Other", queue_id=number % 2)
        await asyncio.sleep(0.3)
    end = running.log.max_offset
    if fault == "kill":
        await machine.kill()
    else:
        await machine.cut_power(keep=0.0 if "all" in fault else 0.5)

    running = await machine.start()

    content = await running.content()
    bodies = sorted(body for bodies in content.values() for body in bodies)
    assert bodies == [f"n{number:04d}" for number in range(len(bodies))]
    assert len(bodies) >= 295
    for body in bodies:
        assert len(await found_by_key(running, body)) == 1, body
    again = (end - running.report.dispatched_from) / end
    print(f"{fault}: dispatched again {again:.0%} of the log; {running.report}")
    if fault == "kill":
        assert again < 0.05
        assert end - running.report.scanned_from < 0.05 * end
    await machine.stop()


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    "lost", [["checkpoint"], ["flushedPosition"], ["derivedManifest.json"], ["checks"], ["abort"], ["everything"]]
)
@pytest.mark.parametrize("fault", ["kill", "power cut"])
async def test_without_what_was_written_down_a_start_is_slower_and_finds_the_same(lost: list[str], fault: str) -> None:
    """Claim: checkpoint, position, list, checks and abort file only save time.

    Experiment: write for 20 s, kill or cut the power (all that was flushed stays), delete some of these files; start.
    Observe: every flushed message is in its queue and in the index.
    """
    machine = Machine(flush_interval_commit_log=10)
    running = await machine.start()
    for number in range(120):
        await running.write([f"n{number:04d}"], topic="TopicTest" if number % 3 else "Other", queue_id=number % 2)
        await asyncio.sleep(0.15)
    content = await running.content()
    await (machine.kill() if fault == "kill" else machine.cut_power(keep=1.0))
    names = ["checkpoint", "flushedPosition", "derivedManifest.json", "checks"] if lost == ["everything"] else lost
    for path in [path for path in machine.disk.paths() for name in names if path.startswith(machine.path(name))]:
        machine.disk.unlink(path)

    running = await machine.start()

    assert await running.content() == content
    for bodies in content.values():
        for body in bodies:
            assert len(await found_by_key(running, body)) == 1, body
    await machine.stop()


@pytest.mark.virtual_time
async def test_a_start_after_a_clean_stop_reads_no_record() -> None:
    """Claim: after a stop in order nothing is dispatched again and no record is looked at.

    Experiment: fill a store, stop, start.
    Observe: reading began at the end of the log, and no file of the store was changed but the marks of a running store.
    """
    machine = Machine()
    _, before = await filled(machine)
    log = machine.snapshot("commitlog")

    running = await machine.start()

    report = running.report
    assert (report.was_clean, report.scanned_from, report.dispatched_from) == (True, report.end, report.end)
    assert machine.snapshot("consumequeue", "index") == before
    assert machine.snapshot("commitlog") == log
    assert await running.bodies("TopicTest", 1) == [
        f"n{number:04d}" for number in range(60) if number % 3 and number % 2
    ]
    (result,) = await running.write(numbered(0, 1), topic="TopicTest", queue_id=1)
    assert result.queue_offset == 20
    await machine.stop()
