"""SIGKILL while delayed messages are put and delivered: none is lost, hardly any comes twice."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections import Counter
from pathlib import Path

import pytest

from labs.kill.broker_process import QUEUES, PlainClient, broker_processes
from rocketmq_py.common.environment import system_environment
from rocketmq_py.common.errors import RocketMQError
from rocketmq_py.store.verify import verify_store

ROUNDS = int(os.environ.get("RMQ_KILL_ROUNDS", "50")) // 5 or 1
#: Longest time in seconds from a start to the kill: messages of the first second are delivered by then.
LOAD_SECONDS = 2.5


async def keep_sending(client: PlainClient, queue: int, round_: int, acknowledged: set[str]) -> None:
    """Send messages of level 1 until the broker is gone."""
    number = 0
    while True:
        body = f"{round_}-{queue}-{number:06d}"
        try:
            await client.send(queue, body.encode(), DELAY="1")
        except (RocketMQError, OSError):
            return
        acknowledged.add(body)
        number += 1


@pytest.mark.serial
@pytest.mark.timeout(600)
async def test_kills_while_messages_wait_and_are_delivered_lose_none(tmp_path: Path) -> None:
    """Claim: a killed broker delivers every acknowledged delayed message, and hardly any of them twice.

    Experiment: one store; ten times start `rmq-py broker start`, send messages of a second's delay to four queues, and
    SIGKILL it at a random moment while some are being delivered; then start once more and wait.
    Observe: everything acknowledged is in its real queue. What came twice is one batch of 32 for each kill at most; a
    broker that only had its file of every ten seconds would repeat all that it delivered.
    """
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    acknowledged: set[str] = set()
    root = tmp_path / "store"
    async with broker_processes(root) as spawn:
        for round_ in range(ROUNDS):
            broker = await spawn()
            await broker.ready()
            client = PlainClient(broker.address)
            senders = [asyncio.create_task(keep_sending(client, q, round_, acknowledged)) for q in range(QUEUES)]
            await asyncio.sleep(LOAD_SECONDS * (0.4 + 0.6 * rng.random()))
            await broker.kill()
            await asyncio.gather(*senders)
            await client.close()

        broker = await spawn()
        await broker.ready()
        client = PlainClient(broker.address)
        counts: Counter[str] = Counter()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(60):
                while not acknowledged <= set(counts):
                    await asyncio.sleep(0.5)
                    stored = [body.decode() for queue in range(QUEUES) for body in await client.read_queue(queue)]
                    counts = Counter(stored)
        await client.close()
        assert await broker.terminate() == 0
    twice = sum(count - 1 for count in counts.values())
    print(
        f"{len(acknowledged)} acknowledged, {sum(counts.values())} delivered in {ROUNDS} kills, {twice} of them twice"
    )
    lost = acknowledged - set(counts)
    assert not lost, f"{len(lost)} acknowledged messages never came, such as {sorted(lost)[:3]}\n{broker.output()}"
    assert twice <= 32 * ROUNDS
    assert verify_store(system_environment(), str(root)).problems == []
