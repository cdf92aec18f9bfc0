"""The broker's side of a reply on the wire: both forms of the request, what is passed on, and what is refused."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from labs.stage_07_send.send_lab import Broker, running_broker, send_fields
from rocketmq_py.broker.statistics import BrokerStatsManager
from rocketmq_py.client.config import ClientConfig
from rocketmq_py.client.errors import ClientError
from rocketmq_py.client.instance import MQClientInstance
from rocketmq_py.client.request_futures import RequestFutures
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.properties import decode_properties, encode_properties
from rocketmq_py.remoting.answer import answer
from rocketmq_py.remoting.bodies.heartbeat import HeartbeatData, ProducerData
from rocketmq_py.remoting.client import RemotingClient
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.header import encode_header
from rocketmq_py.remoting.headers.reply import ReplyMessageRequestHeader
from rocketmq_py.remoting.java_json import encode_body
from rocketmq_py.remoting.processors import Request
from rocketmq_py.store.put_result import PutMessageStatus
from rocketmq_py.store.tick import Tick
from rocketmq_py.testing.eventually import eventually

pytestmark = pytest.mark.virtual_time

REPLY_TOPIC = "DefaultCluster_REPLY_TOPIC"
CLIENT = "10.9.8.7@asker"
PROPERTIES = {
    "MSG_TYPE": "reply",
    "REPLY_TO_CLIENT": CLIENT,
    "UNIQ_KEY": "0A4D000A72EA4E0E2F2A69C755890001",
    "TTL": "9000",
    "CORRELATION_ID": "1039f65f-e042-4ca6-8676-d9b7c27fce6a",
}


class Asker:
    """A client that waits for replies, down to the frames.

    Attributes:
        pushes: the replies that were passed on to it.
        says: its answer to them; None: none.
    """

    def __init__(self, environment: Environment) -> None:
        self.pushes: list[RemotingCommand] = []
        self.says: RemotingCommand | None = answer()
        self.client = RemotingClient(environment.clock)
        self.client.on_request(RequestCode.PUSH_REPLY_MESSAGE_TO_CLIENT, self._pushed)

    def _pushed(self, request: Request) -> RemotingCommand | None:
        self.pushes.append(request.command)
        return self.says

    async def heartbeat(self, address: str) -> None:
        data = HeartbeatData(client_id=CLIENT, producer_data_set=[ProducerData(group_name="Askers")])
        command = RemotingCommand.create_request(RequestCode.HEART_BEAT, body=encode_body(data))
        assert (await self.client.request(address, command, 3.0)).code == ResponseCode.SUCCESS


@asynccontextmanager
async def asked_broker(environment: Environment, folder: Path, **settings: Any) -> AsyncIterator[tuple[Broker, Asker]]:
    async with running_broker(environment, folder, through="transaction", **settings) as broker:
        asker = Asker(environment)
        try:
            await asker.heartbeat(broker.address)
            yield broker, asker
        finally:
            await asker.client.stop()


async def reply(
    broker: Broker,
    properties: dict[str, str] | bytes = PROPERTIES,
    code: int = RequestCode.SEND_REPLY_MESSAGE_V2,
    body: bytes = b"four euros",
    topic: str = REPLY_TOPIC,
    **changes: Any,
) -> RemotingCommand:
    form = RequestCode.SEND_MESSAGE if code == RequestCode.SEND_REPLY_MESSAGE else RequestCode.SEND_MESSAGE_V2
    fields = send_fields(topic, properties, form, **{"queue_id": 0, **changes})
    return await broker.request(code, fields, body)


@pytest.mark.parametrize("code", [RequestCode.SEND_REPLY_MESSAGE, RequestCode.SEND_REPLY_MESSAGE_V2])
async def test_a_reply_is_passed_on_with_everything_that_its_sender_said(
    tmp_path: Path, environment: Environment, code: int
) -> None:
    """The fields are those that Apache's broker sends, and the stored record has the properties that Apache stores."""
    async with asked_broker(environment, tmp_path) as (broker, asker):
        before = environment.clock.wall_ms()
        answered = await reply(broker, code=code, flag=77, reconsume_times=3, unit_mode=True)

        assert (answered.code, answered.remark) == (ResponseCode.SUCCESS, None)
        pushed = asker.pushes[0]
        fields = dict(pushed.ext_fields)
        properties = decode_properties(fields.pop("properties").encode())
        assert bytes(pushed.body) == b"four euros"
        assert int(fields.pop("storeTimestamp")) >= before
        born_host, store_host = fields.pop("bornHost"), fields.pop("storeHost")
        assert born_host.startswith("127.0.0.1:")
        assert store_host == broker.kernel.config.broker_address
        assert fields == {
            "producerGroup": "LabProducers",
            "topic": REPLY_TOPIC,
            "defaultTopic": "TBW102",
            "defaultTopicQueueNums": "3",
            "queueId": "0",
            "sysFlag": "0",
            "bornTimestamp": "1768463999123",
            "flag": "77",
            "reconsumeTimes": "3",
            "unitMode": "true",
        }
        assert int(properties.pop("PUSH_REPLY_TIME")) >= before
        assert properties == {**PROPERTIES, "MSG_REGION": "DefaultRegion", "TRACE_ON": "true"}

        (stored,) = broker.stored()
        assert stored.properties == properties
        assert (stored.flag, stored.reconsume_times, stored.born_host) == (77, 3, born_host)
        assert answered.ext_fields == {
            "msgId": stored.msg_id,
            "queueId": "0",
            "queueOffset": "0",
            "MSG_REGION": "DefaultRegion",
            "TRACE_ON": "true",
        }
        assert broker.kernel.get(BrokerStatsManager).topic_put(REPLY_TOPIC).messages == 1


