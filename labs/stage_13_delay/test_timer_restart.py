"""Timers across stops, kills and power cuts: nothing acknowledged is lost, and what comes twice is what the rules say."""

from __future__ import annotations

import asyncio
import errno
import random
from typing import Any

import pytest

from labs.stage_04_recovery.recovery_lab import DyingFiles
from labs.stage_13_delay.timer_lab import TOPIC, RunningBroker, TimerMachine, deletion, draft, first_full_second
from rocketmq_py.common.record import Record
from rocketmq_py.sim.environment import EPOCH_MS
from rocketmq_py.sim.file_system import Personality
from rocketmq_py.store.config import FlushDiskType
from rocketmq_py.store.put_result import PutMessageStatus
from rocketmq_py.testing.eventually import eventually

SYNC: dict[str, Any] = {"flush_disk_type": FlushDiskType.SYNC_FLUSH}


@pytest.mark.claim("dly-06")
@pytest.mark.virtual_time
@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_timers_survive_a_restart_of_the_broker(end: str) -> None:
    """Claim: delays survive a restart of the broker.

    Experiment: timers from 5 s to 70 h; end the broker in order, or kill it; start it 60 s later, and wait.
    Observe: what was due meanwhile comes at the start, the rest at its second; each once.
    """
    machine = TimerMachine()
    running = await machine.start()
    delays = [5_000, 30_500, 61_000, 90_000, 3_600_000, 70 * 3_600_000]
    put_at = machine.clock.wall_ms()
    await running.put(*[draft(str(delay), delay_ms=delay) for delay in delays])
    await asyncio.sleep(2.5)
    await (machine.stop() if end == "stop" else machine.kill())
    await machine.travel(put_at + 60_000)

    running = await machine.start()
    await asyncio.sleep(0.5)
    started = await running.arrivals()
    assert sorted(started) == ["30500", "5000"]
    for delay in delays[2:]:
        await machine.travel(first_full_second(put_at + delay) + 50)
        came = await running.arrivals()
        assert 0 <= came[str(delay)] - first_full_second(put_at + delay) <= 20
    assert sorted(await running.arrivals()) == sorted(map(str, delays))
    await machine.stop()


@pytest.mark.virtual_time
async def test_a_stop_in_order_delivers_nothing_twice_whenever_it_comes() -> None:
    """A slot that is being delivered is finished before the broker stops, and the checkpoint says so."""
    machine = TimerMachine()
    running = await machine.start()
    bodies = [f"{number:03d}" for number in range(120)]
    await running.put(*[draft(body, deliver_ms=EPOCH_MS + 3_000 + 250 * n) for n, body in enumerate(bodies)])
    for pause in (3.001, 0.5, 2.0005, 0.9999, 1.0, 4.0, 3.0):
        await asyncio.sleep(pause)
        await machine.stop()
        running = await machine.start()
    await asyncio.sleep(40)
    assert sorted(await running.arrivals()) == bodies
    await machine.stop()


@pytest.mark.virtual_time
async def test_a_stop_in_the_middle_of_a_slot_finishes_it() -> None:
    """Whatever moment of a delivery in several batches a stop in order meets: each message comes, none twice, no wait."""
    met = set()
    loop = asyncio.get_running_loop()
    for half in range(28):
        machine = TimerMachine()
        machine.blocking_seconds = 0.002
        running = await machine.start()
        await running.put(*[draft(f"{n}", deliver_ms=EPOCH_MS + 3_000) for n in range(600)])
        await asyncio.sleep((EPOCH_MS + 3_000 + half / 2 - machine.clock.wall_ms()) / 1_000)
        met.add(running.store.max_offset(TOPIC, 2))
        began = loop.time()
        await machine.stop()
        assert loop.time() - began < 0.5, f"the stop {half / 2} ms after the second was forgotten for a while"
        running = await machine.start()
        await asyncio.sleep(3)
        assert len(await running.arrivals()) == 600, f"stopped {half / 2} ms after the second"
        await machine.stop()
    assert met == {0, 256, 512, 600}, "no stop came between two batches"


async def fill(
    machine: TimerMachine, running: RunningBroker, rng: random.Random, count: int, first: int = 0
) -> dict[str, int]:
    """Put timers that are due within a minute; return their bodies with the time at which each may come first."""
    now = machine.clock.wall_ms() // 1_000 * 1_000
    due: dict[str, int] = {}
    drafts = []
    for number in range(first, first + count):
        time = now + rng.choice([1_500, 2_000, 7_777, 15_000, 30_001, 59_000])
        due[f"{number:03d}"] = first_full_second(time)
        drafts.append(draft(f"{number:03d}", queue_id=number % 3, deliver_ms=time))
    results = await running.put(*drafts)
    assert {result.status for result in results} == {PutMessageStatus.PUT_OK}
    return due


