"""Requests and replies, end to end: what the one who asks gets, and what becomes of questions nobody answers."""

from __future__ import annotations

import asyncio
import logging
import threading
import uuid
from pathlib import Path
from typing import Any

import pytest

from rocketmq_py.broker.client.producer_manager import ProducerManager
from rocketmq_py.client import sync_request
from rocketmq_py.client.errors import ClientError, ClientStateError, NoRouteError, SendFailedError
from rocketmq_py.client.instance import MQClientInstance
from rocketmq_py.client.producer import Producer
from rocketmq_py.client.pull_api import PullStatus
from rocketmq_py.client.pull_consumer import PullConsumer
from rocketmq_py.client.reply import NotARequestError, create_reply_message
from rocketmq_py.client.request_futures import RequestFutures, TooManyRequestsError
from rocketmq_py.client.request_producer import ReplyNotDeliveredError, RequestProducer, RequestTimeoutError
from rocketmq_py.client.selectors import select_by_hash
from rocketmq_py.common import properties as names
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.message import Message, MessageExt, MessageQueue
from rocketmq_py.remoting.server import RemotingServer
from rocketmq_py.testing.eventually import eventually

from .reply_lab import REPLY_TOPIC, TOPIC, after, reply_lab, shout

virtual = pytest.mark.virtual_time


def question(text: str = "two coffees") -> Message:
    return Message.of(TOPIC, text.encode(), tags="price", keys="q-1")


def now() -> float:
    return asyncio.get_running_loop().time()


def waiting(producer: RequestProducer) -> int:
    return len(RequestFutures.of(producer.instance))


# --- the ordinary case --------------------------------------------------------------------------------------------------


@virtual
async def test_a_question_gets_the_answer_that_a_consumer_sends(tmp_path: Path, environment: Environment) -> None:
    """Experiment: a consumer answers in capitals. Observe: the reply, what it carries, and that nothing is left over."""
    async with reply_lab(tmp_path, environment) as lab, lab.replier() as replier, lab.asker() as producer:
        message = question()
        began = now()
        reply = await producer.request(message, timeout=5)

        assert reply.body == b"TWO COFFEES"
        assert now() - began < 0.1, "the question or the reply waited for something; for which heartbeat?"
        asked = replier.requests[0].properties
        assert asked[names.REPLY_TO_CLIENT] == producer.instance.client_id
        assert asked[names.TTL] == "5000"
        correlation_id = uuid.UUID(asked[names.CORRELATION_ID])
        assert (correlation_id.version, correlation_id.variant) == (4, uuid.RFC_4122)
        assert reply.properties[names.CORRELATION_ID] == asked[names.CORRELATION_ID]
        assert reply.properties[names.MSG_TYPE] == "reply"
        assert reply.topic == REPLY_TOPIC
        assert int(reply.properties[names.PUSH_REPLY_TIME]) <= int(reply.properties[names.ARRIVE_TIME])
        assert reply.store_host == lab.cluster.kernels[0].config.broker_address
        assert message.properties == {"TAGS": "price", "KEYS": "q-1"}, "the caller's message was changed"
        assert waiting(producer) == 0


@virtual
async def test_each_of_many_questions_under_way_gets_its_own_answer(tmp_path: Path, environment: Environment) -> None:
    """Two producers ask 500 questions each at the same time; the slower answers come back in another order."""

    async def answer(request: MessageExt) -> bytes | None:
        await asyncio.sleep(0.3 if request.body.endswith(b"7") else 0.01)
        return b"re: " + request.body

    async with (
        reply_lab(tmp_path, environment, brokers=2) as lab,
        lab.replier(answer) as replier,
        lab.asker("Left") as left,
        lab.asker("Right") as right,
    ):
        # One listener call at a time would make 1,000 answers take long.
        texts = [(producer, f"{producer.group} {number}") for number in range(500) for producer in (left, right)]
        replies = await asyncio.gather(*(producer.request(question(text), timeout=60) for producer, text in texts))
        assert [reply.body.decode() for reply in replies] == [f"re: {text}" for _, text in texts]
        assert len({request.broker_name for request in replier.requests}) == 2
        assert (waiting(left), waiting(right), replier.failures) == (0, 0, [])


