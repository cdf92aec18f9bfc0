"""Restarts, crashes, full disks, damaged files, and clocks that jump while messages wait."""

from __future__ import annotations

import asyncio
import errno
import json
import zlib
from collections import Counter

import pytest

from labs.stage_04_recovery.recovery_lab import SYNC
from labs.stage_13_delay.delay_lab import (
    DelayMachine,
    delayed,
    delivered,
    level_of,
    offsets,
    stored,
    waiting,
)
from rocketmq_py.broker.schedule.delivery_marks import MARK_LAYOUT, SLOT_SIZE, DeliveryMarks
from rocketmq_py.common.errors import CorruptDataError
from rocketmq_py.common.topic import SCHEDULE_TOPIC
from rocketmq_py.sim.file_system import Fault
from rocketmq_py.store.put_result import PutMessageStatus
from rocketmq_py.store.tick import Tick
from rocketmq_py.testing.eventually import eventually

pytestmark = pytest.mark.virtual_time


# --- restarts -----------------------------------------------------------------------------------------------------------


@pytest.mark.claim("dly-06")
async def test_delays_survive_a_restart_and_nothing_comes_twice() -> None:
    """Claim: delays survive a restart of the broker.

    Experiment: put messages of 1 s, 1 m and 2 h; restart after 5 s, stay down for half an hour, restart again in between.
    Observe: each comes once: the first before the restart, the second as soon as the broker is back, the third to the
    second at its time, as if there had been no restart.
    """
    machine = DelayMachine()
    running = await machine.start()
    await running.put(delayed("a", 1), delayed("b", 5), delayed("c", 18))
    await asyncio.sleep(5)
    assert delivered(running) == ["a"]
    await machine.stop()
    await asyncio.sleep(1_800)
    running = await machine.start()
    await asyncio.sleep(0.01)
    assert delivered(running) == ["a", "b"], "it became due while the broker was down"
    await asyncio.sleep(60)
    running = await machine.restart()

    await asyncio.sleep(7_200)
    assert delivered(running) == ["a", "b", "c"]
    waited, came = (stored(running, topic)[-1] for topic in (SCHEDULE_TOPIC, "Orders"))
    assert 7_200_000 <= came.store_timestamp - waited.store_timestamp <= 7_200_002
    assert offsets(running) == {1: 1, 5: 1, 18: 1}
    await machine.stop()


async def test_the_file_is_what_java_writes_and_reads() -> None:
    """`delayOffset.json`: level to next offset with bare numbers, and the version; a level that waits is there too."""
    machine = DelayMachine(flush_delay_offset_interval=10_000)
    running = await machine.start()
    await running.put(*(delayed(f"m{number}", 1) for number in range(3)), delayed("later", 17))
    await asyncio.sleep(10.5)
    text = machine.disk.read_file(machine.delay_offset_path).decode()
    assert '"offsetTable":{1:3,17:0}' in text
    await machine.stop()
    assert set(json.loads(text.replace("1:3,17:0", '"1":3,"17":0'))) == {"dataVersion", "offsetTable"}


async def test_the_version_counts_every_two_hundred_deliveries() -> None:
    """Slaves and tools compare versions and need not see each delivery (`delayOffsetUpdateVersionStep`)."""
    machine = DelayMachine()
    running = await machine.start()
    await running.put(*(delayed(f"m{number}", 1) for number in range(450)))
    await asyncio.sleep(2)
    await machine.stop()
    text = machine.disk.read_file(machine.delay_offset_path).decode()
    assert '"counter":2' in text
    assert "{1:450}" in text


