"""Clients come, change, fall silent and go, over the wire and under virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from rocketmq_py.broker.client.consumer_ids_notifier import ConsumerIdsNotifier
from rocketmq_py.broker.client.consumer_manager import ConsumerManager
from rocketmq_py.broker.client.housekeeping import ClientHousekeepingService
from rocketmq_py.broker.client.producer_manager import ProducerManager
from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.filter.bloom import BloomFilter
from rocketmq_py.broker.filter.consumer_filter import ConsumerFilterManager
from rocketmq_py.broker.filter.sql_compiler import SqlCompiler
from rocketmq_py.broker.processor.client_manage import MAX_BODY_SIZE, MAX_GROUPS, ClientManageProcessor
from rocketmq_py.broker.processor.consumer_manage import ConsumerManageProcessor
from rocketmq_py.broker.subscription_group import SubscriptionGroupManager
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.periodic import Periodic
from rocketmq_py.remoting.bodies.heartbeat import CheckClientRequestBody
from rocketmq_py.remoting.bodies.subscription import SubscriptionData, build_subscription
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.java_json import encode_body
from rocketmq_py.remoting.processors import Processors
from rocketmq_py.remoting.server import RemotingServer
from rocketmq_py.testing.eventually import eventually

from .wire import Wire

ORDERS = build_subscription("Orders", "*", sub_version=10)


class ClientTables:
    """The broker's side of clients with a port, and nothing else of a broker."""

    def __init__(self, tmp_path: Path, environment: Environment, config: BrokerConfig) -> None:
        self.consumers, self.producers = ConsumerManager(), ProducerManager()
        compiler = SqlCompiler()
        self.filters = ConsumerFilterManager(str(tmp_path), environment, compiler, BloomFilter())
        self.groups = SubscriptionGroupManager(config, str(tmp_path), environment)
        self.topics = TopicConfigManager(config, str(tmp_path / "topics.json"), environment)
        self.notifier = ConsumerIdsNotifier(config, self.filters)
        self.consumers.listeners.append(self.notifier)
        processors = Processors()
        ClientManageProcessor(
            config, environment, self.consumers, self.producers, self.groups, self.topics, compiler
        ).install(processors)
        ConsumerManageProcessor(self.consumers).install(processors)
        self.server = RemotingServer(processors, environment.clock, "127.0.0.1", 0)
        housekeeping = ClientHousekeepingService(self.consumers, self.producers)
        self.server.on_closed.append(housekeeping.closed)
        self.periodic = Periodic(environment.random)
        self.periodic.every(10, housekeeping.scan, "scan clients")
        self._environment = environment

    def client(self, client_id: str) -> Wire:
        return Wire(self._environment, f"127.0.0.1:{self.server.port}", client_id)


@asynccontextmanager
async def tables(
    tmp_path: Path, environment: Environment, config: BrokerConfig | None = None
) -> AsyncIterator[ClientTables]:
    opened = ClientTables(tmp_path, environment, config or BrokerConfig())
    await opened.server.serve()
    await opened.periodic.start()
    try:
        yield opened
    finally:
        await opened.periodic.stop()
        await opened.server.stop()


@pytest.mark.virtual_time
async def test_every_member_hears_of_a_new_one_and_finds_it_in_the_list(
    tmp_path: Path, environment: Environment
) -> None:
    async with tables(tmp_path, environment) as broker:
        one, two = broker.client("client-1"), broker.client("client-2")
        answer = await one.beat("billing", ORDERS, producer_group="payments")
        assert (answer.code, answer.ext_fields) == (
            ResponseCode.SUCCESS,
            {"IS_SUPPORT_HEART_BEAT_V2": "true", "IS_SUB_CHANGE": "true"},
        )
        assert broker.topics.select("%RETRY%billing") is not None, "the group's retry topic comes with its first member"
        assert broker.producers.connections("payments") is not None
        await two.beat("billing", ORDERS)
        await eventually(lambda: one.notified == ["billing", "billing"] and two.notified == ["billing"])
        answer = await one.ask(RequestCode.GET_CONSUMER_LIST_BY_GROUP, {"consumerGroup": "billing"})
        assert sorted(msgspec.json.decode(answer.body)["consumerIdList"]) == ["client-1", "client-2"]

        await two.close()
        await eventually(lambda: len(one.notified) == 3)
        answer = await one.ask(RequestCode.GET_CONSUMER_LIST_BY_GROUP, {"consumerGroup": "billing"})
        assert msgspec.json.decode(answer.body) == {"consumerIdList": ["client-1"]}
        await one.close()
        await eventually(lambda: broker.consumers.find("billing") is None)


