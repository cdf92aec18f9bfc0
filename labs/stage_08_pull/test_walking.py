"""The pull consumer: the program walks the queues itself and keeps its offsets itself."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from labs.stage_08_pull.pull_lab import GROUP, pull_lab
from rocketmq_py.broker.consumer_offset import NO_OFFSET, ConsumerOffsetManager
from rocketmq_py.client.pull_api import PullStatus
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.errors import InvalidInputError


@pytest.mark.claim("pull-06")
@pytest.mark.virtual_time
async def test_a_pull_consumer_walks_the_queues_and_keeps_its_offsets(environment: Environment, tmp_path: Path) -> None:
    """Claim: a pull consumer walks the queues itself and keeps its offsets itself.

    Experiment: 70 messages in each of three queues; a consumer walks them, keeping offsets in a dictionary; it stops in
        the middle, and another consumer of the group goes on from the dictionary.
    Observe: together each message once; the broker knows no offset of the group, because nobody told it.
    """
    async with pull_lab(tmp_path, environment, queues=3) as lab:
        for number in range(3):
            await lab.send(*(f"{number}-{at}" for at in range(70)), queue=number)
        offsets: dict[int, int] = {}
        got: Counter[bytes] = Counter()

        async def walk(rounds: int) -> None:
            async with lab.consumer() as consumer:
                for queue in await consumer.fetch_queues("Orders"):
                    for _ in range(rounds):
                        result = await consumer.pull(queue, offsets.get(queue.queue_id, 0))
                        offsets[queue.queue_id] = result.next_begin_offset
                        got.update(message.body for message in result.messages)
                        if result.status is not PullStatus.FOUND:
                            break

        await walk(1)
        assert offsets == {0: 32, 1: 32, 2: 32}
        await walk(10)
        assert got == Counter(f"{number}-{at}".encode() for number in range(3) for at in range(70))
        manager = lab.kernel.get(ConsumerOffsetManager)
        assert [manager.query(GROUP, "Orders", number) for number in range(3)] == [NO_OFFSET] * 3


@pytest.mark.virtual_time
async def test_two_that_pull_with_one_name_both_get_everything(environment: Environment, tmp_path: Path) -> None:
    """Nothing is shared by a name alone; sharing is an agreement among consumers of a later stage."""
    async with pull_lab(tmp_path, environment, queues=1) as lab:
        await lab.send("a", "b")
        async with lab.consumer() as one, lab.consumer(instance_name="two") as two:
            queue = (await one.fetch_queues("Orders"))[0]
            for consumer in (one, two):
                result = await consumer.pull(queue, 0)
                assert [message.body for message in result.messages] == [b"a", b"b"]


@pytest.mark.virtual_time
async def test_an_offset_outside_the_queue_is_answered_with_the_right_one(
    environment: Environment, tmp_path: Path
) -> None:
    async with pull_lab(tmp_path, environment, queues=1) as lab, lab.consumer() as consumer:
        await lab.send("a", "b", "c")
        queue = (await consumer.fetch_queues("Orders"))[0]
        beyond = await consumer.pull(queue, 17)
        assert (beyond.status, beyond.next_begin_offset) == (PullStatus.OFFSET_ILLEGAL, 3)
        end = await consumer.pull(queue, 3)
        assert (end.status, end.min_offset, end.max_offset) == (PullStatus.NO_NEW_MSG, 0, 3)
        for offset, count in ((-1, 1), (0, 0)):
            with pytest.raises(InvalidInputError, match="cannot pull"):
                await consumer.pull(queue, offset, max_messages=count)


@pytest.mark.virtual_time
async def test_tags_are_compared_by_the_client(environment: Environment, tmp_path: Path) -> None:
    """A broker of this stage does not filter yet: everything comes, and the client keeps what it asked for."""
    async with pull_lab(tmp_path, environment, queues=1) as lab, lab.consumer() as consumer:
        await lab.send("yes", tags="a")
        await lab.send("no", tags="b")
        await lab.send("too", tags="a")
        queue = (await consumer.fetch_queues("Orders"))[0]
        result = await consumer.pull(queue, 0, "a || c")
        assert [message.body for message in result.messages] == [b"yes", b"too"]
        assert result.next_begin_offset == 3


@pytest.mark.virtual_time
async def test_a_lite_consumer_fetches_ahead_seeks_and_pauses(environment: Environment, tmp_path: Path) -> None:
    """`poll` hands out what was fetched; after a seek nothing of before comes any more; a paused queue is silent."""
    async with pull_lab(tmp_path, environment, queues=2) as lab:
        await lab.send(*(f"a{number}" for number in range(25)), queue=0)
        await lab.send("b0", "b1", queue=1)
        async with lab.lite(auto_commit=False) as consumer:
            first, second = await consumer.fetch_queues("Orders")
            await consumer.assign([first])
            await consumer.seek(first, 0)
            got = [message.body.decode() for _ in range(3) for message in await consumer.poll(1)]
            assert got == [f"a{number}" for number in range(25)]
            await consumer.commit()
            assert await consumer.committed(first) == 25

            await consumer.seek(first, 20)
            assert [message.body for message in await consumer.poll(1)] == [b"a20", b"a21", b"a22", b"a23", b"a24"]
            await consumer.seek_to_begin(first)
            assert (await consumer.poll(1))[0].body == b"a0"
            await consumer.seek_to_end(first)
            assert await consumer.poll(1) == []

            await consumer.assign([first, second])
            await consumer.seek(second, 0)
            assert [message.body for message in await consumer.poll(1)] == [b"b0", b"b1"]
            consumer.pause([second])
            await lab.send("b2", queue=1)
            assert await consumer.poll(3) == []
            consumer.resume([second])
            assert [message.body for message in await consumer.poll(3)] == [b"b2"]
