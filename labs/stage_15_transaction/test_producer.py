"""The transactional producer: its listener, its check pool, and what it tells the broker."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from labs.stage_15_transaction.transaction_lab import (
    COMMIT,
    GROUP,
    ROLLBACK,
    TOPIC,
    UNKNOW,
    Book,
    TransactionLab,
    bodies,
    transaction_lab,
)
from rocketmq_py.client.errors import ClientError, SendFailedError
from rocketmq_py.client.send_result import SendStatus
from rocketmq_py.client.transaction_listener import EndTransactionContext, LocalTransactionState
from rocketmq_py.client.transaction_producer import TransactionProducer, TransactionProducerConfig
from rocketmq_py.client.transaction_sync import TransactionProducer as BlockingProducer
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.message import Message, MessageExt
from rocketmq_py.store.put_result import PutMessageStatus
from rocketmq_py.store.tick import Tick
from rocketmq_py.testing.cluster import Cluster
from rocketmq_py.testing.eventually import eventually


class Failing(Book):
    """Raises for bodies that say so."""

    async def execute_local_transaction(self, message: Message, argument: Any) -> LocalTransactionState:
        await super().execute_local_transaction(message, argument)
        if message.body == b"raises":
            raise ValueError("the database is gone")
        if message.body == b"waits for something cancelled":
            future = asyncio.get_running_loop().create_future()
            future.cancel()
            await future
        if message.body == b"none":
            return None  # type: ignore[return-value]
        return "commit"  # type: ignore[return-value]

    async def check_local_transaction(self, message: MessageExt) -> LocalTransactionState:
        await super().check_local_transaction(message)
        if self.times_checked(message.body.decode()) == 1:
            raise ValueError("not yet")
        return COMMIT


@pytest.mark.parametrize("body", ["raises", "waits for something cancelled", "none", "returns a text"])
@pytest.mark.virtual_time
async def test_a_listener_that_fails_leaves_the_transaction_unknown(
    tmp_path: Path, environment: Environment, body: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody knows how far it got, so the broker asks; a check that fails is asked again."""
    async with transaction_lab(tmp_path, environment) as lab:
        book = Failing()
        async with lab.producer(book=book) as producer:
            result = await producer.send_message_in_transaction(Message.of(TOPIC, body.encode()))
            assert result.is_ok
            assert result.local_transaction_state is UNKNOW
            assert (result.local_error is not None) == (body in ("raises", "waits for something cancelled"))
            await asyncio.sleep(65)
        assert book.times_checked(body) == 2
        assert await lab.delivered() == {body: 1}
        assert body == "none" or "the transaction listener" in caplog.text


@pytest.mark.virtual_time
async def test_a_half_message_that_is_not_safe_enough_is_rolled_back_without_a_local_transaction(
    tmp_path: Path, environment: Environment
) -> None:
    """The broker stored it, but not as safely as it promises: as in RocketMQ the local part is not executed."""
    async with transaction_lab(tmp_path, environment) as lab, lab.producer() as producer:
        tick = lab.kernel.get(Tick)
        then = tick.then

        def in_doubt(callback: Any, wait: bool = True) -> None:
            then(lambda status: callback(PutMessageStatus.FLUSH_DISK_TIMEOUT), wait)

        tick.then = in_doubt  # type: ignore[method-assign]
        result = await producer.send_message_in_transaction(Message.of(TOPIC, b"a"))
        tick.then = then  # type: ignore[method-assign]
        assert result.status is SendStatus.FLUSH_DISK_TIMEOUT
        assert result.local_transaction_state is ROLLBACK
        assert lab.book.executed == []
        await asyncio.sleep(40)
        assert lab.book.checked == []
        assert await lab.delivered() == {}


