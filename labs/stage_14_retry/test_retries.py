"""Messages that fail come again, later and later, and end as dead letters; what consumers do for it."""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from labs.stage_11_rebalance.group_lab import GROUP, TOPIC, GroupLab, group_lab
from labs.stage_14_retry.retry_lab import DELAYS, FailingMember, count, stored
from rocketmq_py.broker.subscription_group import SubscriptionGroupManager
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.client import sync
from rocketmq_py.client.consume_service import ConsumeContext, ConsumeStatus
from rocketmq_py.client.consumer_config import PushConsumerConfig
from rocketmq_py.client.orderly import ConsumeOrderlyContext, InOrder
from rocketmq_py.client.producer import Producer
from rocketmq_py.client.push_consumer import PushConsumer
from rocketmq_py.client.send_back import SendBack
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.message import Message, MessageExt
from rocketmq_py.common.topic import dlq_topic, retry_topic
from rocketmq_py.remoting.bodies.heartbeat import ConsumeFromWhere, MessageModel
from rocketmq_py.remoting.bodies.subscription import SQL92
from rocketmq_py.remoting.bodies.subscription_group import SubscriptionGroupConfig
from rocketmq_py.remoting.bodies.topic_config import TopicConfig
from rocketmq_py.store.message_store import MessageStore
from rocketmq_py.store.tick import Tick
from rocketmq_py.testing.cluster import SMALL_STORE, Cluster
from rocketmq_py.testing.eventually import eventually

DLQ = dlq_topic(GROUP)
RETRY = retry_topic(GROUP)


@pytest.mark.claim("rty-01")
@pytest.mark.virtual_time
async def test_a_message_that_fails_comes_again_later_and_later(tmp_path: Path, environment: Environment) -> None:
    """Claim: a message whose consumption failed goes to the group's retry topic and comes again after a growing delay.

    Experiment: a new group's listener fails for one message of three; the lab waits for 12 minutes of virtual time.
    Observe: calls 10 s, 30 s, 1, 2, 3 and 4 minutes apart, under the first topic's name; the queue's offset has passed
    the message from the beginning, so nothing behind it waits.
    """
    async with group_lab(tmp_path, environment, queues=1) as lab:
        member = FailingMember(lab, fails=lambda message: message.body == b"poison")
        async with member.consumer:
            await lab.send("before", "poison", "behind")
            await eventually(lambda: member.bodies[:3] == ["before", "poison", "behind"])
            await eventually(lambda: member.consumer.offsets.get(lab.queues[0]) == 3, 1)
            await asyncio.sleep(720)
        assert member.bodies.count("before") == member.bodies.count("behind") == 1
        tries = [one for one in member.tries if one.body == "poison"]
        pauses = [later.at - earlier.at for earlier, later in itertools.pairwise(tries)]
        assert pauses == pytest.approx(DELAYS[:6], abs=0.05)
        assert [one.message.topic for one in tries] == [TOPIC] * 7
        assert [one.message.reconsume_times for one in tries] == list(range(7))
        assert len({one.message.unique_key for one in tries}) == 1
        assert len({one.message.msg_id for one in tries}) == 7, "each is a record of its own"


@pytest.mark.claim("rty-02")
@pytest.mark.virtual_time
async def test_the_retries_of_a_group_are_not_seen_by_another(tmp_path: Path, environment: Environment) -> None:
    """Claim: the retry queue belongs to the consumer group, not to the topic.

    Experiment: two groups consume one topic; in one of them the listener fails three times for every message.
    Observe: it sees each message four times, the other group once.
    """
    async with group_lab(tmp_path, environment) as lab:
        failing = FailingMember(lab, group="failing", fails=lambda message: message.reconsume_times < 3)
        other = FailingMember(lab, group="other", fails=lambda message: False)
        async with failing.consumer, other.consumer:
            await lab.send(*"abcd")
            await asyncio.sleep(sum(DELAYS[:4]) + 10)
        assert sorted(failing.bodies) == sorted("abcd" * 4)
        assert sorted(other.bodies) == list("abcd")
        kernel = lab.cluster.kernels[0]
        assert count(kernel, retry_topic("failing")) == 12
        assert count(kernel, retry_topic("other")) == 0


