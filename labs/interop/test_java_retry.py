"""Retries and dead letters with the Java clients 5.3.3 and 4.9.7 on our broker."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from rocketmq_py.assembly.stages import available_stages
from rocketmq_py.client.admin.client import AdminClient
from rocketmq_py.client.errors import NoRouteError
from rocketmq_py.client.pull_api import PullStatus
from rocketmq_py.client.pull_consumer import PullConsumer
from rocketmq_py.common.message import MessageExt
from rocketmq_py.store.config import MessageStoreConfig
from rocketmq_py.testing.cluster import Cluster
from rocketmq_py.testing.eventually import eventually

from .java_tools import OLDER, VERSION, JavaProgram, java, java_client

pytestmark = [
    pytest.mark.interop,
    pytest.mark.serial,
    pytest.mark.timeout(300),
    pytest.mark.skipif("retry" not in available_stages(), reason="stage retry is not built here"),
]

COUNT = 12


@pytest.fixture(scope="module", params=[VERSION, OLDER])
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What runs a program with a client of a version: keywords of `java`."""
    return java_client(request.param, tmp_path_factory.mktemp("classes"))


@asynccontextmanager
async def quick_cluster(folder: Path, topic: str) -> AsyncIterator[str]:
    """Run our servers, whose delay levels are a second each, with a topic of 4 queues; give the name server's address."""
    store_config = MessageStoreConfig(
        mapped_file_size_commit_log=16 << 20,
        max_hash_slot_num=5_000,
        max_index_num=20_000,
        message_delay_level=" ".join(["1s"] * 18),
    )
    async with Cluster(folder, store_config=store_config) as servers:
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


async def test_what_a_listener_fails_comes_again_and_ends_in_the_dead_letters(
    tmp_path: Path, client: dict[str, Any]
) -> None:
    """Each message fails; after two more attempts it is dead."""
    async with quick_cluster(tmp_path / "servers", "Failing") as namesrv:
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


async def test_what_a_listener_fails_once_succeeds_later(tmp_path: Path, client: dict[str, Any]) -> None:
    async with quick_cluster(tmp_path / "servers", "Once") as namesrv:
        arguments = (namesrv, "Once", "JavaOnce", "one", "fail=1", "print=key,times")
        async with java("Consume", *arguments, home=tmp_path / "one", **client) as consumer:
            await eventually(lambda: "started" in consumer.lines, 60)
            async with java("Produce", namesrv, "Once", str(COUNT), home=tmp_path / "p", **client) as producer:
                assert await producer.wait(60) == 0, producer.output
            # A Java client learns of a new retry topic with its next refresh of routes, up to 30 s later.
            await eventually(lambda: len(rows(consumer, 2)) >= COUNT, 90)
        assert Counter(map(tuple, rows(consumer, 2))) == {(f"key-{number}", "1"): 1 for number in range(COUNT)}
