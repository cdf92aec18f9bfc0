"""Retries and dead letters with programs of others: their consumers fail at our broker, ours at Apache's."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from rocketmq_py.client.admin.client import AdminClient
from rocketmq_py.client.admin.dead_letters import DeadLetterAdmin
from rocketmq_py.client.config import ProducerConfig
from rocketmq_py.client.consume_service import ConsumeContext, ConsumeStatus
from rocketmq_py.client.consumer_config import PushConsumerConfig
from rocketmq_py.client.orderly import ConsumeOrderlyContext, InOrder
from rocketmq_py.client.producer import Producer
from rocketmq_py.client.push_consumer import PushConsumer
from rocketmq_py.common.message import Message, MessageExt
from rocketmq_py.common.topic import dlq_topic
from rocketmq_py.remoting.bodies.heartbeat import ConsumeFromWhere
from rocketmq_py.store.message_store import MessageStore
from rocketmq_py.testing.eventually import eventually

from .apache import apache_servers
from .java_tools import OLDER, VERSION, JavaProgram, java, java_client, mqadmin
from .other_clients import cpp_client, go_client, node_client, received
from .our_servers import our_servers

pytestmark = [pytest.mark.interop, pytest.mark.serial, pytest.mark.timeout(400)]

TOPIC = "Repairs"
#: Every level is a second: tries that a lab can wait for.
LEVELS = "1s 1s 1s 1s 1s 1s"
#: Tries after the first one.
LIMIT = 2
KEYS = [*(f"good-{number}" for number in range(10)), *(f"bad-{number}" for number in range(5))]
BAD = [key for key in KEYS if key.startswith("bad")]


class Call(NamedTuple):
    """A call of a listener."""

    key: str
    tries: int
    topic: str


def expected() -> list[Call]:
    """Return what a listener is given in all: the good ones once, the bad ones until they are dead."""
    calls = [Call(key, 0, TOPIC) for key in KEYS if key not in BAD]
    return sorted(calls + [Call(key, tries, TOPIC) for key in BAD for tries in range(LIMIT + 1)])


def calls_of(program: JavaProgram) -> list[Call]:
    """Return the calls that a Java consumer wrote down."""
    rows = [line.split(" ") for line in list(program.lines) if line.count(" ") == 2 and "-" in line]
    return [Call(key, int(tries), topic) for key, tries, topic in rows if tries.isdigit()]


async def send(namesrv: str) -> None:
    """Send all messages, patiently: a virtual machine that has just started is slow."""
    async with Producer("Shop", ProducerConfig(namesrv_addr=namesrv, send_msg_timeout=20_000)) as producer:
        for key in KEYS:
            message = Message.of(TOPIC, f"body of {key}".encode(), tags="TagA", keys=key)
            message.properties["customer"] = "Zoë"
            assert (await producer.send(message)).is_ok


class OurConsumer:
    """A consumer of ours that does what `ConsumeFailing.java` does."""

    def __init__(self, namesrv: str, group: str, *, in_order: bool = False, bad: str = "bad") -> None:
        self.calls: list[Call] = []
        self.got: list[MessageExt] = []
        self._bad = bad
        config = PushConsumerConfig(
            namesrv_addr=namesrv,
            consume_from_where=ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET,
            max_reconsume_times=LIMIT,
            suspend_current_queue_time_millis=200,
        )
        self.consumer = PushConsumer(group, config)
        self.consumer.subscribe(TOPIC)
        self.consumer.register_listener(InOrder(self.in_order) if in_order else self.concurrently)

    def _is_bad(self, message: MessageExt) -> bool:
        self.got.append(message)
        self.calls.append(Call(message.keys, message.reconsume_times, message.topic))
        return message.keys.startswith(self._bad)

    async def concurrently(self, messages: Sequence[MessageExt], context: ConsumeContext) -> ConsumeStatus:
        return ConsumeStatus.RECONSUME_LATER if self._is_bad(messages[0]) else ConsumeStatus.CONSUME_SUCCESS

    async def in_order(self, messages: Sequence[MessageExt], context: ConsumeOrderlyContext) -> None:
        if self._is_bad(messages[0]):
            raise ValueError("as it should be")


async def check_dead_letters(admin: AdminClient, group: str, tries: int = LIMIT + 1) -> None:
    """See five dead letters, send them again, and see that a second time nothing is sent."""
    letters = DeadLetterAdmin(admin.instance)
    summaries = {summary.group: summary.messages for summary in await letters.groups()}
    assert summaries[group] == len(BAD)
    found = [letter async for letter in letters.read(group)]
    assert sorted(letter.message.keys for letter in found) == BAD
    for letter in found:
        assert (letter.topic, letter.message.properties["customer"]) == (TOPIC, "Zoë")
        assert letter.tries == tries
        assert await letters.resend(letter) is not None
    assert len(found) == len(BAD)

    async def is_known() -> bool:
        return all([await letters.sent_again(letter) for letter in found])

    async with asyncio.timeout(20):
        while not await is_known():  # noqa: ASYNC110 (the index of another process)
            await asyncio.sleep(0.2)
    assert [await letters.resend(letter) for letter in found] == [None] * len(BAD)


@pytest.mark.parametrize("version", [VERSION, OLDER])
@pytest.mark.parametrize("mode", ["concurrently", "orderly"])
async def test_a_java_consumer_that_fails_at_our_broker(tmp_path: Path, mode: str, version: str) -> None:
    """Claim: a program written for Apache RocketMQ gets retries and dead letters from our broker unchanged.

    Experiment: a Java consumer with two retries fails for 5 of 15 messages. They are sent again from our side, while the
    group is offline; then it starts anew, and fails no more.
    Observe: the good messages come once, the bad ones with the counts 0, 1 and 2 under their first topic's name, then they
    are dead letters; in the end each comes once more, with the count 0.
    """
    client = java_client(version, tmp_path)
    async with (
        our_servers(tmp_path, store={"message_delay_level": LEVELS}) as servers,
        AdminClient(namesrv_addr=servers.namesrv) as admin,
    ):
        await admin.topics.create(TOPIC, queues=4)
        await send(servers.namesrv)
        group, store = f"Java-{mode}", servers.kernel.get(MessageStore)
        arguments = (servers.namesrv, TOPIC, group, str(LIMIT))
        async with java("ConsumeFailing", *arguments, "bad", mode, home=tmp_path / "one", **client) as consumer:
            await eventually(lambda: store.max_offset(dlq_topic(group), 0) == len(BAD), 90)
            await asyncio.sleep(2)
            assert sorted(calls_of(consumer)) == expected()
            await consumer.close_input()
            await consumer.wait(30)
        if mode == "orderly":
            # It consumes in order no more when its locks are gone, which it gives back.
            letters = DeadLetterAdmin(admin.instance)
            assert not await letters.consumes_in_order(group)
        # A consumer in order of version 4 does not count the try that makes the message a dead letter.
        is_uncounted = mode == "orderly" and version == OLDER
        await check_dead_letters(admin, group, LIMIT if is_uncounted else LIMIT + 1)
        async with java("ConsumeFailing", *arguments, "nothing", mode, home=tmp_path / "two", **client) as consumer:
            await eventually(lambda: len(calls_of(consumer)) == len(BAD), 90)
            await asyncio.sleep(2)
            assert sorted(calls_of(consumer)) == [Call(key, 0, TOPIC) for key in BAD]


@pytest.mark.parametrize("in_order", [False, True])
async def test_our_consumer_that_fails_at_an_apache_broker(tmp_path: Path, in_order: bool) -> None:
    """The same the other way round, and mqadmin finds the dead letters."""
    async with (
        apache_servers(tmp_path, messageDelayLevel=LEVELS) as apache,
        AdminClient(namesrv_addr=apache.namesrv) as admin,
    ):
        await admin.topics.create(TOPIC, queues=4)
        await send(apache.namesrv)
        group = "OurGroup"
        ours = OurConsumer(apache.namesrv, group, in_order=in_order)
        async with ours.consumer:
            await eventually(lambda: sorted(ours.calls) == expected(), 90)
            await asyncio.sleep(3)
            assert sorted(ours.calls) == expected()
            if in_order:
                assert await DeadLetterAdmin(admin.instance).consumes_in_order(group)
        printed = await mqadmin(tmp_path / "tools", "topicStatus", "-n", apache.namesrv, "-t", dlq_topic(group))
        assert dlq_topic(group) in printed or "apache-a" in printed, printed
        await check_dead_letters(admin, group)
        again = OurConsumer(apache.namesrv, group, bad="nothing")
        async with again.consumer:
            await eventually(lambda: len(again.calls) >= len(BAD), 60)
            await asyncio.sleep(2)
        assert sorted(again.calls) == [Call(key, 0, TOPIC) for key in BAD]
        assert {message.properties["DLQ_ORIGIN_TOPIC"] for message in again.got} == {dlq_topic(group)}


@pytest.mark.parametrize("name", ["Go", "Node"])
async def test_a_consumer_of_another_client_that_fails_at_our_broker(tmp_path: Path, name: str) -> None:
    """It asks for its retry topic with the next refresh of routes, so this takes half a minute."""
    client = {"Go": go_client, "Node": node_client}[name]()
    group = f"{name}Group"
    async with (
        our_servers(tmp_path, store={"message_delay_level": LEVELS}) as servers,
        AdminClient(namesrv_addr=servers.namesrv) as admin,
    ):
        await admin.topics.create(TOPIC, queues=2)
        await send(servers.namesrv)
        async with client.run("fail", servers.namesrv, group, TOPIC, home=tmp_path / name) as consumer:
            store = servers.kernel.get(MessageStore)
            await eventually(lambda: store.max_offset(dlq_topic(group), 0) == len(KEYS), 180)
            await asyncio.sleep(1)
            tries = sorted((body, tries) for tries, _, body in received(consumer))
        assert tries == sorted((f"body of {key}", number) for key in KEYS for number in range(LIMIT + 1))


async def test_a_consumer_of_the_cpp_client_that_fails_at_our_broker(tmp_path: Path) -> None:
    """Each message comes again with the count 1, once.

    When a message fails, the core sends back what it pulled together with it and stands behind it, without asking the
    listener. So not every message is seen with the count 0.
    """
    client = cpp_client()
    async with (
        our_servers(tmp_path, store={"message_delay_level": LEVELS}) as servers,
        AdminClient(namesrv_addr=servers.namesrv) as admin,
    ):
        await admin.topics.create(TOPIC, queues=2)
        async with client.run("fail", servers.namesrv, "CppGroup", TOPIC, "one", home=tmp_path / "cpp") as consumer:
            await eventually(lambda: "started" in consumer.lines, 60)
            await asyncio.sleep(3)
            await send(servers.namesrv)

            def tries() -> list[tuple[str, int]]:
                return sorted((body, tries) for tries, _, body in received(consumer))

            await eventually(lambda: len([body for body, number in tries() if number]) == len(KEYS), 180)
            await asyncio.sleep(2)
            seen = tries()
        assert [body for body, number in seen if number == 1] == sorted(f"body of {key}" for key in KEYS)
        assert len(set(seen)) == len(seen) > len(KEYS)
