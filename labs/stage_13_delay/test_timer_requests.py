"""What clients and operators see of timers: refusals, recall, flow control, numbers."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from labs.stage_07_send.send_lab import Broker, running_broker
from labs.stage_13_delay.timer_lab import TOPIC, TimerMachine, deletion, draft
from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.runtime_info import RuntimeInfo
from rocketmq_py.broker.statistics import BrokerStatsManager
from rocketmq_py.client.errors import BrokerResponseError
from rocketmq_py.client.producer import Producer
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.message import Message
from rocketmq_py.common.properties import encode_properties
from rocketmq_py.common.recall_handle import RecallMessageHandle
from rocketmq_py.common.sys_flag import TRANSACTION_COMMIT, TRANSACTION_PREPARED
from rocketmq_py.remoting.codes import RequestCode
from rocketmq_py.sim.environment import EPOCH_MS
from rocketmq_py.store.config import BrokerRole, MessageStoreConfig
from rocketmq_py.store.timer.timer_checkpoint import TimerCheckpoint
from rocketmq_py.store.timer.timer_hook import TimerHook, is_rejected
from rocketmq_py.store.timer.timer_message_store import TimerMessageStore
from rocketmq_py.testing.cluster import SMALL_STORE, Cluster

HOUR = 3_600_000
CLIENT_KEY = "7F00000100002A9F0000000000000001"


@asynccontextmanager
async def broker(environment: Environment, folder: Path, **settings: Any) -> AsyncIterator[Broker]:
    settings = {"mapped_file_size_timer_log": 5_200, **settings}
    async with running_broker(environment, folder, through="delay", **settings) as running:
        running.create_topic(TOPIC)
        yield running


async def send(running: Broker, body: bytes = b"hello", **properties: str) -> Any:
    return await running.send(TOPIC, body, {"UNIQ_KEY": CLIENT_KEY, "TAGS": "t", **properties})


# --- sends ------------------------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_what_a_send_with_a_time_is_answered(tmp_path: Path, environment: Environment) -> None:
    """The queue that was asked for, the offset in the timer topic, and a recall handle for a moment that rounds down."""
    async with broker(environment, tmp_path) as running:
        response = await send(running, TIMER_DELIVER_MS=str(EPOCH_MS + 60_505))
        assert (response.code, response.ext_fields["queueId"], response.ext_fields["queueOffset"]) == (0, "1", "0")
        handle = RecallMessageHandle.decode(response.ext_fields["recallHandle"])
        assert handle == RecallMessageHandle(TOPIC, "broker-a", str(EPOCH_MS + 60_001), CLIENT_KEY)
        assert "recallHandle" not in (await send(running)).ext_fields
        assert "recallHandle" not in (await send(running, TIMER_DELIVER_MS="77")).ext_fields


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    ("name", "value", "code", "remark"),
    [
        ("TIMER_DELAY_SEC", "259201", 13, "not be bigger than the max delay 259200000ms"),
        ("TIMER_DELAY_MS", str(72 * HOUR + 1), 13, "timer message illegal"),
        ("TIMER_DELIVER_MS", str((1 << 63) - 1), 13, "timer message illegal"),
        ("TIMER_DELAY_SEC", str((1 << 63) - 1), 13, "timer message illegal"),
        ("TIMER_DELIVER_MS", str(1 << 63), 13, "timer message illegal"),
        ("TIMER_DELAY_MS", "soon", 13, "timer message illegal"),
        ("TIMER_DELAY_MS", "1_000", 13, "timer message illegal"),
        ("TIMER_DEL_UNIQKEY", f"{TOPIC}+x\x02TIMER_DELIVER_MS\x01{EPOCH_MS - 1}", 13, "if set del msg, the delay time"),
        ("TIMER_DELAY_SEC", "259200", 0, None),
        ("TIMER_DELAY_MS", "-9223372036854775808", 0, None),
    ],
)  # fmt: skip
async def test_impossible_times_are_refused_in_rocketmqs_words(
    tmp_path: Path, environment: Environment, name: str, value: str, code: int, remark: str | None
) -> None:
    """Too far away, no number, or a deletion of what is due already: nothing is stored."""
    async with broker(environment, tmp_path) as running:
        text = f"UNIQ_KEY\x01{CLIENT_KEY}\x02{name}\x01{value}\x02".encode()
        response = await running.send(TOPIC, b"x", text)  # type: ignore[arg-type]
        assert response.code == code, response.remark
        assert remark is None or remark in (response.remark or "")
        assert len(running.stored()) == (code == 0)


@pytest.mark.virtual_time
async def test_timers_can_be_switched_off(tmp_path: Path, environment: Environment) -> None:
    """Then a message that asks for one is refused, not delivered at once; and there are no files, topic or numbers."""
    async with broker(environment, tmp_path, timer_wheel_enable=False) as running:
        response = await send(running, TIMER_DELAY_MS="1000")
        assert (response.code, response.remark) == (
            1,
            "accurate timer message is not enabled, timerWheelEnable is false",
        )
        assert (await send(running)).code == 0
        assert running.topics.select("rmq_sys_wheel_timer") is None
        check = await running.request(RequestCode.GET_TIMER_CHECK_POINT, {})
        assert (check.code, check.remark) == (1, "The checkpoint is null")
        metrics = await running.request(RequestCode.GET_TIMER_METRICS, {})
        assert (metrics.code, metrics.remark) == (1, "The timer message store is null")
    assert not [path for path in environment.files.list_directory(str(tmp_path)) if path.startswith("timer")]


@pytest.mark.virtual_time
async def test_a_client_cannot_put_a_message_into_the_timer_topic(tmp_path: Path, environment: Environment) -> None:
    """Apache accepts it, and takes no timer in any more until it is told to skip it. Here it is refused."""
    async with broker(environment, tmp_path) as running:
        for hot in ({}, {"KEYS": "k"}):
            response = await running.send("rmq_sys_wheel_timer", b"x", {"UNIQ_KEY": CLIENT_KEY, **hot}, queue_id=0)
            assert response.code == 16
            assert response.remark == "Sending message to topic[rmq_sys_wheel_timer] is forbidden."
        assert running.stored() == []
        response = await running.send_batch("rmq_sys_wheel_timer", [Message("rmq_sys_wheel_timer", b"x")], queue_id=0)
        assert response.code == 16
        assert (await send(running, TIMER_DELAY_MS="1500")).code == 0
        await asyncio.sleep(4)
        assert len(running.stored(TOPIC)) == 1


@pytest.mark.virtual_time
async def test_properties_that_leave_no_room_for_the_delivery_are_refused(
    tmp_path: Path, environment: Environment
) -> None:
    """A record holds 32,767 bytes of properties, and the wheel adds to them. What could not come back is not taken."""
    async with broker(environment, tmp_path) as running:
        codes = [
            (await send(running, TIMER_DELAY_MS="1500", filler="x" * length)).code
            for length in range(32_200, 32_720, 8)
        ]
        taken = codes.count(0)
        assert codes == [0] * taken + [13] * (len(codes) - taken)
        assert 10 < taken < len(codes) - 10
        await asyncio.sleep(4)
        came = running.stored(TOPIC)
        assert len(came) == taken
        assert all("TIMER_DEQUEUE_MS" in message.properties for message in came)


@pytest.mark.claim("dly-03")
@pytest.mark.virtual_time
async def test_a_timer_message_is_counted_when_it_is_put_and_when_it_is_delivered(
    tmp_path: Path, environment: Environment
) -> None:
    """Claim: it is counted twice in send statistics (first write and delivery).

    Experiment: send three messages with a delay; look at the counters before and after they are delivered.
    Observe: three puts to the timer topic first, then three to the real topic.
    """
    async with broker(environment, tmp_path) as running:
        statistics = running.kernel.get(BrokerStatsManager)
        for _ in range(3):
            await send(running, TIMER_DELAY_MS="2000")
        puts = [statistics.topic_put(topic).messages for topic in ("rmq_sys_wheel_timer", TOPIC)]
        assert puts == [3, 0]
        await asyncio.sleep(5)
        puts = [statistics.topic_put(topic).messages for topic in ("rmq_sys_wheel_timer", TOPIC)]
        assert puts == [3, 3]


@pytest.mark.virtual_time
async def test_hot_and_ordinary_path_agree_about_timers(tmp_path: Path, environment: Environment) -> None:
    """A message with a time never takes the path on which no hook runs."""
    for hot in (True, False):
        async with broker(environment, tmp_path / str(hot), hot=hot) as running:
            for name in ("TIMER_DELAY_SEC", "TIMER_DELAY_MS"):
                assert (await send(running, **{name: "5"})).code == 0
            assert [message.topic for message in running.stored()] == ["rmq_sys_wheel_timer"] * 2


# --- the hook's rules -------------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_half_messages_wait_for_their_commit_first(environment: Environment) -> None:
    """A prepared message is left alone; the committed one is delayed from then on."""
    hook = TimerHook(MessageStoreConfig(), environment)
    half = draft("half", delay_ms=5_000, sys_flag=TRANSACTION_PREPARED)
    assert hook.apply(half) is None
    assert half.topic == TOPIC
    committed = draft("half", delay_ms=5_000, sys_flag=TRANSACTION_COMMIT)
    assert hook.apply(committed) is None
    assert committed.topic == "rmq_sys_wheel_timer"


@pytest.mark.virtual_time
async def test_a_level_wins_over_a_time(environment: Environment) -> None:
    """With both the message goes the way of the levels, and nothing in it reminds of the timer."""
    hook = TimerHook(MessageStoreConfig(), environment)
    both = draft("both", delay_ms=5_000, deliver_ms=EPOCH_MS + 9_000, properties={"DELAY": "3"})
    assert hook.apply(both) is None
    assert both.topic == TOPIC
    assert both.properties == {"UNIQ_KEY": "key-both", "TAGS": "lab", "DELAY": "3"}
    assert both.stored_properties == encode_properties(both.properties)
    none = draft("none", delay_ms=5_000, properties={"DELAY": "0"})
    hook.apply(none)
    assert none.topic == "rmq_sys_wheel_timer"


def test_flow_control_is_as_odd_as_rocketmqs() -> None:
    """Up to the limit all are taken, from twice the limit none; between, as coded, the chance to be refused falls."""
    rng = random.Random(1)

    def refused(num: int) -> float:
        return sum(is_rejected(num, 100, rng) for _ in range(2_000)) / 2_000

    assert refused(100) == 0
    assert refused(200) == refused(999) == 1
    assert refused(101) > 0.9
    assert 0.4 < refused(150) < 0.6
    assert refused(199) < 0.1


@pytest.mark.virtual_time
async def test_a_second_that_is_full_takes_no_more(tmp_path: Path, environment: Environment) -> None:
    """`timerCongestNumEachSlot` limits what may be due in one second; other seconds are not concerned."""
    async with broker(environment, tmp_path, timer_congest_num_each_slot=2) as running:
        at = str(EPOCH_MS + 60_500)
        codes = []
        for _ in range(12):
            response = await send(running, TIMER_DELIVER_MS=at)
            codes.append((response.code, response.remark))
            await asyncio.sleep(0.2)
        assert codes[:3] == [(0, None)] * 3
        assert codes[-1] == (
            1,
            "timer message is under flow control, max num limit is 4 or the current value is greater than 2 "
            "and less than 4, trigger random flow control",
        )
        assert (await send(running, TIMER_DELIVER_MS=str(EPOCH_MS + 62_500))).code == 0


# --- deletion and recall ----------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_a_deletion_meets_its_message_in_their_second() -> None:
    """By topic and unique key, and only in the same second; the counts come out right in every case."""
    machine = TimerMachine()
    running = await machine.start()
    at = EPOCH_MS + 30_500
    await running.put(*[draft(body, deliver_ms=at) for body in ("gone", "kept", "other second", "old form")])
    await running.put_one("gone", topic="OtherTopic", deliver_ms=at)
    old = draft("no old form", deliver_ms=at, properties={"TIMER_DEL_UNIQKEY": "key-old form"})
    await running.put(deletion("gone", at), deletion("other second", at + 1_000), deletion("never was", at), old)
    await asyncio.sleep(1)
    assert running.timers.metrics.count(TOPIC) == 0
    await asyncio.sleep(40)
    assert sorted(await running.arrivals()) == ["kept", "other second"]
    assert sorted(await running.arrivals("OtherTopic")) == ["gone"]
    assert {topic: metric.count for topic, metric in running.timers.metrics.counts.items()} == {
        TOPIC: 0,
        "OtherTopic": 0,
    }
    await machine.stop()


@pytest.mark.virtual_time
async def test_a_deletion_beyond_the_window_is_rolled_on_beside_its_message() -> None:
    """Both go round the wheel, however often, and meet in the end."""
    machine = TimerMachine(timer_roll_window_slot=10)
    running = await machine.start()
    at = EPOCH_MS + 90_500
    await running.put_one("gone", deliver_ms=at)
    await asyncio.sleep(7)
    await running.put(deletion("gone", at), draft("kept", deliver_ms=at))
    await asyncio.sleep(100)
    assert sorted(await running.arrivals()) == ["kept"]
    assert running.timers.metrics.count(TOPIC) == 0
    await machine.stop()


@pytest.mark.virtual_time
async def test_a_producer_takes_a_message_back(tmp_path: Path, environment: Environment) -> None:
    """Of two messages for one second the one that was recalled is not delivered."""
    config = BrokerConfig(recall_message_enable=True)
    store_config = replace(SMALL_STORE, mapped_file_size_timer_log=5_200)
    async with (
        Cluster(tmp_path, environment=environment, config=config, store_config=store_config) as cluster,
        Producer("shop", namesrv_addr=cluster.namesrv_addr, environment=environment) as producer,
    ):
        timers = cluster.kernels[0].get(TimerMessageStore)
        await producer.send(Message.of("Orders", b"first"))
        results = []
        for body in (b"recalled", b"kept"):
            message = Message.of("Orders", body)
            message.delay_time_ms = 10_000
            results.append(await producer.send(message))
        assert results[0].recall_handle is not None
        assert await producer.recall_message("Orders", results[0].recall_handle) == results[0].msg_id
        await asyncio.sleep(15)
        assert timers.dequeue.deleted == 1
        assert timers.delivery.delivered == 1

        with pytest.raises(InvalidInputError, match="recall handle is invalid"):
            await producer.recall_message("Orders", "bm8gaGFuZGxl")
        with pytest.raises(InvalidInputError, match="retry and dead-letter topics"):
            await producer.recall_message("%RETRY%shop", results[0].recall_handle)
        with pytest.raises(BrokerResponseError, match="timestamp invalid"):
            await producer.recall_message("Orders", results[0].recall_handle)


#: Settings of a broker that takes no messages, and no recalls either.
CLOSED = {"broker_permission": 4, "allow_recall_when_broker_not_writeable": False}


def handle(**changes: str) -> str:
    words = {"topic": TOPIC, "broker_name": "broker-a", "timestamp": str(EPOCH_MS + 60_001), "message_id": CLIENT_KEY}
    return RecallMessageHandle(**{**words, **changes}).encode()


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    ("settings", "fields", "code", "remark"),
    [
        ({"recall_message_enable": False}, {}, 16, "recall failed, operation is forbidden"),
        ({"broker_role": BrokerRole.SLAVE}, {}, 11, "recall failed, broker service not available"),
        ({"start_accept_send_request_time_stamp": EPOCH_MS + HOUR}, {}, 14, "recall failed, broker service not available"),
        (CLOSED, {}, 14, "recall failed, broker service not available"),
        ({"broker_permission": 4}, {}, 0, None),
        ({}, {"topic": "Nowhere"}, 17, "recall failed, the topic[Nowhere] not exist"),
        ({}, {"recallHandle": "%%%"}, 604, "recall handle is invalid"),
        ({}, {"recallHandle": "djIgYSBiIGMgZA=="}, 604, "recall handle is invalid"),
        ({}, {"recallHandle": ""}, 604, "recall handle is invalid"),
        ({}, {"recallHandle": handle(topic="Other")}, 604, "recall failed, topic not match"),
        ({}, {"recallHandle": handle(broker_name="broker-b")}, 604, "recall failed, broker service not available"),
        ({}, {"recallHandle": handle(timestamp=str(EPOCH_MS - 1))}, 604, "recall failed, timestamp invalid"),
        ({}, {"recallHandle": handle(timestamp=str(EPOCH_MS + 72 * HOUR + 60_000))}, 604, "recall failed, timestamp invalid"),
        ({}, {"recallHandle": handle(timestamp="soon")}, 604, "recall failed, timestamp invalid"),
        ({}, {}, 0, None),
    ],
)  # fmt: skip
async def test_a_recall_is_judged_in_rocketmqs_order_and_words(
    tmp_path: Path, environment: Environment, settings: dict[str, Any], fields: dict[str, str], code: int, remark: str
) -> None:
    """What is forbidden, unavailable, unknown or impossible; and success with the message's unique key."""
    async with broker(environment, tmp_path, **{"recall_message_enable": True, **settings}) as running:
        asked = {"producerGroup": "P", "topic": TOPIC, "recallHandle": handle(), "bname": "broker-a", **fields}
        response = await running.request(RequestCode.RECALL_MESSAGE, asked)
        assert (response.code, response.remark) == (code, remark)
        assert response.ext_fields["MSG_REGION"] == "DefaultRegion"
        assert response.ext_fields.get("msgId") == (CLIENT_KEY if code == 0 else None)
        stored = running.stored("rmq_sys_wheel_timer")
        assert len(stored) == (code == 0)
        if stored:
            assert stored[0].body == b"0"
            assert stored[0].properties["TIMER_DEL_UNIQKEY"] == f"{TOPIC}+{CLIENT_KEY}"
            assert stored[0].properties["TIMER_OUT_MS"] == str(EPOCH_MS + 60_000)
            assert stored[0].properties["TAGS"] == "_RECALL_TAG_"
            assert stored[0].properties["PGROUP"] == "P"


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_operators_see_what_waits(tmp_path: Path, environment: Environment) -> None:
    """Counts by topic, the checkpoint that slaves copy, and the names that tools print."""
    async with broker(environment, tmp_path) as running:
        running.create_topic("Other")
        for _ in range(3):
            await send(running, TIMER_DELAY_MS="60000")
        await running.send("Other", b"x", {"UNIQ_KEY": "k", "TIMER_DELAY_MS": "3000"})
        await asyncio.sleep(1.5)

        metrics = json.loads((await running.request(RequestCode.GET_TIMER_METRICS, {})).body)
        assert {topic: row["count"] for topic, row in metrics["timingCount"].items()} == {TOPIC: 3, "Other": 1}
        assert metrics["dataVersion"]["counter"] > 0
        body = (await running.request(RequestCode.GET_TIMER_CHECK_POINT, {})).body
        assert len(body) == 56
        checkpoint = TimerCheckpoint.decode(bytes(body))
        assert (checkpoint.last_timer_log_flush_pos, checkpoint.master_timer_queue_offset) == (4 * 52, 4)
        info = running.kernel.get(RuntimeInfo).collect()
        assert (info["timerCongestNum"], info["timerOffsetBehind"], info["timerReadBehind"]) == ("4", "0", "0")
        assert float(info["timerEnqueueTps"]) > 0
        await asyncio.sleep(4)
        timers = running.kernel.get(TimerMessageStore)
        assert timers.metrics.count("Other") == 0
        running.topics.delete("Other")
        assert set(timers.metrics.counts) == {TOPIC}
    table = json.loads((tmp_path / "config/timermetrics").read_text())
    assert table["timingCount"][TOPIC]["count"] == 3


