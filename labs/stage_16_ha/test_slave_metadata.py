"""Labs: what a slave copies besides the log."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.broker.consumer_offset import ConsumerOffsetManager
from rocketmq_py.broker.ha.metadata_copies import Answered, TopicCopy
from rocketmq_py.broker.ha.metadata_watch import COPY_SECONDS, WATCH_METADATA, MetadataWatch
from rocketmq_py.broker.ha.slave_synchronize import SlaveSynchronize
from rocketmq_py.broker.schedule.delay_offsets import DelayOffsetManager
from rocketmq_py.broker.subscription_group import SubscriptionGroupManager
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.message import Message
from rocketmq_py.remoting.bodies.subscription_group import SubscriptionGroupConfig
from rocketmq_py.remoting.bodies.topic_config import TopicConfig, TopicConfigTable
from rocketmq_py.remoting.java_json import encode_body
from rocketmq_py.remoting.processors import Processors
from rocketmq_py.store.message_store import MessageStore
from rocketmq_py.store.timer.timer_message_store import TimerMessageStore
from rocketmq_py.testing.eventually import eventually

from .ha_lab import TOPIC, HaLab, ha_lab


@pytest.mark.claim("ha-09")
@pytest.mark.virtual_time
async def test_a_slave_has_its_masters_topics_groups_and_progress(tmp_path: Path, environment: Environment) -> None:
    """Claim: topics, groups, consumer offsets and delay progress are copied to the slave, every 10 s.

    Experiment: create a topic and a group, commit an offset, deliver a delayed message, wait, stop the slave.
    Observe: the slave's tables are the master's, with the same versions, and its files say the same.
    """
    async with ha_lab(tmp_path, environment, slaves=1) as lab:
        (slave,) = lab.slaves
        lab.create_topic("Fresh", queues=3)
        lab.master.get(SubscriptionGroupManager).update(
            [SubscriptionGroupConfig(group_name="billing", retry_max_times=3)]
        )
        lab.master.get(ConsumerOffsetManager).commit("billing", TOPIC, 2, 41)
        producer = await lab.producer()
        await producer.send(Message(TOPIC, b"later", properties={"DELAY": "1"}))
        await asyncio.sleep(21)

        for part in (TopicConfigManager, SubscriptionGroupManager, ConsumerOffsetManager, DelayOffsetManager):
            assert slave.get(part).data_version == lab.master.get(part).data_version, (
                f"{part.__name__}: the versions differ. Is the version of the answer kept, or counted on?"
            )
        topics = slave.get(TopicConfigManager)
        assert topics.topics == lab.master.get(TopicConfigManager).topics
        group = slave.get(SubscriptionGroupManager).select("billing")
        assert group is not None and group.retry_max_times == 3
        assert slave.get(ConsumerOffsetManager).query("billing", TOPIC, 2) == 41
        assert slave.get(DelayOffsetManager).get(1) == 1, "The master delivered one message of level 1"

        await lab.stop("slave-1")
        slave = await lab.start("slave-1", follow=False, config={"namesrv_addr": ""})
        assert slave.get(TopicConfigManager).select("Fresh") is not None, "The copy was not written to the disk"
        assert slave.get(ConsumerOffsetManager).query("billing", TOPIC, 2) == 41
        assert slave.get(DelayOffsetManager).get(1) == 1


async def watching_slave(lab: HaLab) -> Kernel:
    """Return the slave when it has copied everything and keeps its question open."""
    (slave,) = lab.slaves
    await eventually(lambda: lab.master.get(MetadataWatch).held > 0, 5)
    return slave


@pytest.mark.virtual_time
async def test_a_topic_or_group_is_on_the_slave_before_its_creation_is_acknowledged(
    tmp_path: Path, environment: Environment
) -> None:
    """A master that dies as soon as it has answered leaves what was created on the disk of its slave."""
    async with ha_lab(tmp_path, environment, slaves=1) as lab:
        slave = await watching_slave(lab)
        lab.create_topic("Fresh")
        await lab.master.get(TopicConfigManager).persist()
        assert slave.get(TopicConfigManager).select("Fresh") is not None, (
            "The answer goes out and the slave has no such topic. Does the master wait for the slave's next question?"
        )
        lab.master.get(SubscriptionGroupManager).update([SubscriptionGroupConfig(group_name="billing")])
        await lab.master.get(SubscriptionGroupManager).persist()
        assert slave.get(SubscriptionGroupManager).select("billing") is not None
        await lab.stop("slave-1")
        slave = await lab.start("slave-1", follow=False, config={"namesrv_addr": ""})
        assert slave.get(TopicConfigManager).select("Fresh") is not None


@pytest.mark.virtual_time
async def test_a_slave_that_copies_nothing_holds_a_change_up_once_and_for_a_second(
    tmp_path: Path, environment: Environment
) -> None:
    async with ha_lab(tmp_path, environment, slaves=1) as lab:
        slave = await watching_slave(lab)
        loop, topics = asyncio.get_running_loop(), lab.master.get(TopicConfigManager)
        slave.get(SlaveSynchronize).is_held = lambda: True
        await slave.get(SlaveSynchronize).role_changed()
        for name, seconds in (("First", COPY_SECONDS), ("Second", 0.0)):
            lab.create_topic(name)
            began = loop.time()
            await topics.persist()
            assert loop.time() - began == pytest.approx(seconds, abs=0.1)


@pytest.mark.virtual_time
async def test_a_master_that_does_not_know_the_held_question_is_copied_every_10_s(
    tmp_path: Path, environment: Environment
) -> None:
    """An Apache master answers 3 (not supported) to a code that is ours."""
    async with ha_lab(tmp_path, environment) as lab:
        del lab.master.get(Processors)._table[WATCH_METADATA]
        slave = await lab.start("slave-1")
        await eventually(lambda: slave.get(SlaveSynchronize).rounds > 0, 5)
        lab.create_topic("Fresh")
        await asyncio.sleep(5)
        assert slave.get(TopicConfigManager).select("Fresh") is None
        await asyncio.sleep(5.5)
        assert slave.get(TopicConfigManager).select("Fresh") is not None
        assert slave.get(SlaveSynchronize).rounds == 2, "It asked again and again what the master does not know"


@pytest.mark.virtual_time
async def test_a_deleted_topic_goes_from_the_slave_too_and_no_other(tmp_path: Path, environment: Environment) -> None:
    """The trap of RocketMQ 5: a slave there deletes every topic while it replaces the table."""
    async with ha_lab(tmp_path, environment, slaves=1) as lab:
        (slave,) = lab.slaves
        lab.create_topic("Doomed", queues=1)
        await lab.send("kept")
        await lab.send("gone", topic="Doomed")
        for group, topic in (("billing", TOPIC), ("billing", "Doomed")):
            lab.master.get(ConsumerOffsetManager).commit(group, topic, 0, 1)
        await lab.copied()
        await asyncio.sleep(11)
        deleted: list[str] = []
        slave.get(TopicConfigManager).deleted.append(deleted.append)
        assert lab.master.get(TopicConfigManager).delete("Doomed")
        lab.master.get(MessageStore).delete_topic("Doomed")
        await asyncio.sleep(25)

        assert deleted == ["Doomed"], "Only what the master does not have any more is deleted"
        assert slave.get(MessageStore).max_offset("Doomed", 0) == 0, "Its queues are still there"
        assert sum(slave.get(MessageStore).max_offset(TOPIC, queue) for queue in range(4)) == 1
        assert slave.get(ConsumerOffsetManager).query("billing", "Doomed", 0) == -1
        assert slave.get(ConsumerOffsetManager).query("billing", TOPIC, 0) == 1
        master_version = lab.master.get(TopicConfigManager).data_version
        assert slave.get(TopicConfigManager).data_version == master_version


@pytest.mark.virtual_time
async def test_a_topic_that_is_deleted_and_made_again_begins_anew_on_the_slave(
    tmp_path: Path, environment: Environment
) -> None:
    """Between two copies a topic may go and come: the log alone tells that its queue began anew."""
    async with ha_lab(tmp_path, environment, slaves=1) as lab:
        (slave,) = lab.slaves
        lab.create_topic("Again", queues=1)
        await lab.send("a", "b", "c", topic="Again")
        await lab.copied()
        lab.master.get(TopicConfigManager).delete("Again")
        lab.master.get(MessageStore).delete_topic("Again")
        lab.create_topic("Again", queues=1)
        await lab.send("d", topic="Again")
        await lab.copied()
        await asyncio.sleep(30)
        assert (
            slave.get(MessageStore).max_offset("Again", 0) == lab.master.get(MessageStore).max_offset("Again", 0) == 1
        )
        result = slave.get(MessageStore).get_message("Again", 0, 0, 8)
        assert result is not None and result.message_count == 1 and b"d" in result.records


@pytest.mark.virtual_time
async def test_an_answer_that_is_none_changes_nothing(tmp_path: Path, environment: Environment) -> None:
    """A master may be broken, or somebody else: what cannot be read is refused, and asked for again."""
    async with ha_lab(tmp_path, environment, slaves=1) as lab:
        (slave,) = lab.slaves
        await eventually(lambda: slave.get(SlaveSynchronize).rounds > 0, 5)
        before = dict(slave.get(TopicConfigManager).topics)
        config = TopicConfig(topic_name="Odd", read_queue_nums=-1, write_queue_nums=10**9)
        lab.master.get(TopicConfigManager)._put(config)
        lab.master.get(ConsumerOffsetManager).commit("billing", TOPIC, 0, 7)
        await asyncio.sleep(12)
        assert slave.get(TopicConfigManager).topics == before
        assert slave.get(SlaveSynchronize).failures > 0
        assert slave.get(ConsumerOffsetManager).query("billing", TOPIC, 0) == 7, (
            "One table that cannot be read must not keep the others from being copied"
        )
        lab.master.get(TopicConfigManager).delete("Odd")
        await asyncio.sleep(12)
        assert slave.get(SlaveSynchronize).failures == 0


@pytest.mark.virtual_time
async def test_delay_progress_ahead_of_the_log_is_not_used(tmp_path: Path, environment: Environment) -> None:
    """What the master delivered and the slave has not copied would be lost with the master: it is delivered again."""
    async with ha_lab(tmp_path, environment, slaves=1) as lab:
        (slave,) = lab.slaves
        producer = await lab.producer()
        await producer.send(Message(TOPIC, b"later", properties={"DELAY": "1"}))
        await lab.copied()
        asyncio.get_running_loop().network.cut(lab.ha_port)  # type: ignore[attr-defined]
        await asyncio.sleep(12)
        offsets = slave.get(DelayOffsetManager)
        assert lab.master.get(DelayOffsetManager).get(1) == 1
        offsets.drop_unsafe()
        assert offsets.get(1) is None, (
            "The slave would skip a message that only its master has delivered. "
            "Which end of the log does a copied offset need?"
        )


@pytest.mark.virtual_time
async def test_a_slave_knows_how_far_the_timers_are(tmp_path: Path, environment: Environment) -> None:
    """Checkpoint and counts of the timers come with the rest; the slave itself delivers nothing."""
    async with ha_lab(tmp_path, environment, slaves=1) as lab:
        (slave,) = lab.slaves
        producer = await lab.producer()
        now = environment.clock.wall_ms()
        for seconds in (2, 3600):
            due = now + seconds * 1000
            await producer.send(Message(TOPIC, b"timer", properties={"TIMER_DELIVER_MS": str(due)}))
        await asyncio.sleep(25)
        timers, theirs = slave.get(TimerMessageStore), lab.master.get(TimerMessageStore)
        assert theirs.checkpoint.last_timer_queue_offset == 2
        assert timers.checkpoint.master_timer_queue_offset == 2
        assert timers.checkpoint.last_read_time_ms > now + 2_000
        assert timers.metrics.count(TOPIC) == 1
        assert timers.delivery.delivered == 0


@pytest.mark.virtual_time
async def test_an_old_answer_does_not_cost_a_queue(tmp_path: Path, environment: Environment) -> None:
    """The log may be ahead of the tables: a topic is missing in one answer, and its messages are there already."""
    async with ha_lab(tmp_path, environment, slaves=1) as lab:
        (slave,) = lab.slaves
        old = encode_body(TopicConfigTable(topic_config_table=dict(lab.master.get(TopicConfigManager).topics)))
        lab.create_topic("Early", queues=1)
        await lab.send("one", "two", topic="Early")
        await lab.copied()
        copy = TopicCopy(slave.get(TopicConfigManager), slave.get(MessageStore))
        await copy.take(Answered(old, 0))
        assert slave.get(TopicConfigManager).select("Early") is None
        assert slave.get(MessageStore).max_offset("Early", 0) == 2, "The messages are gone with one old answer"
