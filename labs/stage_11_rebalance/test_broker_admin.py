"""What operators ask a broker about groups and clients, over the wire, with real consumers at the other end."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rocketmq_py.broker.consumer_offset import ConsumerOffsetManager
from rocketmq_py.broker.subscription_group import SubscriptionGroupManager
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.message import Message, MessageQueue
from rocketmq_py.remoting.bodies.consume_stats import ConsumeStats, decode_offset_table
from rocketmq_py.remoting.bodies.consumer_running_info import ConsumerRunningInfo
from rocketmq_py.remoting.bodies.subscription_group import SubscriptionGroupConfig
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.java_json import encode_body, to_standard_json
from rocketmq_py.testing.eventually import eventually

from .group_lab import GROUP, TOPIC, GroupLab, group_lab
from .wire import Wire


class Tool:
    """An administrator's connection to the broker."""

    def __init__(self, lab: GroupLab) -> None:
        self._wire = Wire(lab.environment, lab.cluster.kernels[0].config.broker_address, "tool")

    async def ask(self, code: RequestCode, body: bytes = b"", **fields: Any) -> RemotingCommand:
        return await self._wire.ask(code, {name: str(value) for name, value in fields.items()}, body)

    async def json(self, code: RequestCode, **fields: Any) -> Any:
        answer = await self.ask(code, **fields)
        assert answer.code == ResponseCode.SUCCESS, answer.remark
        return msgspec.json.decode(to_standard_json(bytes(answer.body)))

    async def __aenter__(self) -> Tool:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._wire.close()


@pytest.mark.virtual_time
async def test_connections_subscriptions_and_groups_of_a_topic(tmp_path: Path, environment: Environment) -> None:
    async with group_lab(tmp_path, environment, queues=2) as lab, Tool(lab) as tool:
        await lab.join("c0", "TagA || TagB")
        await lab.settled()
        await lab.send("the producer learns where the broker is")
        await lab.producer.instance.send_heartbeats()
        body = await tool.json(RequestCode.GET_CONSUMER_CONNECTION_LIST, consumerGroup=GROUP)
        assert [one["clientId"] for one in body["connectionSet"]] == ["10.1.1.1@c0"]
        assert (body["connectionSet"][0]["language"], body["connectionSet"][0]["version"]) == ("PYTHON", 479)
        assert (body["consumeType"], body["messageModel"], body["consumeFromWhere"]) == (
            "CONSUME_PASSIVELY",
            "CLUSTERING",
            "CONSUME_FROM_FIRST_OFFSET",
        )
        assert sorted(body["subscriptionTable"][TOPIC]["tagsSet"]) == ["TagA", "TagB"]
        assert f"%RETRY%{GROUP}" in body["subscriptionTable"]
        refused = await tool.ask(RequestCode.GET_CONSUMER_CONNECTION_LIST, consumerGroup="nobody")
        assert (refused.code, refused.remark) == (206, "the consumer group[nobody] not online")

        body = await tool.json(RequestCode.GET_PRODUCER_CONNECTION_LIST, producerGroup="shop")
        assert len(body["connectionSet"]) == 1
        refused = await tool.ask(RequestCode.GET_PRODUCER_CONNECTION_LIST, producerGroup="nobody")
        assert (refused.code, refused.remark) == (1, "the producer group[nobody] not exist")
        assert list((await tool.json(RequestCode.GET_ALL_PRODUCER_INFO))["data"]) == ["shop"]

        assert (await tool.json(RequestCode.QUERY_TOPIC_CONSUME_BY_WHO, topic=TOPIC))["groupList"] == [GROUP]
        body = await tool.json(RequestCode.QUERY_SUBSCRIPTION_BY_CONSUMER, group=GROUP, topic=TOPIC)
        assert body["subscriptionData"]["subString"] == "TagA || TagB"
        body = await tool.json(RequestCode.QUERY_SUBSCRIPTION_BY_CONSUMER, group="nobody", topic=TOPIC)
        assert "subscriptionData" not in body