async def test_the_broker_chooses_the_queue_when_the_sender_leaves_it_open(
    tmp_path: Path, environment: Environment
) -> None:
    async with asked_broker(environment, tmp_path) as (broker, asker):
        answered = await reply(broker, queue_id=-1)
        assert (answered.code, answered.ext_fields["queueId"]) == (ResponseCode.SUCCESS, "0")
        assert asker.pushes[0].ext_fields["queueId"] == "-1"


async def test_an_empty_reply_is_a_reply(tmp_path: Path, environment: Environment) -> None:
    """As for Apache's broker: the Go client v2.1.2 sends what `CreateReplyMessage` made without a body."""
    async with asked_broker(environment, tmp_path) as (broker, asker):
        assert (await reply(broker, body=b"")).code == ResponseCode.SUCCESS
        assert (bytes(asker.pushes[0].body), broker.stored()[0].body) == (b"", b"")


async def test_what_the_broker_owns_is_not_taken_from_a_sender(tmp_path: Path, environment: Environment) -> None:
    async with asked_broker(environment, tmp_path) as (broker, asker):
        sent = {**PROPERTIES, "CLUSTER": "Elsewhere", "TRACE_ON": "false", "MSG_REGION": "Mars", "mine": "1"}
        assert (await reply(broker, encode_properties(sent).rstrip(b"\x02"))).code == ResponseCode.SUCCESS
        expected = {**PROPERTIES, "mine": "1", "MSG_REGION": "DefaultRegion", "TRACE_ON": "true"}
        pushed = decode_properties(asker.pushes[0].ext_fields["properties"].encode())
        assert {name: value for name, value in pushed.items() if name != "PUSH_REPLY_TIME"} == expected
        assert broker.stored()[0].properties == expected


@pytest.mark.parametrize(
    ("properties", "remark"),
    [
        ({"MSG_TYPE": "reply", "CORRELATION_ID": "1"}, "reply message properties[REPLY_TO_CLIENT] is null"),
        ({}, "reply message properties[REPLY_TO_CLIENT] is null"),
        (PROPERTIES | {"REPLY_TO_CLIENT": "nobody"}, "push reply message fail, channel of <nobody> not found."),
    ],
)
async def test_a_reply_for_nobody_is_answered_with_rocketmqs_remark_and_stored(
    tmp_path: Path, environment: Environment, properties: dict[str, str], remark: str
) -> None:
    async with asked_broker(environment, tmp_path) as (broker, asker):
        answered = await reply(broker, properties)
        assert (answered.code, answered.remark) == (ResponseCode.SYSTEM_ERROR, remark)
        assert answered.ext_fields["MSG_REGION"] == "DefaultRegion"
        assert (len(broker.stored()), asker.pushes) == (1, [])


