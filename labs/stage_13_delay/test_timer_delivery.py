"""Timers: any delay, to the second; where a message waits meanwhile, and what it looks like when it comes."""

from __future__ import annotations

import asyncio

import pytest

from labs.stage_13_delay.timer_lab import TOPIC, TimerMachine, draft, first_full_second
from rocketmq_py.common.java import string_hash
from rocketmq_py.common.properties import decode_properties
from rocketmq_py.sim.environment import EPOCH_MS
from rocketmq_py.store.put_result import PutMessageStatus

HOUR = 3_600_000


@pytest.mark.claim("dly-05")
@pytest.mark.virtual_time
async def test_any_delay_in_milliseconds_comes_at_the_first_full_second_behind_it() -> None:
    """Claim: any delay in milliseconds (timer wheel, 5.x), beside the levels.

    Experiment: delays from 1 ms to 3 days, most of them no level of RocketMQ's; wait until all have come.
    Observe: each message comes at the first full second at or behind its time, none earlier, and is not seen before.
    """
    machine = TimerMachine()
    running = await machine.start()
    await asyncio.sleep(0.123)
    delays = [1, 999, 1_000, 1_234, 4_999, 5_000, 61_500, 7_777_777, 26 * HOUR + 5, 71 * HOUR, 72 * HOUR]
    put_at = machine.clock.wall_ms()
    for delay in delays:
        result = await running.put_one(str(delay), delay_ms=delay)
        assert result.status is PutMessageStatus.PUT_OK
    assert await running.messages() == []

    for delay in delays:
        due = first_full_second(put_at + delay)
        await machine.travel(due - 1)
        if machine.clock.wall_ms() < due:
            assert str(delay) not in await running.arrivals(), f"{delay} came too early"
        await asyncio.sleep(0.1)

    arrived = await running.arrivals()
    late = {delay: arrived[str(delay)] - first_full_second(put_at + delay) for delay in delays}
    print("milliseconds behind the full second:", late)
    assert max(late.values()) <= 20
    assert min(late.values()) >= 0
    await machine.stop()


@pytest.mark.claim("dly-02")
@pytest.mark.virtual_time
async def test_a_message_waits_in_the_timer_topic_and_comes_with_its_story() -> None:
    """Claim: when its time has come it is written again to its real topic and queue, and only then seen by consumers.

    Experiment: put a message with a delay of 3 s into queue 2; read both topics before and after.
    Observe: while it waits it is in queue 0 of the timer topic; what is delivered says where it was and how long.
    """
    machine = TimerMachine()
    running = await machine.start()
    await asyncio.sleep(0.25)
    await running.put_one("tea", delay_ms=3_000, properties={"KEYS": "kettle"}, reconsume_times=2)

    (waiting,) = await running.messages("rmq_sys_wheel_timer")
    assert waiting.queue_id == 0
    out = EPOCH_MS + 3_000
    assert waiting.properties == {
        "UNIQ_KEY": "key-tea",
        "TAGS": "lab",
        "KEYS": "kettle",
        "TIMER_DELAY_MS": "3000",
        "TIMER_OUT_MS": str(out),
        "REAL_TOPIC": TOPIC,
        "REAL_QID": "2",
    }
    await asyncio.sleep(5)

    (came,) = await running.messages()
    assert (came.queue_id, came.flag, came.reconsume_times, came.born_host) == (2, 7, 2, "10.1.2.3:9999")
    assert came.properties == {
        **waiting.properties,
        "TIMER_ENQUEUE_MS": str(EPOCH_MS),
        "TIMER_DEQUEUE_MS": str(came.store_timestamp),
    }
    unit = running.store.queues.find(TOPIC, 2).unit(0)
    assert unit[2] == string_hash("lab"), "the queue's unit carries the tag, so that consumers can filter"
    await machine.stop()


