"""What producers and consumers see when a broker is gone, and when it comes back. Roles are fixed here."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rocketmq_py.broker.consumer_offset import ConsumerOffsetManager
from rocketmq_py.broker.ha.broker_role import BrokerRoles
from rocketmq_py.broker.ha.member_group import MemberGroup
from rocketmq_py.broker.subscription_group import SubscriptionGroupManager
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.client.config import ProducerConfig
from rocketmq_py.client.errors import ClientError
from rocketmq_py.client.producer import Producer
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.message import Message
from rocketmq_py.remoting.bodies.subscription_group import SubscriptionGroupConfig
from rocketmq_py.remoting.bodies.topic_config import TopicConfig
from rocketmq_py.store.config import BrokerRole
from rocketmq_py.store.message_store import MessageStore
from rocketmq_py.testing.eventually import eventually

from .ha_lab import MASTER, TOPIC, HaLab, ha_lab
from .reader import GROUP, Pulls, Reader

#: Slaves serve reads; the master comes back to the port where it was.
READS: dict[str, Any] = {"slave_read_enable": True}
MASTER_PORT = {"listen_port": 10911}


async def restart_master(lab: HaLab, **config: Any) -> None:
    """Start the master that was stopped."""
    await lab.start(MASTER, BrokerRole.ASYNC_MASTER, 0, config={**READS, **config})


@pytest.mark.claim("ha-03")
@pytest.mark.virtual_time
async def test_with_fixed_roles_a_slave_never_becomes_a_master(tmp_path: Path, environment: Environment) -> None:
    """Claim: fixed roles never switch; the slave serves reads only, however long its master is gone.

    Experiment: a master with a slave and a consumer; the master is stopped for an hour; a producer tries every minute.
    Observe: every message is refused, the consumer gets what was acknowledged before, the slave stays what it is.
    """
    async with ha_lab(tmp_path, environment, slaves=1, config=READS) as lab:
        [slave] = lab.slaves
        await lab.send("one", "two", "three")
        await lab.copied()
        await asyncio.sleep(11)
        producer = await lab.producer()
        await lab.stop(MASTER)
        async with Reader(lab) as reader:
            for _ in range(60):
                with pytest.raises(ClientError):
                    await producer.send(Message.of(TOPIC, b"lost?"))
                await asyncio.sleep(60)
            assert reader.bodies == Counter(["one", "two", "three"])
        assert slave.get(BrokerRoles).is_slave and slave.config.broker_id == 1
        assert not slave.get(MemberGroup).has_master
        assert sum(slave.get(MessageStore).max_offset(TOPIC, queue) for queue in range(4)) == 3


@pytest.mark.claim("ha-04")
@pytest.mark.virtual_time
async def test_consumers_read_on_from_the_slave_when_the_master_is_gone(
    tmp_path: Path, environment: Environment
) -> None:
    """Claim: consumers read from the slave when the master is down, and from slave 1 only when they are slow.

    Experiment: two slaves; a consumer has read half of 200 messages when the master goes.
    Observe: it gets each of the others once, within seconds: it need not wait for the next refresh of its routes.
    """
    # The reader takes few at a time, so that most are still to be read when the master goes.
    few = {"pull_threshold_for_queue": 4, "pull_batch_size": 2}
    async with ha_lab(tmp_path, environment, slaves=2, config=READS) as lab, Reader(lab, **few) as reader:
        await lab.send(*(str(number) for number in range(100)))
        await eventually(lambda: len(reader.got) == 100, 10)
        reader.gate.clear()
        await lab.send(*(str(number) for number in range(100, 200)))
        await lab.copied()
        await lab.stop(MASTER)
        reader.gate.set()
        stopped = asyncio.get_running_loop().time()
        await eventually(lambda: len(reader.got) >= 200, 60)
        assert reader.bodies == Counter(str(number) for number in range(200))
        assert reader.got[-1][1] - stopped < 5, (
            "Does a consumer that cannot reach its broker wait for the next refresh of its routes?"
        )


@pytest.mark.claim("ha-04")
@pytest.mark.virtual_time
async def test_a_reader_of_old_messages_is_sent_to_slave_1_and_comes_back(
    tmp_path: Path, environment: Environment
) -> None:
    """Claim: the master says that a reader is too far behind, and slave id 1 takes the load.

    Experiment: a master that believes to have memory for no message at all; two slaves that keep all in memory.
    Observe: all but the first pull of each queue go to slave 1, none to slave 2; at the end of the queue the reader
    comes back to the master.
    """
    async with ha_lab(tmp_path, environment, slaves=2, config=READS) as lab:
        await lab.send(*(str(number) for number in range(400)))
        await lab.copied()
        await asyncio.sleep(11)
        lab.master.get(MessageStore)._reader.memory_limit = 0
        pulls = {name: Pulls(broker) for name, broker in lab.brokers.items()}
        async with Reader(lab) as reader:
            await eventually(lambda: len(reader.got) == 400, 60)
            assert reader.bodies == Counter(str(number) for number in range(400))
            assert pulls["slave-1"].count >= 4, (
                f"{pulls['slave-1'].count} pulls at slave 1. What did the master suggest?"
            )
            assert pulls["slave-2"].count == 0, "Slave 2 takes no load by default"
            await asyncio.sleep(1)
            before = pulls["slave-1"].count, pulls[MASTER].count
            await asyncio.sleep(60)
            assert pulls["slave-1"].count == before[0], "At the end of a queue the reader is back at the master"
            assert 4 <= pulls[MASTER].count - before[1] <= 30, "Readers at the end wait; they do not ask all the time"


@pytest.mark.virtual_time
async def test_at_the_end_of_a_queue_a_reader_waits_at_the_slave_of_a_dead_master(
    tmp_path: Path, environment: Environment
) -> None:
    """RocketMQ's slave sends such a reader to the master, again and again, whether there is one or not."""
    async with ha_lab(tmp_path, environment, slaves=1, config=READS) as lab:
        [slave] = lab.slaves
        await lab.send("one")
        await lab.copied()
        await asyncio.sleep(11)
        await lab.stop(MASTER)
        await asyncio.sleep(2)
        pulls = Pulls(slave)
        async with Reader(lab) as reader:
            await asyncio.sleep(60)
            assert reader.bodies == Counter(["one"])
            assert pulls.count < 60, f"{pulls.count} pulls in a minute from 4 queues: nobody holds them"


