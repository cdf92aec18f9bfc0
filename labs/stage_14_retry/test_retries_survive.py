"""Crashes of the broker, power cuts and full disks while messages wait for their next try."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import Any

import pytest

from labs.stage_04_recovery.recovery_lab import ROOT, SYNC, RunningStore
from labs.stage_13_delay.delay_lab import SIZES, DelayMachine, delayed, stored
from labs.stage_14_retry.send_back_lab import DLQ, GROUP, RETRY
from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.assembly.stages import build_broker
from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.common.environment import Environment
from rocketmq_py.remoting.client import RemotingClient
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.server import RemotingServer
from rocketmq_py.sim.environment import run_inline
from rocketmq_py.store.config import MessageStoreConfig
from rocketmq_py.store.tick import Tick

pytestmark = pytest.mark.virtual_time


class RetryMachine(DelayMachine):
    """A machine whose broker has the stages up to this one, and a port."""

    def build(self, **settings: Any) -> Kernel:
        """Return a broker that has not started; its settings are those of the store."""
        config = replace(MessageStoreConfig(store_path_root_dir=ROOT), **{**self._settings, **SIZES, **settings})
        environment = Environment(self.clock, random.Random(1), self.files, run_inline)
        return build_broker(BrokerConfig(listen_port=0), config, environment, "retry")


async def send_back(running: RunningStore, offset: int, level: int = 0) -> RemotingCommand:
    """Send a message back over a connection of its own."""
    client = RemotingClient(running.kernel.environment.clock)
    try:
        fields = {"offset": str(offset), "group": GROUP, "delayLevel": str(level)}
        command = RemotingCommand.create_request(RequestCode.CONSUMER_SEND_MSG_BACK, fields)
        return await client.request(f"127.0.0.1:{running.kernel.get(RemotingServer).port}", command, 6)
    finally:
        await client.stop()


async def stored_messages(running: RunningStore, *bodies: str) -> list[int]:
    """Store messages that came again once already, and return their physical offsets."""
    results = [(await running.put(delayed(body, 0)))[0] for body in bodies]
    return [result.wrote_offset for result in results]


@pytest.mark.claim("rty-04")
@pytest.mark.parametrize("keep", [0.0, 0.5])
async def test_an_acknowledged_retry_survives_a_power_cut_with_synchronous_flush(keep: float) -> None:
    """Claim: the broker keeps the retry. A consumer that was told so has forgotten the message.

    Experiment: with synchronous flush, send a message back and another one to the dead letters; cut the power as soon as
    the answers are there.
    Observe: after the start both are there: one comes at its time, counted from when it was sent back, the other lies in
    its topic, which is known. RocketMQ answers without waiting for the flush (`WAIT=false`), and may lose both.
    """
    machine = RetryMachine(**SYNC)
    running = await machine.start()
    one, two = await stored_messages(running, "one", "two")
    assert (await send_back(running, one)).code == ResponseCode.SUCCESS
    assert (await send_back(running, two, -1)).code == ResponseCode.SUCCESS
    await machine.cut_power(keep=keep)
    running = await machine.start()
    topics = running.kernel.get(TopicConfigManager)
    assert topics.select(RETRY) is not None
    assert topics.select(DLQ) is not None
    assert [message.body for message in stored(running, DLQ)] == [b"two"]
    assert stored(running, RETRY) == []
    await asyncio.sleep(30.1)
    assert [(message.body, message.reconsume_times) for message in stored(running, RETRY)] == [(b"one", 2)]


async def test_a_retry_survives_kills_of_the_broker() -> None:
    """With asynchronous flush too: the process dies, the machine does not. Each next try comes once."""
    machine = RetryMachine()
    running = await machine.start()
    (offset,) = await stored_messages(running, "a")
    for number in range(1, 4):
        assert (await send_back(running, offset)).code == ResponseCode.SUCCESS
        await machine.kill()
        running = await machine.start()
        await asyncio.sleep(200)
        copies = stored(running, RETRY)
        assert [copy.reconsume_times for copy in copies] == list(range(2, number + 2))
        offset = copies[-1].commit_log_offset


async def test_a_full_disk_refuses_and_what_waits_comes_when_there_is_room() -> None:
    machine = RetryMachine()
    running = await machine.start()
    one, two = await stored_messages(running, "one", "two")
    assert (await send_back(running, one)).code == ResponseCode.SUCCESS
    tick = running.kernel.get(Tick)
    tick.refuse("the disk is 95 % full")
    answer = await send_back(running, two)
    assert (answer.code, answer.remark) == (ResponseCode.SYSTEM_ERROR, "SERVICE_NOT_AVAILABLE")
    await asyncio.sleep(600)
    assert stored(running, RETRY) == []
    tick.accept("the disk is 95 % full")
    await asyncio.sleep(1)
    assert [message.body for message in stored(running, RETRY)] == [b"one"]
    assert (await send_back(running, two)).code == ResponseCode.SUCCESS


async def test_a_message_of_an_earlier_process_is_read_where_waiting_is_allowed() -> None:
    """Its bytes may not be in memory and are checked when they are first read: never on the loop."""
    machine = RetryMachine()
    running = await machine.start()
    (offset,) = await stored_messages(running, "old")
    await machine.stop()
    running = await machine.start()
    on_loop: list[int] = []
    read = running.log.read
    running.log.read = lambda at, size: on_loop.append(at) or read(at, size)  # type: ignore[method-assign,func-returns-value]
    assert (await send_back(running, offset)).code == ResponseCode.SUCCESS
    assert offset not in on_loop


async def test_a_damaged_message_is_refused_and_the_consumer_keeps_its_copy() -> None:
    machine = RetryMachine()
    running = await machine.start()
    # With a message behind it: damage at the very end of a log is cut off by the start.
    one, _ = await stored_messages(running, "x" * 9_000, "behind")
    await machine.stop()
    name = machine.names("commitlog")[0]
    machine.disk.flip_bit(machine.path("commitlog", name), one + 200)
    running = await machine.start()
    end = running.log.max_offset
    answer = await send_back(running, one)
    assert (answer.code, answer.remark) == (ResponseCode.SYSTEM_ERROR, f"look message by offset failed, {one}")
    assert running.log.max_offset == end