async def test_a_client_that_refuses_falls_silent_or_is_lost_is_told_of(
    tmp_path: Path, environment: Environment
) -> None:
    async with asked_broker(environment, tmp_path) as (broker, asker):
        remark = f"push reply message to {CLIENT}fail."
        asker.says = answer(ResponseCode.SYSTEM_ERROR, "process reply message fail")
        answered = await reply(broker)
        assert (answered.code, answered.remark) == (ResponseCode.SYSTEM_ERROR, remark)

        asker.says = None
        began = asyncio.get_running_loop().time()
        fields = send_fields(REPLY_TOPIC, PROPERTIES, RequestCode.SEND_MESSAGE_V2, queue_id=0)
        command = RemotingCommand.create_request(RequestCode.SEND_REPLY_MESSAGE_V2, fields, b"x")
        answered = await broker.client.request(broker.address, command, 60)
        assert (answered.code, answered.remark) == (ResponseCode.SYSTEM_ERROR, remark)
        assert asyncio.get_running_loop().time() - began == pytest.approx(10, abs=0.1)

        task = asyncio.create_task(reply(broker))
        await eventually(lambda: len(asker.pushes) == 3, 5)
        await asker.client.close()
        assert (await task).remark == remark
        assert (await reply(broker)).remark == f"push reply message fail, channel of <{CLIENT}> not found."
        assert len(broker.stored()) == 4


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"body": b"x" * 5_000}, ResponseCode.MESSAGE_ILLEGAL, "the message is illegal"),
        ({"batch": True}, ResponseCode.MESSAGE_ILLEGAL, "not a batch"),
        ({"properties": {**PROPERTIES, "INNER_NUM": "2"}}, ResponseCode.MESSAGE_ILLEGAL, "the message is illegal"),
        ({"properties": {**PROPERTIES, "long": "x" * 32_700}}, ResponseCode.MESSAGE_ILLEGAL, "the message is illegal"),
        ({"queue_id": 1}, ResponseCode.INVALID_PARAMETER, "request queueId[1] is illegal"),
        ({"topic": "SCHEDULE_TOPIC_XXXX"}, ResponseCode.NO_PERMISSION, "is forbidden"),
        ({"topic": "a/b"}, ResponseCode.INVALID_PARAMETER, "illegal characters"),
    ],
)
async def test_a_wrong_reply_is_refused_before_anything_is_done(
    tmp_path: Path, environment: Environment, changes: dict[str, Any], code: ResponseCode, words: str
) -> None:
    async with asked_broker(environment, tmp_path, max_message_size=4_096) as (broker, asker):
        answered = await reply(broker, **changes)
        assert answered.code == code
        assert words in (answered.remark or "")
        assert answered.ext_fields["TRACE_ON"] == "true"
        assert (broker.stored(), asker.pushes) == ([], [])
        assert (await reply(broker)).code == ResponseCode.SUCCESS


@pytest.mark.parametrize("missing", ["a", "b", "e", "g"])
async def test_a_reply_without_a_field_is_refused_by_its_name(
    tmp_path: Path, environment: Environment, missing: str
) -> None:
    async with asked_broker(environment, tmp_path) as (broker, asker):
        fields = send_fields(REPLY_TOPIC, PROPERTIES, RequestCode.SEND_MESSAGE_V2)
        del fields[missing]
        answered = await broker.request(RequestCode.SEND_REPLY_MESSAGE_V2, fields, b"x")
        assert answered.code == ResponseCode.SYSTEM_ERROR
        assert f"field {missing} is missing" in (answered.remark or "")
        assert asker.pushes == []


async def test_a_topic_that_a_reply_creates_is_on_disk_before_the_answer(
    tmp_path: Path, environment: Environment
) -> None:
    async with asked_broker(environment, tmp_path) as (broker, asker):
        assert (await reply(broker, topic="Elsewhere_REPLY_TOPIC")).code == ResponseCode.SUCCESS
        assert (len(asker.pushes), len(broker.stored("Elsewhere_REPLY_TOPIC"))) == (1, 1)
        assert not broker.topics.table.is_dirty
        assert "Elsewhere_REPLY_TOPIC" in (tmp_path / "config/topics.json").read_text()