@pytest.mark.virtual_time
async def test_a_group_without_members_has_no_list(tmp_path: Path, environment: Environment) -> None:
    async with tables(tmp_path, environment) as broker:
        client = broker.client("client-1")
        answer = await client.ask(RequestCode.GET_CONSUMER_LIST_BY_GROUP, {"consumerGroup": "nobody"})
        assert (answer.code, answer.remark) == (
            ResponseCode.SYSTEM_ERROR,
            "no consumer for this group, nobody",
        )
        await client.close()


@pytest.mark.claim("reb-09")
@pytest.mark.virtual_time
async def test_a_consumer_that_is_silent_for_120_seconds_is_dropped(tmp_path: Path, environment: Environment) -> None:
    """Claim: a consumer silent for 120 s is dropped, so that its queues move.

    Experiment: two consumers send heartbeats every 30 s; the connection of one stays open, but it falls silent.
    Observe: between 120 and 130 s after its last heartbeat (the scan runs every 10 s) it is gone from the list, and
        the other one was told, which is what makes it take over the queues.
    """
    async with tables(tmp_path, environment) as broker:
        lively, silent = broker.client("lively"), broker.client("silent")
        await silent.beat("billing", ORDERS)
        last_heard = asyncio.get_running_loop().time()
        await lively.beat("billing", ORDERS)
        dropped_after = 0.0
        while not dropped_after:
            await asyncio.sleep(1)
            elapsed = asyncio.get_running_loop().time() - last_heard
            if int(elapsed) % 30 == 0:
                await lively.beat("billing", ORDERS)
            # Other requests keep the connection from being idle; they are no sign of a consumer.
            await silent.ask(RequestCode.GET_CONSUMER_LIST_BY_GROUP, {"consumerGroup": "billing"})
            if broker.consumers.groups["billing"].client_ids == ["lively"]:
                dropped_after = elapsed
            assert elapsed < 200, "the silent consumer is still in the group"
        print(f"dropped {dropped_after:.0f} s after its last heartbeat")
        assert 120 < dropped_after <= 131
        await eventually(lambda: lively.notified == ["billing", "billing"])
        await lively.close()
        await silent.close()


@pytest.mark.virtual_time
async def test_unregistering_takes_effect_at_once(tmp_path: Path, environment: Environment) -> None:
    async with tables(tmp_path, environment) as broker:
        one, two = broker.client("client-1"), broker.client("client-2")
        await one.beat("billing", ORDERS)
        await two.beat("billing", ORDERS, producer_group="payments")
        fields = {"clientID": "client-2", "consumerGroup": "billing", "producerGroup": "payments"}
        assert (await two.ask(RequestCode.UNREGISTER_CLIENT, fields)).code == ResponseCode.SUCCESS
        assert broker.consumers.groups["billing"].client_ids == ["client-1"]
        assert broker.producers.connections("payments") is None
        await eventually(lambda: one.notified == ["billing"] * 3)
        await one.close()
        await two.close()


@pytest.mark.virtual_time
async def test_a_second_heartbeat_of_version_2_carries_no_subscriptions(
    tmp_path: Path, environment: Environment
) -> None:
    async with tables(tmp_path, environment) as broker:
        one, two = broker.client("client-1"), broker.client("client-2")
        answer = await one.beat("billing", without_sub=True, fingerprint=77)
        assert answer.ext_fields["IS_SUB_CHANGE"] == "true", "a broker that knows nothing must ask for everything"
        await one.beat("billing", ORDERS, fingerprint=77)
        answer = await one.beat("billing", without_sub=True, fingerprint=77)
        assert answer.ext_fields["IS_SUB_CHANGE"] == "false"
        assert broker.consumers.groups["billing"].subscriptions.keys() == {"Orders"}
        answer = await two.beat("billing", build_subscription("Other", "*"), fingerprint=78)
        assert answer.ext_fields["IS_SUB_CHANGE"] == "true"
        await one.close()
        await two.close()