@pytest.mark.virtual_time
async def test_a_slave_without_slave_read_enable_serves_nobody(tmp_path: Path, environment: Environment) -> None:
    """It is RocketMQ's default: a slave is a copy, and no more."""
    async with ha_lab(tmp_path, environment, slaves=1) as lab:
        await lab.send("one")
        await lab.copied()
        await asyncio.sleep(11)
        await lab.stop(MASTER)
        async with Reader(lab) as reader:
            await asyncio.sleep(60)
            assert not reader.got
        [slave] = lab.slaves
        assert sum(slave.get(MessageStore).max_offset(TOPIC, queue) for queue in range(4)) == 1, "It had the message"


@pytest.mark.claim("ha-05")
@pytest.mark.virtual_time
async def test_producers_go_on_with_the_queues_of_other_masters(tmp_path: Path, environment: Environment) -> None:
    """Claim: when a master dies, producers go on with the topic's queues on other masters.

    Experiment: two masters have the topic; a producer sends every 50 ms; one master dies in the middle.
    Observe: no send fails, and from then on all messages are on the other one.
    """
    async with ha_lab(tmp_path, environment) as lab:
        other = await lab.start("other", BrokerRole.ASYNC_MASTER, 0, config={"broker_name": "broker-b"})
        topic = TopicConfig(topic_name=TOPIC, read_queue_nums=4, write_queue_nums=4)
        other.get(TopicConfigManager).update([topic])
        await asyncio.sleep(1)
        config = ProducerConfig(namesrv_addr=lab.namesrv.address)
        async with Producer("till", config, environment=environment) as producer:
            brokers: list[str] = []
            for number in range(200):
                if number == 100:
                    await lab.stop(MASTER)
                result = await producer.send(Message.of(TOPIC, str(number).encode()))
                brokers.append(result.queue.broker_name)
                await asyncio.sleep(0.05)
        assert 40 <= Counter(brokers[:100])["broker-a"] <= 60, "Both take half while both are there"
        assert set(brokers[100:]) == {"broker-b"}
        assert sum(other.get(MessageStore).max_offset(TOPIC, queue) for queue in range(4)) >= 140


