"""Recovery that is itself cut short: at any step, by an error, a kill or a power cut, it can be done again."""

from __future__ import annotations

import asyncio
import random

import pytest

from labs.stage_04_recovery.recovery_lab import ROOT, DyingFiles, Machine, numbered


def copy(machine: Machine, seed: int) -> Machine:
    """Return a machine with the same files on its disk."""
    other = Machine(seed)
    for path, data in machine.disk.snapshot(ROOT).items():
        other.disk.write_file(path, data)
    return other


async def torn(seed: int) -> tuple[Machine, list[str]]:
    """Return a machine whose power was cut under load, with torn bytes behind its log."""
    machine = Machine(seed)
    running = await machine.start()
    bodies = numbered(0, 64)
    for number, body in enumerate(bodies):
        await running.write([body], queue_id=number % 3)
        await asyncio.sleep(0.1)
    await machine.cut_power(keep=0.5)
    return machine, bodies


@pytest.mark.virtual_time
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("fault", ["kill", "power cut"])
async def test_recovery_that_is_cut_short_anywhere_can_be_done_again(seed: int, fault: str) -> None:
    """Claim: recovery writes nothing before it has decided, and can be interrupted anywhere.

    Experiment: take a torn store; let a start fail at its first change of the disk, at its second, and so on, followed
    by a kill or a power cut; then start undisturbed.
    Observe: each time the result is that of a start that nothing disturbed.
    """
    machine, bodies = await torn(seed)
    undisturbed = copy(machine, seed)
    expected = await (await undisturbed.start()).content()
    await undisturbed.kill()
    found = sorted(body for queue in expected.values() for body in queue)
    assert found == bodies[: len(found)]
    assert len(found) > 50
    interruptions = 0
    for changes in range(400):
        victim = copy(machine, seed)
        victim.files = dying = DyingFiles(victim.disk, changes)  # type: ignore[assignment]
        try:
            await victim.start()
        except OSError:
            interruptions += 1
        if dying.changes_left >= 0:
            await victim.kill()
            break
        await (victim.kill() if fault == "kill" else victim.cut_power(keep=0.5))
        victim.files = victim.disk

        running = await victim.start()
        assert await running.content() == expected, f"after a death at change {changes}"
        (result,) = await running.write(["next"], queue_id=1)
        assert result.queue_offset == len(expected["TopicTest", 1])
        await victim.kill()
    print(f"{interruptions} interrupted starts, seed {seed}, {fault}")
    assert interruptions > 10


@pytest.mark.virtual_time
async def test_a_start_that_is_refused_changes_nothing_but_the_lock() -> None:
    """Claim: what is decided against leaves no trace.

    Experiment: lose the newest log file; start (refused); put it back; start.
    Observe: between the two the files are the same, the abort file is as before, and the second start succeeds.
    """
    machine = Machine(flush_interval_commit_log=10)
    running = await machine.start()
    await running.write(numbered(0, 90))
    await machine.stop()
    path = machine.path("commitlog", machine.names("commitlog")[-1])
    data = machine.disk.read_file(path)
    machine.disk.unlink(path)
    before = machine.disk.snapshot(ROOT)

    with pytest.raises(Exception, match="files up to offset"):
        await machine.start()

    assert machine.disk.snapshot(ROOT) == before
    machine.disk.write_file(path, data)
    running = await machine.start()
    assert running.report.was_clean
    assert await running.bodies() == numbered(0, 90)
    await machine.stop()


@pytest.mark.virtual_time
async def test_many_crashes_in_a_row_lose_nothing_that_was_flushed() -> None:
    """Claim: crash after crash, what was flushed stays, in order.

    Experiment: thirty rounds on one disk: write for a while, then stop, kill or cut the power by chance.
    Observe: each start serves a list that begins with all that was flushed, and continues with what came after it.
    """
    machine, rng = Machine(11), random.Random(11)
    expected: list[str] = []
    for round_ in range(30):
        running = await machine.start()
        found = await running.bodies()
        assert found[: len(expected)] == expected, f"round {round_}"
        written = list(found)
        for number in range(rng.randrange(1, 20)):
            body = f"r{round_}-{number}"
            await running.write([body])
            written.append(body)
            await asyncio.sleep(rng.random() / 5)
        end = rng.choice([machine.stop, machine.kill, machine.cut_power])
        flushed = running.log.flushed_offset
        if end == machine.cut_power:
            expected = []
            for number, body in enumerate(written):
                unit = running.queues.get("TopicTest", 2).unit(number)
                assert unit is not None
                if unit[0] + unit[1] <= flushed:
                    expected.append(body)
        else:
            expected = written
        await end()
    running = await machine.start()
    assert (await running.bodies())[: len(expected)] == expected
    await machine.stop()
