"""What operators see of a queue's units, and what a group would make of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from labs.stage_08_pull.pull_lab import GROUP, TOPIC, PullLab, pull_lab
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.java import string_hash
from rocketmq_py.remoting.bodies.consume_queue import QueryConsumeQueueResponseBody
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.java_json import decode_body
from rocketmq_py.store.message_store import MessageStore


async def ask(lab: PullLab, **changes: Any) -> RemotingCommand:
    fields = {"topic": TOPIC, "queueId": 0, "index": 0, "count": 10, **changes}
    return await lab.request(RequestCode.QUERY_CONSUME_QUEUE, {name: str(value) for name, value in fields.items()})


def body_of(response: RemotingCommand) -> QueryConsumeQueueResponseBody:
    return decode_body(response.body, QueryConsumeQueueResponseBody)


@pytest.mark.virtual_time
async def test_units_are_shown_as_they_are(environment: Environment, tmp_path: Path) -> None:
    """Places follow one another, the hash is the tag's, and nobody's filter is asked when no group is named."""
    async with pull_lab(tmp_path, environment) as lab:
        await lab.send("a", "b", tags="red")
        await lab.send("c", tags="blue")
        found = body_of(await ask(lab, index=1))
    assert (found.min_queue_index, found.max_queue_index) == (0, 3)
    assert [unit.tags_code for unit in found.queue_data] == [string_hash("red"), string_hash("blue")]
    first, second = found.queue_data
    assert first.physic_offset > 0
    assert second.physic_offset == first.physic_offset + first.physic_size


@pytest.mark.virtual_time
async def test_a_group_that_is_not_online_is_named(environment: Environment, tmp_path: Path) -> None:
    async with pull_lab(tmp_path, environment) as lab:
        await lab.send("a")
        found = body_of(await ask(lab, consumerGroup=GROUP))
    assert found.filter_data == f"{GROUP} is not online!"
    assert [unit.eval for unit in found.queue_data] == [False]


@pytest.mark.virtual_time
@pytest.mark.parametrize("index", [-1, 3, 2**62])
async def test_an_index_outside_the_queue_is_named(environment: Environment, tmp_path: Path, index: int) -> None:
    """As in RocketMQ the code is a success; both ends of the queue say where to look instead."""
    async with pull_lab(tmp_path, environment) as lab:
        await lab.send("a", "b", "c")
        response = await ask(lab, index=index)
        missing = await ask(lab, topic="Nothing")
    assert response.code == ResponseCode.SUCCESS
    assert response.remark == f"Index {index} of 0@{TOPIC} is not exist!"
    assert (body_of(response).max_queue_index, body_of(response).queue_data) == (3, [])
    assert (missing.code, missing.remark) == (ResponseCode.SYSTEM_ERROR, "0@Nothing is not exist!")


@pytest.mark.virtual_time
async def test_units_that_are_not_in_memory_are_read_in_a_thread(environment: Environment, tmp_path: Path) -> None:
    """The loop never waits for the disk: a read that would is done elsewhere, and gives the same."""
    async with pull_lab(tmp_path, environment) as lab:
        await lab.send(*map(str, range(40)))
        warm = body_of(await ask(lab, count=100))
        await lab.kernel.get(MessageStore).sync_queues()
        queue = lab.kernel.get(MessageStore).find_queue(TOPIC, 0)
        reads: list[int] = []

        def never_in_memory(key: Any, position: int, size: int, limit: int) -> None:
            reads.append(position)

        queue.files.read = never_in_memory
        cold = body_of(await ask(lab, count=100))
    assert reads
    assert len(cold.queue_data) == 40
    assert cold.queue_data == warm.queue_data