@pytest.mark.virtual_time
async def test_no_half_message_no_local_transaction(tmp_path: Path, environment: Environment) -> None:
    """A broker that takes no transactions, an empty body, a producer that is not running: an error, and nothing is done."""
    async with transaction_lab(tmp_path, environment, reject_transaction_message=True) as lab:
        producer = lab.producer(retry_times_when_send_failed=0)
        with pytest.raises(ClientError, match="not running"):
            await producer.send_message_in_transaction(Message.of(TOPIC, b"a"))
        async with producer:
            with pytest.raises(SendFailedError, match="sending transaction message is forbidden"):
                await producer.send_message_in_transaction(Message.of(TOPIC, b"a"))
            with pytest.raises(InvalidInputError, match="empty body"):
                await producer.send_message_in_transaction(Message.of(TOPIC, b""))
            assert (await producer.send(Message.of(TOPIC, b"plain"))).is_ok, "it sends ordinary messages, too"
        assert lab.book.executed == []
        assert await lab.delivered() == {"plain": 1}


@pytest.mark.virtual_time
async def test_the_callers_message_stays_an_ordinary_one(tmp_path: Path, environment: Environment) -> None:
    """Only its id is set, as with `send`; the listener gets the message as it was sent, with group and transaction id."""
    async with transaction_lab(tmp_path, environment) as lab:
        given: list[tuple[Message, Any]] = []

        class Looking(Book):
            async def execute_local_transaction(self, message: Message, argument: Any) -> LocalTransactionState:
                given.append((message, argument))
                return COMMIT

        message = Message.of(TOPIC, b"a", tags="t", keys="k")
        async with lab.producer(book=Looking()) as producer:
            result = await producer.send_message_in_transaction(message, {"account": 7})
            assert set(message.properties) == {"TAGS", "KEYS", "UNIQ_KEY"}
            assert message.properties["UNIQ_KEY"] == result.msg_id == result.transaction_id
            assert (await producer.send(message)).is_ok
        ((half, argument),) = given
        assert argument == {"account": 7}
        assert half.properties["TRAN_MSG"] == "true"
        assert half.properties["PGROUP"] == GROUP
        assert half.properties["__transactionId__"] == result.msg_id
        assert await lab.delivered() == {"a": 2}


@pytest.mark.virtual_time
async def test_cancelling_while_the_local_transaction_runs_leaves_it_to_a_check(
    tmp_path: Path, environment: Environment
) -> None:
    async with transaction_lab(tmp_path, environment) as lab:
        began = asyncio.Event()

        class Slow(Book):
            async def execute_local_transaction(self, message: Message, argument: Any) -> LocalTransactionState:
                began.set()
                await asyncio.sleep(1_000)
                return COMMIT

        book = Slow()
        async with lab.producer(book=book) as producer:
            task = asyncio.create_task(producer.send_message_in_transaction(Message.of(TOPIC, b"a")))
            await began.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.sleep(35)
        assert book.times_checked("a") == 1
        assert await lab.delivered() == {"a": 1}


@pytest.mark.virtual_time
async def test_questions_beyond_the_limit_are_dropped_and_come_again(
    tmp_path: Path, environment: Environment, caplog: pytest.LogCaptureFixture
) -> None:
    """One question is worked on at a time, two may wait; the others are dropped, and the next run asks again."""
    async with transaction_lab(tmp_path, environment) as lab:
        running = most = 0

        class Slow(Book):
            async def check_local_transaction(self, message: MessageExt) -> LocalTransactionState:
                nonlocal running, most
                running += 1
                most = max(most, running)
                await asyncio.sleep(1)
                running -= 1
                return await super().check_local_transaction(message)

        book = Slow()
        book.local = {str(number): UNKNOW for number in range(10)}
        book.later = {str(number): [COMMIT] for number in range(10)}
        async with lab.producer(book=book, check_request_hold_max=2) as producer:
            for number in range(10):
                await producer.send_message_in_transaction(Message.of(TOPIC, str(number).encode()))
            await asyncio.sleep(40)
            assert len(book.checked) == 2
            assert "were dropped" in caplog.text or "was dropped" in caplog.text
            await asyncio.sleep(200)
        assert most == 1
        assert await lab.delivered() == {str(number): 1 for number in range(10)}