@pytest.mark.virtual_time
@pytest.mark.parametrize("seed", range(8))
async def test_kills_lose_nothing_and_repeat_only_what_was_delivered_within_a_second(seed: int) -> None:
    """After a kill a timer that had not been delivered comes once; what was delivered last may come again."""
    rng = random.Random(seed)
    machine = TimerMachine(seed)
    running = await machine.start()
    due: dict[str, int] = {}
    recent: set[str] = set()
    for round_ in range(6):
        due |= await fill(machine, running, rng, 20, first=round_ * 20)
        await asyncio.sleep(rng.random() * 6)
        killed_at = machine.clock.wall_ms()
        # The checkpoint is written every second, of what the commit log had on disk a moment before.
        recent |= {m.body.decode() for m in await running.messages() if killed_at - m.store_timestamp < 3_000}
        await machine.kill()
        running = await machine.start()
    await asyncio.sleep(80)

    messages = await running.messages()
    came = {message.body.decode() for message in messages}
    assert came == set(due), f"lost: {sorted(set(due) - came)}"
    for message in messages:
        assert message.store_timestamp >= due[message.body.decode()], "came too early"
    doubled = set(await running.doubled())
    print(f"{len(doubled)} of {len(due)} messages came twice after six kills")
    assert doubled <= recent
    await machine.stop()


@pytest.mark.virtual_time
@pytest.mark.parametrize("personality", list(Personality), ids=lambda personality: personality.value)
@pytest.mark.parametrize("seed", range(10))
async def test_power_cuts_lose_no_timer_that_synchronous_flush_acknowledged(
    seed: int, personality: Personality
) -> None:
    """Whatever sectors of log, wheel, timer log and checkpoint a power cut keeps: every acknowledged timer comes."""
    rng = random.Random(seed)
    machine = TimerMachine(seed, personality=personality, **SYNC)
    running = await machine.start()
    due: dict[str, int] = {}
    undone = 0
    for round_ in range(6):
        due |= await fill(machine, running, rng, 20, first=round_ * 20)
        await asyncio.sleep(rng.random() * 5)
        await machine.cut_power(keep=(0.0, 0.5, 1.0, 0.5)[(seed + round_) % 4])
        running = await machine.start()
        undone += running.timers.report.undone
    await asyncio.sleep(80)

    messages = await running.messages()
    came = {message.body.decode() for message in messages}
    assert came == set(due), f"lost: {sorted(set(due) - came)}; {running.timers!r}"
    for message in messages:
        assert message.store_timestamp >= due[message.body.decode()], "came too early"
    print(f"{len(await running.doubled())} of {len(due)} came twice after six power cuts, {undone} units taken back")
    await machine.stop()


@pytest.mark.virtual_time
@pytest.mark.parametrize("seed", range(10))
async def test_units_whose_messages_a_power_cut_took_lead_to_nobody_elses_message(seed: int) -> None:
    """With asynchronous flush the end of the commit log is lost; what is written there next is not mistaken for it."""
    rng = random.Random(seed)
    machine = TimerMachine(seed, flush_interval_commit_log=2_500)
    running = await machine.start()
    expected: dict[str, int] = {}
    for round_ in range(5):
        await fill(machine, running, rng, 10, first=round_ * 40)
        await asyncio.sleep(0.2 + 2 * rng.random())
        await machine.cut_power(keep=0.5)
        running = await machine.start()
        # Records of the same sizes at the same places, for another topic and other times.
        expected |= {
            body: first_full_second(EPOCH_MS + 200_000 + 1_000 * number)
            for number, body in enumerate(f"{n:03d}" for n in range(round_ * 40 + 20, round_ * 40 + 30))
        }
        drafts = [
            draft(body, topic="Survivors", queue_id=1, deliver_ms=time - 500)
            for body, time in expected.items()
            if int(body) >= round_ * 40
        ]
        await running.put(*drafts)
        await asyncio.sleep(6)
    await asyncio.sleep((EPOCH_MS + 260_000 - machine.clock.wall_ms()) / 1000)

    arrived = await running.arrivals("Survivors")
    assert set(arrived) == set(expected)
    late = {body: arrived[body] - expected[body] for body in arrived}
    assert all(0 <= milliseconds <= 50 for milliseconds in late.values()), f"came at another one's time: {late}"
    await machine.stop()


