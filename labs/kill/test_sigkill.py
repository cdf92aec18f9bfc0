"""SIGKILL under load, again and again, on one store: nothing acknowledged is lost, every queue keeps its order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from pathlib import Path

import pytest

from labs.kill.broker_process import QUEUES, PlainClient, broker_processes
from rocketmq_py.common.environment import system_environment
from rocketmq_py.common.errors import RocketMQError
from rocketmq_py.store.verify import verify_store

ROUNDS = int(os.environ.get("RMQ_KILL_ROUNDS", "50"))
#: Sends under way on each queue at the same time.
WINDOW = 6
#: Longest time in seconds that a broker is under load before it is killed.
LOAD_SECONDS = 0.6


class Load:
    """Sends to all queues as fast as the broker answers, and remembers what was sent and what was acknowledged.

    Attributes:
        sent: bodies in the order of sending, by queue.
        acknowledged: the number of each acknowledged body in `sent`, by queue.
    """

    def __init__(self, rng: random.Random) -> None:
        self.sent: list[list[bytes]] = [[] for _ in range(QUEUES)]
        self.acknowledged: list[set[int]] = [set() for _ in range(QUEUES)]
        self._random = rng

    async def run(self, client: PlainClient) -> None:
        """Send until the broker is gone."""
        if not self.sent[0]:
            # The first message makes the topic, which takes longer than the sends behind it: they would overtake it.
            self.sent[0].append(b"0-0000000-first")
            await client.send(0, b"0-0000000-first")
            self.acknowledged[0].add(0)
        await asyncio.gather(*(self._keep_sending(client, queue) for queue in range(QUEUES) for _ in range(WINDOW)))

    async def _keep_sending(self, client: PlainClient, queue: int) -> None:
        while True:
            number = len(self.sent[queue])
            body = f"{queue}-{number:07d}-".encode() + b"x" * self._random.randrange(600)
            self.sent[queue].append(body)
            try:
                await client.send(queue, body)
            except (RocketMQError, OSError):
                return
            self.acknowledged[queue].add(number)


def check(queue: int, stored: list[bytes], load: Load) -> None:
    """Nothing that nobody sent, nothing twice, nothing out of order, and everything that was acknowledged."""
    place_of = {body: number for number, body in enumerate(load.sent[queue])}
    places = [place_of.get(body, -1) for body in stored]
    assert -1 not in places, f"queue {queue} holds a message that nobody sent"
    assert places == sorted(set(places)), f"queue {queue} is out of order, or holds a message twice"
    lost = load.acknowledged[queue] - set(places)
    assert not lost, f"queue {queue} lost {len(lost)} acknowledged messages, the first is {min(lost)}"


@pytest.mark.serial
@pytest.mark.claim("log-08", "log-12")
@pytest.mark.timeout(600)
async def test_fifty_kills_under_load_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """Claim: a killed broker loses nothing it has acknowledged, with either kind of flush, wherever the kill falls.

    Experiment: one store; fifty times start `rmq-py broker start`, send to four queues from 24 senders, and SIGKILL it
    at a random moment: under load, or while it still recovers from the last time. RMQ_KILL_ROUNDS sets the number.
    Observe: after each start every queue holds all that was acknowledged, in the order of sending, and nothing else.
    In the end the broker stops in order, and every file of the store is sound.
    """
    seed = random.randrange(1 << 32)
    rng, root = random.Random(seed), tmp_path / "store"
    load, stored, kills_at_start = Load(rng), [list[bytes]() for _ in range(QUEUES)], 0
    print(f"seed {seed}, {ROUNDS} rounds")

    async with broker_processes(root) as spawn:
        for round_ in range(ROUNDS):
            flush = "SYNC_FLUSH" if round_ % 2 else "ASYNC_FLUSH"
            broker = await spawn(flushDiskType=flush)
            if round_ % 5 == 4:
                # In the middle of its start, recovery included.
                await asyncio.sleep(rng.uniform(0.1, 0.9))
                await broker.kill()
                kills_at_start += 1
                continue
            await broker.ready()
            client = PlainClient(broker.address)
            await verify_queues(client, stored, load)
            task = asyncio.create_task(load.run(client))
            await asyncio.sleep(rng.uniform(0.1 if round_ == 0 else 0.0, LOAD_SECONDS))
            await broker.kill()
            async with asyncio.timeout(20):
                await task
            await client.close()

        broker = await spawn()
        await broker.ready()
        client = PlainClient(broker.address)
        await verify_queues(client, stored, load)
        for queue in range(QUEUES):
            assert await client.read_queue(queue) == stored[queue]
        await client.close()
        assert await broker.terminate() == 0
    count = sum(map(len, load.acknowledged))
    print(f"{count} messages acknowledged, {sum(map(len, stored))} stored; {kills_at_start} kills during a start")
    assert count > 20 * ROUNDS
    report = verify_store(system_environment(), str(root))
    assert report.problems == []
    assert report.counts["records"] == sum(map(len, stored))


async def verify_queues(client: PlainClient, stored: list[list[bytes]], load: Load) -> None:
    """Read what came since the last round, and judge all there is."""
    for queue in range(QUEUES):
        with contextlib.suppress(AssertionError) if not load.sent[queue] else contextlib.nullcontext():
            # Before the first send there is no topic to pull from.
            stored[queue] += await client.read_queue(queue, len(stored[queue]))
        check(queue, stored[queue], load)