@virtual
async def test_queue_and_selector_say_where_the_question_goes(tmp_path: Path, environment: Environment) -> None:
    async with reply_lab(tmp_path, environment) as lab, lab.replier() as replier, lab.asker() as producer:
        queue = MessageQueue(TOPIC, "broker-a", 3)
        assert (await producer.request(question("here"), queue=queue, timeout=5)).body == b"HERE"
        assert replier.requests[-1].queue_id == 3
        for _ in range(3):
            await producer.request_by(question("there"), select_by_hash, "anna", timeout=5)
        assert len({request.queue_id for request in replier.requests[1:]}) == 1
        with pytest.raises(ClientError, match="chose no queue"):
            await producer.request_by(question(), lambda queues, message, argument: None)  # type: ignore[arg-type,return-value]
        assert waiting(producer) == 0


@virtual
async def test_long_questions_and_replies_travel_compressed(tmp_path: Path, environment: Environment) -> None:
    text = "coffee " * 2_000
    async with reply_lab(tmp_path, environment) as lab, lab.replier() as replier, lab.asker() as producer:
        reply = await producer.request(question(text), timeout=5)
        assert reply.body.decode() == text.upper()
        assert replier.requests[0].body.decode() == text
        # The stored copy of the reply can be read as well.
        stored = await stored_replies(lab.cluster.namesrv_addr, environment)
        assert [message.body for message in stored] == [reply.body]


async def stored_replies(namesrv_addr: str, environment: Environment) -> list[MessageExt]:
    """Return what lies in the topic of replies, over all brokers."""
    found: list[MessageExt] = []
    async with PullConsumer("Looking", namesrv_addr=namesrv_addr, environment=environment) as consumer:
        for queue in await consumer.fetch_queues(REPLY_TOPIC):
            result = await consumer.pull(queue, 0)
            if result.status is PullStatus.FOUND:
                found += result.messages
    return found


@virtual
async def test_a_reply_is_also_stored_unless_that_is_switched_off(tmp_path: Path, environment: Environment) -> None:
    for folder, store in (("on", True), ("off", False)):
        async with (
            reply_lab(tmp_path / folder, environment, store_reply_message_enable=store) as lab,
            lab.replier() as replier,
            lab.asker() as producer,
        ):
            reply = await producer.request(question(), timeout=5)
            sent = await replier.producer.send(create_reply_message(replier.requests[0], b"again"))
            stored = await stored_replies(lab.cluster.namesrv_addr, environment)
            if store:
                assert [message.body for message in stored] == [reply.body, b"again"]
                assert (stored[1].queue_offset, stored[1].msg_id) == (sent.queue_offset, sent.offset_msg_id)
                assert names.PUSH_REPLY_TIME not in stored[0].properties
            else:
                assert stored == []
                assert (sent.queue_offset, sent.offset_msg_id) == (0, "0")


# --- nobody answers, or too late ----------------------------------------------------------------------------------------


@virtual
async def test_a_question_without_an_answer_ends_when_its_time_is_over(
    tmp_path: Path, environment: Environment
) -> None:
    """The error names the time, the request, where the question lies, and what may be wrong."""
    async with reply_lab(tmp_path, environment) as lab, lab.asker() as producer:
        began = now()
        with pytest.raises(RequestTimeoutError) as caught:
            await producer.request(question(), timeout=7)
        assert now() - began == pytest.approx(7, abs=0.01)
        assert caught.value.code == 10_006
        text = str(caught.value)
        for words in ("within 7 s", TOPIC, "it is stored in queue", "broker-a", "Is a consumer of that topic running"):
            assert words in text
        assert isinstance(caught.value, TimeoutError)
        assert waiting(producer) == 0


