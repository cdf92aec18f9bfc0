"""What only a master does, or who acts for it: deliveries of levels and timers, questions about half messages."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.broker.ha.acting_master import ActingMaster
from rocketmq_py.broker.ha.escape_bridge import EscapeBridge
from rocketmq_py.broker.ha.member_group import MemberGroup
from rocketmq_py.broker.ha.pre_online import BrokerPreOnlineService
from rocketmq_py.broker.ha.special_services import SpecialServices
from rocketmq_py.broker.schedule.delay_offsets import DelayOffsetManager
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.client.errors import ClientError
from rocketmq_py.client.orderly import ConsumeOrderlyContext, InOrder
from rocketmq_py.client.transaction_listener import LocalTransactionState
from rocketmq_py.client.transaction_producer import TransactionProducer
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.message import Message, MessageExt
from rocketmq_py.common.properties import encode_properties
from rocketmq_py.common.topic import TIMER_TOPIC, TRANS_HALF_TOPIC
from rocketmq_py.remoting.bodies.topic_config import TopicConfig
from rocketmq_py.store.config import BrokerRole
from rocketmq_py.store.draft import Draft
from rocketmq_py.store.message_store import MessageStore
from rocketmq_py.store.timer.timer_message_store import TimerMessageStore
from rocketmq_py.testing.eventually import eventually

from .ha_lab import MASTER, TOPIC, HaLab, ha_lab
from .reader import Reader

ACTING: dict[str, Any] = {
    "slave_read_enable": True,
    "enable_slave_acting_master": True,
    "enable_remote_escape": True,
}


def stored(broker: Kernel, topic: str = TOPIC) -> int:
    """How many messages a topic has on a broker."""
    return sum(broker.get(MessageStore).max_offset(topic, queue) for queue in range(4))


@asynccontextmanager
async def two_groups(
    folder: Path, environment: Environment, store: dict[str, Any] | None = None, **config: Any
) -> AsyncIterator[tuple[HaLab, Kernel, Kernel]]:
    """A master with a slave, and a master of another name that has the topic as well."""
    settings = {**ACTING, **config}
    others = {**settings, "listen_port": 0}
    async with ha_lab(folder, environment, config=settings, **(store or {})) as lab:
        await lab.start("slave-1", config=others, **(store or {}))
        await lab.linked()
        other = await lab.start("other", BrokerRole.ASYNC_MASTER, 0, config={**others, "broker_name": "broker-b"})
        other.get(TopicConfigManager).update([TopicConfig(topic_name=TOPIC, read_queue_nums=4, write_queue_nums=4)])
        await asyncio.sleep(1)
        yield lab, lab.brokers["slave-1"], other


@pytest.mark.virtual_time
async def test_a_slave_delivers_nothing(tmp_path: Path, environment: Environment) -> None:
    """Its master does, and the slave copies what was delivered. With the master gone nothing is delivered at all."""
    async with ha_lab(tmp_path, environment, slaves=1) as lab:
        [slave] = lab.slaves
        producer = await lab.producer()
        await producer.send(Message(TOPIC, b"soon", properties={"DELAY": "1"}))
        await producer.send(Message(TOPIC, b"late", properties={"DELAY": "5"}))
        deliver_at = environment.clock.wall_ms() + 60_000
        await producer.send(Message(TOPIC, b"timer", properties={"TIMER_DELIVER_MS": str(deliver_at)}))
        await asyncio.sleep(5)
        await lab.copied()
        assert stored(slave) == 1, "What the master delivered is copied"
        assert lab.master.get(SpecialServices).is_running and not slave.get(SpecialServices).is_running
        await lab.stop(MASTER)
        await asyncio.sleep(600)
        assert stored(slave) == 1, "A slave has delivered, into a log that is a copy"
        assert not slave.get(SpecialServices).is_running


@pytest.mark.virtual_time
async def test_an_acting_master_delivers_over_the_bridge(tmp_path: Path, environment: Environment) -> None:
    """With `enableSlaveActingMaster` and `enableRemoteEscape` what is due goes to another master, each message once."""
    async with two_groups(tmp_path, environment) as (lab, slave, other):
        producer = await lab.producer()
        sends = []
        now = environment.clock.wall_ms()
        for number in range(8):
            sends.append(await producer.send(Message(TOPIC, f"level {number}".encode(), properties={"DELAY": "5"})))
            properties = {"TIMER_DELIVER_MS": str(now + 60_000 + number)}
            sends.append(await producer.send(Message(TOPIC, f"timer {number}".encode(), properties=properties)))
        at_master = sum(send.queue.broker_name == "broker-a" for send in sends)
        assert 4 <= at_master <= 12
        await lab.copied(slave)
        await asyncio.sleep(12)
        await lab.stop(MASTER)
        await eventually(lambda: slave.get(SpecialServices).is_running, 30)
        assert slave.get(ActingMaster).is_acting
        async with Reader(lab) as reader:
            await asyncio.sleep(120)
            assert len(reader.got) == 16 and set(reader.bodies.values()) == {1}, sorted(reader.bodies)
        assert slave.get(EscapeBridge).escaped == at_master
        assert stored(slave) == 0 and stored(other) == 16


@pytest.mark.virtual_time
async def test_without_the_bridge_an_acting_master_keeps_what_is_due(tmp_path: Path, environment: Environment) -> None:
    """It cannot put into a log that is a copy. When the master is back, the master delivers."""
    port = {"listen_port": 10911}
    settings = {**ACTING, "enable_remote_escape": False}
    async with ha_lab(tmp_path, environment, config={**settings, **port}, total_replicas=2) as lab:
        slave = await lab.start("slave-1", config=settings, total_replicas=2)
        await lab.linked()
        producer = await lab.producer()
        await producer.send(Message(TOPIC, b"late", properties={"DELAY": "5"}))
        deliver_at = environment.clock.wall_ms() + 60_000
        await producer.send(Message(TOPIC, b"timer", properties={"TIMER_DELIVER_MS": str(deliver_at)}))
        await lab.copied()
        await asyncio.sleep(12)
        await lab.stop(MASTER)
        await asyncio.sleep(75)
        assert slave.get(SpecialServices).is_running and stored(slave) == 0
        await lab.start(MASTER, BrokerRole.ASYNC_MASTER, 0, config={**settings, **port}, total_replicas=2)
        await eventually(lambda: stored(lab.master) == 2, 60)
        await asyncio.sleep(60)
        assert stored(lab.master) == 2
        assert not slave.get(SpecialServices).is_running


@pytest.mark.virtual_time
async def test_a_returning_master_takes_over_before_it_shows_itself(tmp_path: Path, environment: Environment) -> None:
    """What the acting master delivered elsewhere is not delivered again, and what groups read is not read again."""
    port = {"listen_port": 10911}
    async with ha_lab(tmp_path, environment, config={**ACTING, **port}, total_replicas=2) as lab:
        slave = await lab.start("slave-1", config=ACTING, total_replicas=2)
        other = await lab.start(
            "other", BrokerRole.ASYNC_MASTER, 0, config={**ACTING, "broker_name": "broker-b"}, total_replicas=1
        )
        other.get(TopicConfigManager).update([TopicConfig(topic_name=TOPIC, read_queue_nums=4, write_queue_nums=4)])
        await lab.linked()
        await asyncio.sleep(1)
        producer = await lab.producer()
        now = environment.clock.wall_ms()
        for number in range(6):
            await producer.send(Message(TOPIC, f"level {number}".encode(), properties={"DELAY": "5"}))
            properties = {"TIMER_DELIVER_MS": str(now + 60_000 + number)}
            await producer.send(Message(TOPIC, f"timer {number}".encode(), properties=properties))
            await producer.send(Message(TOPIC, f"plain {number}".encode()))
        await lab.copied(slave)
        await asyncio.sleep(12)
        await lab.stop(MASTER)
        async with Reader(lab) as reader:
            await asyncio.sleep(120)
            assert len(reader.got) == 18 and set(reader.bodies.values()) == {1}, sorted(reader.bodies.items())
            settings = {**ACTING, **port}
            await lab.start(MASTER, BrokerRole.ASYNC_MASTER, 0, config=settings, total_replicas=2)
            assert lab.master.get(BrokerPreOnlineService).is_isolated
            await eventually(lambda: not lab.master.get(BrokerPreOnlineService).is_isolated, 10)
            await eventually(lambda: slave.get(MemberGroup).has_master, 5)
            await asyncio.sleep(120)
            assert len(reader.got) == 18, sorted(reader.bodies - Counter(list(reader.bodies)))
        assert lab.master.get(SpecialServices).is_running and not slave.get(SpecialServices).is_running


@pytest.mark.virtual_time
async def test_what_is_due_while_the_master_returns_is_delivered_once(tmp_path: Path, environment: Environment) -> None:
    """Something is due ten times a second, at the acting master and then at the master."""
    port = {"listen_port": 10911}
    async with two_groups(tmp_path, environment, store={"total_replicas": 2}, **port) as (lab, slave, other):
        await asyncio.sleep(12)
        store = lab.master.get(MessageStore)
        for number in range(300):
            properties = {"DELAY": "5"}
            draft = Draft(TOPIC, number % 4, f"{number}".encode(), properties, encode_properties(properties))
            await store.put_message(draft)
            await asyncio.sleep(0.1)
        await lab.copied(slave)
        await asyncio.sleep(10)
        await lab.stop(MASTER)
        await asyncio.sleep(33)
        assert stored(other) > 50, "The acting master has begun"
        config = {**ACTING, **port}
        await lab.start(MASTER, BrokerRole.ASYNC_MASTER, 0, config=config, total_replicas=2)
        await asyncio.sleep(60)
        delivered = Counter([*lab.bodies(lab.master), *lab.bodies(other)])
        assert stored(other) < 250, "The master has delivered the rest"
        assert len(delivered) == 300 and set(delivered.values()) == {1}, delivered.most_common(5)


@pytest.mark.virtual_time
async def test_what_only_the_dead_master_had_delivered_is_delivered_again(
    tmp_path: Path, environment: Environment
) -> None:
    """The slave has the message that waited and the progress, and not what was delivered: it cannot skip it."""
    async with two_groups(tmp_path, environment) as (lab, slave, other):
        await asyncio.sleep(12)
        properties = {"DELAY": "3"}
        await lab.master.get(MessageStore).put_message(
            Draft(TOPIC, 0, b"once", properties, encode_properties(properties))
        )
        await lab.copied(slave)
        asyncio.get_running_loop().network.cut(lab.ha_port)  # type: ignore[attr-defined]
        await asyncio.sleep(25)
        assert stored(lab.master) == 1 and stored(slave) == 0
        assert slave.get(DelayOffsetManager).get(3) == 1, "The progress was copied"
        await lab.stop(MASTER)
        await asyncio.sleep(10)
        assert stored(other) == 1, "It is in the log of a dead broker only"


@pytest.mark.virtual_time
async def test_progress_at_the_acting_master_is_taken_over(tmp_path: Path, environment: Environment) -> None:
    """A consumer that ended while the master was away: its next run goes on where it was."""
    port = {"listen_port": 10911}
    async with two_groups(tmp_path, environment, store={"total_replicas": 2}, **port) as (lab, slave, _):
        await asyncio.sleep(12)
        store = lab.master.get(MessageStore)
        for number in range(20):
            await store.put_message(Draft(TOPIC, number % 4, f"{number}".encode()))
        async with Reader(lab) as reader:
            await eventually(lambda: len(reader.got) == 20, 60)
        await asyncio.sleep(12)
        for number in range(20):
            await store.put_message(Draft(TOPIC, number % 4, f"{20 + number}".encode()))
        await lab.copied(slave)
        await lab.stop(MASTER)
        async with Reader(lab, name="second") as reader:
            await eventually(lambda: len(reader.got) == 20, 60)
        await lab.start(MASTER, BrokerRole.ASYNC_MASTER, 0, config={**ACTING, **port}, total_replicas=2)
        await eventually(lambda: not lab.master.get(BrokerPreOnlineService).is_isolated, 10)
        async with Reader(lab, name="later") as later:
            await asyncio.sleep(60)
            assert not later.got, f"{len(later.got)} messages were read a second time"


@pytest.mark.virtual_time
async def test_a_master_that_was_away_for_a_moment_delivers_nothing_twice(
    tmp_path: Path, environment: Environment
) -> None:
    """Its own numbers are newer than those that its slave had copied."""
    port = {"listen_port": 10911}
    async with two_groups(tmp_path, environment, store={"total_replicas": 2}, **port) as (lab, slave, other):
        store = lab.master.get(MessageStore)

        async def put(body: str, properties: dict[str, str]) -> None:
            await store.put_message(Draft(TOPIC, 0, body.encode(), properties, encode_properties(properties)))

        # So that the slave has numbers to give back.
        await put("first", {"TIMER_DELIVER_MS": str(environment.clock.wall_ms() + 2_000)})
        await asyncio.sleep(12)
        for number in range(6):
            for kind, properties in (
                ("level", {"DELAY": "2"}),
                ("timer", {"TIMER_DELIVER_MS": str(environment.clock.wall_ms() + 5_000)}),
            ):
                await put(f"{kind} {number}", properties)
        await eventually(lambda: stored(lab.master) == 13, 10)
        await lab.copied(slave)
        await lab.stop(MASTER)
        await lab.start(MASTER, BrokerRole.ASYNC_MASTER, 0, config={**ACTING, **port}, total_replicas=2)
        await asyncio.sleep(60)
        assert stored(lab.master) + stored(other) == 13, Counter(
            [*lab.bodies(lab.master), *lab.bodies(other)]
        ).most_common(3)


@pytest.mark.virtual_time
async def test_timers_that_were_cut_off_are_taken_back(tmp_path: Path, environment: Environment) -> None:
    """A slave that gives up the end of its log forgets the timers there, and takes in what comes in their place."""
    async with ha_lab(tmp_path, environment) as lab:
        producer = await lab.producer()
        due = str(environment.clock.wall_ms() + 3_600_000)
        for number in range(5):
            await producer.send(Message(TOPIC, f"{number}".encode(), properties={"TIMER_DELIVER_MS": due}))
        await eventually(lambda: lab.master.get(TimerMessageStore).progress.queue_offset == 5, 10)
        await lab.stop(MASTER)
        was = await lab.start(MASTER, BrokerRole.SLAVE, 1, follow=False, config={"namesrv_addr": ""})
        timers, store = was.get(TimerMessageStore), was.get(MessageStore)
        assert (timers.progress.queue_offset, timers.congest_num()) == (5, 5)
        queue = store.queues.find(TIMER_TOPIC, 0)
        unit = queue.unit(2) if queue is not None else None
        assert unit is not None
        store.queues.truncate(unit[0])
        await timers.truncated(unit[0])
        assert (timers.progress.queue_offset, timers.congest_num()) == (2, 2)
        assert timers.checkpoint.last_timer_queue_offset == 2


@pytest.mark.virtual_time
async def test_orderly_consumers_lock_at_the_acting_master(tmp_path: Path, environment: Environment) -> None:
    """With `supportActingMaster` name servers show it as id 0 of a group that takes no messages: locks go there."""
    settings = {**ACTING, "enable_remote_escape": False}
    async with ha_lab(tmp_path, environment, config=settings) as lab:
        lab.namesrv.config.support_acting_master = True
        slave = await lab.start("slave-1", config=settings)
        await lab.linked()
        await lab.send(*(str(number) for number in range(40)))
        await lab.copied()
        await asyncio.sleep(12)
        await lab.stop(MASTER)
        await asyncio.sleep(2)
        got: list[str] = []

        async def handle(messages: Sequence[MessageExt], context: ConsumeOrderlyContext) -> None:
            got.extend(message.body.decode() for message in messages)

        async with Reader(lab, listener=InOrder(handle)):
            await eventually(lambda: len(got) == 40, 60)
        assert sorted(got, key=int) == [str(number) for number in range(40)]
        producer = await lab.producer()
        with pytest.raises(ClientError):
            await producer.send(Message.of(TOPIC, b"no"))
        assert slave.get(ActingMaster).is_acting


@pytest.mark.virtual_time
async def test_half_messages_of_a_dead_master_are_asked_about_by_another(
    tmp_path: Path, environment: Environment
) -> None:
    """The acting master gives them to another master, whose check service asks the producer."""
    async with two_groups(tmp_path, environment, transaction_check_interval=10_000) as (lab, slave, other):
        book = Book()
        async with TransactionProducer(
            "bank", book, namesrv_addr=lab.namesrv.address, environment=environment
        ) as producer:
            for number in range(8):
                await producer.send_message_in_transaction(Message(TOPIC, f"{number}".encode()), None)
            assert stored(other, TRANS_HALF_TOPIC) < 8, "Some half messages are on the master that will die"
            await lab.copied(slave)
            await lab.stop(MASTER)
            await asyncio.sleep(150)
            assert stored(other) == 8, "Half messages of the dead master are undecided still"
            assert set(book.asked) == {f"{number}" for number in range(8)}


class Book:
    """Local transactions that nobody knows the end of, until somebody asks."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def execute_local_transaction(self, message: Message, argument: Any) -> LocalTransactionState:
        return LocalTransactionState.UNKNOW

    async def check_local_transaction(self, message: MessageExt) -> LocalTransactionState:
        self.asked.append(message.body.decode())
        return LocalTransactionState.COMMIT_MESSAGE