@pytest.mark.virtual_time
async def test_a_broker_that_cannot_be_told_asks(tmp_path: Path, environment: Environment) -> None:
    """END_TRANSACTION is one-way: what gets lost on its way is made up for by a check."""
    async with transaction_lab(tmp_path, environment) as lab, lab.producer() as producer:
        half, result = await producer.begin_transaction(Message.of(TOPIC, b"a"))
        one_way = producer.instance.transport.one_way

        async def lost(address: str, command: Any) -> None:
            raise ConnectionResetError("the lab lets it fail")

        producer.instance.transport.one_way = lost  # type: ignore[method-assign]
        await producer.end_transaction(half, result, COMMIT)
        producer.instance.transport.one_way = one_way  # type: ignore[method-assign]
        assert await lab.delivered() == {}
        await asyncio.sleep(35)
        assert lab.book.times_checked("a") == 1
        assert await lab.delivered() == {"a": 1}


@pytest.mark.virtual_time
async def test_a_broker_that_was_started_again_knows_the_producer_before_its_next_half_message(
    tmp_path: Path, environment: Environment
) -> None:
    """Heartbeats come every 30 s; a half message of a new connection is preceded by one."""
    async with transaction_lab(tmp_path, environment, transaction_check_interval=7_000) as lab:
        lab.book.local = {"a": UNKNOW, "b": UNKNOW}
        lab.book.later = {"a": [COMMIT], "b": [COMMIT]}
        async with lab.producer(topics=()) as producer:
            await producer.send_message_in_transaction(Message.of(TOPIC, b"a"))
            await asyncio.sleep(15)
            assert lab.book.times_checked("a") == 1
            await lab.restart()
            await producer.send_message_in_transaction(Message.of(TOPIC, b"b"))
            await asyncio.sleep(15)
            assert lab.book.times_checked("b") == 1
        assert await lab.delivered() == {"a": 1, "b": 1}


@pytest.mark.virtual_time
async def test_hooks_see_every_end(tmp_path: Path, environment: Environment) -> None:
    async with transaction_lab(tmp_path, environment) as lab:
        lab.book.local = {"b": UNKNOW}
        lab.book.later = {"b": [ROLLBACK]}
        seen: list[EndTransactionContext] = []

        class Hook:
            def end(self, context: EndTransactionContext) -> None:
                seen.append(context)
                raise ValueError("hooks may fail")

        async with lab.producer() as producer:
            producer.end_hooks.append(Hook())
            for body in ("a", "b"):
                await producer.send_message_in_transaction(Message.of(TOPIC, body.encode()))
            await asyncio.sleep(35)
        found = [(end.message.body, end.state, end.from_transaction_check) for end in seen]
        assert found == [(b"a", COMMIT, False), (b"b", UNKNOW, False), (b"b", ROLLBACK, True)]
        assert {end.producer_group for end in seen} == {GROUP}


@pytest.mark.virtual_time
async def test_a_question_that_cannot_be_read_or_is_for_another_group_is_left_alone(
    tmp_path: Path, environment: Environment, caplog: pytest.LogCaptureFixture
) -> None:
    """What a broker (or what claims to be one) sends must not end the client."""
    caplog.set_level(logging.WARNING)
    async with transaction_lab(tmp_path, environment) as lab, lab.producer() as producer:
        (connection,) = lab.kernel.get(_server()).connections
        from rocketmq_py.remoting.command import RemotingCommand

        fields = {"tranStateTableOffset": "0", "commitLogOffset": "0"}
        for body in (b"", b"rubbish", b"\xff" * 200):
            connection.one_way(RemotingCommand.create_request(39, fields, body))
        connection.one_way(RemotingCommand.create_request(39, {}, b""))
        other = lab.producer("p2", group="others")
        async with other:
            await asyncio.sleep(1)
        result = await producer.send_message_in_transaction(Message.of(TOPIC, b"a"))
        assert result.is_ok
        assert await lab.delivered() == {"a": 1}
        assert caplog.text.count("cannot be read") == 3


def _server() -> Any:
    from rocketmq_py.remoting.server import RemotingServer

    return RemotingServer


@pytest.mark.virtual_time
async def test_a_producer_without_a_group_is_refused(environment: Environment) -> None:
    with pytest.raises(ClientError, match="needs a group"):
        TransactionProducer("", Book(), environment=environment)


