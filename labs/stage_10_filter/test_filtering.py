"""Filters on a running broker: what travels, what is evaluated, and who has the last word."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from rocketmq_py.assembly.stages import build_broker
from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.filter.calc_bit_map import BitMapDispatcher
from rocketmq_py.broker.filter.consumer_filter import ConsumerFilterManager
from rocketmq_py.broker.filter.expression import SqlExpression
from rocketmq_py.broker.filter.message_filters import MessageFilters
from rocketmq_py.broker.filter.values import Properties
from rocketmq_py.broker.statistics import BrokerStatsManager
from rocketmq_py.client.errors import BrokerResponseError
from rocketmq_py.client.producer import Producer
from rocketmq_py.client.pull_api import PullStatus
from rocketmq_py.client.pull_consumer import PullConsumer
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.java import string_hash
from rocketmq_py.common.message import Message, MessageQueue
from rocketmq_py.remoting.bodies.subscription import SQL92, SubscriptionData
from rocketmq_py.remoting.codes import ResponseCode
from rocketmq_py.testing.cluster import SMALL_STORE, Cluster

ORDERS = MessageQueue("Orders", "broker-a", 1)


class FilterLab:
    """A cluster of one broker as of stage filter, a producer and a pull consumer."""

    def __init__(self, cluster: Cluster, producer: Producer, consumer: PullConsumer) -> None:
        self.kernel = cluster.kernels[0]
        self.producer = producer
        self.consumer = consumer

    async def send(self, body: str, *, tags: str = "", **properties: str) -> None:
        """Store one message in queue 1 of topic Orders."""
        message = Message.of("Orders", body.encode(), tags=tags)
        message.properties.update(properties)
        await self.producer.send(message, queue=ORDERS)

    async def read(self, expression: str, expression_type: str = "TAG") -> list[str]:
        """Read the whole queue with a filter, and return the bodies."""
        bodies: list[str] = []
        offset = 0
        while True:
            result = await self.consumer.pull(ORDERS, offset, expression, expression_type=expression_type)
            bodies += [message.body.decode() for message in result.messages]
            if result.status in (PullStatus.NO_NEW_MSG, PullStatus.OFFSET_ILLEGAL):
                return bodies
            offset = result.next_begin_offset

    def bytes_sent(self) -> int:
        """Return how many bytes of messages the broker has handed to the group."""
        return self.kernel.get(BrokerStatsManager).group_get("Orders", "audit").bytes


@asynccontextmanager
async def lab(
    folder: Path, environment: Environment, config: BrokerConfig | None = None, with_bit_maps: bool = False
) -> AsyncIterator[FilterLab]:
    config = config or BrokerConfig(enable_property_filter=True, enable_calc_filter_bit_map=with_bit_maps)
    store_config = replace(SMALL_STORE, enable_consume_queue_ext=with_bit_maps)
    async with (
        Cluster(folder, through="filter", environment=environment, config=config, store_config=store_config) as cluster,
        Producer("shop", namesrv_addr=cluster.namesrv_addr, environment=environment) as producer,
    ):
        # Sending once creates the topic, so that its queues can be chosen below.
        await producer.send(Message.of("Orders", b"creates the topic"), queue=None)
        async with PullConsumer("audit", namesrv_addr=cluster.namesrv_addr, environment=environment) as consumer:
            yield FilterLab(cluster, producer, consumer)


def other_than_first(bodies: list[str]) -> list[str]:
    """Leave out the message that created the topic, wherever it landed."""
    return [body for body in bodies if body != "creates the topic"]


@pytest.mark.claim("pull-04")
@pytest.mark.virtual_time
async def test_tags_are_filtered_by_hash_on_the_broker_and_by_text_on_the_client(
    tmp_path: Path, environment: Environment
) -> None:
    """Claim: tag filtering happens on the broker by hash code, and again on the client by string.

    Experiment: send messages with the tags Aa and BB, which share a hash code, and Cc; subscribe Aa.
    Observe: the broker sends the Aa and the BB messages (their bytes are counted), the application sees Aa only.
    """
    assert string_hash("Aa") == string_hash("BB") != string_hash("Cc")
    async with lab(tmp_path, environment) as filters:
        for tag in ("Aa", "BB", "Cc", "Aa", ""):
            await filters.send(f"tagged {tag or 'not at all'}", tags=tag)
        bodies = await filters.read("Aa")
        both_tags = filters.bytes_sent()
        assert bodies == ["tagged Aa", "tagged Aa"]

        assert await filters.read("Aa || BB") == ["tagged Aa", "tagged BB", "tagged Aa"]
        assert filters.bytes_sent() == 2 * both_tags, "with either subscription the broker sends the same records"
        assert await filters.read("Cc") == ["tagged Cc"]
        assert filters.bytes_sent() < 3 * both_tags


@pytest.mark.claim("flt-01")
@pytest.mark.virtual_time
async def test_sql92_filters_on_the_broker(tmp_path: Path, environment: Environment) -> None:
    """Claim: SQL92 expressions over message properties filter on the broker.

    Experiment: send ten messages with properties a and colour, pull them with expressions of every form.
    Observe: exactly the matching ones come, and only these travel.
    """
    async with lab(tmp_path, environment) as filters:
        for number in range(10):
            properties = {"a": str(number), "colour": "red" if number % 2 else "blue"}
            if number == 9:
                properties["rare"] = "yes"
            await filters.send(str(number), **properties)
        for expression, expected in (
            ("a BETWEEN 3 AND 5", "345"),
            ("colour IN ('red') AND a < 4", "13"),
            ("rare IS NOT NULL", "9"),
            ("rare IS NULL AND (a > 7 OR a = 0)", "08"),
            ("NOT (a >= 2) OR colour = 'blue' AND a > 6", "018"),
            ("a > 100", ""),
        ):
            before = filters.bytes_sent()
            bodies = other_than_first(await filters.read(expression, SQL92))
            assert "".join(bodies) == expected, expression
            assert (filters.bytes_sent() > before) is bool(expected), expression


@pytest.mark.virtual_time
async def test_a_wrong_expression_is_refused_with_its_position_and_sql92_only_where_it_is_switched_on(
    tmp_path: Path, environment: Environment
) -> None:
    async with lab(tmp_path / "on", environment) as filters:
        with pytest.raises(BrokerResponseError, match=r"At position 5") as caught:
            await filters.read("a > ", SQL92)
        assert caught.value.code == ResponseCode.SUBSCRIPTION_PARSE_FAILED
    async with lab(tmp_path / "off", environment, BrokerConfig()) as filters:
        with pytest.raises(BrokerResponseError, match="does not support consumer to filter message by SQL92"):
            await filters.read("a > 5", SQL92)


@pytest.mark.claim("flt-02")
@pytest.mark.virtual_time
async def test_bit_maps_spare_the_broker_reading_and_evaluating(
    tmp_path: Path, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Claim: a bloom filter bit map written with the consume queue spares evaluating the expression for most messages.

    Experiment: a group filters for one message in twenty. Store 100 messages before and 100 after its filter became
        known, then pull all, and count evaluations during the pulls.
    Observe: each of the older messages is evaluated; of the younger ones only those whose bits are set, which are the
        matching ones and a few whose bits other filters set.
    """
    evaluated = 0
    matches = SqlExpression.matches

    def counting(expression: SqlExpression, properties: Properties) -> bool:
        nonlocal evaluated
        evaluated += 1
        return matches(expression, properties)

    async with lab(tmp_path, environment, with_bit_maps=True) as filters:
        for number in range(100):
            await filters.send(f"old {number}", a=str(number % 20))
        registered = filters.kernel.get(ConsumerFilterManager)
        wanted = SubscriptionData(topic="Orders", sub_string="a = 7", expression_type=SQL92, sub_version=1)
        registered.register("audit", [wanted])
        registered.register(
            "others", [SubscriptionData(topic="Orders", sub_string="a < 10", expression_type=SQL92, sub_version=1)]
        )
        for number in range(100):
            await filters.send(f"new {number}", a=str(number % 20))
        computed = filters.kernel.get(BitMapDispatcher).evaluated
        assert computed == 200, "two filters, a hundred messages"

        monkeypatch.setattr(SqlExpression, "matches", counting)
        bodies = await filters.read("a = 7", SQL92)
        print(f"{evaluated} evaluations for 200 messages, 100 of which have bit maps")
        assert bodies == [f"{age} {number}" for age in ("old", "new") for number in (7, 27, 47, 67, 87)]
        # 100 old ones, perhaps the one that created the topic, 5 young ones that match, and some that pass by chance.
        assert 105 <= evaluated <= 116, "young messages were evaluated although their bits rule them out"