# --- crashes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_marks", [True, False], ids=["with marks", "without marks"])
async def test_a_killed_broker_delivers_hardly_anything_twice(has_marks: bool) -> None:
    """Claim: at least once. A killed process leaves its marks in the page cache, so only the last batch can come twice.

    Experiment: a message each second for 25 s, all of level 1; kill the process 5 s after a write of delayOffset.json.
    The same again, with the file of the marks removed before the next start.
    Observe: every message is there. With marks none came twice; without, those of the last 5 s did, as in RocketMQ.
    """
    machine = DelayMachine(flush_delay_offset_interval=10_000)
    running = await machine.start()
    for number in range(25):
        await running.put(delayed(f"m{number}", 1))
        await asyncio.sleep(1)
    before = delivered(running)
    await machine.kill()
    if not has_marks:
        machine.disk.unlink(machine.path("deliveryMarks"))

    running = await machine.start()
    await asyncio.sleep(10)
    counts = Counter(delivered(running))
    assert set(counts) == {f"m{number}" for number in range(25)}
    twice = sorted((body for body, count in counts.items() if count > 1), key=before.index)
    print(f"{len(twice)} of {len(counts)} messages were delivered twice: {twice}")
    if has_marks:
        assert twice == []
    else:
        assert twice == before[-len(twice) :]
        assert 0 < len(twice) <= 6
        assert max(counts.values()) == 2
    await machine.stop()


@pytest.mark.parametrize("mode", [{}, SYNC], ids=["asynchronous flush", "synchronous flush"])
@pytest.mark.parametrize("seed", range(6))
async def test_after_a_power_cut_no_delayed_message_is_missing(seed: int, mode: dict[str, object]) -> None:
    """Claim: the file of offsets is never ahead of what is on disk.

    Experiment: the file is written every 100 ms, the log is flushed every 900 ms; cut the power while messages are
    being delivered, three times; sectors that were not flushed survive by chance.
    Observe: whatever was flushed as waiting is delivered in the end. With a file that says more than the disk holds,
    messages are neither waiting nor delivered.
    """
    machine = DelayMachine(seed, flush_delay_offset_interval=100, flush_interval_commit_log=900, **mode)
    running = await machine.start()
    for round_ in range(3):
        names = [f"m{round_}-{number}" for number in range(40)]
        for name in names:
            await running.put(delayed(name, 1))
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)
        safe = {
            m.body.decode() for m in stored(running, SCHEDULE_TOPIC) if m.commit_log_offset < running.log.flushed_offset
        }
        # Somewhere among the deliveries.
        await asyncio.sleep(0.1 * (seed + 1))
        await machine.cut_power(keep=0.5)

        running = await machine.start()
        await asyncio.sleep(15)
        missing = safe - set(delivered(running))
        assert safe
        assert not missing, (
            f"{sorted(missing)} were on disk as delayed messages and are lost: their delivery was not flushed when "
            "delayOffset.json said that it was done"
        )
    await machine.stop()


