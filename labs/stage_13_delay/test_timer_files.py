"""The files of the timers: exact bytes, the roll beyond the window, damage of every kind, and what the disk is asked to do."""

from __future__ import annotations

import asyncio
import errno
from typing import Any

import pytest

from labs.stage_13_delay.timer_lab import ROOT, SIZES, TOPIC, RunningBroker, TimerMachine, draft, first_full_second
from rocketmq_py.common.java import string_hash
from rocketmq_py.sim.environment import EPOCH_MS
from rocketmq_py.sim.file_system import Fault
from rocketmq_py.store.errors import StoreError
from rocketmq_py.store.put_result import PutMessageStatus
from rocketmq_py.store.timer.timer_checkpoint import CHECKPOINT_LAYOUT, TimerCheckpoint
from rocketmq_py.store.timer.timer_enqueue import place, roll_window
from rocketmq_py.store.timer.timer_log import BLANK_LAYOUT, UNIT_LAYOUT, UNIT_SIZE, pack_unit
from rocketmq_py.store.timer.timer_wheel import SLOT_LAYOUT, WHEEL_SIZE, Slot, TimerWheel

TIMERLOG = f"{ROOT}/timerlog/00000000000000000000"
WHEEL = f"{ROOT}/timerwheel"
TIMERCHECK = f"{ROOT}/config/timercheck"
UNITS_PER_FILE = (SIZES["mapped_file_size_timer_log"] - 16) // 52


def test_a_unit_is_52_bytes() -> None:
    """A message due at 1700000060000, its record of 300 bytes at 402, written at 1700000004000, first in its slot."""
    assert pack_unit(-1, 1, 1_700_000_004_000, 56_000, 402, 300, string_hash("TopicTest")).hex(" ") == (
        "00 00 00 34 "  # size
        "ff ff ff ff ff ff ff ff "  # no unit before it
        "00 00 00 01 "  # magic
        "00 00 01 8b cf e5 77 a0 "  # write time
        "00 00 da c0 "  # 56 s later
        "00 00 00 00 00 00 01 92 "  # physical offset 402
        "00 00 01 2c "  # 300 bytes
        "8e 98 76 41 "  # Java hash of TopicTest
        "00 00 00 00 00 00 00 00"
    )
    assert (UNIT_LAYOUT.size, BLANK_LAYOUT.size, SLOT_LAYOUT.size, CHECKPOINT_LAYOUT.size) == (52, 16, 32, 56)


@pytest.mark.virtual_time
async def test_a_slot_lies_where_its_time_says() -> None:
    """The slot of 1700000060 is number 512060, at byte 16385920 of 38707200."""
    machine = TimerMachine()
    wheel = TimerWheel(machine.disk, WHEEL, 1_000)
    machine.disk.make_directories(ROOT)
    wheel.put(Slot(1_700_000_060_000, 0, 0, 1))
    wheel.write(wheel.take_dirty())
    data = machine.disk.read_file(WHEEL)
    assert len(data) == WHEEL_SIZE == 38_707_200
    assert data[16_385_920 : 16_385_920 + 32].hex(" ") == (
        "00 00 00 00 65 53 f1 3c 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 01 00 00 00 00"
    )
    assert data.count(0) == WHEEL_SIZE - 5
    # Another fortnight is another time in the same slot.
    assert wheel.get(1_700_000_060_000 + 1_209_600_000) is None
    again = TimerWheel(machine.disk, WHEEL, 1_000)
    assert again.load()
    assert again.get(1_700_000_060_999) == Slot(1_700_000_060_000, 0, 0, 1)


def test_the_checkpoint_is_56_bytes_and_its_old_form_32() -> None:
    """As GET_TIMER_CHECK_POINT sends it."""
    data = bytes.fromhex(
        "0000018BCFE568000000000000001000000000000000000A000000000000000A00000000000000000000018BCFE568000000000000000003"
    )
    checkpoint = TimerCheckpoint.decode(data)
    assert checkpoint.encode() == data
    assert (checkpoint.last_read_time_ms, checkpoint.last_timer_log_flush_pos) == (1_700_000_000_000, 4_096)
    assert (checkpoint.last_timer_queue_offset, checkpoint.master_timer_queue_offset) == (10, 10)
    assert (checkpoint.version.state_version, checkpoint.version.counter) == (0, 3)
    assert TimerCheckpoint.decode(data[:32]).version.counter == 0


