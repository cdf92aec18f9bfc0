"""Messages in order: to one queue, from one queue, one at a time, whoever comes and goes."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest

from labs.stage_11_rebalance.group_lab import GROUP, TOPIC, group_lab
from labs.stage_12_order.order_lab import OrderedMember, join, locks_of, overlaps, send_steps, steps_of
from rocketmq_py.client.admin.client import AdminClient
from rocketmq_py.client.errors import ClientError
from rocketmq_py.client.orderly import ConsumeOrderlyStatus
from rocketmq_py.client.producer import Producer
from rocketmq_py.client.selectors import select_by_hash
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.message import Message
from rocketmq_py.namesrv.config import NamesrvConfig
from rocketmq_py.remoting.errors import RemotingError
from rocketmq_py.testing.cluster import Cluster
from rocketmq_py.testing.eventually import eventually

KEYS = [f"order-{number}" for number in range(12)]
SUSPEND = ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT


@pytest.mark.claim("ord-01")
@pytest.mark.virtual_time
async def test_messages_of_a_key_are_consumed_first_in_first_out(tmp_path: Path, environment: Environment) -> None:
    """Claim: messages with one sharding key go to one queue and are consumed strictly in the order they were sent.

    Experiment: 12 keys of 10 steps each over 4 queues; two members consume, a third joins while messages flow, and one of
        the first leaves.
    Observe: for each key the steps 0 to 9, each once, in that order, in one queue; no queue is worked on by two at once.
    """
    async with group_lab(tmp_path, environment, queues=4) as lab:
        calls: list = []
        members = [await join(lab, name, calls) for name in ("a", "b")]
        for member in members:
            member.seconds = 0.05
        await send_steps(lab, KEYS, range(5))
        members.append(await join(lab, "c", calls))
        members[2].seconds = 0.02
        await send_steps(lab, KEYS, range(5, 7))
        await members.pop(0).consumer.stop()
        await send_steps(lab, KEYS, range(7, 10))
        await eventually(lambda: len(calls) == 120, 300)

        for key in KEYS:
            assert steps_of(calls, key) == list(range(10))
            assert len({call.queue for call in calls if call.body.startswith(f"{key}:")}) == 1
        assert overlaps(calls) == []
        assert {call.member for call in calls} == {"a", "b", "c"}
        for member in members:
            await member.consumer.stop()


@pytest.mark.claim("ord-02")
@pytest.mark.virtual_time
async def test_one_queue_is_global_order(tmp_path: Path, environment: Environment) -> None:
    """Claim: global order is a topic with one queue.

    Experiment: one queue, three members, thirty messages of different keys.
    Observe: they are consumed in the order in which they were sent, all by one member; the others have no queue.
    """
    async with group_lab(tmp_path, environment, queues=1) as lab:
        calls: list = []
        members = [await join(lab, name, calls) for name in ("a", "b", "c")]
        await send_steps(lab, KEYS[:3], range(10))
        await eventually(lambda: len(calls) == 30, 60)

        assert [call.body for call in calls] == [f"{key}:{step}" for step in range(10) for key in KEYS[:3]]
        assert len({call.member for call in calls}) == 1
        assert sorted(len(member.queue_ids) for member in members) == [0, 0, 1]
        for member in members:
            await member.consumer.stop()


@pytest.mark.claim("ord-03")
@pytest.mark.virtual_time
async def test_one_call_at_a_time_works_on_a_queue(tmp_path: Path, environment: Environment) -> None:
    """Claim: orderly consumption lets one thread at a time work on a queue, locked at the broker and locally.

    Experiment: one member, 4 queues, a listener that takes a second, 40 messages; then another client asks for the locks.
    Observe: four calls run at once, never two for one queue; the broker names the member as owner of all four; the
        other client gets none of them until the member has stopped, and then all.
    """
    async with group_lab(tmp_path, environment, queues=4) as lab:
        calls: list = []
        member = await join(lab, "a", calls)
        member.seconds = 1.0
        await lab.send(*map(str, range(40)))
        await eventually(lambda: member.running == 4)
        loop = asyncio.get_running_loop()
        locks, me = locks_of(lab), member.consumer.instance.client_id
        assert [locks.owner(GROUP, queue, loop.time()) for queue in lab.queues] == [me] * 4
        assert locks.lock(GROUP, "stranger", lab.queues, loop.time()) == []

        await eventually(lambda: len(calls) == 40, 60)
        assert overlaps(calls) == []
        assert calls[-1].end - calls[0].begin == pytest.approx(10, abs=1)

        await member.consumer.stop()
        assert locks.lock(GROUP, "stranger", lab.queues, loop.time()) == lab.queues


@pytest.mark.virtual_time
async def test_a_member_that_leaves_hands_over_at_once_and_one_that_crashes_after_a_minute(
    tmp_path: Path, environment: Environment
) -> None:
    """A lock is given back by a member that stops; that of a dead one lasts until 60 s after its last renewal."""
    async with group_lab(tmp_path, environment, queues=2) as lab:
        calls: list = []
        loop = asyncio.get_running_loop()
        one, two = await join(lab, "a", calls), await join(lab, "b", calls)
        await eventually(lambda: len(one.queue_ids) == len(two.queue_ids) == 1, 60)
        began = loop.time()
        await two.consumer.stop()
        await eventually(lambda: one.queue_ids == [0, 1], 60)
        assert loop.time() - began < 5

        await one.crash()
        began = loop.time()
        three = await join(lab, "c", calls)
        await eventually(lambda: three.queue_ids == [0, 1], 120)
        # The last renewal was up to 20 s before the crash.
        assert 38 < loop.time() - began < 65
        await three.consumer.stop()


@pytest.mark.virtual_time
async def test_a_queue_changes_hands_without_overlap(tmp_path: Path, environment: Environment) -> None:
    """The old owner finishes its call and stores the offset before the new one may begin; nothing comes twice."""
    async with group_lab(tmp_path, environment, queues=2) as lab:
        calls: list = []
        one = await join(lab, "a", calls)
        one.seconds = 2.5
        await lab.send(*map(str, range(12)))
        await eventually(lambda: one.running == 2)
        two = await join(lab, "b", calls)
        two.seconds = 0.5
        await eventually(lambda: len(calls) == 12, 120)

        assert sorted(int(call.body) for call in calls) == list(range(12))
        assert {call.member for call in calls} == {"a", "b"}
        assert overlaps(calls) == []
        for queue in lab.queues:
            bodies = [int(call.body) for call in calls if call.queue == queue]
            assert bodies == sorted(bodies)
        await one.consumer.stop()
        await two.consumer.stop()


@pytest.mark.virtual_time
async def test_a_message_that_fails_holds_the_queue_up(tmp_path: Path, environment: Environment) -> None:
    """Order beats progress: the next message waits until the one before it succeeds; other queues go on."""
    async with group_lab(tmp_path, environment, queues=2) as lab:
        calls: list = []
        member = await join(lab, "a", calls)
        member.answers["2"] = [SUSPEND, SUSPEND, SUSPEND]
        await lab.send(*map(str, range(6)))
        await eventually(lambda: len(calls) == 9, 60)

        first = [call for call in calls if call.queue == lab.queues[0]]
        assert [call.body for call in first] == ["0", "2", "2", "2", "2", "4"]
        assert [round(two.begin - one.begin, 3) for one, two in itertools.pairwise(first[1:5])] == [1, 1, 1]
        assert [call.body for call in calls if call.queue == lab.queues[1]] == ["1", "3", "5"]
        assert max(call.end for call in calls if call.queue == lab.queues[1]) < first[2].begin
        await member.consumer.persist_offsets()
        assert member.consumer.remembered_offset(lab.queues[0]) == 3
        await member.consumer.stop()


@pytest.mark.virtual_time
async def test_a_listener_may_commit_by_itself(tmp_path: Path, environment: Environment) -> None:
    """Without auto-commit nothing is committed until COMMIT, and ROLLBACK gives everything since then again."""
    async with group_lab(tmp_path, environment, queues=1) as lab:
        calls: list = []
        member = OrderedMember(lab, "a", calls, suspend_current_queue_time_millis=200)
        member.manual = True
        member.answers["2"] = [ConsumeOrderlyStatus.ROLLBACK, ConsumeOrderlyStatus.COMMIT]
        await member.consumer.start()
        await lab.send("0", "1", "2", "3")
        await eventually(lambda: len(calls) == 7, 30)

        assert [call.body for call in calls] == ["0", "1", "2", "0", "1", "2", "3"]
        assert calls[3].begin - calls[2].end == pytest.approx(0.2)
        assert member.consumer.remembered_offset(lab.queues[0]) == 3
        await member.consumer.stop()

        # Message 3 succeeded but was never committed: the next member gets it again.
        again = await join(lab, "b", calls)
        await eventually(lambda: len(calls) == 8, 30)
        assert calls[-1].body == "3"
        await again.consumer.stop()


@pytest.mark.claim("ord-04")
@pytest.mark.virtual_time
@pytest.mark.parametrize("is_order_topic", [True, False])
async def test_when_a_broker_dies_ordered_sends_fail_or_keys_move(
    tmp_path: Path, environment: Environment, is_order_topic: bool
) -> None:
    """Claim: when a broker dies, ordered sends to its queues fail, yet the order is never broken: with an order topic.

    Experiment: a topic of 4 queues on each of two brokers, 40 keys. One broker stops, and every key is sent once more;
        with an order configuration of the topic and without. (Name servers hand it out with
        `orderMessageEnable=true` only.)
    Observe: with it, the keys of the dead broker fail and all others stay in their queues. Without it nothing fails, and
        keys change their queue: messages of one key are then in two queues, and their order is lost.
    """
    keys = [f"k{number}" for number in range(40)]
    namesrv_config = NamesrvConfig(order_message_enable=True)
    async with Cluster(tmp_path, brokers=2, environment=environment, namesrv_config=namesrv_config) as cluster:
        async with AdminClient(namesrv_addr=cluster.namesrv_addr, environment=environment) as admin:
            await admin.topics.create(TOPIC, queues=4, order=is_order_topic)
            if is_order_topic:
                await admin.cluster.put_kv("ORDER_TOPIC_CONFIG", TOPIC, "broker-a:4;broker-b:4")
        producer = Producer("shop", namesrv_addr=cluster.namesrv_addr, environment=environment)
        async with producer:

            async def send(key: str) -> str:
                try:
                    result = await producer.send_by(Message.of(TOPIC, b"x"), select_by_hash, key)
                except (ClientError, RemotingError):
                    return "failed"
                return f"{result.queue.broker_name}-{result.queue.queue_id}"

            before = {key: await send(key) for key in keys}
            assert {place[:8] for place in before.values()} == {"broker-a", "broker-b"}
            await cluster.kernels[1].stop()
            # The producer asks for routes every 30 s.
            await asyncio.sleep(35)
            after = {key: await send(key) for key in keys}

            if is_order_topic:
                assert after == {key: "failed" if "broker-b" in place else place for key, place in before.items()}
            else:
                assert "failed" not in after.values()
                moved = {key for key in keys if after[key] != before[key]}
                assert moved == {key for key in keys if "broker-b" in before[key]}


@pytest.mark.claim("ord-05")
@pytest.mark.virtual_time
async def test_the_sharding_key_is_not_the_message_key(tmp_path: Path, environment: Environment) -> None:
    """Claim: the sharding key is not the message key.

    Experiment: two messages with one message key and different sharding keys; two with one sharding key and different
        message keys.
    Observe: the first two are in different queues and are both found by their key; the other two share a queue and are
        found apart. No property of a stored message holds the sharding key.
    """
    async with group_lab(tmp_path, environment, queues=4) as lab:

        async def send(message_key: str, sharding_key: str) -> int:
            message = Message.of(TOPIC, sharding_key.encode(), keys=message_key)
            return (await lab.producer.send_by(message, select_by_hash, sharding_key)).queue.queue_id

        assert await send("invoice", "customer-1") != await send("invoice", "customer-2")
        assert await send("first", "customer-3") == await send("second", "customer-3")
        async with AdminClient(namesrv_addr=lab.cluster.namesrv_addr, environment=environment) as admin:
            found = {key: await admin.messages.by_key(TOPIC, key) for key in ("invoice", "first", "second")}
            by_sharding_key = await admin.messages.by_key(TOPIC, "customer-3")
        assert [sorted(m.body for m in found[key]) for key in ("invoice", "first", "second")] == [
            [b"customer-1", b"customer-2"], [b"customer-3"], [b"customer-3"],
        ]  # fmt: skip
        assert by_sharding_key == []
        assert not any("customer" in value for message in found["invoice"] for value in message.properties.values())