@pytest.mark.claim("rty-04")
@pytest.mark.virtual_time
async def test_a_retry_survives_the_consumer(tmp_path: Path, environment: Environment) -> None:
    """Claim: the retry is kept by the broker: it survives a crash of the consumer.

    Experiment: a consumer fails for a message, sends it back and crashes. An hour later the group gets a new member.
    Observe: that gets the message, with the count of tries.
    """
    async with group_lab(tmp_path, environment) as lab:
        member = FailingMember(lab)
        await member.consumer.start()
        await lab.send("a")
        await eventually(lambda: count(lab.cluster.kernels[0], "SCHEDULE_TOPIC_XXXX") == 0 and member.tries)
        await asyncio.sleep(1)
        await member.crash()
        await asyncio.sleep(3_600)
        successor = FailingMember(lab, "c1", fails=lambda message: False)
        async with successor.consumer:
            await eventually(lambda: "a" in successor.bodies)
            await asyncio.sleep(60)
        assert [one.message.reconsume_times for one in successor.tries if one.message.reconsume_times] == [1]


@pytest.mark.virtual_time
async def test_a_crash_before_the_send_back_loses_nothing(
    tmp_path: Path, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Claim: at no moment is a message with neither the broker nor the consumer's uncommitted offset.

    Experiment: the consumer crashes between the listener's failure and the send-back; then between the send-back and the
    commit of the offset.
    Observe: a new member gets the message in both cases; in the second one twice, with the counts 0 and 1.
    """
    send_back = SendBack.send_back
    for crash_after, expected in ((False, [0]), (True, [0, 1])):
        async with group_lab(tmp_path / str(crash_after), environment, queues=1) as lab:
            member = FailingMember(lab)
            stuck = asyncio.Event()

            async def crashing(
                self: SendBack, message: MessageExt, level: int, after: bool = crash_after, reached: Any = stuck
            ) -> bool:
                if after:
                    assert await send_back(self, message, level)
                reached.set()
                await asyncio.Event().wait()
                return True

            monkeypatch.setattr(SendBack, "send_back", crashing)
            await member.consumer.start()
            await lab.send("a")
            await stuck.wait()
            await member.crash()
            monkeypatch.undo()
            successor = FailingMember(lab, "c1", fails=lambda message: False)
            async with successor.consumer:
                await asyncio.sleep(100)
            assert [one.message.reconsume_times for one in successor.tries] == expected


@pytest.mark.claim("rty-05")
@pytest.mark.virtual_time
async def test_broadcasting_has_no_retries(
    tmp_path: Path, environment: Environment, caplog: pytest.LogCaptureFixture
) -> None:
    """Claim: broadcasting has no retries.

    Experiment: two members with broadcasting fail for every message; a third one of another group does not broadcast.
    Observe: each of the two is given each message once, and their group's retry topic stays empty and unread.
    """
    async with group_lab(tmp_path, environment) as lab:
        folder = str(tmp_path / "offsets")
        members = [
            FailingMember(lab, name, message_model=MessageModel.BROADCASTING, local_offset_store_dir=folder)
            for name in ("c0", "c1")
        ]
        async with members[0].consumer, members[1].consumer:
            await lab.send(*"abcd")
            await asyncio.sleep(600)
            for member in members:
                assert sorted(member.bodies) == list("abcd")
                assert RETRY not in member.consumer.subscriptions
        assert count(lab.cluster.kernels[0], RETRY) == 0
    assert "broadcasting has no retry" in caplog.text


@pytest.mark.claim("rty-06")
@pytest.mark.virtual_time
async def test_in_order_a_message_is_repeated_in_its_place(tmp_path: Path, environment: Environment) -> None:
    """Claim: orderly consumption retries in place (the queue is suspended for a moment), not in the retry topic.

    Experiment: an ordered listener fails 20 times for the second of four messages; then a second group, which has a limit
    of 3, fails always.
    Observe: the same message again and again, a second apart, before the next one; nothing in the retry topic. With the
    limit it becomes a dead letter after the first call and three more, and the queue goes on.
    """

    async def consume(group: str, limit: int, failures: int) -> list[tuple[float, str]]:
        calls: list[tuple[float, str]] = []

        async def listener(messages: Sequence[MessageExt], context: ConsumeOrderlyContext) -> None:
            body = messages[0].body.decode()
            calls.append((asyncio.get_running_loop().time(), body))
            if body == "b" and [seen for _, seen in calls].count("b") <= failures:
                raise ValueError("not yet")

        member = FailingMember(lab, group, group=group, max_reconsume_times=limit)
        member.consumer.register_listener(InOrder(listener))
        async with member.consumer:
            await eventually(lambda: [body for _, body in calls][-1:] == ["d"], 60)
            await asyncio.sleep(20)
        return calls

    async with group_lab(tmp_path, environment, queues=1) as lab:
        await lab.send(*"abcd")
        calls = await consume("patient", -1, 20)
        assert [body for _, body in calls] == ["a", *["b"] * 21, "c", "d"]
        times = [at for at, body in calls if body == "b"]
        assert {round(later - earlier, 2) for earlier, later in itertools.pairwise(times)} == {1.0}
        kernel = lab.cluster.kernels[0]
        assert count(kernel, retry_topic("patient")) == count(kernel, dlq_topic("patient")) == 0

        calls = await consume("strict", 3, 1_000)
        assert [body for _, body in calls] == ["a", *["b"] * 4, "c", "d"]
        assert count(kernel, retry_topic("strict")) == 0
        (dead,) = stored(kernel, dlq_topic("strict"))
        assert (dead.body, dead.reconsume_times, dead.properties["RETRY_TOPIC"]) == (b"b", 4, TOPIC)
        assert (dead.properties["DELAY"], dead.properties["UNIQ_KEY"]) == ("-1", dead.unique_key)


@pytest.mark.virtual_time
async def test_an_ordered_queue_waits_while_no_broker_takes_its_dead_letter(
    tmp_path: Path, environment: Environment
) -> None:
    """The message is asked for again until it can be put aside: leaving it out would lose it."""
    calls: list[str] = []

    async def listener(messages: Sequence[MessageExt], context: ConsumeOrderlyContext) -> None:
        calls.append(messages[0].body.decode())
        if calls[-1] == "a":
            raise ValueError("never")

    async with group_lab(tmp_path, environment, queues=1) as lab:
        member = FailingMember(lab, max_reconsume_times=1)
        member.consumer.register_listener(InOrder(listener))
        async with member.consumer:
            await eventually(lambda: len(member.consumer.queues) >= 1)
            kernel = lab.cluster.kernels[0]
            await lab.send("a", "b")
            await eventually(lambda: calls.count("a") == 1)
            kernel.get(Tick).refuse("the disk is full")
            await asyncio.sleep(20)
            assert "b" not in calls
            assert calls.count("a") > 3
            kernel.get(Tick).accept("the disk is full")
            await eventually(lambda: "b" in calls, 30)
        assert [dead.body for dead in stored(kernel, DLQ)] == [b"a"]


# --- what a listener may say --------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_a_listener_says_when_a_message_comes_again_or_that_it_never_does(
    tmp_path: Path, environment: Environment
) -> None:
    async with group_lab(tmp_path, environment, queues=1) as lab:
        member = FailingMember(lab)
        async with member.consumer:
            member.delay_level = 6
            await lab.send("a")
            await asyncio.sleep(130)
            member.delay_level = -1
            await asyncio.sleep(115)
        assert member.times("a")[1] - member.times("a")[0] == pytest.approx(120, abs=0.05)
        assert len(member.tries) == 3
        (dead,) = stored(lab.cluster.kernels[0], DLQ)
        assert dead.reconsume_times == 3


@pytest.mark.virtual_time
async def test_of_a_batch_only_what_failed_comes_again(tmp_path: Path, environment: Environment) -> None:
    """With `ack_index` the listener says how far it came; with a failure the whole batch comes again."""
    calls: list[list[str]] = []

    async def listener(messages: Sequence[MessageExt], context: ConsumeContext) -> ConsumeStatus:
        calls.append(sorted(message.body.decode() for message in messages))
        context.ack_index = 1
        return ConsumeStatus.CONSUME_SUCCESS

    async with group_lab(tmp_path, environment, queues=1) as lab:
        await lab.send(*"abcd")
        member = FailingMember(lab, consume_message_batch_max_size=4)
        member.consumer.register_listener(listener)
        async with member.consumer:
            await asyncio.sleep(12)
            assert member.consumer.offsets.get(lab.queues[0]) == 4
        assert calls == [["a", "b", "c", "d"], ["c", "d"]]


@pytest.mark.virtual_time
@pytest.mark.parametrize(("own", "of_group", "tries"), [(2, 16, 3), (-1, 1, 2), (0, 16, 1)])
async def test_the_consumers_limit_counts_and_without_one_that_of_the_group(
    tmp_path: Path, environment: Environment, own: int, of_group: int, tries: int
) -> None:
    async with group_lab(tmp_path, environment) as lab:
        kernel = lab.cluster.kernels[0]
        config = SubscriptionGroupConfig(group_name=GROUP, retry_max_times=of_group)
        kernel.get(SubscriptionGroupManager).update([config])
        member = FailingMember(lab, max_reconsume_times=own)
        async with member.consumer:
            await lab.send("a")
            await asyncio.sleep(60)
        assert len(member.tries) == tries
        assert count(kernel, DLQ) == 1


@pytest.mark.virtual_time
@pytest.mark.parametrize("kind", ["TAG", SQL92])
async def test_retries_of_a_filtering_group_come_to_it_whatever_it_filters_by(
    tmp_path: Path, environment: Environment, kind: str
) -> None:
    """The retry topic is subscribed with `*`: it holds nothing but what the group wanted. Other tags stay away."""
    async with group_lab(tmp_path, environment, enable_property_filter=True) as lab:
        member = FailingMember(lab, fails=lambda message: message.reconsume_times < 2)
        member.consumer.subscribe(TOPIC, "paid" if kind == "TAG" else "amount > 10", kind)
        async with member.consumer:
            for body, tag, amount in (("wanted", "paid", "11"), ("other", "new", "9")):
                message = Message.of(TOPIC, body.encode(), tags=tag)
                message.properties["amount"] = amount
                await lab.producer.send(message)
            await asyncio.sleep(60)
        assert member.bodies == ["wanted"] * 3


@pytest.mark.virtual_time
async def test_the_retries_go_to_the_member_that_has_the_retry_queue(tmp_path: Path, environment: Environment) -> None:
    """It is rebalanced like any other; whoever failed is not asked again."""
    async with group_lab(tmp_path, environment) as lab:
        members = [FailingMember(lab, name, fails=lambda message: not message.reconsume_times) for name in ("c0", "c1")]
        async with members[0].consumer, members[1].consumer:
            await eventually(lambda: all(len(member.consumer.queues) >= 2 for member in members), 60)
            await eventually(lambda: sum(len(member.consumer.queues) for member in members) == 5, 60)
            await lab.send(*"abcdefgh")
            await asyncio.sleep(12)
        owners = [member for member in members if any(one.message.reconsume_times for one in member.tries)]
        assert len(owners) == 1
        assert sorted(one.body for one in owners[0].tries if one.message.reconsume_times) == list("abcdefgh")


@pytest.mark.virtual_time
async def test_the_first_retry_of_a_new_group_is_not_late(tmp_path: Path, environment: Environment) -> None:
    """Claim: a consumer finds the retry topic that its first heartbeat created, and does not wait for a refresh of routes.

    Experiment: a new group starts on connections that are in use already, whose routes were refreshed a second ago.
    Observe: its first failed message comes again after 10 s. Java's clients look when the next 30 s are over.
    """
    async with group_lab(tmp_path, environment) as lab:
        tries: list[float] = []

        async def listener(messages: Sequence[MessageExt], context: ConsumeContext) -> ConsumeStatus:
            tries.append(asyncio.get_running_loop().time())
            return ConsumeStatus.RECONSUME_LATER

        config = PushConsumerConfig(consume_from_where=ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET)
        await lab.send("a")
        await asyncio.sleep(1)
        consumer = PushConsumer(GROUP, config, instance=lab.producer.instance)
        consumer.subscribe(TOPIC)
        consumer.register_listener(listener)
        async with consumer:
            await asyncio.sleep(15)
        assert [round(later - earlier, 1) for earlier, later in itertools.pairwise(tries)] == [10.0]


# --- when the send-back fails -------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_a_message_whose_record_is_gone_is_sent_to_the_retry_topic_as_a_new_one(
    tmp_path: Path, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Claim: the consumer has the message still, when its log file is deleted by age.

    Experiment: the broker finds no record at the offset that is sent back.
    Observe: the consumer sends body and properties anew; the message comes again at its time, and the offset goes on.
    """
    async with group_lab(tmp_path, environment, queues=1) as lab:
        member = FailingMember(lab, fails=lambda message: message.reconsume_times < 2)

        async def look_message(offset: int) -> None:
            return None

        monkeypatch.setattr(lab.cluster.kernels[0].get(MessageStore), "look_message", look_message)
        async with member.consumer:
            message = Message.of(TOPIC, b"x" * 5_000, tags="paid", keys="order-17", flag=77)
            message.properties["customer"] = "Zoë"
            await lab.producer.send(message)
            await asyncio.sleep(45)
            assert member.consumer.offsets.get(lab.queues[0]) == 1
        assert [one.message.reconsume_times for one in member.tries] == [0, 1, 2]
        pauses = [later.at - earlier.at for earlier, later in itertools.pairwise(member.tries)]
        assert pauses == pytest.approx([10, 30], abs=0.05)
        first, last = member.tries[0].message, member.tries[-1].message
        assert (last.body, last.flag, last.topic) == (first.body, 77, TOPIC)
        kept = {name: first.properties[name] for name in ("TAGS", "KEYS", "customer", "UNIQ_KEY")}
        assert kept.items() <= last.properties.items()
        assert last.properties["ORIGIN_MESSAGE_ID"] == first.unique_key
        assert "WAIT" not in last.properties, "the answer to the new message was waited for"


@pytest.mark.virtual_time
async def test_retries_that_a_consumer_makes_itself_end_as_dead_letters_too(
    tmp_path: Path, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with group_lab(tmp_path, environment, queues=1) as lab:
        kernel = lab.cluster.kernels[0]

        async def look_message(offset: int) -> None:
            return None

        monkeypatch.setattr(kernel.get(MessageStore), "look_message", look_message)
        for group, limit, level in (("limited", 2, 0), ("at once", 16, -1)):
            member = FailingMember(lab, group=group.replace(" ", "-"), max_reconsume_times=limit)
            member.delay_level = level
            async with member.consumer:
                await lab.send(group)
                await asyncio.sleep(100)
            tries = [one for one in member.tries if one.body == group]
            assert len(tries) == (3 if level == 0 else 1)
            dead = [one for one in stored(kernel, dlq_topic(group.replace(" ", "-"))) if one.body == group.encode()]
            assert len(dead) == 1
            assert (dead[0].properties["RETRY_TOPIC"], dead[0].reconsume_times) == (TOPIC, len(tries))


@pytest.mark.virtual_time
async def test_another_broker_keeps_the_retry_when_the_messages_own_is_down(
    tmp_path: Path, environment: Environment
) -> None:
    """Claim: a message that was pulled before its broker died is not lost to its group.

    Experiment: two brokers; the listener is at work with a message of the first one when that stops, and then fails.
    Observe: the send-back fails, the message goes to the retry topic of the second broker and comes from there.
    """
    async with Cluster(tmp_path, brokers=2, environment=environment) as cluster:
        for kernel in cluster.kernels:
            kernel.get(TopicConfigManager).update(
                [TopicConfig(topic_name=TOPIC, read_queue_nums=1, write_queue_nums=1)]
            )
        async with Producer(namesrv_addr=cluster.namesrv_addr, environment=environment) as producer:
            lab = GroupLab(cluster, producer, environment, 1)
            member = FailingMember(lab)
            gate = asyncio.Event()

            async def listener(messages: Sequence[MessageExt], context: ConsumeContext) -> ConsumeStatus:
                await member.handle(messages, context)
                await gate.wait()
                return ConsumeStatus.RECONSUME_LATER if len(member.tries) == 1 else ConsumeStatus.CONSUME_SUCCESS

            member.consumer.register_listener(listener)
            async with member.consumer:
                await eventually(lambda: len(member.consumer.queues) == 4, 40)
                await lab.send("a", queue=0)
                await eventually(lambda: member.tries)
                await cluster.kernels[0].stop()
                gate.set()
                await asyncio.sleep(40)
            assert [one.message.broker_name for one in member.tries] == ["broker-a", "broker-b"]
            assert count(cluster.kernels[1], RETRY) == 1


@pytest.mark.virtual_time
async def test_a_message_that_no_broker_takes_stays_with_the_consumer(
    tmp_path: Path, environment: Environment, caplog: pytest.LogCaptureFixture
) -> None:
    """Claim: a full disk stops retries from being kept by the broker, and loses none.

    Experiment: the broker takes no messages for a minute while the listener fails.
    Observe: the listener is given the message every five seconds, the offset waits; afterwards it is sent back.
    """
    async with group_lab(tmp_path, environment, queues=1) as lab:
        tick = lab.cluster.kernels[0].get(Tick)
        member = FailingMember(lab)
        async with member.consumer:
            await lab.send("a", "b")
            tick.refuse("the disk is 97 % full")
            await asyncio.sleep(60)
            pauses = [later - earlier for earlier, later in itertools.pairwise(member.times("a"))]
            assert len(pauses) > 5
            assert all(5 <= pause < 9 for pause in pauses), pauses
            assert member.consumer.offsets.get(lab.queues[0]) <= 0
            tick.accept("the disk is 97 % full")
            await eventually(lambda: member.consumer.offsets.get(lab.queues[0]) == 2, 10)
            await asyncio.sleep(10.1)
            assert [one.message.reconsume_times for one in member.tries if one.message.topic == TOPIC][-1] >= 1
        assert count(lab.cluster.kernels[0], RETRY) == 2
    assert "stays with group billing" in caplog.text


# --- listeners that never end -------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_a_listener_that_hangs_holds_its_queue_back_for_a_while_only(
    tmp_path: Path, environment: Environment, caplog: pytest.LogCaptureFixture
) -> None:
    """Claim: after `consume_timeout` minutes the message is sent back, and the queue's offset goes on.

    Experiment: the first call of the listener hangs for an hour and then fails; messages behind it succeed.
    Observe: the offset waits for it, passes it at the second look, and the message comes again ten seconds later. What
    the first call says in the end changes nothing.
    """
    calls: list[str] = []

    async def listener(messages: Sequence[MessageExt], context: ConsumeContext) -> None:
        calls.append(messages[0].body.decode())
        if calls.count("a") == 1 and calls[-1] == "a":
            await asyncio.sleep(3_600)
            raise ValueError("too late")

    async with group_lab(tmp_path, environment, queues=1) as lab:
        member = FailingMember(lab, consume_timeout=15)
        member.consumer.register_listener(listener)
        async with member.consumer:
            await lab.send("a", "b", "c")
            await asyncio.sleep(15 * 60 - 10)
            assert sorted(calls) == ["a", "b", "c"]
            assert member.consumer.offsets.get(lab.queues[0]) <= 0
            await asyncio.sleep(15 * 60 + 20)
            assert member.consumer.offsets.get(lab.queues[0]) == 3
            assert "has not finished message" in caplog.text
            await asyncio.sleep(15)
            assert calls.count("a") == 2
            await asyncio.sleep(3_600)
        assert calls.count("a") == 2
        assert count(lab.cluster.kernels[0], RETRY) == 1


# --- ordinary code ------------------------------------------------------------------------------------------------------


async def test_a_blocking_consumer_sends_back_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In real time, with a first delay level of a second."""
    store_config = replace(SMALL_STORE, message_delay_level="1s 1s 1s 1s")
    caplog.set_level(logging.CRITICAL, "rocketmq_py.client.listener_calls")
    async with Cluster(tmp_path, store_config=store_config) as cluster:
        tries: list[int] = []

        def handle(messages: Sequence[MessageExt], context: ConsumeContext) -> None:
            tries.append(messages[0].reconsume_times)
            raise ValueError("no")

        def consume() -> None:
            with sync.Producer(namesrv_addr=cluster.namesrv_addr) as producer:
                producer.send(Message.of("Parcels", b"a"))
            config = PushConsumerConfig(
                namesrv_addr=cluster.namesrv_addr,
                consume_from_where=ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET,
                max_reconsume_times=2,
            )
            consumer = sync.PushConsumer("carriers", config)
            consumer.subscribe("Parcels")
            consumer.register_listener(handle)
            with consumer:
                done.wait(30)

        done = threading.Event()
        thread = asyncio.create_task(asyncio.to_thread(consume))
        try:
            await eventually(lambda: count(cluster.kernels[0], dlq_topic("carriers")) == 1, 25)
        finally:
            done.set()
            await thread
        assert tries == [0, 1, 2]