@pytest.mark.virtual_time
async def test_messages_of_one_second_come_in_the_order_in_which_they_were_sent() -> None:
    """A slot is a chain from the newest to the oldest unit; it is delivered from the other end."""
    machine = TimerMachine()
    running = await machine.start()
    at = EPOCH_MS + 60_500
    for number in range(0, 700, 7):
        await running.put(*[draft(f"{n:03d}", deliver_ms=at) for n in range(number, number + 7)])
        await asyncio.sleep(0.05)
    await asyncio.sleep(70)

    bodies = [message.body.decode() for message in await running.messages()]
    assert bodies == [f"{n:03d}" for n in range(700)]
    await machine.stop()


@pytest.mark.virtual_time
async def test_a_time_that_has_passed_is_no_time() -> None:
    """What is due already is stored in its topic at once, and remembers no timer."""
    machine = TimerMachine()
    running = await machine.start()
    for body, time in (("now", EPOCH_MS), ("past", 1), ("negative", -5)):
        await running.put_one(body, deliver_ms=time)
    await running.put_one("zero", delay_ms=0)

    came = await running.messages()
    assert [message.body.decode() for message in came] == ["now", "past", "negative", "zero"]
    assert not any("TIMER_OUT_MS" in message.properties for message in came)
    assert await running.messages("rmq_sys_wheel_timer") == []
    await machine.stop()


@pytest.mark.virtual_time
async def test_seconds_go_before_milliseconds_and_those_before_a_time() -> None:
    """Of several requests in one message the first counts: seconds, milliseconds, time."""
    machine = TimerMachine()
    running = await machine.start()
    both = {"TIMER_DELAY_SEC": "10"}
    await running.put_one("seconds", delay_ms=20_000, deliver_ms=EPOCH_MS + 30_000, properties=both)
    await running.put_one("milliseconds", delay_ms=20_000, deliver_ms=EPOCH_MS + 30_000)
    await running.put_one("time", deliver_ms=EPOCH_MS + 30_000)
    await asyncio.sleep(60)
    arrived = await running.arrivals()
    assert {body: round((time - EPOCH_MS) / 1000) for body, time in arrived.items()} == {
        "seconds": 10,
        "milliseconds": 20,
        "time": 30,
    }
    await machine.stop()


@pytest.mark.virtual_time
async def test_a_store_without_timers_gets_no_files_for_them() -> None:
    """Nobody pays for a wheel that does not turn: no file, no write, however long the broker runs."""
    machine = TimerMachine()
    running = await machine.start()
    await running.put_one("plain")
    await asyncio.sleep(600)
    await machine.stop()
    assert not [path for path in machine.disk.paths() if "timer" in path]


@pytest.mark.virtual_time
async def test_an_idle_broker_writes_nothing_for_timers_that_are_done() -> None:
    """The checkpoint follows the clock once a minute when nothing else happens, not every second."""
    machine = TimerMachine()
    running = await machine.start()
    await running.put_one("one", delay_ms=2_000)
    await asyncio.sleep(30)
    before = machine.disk.calls["fdatasync"]
    await asyncio.sleep(600)
    # Ten of the timers; the others belong to bookkeeping.
    checkpoints = machine.disk.calls["fdatasync"] - before
    print(f"{checkpoints} syncs in ten idle minutes")
    assert checkpoints < 60
    await machine.stop()


@pytest.mark.virtual_time
async def test_what_was_delivered_is_not_redirected_again() -> None:
    """The stored text still asks for a delay; TIMER_OUT_MS in it says that this was done."""
    machine = TimerMachine()
    running = await machine.start()
    await running.put_one("once", delay_ms=1_500)
    await asyncio.sleep(10)
    (came,) = await running.messages()
    assert came.properties["TIMER_DELAY_MS"] == "1500"
    again = draft("retried", properties=decode_properties(b"") | came.properties)
    await running.store.put_message(again)
    assert [message.body.decode() for message in await running.messages()] == ["once", "retried"]
    await machine.stop()