@pytest.mark.virtual_time
async def test_counts_that_a_kill_made_wrong_are_counted_anew() -> None:
    """They are kept in memory and written now and then; after a kill the timer log is asked."""
    machine = TimerMachine()
    running = await machine.start()
    await running.put(*[draft(f"{n}", delay_ms=60_000 + 1_000 * n) for n in range(9)])
    await running.put(deletion("3", machine.clock.wall_ms() + 63_000))
    await asyncio.sleep(3)
    await machine.kill()
    running = await machine.start()
    running.timers.metrics.add({TOPIC: 77})
    running.timers.flusher.wants_recount = True
    await asyncio.sleep(3)
    assert running.timers.metrics.count(TOPIC) == 8
    await asyncio.sleep(80)
    assert len(await running.arrivals()) == 8
    assert running.timers.metrics.count(TOPIC) == 0
    await machine.stop()


@pytest.mark.virtual_time
async def test_enqueue_and_dequeue_can_be_stopped_while_the_broker_runs() -> None:
    """`timerStopEnqueue`, `timerStopDequeue`: what is held up meanwhile comes afterwards."""
    machine = TimerMachine()
    running = await machine.start(timer_stop_enqueue=True)
    config = running.kernel.store_config
    await running.put_one("a", delay_ms=2_000)
    await asyncio.sleep(5)
    assert running.timers.enqueue_behind_messages() == 1
    config.timer_stop_enqueue, config.timer_stop_dequeue = False, True
    await running.put_one("b", delay_ms=2_000)
    await asyncio.sleep(10)
    assert sorted(await running.arrivals()) == ["a"], "it was due when it was taken in"
    assert running.timers.dequeue_behind_ms() > 5_000
    config.timer_stop_dequeue = False
    await asyncio.sleep(2)
    assert sorted(await running.arrivals()) == ["a", "b"]
    await machine.stop()
