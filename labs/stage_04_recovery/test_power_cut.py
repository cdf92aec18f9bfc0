"""Killed processes and cut power: what survives, and where the log ends afterwards."""

from __future__ import annotations

import asyncio

import pytest

from labs.stage_04_recovery.recovery_lab import SYNC, Machine, draft, numbered
from rocketmq_py.sim.file_system import Personality
from rocketmq_py.store.put_result import PutMessageStatus


@pytest.mark.claim("log-08")
@pytest.mark.virtual_time
async def test_killing_the_process_loses_nothing_that_asynchronous_flush_acknowledged() -> None:
    """Claim: asynchronous flush acknowledges a message in the page cache: killing the process loses nothing.

    Experiment: write and acknowledge 60 messages with ASYNC_FLUSH, none of them flushed; kill the process; start again.
    Observe: all 60 are there. The same with the power cut instead: none is there. The promise holds for the process,
    not for the machine.
    """
    survivors = {}
    for fault in ("kill", "power cut"):
        machine = Machine()
        running = await machine.start(flush_interval_commit_log=60_000)
        results = await running.write(numbered(0, 60))
        assert {result.status for result in results} == {PutMessageStatus.PUT_OK}
        assert running.log.flushed_offset == 0, "the lab wants messages that are acknowledged and not flushed"
        await (machine.kill() if fault == "kill" else machine.cut_power(keep=0.0))

        running = await machine.start()
        survivors[fault] = await running.bodies()
        await machine.stop()

    print({fault: f"{len(bodies)} of 60 acknowledged messages" for fault, bodies in survivors.items()})
    assert survivors["kill"] == numbered(0, 60)
    assert survivors["power cut"] == []


@pytest.mark.virtual_time
async def test_asynchronous_flush_loses_at_most_the_last_second_of_a_power_cut() -> None:
    """Claim: with asynchronous flush a power cut takes the messages of the last second, and none before them.

    Experiment: write a message every 100 ms for 20 s; cut the power, losing whatever was not flushed.
    Observe: the survivors are a prefix, and what is missing was acknowledged less than a second before.
    """
    machine = Machine()
    running = await machine.start()
    bodies = numbered(0, 200)
    for body in bodies:
        await running.write([body])
        await asyncio.sleep(0.1)
    await machine.cut_power(keep=0.0)

    survivors = await (await machine.start()).bodies()

    print(f"lost: the last {(len(bodies) - len(survivors)) * 100} ms")
    assert survivors == bodies[: len(survivors)]
    assert len(bodies) - len(survivors) <= 10
    await machine.stop()


@pytest.mark.claim("log-12")
@pytest.mark.virtual_time
@pytest.mark.parametrize("personality", list(Personality), ids=lambda personality: personality.value)
@pytest.mark.parametrize("seed", range(12))
async def test_everything_that_synchronous_flush_acknowledged_survives_power_cuts(
    seed: int, personality: Personality
) -> None:
    """Claim: after a crash the log is recovered: a torn tail is cut off, everything acknowledged is still there.

    Experiment: several writers with SYNC_FLUSH; the power is cut four times while puts are under way; each unflushed
    sector and name survives by chance.
    Observe: each time every queue begins with all messages acknowledged so far, in order; what else is there was under
    way; then the store goes on.
    """
    machine = Machine(seed, personality=personality, **SYNC)
    acknowledged: dict[int, list[str]] = {0: [], 1: [], 2: []}
    under_way: dict[int, list[str]] = {0: [], 1: [], 2: []}
    running = await machine.start()

    async def produce(queue_id: int) -> None:
        number = 0
        while True:
            body = f"q{queue_id}-{len(acknowledged[queue_id])}-{number}" + "x" * (37 * queue_id)
            number += 1
            under_way[queue_id].append(body)
            result = await running.put(draft(body, queue_id=queue_id))
            assert result[0].status is PutMessageStatus.PUT_OK
            acknowledged[queue_id].append(body)

    for round_ in range(4):
        tasks = [asyncio.create_task(produce(queue_id)) for queue_id in acknowledged]
        await asyncio.sleep(0)
        # As many steps of the loop as the seed says: the cut falls anywhere between append and acknowledgement.
        for _ in range(40 + (seed * 7 + round_ * 13) % 29):
            await asyncio.sleep(0)
        await machine.cut_power(keep=(0.0, 0.5, 1.0)[seed % 3])
        await asyncio.gather(*tasks, return_exceptions=True)

        running = await machine.start()
        content = await running.content()
        for queue_id, expected in acknowledged.items():
            found = content.get(("TopicTest", queue_id), [])
            assert found[: len(expected)] == expected, f"round {round_}: an acknowledged message is gone"
            assert found == under_way[queue_id][: len(found)], f"round {round_}: a message that nobody sent, or a gap"
            acknowledged[queue_id], under_way[queue_id] = list(found), list(found)
    assert any(acknowledged.values()), "nothing was ever acknowledged: the lab proves nothing"
    await machine.stop()
