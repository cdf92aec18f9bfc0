"""What a broker answers to a send, and what then lies in its log."""

from __future__ import annotations

from pathlib import Path

import pytest

from labs.stage_07_send.send_lab import HEADER, running_broker, send_fields
from rocketmq_py.broker.send_hooks import SendContext, SendHook, SendHooks
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.message import Message
from rocketmq_py.common.message_id import parse_offset_id
from rocketmq_py.common.permission import INHERIT, READ, READ_WRITE
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import ONE_WAY_FLAG, RemotingCommand
from rocketmq_py.store.put_result import PutMessageStatus
from rocketmq_py.store.tick import Tick
from rocketmq_py.testing.eventually import eventually

pytestmark = pytest.mark.virtual_time

UNIQUE = "7F00000100002A139A550A1B2C3D0007"


@pytest.mark.parametrize(
    "code", [RequestCode.SEND_MESSAGE, RequestCode.SEND_MESSAGE_V2, RequestCode.SEND_BATCH_MESSAGE]
)
@pytest.mark.parametrize("hot", [True, False])
async def test_a_send_is_answered_with_its_place(
    environment: Environment, tmp_path: Path, code: int, hot: bool
) -> None:
    """Claim: code 10 has long field names, 310 and 320 short ones; without the batch flag each stores one message.

    Experiment: send two messages with every field set, on the hot and on the ordinary path.
    Observe: the answer names queue, queue offset, offset id and unique key; the record holds what was sent.
    """
    async with running_broker(environment, tmp_path, hot=hot) as broker:
        broker.create_topic("Orders")
        await broker.send("Orders", b"first", {"UNIQ_KEY": UNIQUE}, code)
        answer = await broker.send("Orders", b"second", {"TAGS": "paid", "KEYS": "o-17", "UNIQ_KEY": UNIQUE}, code)

        assert (answer.code, answer.remark) == (ResponseCode.SUCCESS, None)
        host, offset = parse_offset_id(answer.ext_fields["msgId"])
        assert host == broker.address
        assert {name: answer.ext_fields[name] for name in ("queueId", "queueOffset", "transactionId")} == {
            "queueId": "1",
            "queueOffset": "1",
            "transactionId": UNIQUE,
        }
        assert (answer.ext_fields["MSG_REGION"], answer.ext_fields["TRACE_ON"]) == ("DefaultRegion", "true")
        record = broker.stored("Orders")[1]
        assert record.commit_log_offset == offset
        assert (record.body, record.queue_id, record.queue_offset) == (b"second", 1, 1)
        assert (record.flag, record.born_timestamp) == (HEADER["flag"], HEADER["born_timestamp"])
        assert record.properties == {
            "TAGS": "paid",
            "KEYS": "o-17",
            "UNIQ_KEY": UNIQUE,
            "MSG_REGION": "DefaultRegion",
            "TRACE_ON": "true",
            "CLUSTER": "DefaultCluster",
        }


@pytest.mark.claim("ns-04")
async def test_the_first_send_creates_a_topic_from_its_template(environment: Environment, tmp_path: Path) -> None:
    """Claim: a topic is created beforehand, or by the first send from a template that lets topics inherit.

    Experiment: send to unknown topics with TBW102 as template, then with a template that does not exist.
    Observe: the first gets min(asked, template's) queues and the template's permission without the inherit bit; the
    second is refused with the remark that clients know, and nothing is stored.
    """
    async with running_broker(environment, tmp_path, default_topic_queue_nums=2) as broker:
        answer = await broker.send("Fresh")
        assert answer.code == ResponseCode.SUCCESS
        created = broker.topics.select("Fresh")
        template = broker.topics.select("TBW102")
        assert created is not None and template is not None
        assert (created.read_queue_nums, created.write_queue_nums) == (2, 2)
        assert (created.perm, template.perm) == (READ_WRITE, READ_WRITE | INHERIT)

        refused = await broker.send("Other", default_topic="NoSuchTemplate")

        assert refused.code == ResponseCode.TOPIC_NOT_EXIST
        assert refused.remark == (
            "topic[Other] not exist, apply first please!"
            "\nSee https://rocketmq.apache.org/docs/bestPractice/06FAQ for further details."
        )
        assert broker.topics.select("Other") is None
        assert [message.topic for message in broker.stored()] == ["Fresh"]


