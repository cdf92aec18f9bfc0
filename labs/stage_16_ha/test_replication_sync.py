"""Synchronous double write: what an acknowledgement promises, and what is said when the promise cannot be kept."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from rocketmq_py.client.errors import SendFailedError
from rocketmq_py.client.send_result import SendResult, SendStatus
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.message import Message
from rocketmq_py.store.ack import AcknowledgementGate
from rocketmq_py.store.commit_log import CommitLog
from rocketmq_py.store.config import BrokerRole, FlushDiskType
from rocketmq_py.store.ha.ha_service import HAService
from rocketmq_py.store.tick import Tick

from .ha_lab import MASTER, TOPIC, HaLab, ha_lab

SYNC: dict[str, Any] = {"role": BrokerRole.SYNC_MASTER, "in_sync_replicas": 2}


async def timed(lab: HaLab, body: str) -> tuple[SendResult, float]:
    """Send one message; return the answer and the seconds that it took."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    [result] = await lab.send(body)
    return result, loop.time() - begin


@pytest.mark.claim("ha-02")
@pytest.mark.virtual_time
async def test_synchronous_double_write_waits_for_the_slave_and_asynchronous_does_not(
    tmp_path: Path, environment: Environment
) -> None:
    """Claim: a SYNC_MASTER with inSyncReplicas=2 acknowledges what a slave has; an ASYNC_MASTER does not wait.

    Experiment: the link to the slave is cut, a message is sent, the link heals; with three kinds of master.
    Observe: asynchronous: 0 at once, and the slave lacks it. Synchronous: 12 after 3.0 s, stored all the same. After the
    link heals every 0 means that the slave has the message. With inSyncReplicas=1, RocketMQ's default, nobody is waited for.
    """
    for number, (role, replicas, status, seconds) in enumerate(
        [
            (BrokerRole.ASYNC_MASTER, 2, SendStatus.SEND_OK, 0.0),
            (BrokerRole.SYNC_MASTER, 1, SendStatus.SEND_OK, 0.0),
            (BrokerRole.SYNC_MASTER, 2, SendStatus.FLUSH_SLAVE_TIMEOUT, 3.0),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        async with ha_lab(folder, environment, slaves=1, role=role, in_sync_replicas=replicas) as lab:
            [slave] = lab.slaves
            await lab.send("before")
            network = asyncio.get_running_loop().network  # type: ignore[attr-defined]
            network.cut(lab.ha_port)
            answer, took = await timed(lab, "while the link is cut")
            assert answer.status is status, "does the gate ask the right condition?"
            assert took == pytest.approx(seconds, abs=0.01)
            assert lab.bodies(slave) == [b"before"]
            network.heal(lab.ha_port)
            answer, took = await timed(lab, "after")
            assert answer.status is SendStatus.SEND_OK
            assert took < 0.01
            if replicas == 2 and role is BrokerRole.SYNC_MASTER:
                assert lab.bodies(slave) == [b"before", b"while the link is cut", b"after"], (
                    "it was acknowledged before the slave had it: whose report advanced the gate?"
                )
            await lab.copied()
            assert lab.log_bytes(slave) == lab.log_bytes(lab.master)


@pytest.mark.claim("ha-02")
@pytest.mark.virtual_time
async def test_a_sync_master_that_waits_for_nobody_warns_at_its_start(
    tmp_path: Path, environment: Environment, caplog: pytest.LogCaptureFixture
) -> None:
    """Claim: SYNC_MASTER with the default inSyncReplicas=1 waits for no slave; the start says so.

    Experiment: start it with 1, then with 2.
    Observe: a warning that names the setting, and none.
    """
    for replicas, warns in ((1, True), (2, False)):
        caplog.clear()
        folder = tmp_path / str(replicas)
        folder.mkdir()
        with caplog.at_level(logging.WARNING):
            async with ha_lab(folder, environment, role=BrokerRole.SYNC_MASTER, in_sync_replicas=replicas):
                assert ("set inSyncReplicas=2" in caplog.text) == warns


@pytest.mark.virtual_time
async def test_one_report_completes_all_puts_up_to_its_offset(tmp_path: Path, environment: Environment) -> None:
    async with ha_lab(tmp_path, environment, slaves=1, **SYNC) as lab:
        producer = await lab.producer()
        await lab.send("first")
        reports: list[int] = []
        acks = lab.master.get(HAService).acks
        report = acks.report

        def count(replica: Any, offset: int) -> bool:
            reports.append(offset)
            return report(replica, offset)

        acks.report = count  # type: ignore[method-assign]
        results = await asyncio.gather(*(producer.send(Message.of(TOPIC, b"%d" % number)) for number in range(500)))
        assert {result.status for result in results} == {SendStatus.SEND_OK}
        assert 0 < len(reports) < 50, "hundreds of puts must not need hundreds of reports"


@pytest.mark.virtual_time
async def test_a_put_that_does_not_want_to_wait_does_not(tmp_path: Path, environment: Environment) -> None:
    async with ha_lab(tmp_path, environment, **SYNC) as lab:
        producer = await lab.producer()
        loop = asyncio.get_running_loop()
        begin = loop.time()
        message = Message.of(TOPIC, b"x")
        message.properties["WAIT"] = "false"
        result = await producer.send(message)
        assert (result.status, loop.time() - begin < 0.1) == (SendStatus.SEND_OK, True)


@pytest.mark.virtual_time
async def test_too_few_replicas_refuse_before_anything_is_stored(tmp_path: Path, environment: Environment) -> None:
    async with ha_lab(tmp_path, environment, slaves=1, min_in_sync_replicas=2, **SYNC) as lab:
        await lab.send("one")
        await lab.stop("slave-1")
        end = lab.master.get(CommitLog).max_offset
        with pytest.raises(SendFailedError, match="in-sync replicas not enough"):
            await lab.send("two")
        assert lab.master.get(CommitLog).max_offset == end
        await lab.start("slave-1")
        await lab.linked()
        [answer] = await lab.send("three")
        assert answer.status is SendStatus.SEND_OK
        await lab.copied()
        assert lab.bodies(lab.slaves[0]) == [b"one", b"three"]


@pytest.mark.virtual_time
async def test_automatic_in_sync_replicas_wait_for_the_slaves_that_are_there(
    tmp_path: Path, environment: Environment
) -> None:
    async with ha_lab(tmp_path, environment, slaves=1, enable_auto_in_sync_replicas=True, **SYNC) as lab:
        [slave] = lab.slaves
        [answer] = await lab.send("with the slave")
        assert lab.bodies(slave) == [b"with the slave"]
        await lab.stop("slave-1")
        answer, took = await timed(lab, "alone")
        assert (answer.status, took < 0.1) == (SendStatus.SEND_OK, True)


@pytest.mark.virtual_time
async def test_a_master_in_the_way_of_4_9_says_at_once_that_no_slave_is_there(
    tmp_path: Path, environment: Environment
) -> None:
    async with ha_lab(
        tmp_path, environment, slaves=1, role=BrokerRole.SYNC_MASTER, answer_slave_not_available=True
    ) as lab:
        [slave] = lab.slaves
        [answer] = await lab.send("one")
        assert answer.status is SendStatus.SEND_OK
        assert lab.bodies(slave) == [b"one"]
        await lab.stop("slave-1")
        answer, took = await timed(lab, "two")
        assert (answer.status, took < 0.1) == (SendStatus.SLAVE_NOT_AVAILABLE, True)
        assert lab.bodies(lab.master) == [b"one", b"two"], "11 says: stored"


@pytest.mark.virtual_time
async def test_a_slave_that_lags_far_behind_does_not_count(tmp_path: Path, environment: Environment) -> None:
    settings = {"min_in_sync_replicas": 2, "ha_max_gap_not_in_sync": 1_000, "slave_timeout": 100}
    async with ha_lab(tmp_path, environment, slaves=1, **settings, **SYNC) as lab:
        network = asyncio.get_running_loop().network  # type: ignore[attr-defined]
        network.cut(lab.ha_port)
        results = await lab.send("x" * 400, "x" * 400)
        assert {result.status for result in results} == {SendStatus.FLUSH_SLAVE_TIMEOUT}
        await asyncio.sleep(1.1)
        assert not lab.master.get(Tick).is_writable
        network.heal(lab.ha_port)
        await asyncio.sleep(0.1)
        assert lab.master.get(Tick).is_writable


@pytest.mark.claim("ha-10")
@pytest.mark.virtual_time
async def test_with_both_flushes_and_both_brokers_a_power_cut_of_everything_loses_nothing(
    tmp_path: Path, environment: Environment
) -> None:
    """Claim: synchronous flush and synchronous double write (inSyncReplicas=2) together lose nothing at all.

    Experiment: messages are acknowledged one by one; the power of both brokers goes in the moment of an answer, and all
    that was not forced to disk is lost. Once with a slave that flushes synchronously, once with one that does not.
    Observe: master and slave have every acknowledged message on disk. The slave that confirms what it has only in memory
    (RocketMQ's way) has lost some of what it confirmed.
    """
    lost = {}
    for flush in (FlushDiskType.SYNC_FLUSH, FlushDiskType.ASYNC_FLUSH):
        folder = tmp_path / flush.value
        folder.mkdir()
        # The simulated disk takes no time; one that does is what makes the difference.
        settings = {"flush_interval_commit_log": 60_000}
        async with ha_lab(folder, environment, disks=True, flush_disk_type=FlushDiskType.SYNC_FLUSH, **SYNC) as lab:
            await lab.start("slave-1", flush_disk_type=flush, **settings)
            await lab.linked()
            bodies = [f"message {number}" for number in range(20)]
            results = await lab.send(*bodies)
            assert {result.status for result in results} == {SendStatus.SEND_OK}
            await lab.cut_power(MASTER, "slave-1")
            for name, role, broker_id in ((MASTER, BrokerRole.SYNC_MASTER, 0), ("slave-1", BrokerRole.SLAVE, 1)):
                kernel = await lab.start(name, role, broker_id, follow=False)
                lost[flush, name] = len(bodies) - len(lab.bodies(kernel))
    print(f"lost by flush of the slave and broker: { {(k.value, n): v for (k, n), v in lost.items()} }")
    assert lost[FlushDiskType.SYNC_FLUSH, MASTER] == lost[FlushDiskType.SYNC_FLUSH, "slave-1"] == 0, (
        "does the slave report log.flushed_offset, and only after the flush?"
    )
    assert lost[FlushDiskType.ASYNC_FLUSH, MASTER] == 0
    assert lost[FlushDiskType.ASYNC_FLUSH, "slave-1"] > 0


@pytest.mark.virtual_time
async def test_a_slave_with_synchronous_flush_confirms_what_is_on_its_disk(
    tmp_path: Path, environment: Environment
) -> None:
    """While its disk stands still the master's puts are in doubt, and none of them is confirmed."""
    async with ha_lab(tmp_path, environment, **SYNC) as lab:
        stalled = asyncio.Event()

        async def run(function: Any, *args: Any) -> Any:
            if function.__name__ == "flush_files" and is_stalled:
                await stalled.wait()
            await asyncio.sleep(0)
            return function(*args)

        is_stalled = False
        slow = type(environment)(environment.clock, environment.random, environment.files, run)
        slave = await lab.start("slave-1", environment=slow, flush_disk_type=FlushDiskType.SYNC_FLUSH)
        await lab.linked()
        assert [answer.status for answer in await lab.send("one")] == [SendStatus.SEND_OK]
        is_stalled = True
        answer, took = await timed(lab, "two")
        assert (answer.status, took) == (SendStatus.FLUSH_SLAVE_TIMEOUT, pytest.approx(3.0, abs=0.01))
        assert lab.bodies(slave) == [b"one", b"two"], "it is there, but it was not confirmed"
        is_stalled = False
        stalled.set()
        assert [answer.status for answer in await lab.send("three")] == [SendStatus.SEND_OK]


@pytest.mark.virtual_time
async def test_a_stopping_master_leaves_no_put_unanswered(tmp_path: Path, environment: Environment) -> None:
    async with ha_lab(tmp_path, environment, **SYNC) as lab:
        producer = await lab.producer()
        sending = asyncio.create_task(producer.send(Message.of(TOPIC, b"x")))
        await asyncio.sleep(0.5)
        gate = lab.master.get(AcknowledgementGate)
        assert len(gate) == 1
        await lab.stop(MASTER)
        assert len(gate) == 0
        results = await asyncio.gather(sending, return_exceptions=True)
        assert not isinstance(results[0], SendResult) or results[0].status is not SendStatus.SEND_OK