@pytest.mark.virtual_time
@pytest.mark.parametrize("phase", range(0, 2_600, 130))
async def test_the_checkpoint_speaks_of_no_delivery_that_the_disk_does_not_have(phase: int) -> None:
    """A message waited safely on the disk. It is delivered, and the power goes before that is on the disk, too."""
    machine = TimerMachine(phase, flush_interval_commit_log=2_500)
    running = await machine.start()
    await running.put_one("waits", deliver_ms=EPOCH_MS + 7_500)
    await asyncio.sleep(6)
    assert running.store.commit_log.flushed_offset == running.store.commit_log.max_offset
    # So that the delivery stands somewhere between two flushes of the log.
    machine.clock.offset_ms += phase
    await eventually(lambda: running.store.max_offset(TOPIC, 2), step=0.001)
    await asyncio.sleep(1.2)
    await machine.cut_power(keep=0.0)
    running = await machine.start()
    await asyncio.sleep(5)
    # Twice is allowed, if its delivery was on the disk and the checkpoint was not.
    assert {message.body for message in await running.messages()} == {b"waits"}
    await machine.stop()


@pytest.mark.virtual_time
@pytest.mark.parametrize("fault", ["kill", "power cut"])
async def test_a_death_at_any_step_costs_no_acknowledged_timer(fault: str) -> None:
    """Claim: delays survive a crash, wherever it comes.

    Experiment: timers with SYNC_FLUSH while the broker takes them in, delivers some and writes its files; the disk dies at
        its first change, at its third, and so on, followed by a kill or a power cut; then start undisturbed.
    Observe: each time every acknowledged timer comes, and none before its time.
    """
    deaths = 0
    for changes in range(int(fault == "kill"), 2_000, 2):
        machine = TimerMachine(changes, **SYNC)
        running = await machine.start()
        # What was there before the disk begins to die, so that the first deaths have something to lose.
        await running.put(*[draft(f"old{n}", deliver_ms=EPOCH_MS + 2_500 + 700 * n) for n in range(6)])
        await asyncio.sleep(1.3)
        await machine.stop()
        due = {f"old{n}": first_full_second(EPOCH_MS + 2_500 + 700 * n) for n in range(6)}
        machine.files = dying = DyingFiles(machine.disk, changes)  # type: ignore[assignment]
        try:
            running = await machine.start()
            for number in range(24):
                time = EPOCH_MS + 4_000 + 400 * number
                result = await asyncio.wait_for(running.put_one(f"new{number}", deliver_ms=time), 20)
                if result.status is PutMessageStatus.PUT_OK:
                    due[f"new{number}"] = first_full_second(time)
                await asyncio.sleep(0.07)
            await asyncio.sleep(2)
        except Exception:
            # The start itself failed, or a put hung on a dead disk.
            pass
        is_dead = dying.changes_left < 0
        await (machine.kill() if fault == "kill" else machine.cut_power(keep=0.5))
        machine.files = machine.disk
        running = await machine.start()
        await machine.travel(EPOCH_MS + 30_000)
        messages = await running.messages()
        came = {message.body.decode() for message in messages}
        assert set(due) <= came, f"lost after a death at change {changes}: {sorted(set(due) - came)}"
        for message in messages:
            earliest = due.get(message.body.decode(), 0)
            assert message.store_timestamp >= earliest, f"{message.body!r} came too early, change {changes}"
        await machine.stop()
        if not is_dead:
            break
        deaths += 1
    print(f"{deaths} deaths, {fault}")
    assert deaths > 45


@pytest.mark.virtual_time
async def test_a_slot_whose_delivery_was_cut_short_is_delivered_again() -> None:
    """The rule for what comes twice: the slots behind the last checkpoint, as a whole."""
    machine = TimerMachine()
    running = await machine.start()
    await running.put(*[draft(f"{n}", deliver_ms=EPOCH_MS + 4_000) for n in range(5)])
    await eventually(lambda: running.store.max_offset(TOPIC, 2), step=0.001)
    await machine.kill()
    running = await machine.start()
    await asyncio.sleep(3)
    assert await running.doubled() == ["0", "1", "2", "3", "4"]
    await machine.stop()


