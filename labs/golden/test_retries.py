"""Retries and dead letters of an Apache broker go on with ours."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from labs.golden.test_store import stores, unpack
from labs.stage_14_retry.retry_lab import stored
from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.client.admin.client import AdminClient
from rocketmq_py.client.admin.dead_letters import DeadLetterAdmin
from rocketmq_py.client.consume_service import ConsumeContext, ConsumeStatus
from rocketmq_py.client.consumer_config import PushConsumerConfig
from rocketmq_py.client.producer import Producer
from rocketmq_py.client.push_consumer import PushConsumer
from rocketmq_py.common.config import Setting, apply_properties
from rocketmq_py.common.message import Message, MessageExt
from rocketmq_py.common.topic import dlq_topic, retry_topic
from rocketmq_py.store.config import MessageStoreConfig
from rocketmq_py.testing.cluster import Cluster
from rocketmq_py.testing.eventually import eventually

NAME = "clean-53"
TOPIC, GROUP = "GoldRetry", "GoldGroupRetry"


@asynccontextmanager
async def our_cluster(folder: Path) -> AsyncIterator[Cluster]:
    """Run a cluster of ours whose broker has the store of an Apache broker."""
    expected = stores()[NAME]
    shutil.move(unpack(NAME, folder / "apache"), folder / "broker-a")
    config, store_config = BrokerConfig(), MessageStoreConfig()
    settings = {key: Setting(value, "expected.json") for key, value in expected["brokerConfig"].items()}
    apply_properties(settings, config, store_config, lenient=True)
    async with Cluster(folder, config=config, store_config=store_config, through="retry") as cluster:
        yield cluster


@pytest.mark.timeout(60)
async def test_dead_letters_of_an_apache_broker_are_listed_and_sent_again(tmp_path: Path) -> None:
    """Claim: what an Apache broker put aside is not lost with it.

    Experiment: open its store with three dead letters, which a Java consumer had failed twice; send them again, and
    start a consumer of ours in that group.
    Observe: the consumer gets the three as messages of their first topic, and nothing that was consumed already. One
    that fails again comes again, with the count from 0 on, and is a dead letter beside those of Apache.
    """
    apache = [row for row in stores()[NAME]["commitlog"]["records"] if row["topic"] == dlq_topic(GROUP)]
    async with our_cluster(tmp_path) as cluster, AdminClient(namesrv_addr=cluster.namesrv_addr) as admin:
        letters = DeadLetterAdmin(admin.instance)
        (summary,) = await letters.groups()
        assert (summary.group, summary.messages) == (GROUP, 3)
        assert (summary.oldest_ms, summary.newest_ms) == (apache[0]["storeTimestamp"], apache[-1]["storeTimestamp"])
        found = [letter async for letter in letters.read(GROUP)]
        assert [letter.message.msg_id for letter in found] == [row["offsetMsgId"] for row in apache]
        for letter in found:
            assert (letter.topic, letter.tries) == (TOPIC, 2)
            assert await letters.find(GROUP, letter.message.unique_key) == await letters.find(
                GROUP, letter.message.msg_id
            )
            await letters.resend(letter)
            assert await letters.resend(letter) is None

        got: list[MessageExt] = []

        async def listener(messages: Sequence[MessageExt], context: ConsumeContext) -> ConsumeStatus:
            got.extend(messages)
            context.delay_level_when_next_consume = 1
            return ConsumeStatus.RECONSUME_LATER if messages[0].keys == "retry-1" else ConsumeStatus.CONSUME_SUCCESS

        consumer = PushConsumer(GROUP, PushConsumerConfig(namesrv_addr=cluster.namesrv_addr, max_reconsume_times=1))
        consumer.subscribe(TOPIC)
        consumer.register_listener(listener)
        kernel = cluster.kernels[0]
        async with consumer:
            await eventually(lambda: len(stored(kernel, dlq_topic(GROUP))) == 4 and len(got) >= 4, 30)
        assert {message.topic for message in got} == {TOPIC}
        tries = sorted((message.keys, message.reconsume_times) for message in got)
        assert tries == [("retry-0", 0), ("retry-1", 0), ("retry-1", 1), ("retry-2", 0)]


@pytest.mark.timeout(60)
async def test_a_group_of_an_apache_broker_goes_on_with_its_retries(tmp_path: Path) -> None:
    """A new message fails in the group that the Apache broker knew; its retry topic continues behind the old retries."""
    got: list[MessageExt] = []

    async def listener(messages: Sequence[MessageExt], context: ConsumeContext) -> ConsumeStatus:
        got.extend(messages)
        context.delay_level_when_next_consume = 1
        return ConsumeStatus.RECONSUME_LATER if len(got) == 1 else ConsumeStatus.CONSUME_SUCCESS

    async with our_cluster(tmp_path) as cluster, Producer(namesrv_addr=cluster.namesrv_addr) as producer:
        await producer.send(Message.of(TOPIC, b"new", tags="r"))
        consumer = PushConsumer(GROUP, PushConsumerConfig(namesrv_addr=cluster.namesrv_addr))
        consumer.subscribe(TOPIC)
        consumer.register_listener(listener)
        async with consumer:
            await eventually(lambda: len(got) == 2, 30)
        assert [(message.body, message.reconsume_times) for message in got] == [(b"new", 0), (b"new", 1)]
        last = stored(cluster.kernels[0], retry_topic(GROUP))[-1]
        assert last.queue_offset == 3