@pytest.mark.claim("flt-03")
@pytest.mark.virtual_time
async def test_code_filters_only_where_the_operator_put_it(tmp_path: Path, environment: Environment) -> None:
    """Claim (qualified): older versions let consumers upload code; here only the operator of a broker can add any.

    Experiment: install a Python filter for a group in the broker's process; then let a client send a subscription
        with source code in class filter mode, as old clients did.
    Observe: the operator's filter decides about every message of the group, on top of the client's own expression;
        the client's code is not even looked at.
    """
    async with lab(tmp_path, environment) as filters:
        installed = filters.kernel.get(MessageFilters).operator_filters
        installed["audit"] = lambda properties: int(properties.get("amount", "0")) % 3 == 0
        for number in range(7):
            await filters.send(str(number), tags="even" if number % 2 == 0 else "odd", amount=str(number))
        assert other_than_first(await filters.read("*")) == ["0", "3", "6"]
        assert await filters.read("even") == ["0", "6"]
        assert other_than_first(await filters.read("amount > 2", SQL92)) == ["3", "6"]
        del installed["audit"]
        assert await filters.read("odd") == ["1", "3", "5"]

    uploaded = SubscriptionData(
        topic="Orders", sub_string="raise SystemExit('compiled!')", class_filter_mode=True, sub_version=1
    )
    built = MessageFilters.by_tag(filters.kernel.get(MessageFilters), "audit", uploaded)
    assert built.matches_record(b""), "old class filter subscriptions match everything, whatever their text says"