@pytest.mark.claim("ns-04")
async def test_automatic_creation_can_be_switched_off(environment: Environment, tmp_path: Path) -> None:
    """Claim: with autoCreateTopicEnable=false only an operator's topics can be sent to."""
    async with running_broker(environment, tmp_path, auto_create_topic_enable=False) as broker:
        broker.create_topic("Planned")

        assert (await broker.send("Planned")).code == ResponseCode.SUCCESS
        assert (await broker.send("Unplanned")).code == ResponseCode.TOPIC_NOT_EXIST


async def test_a_new_topic_is_on_disk_before_its_first_message_is_acknowledged(
    environment: Environment, tmp_path: Path
) -> None:
    """Claim: an acknowledged message never lies in a topic that a crash forgets."""
    async with running_broker(environment, tmp_path) as broker:
        await broker.send("Fresh")

        assert b'"Fresh"' in (tmp_path / "config/topics.json").read_bytes()


async def test_a_topic_that_a_hook_created_is_on_disk_before_the_message_is_acknowledged(
    environment: Environment, tmp_path: Path
) -> None:
    """Claim: the same holds when a hook sends the message to a topic of its own."""
    async with running_broker(environment, tmp_path) as broker:

        def apply(context: SendContext) -> None:
            context.draft.topic, context.draft.queue_id = "Aside", 0
            context.has_new_topic = broker.topics.select("Aside") is None
            broker.topics.create_in_send_back("Aside", 1)

        broker.kernel.get(SendHooks).install(SendHook("aside", (b"ASIDE\x01",), apply))
        broker.create_topic("Orders")
        for topic in ("Orders", "Fresh"):
            answer = await broker.send(topic, properties={"ASIDE": "1"})
            assert (answer.code, answer.ext_fields["queueId"]) == (ResponseCode.SUCCESS, "1")
            assert b'"Aside"' in (tmp_path / "config/topics.json").read_bytes()
        assert len(broker.stored("Aside")) == 2


REFUSALS = [
    ("bad topic!", {}, 29, "The specified topic contains illegal characters, allowing only ^[%|a-zA-Z0-9_-]+$"),
    ("../../../x", {}, 29, "The specified topic contains illegal characters, allowing only ^[%|a-zA-Z0-9_-]+$"),
    ("", {}, 29, "The specified topic is blank."),
    ("L" * 128, {}, 29, "The specified topic is longer than topic max length."),
    ("SCHEDULE_TOPIC_XXXX", {}, 16, "Sending message to topic[SCHEDULE_TOPIC_XXXX] is forbidden."),
    ("rmq_sys_wheel_timer", {}, 16, "Sending message to topic[rmq_sys_wheel_timer] is forbidden."),
    (
        "Orders",
        {"queue_id": 99},
        29,
        "request queueId[99] is illegal, TopicConfig [topicName=Orders, readQueueNums=4, writeQueueNums=4, perm=RW-, "
        "topicFilterType=SINGLE_TAG, topicSysFlag=0, order=false, attributes={}] Producer: ",
    ),
]


@pytest.mark.parametrize(("topic", "changes", "code", "remark"), REFUSALS)
async def test_a_refusal_has_the_code_and_the_words_that_clients_know(
    environment: Environment, tmp_path: Path, topic: str, changes: dict[str, int], code: int, remark: str
) -> None:
    """Claim: a refused send stores nothing and says why, in RocketMQ's words."""
    async with running_broker(environment, tmp_path) as broker:
        broker.create_topic("Orders")

        answer = await broker.send(topic, **changes)

        assert answer.code == code
        assert answer.remark is not None and answer.remark.startswith(remark)
        assert (answer.ext_fields["MSG_REGION"], answer.ext_fields["TRACE_ON"]) == ("DefaultRegion", "true")
        assert broker.stored() == []


