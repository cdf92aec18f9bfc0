"""Transactions with programs of others: Java's and Go's producers at our broker, ours at Apache's, stores exchanged."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from rocketmq_py.assembly.stages import build_broker
from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.transaction.check_service import TransactionalMessageCheckService
from rocketmq_py.client.admin.client import AdminClient
from rocketmq_py.client.admin.transactions import AsideState, TransactionAdmin
from rocketmq_py.client.errors import NoRouteError
from rocketmq_py.client.pull_api import PullStatus
from rocketmq_py.client.pull_consumer import PullConsumer
from rocketmq_py.client.transaction_listener import LocalTransactionState
from rocketmq_py.client.transaction_producer import TransactionProducer, TransactionProducerConfig
from rocketmq_py.common.environment import system_environment
from rocketmq_py.common.message import Message, MessageExt
from rocketmq_py.namesrv.config import NamesrvConfig
from rocketmq_py.namesrv.server import Namesrv
from rocketmq_py.store.config import MessageStoreConfig
from rocketmq_py.testing.eventually import eventually

from .apache import ApacheServers, apache_servers
from .java_tools import OLDER, VERSION, free_port, java, java_client
from .other_clients import cpp_client, go_transactions, node_client
from .our_servers import our_servers

pytestmark = [pytest.mark.interop, pytest.mark.serial, pytest.mark.timeout(400)]

TOPIC, GROUP = "Transfers", "Bank"
COMMIT, ROLLBACK = LocalTransactionState.COMMIT_MESSAGE, LocalTransactionState.ROLLBACK_MESSAGE
UNKNOW = LocalTransactionState.UNKNOW
BODIES = ["commit-1", "rollback-1", "unknown-commit-1", "unknown-rollback-1", "commit-2", "unknown-commit-2"]
COMMITTED = Counter(["commit-1", "commit-2", "unknown-commit-1", "unknown-commit-2"])
SOON: dict[str, Any] = {"transaction_check_interval": 1_000, "transaction_time_out": 1_000}
#: For a producer that is killed: the next one's first heartbeat may come half a minute later, and 15 checks would be over.
PATIENT: dict[str, Any] = {**SOON, "transaction_time_out": 5_000, "transaction_check_max": 1_000}
#: `SOON` for an Apache broker. Its op records must not wait for longer than a check takes: it would ask about decided
#: transactions, and deliver them a second time.
APACHE_SOON = {"transactionCheckInterval": 4_000, "transactionTimeOut": 2_000, "transactionOpBatchInterval": 100}


class Book:
    """Does what `Transact.java` does: a body says how its transaction ends.

    Attributes:
        checked: bodies in the order in which they were asked about.
        knows: answers checks with what the body says behind "unknown-"; otherwise with UNKNOW.
    """

    def __init__(self, knows: bool = True) -> None:
        self.checked: list[str] = []
        self.knows = knows

    async def execute_local_transaction(self, message: Message, argument: Any) -> LocalTransactionState:
        return self._state(message.body.decode())

    async def check_local_transaction(self, message: MessageExt) -> LocalTransactionState:
        body = message.body.decode()
        self.checked.append(body)
        return self._state(body.removeprefix("unknown-")) if self.knows else UNKNOW

    @staticmethod
    def _state(body: str) -> LocalTransactionState:
        return UNKNOW if body.startswith("unknown") else COMMIT if body.startswith("commit") else ROLLBACK


def producer(namesrv: str, book: Book, name: str) -> TransactionProducer:
    config = TransactionProducerConfig(namesrv_addr=namesrv, instance_name=name, send_msg_timeout=20_000)
    return TransactionProducer(GROUP, book, config, topics=[TOPIC])


async def send(sender: TransactionProducer, *bodies: str) -> None:
    for body in bodies:
        assert (await sender.send_message_in_transaction(Message.of(TOPIC, body.encode(), keys=f"k-{body}"))).is_ok


async def delivered(namesrv: str) -> Counter[str]:
    """Return how often each body lies in the topic."""
    found: Counter[str] = Counter()
    async with PullConsumer("Reader", namesrv_addr=namesrv) as consumer:
        try:
            queues = await consumer.fetch_queues(TOPIC)
        except NoRouteError:
            return found
        for queue in queues:
            offset = await consumer.offsets.min_offset(queue)
            while (result := await consumer.pull(queue, offset)).status is PullStatus.FOUND:
                found.update(message.body.decode() for message in result.messages)
                offset = result.next_begin_offset
    return found


async def until_delivered(namesrv: str, expected: Counter[str], seconds: float = 60) -> None:
    """Wait until the expected bodies are there, and a little longer for any that should not come."""
    found: Counter[str] = Counter()
    try:
        async with asyncio.timeout(seconds):
            while (found := await delivered(namesrv)) < expected:  # noqa: ASYNC110 - it has to ask
                await asyncio.sleep(0.2)
    except TimeoutError:
        pass
    await asyncio.sleep(2.5)
    assert await delivered(namesrv) == expected, f"{found} were delivered"


# --- their producers, our broker --------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [VERSION, OLDER])
async def test_a_java_producer_commits_rolls_back_and_is_asked_by_our_broker(tmp_path: Path, version: str) -> None:
    """Exactly the undecided are asked about, with their real topic and transaction id; each committed one comes once."""
    client = java_client(version, tmp_path)
    async with our_servers(tmp_path, **SOON) as servers, AdminClient(namesrv_addr=servers.namesrv) as admin:
        await admin.topics.create(TOPIC, queues=4)
        arguments = (servers.namesrv, TOPIC, GROUP, "one", *BODIES)
        async with java("Transact", *arguments, home=tmp_path / "one", **client) as one:
            await eventually(lambda: "sent" in one.lines, 60)
            assert "commit-1 SEND_OK COMMIT_MESSAGE" in one.lines
            assert "unknown-commit-1 SEND_OK UNKNOW" in one.lines
            await until_delivered(servers.namesrv, COMMITTED)
            checked = [line.split(" ") for line in one.lines if line.startswith("checked")]
            # One that is slow to answer is asked again.
            assert {words[1] for words in checked} == {body for body in BODIES if body.startswith("unknown")}
            assert {words[2] for words in checked} == {TOPIC}
            assert all(len(words[3]) == 32 or len(words[3]) == 56 for words in checked)


async def test_the_half_message_of_a_killed_java_producer_is_asked_of_another_one(tmp_path: Path) -> None:
    """The first is killed with SIGKILL before it can be asked; a second of its group decides."""
    client = java_client(VERSION, tmp_path)
    async with our_servers(tmp_path, **PATIENT) as servers, AdminClient(namesrv_addr=servers.namesrv) as admin:
        await admin.topics.create(TOPIC, queues=4)
        dying = (servers.namesrv, TOPIC, GROUP, "dying", "unknown-commit-1", "unknown-rollback-1", "unknown-commit-2")
        heir = (servers.namesrv, TOPIC, GROUP, "heir", "commit-3")
        async with java("Transact", *dying, home=tmp_path / "dying", **client) as first:
            await eventually(lambda: "sent" in first.lines, 60)
            first._process.kill()
            await first.wait(10)
        async with java("Transact", *heir, home=tmp_path / "heir", **client) as second:
            await eventually(lambda: "sent" in second.lines, 60)
            # A Java producer's heartbeat comes up to 30 s after its first route.
            await until_delivered(
                servers.namesrv, Counter(["unknown-commit-1", "unknown-commit-2", "commit-3"]), seconds=90
            )
            checked = {line.split(" ")[1] for line in second.lines if line.startswith("checked")}
        assert checked == {"unknown-commit-1", "unknown-rollback-1", "unknown-commit-2"}
        assert not any(line.startswith("checked") for line in first.lines)


async def test_a_go_producer_commits_rolls_back_and_is_asked_by_our_broker(tmp_path: Path) -> None:
    client = go_transactions()
    async with our_servers(tmp_path, **SOON) as servers, AdminClient(namesrv_addr=servers.namesrv) as admin:
        await admin.topics.create(TOPIC, queues=4)
        async with client.run(servers.namesrv, GROUP, TOPIC, *BODIES, home=tmp_path / "go") as program:
            await eventually(lambda: "sent" in program.lines, 60)
            await until_delivered(servers.namesrv, COMMITTED, 90)
            checked = [line.split(" ")[1] for line in program.lines if line.startswith("checked")]
            assert set(checked) == {body for body in BODIES if body.startswith("unknown")}


async def test_the_half_message_of_a_killed_go_producer_is_asked_of_another_one(tmp_path: Path) -> None:
    """The same as with Java: a second producer of the group decides what the killed one left open."""
    client = go_transactions()
    async with our_servers(tmp_path, **PATIENT) as servers, AdminClient(namesrv_addr=servers.namesrv) as admin:
        await admin.topics.create(TOPIC, queues=4)
        open_ones = ("unknown-commit-1", "unknown-rollback-1", "unknown-commit-2")
        async with client.run(servers.namesrv, GROUP, TOPIC, *open_ones, home=tmp_path / "dying") as first:
            await eventually(lambda: "sent" in first.lines, 60)
            first._process.kill()
            await first.wait(10)
        async with client.run(servers.namesrv, GROUP, TOPIC, "commit-3", home=tmp_path / "heir") as second:
            await eventually(lambda: "sent" in second.lines, 60)
            await until_delivered(
                servers.namesrv, Counter(["unknown-commit-1", "unknown-commit-2", "commit-3"]), seconds=90
            )
            checked = {line.split(" ")[1] for line in second.lines if line.startswith("checked")}
        assert checked == set(open_ones)
        assert not any(line.startswith("checked") for line in first.lines)


@pytest.mark.parametrize("name", ["C++", "Node"])
async def test_the_half_messages_of_a_client_that_cannot_end_them_are_asked_of_another_one(
    tmp_path: Path, name: str
) -> None:
    """Claim: a client without a transactional producer cannot make an open transaction visible, and nothing of it is lost.

    Experiment: a producer of the client sends half messages, and answers no check while it lives. It is killed with
        SIGKILL. A Go producer of its group starts.
    Observe: nothing is delivered before. The Go producer is asked about each, and what it commits comes once.
    """
    heir, program = go_transactions(), {"C++": cpp_client, "Node": node_client}[name]()
    open_ones = ("unknown-commit-1", "unknown-rollback-1", "unknown-commit-2")
    async with our_servers(tmp_path, **PATIENT) as servers, AdminClient(namesrv_addr=servers.namesrv) as admin:
        await admin.topics.create(TOPIC, queues=4)
        checks = servers.kernel.get(TransactionalMessageCheckService)
        dying = ("prepare", servers.namesrv, GROUP, TOPIC, *open_ones)
        async with program.run(*dying, home=tmp_path / "dying") as first:
            await eventually(lambda: "sent" in first.lines, 60)
            await eventually(lambda: checks.totals.asked >= len(open_ones), 90)
            assert not await delivered(servers.namesrv)
            first._process.kill()
            await first.wait(10)
        async with heir.run(servers.namesrv, GROUP, TOPIC, "commit-3", home=tmp_path / "heir") as second:
            await until_delivered(
                servers.namesrv, Counter(["unknown-commit-1", "unknown-commit-2", "commit-3"]), seconds=90
            )
            checked = {line.split(" ")[1] for line in second.lines if line.startswith("checked")}
        assert checked == set(open_ones)


# --- our producer, their broker ---------------------------------------------------------------------------------------


async def test_our_producer_at_an_apache_broker(tmp_path: Path) -> None:
    """Commit, rollback, and checks, also of what a producer left that is gone."""
    async with apache_servers(tmp_path, **APACHE_SOON) as apache, AdminClient(namesrv_addr=apache.namesrv) as admin:
        await admin.topics.create(TOPIC, queues=4)
        book = Book()
        async with producer(apache.namesrv, book, "one") as one:
            await send(one, *BODIES)
            await until_delivered(apache.namesrv, COMMITTED)
            # 5.3.3 also asks about decided ones whose op record waits; the answer is the same.
            assert set(book.checked) >= {body for body in BODIES if body.startswith("unknown")}

        forgetful, heir = Book(knows=False), Book()
        async with producer(apache.namesrv, forgetful, "two") as two:
            await send(two, "unknown-commit-3", "unknown-rollback-3")
        async with producer(apache.namesrv, heir, "three"):
            await until_delivered(apache.namesrv, COMMITTED + Counter(["unknown-commit-3"]))
        assert set(heir.checked) >= {"unknown-commit-3", "unknown-rollback-3"}


async def test_our_operators_commands_at_an_apache_broker(tmp_path: Path) -> None:
    """What an Apache broker set aside is listed, resumed and discarded by requests that it answers."""
    settings = {**APACHE_SOON, "transactionCheckMax": 1}
    async with apache_servers(tmp_path, **settings) as apache, AdminClient(namesrv_addr=apache.namesrv) as admin:
        await admin.topics.create(TOPIC, queues=4)
        book = Book(knows=False)
        transactions = TransactionAdmin(admin.instance)

        async def states() -> dict[str, AsideState]:
            return {aside.message.body.decode(): aside.state for aside in await transactions.list()}

        async def wait_for(expected: dict[str, AsideState]) -> None:
            found: dict[str, AsideState] = {}
            async with asyncio.timeout(60):
                while (found := await states()) != expected:  # noqa: ASYNC110 - it has to ask
                    await asyncio.sleep(0.5)
            assert found == expected

        async with producer(apache.namesrv, book, "one") as one:
            await send(one, "unknown-commit-1", "unknown-commit-2")
            await wait_for({"unknown-commit-1": AsideState.WAITING, "unknown-commit-2": AsideState.WAITING})
            book.knows = True
            for aside in await transactions.list():
                if aside.message.body == b"unknown-commit-1":
                    await transactions.resume(aside.message)
                else:
                    await transactions.discard(aside.message)
            await wait_for({"unknown-commit-1": AsideState.COMMITTED, "unknown-commit-2": AsideState.ROLLED_BACK})
        assert await delivered(apache.namesrv) == {"unknown-commit-1": 1}


# --- stores exchanged -------------------------------------------------------------------------------------------------


@asynccontextmanager
async def our_broker_on(store: Path, folder: Path, **settings: Any) -> AsyncIterator[str]:
    """Run our servers on a store with the sizes of `apache_servers`; give the name server's address."""
    environment = system_environment()
    namesrv = Namesrv(NamesrvConfig(listen_port=0, kv_config_path=str(folder / "kv.json")), environment)
    await namesrv.start()
    config = BrokerConfig(broker_name="broker-a", listen_port=free_port(), namesrv_addr=namesrv.address, **settings)
    store_config = MessageStoreConfig(
        store_path_root_dir=str(store), mapped_file_size_commit_log=16 << 20, mapped_file_size_consume_queue=600_000
    )
    kernel = build_broker(config, store_config, environment)
    try:
        await kernel.start()
        yield namesrv.address
    finally:
        await kernel.stop()
        await namesrv.stop()


