"""Delays, retries, dead letters and transactions with the Java clients 5.3.3 and 4.9.7 on our broker."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from rocketmq_py.assembly.stages import available_stages
from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.client.admin.client import AdminClient
from rocketmq_py.client.errors import NoRouteError
from rocketmq_py.client.pull_api import PullStatus
from rocketmq_py.client.pull_consumer import PullConsumer
from rocketmq_py.common.message import MessageExt
from rocketmq_py.store.config import MessageStoreConfig
from rocketmq_py.testing.cluster import Cluster
from rocketmq_py.testing.eventually import eventually

from .java_tools import OLDER, SOURCES, VERSION, JavaProgram, compile_sources, jars, java

pytestmark = [pytest.mark.interop, pytest.mark.serial, pytest.mark.timeout(300)]

COUNT = 12


def needs(stage: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(stage not in available_stages(), reason=f"stage {stage} is not built here")


@pytest.fixture(scope="module", params=[VERSION, OLDER])
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What runs a program with a client of a version: keywords of `java`."""
    jars(request.param)
    classes = compile_sources(tmp_path_factory.mktemp("classes"), request.param)
    return {"classes": classes, "version": request.param}


@asynccontextmanager
async def cluster(folder: Path, topic: str, store: dict[str, Any] | None = None, **settings: Any) -> AsyncIterator[str]:
    """Run our servers with a topic of 4 queues; give the name server's address."""
    store_config = MessageStoreConfig(
        mapped_file_size_commit_log=16 << 20, max_hash_slot_num=5_000, max_index_num=20_000, **(store or {})
    )
    async with Cluster(folder, config=BrokerConfig(**settings), store_config=store_config) as servers:
        async with AdminClient(namesrv_addr=servers.namesrv_addr) as admin:
            await admin.topics.create(topic, queues=4)
        yield servers.namesrv_addr


def rows(program: JavaProgram, words: int) -> list[list[str]]:
    """Return the lines of a consumer that have a key and numbers."""
    return [line.split(" ") for line in list(program.lines) if line.startswith("key-") and line.count(" ") == words - 1]


async def messages_of(namesrv: str, topic: str) -> list[MessageExt]:
    """Return everything that lies in a topic."""
    found: list[MessageExt] = []
    async with PullConsumer("Reader", namesrv_addr=namesrv) as consumer:
        for queue in await consumer.fetch_queues(topic):
            offset = 0
            while (result := await consumer.pull(queue, offset)).status is PullStatus.FOUND:
                found += result.messages
                offset = result.next_begin_offset
    return found


@needs("delay")
async def test_delayed_messages_come_when_their_time_is_over(tmp_path: Path, client: dict[str, Any]) -> None:
    async with cluster(tmp_path / "servers", "Delayed") as namesrv:
        arguments = (namesrv, "Delayed", "JavaDelayed", "one", "print=key,born,begin")
        async with java("Consume", *arguments, home=tmp_path / "one", **client) as consumer:
            await eventually(lambda: "started" in consumer.lines, 60)
            produce = (namesrv, "Delayed", str(COUNT), "kind=delayed", "level=2")
            async with java("Produce", *produce, home=tmp_path / "producer", **client) as producer:
                assert await producer.wait(60) == 0, producer.output
                assert producer.lines[-1] == f"stored {COUNT}"
            await eventually(lambda: len({row[0] for row in rows(consumer, 3)}) == COUNT, 60)
            waits = [int(begin) - int(born) for _, born, begin in rows(consumer, 3)]
        print(f"{client['version']}: delay of 5 s, took {min(waits)} to {max(waits)} ms")
        assert min(waits) >= 5_000
        assert len(waits) == COUNT, "a message came twice"


@needs("retry")
async def test_what_a_listener_fails_comes_again_and_ends_in_the_dead_letters(
    tmp_path: Path, client: dict[str, Any]
) -> None:
    """Each message fails; after two more attempts it is dead. The delays between them are a second each here."""
    quick = {"message_delay_level": " ".join(["1s"] * 18)}
    async with cluster(tmp_path / "servers", "Failing", quick) as namesrv:
        arguments = (namesrv, "Failing", "JavaFailing", "one", "fail=100", "times=2")
        async with java("Consume", *arguments, home=tmp_path / "one", **client) as consumer:
            await eventually(lambda: "started" in consumer.lines, 60)
            async with java("Produce", namesrv, "Failing", str(COUNT), home=tmp_path / "p", **client) as producer:
                assert await producer.wait(60) == 0, producer.output
            dead: list[MessageExt] = []
            for _ in range(120):
                try:
                    dead = await messages_of(namesrv, "%DLQ%JavaFailing")
                except NoRouteError:
                    pass  # The topic of dead letters comes with the first of them.
                if len(dead) >= COUNT:
                    break
                await asyncio.sleep(0.5)
        assert Counter(message.keys for message in dead) == {f"key-{number}": 1 for number in range(COUNT)}
        assert {message.reconsume_times for message in dead} == {3}


@needs("retry")
async def test_what_a_listener_fails_once_succeeds_later(tmp_path: Path, client: dict[str, Any]) -> None:
    quick = {"message_delay_level": " ".join(["1s"] * 18)}
    async with cluster(tmp_path / "servers", "Once", quick) as namesrv:
        arguments = (namesrv, "Once", "JavaOnce", "one", "fail=1", "print=key,times")
        async with java("Consume", *arguments, home=tmp_path / "one", **client) as consumer:
            await eventually(lambda: "started" in consumer.lines, 60)
            async with java("Produce", namesrv, "Once", str(COUNT), home=tmp_path / "p", **client) as producer:
                assert await producer.wait(60) == 0, producer.output
            # A Java client learns of a new retry topic with its next refresh of routes, up to 30 s later.
            await eventually(lambda: len(rows(consumer, 2)) >= COUNT, 90)
        assert Counter(map(tuple, rows(consumer, 2))) == {(f"key-{number}", "1"): 1 for number in range(COUNT)}


@pytest.mark.skipif(not (SOURCES / "Transact.java").exists(), reason="transactions are not built here")
async def test_transactions_end_as_their_producer_says(tmp_path: Path, client: dict[str, Any]) -> None:
    """Committed, rolled back, and known to a check only; a consumer of the same version gets the committed ones."""
    bodies = ["commit-1", "rollback-1", "unknown-commit-1", "unknown-rollback-1"]
    soon = {"transaction_check_interval": 1_000, "transaction_time_out": 1_000}
    async with cluster(tmp_path / "servers", "Transfers", **soon) as namesrv:
        arguments = (namesrv, "Transfers", "JavaBank", "reader", "print=key")
        async with (
            java("Consume", *arguments, home=tmp_path / "c", **client) as consumer,
            java("Transact", namesrv, "Transfers", "Bank", "one", *bodies, home=tmp_path / "p", **client) as producer,
        ):
            await eventually(lambda: "sent" in producer.lines, 60)
            keys = lambda: [line for line in consumer.lines if line.startswith("k-")]  # noqa: E731
            await eventually(lambda: len(keys()) >= 2, 90)
            checked = [line.split(" ")[1] for line in producer.lines if line.startswith("checked")]
            assert set(checked) == {"unknown-commit-1", "unknown-rollback-1"}
        assert Counter(keys()) == {"k-commit-1": 1, "k-unknown-commit-1": 1}
