"""Consumer groups: who gets what, before, while and after members come and go."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from rocketmq_py.broker.consumer_offset import ConsumerOffsetManager
from rocketmq_py.common.environment import Environment
from rocketmq_py.remoting.bodies.heartbeat import MessageModel
from rocketmq_py.testing.eventually import eventually

from .group_lab import GROUP, TOPIC, group_lab


@pytest.mark.claim("reb-01")
@pytest.mark.virtual_time
async def test_nine_messages_for_three_consumers_are_three_each(tmp_path: Path, environment: Environment) -> None:
    """Claim: in clustering the queues are divided among the consumers, so that each message is handled by one of them.

    Experiment: a topic of three queues, three consumers, nine messages, sent to the queues in turn.
    Observe: every message is handled once, three by each consumer.
    """
    async with group_lab(tmp_path, environment, queues=3) as lab:
        for name in ("c0", "c1", "c2"):
            await lab.join(name)
        await lab.settled()
        await lab.send(*map(str, range(9)))
        await eventually(lambda: sum(lab.bodies().values()) == 9)
        assert lab.bodies() == Counter(map(str, range(9)))
        assert [len(member.got) for member in lab.members] == [3, 3, 3]


@pytest.mark.claim("reb-02")
@pytest.mark.virtual_time
async def test_in_broadcasting_everyone_gets_everything_once(
    tmp_path: Path, environment: Environment, caplog: pytest.LogCaptureFixture
) -> None:
    """Claim: broadcasting gives every message to every consumer; offsets are the client's, failures are not retried.

    Experiment: two broadcasting members; the listener of one fails for one message; then that member is started again.
    Observe: both get all; the failed message does not come again, and a warning says so; the offsets are in a file of
        the member and not at the broker; the second run goes on behind the first.
    """
    settings = {"message_model": MessageModel.BROADCASTING, "local_offset_store_dir": str(tmp_path / "offsets")}
    async with group_lab(tmp_path, environment, queues=2) as lab:
        one, two = await lab.join("c0", **settings), await lab.join("c1", **settings)
        one.fails.add("3")
        await eventually(lambda: one.queue_ids == two.queue_ids == [0, 1])
        await lab.send(*map(str, range(6)))
        await eventually(lambda: len(one.got) >= 6 and len(two.got) >= 6)
        await asyncio.sleep(30)
        assert Counter(one.bodies) == Counter(two.bodies) == Counter(map(str, range(6)))
        assert "dropped: broadcasting has no retry" in caplog.text
        await lab.leave(one)
        assert (tmp_path / "offsets" / "10.1.1.1@c0" / GROUP / "offsets.json").exists()
        assert lab.cluster.kernels[0].get(ConsumerOffsetManager).topics_of(GROUP) == []

        await lab.send("6")
        again = await lab.join("c0", **settings)
        await eventually(lambda: again.bodies == ["6"])
        await asyncio.sleep(30)
        assert again.bodies == ["6"]


@pytest.mark.claim("reb-03", "reb-04")
@pytest.mark.virtual_time
async def test_each_queue_has_one_owner_and_consumers_beyond_the_queues_are_idle(
    tmp_path: Path, environment: Environment
) -> None:
    """Claim: members divide the queues alone, by the same sorted lists; a queue has one owner, some members may be idle.

    Experiment: let five members join a topic of four queues one after the other, then let the first leave.
    Observe: after each step the shares are those of the strategy for the sorted client ids.
    """
    async with group_lab(tmp_path, environment, queues=4) as lab:
        shares = []
        for number in range(5):
            await lab.join(f"c{number}")
            await lab.settled()
            shares.append([member.queue_ids for member in lab.members])
        assert shares == [
            [[0, 1, 2, 3]],
            [[0, 1], [2, 3]],
            [[0, 1], [2], [3]],
            [[0], [1], [2], [3]],
            [[0], [1], [2], [3], []],
        ]
        await lab.leave(lab.members[0])
        await lab.settled()
        assert [member.queue_ids for member in lab.members] == [[0], [1], [2], [3]]


@pytest.mark.claim("reb-05")
@pytest.mark.virtual_time
async def test_only_queues_that_move_pause_when_a_member_joins(tmp_path: Path, environment: Environment) -> None:
    """Claim (qualified): joining triggers a rebalance in which all consumers stop.

    Experiment: two members share eight queues that get a message every 50 ms each; a third member joins.
    Observe: queues that stay with their owner show no gap at all; queues that move pause for less than three seconds.
    """
    async with group_lab(tmp_path, environment, queues=8) as lab:
        one, two = await lab.join("c0"), await lab.join("c1")
        await lab.settled()
        before = {queue: member for member in (one, two) for queue in member.queue_ids}
        numbers = itertools.count()

        async def keep_sending(rounds: int) -> None:
            for _ in range(rounds):
                await lab.send(*(str(next(numbers)) for _ in range(8)))
                await asyncio.sleep(0.05)

        await keep_sending(20)
        sending = asyncio.create_task(keep_sending(100))
        await lab.join("c2")
        await sending
        await lab.settled()
        total = next(numbers)
        await eventually(lambda: len(lab.bodies()) == total, 30)

        gaps: dict[int, float] = {}
        times: defaultdict[int, list[float]] = defaultdict(list)
        for member in lab.members:
            for _, queue, at in member.got:
                times[queue].append(at)
        for queue, arrivals in times.items():
            ordered = sorted(arrivals)
            gaps[queue] = max(later - earlier for earlier, later in itertools.pairwise(ordered))
        after = {queue: member for member in lab.members for queue in member.queue_ids}
        moved = {queue for queue in range(8) if before[queue] is not after[queue]}
        repeated = sum(count - 1 for count in lab.bodies().values())
        print(f"queues {sorted(moved)} moved; longest gaps {gaps}; {repeated} of {total} messages twice")
        assert 0 < len(moved) < 8
        assert all(gaps[queue] < 0.2 for queue in gaps.keys() - moved), "a queue that stayed was interrupted"
        assert all(gaps[queue] < 3 for queue in moved), "a moved queue was without an owner for long"


@pytest.mark.claim("reb-05", "reb-07")
@pytest.mark.virtual_time
async def test_messages_in_work_when_their_queue_moves_are_consumed_twice(
    tmp_path: Path, environment: Environment
) -> None:
    """Claim: duplicates come from offsets that were not committed when a queue moved.

    Experiment: a member holds ten messages in its listener; another joins, so that half of the queues move.
    Observe: the messages of the moved queues are given to the new owner too, those of the others are not.
    """
    async with group_lab(tmp_path, environment, queues=2) as lab:
        slow = await lab.join("c0")
        await lab.settled()
        slow.gate.clear()
        await lab.send(*map(str, range(10)))
        await eventually(lambda: len(slow.got) == 10)
        quick = await lab.join("c1")
        await lab.settled()
        await eventually(lambda: len(quick.got) == 5)
        slow.gate.set()
        await asyncio.sleep(30)
        assert sorted(quick.bodies) == ["1", "3", "5", "7", "9"], "those of queue 1, which moved"
        assert lab.bodies() == Counter({str(n): 1 if n % 2 == 0 else 2 for n in range(10)})


@pytest.mark.claim("reb-06")
@pytest.mark.virtual_time
async def test_a_restarted_consumer_goes_on_where_its_group_was(tmp_path: Path, environment: Environment) -> None:
    """Claim: in clustering the broker keeps the offsets, committed every 5 s.

    Experiment: consume 20 messages and look at the broker's table for the seconds that follow; stop the consumer, send
        five more, start another one.
    Observe: without new messages the offsets are at the broker within 15 s (first after 10 s, then every 5 s); the
        second consumer gets the five, and nothing else.
    """
    async with group_lab(tmp_path, environment, queues=2) as lab:
        first = await lab.join("c0")
        await lab.send(*map(str, range(20)))
        await eventually(lambda: len(first.got) == 20)
        offsets = lab.cluster.kernels[0].get(ConsumerOffsetManager)
        began = asyncio.get_running_loop().time()
        await eventually(lambda: offsets.query_all(GROUP, TOPIC) == {0: 10, 1: 10}, 16)
        print(f"committed {asyncio.get_running_loop().time() - began:.1f} s after the last message was consumed")
        await lab.leave(first)
        await lab.send(*map(str, range(20, 25)))
        second = await lab.join("c1")
        await eventually(lambda: len(second.got) == 5)
        await asyncio.sleep(20)
        assert Counter(second.bodies) == Counter(map(str, range(20, 25)))


@pytest.mark.claim("reb-07")
@pytest.mark.virtual_time
async def test_a_crash_before_the_acknowledgement_delivers_again(tmp_path: Path, environment: Environment) -> None:
    """Claim: a message is acknowledged after it was consumed, so that a crash before it redelivers.

    Experiment: a consumer has handled five messages and holds five more in its listener; it crashes.
    Observe: its successor gets all that was not committed, and certainly the five that were in work.
    """
    async with group_lab(tmp_path, environment, queues=1) as lab:
        first = await lab.join("c0")
        await lab.send(*map(str, range(5)))
        await eventually(lambda: len(first.got) == 5)
        await asyncio.sleep(16)
        first.gate.clear()
        await lab.send(*map(str, range(5, 10)))
        await eventually(lambda: len(first.got) == 10)
        await first.crash()
        lab.members.remove(first)
        second = await lab.join("c1")
        await eventually(lambda: len(second.got) >= 5)
        await asyncio.sleep(20)
        assert sorted(second.bodies) == ["5", "6", "7", "8", "9"]


@pytest.mark.virtual_time
async def test_a_proper_stop_hands_the_queues_over_at_once(tmp_path: Path, environment: Environment) -> None:
    async with group_lab(tmp_path, environment, queues=4) as lab:
        one, two = await lab.join("c0"), await lab.join("c1")
        await lab.settled()
        await lab.send(*map(str, range(8)))
        await eventually(lambda: len(lab.bodies()) == 8)
        began = asyncio.get_running_loop().time()
        await lab.leave(one)
        await lab.settled()
        took = asyncio.get_running_loop().time() - began
        print(f"all queues had a new owner {took * 1000:.0f} ms after stop() began")
        assert took < 1.5
        await asyncio.sleep(10)
        assert len(two.got) + len(one.got) == 8, "nothing was consumed twice: the offsets were stored first"


@pytest.mark.claim("reb-08")
@pytest.mark.virtual_time
async def test_members_with_different_subscriptions_lose_messages(
    tmp_path: Path, environment: Environment, caplog: pytest.LogCaptureFixture
) -> None:
    """Claim: consumers of one group must have the same subscriptions.

    Experiment: one member subscribes TagA, the other TagB; send 20 messages of each to all queues.
    Observe: of each tag a part reaches nobody, as it lies in queues of the member that does not want it. The broker
        says so in a warning that names both.
    """
    async with group_lab(tmp_path, environment, queues=4) as lab:
        with caplog.at_level(logging.WARNING):
            one = await lab.join("c0", "TagA")
            two = await lab.join("c1", "TagB")
            await lab.settled()
            await lab.send(*(f"A{number}" for number in range(20)), tags="TagA")
            await lab.send(*(f"B{number}" for number in range(20)), tags="TagB")
            await asyncio.sleep(60)
        missing = 40 - len(lab.bodies())
        print(f"{missing} of 40 messages reached nobody")
        assert missing >= 20
        assert all(body.startswith("A") for body in one.bodies)
        assert all(body.startswith("B") for body in two.bodies)
        warnings = [record.message for record in caplog.records if "subscribe different things" in record.message]
        assert warnings and "c0" in warnings[0] and "c1" in warnings[0]


@pytest.mark.claim("reb-11")
@pytest.mark.virtual_time
async def test_a_consumer_that_hangs_piles_up_its_queues_and_queues_bound_the_scale_out(
    tmp_path: Path, environment: Environment
) -> None:
    """Claim: a consumer that hangs piles up its queues, and the number of queues bounds the scale-out.

    Experiment: two members share two queues; the listener of one hangs, while its client goes on sending heartbeats.
        A third member joins to help.
    Observe: the messages of the hanging member's queue wait for minutes, and the helper has no queue to help with.
    """
    async with group_lab(tmp_path, environment, queues=2) as lab:
        hanging, lively = await lab.join("c0"), await lab.join("c1")
        await lab.settled()
        hanging.gate.clear()
        helper = await lab.join("c2")
        await lab.settled()
        await lab.send(*map(str, range(40)))
        await asyncio.sleep(300)
        finished = lab.cluster.kernels[0].get(ConsumerOffsetManager).query_all(GROUP, TOPIC)
        print(f"committed after five minutes: {finished}; the helper got {len(helper.got)} messages")
        assert len(lively.got) == 20
        assert (finished.get(0, 0), finished[1]) == (0, 20)
        assert helper.queue_ids == [] and helper.got == []