@virtual
async def test_an_answer_that_comes_too_late_is_dropped_and_logged(
    tmp_path: Path, environment: Environment, caplog: pytest.LogCaptureFixture
) -> None:
    """Its sender is told SUCCESS: to send it again would not make it less late. The next question is not confused."""
    async with reply_lab(tmp_path, environment) as lab, lab.replier(after(2.0)) as replier, lab.asker() as producer:
        with pytest.raises(RequestTimeoutError):
            await producer.request(question("slow"), timeout=1)
        replier.answer = shout
        assert (await producer.request(question("quick"), timeout=1)).body == b"QUICK"
        futures = RequestFutures.of(producer.instance)
        with caplog.at_level(logging.WARNING):
            await eventually(lambda: futures.unclaimed == 1, 10)
        assert "nobody waits for it" in caplog.text
        assert replier.requests[0].properties[names.CORRELATION_ID] in caplog.text
        assert replier.failures == []
        assert repr(futures) == "<RequestFutures 0 waiting, 1 unclaimed>"


@virtual
async def test_only_the_first_of_two_answers_counts(tmp_path: Path, environment: Environment) -> None:
    async with reply_lab(tmp_path, environment) as lab, lab.replier() as replier, lab.asker() as producer:

        async def twice(request: MessageExt) -> bytes | None:
            await replier.producer.reply(request, b"first")
            return b"second"

        replier.answer = twice
        assert (await producer.request(question(), timeout=5)).body == b"first"
        futures = RequestFutures.of(producer.instance)
        await eventually(lambda: futures.unclaimed == 1, 10)


@virtual
async def test_a_cancelled_question_leaves_nothing_behind(tmp_path: Path, environment: Environment) -> None:
    async with reply_lab(tmp_path, environment) as lab, lab.replier(after(3.0)) as replier, lab.asker() as producer:
        task = asyncio.create_task(producer.request(question(), timeout=60))
        await eventually(lambda: bool(replier.requests), 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert waiting(producer) == 0
        await eventually(lambda: RequestFutures.of(producer.instance).unclaimed == 1, 10)


@virtual
async def test_a_cancelled_question_is_not_tried_any_longer(tmp_path: Path, environment: Environment) -> None:
    """Its broker does not answer. Nobody waits for that, so stopping the producer does not wait either."""
    async with reply_lab(tmp_path, environment) as lab, lab.replier():
        producer = lab.asker()
        await producer.start()
        await producer.request(question(), timeout=5)
        loop: Any = asyncio.get_running_loop()
        loop.network.cut(lab.cluster.kernels[0].get(RemotingServer).port)
        task = asyncio.create_task(producer.request(question(), timeout=600))
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.sleep(0.1)
        assert producer._tasks == set()
        loop.network.heal(lab.cluster.kernels[0].get(RemotingServer).port)
        await producer.stop()


@virtual
async def test_a_reply_may_overtake_the_answer_to_the_send(tmp_path: Path, environment: Environment) -> None:
    """The one who asked goes on at once; stopping waits for the send, as for any other."""

    class LateAnswers(RequestProducer):
        ended = False

        async def _attempt(self, *arguments: Any) -> Any:
            result = await super()._attempt(*arguments)
            await asyncio.sleep(5)
            self.ended = True
            return result

    async with reply_lab(tmp_path, environment) as lab, lab.replier():
        producer = LateAnswers("Askers", namesrv_addr=lab.cluster.namesrv_addr, environment=environment)
        async with producer:
            began = now()
            assert (await producer.request(question(), timeout=60)).body == b"TWO COFFEES"
            assert now() - began < 1
            assert not producer.ended
        assert producer.ended


@virtual
async def test_stopping_the_producer_ends_the_questions_that_wait(tmp_path: Path, environment: Environment) -> None:
    async with reply_lab(tmp_path, environment) as lab:
        producer = lab.asker()
        await producer.start()
        tasks = [asyncio.create_task(producer.request(question(), timeout=600)) for _ in range(3)]
        await eventually(lambda: waiting(producer) == 3, 10)
        await asyncio.sleep(1)
        began = now()
        await producer.stop()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert now() - began < 5
        assert all(isinstance(end, ClientStateError) and "was stopped while request" in str(end) for end in ends)
        assert waiting(producer) == 0
        with pytest.raises(ClientError, match="not running"):
            await producer.request(question())
        await producer.stop()


@virtual
async def test_the_number_of_questions_that_wait_is_bounded(tmp_path: Path, environment: Environment) -> None:
    async with reply_lab(tmp_path, environment) as lab, lab.asker(max_waiting=5) as producer:
        tasks = [asyncio.create_task(producer.request(question(), timeout=3)) for _ in range(5)]
        await eventually(lambda: waiting(producer) == 5, 2)
        with pytest.raises(TooManyRequestsError, match="5 requests of producer Askers wait"):
            await producer.request(question(), timeout=3)
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(end) for end in ends} == {RequestTimeoutError}
        with pytest.raises(RequestTimeoutError):
            await producer.request(question(), timeout=1)


