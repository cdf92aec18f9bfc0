"""Delay levels as clients and operators see them: sends, consumers, counters, the two paths of a send."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labs.stage_07_send.send_lab import running_broker, send_fields
from labs.stage_07_send.test_two_paths_agree import Send, sends
from labs.stage_11_rebalance.group_lab import GROUP, TOPIC, GroupLab, group_lab
from rocketmq_py.broker.schedule.delay_levels import DelayLevels
from rocketmq_py.broker.statistics import BrokerStatsManager
from rocketmq_py.client import sync
from rocketmq_py.client.consume_service import ConsumeContext
from rocketmq_py.client.consumer_config import PushConsumerConfig
from rocketmq_py.client.push_consumer import PushConsumer
from rocketmq_py.client.send_result import SendStatus
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.message import Message, MessageExt
from rocketmq_py.common.topic import SCHEDULE_TOPIC
from rocketmq_py.remoting.bodies.heartbeat import ConsumeFromWhere
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.processors import Processors
from rocketmq_py.sim.environment import simulated_environment
from rocketmq_py.sim.loop import VirtualLoop
from rocketmq_py.store.config import MessageStoreConfig
from rocketmq_py.store.message_store import MessageStore
from rocketmq_py.testing.cluster import Cluster
from rocketmq_py.testing.eventually import eventually

DEFAULT = DelayLevels.parse(MessageStoreConfig().message_delay_level)


class Watch:
    """A consumer that notes when it got what, seconds of the loop."""

    def __init__(self, lab: GroupLab) -> None:
        self.got: list[tuple[float, MessageExt]] = []
        config = PushConsumerConfig(
            namesrv_addr=lab.cluster.namesrv_addr,
            client_ip="10.1.1.1",
            consume_from_where=ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET,
        )
        self.consumer = PushConsumer(GROUP, config, environment=lab.environment)
        self.consumer.subscribe(TOPIC, "paid")
        self.consumer.register_listener(self.handle)

    async def handle(self, messages: Sequence[MessageExt], context: ConsumeContext) -> None:
        now = asyncio.get_running_loop().time()
        self.got += [(now, message) for message in messages]


@pytest.mark.claim("dly-02")
@pytest.mark.virtual_time
async def test_a_consumer_sees_a_delayed_message_when_its_time_has_come_and_not_before(
    tmp_path: Path, environment: Environment
) -> None:
    """Claim: when its time has come it is written again to its real topic and queue, and only then seen by consumers.

    Experiment: a consumer waits with long polls and a tag; a producer sends levels 1, 3, 5 and 18 at once.
    Observe: the consumer gets each within milliseconds of its time, the last after two hours, in the queue that the
    producer was told; the level is still in the message's properties.
    """
    async with group_lab(tmp_path, environment) as lab:
        watch = Watch(lab)
        async with watch.consumer:
            sent, places = {}, {}
            for level in (18, 1, 5, 3):
                message = Message.of(TOPIC, f"level {level}".encode(), tags="paid")
                message.delay_level = level
                result = await lab.producer.send(message, queue=lab.queues[level % 4])
                assert result.status is SendStatus.SEND_OK
                places[f"level {level}"] = result.queue.queue_id
                sent[f"level {level}"] = asyncio.get_running_loop().time()
            await asyncio.sleep(7_205)
            assert [message.body.decode() for _, message in watch.got] == ["level 1", "level 3", "level 5", "level 18"]
            for when, message in watch.got:
                late = when - sent[message.body.decode()] - DEFAULT.delay_ms(message.delay_level) / 1_000
                print(f"{message.body.decode():8} came {late * 1_000:.1f} ms after its time")
                assert -0.02 <= late <= 0.02, "counted from the answer, which is a little later than the store time"
                assert message.queue_id == places[message.body.decode()]
                assert message.properties["DELAY"] == message.body.decode().split()[1]


async def test_a_blocking_producer_sends_levels_too(tmp_path: Path) -> None:
    """The blocking clients take the same messages; in real time, a second."""
    async with Cluster(tmp_path, through="delay") as cluster:

        def send() -> tuple[SendStatus, float]:
            with sync.Producer("Shop", namesrv_addr=cluster.namesrv_addr) as producer:
                message = Message.of("Orders", b"later")
                message.delay_level = 1
                return producer.send(message).status, time.monotonic()

        status, sent = await asyncio.to_thread(send)
        assert status is SendStatus.SEND_OK
        store = cluster.kernels[0].get(MessageStore)

        def has_come() -> bool:
            return any(store.max_offset("Orders", queue_id) for queue_id in range(8))

        assert not has_come()
        await eventually(has_come, 10)
        assert 0.9 < time.monotonic() - sent < 3


@pytest.mark.claim("dly-03")
@pytest.mark.virtual_time
async def test_a_delayed_message_is_counted_twice(tmp_path: Path, environment: Environment) -> None:
    """Claim: a delayed message is counted twice in send statistics (first write and delivery).

    Experiment: send five messages of level 1 and two ordinary ones; look before and after the delivery.
    Observe: first five under SCHEDULE_TOPIC_XXXX, later five more under the real topic; the group SCHEDULE_CONSUMER got
    five. With enableScheduleMessageStats=false only the first count is made.
    """
    for is_counted in (True, False):
        async with running_broker(
            environment, tmp_path / str(is_counted), through="delay", enable_schedule_message_stats=is_counted
        ) as broker:
            broker.create_topic("Orders")
            for _ in range(5):
                answer = await broker.send("Orders", properties={"DELAY": "1", "UNIQ_KEY": "K"})
                assert answer.code == ResponseCode.SUCCESS
            for _ in range(2):
                await broker.send("Orders", properties={"UNIQ_KEY": "K"})
            statistics = broker.kernel.get(BrokerStatsManager)
            assert statistics.topic_put(SCHEDULE_TOPIC).messages == 5
            assert statistics.topic_put("Orders").messages == 2
            assert statistics.put_total() == 7
            await asyncio.sleep(2)
            more = 5 if is_counted else 0
            assert statistics.topic_put(SCHEDULE_TOPIC).messages == 5
            assert statistics.topic_put("Orders").messages == 2 + more
            assert statistics.put_total() == 7 + more
            assert statistics.group_get(SCHEDULE_TOPIC, "SCHEDULE_CONSUMER").messages == more
            assert statistics.topic_put("Orders").bytes == 5 * (2 + more)


@pytest.mark.virtual_time
async def test_the_answer_names_the_queue_that_was_asked_for_and_the_offset_in_the_level(
    tmp_path: Path, environment: Environment
) -> None:
    """As in RocketMQ: queueId is the client's, queueOffset and msgId are those of the record that waits."""
    async with running_broker(environment, tmp_path, through="delay") as broker:
        broker.create_topic("Orders")
        for number in range(3):
            answer = await broker.send("Orders", properties={"DELAY": "3", "UNIQ_KEY": "K"}, queue_id=3)
            assert (answer.ext_fields["queueId"], answer.ext_fields["queueOffset"]) == ("3", str(number))
            assert answer.ext_fields["transactionId"] == "K"
        assert broker.kernel.get(MessageStore).max_offset(SCHEDULE_TOPIC, 2) == 3