@pytest.mark.claim("flt-04")
@pytest.mark.virtual_time
async def test_filtering_at_the_broker_saves_transfer(tmp_path: Path, environment: Environment) -> None:
    """Claim: filtering at the broker saves network transfer at the price of work at the broker.

    Experiment: 200 messages of 1 KiB, one in twenty wanted. Read them by a filter, then all of them.
    Observe: the bytes sent are about a twentieth; the broker looked at each of the 200 records for it.
    """
    async with lab(tmp_path, environment) as filters:
        for number in range(200):
            await filters.send("x" * 1_024, a=str(number % 20))
        assert len(await filters.read("a = 7", SQL92)) == 10
        filtered = filters.bytes_sent()
        assert len(other_than_first(await filters.read("*"))) == 200
        everything = filters.bytes_sent() - filtered
        print(f"{filtered} bytes sent with the filter, {everything} without: {everything / filtered:.1f} times as many")
        assert 18 < everything / filtered < 22


@pytest.mark.virtual_time
async def test_a_broker_with_extensions_starts_again_and_goes_on(tmp_path: Path, environment: Environment) -> None:
    async with lab(tmp_path, environment, with_bit_maps=True) as filters:
        for number in range(5):
            await filters.send(f"{number}", tags="Aa" if number % 2 else "Cc", a=str(number))
        assert await filters.read("Aa") == ["1", "3"]
        kernel = filters.kernel
        port = kernel.config.listen_port
        await kernel.stop()
        again = build_broker(replace(kernel.config, listen_port=port), kernel.store_config, environment, "filter")
        await again.start()
        try:
            assert await filters.read("Aa") == ["1", "3"]
            await filters.send("5", tags="Aa", a="5")
            assert await filters.read("Aa") == ["1", "3", "5"]
        finally:
            await again.stop()
    assert any((tmp_path / "broker-a" / "consumequeue_ext" / "Orders").iterdir())
