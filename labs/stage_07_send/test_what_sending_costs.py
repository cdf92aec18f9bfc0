"""What a send costs, and what it cannot do: rates as ratios of one run, and the order within a queue."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from labs.stage_07_send.send_lab import Broker, running_broker, send_fields
from rocketmq_py.client.config import ProducerConfig
from rocketmq_py.client.producer import Producer
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.message import Message, MessageExt
from rocketmq_py.common.message_batch import encode_batch
from rocketmq_py.common.record import decode_records
from rocketmq_py.remoting.codes import RequestCode
from rocketmq_py.store.message_store import MessageStore
from rocketmq_py.testing.cluster import Cluster

SECONDS = 0.4
BATCH = 100
WINDOW = 64


@pytest.mark.claim("send-09")
async def test_batches_are_what_makes_a_million_a_second(environment: Environment, tmp_path: Path) -> None:
    """Claim: one broker takes some ten thousand single messages a second; far more come only from batching at the
    producer.

    Experiment: one producer, one broker, bodies of 10 bytes, 0.4 s each: sends that wait for each other, 64 sends at a
    time, batches of 100.
    Observe: messages a second as ratios of one run; more than twice as many in batches as with 64 single sends at a
    time. Absolute numbers depend on the machine and on who else uses it; `python -m loadtests.bench` measures them with
    the client in a process of its own.
    """
    async with (
        Cluster(tmp_path, through="send", environment=environment) as cluster,
        Producer("Sellers", ProducerConfig(namesrv_addr=cluster.namesrv_addr)) as producer,
    ):

        async def single() -> int:
            await producer.send(Message("Orders", b"0123456789"))
            return 1

        async def window() -> int:
            await asyncio.gather(*(single() for _ in range(WINDOW)))
            return WINDOW

        async def batch() -> int:
            await producer.send_batch([Message("Orders", b"0123456789") for _ in range(BATCH)])
            return BATCH

        await window()
        rates = [await _rate(kind) for kind in (single, window, batch)]

    print(
        f"\none at a time {rates[0]:,.0f}/s; {WINDOW} at a time {rates[1]:,.0f}/s ({rates[1] / rates[0]:.1f} times); "
        f"batches of {BATCH} {rates[2]:,.0f}/s ({rates[2] / rates[1]:.1f} times that)"
    )
    assert rates[2] > 2 * rates[1], "A batch costs one request. Is it split into single appends somewhere?"


async def _rate(kind: Callable[[], Awaitable[int]]) -> float:
    """Return messages a second."""
    begin, messages = time.perf_counter(), 0
    while time.perf_counter() - begin < SECONDS:
        messages += await kind()
    return messages / (time.perf_counter() - begin)


def _read(broker: Broker, topic: str, queue_id: int, offset: int = 0) -> list[MessageExt]:
    """Read a queue as any reader does: in the order of its offsets."""
    result = broker.kernel.get(MessageStore).get_message(topic, queue_id, offset, 32)
    return [] if result is None else list(decode_records(memoryview(result.records)))


@pytest.mark.virtual_time
@pytest.mark.claim("send-11")
async def test_priority_is_a_topic_and_not_a_place_in_the_queue(environment: Environment, tmp_path: Path) -> None:
    """Claim: there is no priority within a queue; it is done with one topic (or queue) for each priority.

    Experiment: send two ordinary messages and an urgent one, which says so in a property, to one queue; then the same
    to two topics, read by a reader that looks into the urgent topic before every message of the other.
    Observe: in one queue the urgent message comes last, as it was sent last; with two topics it comes first.
    """
    async with running_broker(environment, tmp_path) as broker:
        for topic in ("Orders", "Orders_urgent", "Orders_normal"):
            broker.create_topic(topic, queues=2)
        work = [(b"first", "1"), (b"second", "1"), (b"urgent", "9")]
        for number, (body, priority) in enumerate(work):
            properties = {"priority": priority, "UNIQ_KEY": f"7F0000010000000000000000000000{number:02d}"}
            await broker.send("Orders", body, properties)
            await broker.send("Orders_urgent" if priority == "9" else "Orders_normal", body, properties)

        assert [message.body for message in _read(broker, "Orders", 1)] == [b"first", b"second", b"urgent"]

        done: list[bytes] = []
        positions = {"Orders_urgent": 0, "Orders_normal": 0}
        while len(done) < len(work):
            for topic in positions:  # the urgent topic first, at every step
                if found := _read(broker, topic, 1, positions[topic])[:1]:
                    done.append(found[0].body)
                    positions[topic] += 1
                    break
        assert done == [b"urgent", b"first", b"second"]


@pytest.mark.parametrize("hot", [True, False])
async def test_each_message_of_a_batch_keeps_its_own_unique_key(
    environment: Environment, tmp_path: Path, hot: bool
) -> None:
    """Claim: the unique key of the batch does not hide those of its messages.

    Experiment: send a batch with a key of its own; one message has a key, one has none.
    Observe: the first is stored with its own key, which its producer was told; the second with that of the batch.
    """
    async with running_broker(environment, tmp_path, hot=hot) as broker:
        broker.create_topic("Orders")
        batch_key, own_key = "7F0000010000000000000000000000AA", "7F0000010000000000000000000000BB"
        messages = [Message("Orders", b"own", {"UNIQ_KEY": own_key}), Message("Orders", b"none", {"colour": "red"})]

        fields = send_fields(
            "Orders", {"UNIQ_KEY": batch_key, "WAIT": "true"}, RequestCode.SEND_BATCH_MESSAGE, batch=True
        )
        answer = await broker.request(RequestCode.SEND_BATCH_MESSAGE, fields, encode_batch(messages))

        assert answer.ext_fields["transactionId"] == batch_key
        own, none = broker.stored("Orders")
        assert (own.unique_key, own.get("WAIT")) == (own_key, "true")
        assert (none.unique_key, none.get("colour")) == (batch_key, "red")
        assert broker.log_bytes().count(batch_key.encode()) == 1