async def test_a_body_or_properties_beyond_the_limit_are_refused(environment: Environment, tmp_path: Path) -> None:
    """Claim: a body of maxMessageSize bytes is stored, one more byte is refused; so are properties beyond 32,767."""
    words = (
        "the message is illegal, maybe msg body or properties length not matched. msg body length limit 4096B, "
        "msg properties length limit 32KB."
    )
    async with running_broker(environment, tmp_path, max_message_size=4_096) as broker:
        broker.create_topic("Orders")
        assert (await broker.send("Orders", b"x" * 4_096)).code == ResponseCode.SUCCESS

        for answer in (
            await broker.send("Orders", b"x" * 4_097),
            await broker.send("Orders", b"x", {"UNIQ_KEY": UNIQUE, "long": "y" * 32_700}),
        ):
            assert (answer.code, answer.remark) == (ResponseCode.MESSAGE_ILLEGAL, words)
        assert len(broker.stored()) == 1


async def test_a_negative_queue_id_lets_the_broker_choose(environment: Environment, tmp_path: Path) -> None:
    """Claim: for queue -1 the broker draws a write queue; the answer names it."""
    async with running_broker(environment, tmp_path) as broker:
        broker.create_topic("Orders", queues=4)
        chosen = {int((await broker.send("Orders", queue_id=-1)).ext_fields["queueId"]) for _ in range(40)}

        assert chosen == {0, 1, 2, 3}
        assert {message.queue_id for message in broker.stored("Orders")} == chosen


async def test_the_write_permission_of_a_topic_is_not_checked_here(environment: Environment, tmp_path: Path) -> None:
    """Claim: producers honour a topic's permission through its route; a broker stores what comes all the same."""
    async with running_broker(environment, tmp_path) as broker:
        broker.create_topic("ReadOnly", perm=READ)

        assert (await broker.send("ReadOnly")).code == ResponseCode.SUCCESS


async def test_a_broker_may_not_accept_before_its_time(environment: Environment, tmp_path: Path) -> None:
    """Claim: before startAcceptSendRequestTimeStamp every send is refused with the time from which on it is not."""
    start = environment.clock.wall_ms() + 60_123
    async with running_broker(environment, tmp_path, start_accept_send_request_time_stamp=start) as broker:
        broker.create_topic("Orders")
        answer = await broker.send("Orders")

        assert answer.code == ResponseCode.SYSTEM_ERROR
        assert answer.remark is not None and answer.remark.startswith("broker unable to service, until 20")
        assert answer.remark.endswith(",123")


async def test_a_store_that_takes_nothing_is_named_as_the_reason(environment: Environment, tmp_path: Path) -> None:
    """Claim: with a full disk the answer is SERVICE_NOT_AVAILABLE, and sends work again when there is room."""
    async with running_broker(environment, tmp_path) as broker:
        broker.create_topic("Orders")
        tick = broker.kernel.get(Tick)
        tick.refuse("the disk is full", PutMessageStatus.SERVICE_NOT_AVAILABLE)

        answer = await broker.send("Orders")
        assert answer.code == ResponseCode.SERVICE_NOT_AVAILABLE
        assert answer.remark is not None and "the broker's disk is full" in answer.remark

        tick.accept("the disk is full")
        assert (await broker.send("Orders")).code == ResponseCode.SUCCESS


async def test_a_one_way_send_is_stored_and_not_answered(environment: Environment, tmp_path: Path) -> None:
    """Claim: a one-way send gets no answer, not even a refusal."""
    async with running_broker(environment, tmp_path) as broker:
        broker.create_topic("Orders")
        for topic in ("Orders", "bad topic!"):
            fields = send_fields(topic, {"UNIQ_KEY": UNIQUE}, RequestCode.SEND_MESSAGE_V2)
            command = RemotingCommand.create_request(RequestCode.SEND_MESSAGE_V2, fields, b"fire")
            command.flag = ONE_WAY_FLAG
            await broker.client.one_way(broker.address, command)

        await eventually(lambda: [message.body for message in broker.stored()] == [b"fire"])