@pytest.mark.virtual_time
async def test_consume_stats_have_a_row_for_every_queue(tmp_path: Path, environment: Environment) -> None:
    async with group_lab(tmp_path, environment, queues=3) as lab, Tool(lab) as tool:
        member = await lab.join("c0")
        await lab.settled()
        await lab.send(*map(str, range(4)), queue=1)
        await eventually(lambda: len(member.got) == 4)
        await asyncio.sleep(15)
        member.gate.clear()
        stored_ms = environment.clock.wall_ms()
        await lab.send("4", "5", queue=1)
        await eventually(lambda: len(member.got) == 6)
        await asyncio.sleep(20)
        answer = await tool.ask(RequestCode.GET_CONSUME_STATS, consumerGroup=GROUP, topic=TOPIC)
        stats = ConsumeStats.decode(bytes(answer.body))
        rows = {queue.queue_id: row for queue, row in stats.offset_table.items()}
        assert sorted(rows) == [0, 1, 2]
        assert (rows[1].broker_offset, rows[1].consumer_offset, rows[1].pull_offset) == (6, 4, 6)
        assert 0 < rows[1].last_timestamp < stored_ms
        assert (rows[2].broker_offset, rows[2].consumer_offset, rows[2].last_timestamp) == (0, 0, 0)
        assert (stats.total_diff, stats.total_inflight) == (2, 2)
        assert (await tool.json(RequestCode.QUERY_TOPICS_BY_CONSUMER, group=GROUP))["topicList"] == sorted(
            [TOPIC, f"%RETRY%{GROUP}"]
        )
        spans = await tool.json(RequestCode.QUERY_CONSUME_TIME_SPAN, group=GROUP, topic=TOPIC)
        span = next(one for one in spans["consumeTimeSpanSet"] if one["messageQueue"]["queueId"] == 1)
        assert span["minTimeStamp"] <= span["consumeTimeStamp"] < span["maxTimeStamp"]
        assert span["delayTime"] >= 19_000
        body = await tool.json(RequestCode.GET_BROKER_CONSUME_STATS, isOrder="false")
        assert body["totalDiff"] == 2
        unknown = await tool.ask(RequestCode.QUERY_CONSUME_TIME_SPAN, group=GROUP, topic="Nowhere")
        assert unknown.code == ResponseCode.TOPIC_NOT_EXIST


@pytest.mark.virtual_time
@pytest.mark.parametrize("server_side", [True, False])
async def test_a_group_is_moved_to_a_time_and_reads_again_from_there(
    tmp_path: Path, environment: Environment, server_side: bool
) -> None:
    async with (
        group_lab(tmp_path, environment, queues=2, use_server_side_reset_offset=server_side) as lab,
        Tool(lab) as tool,
    ):
        member = await lab.join("c0")
        await lab.settled()
        await lab.send("old 0", "old 1")
        await asyncio.sleep(10)
        middle = environment.clock.wall_ms()
        await asyncio.sleep(10)
        await lab.send("new 0", "new 1")
        await eventually(lambda: len(member.got) == 4)
        await asyncio.sleep(15)
        answer = await tool.ask(
            RequestCode.INVOKE_BROKER_TO_RESET_OFFSET, topic=TOPIC, group=GROUP, timestamp=middle, isForce="true"
        )
        assert answer.code == ResponseCode.SUCCESS, answer.remark
        assert decode_offset_table(bytes(answer.body)) == {
            MessageQueue(TOPIC, "broker-a", number): 1 for number in (0, 1)
        }
        await eventually(lambda: len(member.got) == 6, 60)
        await asyncio.sleep(30)
        assert sorted(member.bodies) == sorted(["old 0", "old 1", "new 0", "new 1", "new 0", "new 1"])
        stored = lab.cluster.kernels[0].get(ConsumerOffsetManager)
        await eventually(lambda: stored.query_all(GROUP, TOPIC) == {0: 2, 1: 2}, 20)


@pytest.mark.virtual_time
async def test_a_reset_that_cannot_be_done_says_why_and_changes_nothing(
    tmp_path: Path, environment: Environment
) -> None:
    async with group_lab(tmp_path, environment, queues=2) as lab, Tool(lab) as tool:
        member = await lab.join("c0")
        await lab.settled()
        await lab.send("0", "1", "2", "3")
        await eventually(lambda: len(member.got) == 4)
        await lab.leave(member)
        offsets = lab.cluster.kernels[0].get(ConsumerOffsetManager)
        before = offsets.snapshot()
        reset = {"topic": TOPIC, "group": GROUP, "timestamp": 0, "isForce": "true"}
        for change, code, words in (
            ({"topic": "Nowhere"}, ResponseCode.TOPIC_NOT_EXIST, "Nowhere"),
            ({"group": "nobody"}, ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST, "nobody"),
            (
                {"queueId": 1, "offset": 4},
                ResponseCode.SYSTEM_ERROR,
                "Target offset 4 not in consume queue range [0-3]",
            ),
        ):
            answer = await tool.ask(RequestCode.INVOKE_BROKER_TO_RESET_OFFSET, **{**reset, **change})
            assert (answer.code, words in (answer.remark or "")) == (code, True), answer
        assert offsets.snapshot() == before
        # One queue, an exact offset; the group is offline and learns of it when it comes back.
        answer = await tool.ask(RequestCode.INVOKE_BROKER_TO_RESET_OFFSET, **{**reset, "queueId": 1, "offset": 1})
        assert decode_offset_table(bytes(answer.body)) == {MessageQueue(TOPIC, "broker-a", 1): 1}
        again = await lab.join("c1")
        await eventually(lambda: len(again.got) == 1)
        await asyncio.sleep(20)
        assert again.bodies == ["3"]


