"""What a broker makes of a send-back: the record of the next try, the refusals, and what wrong requests cost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labs.stage_14_retry.retry_lab import DELAYS
from labs.stage_14_retry.send_back_lab import DLQ, GROUP, PROPERTIES, RETRY, TOPIC, SendBackLab, send_back_lab
from rocketmq_py.broker.retry.verdict import next_level, one_more
from rocketmq_py.broker.statistics import BrokerStatsManager
from rocketmq_py.common import sys_flag as flags
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.java import I32_MAX, I32_MIN, I64_MAX, I64_MIN
from rocketmq_py.common.message_id import create_offset_id
from rocketmq_py.common.permission import READ
from rocketmq_py.common.properties import encode_properties
from rocketmq_py.common.topic import SCHEDULE_TOPIC, dlq_topic, retry_topic
from rocketmq_py.remoting.bodies.topic_config import TopicConfig
from rocketmq_py.remoting.codes import ResponseCode
from rocketmq_py.sim.environment import simulated_environment
from rocketmq_py.sim.loop import VirtualLoop
from rocketmq_py.store.draft import Draft
from rocketmq_py.store.message_store import MessageStore
from rocketmq_py.store.put_result import PutMessageResult, PutMessageStatus
from rocketmq_py.store.tick import Tick

pytestmark = pytest.mark.virtual_time


# --- the next try -------------------------------------------------------------------------------------------------------


async def test_the_next_try_is_the_same_message_with_a_note_of_what_happened(
    environment: Environment, tmp_path: Path
) -> None:
    """Claim: body, flag, born data and properties of a message stay through all its tries, its unique key included.

    Experiment: send a message back, wait until it lies in the retry topic, send that back, and so on to the end.
    Observe: every copy has what the first had; the count grows, and four properties say where it comes from.
    """
    async with send_back_lab(environment, tmp_path) as lab:
        offset = await lab.send(flag=77, sys_flag=flags.COMPRESSED)
        (first,) = lab.broker.stored(TOPIC)
        for tries, seconds in enumerate(DELAYS[:3], 1):
            assert (await lab.send_back(offset, maxReconsumeTimes=3)).code == ResponseCode.SUCCESS
            assert lab.waiting()[-1].properties["REAL_TOPIC"] == RETRY
            await asyncio.sleep(seconds + 0.1)
            copy = lab.broker.stored(RETRY)[-1]
            _is_same(first, copy)
            assert copy.reconsume_times == tries
            assert copy.properties["DELAY"] == str(2 + tries)
            offset = copy.commit_log_offset
        assert (await lab.send_back(offset, maxReconsumeTimes=3)).code == ResponseCode.SUCCESS
        (dead,) = lab.broker.stored(DLQ)
        _is_same(first, dead)
        assert (dead.reconsume_times, dead.properties["DELAY"]) == (4, "0")
        assert len(lab.broker.stored(RETRY)) == 3


def _is_same(first: Any, copy: Any) -> None:
    assert (copy.body, copy.flag, copy.sys_flag) == (first.body, first.flag, first.sys_flag)
    assert (copy.born_host, copy.born_timestamp) == (first.born_host, first.born_timestamp)
    assert first.properties.items() <= copy.properties.items()
    assert copy.properties["RETRY_TOPIC"] == TOPIC
    assert copy.properties["ORIGIN_MESSAGE_ID"] == first.msg_id
    assert copy.properties["WAIT"] == "false"


@pytest.mark.claim("rty-01")
async def test_all_sixteen_tries_pass_in_no_time(environment: Environment, tmp_path: Path) -> None:
    """Claim: it comes again after a delay that grows with each try (10 s to 2 h, 16 tries).

    Experiment: send a message back as soon as it is in the retry topic, until it comes no more; the clock is virtual.
    Observe: store times that are 10 s, 30 s ... 2 h apart, then a dead letter; four hours and a half in a moment.
    """
    async with send_back_lab(environment, tmp_path) as lab:
        # What the broker does every second has no part in this.
        await lab.broker.kernel.periodic.stop()
        store = lab.broker.kernel.get(MessageStore)
        began = time.perf_counter()
        offset, sent_at, pauses = await lab.send(), environment.clock.wall_ms(), []
        for number, seconds in enumerate(DELAYS):
            assert (await lab.send_back(offset)).code == ResponseCode.SUCCESS
            await asyncio.sleep(seconds - 0.1)
            assert store.max_offset(RETRY, 0) == number, "it came too early"
            await asyncio.sleep(0.2)
            assert store.max_offset(RETRY, 0) == number + 1, "it did not come in time"
            copy = lab.broker.stored(RETRY)[-1]
            pauses.append(copy.store_timestamp - sent_at)
            offset, sent_at = copy.commit_log_offset, environment.clock.wall_ms()
        await lab.send_back(offset)
        assert [dead.reconsume_times for dead in lab.broker.stored(DLQ)] == [17]
        print(f"{sum(DELAYS) / 3_600:.1f} hours took {(time.perf_counter() - began) * 1_000:.0f} ms")
    assert [round(pause / 1_000) for pause in pauses] == DELAYS


@pytest.mark.parametrize(
    ("level", "more", "waits"),
    [
        (0, {}, "3"),
        (5, {}, "5"),
        (99, {}, "18"),
        (I32_MAX, {}, "18"),
        (-1, {}, None),
        (I32_MIN, {}, None),
        (0, {"maxReconsumeTimes": 0}, None),
        (7, {"maxReconsumeTimes": 0}, None),
        (0, {"maxReconsumeTimes": -1}, None),
        (0, {"maxReconsumeTimes": 0, "version": 120}, "3"),
        (0, {"maxReconsumeTimes": 0, "version": 121}, None),
    ],
)
async def test_the_consumer_may_say_when_and_how_often(
    environment: Environment, tmp_path: Path, level: int, more: dict[str, int], waits: str | None
) -> None:
    """A level above 0 is taken, below 0 there is no next try; the limit of clients before 3.4.9 is not looked at."""
    async with send_back_lab(environment, tmp_path) as lab:
        assert (await lab.send_back(await lab.send(), level=level, **more)).code == ResponseCode.SUCCESS
        assert [message.properties["DELAY"] for message in lab.waiting()] == ([] if waits is None else [waits])
        assert len(lab.broker.stored(DLQ)) == (waits is None)


async def test_the_group_has_a_limit_of_its_own(environment: Environment, tmp_path: Path) -> None:
    async with send_back_lab(environment, tmp_path) as lab:
        lab.create_group(retry_max_times=0)
        await lab.send_back(await lab.send())
        assert len(lab.broker.stored(DLQ)) == 1
        assert lab.waiting() == []


def test_no_count_is_too_large_or_too_small() -> None:
    """Counts come from records, and records from whoever sends."""
    assert next_level(0, 16, 0) == 3
    assert next_level(15, 16, 0) == 18
    assert next_level(16, 16, 0) is None
    assert next_level(I32_MIN, 16, 0) == 1, "it does not come again at once, for ever"
    assert next_level(I32_MAX - 1, I32_MAX, 0) == I32_MAX
    assert one_more(I32_MAX) == I32_MAX


async def test_a_message_with_the_largest_count_becomes_a_dead_letter(environment: Environment, tmp_path: Path) -> None:
    async with send_back_lab(environment, tmp_path) as lab:
        offset = await lab.send(reconsume_times=I32_MAX)
        assert (await lab.send_back(offset)).code == ResponseCode.SUCCESS
        (dead,) = lab.broker.stored(DLQ)
        assert dead.reconsume_times == I32_MAX


async def test_a_dead_letter_of_another_group_is_dead_at_once(environment: Environment, tmp_path: Path) -> None:
    """Its count goes on; where it was sent at first stays what it was."""
    async with send_back_lab(environment, tmp_path) as lab:
        await lab.send_back(await lab.send(reconsume_times=16))
        (dead,) = lab.broker.stored(DLQ)
        await lab.send_back(dead.commit_log_offset, group="undertakers")
        (again,) = lab.broker.stored(dlq_topic("undertakers"))
        assert (again.reconsume_times, again.properties["RETRY_TOPIC"]) == (18, TOPIC)
        assert again.properties["ORIGIN_MESSAGE_ID"] == dead.properties["ORIGIN_MESSAGE_ID"]


async def test_a_property_that_no_client_could_write_is_copied_as_it_is(
    environment: Environment, tmp_path: Path
) -> None:
    """Raw clients store properties with a separator in the value, or with bytes that are no text."""
    async with send_back_lab(environment, tmp_path) as lab:
        raw = b"RETRY_TOPIC\x01a\x01b\x02odd\x01\xff\xfe\x02empty\x01\x02UNIQ_KEY\x01U\x02__CRC32#\x01123\x02"
        result = await lab.broker.kernel.get(MessageStore).put_message(Draft(TOPIC, 0, b"x", stored_properties=raw))
        assert (await lab.send_back(result.wrote_offset, level=-1)).code == ResponseCode.SUCCESS
        record = bytes(lab.broker.log_bytes()[result.wrote_offset :])
        assert record.count(b"RETRY_TOPIC\x01a\x01b\x02odd\x01\xff\xfe\x02empty\x01\x02UNIQ_KEY\x01U\x02") == 2
        assert record.count(b"__CRC32#") == 1, "the checksum of a record says nothing about the next one"


async def test_a_timer_does_not_keep_a_dead_letter(environment: Environment, tmp_path: Path) -> None:
    async with send_back_lab(environment, tmp_path) as lab:
        properties = encode_properties({"TIMER_DELIVER_MS": "9999999999999", "TIMER_OUT_MS": "1", "UNIQ_KEY": "U"})
        store = lab.broker.kernel.get(MessageStore)
        result = await store.put_message(Draft(TOPIC, 0, b"x", stored_properties=properties))
        await lab.send_back(result.wrote_offset, level=-1)
        (dead,) = lab.broker.stored(DLQ)
        assert dead.properties["TIMER_DELIVER_MS"] == "9999999999999"


# --- topics of the group ------------------------------------------------------------------------------------------------


async def test_the_topics_of_a_group_are_created_and_on_disk_before_the_answer(
    environment: Environment, tmp_path: Path
) -> None:
    """Claim: retry and dead-letter topic come into being when they are needed, readable and writable.

    Experiment: send back for a new group with 3 retry queues, then to the dead letters; read the file of topics each time.
    Observe: the answer comes after the file; existing topics are left as they are.
    """

    def on_disk() -> dict[str, Any]:
        found: dict[str, Any] = json.loads((tmp_path / "config/topics.json").read_bytes())["topicConfigTable"]
        return found

    async with send_back_lab(environment, tmp_path) as lab:
        lab.create_group(retry_queue_nums=3)
        offset = await lab.send()
        await lab.send_back(offset, unitMode=True)
        topic = on_disk()[RETRY]
        assert (topic["readQueueNums"], topic["writeQueueNums"], topic["perm"], topic["topicSysFlag"]) == (3, 3, 6, 2)
        assert DLQ not in on_disk()
        await lab.send_back(offset, level=-1)
        topic = on_disk()[DLQ]
        assert (topic["readQueueNums"], topic["writeQueueNums"], topic["perm"], topic["topicSysFlag"]) == (1, 1, 6, 0)
        version = lab.broker.topics.data_version.counter
        lab.create_group(retry_queue_nums=7)
        await lab.send_back(offset)
        assert lab.broker.topics.data_version.counter == version
        assert on_disk()[RETRY]["readQueueNums"] == 3


async def test_a_message_goes_to_a_queue_that_somebody_reads(environment: Environment, tmp_path: Path) -> None:
    """The group wants 50 queues since its topic was created with 2: RocketMQ would lose nearly every message."""
    async with send_back_lab(environment, tmp_path) as lab:
        lab.create_group(retry_queue_nums=2)
        offset = await lab.send()
        await lab.send_back(offset)
        lab.create_group(retry_queue_nums=50)
        for _ in range(30):
            await lab.send_back(offset)
        assert {message.properties["REAL_QID"] for message in lab.waiting()} == {"0", "1"}


async def test_a_group_without_retry_queues_drops_what_fails(environment: Environment, tmp_path: Path) -> None:
    async with send_back_lab(environment, tmp_path) as lab:
        lab.create_group(retry_queue_nums=0)
        offset = await lab.send()
        end = lab.broker.log.max_offset
        assert (await lab.send_back(offset)).code == ResponseCode.SUCCESS
        assert lab.broker.log.max_offset == end
        assert lab.broker.topics.select(RETRY) is None


@pytest.mark.parametrize("length", [122, 123, 200, 248])
async def test_groups_with_long_names_have_dead_letters_too(
    environment: Environment, tmp_path: Path, length: int
) -> None:
    """Of a group of more than 122 characters RocketMQ refuses every dead letter, and the message comes again for ever."""
    async with send_back_lab(environment, tmp_path) as lab:
        group = "g" * length
        offset = await lab.send()
        assert (await lab.send_back(offset, group)).code == ResponseCode.SUCCESS
        assert (await lab.send_back(offset, group, -1)).code == ResponseCode.SUCCESS
        await asyncio.sleep(11)
        assert len(lab.broker.stored(retry_topic(group))) == len(lab.broker.stored(dlq_topic(group))) == 1


async def test_send_backs_are_counted(environment: Environment, tmp_path: Path) -> None:
    async with send_back_lab(environment, tmp_path) as lab:
        offset = await lab.send(b"12345")
        for level in (0, 1, -1):
            await lab.send_back(offset, level=level)
        await lab.send_back(offset + 1)
        statistics = lab.broker.kernel.get(BrokerStatsManager)
        assert statistics.counted("SNDBCK_PUT_NUMS", f"{TOPIC}@{GROUP}").messages == 3
        assert statistics.counted("SNDBCK2DLQ_TIMES", f"{TOPIC}@{GROUP}").messages == 1
        assert statistics.topic_put(SCHEDULE_TOPIC).messages == 2


# --- refusals -----------------------------------------------------------------------------------------------------------


async def _refused(lab: SendBackLab, offset: int | str, code: int, remark: str, **more: Any) -> None:
    end = lab.broker.log.max_offset
    answer = await lab.send_back(offset, **more)
    assert (answer.code, answer.remark) == (code, remark)
    assert lab.broker.log.max_offset == end, "a refusal stores nothing"


async def test_an_offset_at_which_no_message_begins_is_refused(environment: Environment, tmp_path: Path) -> None:
    """Offsets come from anywhere: before, behind and between the records, and inside of one."""
    async with send_back_lab(environment, tmp_path) as lab:
        offset = await lab.send(bytes(range(1, 255)))
        wrong = {offset + step for step in range(1, 250)} | {-1, I64_MIN, I64_MAX, lab.broker.log.max_offset, 1 << 40}
        for number in sorted(wrong):
            await _refused(lab, number, ResponseCode.SYSTEM_ERROR, f"look message by offset failed, {number}")
        assert (await lab.send_back(offset)).code == ResponseCode.SUCCESS


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"offset": None}, "offset is missing"),
        ({"group": None}, "group is missing"),
        ({"delayLevel": None}, "delayLevel is missing"),
        ({"offset": "12_0"}, "offset"),
        ({"offset": str(1 << 63)}, "offset"),
        ({"delayLevel": "3.0"}, "delayLevel"),
        ({"delayLevel": str(1 << 31)}, "delayLevel"),
        ({"maxReconsumeTimes": "many"}, "maxReconsumeTimes"),
    ],
)
async def test_a_header_that_cannot_be_read_is_refused_by_the_name_of_the_field(
    environment: Environment, tmp_path: Path, fields: dict[str, str | None], words: str
) -> None:
    async with send_back_lab(environment, tmp_path) as lab:
        offset = await lab.send()
        end = lab.broker.log.max_offset
        header = {"offset": str(offset), "group": GROUP, "delayLevel": "0", **fields}
        answer = await lab.broker.request(36, {name: value for name, value in header.items() if value is not None})
        assert answer.code == ResponseCode.SYSTEM_ERROR
        assert words in (answer.remark or "")
        assert lab.broker.log.max_offset == end


async def test_a_group_that_may_not_be_created_is_refused(environment: Environment, tmp_path: Path) -> None:
    async with send_back_lab(environment, tmp_path, auto_create_subscription_group=False) as lab:
        offset = await lab.send()
        faq = "\nSee https://rocketmq.apache.org/docs/bestPractice/06FAQ for further details."
        for group in ("nobody", "", "bad name!", "g" * 256):
            remark = f"subscription group not exist, {group} {faq}"
            await _refused(lab, offset, ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST, remark, group=group)
        assert not any("nobody" in topic for topic in lab.broker.topics.topics)


async def test_permissions_are_looked_at_in_order(environment: Environment, tmp_path: Path) -> None:
    async with send_back_lab(environment, tmp_path) as lab:
        offset = await lab.send()
        lab.broker.topics.update([TopicConfig(topic_name=RETRY, read_queue_nums=1, write_queue_nums=1, perm=READ)])
        remark = f"the topic[{RETRY}] sending message is forbidden"
        await _refused(lab, offset, ResponseCode.NO_PERMISSION, remark)
        await _refused(lab, 77_777, ResponseCode.NO_PERMISSION, remark)
        lab.broker.kernel.config.broker_permission = READ
        await _refused(
            lab, offset, ResponseCode.NO_PERMISSION, "the broker[127.0.0.1] sending message is forbidden", group="new"
        )
        assert lab.broker.topics.select(retry_topic("new")) is None


async def test_a_slave_sends_its_clients_to_the_master(environment: Environment, tmp_path: Path) -> None:
    async with send_back_lab(environment, tmp_path) as lab:
        offset = await lab.send()
        lab.broker.kernel.config.broker_id = 1
        await _refused(lab, offset, ResponseCode.SYSTEM_ERROR, "no master available along with 127.0.0.1")


@pytest.mark.parametrize("kind", [flags.TRANSACTION_NOT, flags.TRANSACTION_PREPARED, flags.TRANSACTION_ROLLBACK])
async def test_half_of_a_transaction_is_nobodys_to_send_back(
    environment: Environment, tmp_path: Path, kind: int
) -> None:
    """Whoever guesses its offset must not get to see what may never be committed."""
    async with send_back_lab(environment, tmp_path) as lab:
        store = lab.broker.kernel.get(MessageStore)
        half = await store.put_message(Draft("RMQ_SYS_TRANS_HALF_TOPIC", 0, b"secret", sys_flag=kind, units=0))
        remark = f"look message by offset failed, {half.wrote_offset}"
        await _refused(lab, half.wrote_offset, ResponseCode.SYSTEM_ERROR, remark)


async def test_a_batch_in_one_record_is_refused(environment: Environment, tmp_path: Path) -> None:
    """As in RocketMQ: a retry topic has one offset for each record. The consumer keeps its messages."""
    async with send_back_lab(environment, tmp_path) as lab:
        store = lab.broker.kernel.get(MessageStore)
        inner = encode_properties({"INNER_NUM": "3", "INNER_BASE": "0"})
        batch = await store.put_message(Draft(TOPIC, 0, b"three", sys_flag=flags.INNER_BATCH, stored_properties=inner))
        await _refused(lab, batch.wrote_offset, ResponseCode.SYSTEM_ERROR, "MESSAGE_ILLEGAL")


async def test_properties_without_room_for_the_note_are_refused(environment: Environment, tmp_path: Path) -> None:
    async with send_back_lab(environment, tmp_path) as lab:
        offset = await lab.send(properties={**PROPERTIES, "long": "x" * 32_500})
        await _refused(lab, offset, ResponseCode.SYSTEM_ERROR, "PROPERTIES_SIZE_EXCEEDED")


async def test_a_store_that_takes_nothing_says_so_and_takes_it_later(environment: Environment, tmp_path: Path) -> None:
    async with send_back_lab(environment, tmp_path) as lab:
        offset = await lab.send()
        tick = lab.broker.kernel.get(Tick)
        tick.refuse("the disk is 97 % full")
        await _refused(lab, offset, ResponseCode.SYSTEM_ERROR, "SERVICE_NOT_AVAILABLE")
        await _refused(lab, offset, ResponseCode.SYSTEM_ERROR, "SERVICE_NOT_AVAILABLE", level=-1)
        tick.accept("the disk is 97 % full")
        assert (await lab.send_back(offset)).code == ResponseCode.SUCCESS


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (PutMessageStatus.FLUSH_DISK_TIMEOUT, ResponseCode.FLUSH_DISK_TIMEOUT),
        (PutMessageStatus.FLUSH_SLAVE_TIMEOUT, ResponseCode.FLUSH_SLAVE_TIMEOUT),
        (PutMessageStatus.SLAVE_NOT_AVAILABLE, ResponseCode.SLAVE_NOT_AVAILABLE),
        (PutMessageStatus.UNKNOWN_ERROR, ResponseCode.SYSTEM_ERROR),
    ],
)
async def test_a_message_that_may_not_be_safe_is_no_success(
    environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: PutMessageStatus, code: int
) -> None:
    """The consumer would forget it. The code says that it is stored all the same, where RocketMQ answers 1."""
    async with send_back_lab(environment, tmp_path) as lab:
        offset = await lab.send()

        async def put_message(draft: Draft) -> PutMessageResult:
            assert draft.wait, "with synchronous flush the answer waits for it"
            return PutMessageResult(status)

        monkeypatch.setattr(lab.broker.kernel.get(MessageStore), "put_message", put_message)
        answer = await lab.send_back(offset)
        assert (answer.code, answer.remark) == (code, status.name)
        assert lab.broker.kernel.get(BrokerStatsManager).counted("SNDBCK_PUT_NUMS", f"{TOPIC}@{GROUP}").messages == 0


NUMBERS = st.one_of(st.integers(I32_MIN, I32_MAX), st.sampled_from([0, -1, 1, 16, 17, I32_MAX]))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    requests=st.lists(
        st.fixed_dictionaries(
            {
                "offset": st.one_of(
                    st.integers(-5, 2_000).map(str), st.integers(I64_MIN, I64_MAX).map(str), st.text(max_size=5)
                ),
                "group": st.sampled_from([GROUP, "other", "", "%RETRY%x", "g" * 300, "a b"]),
                "delayLevel": NUMBERS.map(str),
                "maxReconsumeTimes": NUMBERS.map(str),
                "unitMode": st.sampled_from(["true", "false", "maybe"]),
            }
        ),
        max_size=12,
    )
)
def test_no_request_does_harm(requests: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Claim: every request is answered, and the log grows by one message for each success and by nothing else."""

    async def run() -> None:
        folder = tmp_path_factory.mktemp("broker")
        async with send_back_lab(simulated_environment(), folder) as lab:
            for number in range(4):
                await lab.send(f"message {number}".encode(), reconsume_times=number * 8)
            for request in requests:
                before = len(lab.broker.stored())
                answer = await lab.broker.request(36, request)
                assert len(lab.broker.stored()) - before == (answer.code == ResponseCode.SUCCESS)
                assert answer.code == ResponseCode.SUCCESS or answer.remark

    with contextlib.closing(VirtualLoop()) as loop:
        loop.run_until_complete(run())


async def test_offset_ids_of_this_broker_lead_to_its_messages(environment: Environment, tmp_path: Path) -> None:
    """ORIGIN_MESSAGE_ID can be looked up as long as the first copy is there."""
    async with send_back_lab(environment, tmp_path) as lab:
        offset = await lab.send()
        await lab.send_back(offset, level=-1)
        (dead,) = lab.broker.stored(DLQ)
        assert dead.properties["ORIGIN_MESSAGE_ID"] == create_offset_id(lab.broker.log.store_host, offset)
