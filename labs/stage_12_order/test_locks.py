"""The table of locks at the broker, and what a consumer makes of its own locks when a broker is silent."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from labs.stage_11_rebalance.group_lab import GROUP, TOPIC, group_lab
from labs.stage_12_order.order_lab import join, locks_of, overlaps
from rocketmq_py.broker.client.rebalance_lock_manager import RebalanceLockManager
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.message import MessageQueue
from rocketmq_py.remoting.bodies.queue_lock import LockedQueuesBody, QueueLockBody
from rocketmq_py.remoting.bodies.topic_stats import QueueKey
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.java_json import decode_body, encode_body
from rocketmq_py.testing.eventually import eventually

ONE, TWO = MessageQueue("TopicTest", "broker-a", 0), MessageQueue("TopicTest", "broker-a", 1)


def test_a_lock_is_for_one_member_of_a_group_until_it_ends() -> None:
    locks = RebalanceLockManager(lock_seconds=60)
    assert locks.lock("g", "a", [ONE, TWO], 100) == [ONE, TWO]
    assert locks.lock("g", "b", [ONE, TWO], 101) == []
    assert locks.lock("h", "b", [ONE], 101) == [ONE], "another group has locks of its own"
    assert locks.lock("g", "a", [ONE], 150) == [ONE], "renewed"
    assert locks.lock("g", "b", [ONE, TWO], 160.5) == [TWO], "TWO was not renewed for more than 60 s"
    assert locks.owner("g", ONE, 160.5) == "a"
    assert locks.owner("g", TWO, 160.5) == "b"


def test_a_group_with_a_lock_consumes_in_order() -> None:
    locks = RebalanceLockManager(lock_seconds=60)
    assert not locks.has_locks("g", 0.0)
    locks.lock("g", "a", [ONE], 1.0)
    assert locks.has_locks("g", 61.0)
    assert not locks.has_locks("h", 61.0)
    assert not locks.has_locks("g", 61.5), "the lock is over"


def test_only_the_owner_unlocks() -> None:
    locks = RebalanceLockManager()
    locks.lock("g", "a", [ONE, TWO], 1)
    locks.unlock("g", "b", [ONE])
    locks.unlock("nobody", "a", [ONE])
    assert locks.owner("g", ONE, 2) == "a"
    locks.unlock("g", "a", [ONE, TWO])
    assert len(locks) == 0


def test_locks_that_are_over_are_swept() -> None:
    """Groups that come and go leave nothing behind."""
    locks = RebalanceLockManager(lock_seconds=60)
    for number in range(100):
        locks.lock(f"g{number}", "a", [ONE], float(number))
    locks.sweep(130.0)
    assert len(locks) == 30
    locks.sweep(1_000.0)
    assert len(locks) == 0


def test_the_bodies_are_those_of_rocketmq() -> None:
    """The texts were written by Java."""
    java = (
        b'{"clientId":"192.168.1.20@1","consumerGroup":"CG",'
        b'"mqSet":[{"brokerName":"broker-a","queueId":1,"topic":"TopicTest"}],"onlyThisBroker":true}'
    )
    body = decode_body(java, QueueLockBody)
    assert (body.client_id, body.consumer_group, body.only_this_broker) == ("192.168.1.20@1", "CG", True)
    assert [key.queue() for key in body.mq_set] == [TWO]
    encoded = encode_body(LockedQueuesBody(locked=[QueueKey.of(TWO)]))
    assert encoded == b'{"lockOKMQSet":[{"brokerName":"broker-a","queueId":1,"topic":"TopicTest"}]}'


@pytest.mark.virtual_time
async def test_malformed_requests_change_nothing(tmp_path: Path, environment: Environment) -> None:
    """A body that is none, and one with too many queues, get an error that says so."""
    async with group_lab(tmp_path, environment) as lab:
        address = f"127.0.0.1:{lab.cluster.kernels[0].config.listen_port}"

        async def ask(body: bytes) -> RemotingCommand:
            command = RemotingCommand.create_request(RequestCode.LOCK_BATCH_MQ)
            command.body = body
            return await lab.producer.instance.request(address, command)

        assert (await ask(b"{{{")).code == ResponseCode.SYSTEM_ERROR
        key = b'{"topic":"t","brokerName":"b","queueId":1}'
        many = await ask(b'{"consumerGroup":"g","clientId":"c","mqSet":[' + b",".join([key] * 65_537) + b"]}")
        assert many.code == ResponseCode.SYSTEM_ERROR
        assert "65537 queues in one request" in (many.remark or "")
        assert len(locks_of(lab)) == 0


@pytest.mark.virtual_time
async def test_a_consumer_that_cannot_renew_stops_before_the_broker_gives_its_queues_away(
    tmp_path: Path, environment: Environment
) -> None:
    """The consumer trusts a lock for 30 s, the broker keeps it for 60 s: the difference is for clocks and the network."""
    async with group_lab(tmp_path, environment, queues=1) as lab:
        calls: list = []
        member = await join(lab, "a", calls)
        member.seconds = 1.0
        await lab.send(*map(str, range(200)))
        await eventually(lambda: len(calls) > 3, 30)
        loop = asyncio.get_running_loop()
        renewed = loop.time()
        service = member.consumer.service
        service.locks._instance = _Silent(service.locks._instance)

        await asyncio.sleep(90)
        assert renewed + 5 < max(call.end for call in calls) < renewed + 32
        assert locks_of(lab).owner(GROUP, lab.queues[0], loop.time()) is None

        service.locks._instance = service.locks._instance.real
        await eventually(lambda: len(calls) == 200, 400)
        assert [int(call.body) for call in calls] == list(range(200))
        await member.consumer.stop()


class _Silent:
    """An instance whose brokers do not answer."""

    def __init__(self, real) -> None:
        self.real = real
        self.client_id = real.client_id

    def master_address(self, broker_name: str) -> None:
        return None


@pytest.mark.virtual_time
async def test_a_queue_that_another_member_took_is_dropped_and_begun_anew(
    tmp_path: Path, environment: Environment
) -> None:
    """What is cached of a lost queue may be behind what the other member does, so nothing of it is used any more."""
    async with group_lab(tmp_path, environment, queues=1) as lab:
        calls: list = []
        member = await join(lab, "a", calls)
        member.seconds = 1.0
        await lab.send(*map(str, range(60)))
        await eventually(lambda: len(calls) > 2, 30)
        loop, locks = asyncio.get_running_loop(), locks_of(lab)
        # A broker that was started again knows no locks, and a stranger asks first.
        locks.unlock(GROUP, member.consumer.instance.client_id, lab.queues)
        locks.lock(GROUP, "stranger", lab.queues, loop.time())

        await eventually(lambda: member.queue_ids == [], 60)
        locks.unlock(GROUP, "stranger", lab.queues)
        await eventually(lambda: len({call.body for call in calls}) == 60, 200)
        assert overlaps(calls) == []
        assert locks.owner(GROUP, MessageQueue(TOPIC, "broker-a", 0), loop.time()) == member.consumer.instance.client_id
        await member.consumer.stop()