@pytest.mark.virtual_time
async def test_bad_levels_are_refused_in_the_answer(tmp_path: Path, environment: Environment) -> None:
    async with running_broker(environment, tmp_path, through="delay") as broker:
        broker.create_topic("Orders")
        for level in ("soon", "99999999999", "1.5"):
            answer = await broker.send("Orders", properties={"DELAY": level, "UNIQ_KEY": "K"})
            assert answer.code == ResponseCode.MESSAGE_ILLEGAL
        answer = await broker.send_batch("Orders", [Message("Orders", b"a", {"DELAY": "2", "UNIQ_KEY": "K"})])
        assert answer.code == ResponseCode.SUCCESS, "RocketMQ looks only at the batch's own properties"
        refused = await broker.request(
            RequestCode.SEND_BATCH_MESSAGE,
            send_fields("Orders", {"DELAY": "2"}, RequestCode.SEND_BATCH_MESSAGE, batch=True),
            b"\0" * 20,
        )
        assert refused.code == ResponseCode.MESSAGE_ILLEGAL


@pytest.mark.virtual_time
async def test_operators_see_how_far_each_level_is(tmp_path: Path, environment: Environment) -> None:
    """GET_BROKER_RUNTIME_INFO has delivered and stored offset of each level; GET_ALL_DELAY_OFFSET has the file's text."""
    async with running_broker(environment, tmp_path, through="delay") as broker:
        broker.create_topic("Orders")
        for level in ("1", "1", "2", "9"):
            await broker.send("Orders", properties={"DELAY": level, "UNIQ_KEY": "K"})
        await asyncio.sleep(2)
        info = json.loads((await broker.request(RequestCode.GET_BROKER_RUNTIME_INFO, {})).body)["table"]
        shown = {name: value for name, value in info.items() if name.startswith("scheduleMessageOffset")}
        assert shown == {
            "scheduleMessageOffset_1": "2,2", "scheduleMessageOffset_2": "0,1", "scheduleMessageOffset_9": "0,1"
        }  # fmt: skip
        answer = await broker.request(RequestCode.GET_ALL_DELAY_OFFSET, {})
        assert answer.code == ResponseCode.SUCCESS
        assert b'"offsetTable":{1:2,2:0,9:0}' in answer.body


