"""What a consumer does with listeners that fail in every way they can."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from rocketmq_py.client.consume_service import ConsumeContext, ConsumeStatus
from rocketmq_py.client.process_queue import ProcessQueue
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.message import MessageExt
from rocketmq_py.testing.eventually import eventually

from .group_lab import TOPIC, Member, group_lab


async def _cancelled(number: int) -> None:
    """Wait for something that somebody cancels, which is not this task."""
    waiting = asyncio.get_running_loop().create_future()
    waiting.cancel()
    await waiting


async def _raise(number: int) -> None:
    raise LookupError(f"no customer {number}")


async def _return_true(number: int) -> bool:
    return True


async def _later(number: int) -> ConsumeStatus:
    return ConsumeStatus.RECONSUME_LATER


def _exit(number: int) -> None:
    sys.exit(number)


@pytest.mark.parametrize(
    ("fail", "logged"),
    [
        (_raise, "no customer 7"),
        (_return_true, "the listener returned True"),
        (_later, ""),
        (_cancelled, "the listener failed"),
        (_exit, "called sys.exit()"),
    ],
)
@pytest.mark.virtual_time
async def test_a_message_that_failed_comes_again_and_its_worker_goes_on(
    tmp_path: Path, environment: Environment, caplog: pytest.LogCaptureFixture, fail: Callable[[int], Any], logged: str
) -> None:
    """However the listener fails: no worker is lost, the offset waits, and the message comes again until it succeeds."""
    calls: list[str] = []

    def outcome(messages: Sequence[MessageExt], context: ConsumeContext) -> Any:
        calls.append(messages[0].body.decode())
        return fail(7) if messages[0].body == b"bad" and calls.count("bad") < 4 else None

    async def listener(messages: Sequence[MessageExt], context: ConsumeContext) -> Any:
        result = outcome(messages, context)
        return await result if asyncio.iscoroutine(result) else result

    async with group_lab(tmp_path, environment, queues=1) as lab:
        # One worker: if a failure ended it, nothing would follow.
        member = Member(lab, "c0", consume_thread_max=1)
        member.consumer.register_listener(outcome if fail is _exit else listener)
        member.consumer.subscribe(TOPIC)
        await lab.send("bad", "good")
        async with member.consumer:
            await eventually(lambda: calls[:2] == ["bad", "good"], 5)
            assert member.consumer.offsets.get(lab.queues[0]) <= 0, "the failed message must hold the offset back"
            await eventually(lambda: calls.count("bad") == 4, 30)
            await eventually(lambda: member.consumer.offsets.get(lab.queues[0]) == 2)
            assert calls.count("good") == 1
    assert logged in caplog.text


@pytest.mark.virtual_time
async def test_a_failure_policy_that_fails_leaves_the_messages_with_the_consumer(
    tmp_path: Path, environment: Environment, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        async def failed(self, messages: Sequence[MessageExt], context: ConsumeContext) -> list[MessageExt]:
            raise ConnectionError("the broker is away")

    async with group_lab(tmp_path, environment, queues=1) as lab:
        member = Member(lab, "c0")
        member.consumer.failure_policy = Broken()
        member.consumer.subscribe(TOPIC)
        member.fails.add("1")
        await lab.send("0", "1", "2")
        async with member.consumer:
            await eventually(lambda: member.bodies.count("1") == 2, 30)
            assert "the broker is away" in caplog.text
            member.fails.clear()
            await eventually(lambda: member.consumer.offsets.get(lab.queues[0]) == 3, 30)


@pytest.mark.virtual_time
async def test_a_listener_may_stop_its_own_consumer(tmp_path: Path, environment: Environment) -> None:
    """Nobody waits for each other for ever; the message that was in work comes again to the next member."""
    stopped = asyncio.Event()
    async with group_lab(tmp_path, environment, queues=1) as lab:
        member = Member(lab, "c0")

        async def listener(messages: Sequence[MessageExt], context: ConsumeContext) -> None:
            stopped.set()
            await member.consumer.stop()

        member.consumer.register_listener(listener)
        member.consumer.subscribe(TOPIC)
        await lab.send("0")
        await member.consumer.start()
        await stopped.wait()
        began = asyncio.get_running_loop().time()
        await member.consumer.stop()
        assert asyncio.get_running_loop().time() - began < 4
        assert repr(member.consumer) == "<PushConsumer billing stopped, 0 queues>"
        successor = await lab.join("c1")
        await eventually(lambda: successor.bodies == ["0"])


@pytest.mark.virtual_time
async def test_two_calls_of_stop_end_together_and_a_cancelled_one_stops_all_the_same(
    tmp_path: Path, environment: Environment
) -> None:
    async with group_lab(tmp_path, environment, queues=2) as lab:
        member = await lab.join("c0")
        await lab.settled()
        member.gate.clear()
        await lab.send("0")
        await eventually(lambda: member.running == 1)
        first = asyncio.create_task(member.consumer.stop())
        second = asyncio.create_task(member.consumer.stop())
        await asyncio.sleep(1)
        assert not first.done() and not second.done(), "stop waits for the listener"
        first.cancel()
        await asyncio.sleep(0)
        member.gate.set()
        await second
        assert first.cancelled()
        assert not member.consumer.queues
        successor = await lab.join("c1")
        await eventually(lambda: successor.queue_ids == [0, 1])
        await asyncio.sleep(10)
        assert successor.bodies == [], "the listener came to its end while stop() waited, and that was stored"


@pytest.mark.virtual_time
async def test_stop_gives_up_a_listener_that_hangs(tmp_path: Path, environment: Environment) -> None:
    async with group_lab(tmp_path, environment, queues=1) as lab:
        member = await lab.join("c0", await_termination_millis_when_shutdown=2_000)
        await lab.settled()
        member.gate.clear()
        await lab.send("0", "1")
        await eventually(lambda: member.running == 2)
        began = asyncio.get_running_loop().time()
        await lab.leave(member)
        assert 2 <= asyncio.get_running_loop().time() - began < 3
        assert member.running == 0, "the calls were cancelled"
        successor = await lab.join("c1")
        await eventually(lambda: sorted(successor.bodies) == ["0", "1"])


def test_bodies_that_a_listener_changes_do_not_disturb_the_limit_on_sizes() -> None:
    window = ProcessQueue()
    messages = [MessageExt(TOPIC, b"12345") for _ in range(3)]
    for offset, message in enumerate(messages, 40):
        message.queue_offset = offset
    window.put(messages)
    assert window.size == 15
    messages[0].body = b"unpacked, and much larger than before"
    window.remove(messages)
    assert (len(window), window.size) == (0, 0)