@pytest.mark.virtual_time
async def test_the_files_hold_what_the_layouts_say() -> None:
    """Three messages for one second and one for another: chain, slots, checkpoint and counts, byte by byte."""
    machine = TimerMachine()
    running = await machine.start()
    one, two = EPOCH_MS + 60_000, EPOCH_MS + 90_000
    for body, time in (("a", one + 1), ("b", one + 999), ("c", two + 1), ("d", one + 1)):
        await running.put_one(body, deliver_ms=time)
    await asyncio.sleep(2.5)
    records = await running.messages("rmq_sys_wheel_timer")
    await machine.stop()

    log = machine.disk.read_file(TIMERLOG)
    units = [UNIT_LAYOUT.struct.unpack_from(log, 52 * number) for number in range(5)]
    topic_hash = string_hash(TOPIC)
    for number, (prev, delay) in enumerate(((-1, 60_000), (0, 60_000), (-1, 90_000), (52, 60_000))):
        place_ = (records[number].commit_log_offset, records[number].store_size)
        assert units[number] == (52, prev, 1, EPOCH_MS, delay, *place_, topic_hash, 0)
    assert units[4][0] == 0

    wheel = machine.disk.read_file(WHEEL)
    parts = {number: wheel[number * 32 : number * 32 + 32] for number in range(WHEEL_SIZE // 32)}
    slots = {number: part for number, part in parts.items() if any(part)}
    assert slots == {
        one // 1000 % 1_209_600: SLOT_LAYOUT.struct.pack(one // 1000, 0, 156, 3, 0),
        two // 1000 % 1_209_600: SLOT_LAYOUT.struct.pack(two // 1000, 104, 104, 1, 0),
    }
    checkpoint = machine.disk.read_file(TIMERCHECK)
    assert len(checkpoint) == 4_096
    assert CHECKPOINT_LAYOUT.struct.unpack_from(checkpoint)[:4] == (EPOCH_MS + 2_000, 208, 4, 4)
    assert machine.disk.read_file(f"{ROOT}/config/timermetrics").count(b'"Reminders":{"count":4,') == 1


@pytest.mark.virtual_time
async def test_a_file_of_the_log_ends_with_a_blank_unit_and_the_next_goes_on() -> None:
    """Units never span files; a blank says that the rest of a file is none. It is written with the next unit."""
    machine = TimerMachine()
    running = await machine.start()
    at = EPOCH_MS + 60_500
    await running.put(*[draft(str(n), deliver_ms=at) for n in range(UNITS_PER_FILE)])
    await asyncio.sleep(1)
    size = SIZES["mapped_file_size_timer_log"]
    full = UNITS_PER_FILE * UNIT_SIZE
    assert machine.disk.read_file(TIMERLOG)[full:] == bytes(size - full)
    await running.put_one("next", deliver_ms=at)
    await asyncio.sleep(1)
    first = machine.disk.read_file(TIMERLOG)
    assert first[full : full + 16] == BLANK_LAYOUT.struct.pack(size - full, 0, 0xCBD43194 - (1 << 32))
    second = machine.disk.read_file(f"{ROOT}/timerlog/{size:020d}")
    assert UNIT_LAYOUT.struct.unpack_from(second)[:2] == (52, full - UNIT_SIZE)
    await machine.stop()
    running = await machine.start()
    await asyncio.sleep(70)
    assert len(await running.arrivals()) == UNITS_PER_FILE + 1
    await machine.stop()


# --- beyond the window ------------------------------------------------------------------------------------------------


def test_where_a_message_goes_that_is_due_beyond_the_window() -> None:
    """A whole window ahead, or half of one if less than a third of a window would be left after a whole one."""
    window = roll_window(172_800, 1_000)
    assert place(window * 1000 - 1, 0, window, 1_000) == (window * 1000 - 1, False)
    assert place(window * 1000, 0, window, 1_000) == (window * 500, True)
    third = window // 3 * 1000
    assert place(window * 1000 + third - 1, 0, window, 1_000) == (window * 500, True)
    assert place(window * 1000 + third, 0, window, 1_000) == (window * 1000, True)
    assert roll_window(1, 1_000) == roll_window(604_741, 1_000) == 604_740
    assert roll_window(172_800, 3_600_000) * 3_600_000 < 1 << 31, "a unit's delay has 32 bits"


@pytest.mark.virtual_time
async def test_a_message_beyond_the_window_is_rolled_on_until_it_is_due() -> None:
    """Each time it goes back to the timer topic, counts it, and is delivered once, at its second."""
    machine = TimerMachine(timer_roll_window_slot=20)
    running = await machine.start()
    due = EPOCH_MS + 100_500
    await running.put_one("far", deliver_ms=due)
    await running.put_one("near", deliver_ms=EPOCH_MS + 10_500)
    await asyncio.sleep(30)
    assert running.timers.metrics.count(TOPIC) == 1
    await machine.kill()
    running = await machine.start()
    await asyncio.sleep(80)

    arrived = await running.arrivals()
    assert 0 <= arrived["far"] - first_full_second(due) <= 20
    (far,) = [message for message in await running.messages() if message.body == b"far"]
    turns = [
        m.properties.get("TIMER_ROLL_TIMES") for m in await running.messages("rmq_sys_wheel_timer") if m.body == b"far"
    ]
    print("rolled on:", turns)
    assert turns == [None, *map(str, range(1, len(turns)))]
    assert len(turns) > 4
    assert far.properties["TIMER_ROLL_TIMES"] == turns[-1]
    assert far.properties["TIMER_OUT_MS"] == str(EPOCH_MS + 100_000)
    assert running.timers.metrics.count(TOPIC) == 0
    await machine.stop()


# --- damage -----------------------------------------------------------------------------------------------------------


async def waiting(machine: TimerMachine, count: int = 30) -> dict[str, int]:
    """Run a broker that takes timers for the next minutes, some of them delivered before it stops; return what waits."""
    running = await machine.start()
    await running.put(*[draft(f"early{n}", deliver_ms=EPOCH_MS + 1_500) for n in range(5)])
    due = {}
    for n in range(count):
        due[f"{n}"] = first_full_second(EPOCH_MS + 60_500 + 1_000 * (n % 7))
        await running.put_one(f"{n}", deliver_ms=due[f"{n}"] - 500)
        await asyncio.sleep(0.2)
    await asyncio.sleep(4)
    await machine.stop()
    return due


async def all_came(machine: TimerMachine, running: RunningBroker, due: dict[str, int]) -> set[str]:
    """Wait for what is due; return what came twice."""
    await asyncio.sleep((EPOCH_MS + 75_000 - machine.clock.wall_ms()) / 1000)
    messages = await running.messages()
    came = {message.body.decode() for message in messages}
    assert set(due) <= came, f"lost: {sorted(set(due) - came)}"
    for message in messages:
        assert message.store_timestamp >= due.get(message.body.decode(), 0), "came too early"
    return set(await running.doubled())


@pytest.mark.virtual_time
@pytest.mark.parametrize("lost", ["wheel", "log", "check", "wheel and log", "wheel and check", "log and check", "all"])
async def test_any_file_may_be_lost(lost: str) -> None:
    """Each is made again from the others, and all from the timer topic: no message is lost.

    What comes twice: with the checkpoint lost, what was delivered before; otherwise nothing.
    """
    machine = TimerMachine()
    due = await waiting(machine)
    paths = [path for path in machine.disk.paths() if "/timerlog/" in path]
    assert len(paths) == 2
    if "wheel" in lost or lost == "all":
        machine.disk.unlink(WHEEL)
    if "log" in lost or lost == "all":
        for path in paths:
            machine.disk.unlink(path)
    if "check" in lost or lost == "all":
        machine.disk.unlink(TIMERCHECK)
    running = await machine.start()
    doubled = await all_came(machine, running, due)
    assert doubled == ({f"early{n}" for n in range(5)} if "check" in lost or lost == "all" else set())
    await machine.stop()


@pytest.mark.virtual_time
@pytest.mark.parametrize("number", [0, 4, 5, 12, UNITS_PER_FILE - 1, UNITS_PER_FILE, UNITS_PER_FILE + 3])
@pytest.mark.parametrize("field", ["size", "prev_pos", "magic", "write_time", "physical_offset", "record_size"])
async def test_a_damaged_unit_hides_no_other_message(number: int, field: str) -> None:
    """A bit flips in a unit, wherever it lies: the other messages come, each at its time, and once."""
    machine = TimerMachine()
    due = await waiting(machine)
    position = (
        number * 52 if number < UNITS_PER_FILE else SIZES["mapped_file_size_timer_log"] + (number - UNITS_PER_FILE) * 52
    )
    path = f"{ROOT}/timerlog/{position - position % SIZES['mapped_file_size_timer_log']:020d}"
    at = position % SIZES["mapped_file_size_timer_log"] + UNIT_LAYOUT.offset_of(field)
    machine.disk.flip_bit(path, at + (2 if field in ("size", "magic", "record_size") else 5), 3)
    running = await machine.start()
    # The first five units were delivered already; what the damaged one led to may be lost, and that is said.
    victim = str(number - 5)
    rest = {body: time for body, time in due.items() if body != victim}
    assert await all_came(machine, running, rest) == set()
    came = {message.body.decode() for message in await running.messages()}
    print(f"unit {number}, {field}:", "its message came" if victim in came else "its message was lost")
    assert victim in came or number < 5 or running.timers.dequeue.lost or running.timers.dequeue.broken
    await machine.stop()


@pytest.mark.virtual_time
async def test_a_unit_that_leads_to_another_message_does_not_deliver_it_early() -> None:
    """A record says itself when it is due; a unit of another second that points to it is not believed."""
    machine = TimerMachine()
    running = await machine.start()
    for number in range(4):
        await running.put_one(f"{number}", deliver_ms=EPOCH_MS + 10_500 + 10_000 * number)
    await asyncio.sleep(2.5)
    await machine.stop()
    # The first unit takes over where the last one points to.
    at = UNIT_LAYOUT.offset_of("physical_offset")
    machine.disk.damage(TIMERLOG, at, machine.disk.read_file(TIMERLOG)[3 * 52 + at : 3 * 52 + at + 8])
    running = await machine.start()
    await asyncio.sleep(60)
    due = {f"{number}": EPOCH_MS + 11_000 + 10_000 * number for number in (1, 2, 3)}
    arrived = await running.arrivals()
    assert {body: time // 1_000 for body, time in arrived.items()} == {
        body: time // 1_000 for body, time in due.items()
    }
    assert running.timers.dequeue.lost == 1
    await machine.stop()


@pytest.mark.virtual_time
@pytest.mark.parametrize("field", ["time", "first_pos", "last_pos", "num"])
async def test_a_damaged_slot_is_noticed(field: str) -> None:
    """A slot that points nowhere, or to another second's unit, is filled from the timer log."""
    machine = TimerMachine()
    due = await waiting(machine)
    slot = (EPOCH_MS + 62_000) // 1000 % 1_209_600 * 32
    machine.disk.flip_bit(WHEEL, slot + SLOT_LAYOUT.offset_of(field) + (2 if field == "num" else 6), 4)
    running = await machine.start()
    rest = due if field != "time" else {body: time for body, time in due.items() if time != EPOCH_MS + 63_000}
    assert await all_came(machine, running, rest) == set()
    await machine.stop()


@pytest.mark.virtual_time
@pytest.mark.parametrize("cut", [1, 51, 52, 100, 400])
async def test_a_torn_end_of_the_log_is_cut_off_and_made_again(cut: int) -> None:
    """After a kill the end of the log may be zeros: those messages are taken in again from their topic."""
    machine = TimerMachine()
    running = await machine.start()
    due = {}
    for n in range(12):
        due[f"{n}"] = first_full_second(EPOCH_MS + 60_500 + 1_000 * n)
        await running.put_one(f"{n}", deliver_ms=due[f"{n}"] - 500)
    await asyncio.sleep(0.3)
    await machine.kill()
    end = 12 * 52
    machine.disk.damage(TIMERLOG, end - cut, bytes(cut))
    running = await machine.start()
    assert await all_came(machine, running, due) == set()
    await machine.stop()


@pytest.mark.virtual_time
async def test_a_wheel_of_another_size_stops_the_start_and_says_what_to_do() -> None:
    """It belongs to another version, or was cut short by a copy; guessing would deliver at wrong times."""
    machine = TimerMachine()
    due = await waiting(machine, 10)
    machine.disk.write_file(WHEEL, machine.disk.read_file(WHEEL)[:-32])
    with pytest.raises(StoreError, match="38707168 bytes instead of 38707200"):
        await machine.start()
    machine.disk.unlink(WHEEL)
    running = await machine.start()
    assert running.timers.report.is_rebuilt
    assert await all_came(machine, running, due) == set()
    await machine.stop()


@pytest.mark.virtual_time
async def test_another_precision_makes_the_wheel_anew() -> None:
    """Slots are numbered by their time divided by the precision; with another one they mean other times."""
    machine = TimerMachine()
    due = await waiting(machine)
    running = await machine.start(timer_precision_ms=500)
    assert running.timers.report.is_rebuilt
    # Half a second earlier than with full seconds, and not before the time that was asked for.
    assert await all_came(machine, running, {body: time - 500 for body, time in due.items()}) == set()
    await running.put_one("half", delay_ms=700)
    at = machine.clock.wall_ms() + 700
    await asyncio.sleep(2)
    assert (await running.arrivals())["half"] - at < 520
    await machine.stop()


@pytest.mark.virtual_time
async def test_a_record_of_the_timer_topic_without_a_time_stops_nobody() -> None:
    """A 5.3.3 broker that meets one takes no timer in any more. Here it is logged, counted and passed over."""
    machine = TimerMachine()
    running = await machine.start()
    await running.put_one("before", delay_ms=5_000)
    await running.put_one("stray", topic="rmq_sys_wheel_timer", queue_id=0)
    await running.put_one("odd", topic="rmq_sys_wheel_timer", queue_id=0, properties={"TIMER_OUT_MS": "soon"})
    await running.put_one("after", delay_ms=5_000)
    await asyncio.sleep(10)
    assert sorted(await running.arrivals()) == ["after", "before"]
    assert running.timers.enqueue.unreadable == 2
    await machine.stop()


# --- a disk that says no ----------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
@pytest.mark.parametrize("operation", ["allocate", "open_file", "pwrite"])
async def test_a_full_disk_holds_timers_up_and_loses_none(operation: str) -> None:
    """Timers are acknowledged when they are in the commit log; the timer log may follow when there is room again."""
    machine = TimerMachine()
    running = await machine.start()
    machine.disk.faults.append(Fault(operation, "timerlog", errno.ENOSPC, times=7))
    machine.disk.faults.append(Fault(operation, "timerwheel", errno.ENOSPC, times=7))
    for n in range(25):
        assert (await running.put_one(f"{n}", delay_ms=3_000 + 1_000 * n)).status is PutMessageStatus.PUT_OK
    await asyncio.sleep(60)
    assert len(await running.arrivals()) == 25
    assert not running.timers.progress.failure
    await machine.stop()


@pytest.mark.virtual_time
async def test_a_failed_sync_of_the_timer_log_is_final_until_the_next_start() -> None:
    """The kernel forgets what it could not write; the next start finds out, and nothing acknowledged is lost."""
    machine = TimerMachine()
    running = await machine.start()
    await running.put_one("a", delay_ms=8_000)
    machine.disk.faults.append(Fault("fdatasync", "timerlog"))
    await asyncio.sleep(3)
    assert running.timers.progress.failure
    assert (await running.put_one("b", delay_ms=8_000)).status is PutMessageStatus.SERVICE_NOT_AVAILABLE
    assert (await running.put_one("plain")).status is PutMessageStatus.PUT_OK
    await asyncio.sleep(10)
    assert sorted(await running.arrivals()) == ["plain"]
    await machine.stop()
    running = await machine.start()
    await asyncio.sleep(5)
    assert sorted(await running.arrivals()) == ["a", "plain"]
    await machine.stop()


@pytest.mark.virtual_time
async def test_a_store_that_refuses_for_a_while_gets_the_messages_later() -> None:
    """Differs from RocketMQ, which drops a timer after three tries in a second and a half."""
    machine = TimerMachine()
    running = await machine.start()
    await running.put(*[draft(f"{n}", delay_ms=2_000) for n in range(5)])
    await asyncio.sleep(1)
    tick: Any = running.store._putter._tick
    tick.refuse("the disk is full")
    await asyncio.sleep(20)
    assert await running.arrivals() == {}
    tick.accept("the disk is full")
    await asyncio.sleep(1)
    assert len(await running.arrivals()) == 5
    await machine.stop()


@pytest.mark.virtual_time
async def test_files_of_the_timer_log_go_with_the_messages_that_they_point_to() -> None:
    """A file goes when the commit log has deleted the last message that it knows; the newest stays."""
    machine = TimerMachine(mapped_file_size_commit_log=8_192, file_reserved_time=1)
    running = await machine.start()
    for n in range(120):
        await running.put_one(f"{n}", delay_ms=2_000)
        await asyncio.sleep(0.1)
    await asyncio.sleep(5)
    before = machine.disk.list_directory(f"{ROOT}/timerlog")
    old = machine.disk.list_directory(f"{ROOT}/commitlog")
    for name in old[:-2]:
        machine.disk.set_modified(f"{ROOT}/commitlog/{name}", EPOCH_MS - 90 * 3_600_000)
    # Retention works at four in the morning, by local time.
    running.kernel.store_config.delete_when = ";".join(f"{hour:02d}" for hour in range(24))
    await asyncio.sleep(120)
    assert len(machine.disk.list_directory(f"{ROOT}/commitlog")) < len(old)
    after = machine.disk.list_directory(f"{ROOT}/timerlog")
    print(f"{len(before)} files before, {len(after)} after")
    assert after
    assert after == before[-len(after) :]
    assert len(after) < len(before)
    await running.put_one("then", delay_ms=2_000)
    await asyncio.sleep(5)
    assert "then" in await running.arrivals()
    await machine.stop()
    running = await machine.start()
    assert running.timers.log.min_position > 0
    await machine.stop()