async def test_a_broker_killed_between_a_put_and_its_mark_delivers_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Claim: a delivery counts when it is in the log and marked; the other order would lose messages.

    Experiment: let a batch of 20 be delivered, and kill the process before it could write anything about it.
    Observe: all 20 are there twice, with the same unique keys: a consumer can tell. After a stop in order nothing is
    repeated.
    """
    machine = DelayMachine()
    running = await machine.start()
    await running.put(*(delayed(f"m{number}", 1) for number in range(20)))
    with monkeypatch.context() as patch:
        patch.setattr(DeliveryMarks, "mark", lambda *_: None)
        await eventually(lambda: delivered(running), 5, step=0.001)
        await machine.kill()

    running = await machine.start()
    await asyncio.sleep(3)
    names = [f"m{number}" for number in range(20)]
    assert delivered(running) == names + names
    assert [message.unique_key for message in stored(running, "Orders")][20:] == [f"key-{name}" for name in names]
    running = await machine.restart()
    await asyncio.sleep(3)
    assert len(delivered(running)) == 40
    await machine.stop()


@pytest.mark.parametrize(
    "damage", ["none", "wrong record", "wrong time", "wrong crc", "too short", "no numbers", "no file"]
)
async def test_a_mark_that_the_log_does_not_confirm_does_not_count(damage: str) -> None:
    """Claim: a mark can only spare a repetition, never cost a message.

    Experiment: kill a broker with ten waiting messages, forge a mark that says that all were delivered.
    Observe: all ten are delivered. Only the mark that names a record of this log, with its time, is believed.
    """
    machine = DelayMachine()
    running = await machine.start()
    await running.put(*(delayed(f"m{number}", 2) for number in range(10)))
    (first, *_), stamp = waiting(running, 2), stored(running, SCHEDULE_TOPIC)[0].store_timestamp
    await machine.kill()
    place, when = (first[0] + (damage == "wrong record"), stamp + (damage == "wrong time"))
    body = MARK_LAYOUT.struct.pack(10, place, when, 0)[:-4]
    data = body + (zlib.crc32(body) + (damage == "wrong crc")).to_bytes(4, "big")
    path = machine.path("deliveryMarks")
    content = bytes(SLOT_SIZE) + data
    if damage == "no file":
        machine.disk.unlink(path)
    else:
        machine.disk.write_file(path, {"too short": content[:-1], "no numbers": b"garbage" * 50}.get(damage, content))
    running = await machine.start()
    await asyncio.sleep(6)
    assert delivered(running) == ([] if damage == "none" else [f"m{number}" for number in range(10)])
    await machine.stop()


async def test_a_disk_that_takes_no_marks_delivers_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    """Claim: the file of the marks spares repetitions; without it everything works as in RocketMQ."""
    machine = DelayMachine()
    machine.disk.faults.append(Fault("pwrite", "deliveryMarks", errno.EIO, -1))
    running = await machine.start()
    await running.put(delayed("a", 1))
    await asyncio.sleep(1.1)
    await running.put(delayed("b", 1))
    await asyncio.sleep(1.1)
    assert delivered(running) == ["a", "b"]
    assert caplog.text.count("deliveryMarks cannot be used") == 1
    await machine.stop()


async def test_the_queues_of_the_schedule_topic_are_made_again_with_their_times() -> None:
    """Claim: a consume queue holds nothing that the log does not hold, delivery times included.

    Experiment: let messages of two levels wait, throw all queues away, start again.
    Observe: the units are the same, so the messages come at their times.
    """
    machine = DelayMachine()
    running = await machine.start()
    await running.put(*(delayed(f"m{number}", 5 + number % 2) for number in range(30)))
    before = waiting(running, 5), waiting(running, 6)
    await machine.stop()
    for path in machine.snapshot("consumequeue"):
        machine.disk.unlink(path)

    running = await machine.start()
    assert (waiting(running, 5), waiting(running, 6)) == before
    await asyncio.sleep(59)
    assert delivered(running) == []
    await asyncio.sleep(62)
    assert len(delivered(running)) == 30
    await machine.stop()


# --- the file -----------------------------------------------------------------------------------------------------------


async def prepared_machine() -> DelayMachine:
    """Return a stopped machine with ten delivered messages, and two versions of the file that say so."""
    machine = DelayMachine()
    running = await machine.start()
    for number in range(10):
        await running.put(delayed(f"m{number}", 1))
        await asyncio.sleep(3)
    await asyncio.sleep(15)
    await running.put(delayed("last", 1))
    await asyncio.sleep(2)
    await machine.stop()
    assert machine.disk.exists(machine.delay_offset_path + ".bak")
    machine.disk.unlink(machine.path("deliveryMarks"))
    return machine


@pytest.mark.parametrize("damage", [b"", b"{\0\0\0", b'{"offsetTable":{1:-4}}', b'{"offsetTable":{0:4}}', b"[]"])
async def test_a_damaged_file_falls_back_to_the_version_before(damage: bytes) -> None:
    """Some messages come again, none is lost, and all levels do not begin anew."""
    machine = await prepared_machine()
    machine.disk.write_file(machine.delay_offset_path, damage)
    running = await machine.start()
    await asyncio.sleep(5)
    counts = Counter(delivered(running))
    assert counts["last"] == 2
    assert sum(counts.values()) <= 13
    await machine.stop()


async def test_two_damaged_files_stop_the_start() -> None:
    """Claim: a damaged table is never taken for an empty one: all messages of three days would be delivered again."""
    machine = await prepared_machine()
    for end in ("", ".bak"):
        machine.disk.write_file(machine.delay_offset_path + end, b"{\0\0")
    with pytest.raises(CorruptDataError, match=r"delayOffset\.json"):
        await machine.start()


async def test_a_file_that_is_ahead_or_behind_is_put_right() -> None:
    """An offset that the queue does not have is moved to its end or beginning; what comes next is delivered."""
    machine = await prepared_machine()
    machine.disk.write_file(machine.delay_offset_path, b'{"offsetTable":{1:5000}}')
    running = await machine.start()
    await asyncio.sleep(5)
    assert sum(Counter(delivered(running)).values()) == 11
    await running.put(delayed("new", 1))
    await asyncio.sleep(1.1)
    assert delivered(running)[-1] == "new"
    assert offsets(running) == {1: 12}
    await machine.stop()


# --- a table that was changed -------------------------------------------------------------------------------------------


async def test_a_shorter_delay_applies_to_what_waits_already() -> None:
    """Claim: a delivery time further away than the level's delay is not believed: the message is due, as in RocketMQ.

    Experiment: put a message of level 2 under `1s 2h`, restart with `1s 10s`.
    Observe: it comes at once. One that was put before by the short level comes at its time.
    """
    machine = DelayMachine(message_delay_level="1s 2h")
    running = await machine.start()
    await running.put(delayed("x", 2))
    await machine.stop()
    running = await machine.start(message_delay_level="1s 10s")
    await asyncio.sleep(0.01)
    assert delivered(running) == ["x"]
    await running.put(delayed("y", 2))
    await asyncio.sleep(9.99)
    assert delivered(running) == ["x"]
    await asyncio.sleep(0.02)
    assert delivered(running) == ["x", "y"]
    await machine.stop()


async def test_a_longer_delay_leaves_what_waits_at_its_time() -> None:
    machine = DelayMachine(message_delay_level="1s 10s")
    running = await machine.start()
    await running.put(delayed("x", 2))
    await machine.stop()
    running = await machine.start(message_delay_level="1s 2h")
    await asyncio.sleep(10.01)
    assert delivered(running) == ["x"]
    await machine.stop()


async def test_messages_of_a_level_that_is_gone_are_delivered() -> None:
    """Claim: every accepted message is delivered. Differs from RocketMQ, where those of a removed level stay for ever.

    Experiment: put a message of level 3 under `1s 5s 1h`, restart with one level.
    Observe: it comes: its time is further away than any delay of the new table.
    """
    machine = DelayMachine(message_delay_level="1s 5s 1h")
    running = await machine.start()
    await running.put(delayed("x", 3))
    await machine.stop()
    running = await machine.start(message_delay_level="1s")
    await asyncio.sleep(0.01)
    assert delivered(running) == ["x"]
    await machine.stop()


# --- when nothing can be stored -----------------------------------------------------------------------------------------


async def test_a_full_disk_delays_deliveries_and_loses_none() -> None:
    """Claim: a delivery that cannot be stored is tried again until it can; messages behind it do not overtake it.

    Experiment: messages become due while the store refuses writes; later it takes them again.
    Observe: none is delivered meanwhile, all come once and in order within 100 ms, and the offsets were not moved.
    """
    machine = DelayMachine()
    running = await machine.start()
    await running.put(*(delayed(f"m{number}", 1) for number in range(100)))
    tick = running.kernel.get(Tick)
    tick.refuse("the disk is 93 % full")
    await asyncio.sleep(30)
    assert delivered(running) == []
    assert offsets(running)[1] == 0
    tick.accept("the disk is 93 % full")
    await asyncio.sleep(0.2)
    assert delivered(running) == [f"m{number}" for number in range(100)]
    await machine.stop()


async def test_a_log_file_that_cannot_be_allocated_delays_deliveries() -> None:
    """The same with ENOSPC at the next log file, in the middle of a batch of large and small messages.

    Observe: a small message does not slip in where a large one before it found no room: it would come twice later.
    """
    machine = DelayMachine()
    running = await machine.start(mapped_file_size_commit_log=8_192)
    names = [f"m{number:02}" + "x" * (number * 37 % 5 * 150) for number in range(60)]
    await running.put(*(delayed(name, 1) for name in names))
    await asyncio.sleep(0.5)
    machine.disk.faults.append(Fault("allocate", "commitlog", errno.ENOSPC, -1))
    await asyncio.sleep(20)
    so_far = delivered(running)
    assert 0 < len(so_far) < 60, "the lab wants some to fit into the file and some not"
    assert so_far == names[: len(so_far)]
    machine.disk.faults.clear()
    await asyncio.sleep(1)
    assert delivered(running) == names
    await machine.stop()


async def test_a_log_that_failed_is_never_said_to_have_delivered() -> None:
    """Claim: after a failed sync nothing counts that was not on disk before.

    Experiment: synchronous flush; every sync fails from now on; messages become due; start again after the repair.
    Observe: the offsets on disk do not count deliveries that the failed log took; all messages come after the restart.
    """
    machine = DelayMachine(**SYNC, flush_delay_offset_interval=100)
    running = await machine.start()
    await running.put(*(delayed(f"m{number}", 1) for number in range(5)))
    machine.disk.faults.append(Fault("fdatasync", "commitlog", errno.EIO, -1))
    await asyncio.sleep(5)
    assert running.log.failure is not None
    await machine.stop()
    machine.disk.faults.clear()
    await machine.cut_power(keep=0.0)

    running = await machine.start()
    await asyncio.sleep(5)
    assert set(delivered(running)) == {f"m{number}" for number in range(5)}
    await machine.stop()


# --- messages that cannot be delivered ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [("REAL_TOPIC", "RMQ_SYS_TRANS_HALF_TOPIC"), ("REAL_TOPIC", SCHEDULE_TOPIC), ("REAL_TOPIC", ""), ("REAL_QID", "x"),
     ("REAL_QID", "-1"), ("REAL_QID", "")],
)  # fmt: skip
async def test_a_record_without_a_place_to_go_does_not_stop_its_level(
    name: str, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Claim: a record that says nowhere where it belongs is skipped, with its id in the log; the next one comes."""
    machine = DelayMachine()
    running = await machine.start()
    properties = {"DELAY": "1", "REAL_TOPIC": "Orders", "REAL_QID": "2", name: value}
    bad = delayed("bad", 0, topic=SCHEDULE_TOPIC, queue_id=0)
    bad.stored_properties = "".join(f"{key}\x01{text}\x02" for key, text in properties.items() if text).encode()
    bad.properties = {}
    await running.put(delayed("a", 1), bad, delayed("b", 1))
    await asyncio.sleep(1.1)
    assert delivered(running) == ["a", "b"]
    assert level_of(running, 1).skipped == 1
    assert "offset 1 of level 1 is not delivered" in caplog.text
    await machine.stop()