# --- who cannot be asked, or answered -----------------------------------------------------------------------------------


@virtual
async def test_a_question_that_cannot_be_sent_fails_at_once(tmp_path: Path, environment: Environment) -> None:
    async with reply_lab(tmp_path, environment, auto_create_topic_enable=False) as lab, lab.asker() as producer:
        began = now()
        with pytest.raises(NoRouteError):
            await producer.request(Message.of("Nowhere", b"x"), timeout=60)
        await lab.cluster.kernels[0].stop()
        with pytest.raises((SendFailedError, NoRouteError)):
            await producer.request(question(), timeout=60)
        assert now() - began < 20
        assert waiting(producer) == 0


@virtual
@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
async def test_a_time_out_must_be_a_time(tmp_path: Path, environment: Environment, timeout: float) -> None:
    async with reply_lab(tmp_path, environment) as lab, lab.asker() as producer:
        with pytest.raises(InvalidInputError, match="time-out of a request"):
            await producer.request(question(), timeout=timeout)


@virtual
async def test_what_is_no_request_cannot_be_answered_and_a_reply_cannot_ask(
    tmp_path: Path, environment: Environment
) -> None:
    async with reply_lab(tmp_path, environment) as lab, lab.asker() as producer:
        plain = MessageExt("Orders", b"x", {names.UNIQ_KEY: "0A0B", names.CLUSTER: "DefaultCluster"})
        with pytest.raises(NotARequestError, match="no property CORRELATION_ID, REPLY_TO_CLIENT") as caught:
            await producer.reply(plain, b"y")
        assert caught.value.code == 10_007
        never_stored = MessageExt("Orders", b"x", {names.CORRELATION_ID: "1", names.REPLY_TO_CLIENT: "c"})
        with pytest.raises(NotARequestError, match="no property CLUSTER"):
            create_reply_message(never_stored, b"y")
        reply = Message(REPLY_TOPIC, b"x", {names.MSG_TYPE: "reply"})
        with pytest.raises(InvalidInputError, match="cannot be a request"):
            await producer.request(reply)
        never_stored.properties[names.CLUSTER] = "DefaultCluster"
        with pytest.raises(InvalidInputError, match="empty body"):
            await producer.reply(never_stored, b"")


@virtual
async def test_the_replier_learns_that_the_client_is_gone(tmp_path: Path, environment: Environment) -> None:
    """The remark is RocketMQ's; the error says more. The reply is stored all the same."""
    async with reply_lab(tmp_path, environment) as lab, lab.replier(after(3.0)) as replier:
        async with lab.asker() as producer:
            client_id = producer.instance.client_id
            with pytest.raises(RequestTimeoutError):
                await producer.request(question(), timeout=1)
        await eventually(lambda: bool(replier.failures), 10)
        failure = replier.failures[0]
        assert isinstance(failure, ReplyNotDeliveredError)
        assert f"push reply message fail, channel of <{client_id}> not found." in str(failure)
        assert "It has stopped" in str(failure)
        assert [m.body for m in await stored_replies(lab.cluster.namesrv_addr, environment)] == [b"TWO COFFEES"]


