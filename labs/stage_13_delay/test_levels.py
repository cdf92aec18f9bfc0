"""Delay levels under virtual time: where messages wait, when they come, and what they look like then."""

from __future__ import annotations

import asyncio

import pytest

from labs.stage_13_delay.delay_lab import (
    QUEUE,
    TOPIC,
    DelayMachine,
    bodies,
    delayed,
    delivered,
    level_of,
    offsets,
    stored,
    waiting,
)
from rocketmq_py.broker.schedule.delay_levels import DelayLevels
from rocketmq_py.common import sys_flag as flags
from rocketmq_py.common.errors import ConfigError
from rocketmq_py.common.topic import SCHEDULE_TOPIC, TRANS_HALF_TOPIC
from rocketmq_py.store.config import MessageStoreConfig
from rocketmq_py.store.put_result import PutMessageStatus

pytestmark = pytest.mark.virtual_time

DEFAULT = MessageStoreConfig().message_delay_level


@pytest.mark.claim("dly-01")
async def test_each_level_waits_in_a_queue_of_its_own_which_is_in_order_of_delivery() -> None:
    """Claim: a delayed message waits in SCHEDULE_TOPIC_XXXX, in queue level - 1, which is in order of delivery.

    Experiment: put messages of three levels and three topics, mixed, over some seconds.
    Observe: each level has its queue; the times in its units only grow, and are store time + delay; the real topic has
    nothing.
    """
    machine = DelayMachine()
    running = await machine.start()
    levels = DelayLevels.parse(DEFAULT)
    for number in range(12):
        await running.put(delayed(f"m{number}", (5, 9, 18)[number % 3], topic=f"Topic{number % 4}"))
        await asyncio.sleep(0.7)

    messages = stored(running, SCHEDULE_TOPIC)
    assert bodies(messages) == [f"m{number}" for number in range(12)]
    for level in (5, 9, 18):
        mine = [message for message in messages if message.delay_level == level]
        assert [message.queue_id for message in mine] == [level - 1] * 4
        due = [code for _, _, code in waiting(running, level)]
        assert due == [message.store_timestamp + levels.delay_ms(level) for message in mine], (
            "The units do not say when their messages are due. Does a dispatcher fill in the times before the queues are "
            "written?"
        )
        assert due == sorted(due)
    assert all(not delivered(running, f"Topic{number}") for number in range(4))
    await machine.stop()


@pytest.mark.parametrize("level", range(1, 19))
async def test_a_message_of_each_level_comes_after_its_delay_and_not_before(level: int) -> None:
    """Claim: level n waits as long as the n-th item says, 1 s to 2 h, to a few milliseconds.

    Experiment: put one message; look a millisecond before its time, and a moment after it.
    Observe: nothing, then the message; two hours pass in milliseconds.
    """
    delay = DelayLevels.parse(DEFAULT).delay_ms(level) / 1_000
    machine = DelayMachine()
    running = await machine.start()
    await running.put(delayed("x", level))

    await asyncio.sleep(delay - 0.001)
    assert delivered(running) == [], "it came before its time"
    await asyncio.sleep(0.006)
    assert delivered(running) == ["x"], "it is due and has not come: what wakes the level?"
    (message,) = stored(running, TOPIC)
    (waited,) = stored(running, SCHEDULE_TOPIC)
    assert 0 <= message.store_timestamp - waited.store_timestamp - delay * 1_000 <= 2
    await machine.stop()


async def test_a_delivered_message_is_the_one_that_was_sent() -> None:
    """Claim: delivery puts the same message into the real topic and queue; consumers see that it was delayed.

    Experiment: put a message with all its fields, let it be delivered.
    Observe: body, flag, born data, retries and the text of the properties are those of the record that waited; the unit
    has the hash of the tag; DELAY, REAL_TOPIC and REAL_QID are still there, and it is not delayed again.
    """
    machine = DelayMachine()
    running = await machine.start()
    await running.put(delayed("x", 2, mine="ü"))
    await asyncio.sleep(60)

    (waited,) = stored(running, SCHEDULE_TOPIC)
    (message,) = stored(running, TOPIC)
    assert message.properties == waited.properties
    assert message.properties == {
        "TAGS": "paid", "DELAY": "2", "UNIQ_KEY": "key-x", "mine": "ü", "REAL_TOPIC": TOPIC, "REAL_QID": str(QUEUE)
    }  # fmt: skip
    for name in ("body", "flag", "sys_flag", "born_timestamp", "born_host", "reconsume_times", "body_crc"):
        assert getattr(message, name) == getattr(waited, name), name
    assert message.queue_id == QUEUE
    queue = running.store.queues.find(TOPIC, QUEUE)
    assert queue is not None
    unit = queue.unit(0)
    assert unit is not None
    assert unit[2] == 3433164, "the unit of the real queue must hold the Java hash of 'paid'"
    assert offsets(running)[2] == 1
    await machine.stop()