async def test_a_store_with_open_transactions_goes_from_ours_to_apache_and_back(tmp_path: Path) -> None:
    """Claim: half messages and op records mean the same to both; nothing is lost, nothing comes twice.

    Experiment: ours takes commits, rollbacks and open transactions, some of them put back by checks; Apache's broker goes
        on with the store, decides the open ones with a member of ours, and takes new ones; ours goes on again.
    Observe: after each step what is delivered is exactly what was committed so far.
    """
    never = {"transaction_check_interval": 3_600_000}
    expected = Counter(["commit-1", "commit-2"])
    async with our_broker_on(tmp_path / "store", tmp_path, **SOON) as namesrv:
        async with AdminClient(namesrv_addr=namesrv) as admin:
            await admin.topics.create(TOPIC, queues=4)
        book = Book(knows=False)
        async with producer(namesrv, book, "one") as one:
            await send(one, *BODIES)
            await eventually(lambda: min(Counter(book.checked).values(), default=0) >= 2, 30)
        await until_delivered(namesrv, expected)
    # Written at the stop, at the latest.
    assert open_in(tmp_path / "store") == 3

    shutil.copytree(tmp_path / "store", tmp_path / "apache/store")
    async with apache_servers(tmp_path / "apache", **APACHE_SOON) as apache:
        book = Book()
        async with producer(apache.namesrv, book, "two") as two:
            await until_delivered(apache.namesrv, COMMITTED)
            assert set(book.checked) == {body for body in BODIES if body.startswith("unknown")}
            book.knows = False
            await send(two, "commit-3", "rollback-3", "unknown-commit-3", "unknown-rollback-3")
            await settled(apache)
        expected = COMMITTED + Counter(["commit-3"])
        assert await delivered(apache.namesrv) == expected
        # It began with our count of three, all of which it saw the end of; two of four new ones are open.
        assert open_in(tmp_path / "apache/store") == 2

    async with our_broker_on(tmp_path / "apache/store", tmp_path, **SOON) as namesrv:
        book = Book()
        async with producer(namesrv, book, "three"):
            await until_delivered(namesrv, expected + Counter(["unknown-commit-3"]))
            assert set(book.checked) == {"unknown-commit-3", "unknown-rollback-3"}
    assert open_in(tmp_path / "apache/store") == 0
    async with our_broker_on(tmp_path / "apache/store", tmp_path, **never) as namesrv:
        assert await delivered(namesrv) == expected + Counter(["unknown-commit-3"])


def open_in(store: Path) -> int:
    """Return how many transactions a store's file of counts says are open."""
    counts = json.loads((store / "config/transactionMetrics").read_bytes())["transactionCount"]
    return int(counts[TOPIC]["count"])


async def settled(apache: ApacheServers) -> None:
    """Wait until an Apache broker has written its op records: it keeps them in memory for three seconds."""
    await asyncio.sleep(5)