@virtual
async def test_a_client_that_does_not_take_the_reply_is_reported(tmp_path: Path, environment: Environment) -> None:
    """Its process hangs, or was taken from the network: the broker waits 10 s for it, and for no longer."""
    async with reply_lab(tmp_path, environment) as lab, lab.replier() as replier, lab.asker() as producer:
        replier.producer.config.send_msg_timeout = 60_000
        # It never answers the push.
        registration = producer.instance.transport.processors.find(326)
        assert registration is not None
        producer.instance.transport.processors._table[326] = type(registration)(326, lambda request: None, "client")
        began = now()
        with pytest.raises(RequestTimeoutError):
            await producer.request(question(), timeout=20)
        assert isinstance(replier.failures[0], ReplyNotDeliveredError)
        assert f"push reply message to {producer.instance.client_id}fail." in str(replier.failures[0])
        assert now() - began == pytest.approx(20, abs=0.1)


# --- several brokers, lost connections, shared clients --------------------------------------------------------------------


@virtual
async def test_a_reply_to_any_broker_of_the_topic_finds_the_client(tmp_path: Path, environment: Environment) -> None:
    """RocketMQ's own clients reply to whichever broker comes next, not to the one that the request came from.

    Experiment: all questions go to one of three brokers, all replies to the other two, without a second attempt.
    """
    async with (
        reply_lab(tmp_path, environment, brokers=3) as lab,
        lab.asker() as producer,
        Producer("Others", namesrv_addr=lab.cluster.namesrv_addr, environment=environment) as other,
    ):
        targets = ["broker-b", "broker-c"]

        async def by_another_broker(request: MessageExt) -> bytes | None:
            queue = MessageQueue(REPLY_TOPIC, targets[len(request.body) % 2], 0)
            await other.send(create_reply_message(request, b"ok"), queue=queue)
            return None

        async with lab.replier(by_another_broker) as replier:
            for text in ("x", "xx"):
                queue = MessageQueue(TOPIC, "broker-a", 0)
                assert (await producer.request(question(text), queue=queue, timeout=2)).body == b"ok"
            assert {request.broker_name for request in replier.requests} == {"broker-a"}


@virtual
async def test_a_broker_is_greeted_once_for_each_connection(tmp_path: Path, environment: Environment) -> None:
    """Not before every question, and a broker that cannot be reached is left to the periodic heartbeat."""
    async with reply_lab(tmp_path, environment, brokers=2) as lab, lab.replier(), lab.asker() as producer:
        loop: Any = asyncio.get_running_loop()
        loop.network.refuse(lab.cluster.kernels[1].get(RemotingServer).port)
        instance = producer.instance
        connected: list[str] = []
        connect, heartbeats, heartbeat = instance.transport.connect, [], instance.heartbeat
        instance.heartbeat = lambda: heartbeats.append(now()) or heartbeat()  # type: ignore[method-assign,func-returns-value]

        async def counting(address: str, timeout: float = 3.0) -> Any:
            connected.append(address)
            return await connect(address, timeout)

        instance.transport.connect = counting  # type: ignore[method-assign]
        for _ in range(20):
            await producer.request(question(), queue=MessageQueue(TOPIC, "broker-a", 0), timeout=2)
        assert len(heartbeats) == 1
        assert connected.count(lab.cluster.kernels[1].config.broker_address) == 1


@virtual
async def test_one_who_gives_up_does_not_end_the_greeting_for_others(tmp_path: Path, environment: Environment) -> None:
    async with reply_lab(tmp_path, environment) as lab, lab.replier(), lab.asker() as producer:
        loop: Any = asyncio.get_running_loop()
        port = lab.cluster.kernels[0].get(RemotingServer).port
        await producer.publish_queues(TOPIC)
        loop.network.cut(port)
        first = asyncio.create_task(producer.request(question("first"), timeout=60))
        second = asyncio.create_task(producer.request(question("second"), timeout=60))
        await asyncio.sleep(0.5)
        first.cancel()
        await asyncio.sleep(0.5)
        loop.network.heal(port)
        began = now()
        assert (await second).body == b"SECOND"
        assert now() - began < 1, "the second one began anew"