@pytest.mark.claim("dly-04")
async def test_the_levels_are_a_setting_of_the_broker_and_past_the_last_is_the_last() -> None:
    """Claim: messageDelayLevel is a property of the broker, not of a topic; a level past the last is taken as the last.

    Experiment: a broker with the levels `3s 1m`; put level 1, 2, 3 and 99 to two topics.
    Observe: the first comes after 3 s, the others after a minute; 3 and 99 are stored as level 2.
    """
    machine = DelayMachine(message_delay_level="3s 1m")
    running = await machine.start()
    await running.put(delayed("a", 1), delayed("b", 2, topic="Other"), delayed("c", 3), delayed("d", 99, topic="Other"))

    await asyncio.sleep(3.01)
    assert (delivered(running), delivered(running, "Other")) == (["a"], [])
    await asyncio.sleep(56.9)
    assert (delivered(running), delivered(running, "Other")) == (["a"], [])
    await asyncio.sleep(0.2)
    assert (delivered(running), delivered(running, "Other")) == (["a", "c"], ["b", "d"])
    assert [(m.queue_id, m.delay_level) for m in stored(running, SCHEDULE_TOPIC)] == [(0, 1), (1, 2), (1, 2), (1, 2)]
    await machine.stop()


@pytest.mark.parametrize("level", ["0", "-1", "-2147483648"])
async def test_a_level_that_is_not_above_zero_is_no_delay(level: str) -> None:
    machine = DelayMachine()
    running = await machine.start()
    await running.put(delayed("x", level))
    assert delivered(running) == ["x"]
    assert stored(running, SCHEDULE_TOPIC) == []
    await machine.stop()


