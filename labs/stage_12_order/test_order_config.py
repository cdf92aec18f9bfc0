"""Order configurations as an operator sets them: at every name server, checked before anything is changed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from rocketmq_py.client.admin.client import AdminClient
from rocketmq_py.client.admin.order_config import OrderConfigAdmin, format_order_config, parse_order_config
from rocketmq_py.client.errors import NoNameServerError, NoRouteError
from rocketmq_py.client.producer import Producer
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.namesrv.config import NamesrvConfig
from rocketmq_py.testing.cluster import Cluster

TOPIC = "Orders"


def test_an_order_configuration_is_broker_names_with_numbers_of_queues() -> None:
    queues = parse_order_config("broker-a:4;broker-b:8;")
    assert queues == {"broker-a": 4, "broker-b": 8}
    assert format_order_config(queues) == "broker-a:4;broker-b:8"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names no broker"),
        (";;", "names no broker"),
        ("broker-a", "'broker-a' is not BROKER:QUEUES"),
        (":4", "':4' is not BROKER:QUEUES"),
        ("broker-a:4,broker-b:4", "4,broker-b:4"),
        ("broker-a:x", "number of queues of broker-a"),
        ("broker-a:0", "from 1 to 65536"),
        ("broker-a:65537", "from 1 to 65536"),
        ("broker-a:4;broker-a:5", "broker-a is named twice"),
    ],
)
def test_anything_else_is_refused_with_its_place(text: str, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        parse_order_config(text)


@asynccontextmanager
async def two_name_servers(
    folder: Path, environment: Environment, *, tells: bool = True
) -> AsyncIterator[tuple[Cluster, OrderConfigAdmin]]:
    config = NamesrvConfig(order_message_enable=tells)
    cluster = Cluster(folder, brokers=2, name_servers=2, environment=environment, namesrv_config=config)
    async with cluster, AdminClient(namesrv_addr=cluster.namesrv_addr, environment=environment) as admin:
        await admin.topics.create(TOPIC, queues=3)
        yield cluster, OrderConfigAdmin(admin.instance)


@pytest.mark.virtual_time
async def test_every_name_server_gets_it_and_producers_use_it(tmp_path: Path, environment: Environment) -> None:
    async with two_name_servers(tmp_path, environment) as (cluster, order):
        first, second = (namesrv.address for namesrv in cluster.namesrvs)
        assert await order.get(TOPIC) == {first: None, second: None}
        assert await order.queues_now(TOPIC) == {"broker-a": 3, "broker-b": 3}
        assert await order.silent_name_servers() == []

        await order.set(TOPIC, {"broker-a": 2, "broker-b": 1})
        assert await order.get(TOPIC) == dict.fromkeys((first, second), "broker-a:2;broker-b:1")
        for address in (first, second):
            async with Producer(namesrv_addr=address, environment=environment) as producer:
                found = [(queue.broker_name, queue.queue_id) for queue in await producer.publish_queues(TOPIC)]
            assert found == [("broker-a", 0), ("broker-a", 1), ("broker-b", 0)]

        await order.delete(TOPIC)
        await order.delete(TOPIC)
        assert await order.get(TOPIC) == {first: None, second: None}


@pytest.mark.virtual_time
async def test_a_name_server_that_is_down_is_named_and_the_other_has_it(
    tmp_path: Path, environment: Environment
) -> None:
    async with two_name_servers(tmp_path, environment) as (cluster, order):
        first, second = (namesrv.address for namesrv in cluster.namesrvs)
        await cluster.namesrvs[1].stop()
        with pytest.raises(NoNameServerError, match=second):
            await order.set(TOPIC, {"broker-a": 2})
        order._instance.name_servers.addresses.remove(second)
        assert await order.get(TOPIC) == {first: "broker-a:2"}


@pytest.mark.virtual_time
async def test_what_cannot_work_is_found_before_it_is_set(tmp_path: Path, environment: Environment) -> None:
    async with two_name_servers(tmp_path, environment, tells=False) as (cluster, order):
        assert await order.silent_name_servers() == [namesrv.address for namesrv in cluster.namesrvs]
        with pytest.raises(NoRouteError):
            await order.queues_now("Nowhere")
        with pytest.raises(InvalidInputError):
            await order.set("a/b", {"broker-a": 1})