# --- the two paths of a send --------------------------------------------------------------------------------------------


def run_all(requests: list[Send], *, hot: bool) -> tuple[list[object], bytes, list[object], int]:
    """Send the requests to a fresh broker with delays; return answers, log, units and how many took the hot path.

    The log is that of three seconds later, so that messages of level 1 have been delivered.
    """

    async def main(folder: Path) -> tuple[list[object], bytes, list[object], int]:
        async with running_broker(simulated_environment(seed=3), folder, through="delay", hot=hot) as broker:
            broker.create_topic("Orders", queues=4)
            broker.create_topic("Payments", queues=2)
            taken = 0
            processors = broker.kernel.get(Processors)
            for code, handler in list(processors.hot.items()):

                def count(connection, command, body, handler=handler):  # type: ignore[no-untyped-def]
                    nonlocal taken
                    handled = handler(connection, command, body)
                    taken += bool(handled)
                    return handled

                processors.hot[code] = count
            answers: list[object] = []
            for request in requests:
                found = await broker.request(request.code, request.fields, request.body)
                answers.append((found.code, found.remark, found.ext_fields))
            await asyncio.sleep(3)
            store = broker.kernel.get(MessageStore)
            units: list[object] = []
            for topic, queue_id in sorted(store.topics_and_queues()):
                queue = store.queues.find(topic, queue_id)
                assert queue is not None
                units += [(topic, queue_id, queue.unit(number)) for number in range(queue.max_offset)]
            return answers, broker.log_bytes(), units, taken

    with tempfile.TemporaryDirectory() as folder, asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main(Path(folder)))


@st.composite
def delayed_sends(draw: st.DrawFn) -> Send:
    """Requests of all kinds, many with a level."""
    send = draw(sends())
    level = draw(st.sampled_from([None, None, "1", "1", "18", "99", "0", "-1", "x", ""]))
    if level is None or send.fields.get("m") == "true" or send.fields.get("batch") == "true":
        return send
    name = "properties" if send.code == RequestCode.SEND_MESSAGE else "i"
    text = send.fields.get(name, "")
    text += ("" if not text or text.endswith("\x02") else "\x02") + f"DELAY\x01{level}\x02"
    return Send(send.code, {**send.fields, name: text}, send.body)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(delayed_sends(), min_size=1, max_size=8))
def test_both_paths_store_delayed_messages_alike(requests: list[Send]) -> None:
    """Claim: with the hook of delay levels installed, hot and ordinary path still store the same and answer the same.

    Experiment: random requests, many of them with good and bad levels, to two brokers that differ in nothing but their
    hot handlers.
    Observe: answers, logs (with the deliveries of level 1) and all units of all queues are equal.
    """
    hot, ordinary = run_all(requests, hot=True), run_all(requests, hot=False)
    assert ordinary[3] == 0
    assert hot[0] == ordinary[0], "the answers differ"
    assert hot[1] == ordinary[1], "the logs differ"
    assert hot[2] == ordinary[2], "the units differ: are times and tags codes the same on both paths?"


def test_only_messages_with_a_level_leave_the_hot_path() -> None:
    """Claim: the hook's trigger, and nothing else of this stage, takes a message off the hot path."""
    code = RequestCode.SEND_MESSAGE_V2
    plain = {"UNIQ_KEY": "7F00000100002A139A550A1B2C3D0007", "TAGS": "A", "XDELAY": "3", "DELAYED": "3", "n": "DELAY"}
    assert run_all([Send(code, send_fields("Orders", plain, code), b"plain")], hot=True)[3] == 1
    late = run_all([Send(code, send_fields("Orders", plain | {"DELAY": "1"}, code), b"late")], hot=True)
    assert late[3] == 0
    assert [(topic, queue) for topic, queue, _ in late[2]] == [("Orders", 1), (SCHEDULE_TOPIC, 0)]  # type: ignore[misc]