@pytest.mark.virtual_time
async def test_the_body_of_the_cpp_client_is_understood(tmp_path: Path, environment: Environment) -> None:
    # Recorded from the C++ client 2.x: enums as numbers, versions as text, members left out, a line end behind it.
    body = (
        b'{"clientID":"10217-127.0.0.1@DEFAULT","consumerDataSet":[{"consumeFromWhere":0,"consumeType":1,"groupName":'
        b'"WireCppGroup","messageModel":1,"subscriptionDataSet":[{"subString":"*","subVersion":"1795266114483","topic":'
        b'"%RETRY%WireCppGroup"},{"codeSet":[0,0],"subString":"ct || zz","subVersion":"1795266114483","tagsSet":["ct",'
        b'"zz"],"topic":"WireCppTopic"}]}],"producerDataSet":[{"groupName":"WireCppGroupP"}]}\n'
    )
    async with tables(tmp_path, environment) as broker:
        client = broker.client("-")
        assert (await client.ask(RequestCode.HEART_BEAT, body=body)).code == ResponseCode.SUCCESS
        listed = broker.consumers.groups["WireCppGroup"].to_body()
        assert listed.connection_set[0].client_id == "10217-127.0.0.1@DEFAULT"
        assert (listed.consume_type, listed.message_model, listed.consume_from_where) == (
            "CONSUME_PASSIVELY",
            "CLUSTERING",
            "CONSUME_FROM_LAST_OFFSET",
        )
        tags = listed.subscription_table["WireCppTopic"]
        assert (tags.sub_version, tags.tags_set) == (1_795_266_114_483, ["ct", "zz"])
        await client.close()


@pytest.mark.virtual_time
async def test_heartbeats_beyond_the_limits_are_refused_whole(tmp_path: Path, environment: Environment) -> None:
    async with tables(tmp_path, environment) as broker:
        client = broker.client("client-1")
        many = encode_body(
            {"clientID": "x", "producerDataSet": [{"groupName": f"g{number}"} for number in range(MAX_GROUPS + 1)]}
        )
        long = encode_body(
            {"clientID": "x", "consumerDataSet": [
                {"groupName": "g", "subscriptionDataSet": [{"topic": "T", "subString": "x" * 100_000}]}
            ]}
        )  # fmt: skip
        for body, words in ((many, "1001 groups"), (long, "100000 characters"), (b" " * (MAX_BODY_SIZE + 1), "bytes")):
            answer = await client.ask(RequestCode.HEART_BEAT, body=body)
            assert answer.code == ResponseCode.SYSTEM_ERROR
            assert words in (answer.remark or "")
        assert not broker.consumers.groups
        assert not broker.producers.to_body().data
        await client.close()


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    ("enabled", "expression", "kind", "code", "words"),
    [
        (False, "TagA", "TAG", ResponseCode.SUCCESS, ""),
        (False, "a > 5", "SQL92", ResponseCode.SYSTEM_ERROR, "does not support consumer to filter message by SQL92"),
        (True, "a > 5", "SQL92", ResponseCode.SUCCESS, ""),
        (True, "a > ", "SQL92", ResponseCode.SUBSCRIPTION_PARSE_FAILED, "At position 5"),
        (True, "(" * 100_000, "SQL92", ResponseCode.SUBSCRIPTION_PARSE_FAILED, "At position 8193"),
        (True, "a > 5", "GROOVY", ResponseCode.SUBSCRIPTION_PARSE_FAILED, "GROOVY"),
    ],
)
async def test_an_expression_can_be_checked_before_a_consumer_starts(
    tmp_path: Path, environment: Environment, enabled: bool, expression: str, kind: str, code: int, words: str
) -> None:
    async with tables(tmp_path, environment, BrokerConfig(enable_property_filter=enabled)) as broker:
        client = broker.client("client-1")
        subscription = SubscriptionData(topic="Orders", sub_string=expression, expression_type=kind)
        body = CheckClientRequestBody(client_id="client-1", group="billing", subscription_data=subscription)
        answer = await client.ask(RequestCode.CHECK_CLIENT_CONFIG, body=encode_body(body))
        assert answer.code == code
        assert words in (answer.remark or "")
        await client.close()
