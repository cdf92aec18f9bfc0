"""The Java clients 5.3.3 and 4.9.7 against our name server and broker."""

from __future__ import annotations

from pathlib import Path

import pytest

from rocketmq_py.broker.topic_config import TopicConfigManager

from .java_tools import OLD_VERSION, VERSION
from .other_clients import java_client
from .our_servers import our_servers
from .share_queues import produce_and_share
from .use_features import use_features

pytestmark = [pytest.mark.interop, pytest.mark.serial, pytest.mark.timeout(600)]


@pytest.mark.parametrize(("version", "messages"), [(VERSION, 10_000), (OLD_VERSION, 2_000)])
async def test_two_java_consumers_share_the_queues_and_lose_nothing(
    tmp_path: Path, version: str, messages: int
) -> None:
    """Claim: programs written for Apache RocketMQ run against these servers unchanged.

    Experiment: two Java push consumers of one group share a topic of 8 queues; a Java producer sends from four threads.
    Observe: every message arrives, both consumers get some, and the offsets of each queue leave no gap.
    """
    await produce_and_share(tmp_path, java_client(version), messages, queues=8)


@pytest.mark.parametrize("version", [VERSION, OLD_VERSION])
async def test_every_kind_of_send_filter_and_read_of_the_java_client(tmp_path: Path, version: str) -> None:
    """Batches, asynchronous and one-way sends, a selector; tags, SQL92, broadcasting; the lite pull consumer."""
    await use_features(tmp_path, java_client(version))


async def test_a_java_producer_creates_a_topic_by_sending_to_it(tmp_path: Path) -> None:
    async with our_servers(tmp_path) as servers:
        arguments = ("produce", servers.namesrv, "JavaProducers", "CreatedBySending", "10")
        async with java_client().run(*arguments, home=tmp_path / "producer") as producer:
            await producer.wait(60)
        assert producer.lines[-1] == "sent 10", producer.output
        created = servers.kernel.get(TopicConfigManager).topics.get("CreatedBySending")
        assert created is not None
        assert created.write_queue_nums == 4, "the client asks for four queues, and gets no more than TBW102 has"