@pytest.mark.virtual_time
async def test_client_side_reset_needs_members_and_moves_nobody_forward_unless_forced(
    tmp_path: Path, environment: Environment
) -> None:
    async with group_lab(tmp_path, environment, queues=1, use_server_side_reset_offset=False) as lab, Tool(lab) as tool:
        reset = {"topic": TOPIC, "group": GROUP, "timestamp": -1, "isForce": "false"}
        answer = await tool.ask(RequestCode.INVOKE_BROKER_TO_RESET_OFFSET, **reset)
        assert (answer.code, answer.remark) == (1, f"THe consumer group <{GROUP}> not exist")
        await lab.send(*map(str, range(6)))
        offsets = lab.cluster.kernels[0].get(ConsumerOffsetManager)
        offsets.commit(GROUP, TOPIC, 0, 2)
        answer = await tool.ask(RequestCode.INVOKE_BROKER_TO_RESET_OFFSET, **reset)
        assert answer.code == ResponseCode.CONSUMER_NOT_ONLINE
        member = await lab.join("c0")
        member.gate.clear()
        await lab.settled()
        answer = await tool.ask(RequestCode.INVOKE_BROKER_TO_RESET_OFFSET, **reset)
        assert list(decode_offset_table(bytes(answer.body)).values()) == [2]
        # The member drops the queue and takes it over again.
        await asyncio.sleep(5)
        await lab.settled()
        answer = await tool.ask(RequestCode.INVOKE_BROKER_TO_RESET_OFFSET, **{**reset, "isForce": "true"})
        assert list(decode_offset_table(bytes(answer.body)).values()) == [6]
        await eventually(lambda: offsets.query(GROUP, TOPIC, 0) == 6, 30)


@pytest.mark.virtual_time
async def test_questions_are_passed_on_to_the_consumer(tmp_path: Path, environment: Environment) -> None:
    async with group_lab(tmp_path, environment, queues=2) as lab, Tool(lab) as tool:
        member = await lab.join("c0")
        await lab.settled()
        result = await lab.producer.send(Message.of(TOPIC, b"direct"), queue=lab.queues[1])
        await eventually(lambda: member.bodies == ["direct"])
        client = {"consumerGroup": GROUP, "clientId": "10.1.1.1@c0"}

        answer = await tool.ask(RequestCode.GET_CONSUMER_RUNNING_INFO, **client)
        info = ConsumerRunningInfo.decode(bytes(answer.body))
        assert info.properties["PROP_CONSUME_TYPE"] == "CONSUME_PASSIVELY"
        assert info.mq_table[lab.queues[1]].commit_offset == 1
        assert {one.topic for one in info.subscription_set} == {TOPIC, f"%RETRY%{GROUP}"}

        body = await tool.json(RequestCode.CONSUME_MESSAGE_DIRECTLY, **client, msgId=result.offset_msg_id, topic=TOPIC)
        assert body["consumeResult"] == "CR_SUCCESS"
        assert member.bodies == ["direct", "direct"]
        member.fails.add("direct")
        body = await tool.json(RequestCode.CONSUME_MESSAGE_DIRECTLY, **client, msgId=result.offset_msg_id, topic=TOPIC)
        assert (body["consumeResult"], "ValueError" in body["remark"]) == ("CR_THROW_EXCEPTION", True)
        assert member.consumer.offsets.get(lab.queues[1]) == 1, "handling a message directly commits nothing"
        refused = await tool.ask(RequestCode.CONSUME_MESSAGE_DIRECTLY, **client, msgId="00" * 15 + "07", topic=TOPIC)
        assert refused.code == ResponseCode.SYSTEM_ERROR

        body = await tool.json(RequestCode.INVOKE_BROKER_TO_GET_CONSUMER_STATUS, topic=TOPIC, group=GROUP)
        assert list(body["consumerTable"]) == ["10.1.1.1@c0"]
        refused = await tool.ask(RequestCode.INVOKE_BROKER_TO_GET_CONSUMER_STATUS, topic=TOPIC, group="nobody")
        assert refused.remark == "No Any Consumer online in the consumer group: [nobody]"
        refused = await tool.ask(RequestCode.GET_CONSUMER_RUNNING_INFO, consumerGroup=GROUP, clientId="gone")
        assert (refused.code, refused.remark) == (1, f"The Consumer <{GROUP}> <gone> not online")