async def test_reserved_properties_are_the_brokers_own(environment: Environment, tmp_path: Path) -> None:
    """Claim: a client cannot forge what the broker says about a message; all else it sent is stored as it came."""
    async with running_broker(environment, tmp_path) as broker:
        broker.create_topic("Orders")
        forged = {"CLUSTER": "Evil", "POP_CK": "1 2 3", "TRACE_ON": "no", "__CRC32#": "0000000000", "mine": "kept"}
        await broker.send("Orders", b"x", forged)

        stored = broker.stored()[0].properties
        assert stored.pop("UNIQ_KEY")
        assert stored == {
            "mine": "kept",
            "MSG_REGION": "DefaultRegion",
            "TRACE_ON": "true",
            "CLUSTER": "DefaultCluster",
        }


async def test_what_only_later_stages_can_do_is_refused(environment: Environment, tmp_path: Path) -> None:
    """Claim: without its stage a half message or a delayed one is refused, not stored as an ordinary one."""
    async with running_broker(environment, tmp_path) as broker:
        broker.create_topic("Orders")
        for properties in ({"TRAN_MSG": "true"}, {"DELAY": "3"}, {"TIMER_DELAY_SEC": "5"}):
            assert (await broker.send("Orders", b"x", properties)).code == ResponseCode.MESSAGE_ILLEGAL
        assert broker.stored() == []


# --- batches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hot", [True, False])
async def test_a_batch_becomes_single_messages_in_a_row(environment: Environment, tmp_path: Path, hot: bool) -> None:
    """Claim: each message of a batch is a record of its own; offsets follow one another, the answer has all ids."""
    async with running_broker(environment, tmp_path, hot=hot) as broker:
        broker.create_topic("Orders")
        await broker.send("Orders", b"before", {"UNIQ_KEY": UNIQUE})
        messages = [Message.of("Orders", b"m%d" % n, tags=f"t{n}", keys=f"k{n}", flag=n + 5) for n in range(3)]

        answer = await broker.send_batch("Orders", messages)

        assert answer.code == ResponseCode.SUCCESS
        stored = broker.stored("Orders")[1:]
        assert [message.body for message in stored] == [b"m0", b"m1", b"m2"]
        assert [message.queue_offset for message in stored] == [1, 2, 3]
        assert [message.flag for message in stored] == [5, 6, 7]
        assert [message.tags for message in stored] == ["t0", "t1", "t2"]
        assert answer.ext_fields["msgId"].split(",") == [message.msg_id for message in stored]
        assert answer.ext_fields["queueOffset"] == "1"
        assert all(message.properties["CLUSTER"] == "DefaultCluster" for message in stored)


@pytest.mark.parametrize(
    "damage",
    [
        lambda body: body[:-1],
        lambda body: body + b"\x00",
        lambda body: b"\x7f\xff\xff\xff" + body[4:],
        lambda body: b"\xff\xff\xff\xff" + body[4:],
        lambda body: body[:16] + b"\x00\x00\xff\xff" + body[20:],
        lambda body: body * 400,
        lambda body: b"",
    ],
    ids=["short", "long", "huge item", "negative item", "huge body", "1,200 messages", "empty"],
)
async def test_a_damaged_batch_is_refused_as_a_whole(environment: Environment, tmp_path: Path, damage: object) -> None:
    """Claim: nothing of a batch is stored unless all of it is right."""
    from rocketmq_py.common.message_batch import encode_batch

    assert callable(damage)
    async with running_broker(environment, tmp_path) as broker:
        broker.create_topic("Orders")
        body = encode_batch([Message("Orders", b"m%d" % n) for n in range(3)])
        fields = send_fields("Orders", {}, RequestCode.SEND_BATCH_MESSAGE, batch=True)

        answer = await broker.request(RequestCode.SEND_BATCH_MESSAGE, fields, damage(body))

        assert answer.code == ResponseCode.MESSAGE_ILLEGAL
        assert broker.stored() == []


async def test_a_batch_to_a_retry_topic_is_refused(environment: Environment, tmp_path: Path) -> None:
    """Claim: retries come one by one; a batch to a %RETRY% topic is refused in RocketMQ's words."""
    async with running_broker(environment, tmp_path) as broker:
        broker.create_topic("%RETRY%Group", queues=2)
        answer = await broker.send_batch("%RETRY%Group", [Message("%RETRY%Group", b"x")])

        assert answer.code == ResponseCode.MESSAGE_ILLEGAL
        assert answer.remark == "batch request does not support retry group %RETRY%Group"