@virtual
async def test_a_connection_that_was_lost_is_introduced_again_with_the_next_question(
    tmp_path: Path, environment: Environment
) -> None:
    """The periodic heartbeat is up to 30 s away; a question cannot wait for it."""
    async with reply_lab(tmp_path, environment) as lab, lab.replier(), lab.asker() as producer:
        await producer.request(question(), timeout=2)
        kernel = lab.cluster.kernels[0]
        for _ in range(3):
            loop: Any = asyncio.get_running_loop()
            loop.network.reset(kernel.get(RemotingServer).port)
            await asyncio.sleep(0.1)
            assert kernel.get(ProducerManager).find_connection(producer.instance.client_id) is None
            assert (await producer.request(question("again"), timeout=9)).body == b"AGAIN"


@virtual
async def test_a_broker_of_the_topic_that_is_down_does_not_delay_questions(
    tmp_path: Path, environment: Environment
) -> None:
    async with reply_lab(tmp_path, environment, brokers=2) as lab, lab.replier(), lab.asker("First") as first:
        # The consumer works on the queues of both brokers; then the second one hangs.
        await first.request(question(), timeout=60)
        loop: Any = asyncio.get_running_loop()
        port = lab.cluster.kernels[1].get(RemotingServer).port
        loop.network.cut(port)
        async with lab.asker("Second") as second:
            began = now()
            for producer in (first, second, second):
                reply = await producer.request(question(), queue=MessageQueue(TOPIC, "broker-a", 0), timeout=60)
                assert reply.body == b"TWO COFFEES"
            assert now() - began < 1
            loop.network.heal(port)


@virtual
async def test_two_producers_of_one_client_both_get_their_answers(tmp_path: Path, environment: Environment) -> None:
    """They share the connection and the table of futures; one stops, the other goes on."""
    async with reply_lab(tmp_path, environment) as lab, lab.replier():
        first = lab.asker("First")
        await first.start()
        instance: MQClientInstance = first.instance
        second = RequestProducer("Second", instance=instance, environment=environment)
        await second.start()
        assert (await first.request(question("one"), timeout=2)).body == b"ONE"
        assert (await second.request(question("two"), timeout=2)).body == b"TWO"
        await second.stop()
        assert (await first.request(question("three"), timeout=2)).body == b"THREE"
        await first.stop()


# --- without await ------------------------------------------------------------------------------------------------------


async def test_the_blocking_producer_asks_and_answers(tmp_path: Path, environment: Environment) -> None:
    def program(namesrv_addr: str, replier: Any) -> None:
        with sync_request.RequestProducer("Sellers", namesrv_addr=namesrv_addr, max_waiting=2) as producer:
            assert producer.request(question("one"), timeout=10).body == b"ONE"
            assert producer.request_by(question("two"), select_by_hash, "anna", timeout=10).body == b"TWO"
            futures = [producer.request_async(question(text), timeout=10) for text in ("three", "four")]
            assert [future.result(10).body for future in futures] == [b"THREE", b"FOUR"]
            with pytest.raises(NotARequestError):
                producer.reply(MessageExt("Orders", b"x"), b"y")
            assert producer.reply(replier.requests[0], b"late").is_ok
            assert producer.send(question("not a request")).is_ok
        with pytest.raises(ClientError, match="not running"):
            producer.request(question())

    async with reply_lab(tmp_path, environment) as lab, lab.replier() as replier:
        before = set(threading.enumerate())
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, program, lab.cluster.namesrv_addr, replier)
        left = {thread.name for thread in set(threading.enumerate()) - before}
        assert not [name for name in left if name.startswith("rocketmq-py-request")]