@pytest.mark.parametrize("name", ["check_thread_pool_max_size", "check_request_hold_max", "execute_thread_max"])
@pytest.mark.virtual_time
async def test_pools_without_room_are_refused(environment: Environment, name: str) -> None:
    config = TransactionProducerConfig(**{name: 0})
    with pytest.raises(InvalidInputError, match=f"{name} is 0"):
        TransactionProducer("bank", Book(), config, environment=environment)


@pytest.mark.virtual_time
async def test_two_producers_of_one_group_need_two_clients(tmp_path: Path, environment: Environment) -> None:
    async with transaction_lab(tmp_path, environment) as lab, lab.producer() as first:
        config = TransactionProducerConfig(namesrv_addr=lab.cluster.namesrv_addr)
        second = TransactionProducer(GROUP, Book(), config, instance=first.instance)
        with pytest.raises(ClientError, match="already has a producer of group"):
            await second.start()
        third = TransactionProducer("others", Book(), config, instance=first.instance)
        async with third:
            assert (await third.send_message_in_transaction(Message.of(TOPIC, b"x"))).is_ok
        assert (await first.send_message_in_transaction(Message.of(TOPIC, b"y"))).is_ok
    assert lab.book.executed == ["y"]


# --- without await ----------------------------------------------------------------------------------------------------


class PlainListener:
    """Plain functions, and the threads that they were called in."""

    def __init__(self) -> None:
        self.threads: dict[str, threading.Thread] = {}
        self.unknown: set[bytes] = set()

    def execute_local_transaction(self, message: Message, argument: Any) -> LocalTransactionState:
        self.threads["execute"] = threading.current_thread()
        if message.body == b"raises":
            raise ValueError("no")
        return UNKNOW if message.body in self.unknown else COMMIT

    def check_local_transaction(self, message: MessageExt) -> LocalTransactionState:
        self.threads["check"] = threading.current_thread()
        return COMMIT


async def test_the_blocking_producer_executes_in_the_callers_thread(tmp_path: Path) -> None:
    """A database connection of the caller can be used there. Checks run in a thread of the pool."""
    from rocketmq_py.broker.config import BrokerConfig

    config = BrokerConfig(transaction_check_interval=200, transaction_time_out=300)
    async with Cluster(tmp_path, config=config) as cluster:
        listener = PlainListener()
        listener.unknown = {b"unknown"}
        threads: list[threading.Thread] = []

        def work() -> list[LocalTransactionState]:
            threads.append(threading.current_thread())
            with BlockingProducer(GROUP, listener, namesrv_addr=cluster.namesrv_addr) as producer:
                found = [
                    producer.send_message_in_transaction(Message.of(TOPIC, body)).local_transaction_state
                    for body in (b"a", b"raises", b"unknown")
                ]
                end = time.monotonic() + 20
                while "check" not in listener.threads and time.monotonic() < end:
                    time.sleep(0.01)
                assert producer.send(Message.of(TOPIC, b"plain")).is_ok
            producer.stop()
            return found

        states = await asyncio.to_thread(work)
        assert states == [COMMIT, UNKNOW, UNKNOW]
        assert listener.threads["execute"] is threads[0]
        assert listener.threads["check"] not in (threads[0], threading.main_thread())
        lab = TransactionLab(cluster, cluster.environment, Book(), None)  # type: ignore[arg-type]
        await eventually(lambda: len(bodies(lab.log(TOPIC))) == 4, 10)


async def test_plain_functions_of_the_asynchronous_producer_run_in_threads(tmp_path: Path) -> None:
    """Several local transactions at a time, none of them on the loop."""
    async with Cluster(tmp_path) as cluster:
        listener = PlainListener()
        async with TransactionProducer(GROUP, listener, namesrv_addr=cluster.namesrv_addr) as producer:
            results = await asyncio.gather(
                *(producer.send_message_in_transaction(Message.of(TOPIC, str(n).encode())) for n in range(10))
            )
        assert {result.local_transaction_state for result in results} == {COMMIT}
        assert listener.threads["execute"] is not threading.current_thread()
