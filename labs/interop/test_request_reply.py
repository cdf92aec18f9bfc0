"""Questions and answers between clients of different languages, over our broker and over Apache's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from rocketmq_py.client.admin.client import AdminClient
from rocketmq_py.client.config import ProducerConfig
from rocketmq_py.client.consume_service import ConsumeContext
from rocketmq_py.client.consumer_config import PushConsumerConfig
from rocketmq_py.client.push_consumer import PushConsumer
from rocketmq_py.client.reply import create_reply_message
from rocketmq_py.client.request_producer import RequestProducer
from rocketmq_py.common.message import Message, MessageExt
from rocketmq_py.remoting.bodies.heartbeat import ConsumeFromWhere
from rocketmq_py.testing.eventually import eventually

from .apache import apache_servers
from .java_tools import OLDER, VERSION, JavaProgram, java, java_client
from .other_clients import go_client
from .our_servers import our_servers

pytestmark = [pytest.mark.interop, pytest.mark.serial, pytest.mark.timeout(300)]

TOPIC = "Questions"
COUNT = 20
#: Milliseconds that a virtual machine may take that has just started.
PATIENCE = 20_000
CLIENTS = [f"Java {VERSION}", f"Java {OLDER}", "Go"]


class OurReplier:
    """A consumer of ours that answers each message; every second time as any producer would."""

    def __init__(self, namesrv: str) -> None:
        self.requests: list[MessageExt] = []
        self.producer = RequestProducer(
            "OurRepliers", ProducerConfig(namesrv_addr=namesrv, instance_name="replies", send_msg_timeout=PATIENCE)
        )
        config = PushConsumerConfig(namesrv_addr=namesrv, consume_from_where=ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET)
        self.consumer = PushConsumer("OurAnswering", config)
        self.consumer.subscribe(TOPIC)
        self.consumer.register_listener(self.handle)

    async def handle(self, messages: Sequence[MessageExt], context: ConsumeContext) -> None:
        for request in messages:
            self.requests.append(request)
            body = b"re: " + request.body
            if len(self.requests) % 2:
                await self.producer.reply(request, body)
            else:
                await self.producer.send(create_reply_message(request, body))

    async def __aenter__(self) -> OurReplier:
        await self.producer.start()
        await self.consumer.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.consumer.stop()
        await self.producer.stop()


@asynccontextmanager
async def asker(client: str, namesrv: str, folder: Path) -> AsyncIterator[JavaProgram]:
    """Run a program that asks `COUNT` questions, one after the other."""
    if client == "Go":
        async with go_client().run("request", namesrv, "GoAskers", TOPIC, str(COUNT), home=folder / "asker") as program:
            yield program
        return
    version = client.removeprefix("Java ")
    # The blocking form of 5.3.3 returns when the send is confirmed.
    form = "form=callback" if version == VERSION else "form=blocking"
    arguments = (namesrv, TOPIC, str(COUNT), "kind=request", f"millis={PATIENCE}", form)
    async with java("Produce", *arguments, home=folder / "asker", **java_client(version, folder)) as program:
        yield program


@asynccontextmanager
async def replier(client: str, namesrv: str, folder: Path) -> AsyncIterator[JavaProgram]:
    """Run a consumer that answers with `re: ` and the question, and wait until it has begun."""
    if client == "Go":
        run = go_client().run(
            "consume", namesrv, "TheirAnswering", TOPIC, "one", "reply", "re: ", home=folder / "replier"
        )
    else:
        run = java(
            "Consume", namesrv, TOPIC, "TheirAnswering", "one", "reply=re: ",
            home=folder / "replier", **java_client(client.removeprefix("Java "), folder),
        )  # fmt: skip
    async with run as program:
        await eventually(lambda: "started" in program.lines, 60)
        yield program


async def check_asker(program: JavaProgram, our_replier: OurReplier) -> None:
    """Every question of the program gets its own answer from our replier."""
    assert await program.wait(120) == 0, program.output[-2_000:]
    wanted = [f"reply re: message {number}" for number in range(COUNT)]
    assert [line for line in program.lines if line.startswith("reply")] == wanted, program.output[-2_000:]
    assert f"stored {COUNT}" in program.lines
    # The Go client's first heartbeat comes after its first question: the reply finds nobody, and the failed listener
    # gets the question again.
    assert len({request.body for request in our_replier.requests}) == COUNT


async def check_replier(namesrv: str, program: JavaProgram) -> None:
    """Every question of ours gets its own answer from the program."""
    async with RequestProducer("OurAskers", namesrv_addr=namesrv) as producer:
        for number in range(COUNT):
            question = Message.of(TOPIC, f"message {number}".encode(), tags="q")
            reply = await producer.request(question, timeout=PATIENCE / 1_000)
            assert reply.body == f"re: message {number}".encode()
            assert reply.properties["MSG_TYPE"] == "reply"
    assert "failed" not in program.output


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_client_asks_and_a_consumer_of_ours_answers(tmp_path: Path, client: str) -> None:
    async with our_servers(tmp_path) as servers, AdminClient(namesrv_addr=servers.namesrv) as admin:
        await admin.topics.create(TOPIC, queues=4)
        async with OurReplier(servers.namesrv) as ours, asker(client, servers.namesrv, tmp_path) as program:
            await check_asker(program, ours)


@pytest.mark.parametrize("client", CLIENTS)
async def test_we_ask_and_a_consumer_of_a_client_answers(tmp_path: Path, client: str) -> None:
    async with our_servers(tmp_path) as servers, AdminClient(namesrv_addr=servers.namesrv) as admin:
        await admin.topics.create(TOPIC, queues=4)
        async with replier(client, servers.namesrv, tmp_path) as program:
            await check_replier(servers.namesrv, program)


async def test_questions_and_answers_of_ours_and_of_java_over_an_apache_broker(tmp_path: Path) -> None:
    """Ours asks ours, ours asks Java, Java asks ours: the broker between them is Apache's."""
    async with apache_servers(tmp_path) as apache, AdminClient(namesrv_addr=apache.namesrv) as admin:
        await admin.topics.create(TOPIC, queues=4)
        async with replier(f"Java {OLDER}", apache.namesrv, tmp_path) as program:
            await check_replier(apache.namesrv, program)
        async with OurReplier(apache.namesrv) as ours:
            # Its group is new and begins with the questions that the other one has answered.
            await eventually(lambda: len(ours.requests) == COUNT, 60)
            ours.requests.clear()
            async with RequestProducer("OurAskers", namesrv_addr=apache.namesrv) as producer:
                question = Message.of(TOPIC, b"x" * 10_000)
                assert (await producer.request(question, timeout=PATIENCE / 1_000)).body == b"re: " + question.body
            ours.requests.clear()
            async with asker(f"Java {OLDER}", apache.namesrv, tmp_path) as program:
                await check_asker(program, ours)