@pytest.mark.virtual_time
async def test_a_client_that_does_not_answer_costs_ten_seconds_and_no_more(
    tmp_path: Path, environment: Environment
) -> None:
    async with group_lab(tmp_path, environment, queues=1) as lab, Tool(lab) as tool:
        mute = Wire(environment, lab.cluster.kernels[0].config.broker_address, "mute")
        await mute.beat(GROUP)

        async def never(_: object) -> None:
            await asyncio.sleep(3_600)

        mute.client.on_request(RequestCode.GET_CONSUMER_RUNNING_INFO, never)  # type: ignore[arg-type]
        began = asyncio.get_running_loop().time()
        command = RemotingCommand.create_request(
            RequestCode.GET_CONSUMER_RUNNING_INFO, {"consumerGroup": GROUP, "clientId": "mute"}
        )
        answer = await tool._wire.client.request(lab.cluster.kernels[0].config.broker_address, command, 30)
        assert answer.code == ResponseCode.CONSUME_MSG_TIMEOUT
        assert round(asyncio.get_running_loop().time() - began) == 10
        await mute.close()


@pytest.mark.virtual_time
async def test_groups_are_created_changed_and_deleted(tmp_path: Path, environment: Environment) -> None:
    async with group_lab(tmp_path, environment, queues=1) as lab, Tool(lab) as tool:
        wanted = SubscriptionGroupConfig(group_name=GROUP, consume_enable=False, retry_queue_nums=2)
        answer = await tool.ask(RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, encode_body(wanted))
        assert answer.code == ResponseCode.SUCCESS
        assert (tmp_path / "broker-a" / "config" / "subscriptionGroup.json").exists(), "answered before it is on disk"
        body = await tool.json(RequestCode.GET_SUBSCRIPTIONGROUP_CONFIG, group=GROUP)
        assert (body["consumeEnable"], body["retryQueueNums"]) == (False, 2)
        body = await tool.json(RequestCode.GET_ALL_SUBSCRIPTIONGROUP_CONFIG)
        assert GROUP in body["subscriptionGroupTable"] and "CID_RMQ_SYS_TRANS" in body["subscriptionGroupTable"]
        pull = await tool.ask(
            RequestCode.PULL_MESSAGE, consumerGroup=GROUP, topic=TOPIC, queueId=0, queueOffset=0, maxMsgNums=1,
            sysFlag=4, commitOffset=0, suspendTimeoutMillis=0, subVersion=0, subscription="*",
        )  # fmt: skip
        assert (pull.code, pull.remark) == (16, f"subscription group no permission, {GROUP}")
        bad = encode_body(SubscriptionGroupConfig(group_name="bad name"))
        answer = await tool.ask(RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, bad)
        assert answer.code == ResponseCode.INVALID_PARAMETER

        offsets = lab.cluster.kernels[0].get(ConsumerOffsetManager)
        offsets.commit(GROUP, TOPIC, 0, 7)
        await tool.ask(RequestCode.CLONE_GROUP_OFFSET, srcGroup=GROUP, destGroup="copy", topic=TOPIC, offline="true")
        assert offsets.query("copy", TOPIC, 0) == 7
        await tool.ask(RequestCode.DELETE_SUBSCRIPTIONGROUP, groupName=GROUP, cleanOffset="true")
        assert lab.cluster.kernels[0].get(SubscriptionGroupManager).select(GROUP) is None
        assert offsets.query(GROUP, TOPIC, 0) == -1
        assert offsets.query("copy", TOPIC, 0) == 7


@pytest.mark.virtual_time
async def test_a_group_can_be_forbidden_to_read_one_topic(tmp_path: Path, environment: Environment) -> None:
    async with group_lab(tmp_path, environment, queues=1) as lab, Tool(lab) as tool:
        member = await lab.join("c0")
        await lab.settled()
        body = await tool.json(RequestCode.UPDATE_AND_GET_GROUP_FORBIDDEN, group=GROUP, topic=TOPIC, readable="false")
        assert body == {"group": GROUP, "topic": TOPIC, "readable": False}
        # The pull that is being held was let in before.
        await asyncio.sleep(20)
        await lab.send("0")
        await asyncio.sleep(10)
        assert member.bodies == []
        await tool.json(RequestCode.UPDATE_AND_GET_GROUP_FORBIDDEN, group=GROUP, topic=TOPIC, readable="true")
        await eventually(lambda: member.bodies == ["0"])


@pytest.mark.virtual_time
async def test_a_group_is_told_which_units_of_a_queue_it_wants(tmp_path: Path, environment: Environment) -> None:
    async with group_lab(tmp_path, environment, queues=1) as lab, Tool(lab) as tool:
        await lab.join("c0", "blue")
        await lab.settled()
        await lab.send("a", tags="red")
        await lab.send("b", tags="blue")
        wanted = {"topic": TOPIC, "queueId": 0, "index": 0, "count": 10, "consumerGroup": GROUP}
        body = await tool.json(RequestCode.QUERY_CONSUME_QUEUE, **wanted)
    assert body["subscriptionData"]["subString"] == "blue"
    assert [unit["eval"] for unit in body["queueData"]] == [False, True]