async def test_no_reply_is_taken_before_the_time_from_which_the_broker_serves(
    tmp_path: Path, environment: Environment
) -> None:
    later = environment.clock.wall_ms() + 60_000
    async with asked_broker(environment, tmp_path, start_accept_send_request_time_stamp=later) as (broker, asker):
        answered = await reply(broker)
        assert answered.code == ResponseCode.SYSTEM_ERROR
        assert "broker unable to service" in (answered.remark or "")
        assert asker.pushes == []


async def test_a_reply_reaches_its_client_although_the_store_takes_nothing(
    tmp_path: Path, environment: Environment, caplog: pytest.LogCaptureFixture
) -> None:
    """The store is full, for example. Whoever asked gets the answer; that it is not kept is for the log."""
    async with asked_broker(environment, tmp_path) as (broker, asker):
        broker.kernel.get(Tick).refuse("the disk is full", PutMessageStatus.SERVICE_NOT_AVAILABLE)
        answered = await reply(broker)
        assert (answered.code, answered.ext_fields["msgId"]) == (ResponseCode.SUCCESS, "0")
        assert len(asker.pushes) == 1
        assert "was not stored: SERVICE_NOT_AVAILABLE" in caplog.text


# --- what a client is sent ----------------------------------------------------------------------------------------------


def pushed(body: bytes, properties: dict[str, str], **changes: Any) -> RemotingCommand:
    values = {
        "producer_group": "Repliers",
        "topic": REPLY_TOPIC,
        "default_topic": "TBW102",
        "default_topic_queue_nums": 4,
        "queue_id": 0,
        "sys_flag": 0,
        "born_timestamp": 1,
        "flag": 0,
        "born_host": "10.0.0.9:1",
        "store_host": "10.0.0.1:10911",
        "store_timestamp": 2,
    }
    header = ReplyMessageRequestHeader(
        **{**values, "properties": encode_properties(properties).decode(), **changes}  # type: ignore[arg-type]
    )
    return RemotingCommand.create_request(RequestCode.PUSH_REPLY_MESSAGE_TO_CLIENT, encode_header(header), body)


async def test_a_reply_that_cannot_be_read_ends_the_wait_with_the_reason(environment: Environment) -> None:
    """Bad compression, a bomb, a missing field: the one who waits learns it, others are not disturbed."""
    instance = MQClientInstance(ClientConfig(max_message_size=1_000), environment)
    futures = RequestFutures.of(instance)
    assert RequestFutures.of(instance) is futures

    def push(command: RemotingCommand) -> RemotingCommand:
        registration = instance.transport.processors.find(RequestCode.PUSH_REPLY_MESSAGE_TO_CLIENT)
        assert registration is not None
        result = registration.handler(Request(command, None, 1_700_000_000_000))  # type: ignore[arg-type]
        assert isinstance(result, RemotingCommand)
        return result

    for body, words in ((b"no zlib", "cannot be decompressed"), (zlib.compress(b"a" * 100_000), "more than the limit")):
        waits = futures.add("id-1")
        said = push(pushed(body, {"CORRELATION_ID": "id-1"}, sys_flag=1))
        assert (said.code, said.remark) == (ResponseCode.SYSTEM_ERROR, "process reply message fail")
        with pytest.raises(ClientError, match=words):
            await waits
        futures.remove("id-1")

    waits = futures.add("id-2")
    for properties in ({"CORRELATION_ID": "id-1"}, {}):
        assert push(pushed(b"x", properties)).code == ResponseCode.SUCCESS
    assert (futures.unclaimed, waits.done()) == (2, False)
    for body in (b"fine", b"again, in the same moment"):
        assert push(pushed(body, {"CORRELATION_ID": "id-2"})).code == ResponseCode.SUCCESS
    assert futures.unclaimed == 3
    assert (await waits).body == b"fine"
    assert (await waits).properties["ARRIVE_TIME"] == "1700000000000"
