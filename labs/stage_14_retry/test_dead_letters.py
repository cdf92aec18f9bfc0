"""Dead letters: who has some, what they are, and sending them again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from labs.stage_11_rebalance.group_lab import GROUP, TOPIC, GroupLab, group_lab
from labs.stage_14_retry.retry_lab import FailingMember, count, stored
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.client.admin.client import AdminClient
from rocketmq_py.client.admin.dead_letters import DeadLetter, DeadLetterAdmin
from rocketmq_py.client.errors import ClientError, NoRouteError
from rocketmq_py.client.orderly import ConsumeOrderlyContext, InOrder
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.message import Message, MessageExt
from rocketmq_py.common.permission import WRITE
from rocketmq_py.common.topic import dlq_topic, retry_topic
from rocketmq_py.remoting.bodies.topic_config import TopicConfig
from rocketmq_py.testing.eventually import eventually

pytestmark = pytest.mark.virtual_time

DLQ, RETRY = dlq_topic(GROUP), retry_topic(GROUP)
#: Large enough that clients compress it.
BODY = b"Zo\xc3\xab " * 1_000


@asynccontextmanager
async def dead_letter_lab(folder: Path, environment: Environment) -> AsyncIterator[tuple[GroupLab, DeadLetterAdmin]]:
    """Run a cluster in which a group has three dead letters, and is offline."""
    async with (
        group_lab(folder, environment) as lab,
        AdminClient(namesrv_addr=lab.cluster.namesrv_addr, environment=environment) as admin,
    ):
        member = FailingMember(lab, max_reconsume_times=0)
        async with member.consumer:
            for number in range(3):
                message = Message.of(TOPIC, BODY + b"%d" % number, tags="paid", keys=f"order-{number}", flag=77)
                message.properties["customer"] = "Zoë"
                await lab.producer.send(message)
                await eventually(lambda n=number: count(lab.cluster.kernels[0], DLQ) == n + 1)
        yield lab, DeadLetterAdmin(admin.instance)


@pytest.mark.claim("rty-03")
async def test_a_dead_letter_is_kept_and_can_be_sent_again_to_be_consumed(
    tmp_path: Path, environment: Environment
) -> None:
    """Claim: after the last try it goes to the group's dead letter queue, is kept there, and can be sent again.

    Experiment: messages fail as often as they may while their consumer is online; a week later, with nobody there, an
    operator sends them again; the repaired consumer comes back. Another group consumes the same topic all the time.
    Observe: body, tag, keys, flag and properties are those of the first copy; the consumer gets each once, as a message
    of its first topic, with the count at zero, and marked; the other group gets nothing twice. The dead letters stay.
    """
    async with dead_letter_lab(tmp_path, environment) as (lab, letters):
        other = FailingMember(lab, "other", group="other", fails=lambda message: False)
        async with other.consumer:
            await eventually(lambda: len(other.tries) == 3)
            first = {one.message.unique_key: one.message for one in other.tries}
            await asyncio.sleep(3_600)
            found = [letter async for letter in letters.read(GROUP)]
            assert len(found) == 3
            for letter in found:
                assert (letter.topic, letter.tries) == (TOPIC, 1)
                assert letter.origin_message_id == first[letter.message.unique_key].msg_id
                assert await letters.resend(letter) is not None
            member = FailingMember(lab, "c1", fails=lambda message: False)
            async with member.consumer:
                await eventually(lambda: len(member.tries) == 3)
                await asyncio.sleep(60)
            assert len(other.tries) == 3
        assert len(member.tries) == 3
        by_key = {letter.message.unique_key: letter for letter in found}
        for one in member.tries:
            came, letter = one.message, by_key[one.message.unique_key]
            _is_again(first[came.unique_key], came, letter)
        assert count(lab.cluster.kernels[0], DLQ) == 3


def _is_again(first: MessageExt, came: MessageExt, letter: DeadLetter) -> None:
    assert (came.topic, came.body, came.flag, came.reconsume_times) == (TOPIC, first.body, 77, 0)
    kept = {name: first.properties[name] for name in ("TAGS", "KEYS", "customer", "UNIQ_KEY")}
    assert kept.items() <= came.properties.items()
    assert came.properties["DLQ_ORIGIN_TOPIC"] == DLQ
    assert came.properties["DLQ_ORIGIN_MESSAGE_ID"] == letter.message.msg_id
    assert came.properties["ORIGIN_MESSAGE_ID"] == first.msg_id
    assert not {"DELAY", "REAL_TOPIC", "REAL_QID"} & came.properties.keys()


async def test_nothing_is_sent_again_twice_unless_it_is_wanted(tmp_path: Path, environment: Environment) -> None:
    """The mark of the message that was sent is found by its unique key; a run that broke off can be repeated."""
    async with dead_letter_lab(tmp_path, environment) as (lab, letters):
        found = [letter async for letter in letters.read(GROUP)]
        kernel = lab.cluster.kernels[0]
        assert [await letters.sent_again(letter) for letter in found] == [0, 0, 0]
        await letters.resend(found[1])
        for letter in found:
            await letters.resend(letter)
        assert count(kernel, RETRY) == 3
        times = [await letters.sent_again(letter) for letter in found]
        assert times == [await letters.sent_again(letter) for letter in found]
        assert all(0 < time <= environment.clock.wall_ms() for time in times)
        assert await letters.resend(found[0], to_topic=True) is None
        assert await letters.resend(found[0], again=True) is not None
        assert count(kernel, RETRY) == 4


async def test_a_message_that_died_a_second_time_is_a_dead_letter_of_its_own(
    tmp_path: Path, environment: Environment
) -> None:
    async with dead_letter_lab(tmp_path, environment) as (lab, letters):
        (letter,) = await letters.newest(GROUP, 1)
        await letters.resend(letter)
        member = FailingMember(lab, "c1", max_reconsume_times=0)
        async with member.consumer:
            await eventually(lambda: count(lab.cluster.kernels[0], DLQ) == 4)
        older, newer = await letters.find(GROUP, letter.message.unique_key)
        assert older.message.msg_id == letter.message.msg_id
        assert newer.message.properties["DLQ_ORIGIN_MESSAGE_ID"] == letter.message.msg_id
        assert (newer.topic, newer.origin_message_id) == (TOPIC, letter.origin_message_id)
        assert await letters.sent_again(older)
        assert not await letters.sent_again(newer)
        assert await letters.resend(newer) is not None


async def test_it_can_be_sent_to_everybody_who_consumes_its_topic(tmp_path: Path, environment: Environment) -> None:
    async with dead_letter_lab(tmp_path, environment) as (lab, letters):
        members = [FailingMember(lab, group, group=group, fails=lambda message: False) for group in (GROUP, "other")]
        async with members[0].consumer, members[1].consumer:
            await eventually(lambda: len(members[1].tries) == 3)
            (letter,) = await letters.newest(GROUP, 1)
            result = await letters.resend(letter, to_topic=True)
            assert result is not None and result.queue.topic == TOPIC
            await eventually(lambda: len(members[0].tries) == 1 and len(members[1].tries) == 4)
            assert "RETRY_TOPIC" not in members[0].tries[0].message.properties
        assert await letters.sent_again(letter)


async def test_dead_letters_are_counted_by_group(tmp_path: Path, environment: Environment) -> None:
    async with dead_letter_lab(tmp_path, environment) as (lab, letters):
        lab.cluster.kernels[0].get(TopicConfigManager).update(
            [TopicConfig(topic_name=dlq_topic("quiet"), read_queue_nums=1, write_queue_nums=1)]
        )
        await asyncio.sleep(1)
        busy, quiet = await letters.groups()
        dead = stored(lab.cluster.kernels[0], DLQ)
        assert (busy.group, busy.messages) == (GROUP, 3)
        assert (busy.oldest_ms, busy.newest_ms) == (dead[0].store_timestamp, dead[-1].store_timestamp)
        assert (quiet.group, quiet.messages, quiet.oldest_ms, quiet.newest_ms) == ("quiet", 0, 0, 0)
        assert [letter async for letter in letters.read("quiet")] == []


def ids(letters: Sequence[DeadLetter]) -> list[str]:
    return [letter.message.msg_id for letter in letters]


async def test_they_are_found_by_either_id_and_the_newest_are_shown(tmp_path: Path, environment: Environment) -> None:
    async with dead_letter_lab(tmp_path, environment) as (lab, letters):
        found = [letter async for letter in letters.read(GROUP)]
        assert ids(await letters.newest(GROUP, 2)) == ids(found[1:])
        assert ids(await letters.newest(GROUP, 100)) == ids(found)
        for letter in found:
            assert ids(await letters.find(GROUP, letter.message.msg_id)) == ids([letter])
            assert ids(await letters.find(GROUP, letter.message.unique_key)) == ids([letter])
        assert await letters.find(GROUP, "F" * 32) == []
        (first, *_) = stored(lab.cluster.kernels[0], TOPIC)
        assert await letters.find(GROUP, first.msg_id) == [], "a message of another topic is no dead letter"


async def test_a_topic_that_an_old_broker_made_write_only_is_read_all_the_same(
    tmp_path: Path, environment: Environment
) -> None:
    """Brokers up to 4.9.1 do so, and an operator had to change the permission by hand."""
    async with dead_letter_lab(tmp_path, environment) as (lab, letters):
        readable = ids([letter async for letter in letters.read(GROUP)])
        lab.cluster.kernels[0].get(TopicConfigManager).update(
            [TopicConfig(topic_name=DLQ, read_queue_nums=1, write_queue_nums=1, perm=WRITE)]
        )
        await asyncio.sleep(1)
        assert ids([letter async for letter in letters.read(GROUP)]) == readable
        (letter,) = await letters.newest(GROUP, 1)
        assert letter.message.body == BODY + b"2"
        assert await letters.resend(letter) is not None


async def test_a_group_that_consumes_in_order_is_recognised(tmp_path: Path, environment: Environment) -> None:
    """What is sent to its retry topic would be a dead letter again."""

    async def listener(messages: Sequence[MessageExt], context: ConsumeOrderlyContext) -> None:
        pass

    async with dead_letter_lab(tmp_path, environment) as (lab, letters):
        assert not await letters.consumes_in_order(GROUP)
        assert not await letters.consumes_in_order("nobody")
        for name, is_ordered in (("c1", False), ("c2", True)):
            member = FailingMember(lab, name, fails=lambda message: False)
            if is_ordered:
                member.consumer.register_listener(InOrder(listener))
            async with member.consumer:
                await eventually(lambda m=member: len(m.consumer.queues) == 5, 40)
                assert await letters.consumes_in_order(GROUP) is is_ordered


async def test_what_cannot_be_sent_again_says_why(tmp_path: Path, environment: Environment) -> None:
    async with dead_letter_lab(tmp_path, environment) as (lab, letters):
        with pytest.raises(NoRouteError, match="%DLQ%nobody"):
            await letters.newest("nobody", 1)
        with pytest.raises(InvalidInputError, match="illegal characters"):
            await letters.newest("no such name!", 1)
        await lab.producer.send(Message(DLQ, b"put there by hand"))
        (letter,) = await letters.newest(GROUP, 1)
        with pytest.raises(ClientError, match="RETRY_TOPIC"):
            await letters.resend(letter)
        assert count(lab.cluster.kernels[0], RETRY) == 0