@pytest.mark.parametrize("level", ["soon", "1.5", "2147483648", "1 ", "٣"])
async def test_a_level_that_is_no_number_is_refused(level: str) -> None:
    """Not stored at once, which would be early, and not stored to be delivered never."""
    machine = DelayMachine()
    running = await machine.start()
    (result,) = await running.put(delayed("x", level))
    assert result.status is PutMessageStatus.MESSAGE_ILLEGAL
    assert stored(running, TOPIC) == stored(running, SCHEDULE_TOPIC) == []
    await machine.stop()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "0 levels"),
        ("1s 5x", "level 2 is '5x'"),
        ("10", "level 1 is '10'"),
        ("1s -5m", "level 2 is '-5m'"),
        ("1s 0s", "level 2 is '0s'"),
        ("1s,5s", "level 1 is '1s,5s'"),
        ("٣s", "level 1"),
        ("1S", "level 1 is '1S'"),
        (" ".join(["1s"] * 1_001), "1001 levels"),
    ],
)
async def test_a_bad_table_of_levels_stops_the_start_and_names_the_level(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        DelayMachine(message_delay_level=text).build()


def test_the_table_has_seconds_minutes_hours_and_days() -> None:
    levels = DelayLevels.parse("7s 2m 3h 1d")
    assert [levels.delay_ms(level) for level in levels] == [7_000, 120_000, 10_800_000, 86_400_000]
    assert (levels.max_level, levels.clamp(5), levels.delay_ms(99)) == (4, 4, 86_400_000)
    assert levels.delay_ms(0) == 1_000, "what is in no table waits a second, as in RocketMQ"


async def test_prepared_and_rolled_back_messages_are_never_delayed() -> None:
    """Claim: a half message waits for its decision; the committed one waits for its level.

    Experiment: put records of the four transaction types, and one to the half topic, each with DELAY=3.
    Observe: only the first two, none and commit, go to the schedule topic.
    """
    machine = DelayMachine()
    running = await machine.start()
    kinds = (
        flags.TRANSACTION_NOT, flags.TRANSACTION_COMMIT, flags.TRANSACTION_PREPARED, flags.TRANSACTION_ROLLBACK
    )  # fmt: skip
    for kind in kinds:
        draft = delayed(f"kind {kind}", 3)
        draft.sys_flag = kind
        draft.units = 0 if kind in (flags.TRANSACTION_PREPARED, flags.TRANSACTION_ROLLBACK) else 1
        await running.put(draft)
    await running.put(delayed("half", 3, topic=TRANS_HALF_TOPIC, queue_id=0))

    assert bodies(stored(running, SCHEDULE_TOPIC)) == ["kind 0", "kind 8"]
    assert delivered(running) == ["kind 4", "kind 12"]
    assert delivered(running, TRANS_HALF_TOPIC) == ["half"]
    await asyncio.sleep(11)
    assert delivered(running) == ["kind 4", "kind 12", "kind 0", "kind 8"]
    await machine.stop()


async def test_a_level_wins_over_a_time() -> None:
    """The three properties of timers are gone from a message that has a level too, as in RocketMQ."""
    machine = DelayMachine()
    running = await machine.start()
    await running.put(delayed("x", 1, TIMER_DELAY_SEC="9", TIMER_DELAY_MS="9", TIMER_DELIVER_MS="9", TIMER_OUT="9"))
    (waited,) = stored(running, SCHEDULE_TOPIC)
    assert set(waited.properties) == {"TAGS", "DELAY", "UNIQ_KEY", "TIMER_OUT", "REAL_TOPIC", "REAL_QID"}
    await machine.stop()


async def test_properties_that_grow_too_long_are_refused_and_nothing_is_stored() -> None:
    """REAL_TOPIC and REAL_QID need room: without it the message is refused, as a record cannot say the length."""
    machine = DelayMachine()
    running = await machine.start()
    draft = delayed("x", 1)
    draft.stored_properties += b"long\x01" + b"x" * (32_767 - len(draft.stored_properties) - 6) + b"\x02"
    assert len(draft.stored_properties) == 32_767
    (result,) = await running.put(draft)
    assert result.status is PutMessageStatus.PROPERTIES_SIZE_EXCEEDED
    assert running.log.max_offset == 0
    assert draft.topic == TOPIC
    await machine.stop()


async def test_what_a_client_says_about_the_real_place_is_replaced() -> None:
    """A message that was delayed before, or forged, names another real topic; only this delay's counts."""
    machine = DelayMachine()
    running = await machine.start()
    await running.put(delayed("x", 1, REAL_TOPIC="RMQ_SYS_TRANS_HALF_TOPIC", REAL_QID="-77"))
    await asyncio.sleep(1.1)
    assert delivered(running) == ["x"]
    text = stored(running, TOPIC)[0].properties
    assert (text["REAL_TOPIC"], text["REAL_QID"]) == (TOPIC, str(QUEUE))
    await machine.stop()


async def test_nothing_happens_while_nothing_is_due() -> None:
    """Claim: a level waits for an arrival or for its time; it does not look ten times a second.

    Experiment: one message of two hours, and an hour without anything else.
    Observe: the level looked once at its queue; RocketMQ would have looked 36,000 times.
    """
    machine = DelayMachine()
    running = await machine.start()
    level = level_of(running, 18)
    looks = []
    original = level.count_due

    def count_due(units: bytes) -> tuple[int, int]:
        looks.append(units)
        return original(units)

    level.count_due = count_due  # type: ignore[method-assign]
    await running.put(delayed("x", 18))
    await asyncio.sleep(3_600)
    assert len(looks) == 1
    await running.put(*(delayed(f"y{number}", 18) for number in range(5)))
    await asyncio.sleep(1_800)
    assert len(looks) == 1, "what arrives behind the first message is due later: no need to look"
    await asyncio.sleep(5_401)
    assert delivered(running) == ["x", "y0", "y1", "y2", "y3", "y4"]
    await machine.stop()