@pytest.mark.virtual_time
async def test_a_broker_that_was_down_for_a_month_delivers_what_waited() -> None:
    """Differs from RocketMQ, which goes back for seven days at most."""
    machine = TimerMachine()
    running = await machine.start()
    await running.put(*[draft(f"{n}", delay_ms=n * 3_600_000) for n in range(1, 72, 10)])
    await asyncio.sleep(2)
    await machine.stop()
    machine.clock.offset_ms += 30 * 86_400_000
    running = await machine.start()
    later = machine.clock.wall_ms() + 5_000
    await running.put_one("new", deliver_ms=later)
    await asyncio.sleep(10)
    arrived = await running.arrivals()
    assert sorted(arrived) == sorted(["new", *(f"{n}" for n in range(1, 72, 10))])
    assert arrived["new"] >= first_full_second(later)
    await machine.stop()


@pytest.mark.virtual_time
async def test_a_clock_that_was_set_back_costs_no_message() -> None:
    """Slots that were delivered take nothing any more; what would go into one is delivered at once."""
    machine = TimerMachine()
    running = await machine.start()
    await running.put_one("first", delay_ms=2_000)
    await asyncio.sleep(90)
    await machine.stop()
    machine.clock.offset_ms -= 3_600_000
    running = await machine.start()
    await running.put_one("early", delay_ms=10_000)
    await running.put_one("late", delay_ms=2 * 3_600_000)
    await asyncio.sleep(5)
    assert sorted(await running.arrivals()) == ["early", "first"]
    await machine.travel(machine.clock.wall_ms() + 2 * 3_600_000)
    assert sorted(await running.arrivals()) == ["early", "first", "late"]
    await machine.stop()


@pytest.mark.virtual_time
async def test_a_deletion_survives_too() -> None:
    """Deletions are units like others."""
    machine = TimerMachine()
    running = await machine.start()
    at = EPOCH_MS + 30_500
    await running.put(draft("kept", deliver_ms=at), draft("gone", deliver_ms=at))
    await asyncio.sleep(1.2)
    await machine.kill()
    running = await machine.start()
    await running.put(deletion("gone", at))
    await asyncio.sleep(1.2)
    await machine.kill()
    running = await machine.start()
    await asyncio.sleep(40)
    assert sorted(await running.arrivals()) == ["kept"]
    assert running.timers.dequeue.deleted == 1
    await machine.stop()


@pytest.mark.virtual_time
@pytest.mark.parametrize("end", ["stop", "kill"])
@pytest.mark.parametrize("down_seconds", [0, 1, 2, 90])
async def test_a_deletion_that_was_stored_in_time_counts_after_a_start(end: str, down_seconds: int) -> None:
    """The wheel has the message and not yet its deletion; both were acknowledged, and the message's second passes.

    Nothing is delivered after the start until what was put before it is in the wheel.
    """
    machine = TimerMachine()
    running = await machine.start()
    at = EPOCH_MS + 3_500
    await running.put(draft("kept", deliver_ms=at), draft("gone", deliver_ms=at))
    await asyncio.sleep(2)
    assert running.timers.congest_num() == 2
    await running.put(deletion("gone", at))
    assert running.timers.congest_num() == 2, "the deletion is in the wheel already, so this lab shows nothing"
    await (machine.stop() if end == "stop" else machine.kill())
    await asyncio.sleep(down_seconds)
    running = await machine.start()
    await asyncio.sleep(4)
    assert sorted(await running.arrivals()) == ["kept"]
    assert running.timers.dequeue.deleted == 1
    await machine.stop()


@pytest.mark.virtual_time
async def test_a_disk_that_refuses_a_record_after_a_start_does_not_hold_up_the_wheel() -> None:
    """What is in the wheel is delivered, though what was put before the start cannot be taken in yet."""
    machine = TimerMachine()
    running = await machine.start()
    await running.put_one("in the wheel", deliver_ms=EPOCH_MS + 3_500)
    await asyncio.sleep(2)
    await running.put_one("in the topic", deliver_ms=EPOCH_MS + 3_500)
    await machine.kill()
    await asyncio.sleep(2)
    running = await machine.start()
    records = running.timers.enqueue._records
    read, records.read = records.read, refuse  # type: ignore[method-assign]
    await asyncio.sleep(3)
    assert sorted(await running.arrivals()) == ["in the wheel"]
    records.read = read  # type: ignore[method-assign]
    await asyncio.sleep(2)
    assert sorted(await running.arrivals()) == ["in the topic", "in the wheel"]
    await machine.stop()


async def refuse(places: object) -> list[Record | None]:
    """Fail as a disk does."""
    raise OSError(errno.EIO, "the disk refuses")