@pytest.mark.virtual_time
async def test_offsets_flow_back_when_the_master_returns(tmp_path: Path, environment: Environment) -> None:
    """What was read at the slave is not read again at the master: the consumer commits there what it knows."""
    async with ha_lab(tmp_path, environment, config={**READS, **MASTER_PORT}) as lab:
        slave = await lab.start("slave-1", config=READS)
        await lab.linked()
        await lab.send(*(str(number) for number in range(100)))
        await lab.copied()
        await asyncio.sleep(11)
        await lab.stop(MASTER)
        async with Reader(lab) as reader:
            await eventually(lambda: len(reader.got) == 100, 60)
            await asyncio.sleep(10)
            read = sum(slave.get(ConsumerOffsetManager).query_all(GROUP, TOPIC).values())
            assert read == 100, "The progress is kept at the slave while there is no master"
            pulls = Pulls(slave)
            await restart_master(lab, **MASTER_PORT)
            offsets = lab.master.get(ConsumerOffsetManager)
            assert not offsets.query_all(GROUP, TOPIC)
            await asyncio.sleep(40)
            assert pulls.count < 400, (
                f"{pulls.count} pulls in 40 s: a reader that does not know the master yet comes back at once"
            )
            assert sum(offsets.query_all(GROUP, TOPIC).values()) == 100
        async with Reader(lab, name="later") as later:
            await lab.send("new")
            await asyncio.sleep(40)
            assert later.bodies == Counter(["new"]), "Something was consumed twice"
        assert reader.bodies == Counter(str(number) for number in range(100))


@pytest.mark.virtual_time
async def test_a_slave_finds_a_master_that_starts_later(tmp_path: Path, environment: Environment) -> None:
    """Within two seconds: it asks every second who is there, and registers again when a master has come."""
    async with ha_lab(tmp_path, environment) as lab:
        await lab.stop(MASTER)
        slave = await lab.start("slave-1", follow=False, config=READS)
        await asyncio.sleep(20)
        assert not slave.get(BrokerRoles).master.address
        await restart_master(lab)
        await asyncio.sleep(2)
        assert slave.get(BrokerRoles).master == lab.master_address
        await lab.linked()


@pytest.mark.virtual_time
async def test_groups_choose_where_they_read(tmp_path: Path, environment: Environment) -> None:
    """`whichBrokerWhenConsumeSlowly` of a group names the slave that takes its slow reads."""
    async with ha_lab(tmp_path, environment, slaves=2, config=READS) as lab:
        lab.master.get(SubscriptionGroupManager).update(
            [SubscriptionGroupConfig(group_name=GROUP, which_broker_when_consume_slowly=2)]
        )
        await lab.send(*(str(number) for number in range(400)))
        await lab.copied()
        await asyncio.sleep(11)
        lab.master.get(MessageStore)._reader.memory_limit = 0
        pulls = {name: Pulls(broker) for name, broker in lab.brokers.items()}
        async with Reader(lab) as reader:
            await eventually(lambda: len(reader.got) == 400, 60)
            assert pulls["slave-1"].count == 0 and pulls["slave-2"].count >= 4