async def test_a_message_that_no_broker_takes_any_more_does_not_stop_its_level(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A smaller maxMessageSize makes a waiting message illegal for ever: it is skipped, and stays in the log."""
    machine = DelayMachine()
    running = await machine.start()
    await running.put(delayed("x" * 500, 1), delayed("b", 1))
    await machine.stop()
    running = await machine.start(max_message_size=400)
    await asyncio.sleep(1.1)
    assert delivered(running) == ["b"]
    assert "MESSAGE_ILLEGAL" in caplog.text
    assert offsets(running)[1] == 2
    await machine.stop()


async def test_a_damaged_record_is_skipped_and_those_around_it_come() -> None:
    """Claim: a record that is damaged on disk costs that message only."""
    machine = DelayMachine()
    running = await machine.start()
    await running.put(*(delayed(f"m{number}", 5) for number in range(5)))
    await asyncio.sleep(5)
    (_, _, _), (at, size, _), *_ = waiting(running, 5)
    await machine.stop()
    machine.disk.damage(machine.path("commitlog", "0" * 20), at + size // 2, b"\xff" * 8)
    running = await machine.start()
    await asyncio.sleep(70)
    assert level_of(running, 5).skipped == running.store.damaged_reads == 1
    assert await running.bodies("Orders") == ["m0", "m2", "m3", "m4"]
    await machine.stop()


# --- clocks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump_ms", [-3_600_000, 3_600_000])
async def test_a_clock_that_jumps_makes_no_message_early_or_late(jump_ms: int) -> None:
    """Claim: delays run on monotonic time between stored stamps.

    Experiment: put a message of 1 m; the wall clock is set by an hour; put another one.
    Observe: both come a minute after they were put. RocketMQ delivers both at once, or the second after an hour.
    """
    machine = DelayMachine()
    running = await machine.start()
    await running.put(delayed("a", 5))
    await asyncio.sleep(20)
    machine.clock.offset_ms += jump_ms
    await running.put(delayed("b", 5))
    await asyncio.sleep(39.99)
    assert delivered(running) == []
    await asyncio.sleep(0.02)
    assert delivered(running) == ["a"]
    await asyncio.sleep(19.96)
    assert delivered(running) == ["a"]
    await asyncio.sleep(0.05)
    assert delivered(running) == ["a", "b"]
    await machine.stop()


@pytest.mark.parametrize("step_ms", [-1, 1, 40, -40, 700, -700])
async def test_a_small_step_of_the_clock_is_not_taken_for_a_changed_table(step_ms: int) -> None:
    """Clocks are corrected by milliseconds all the time: no message may be due because of it."""
    machine = DelayMachine()
    running = await machine.start()
    machine.clock.offset_ms += step_ms
    await running.put(delayed("a", 5))
    machine.clock.offset_ms += step_ms
    await asyncio.sleep(59.9)
    assert delivered(running) == []
    await asyncio.sleep(0.2)
    assert delivered(running) == ["a"]
    await machine.stop()


async def test_a_clock_that_was_set_back_while_the_broker_was_down_makes_nothing_early() -> None:
    """The newest message tells that the clock had been further: what waits goes on waiting from there."""
    machine = DelayMachine()
    running = await machine.start()
    await running.put(delayed("a", 5))
    await asyncio.sleep(1)
    await machine.stop()
    machine.clock.offset_ms -= 3_600_000
    running = await machine.start()
    await asyncio.sleep(59.9)
    assert delivered(running) == [], "a clock that was set back must not make a message due"
    await asyncio.sleep(0.2)
    assert delivered(running) == ["a"]
    await running.put(delayed("b", 1))
    await asyncio.sleep(0.99)
    assert delivered(running) == ["a"]
    await asyncio.sleep(0.02)
    assert delivered(running) == ["a", "b"]
    await machine.stop()


# --- a great many at once -----------------------------------------------------------------------------------------------


async def test_a_great_many_due_messages_leave_the_loop_time_for_clients() -> None:
    """Claim: work in one turn of the loop is bounded, whatever is due at once.

    Experiment: 3,000 messages of three levels become due while the broker was down; put ordinary messages meanwhile.
    Observe: in no turn more than one batch of 32 is delivered; ordinary messages lie between the deliveries; each level
    keeps its order.
    """
    machine = DelayMachine()
    running = await machine.start()
    for level in (1, 2, 3):
        await running.put(*(delayed(f"{level}-{number}", level) for number in range(1_000)))
    await machine.stop()
    await asyncio.sleep(60)
    running = await machine.start()
    for number in range(40):
        before = len(delivered(running))
        await running.write([f"client {number}"], topic="Busy")
        assert len(delivered(running)) - before <= 2 * 32
    await asyncio.sleep(1)
    came = delivered(running)
    for level in (1, 2, 3):
        assert [body for body in came if body.startswith(f"{level}-")] == [f"{level}-{n}" for n in range(1_000)]
    first_batches = [body[0] for body in came[: 3 * 32 : 32]]
    assert sorted(first_batches) == ["1", "2", "3"], "levels take turns"
    assert {result.status for result in await running.write(["after"])} == {PutMessageStatus.PUT_OK}
    await machine.stop()
