"""An ordered listener that fails in an unusual way keeps its place in the queue."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from labs.stage_11_rebalance.group_lab import TOPIC, Member, group_lab
from rocketmq_py.client.consume_service import ConsumeStatus
from rocketmq_py.client.orderly import ConsumeOrderlyContext, InOrder
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.message import MessageExt
from rocketmq_py.testing.eventually import eventually


async def _cancelled() -> None:
    waiting = asyncio.get_running_loop().create_future()
    waiting.cancel()
    await waiting


async def _status_of_the_other_listener() -> ConsumeStatus:
    return ConsumeStatus.RECONSUME_LATER


@pytest.mark.parametrize(
    ("fail", "logged"),
    [(_cancelled, "the listener failed"), (_status_of_the_other_listener, "the listener returned <ConsumeStatus")],
)
@pytest.mark.virtual_time
async def test_a_message_that_failed_is_repeated_before_the_next_one(
    tmp_path: Path, environment: Environment, caplog: pytest.LogCaptureFixture, fail: Callable[[], Any], logged: str
) -> None:
    calls: list[str] = []

    async def listener(messages: Sequence[MessageExt], context: ConsumeOrderlyContext) -> Any:
        calls.append(messages[0].body.decode())
        return await fail() if messages[0].body == b"1" and calls.count("1") < 3 else None

    async with group_lab(tmp_path, environment, queues=1) as lab:
        member = Member(lab, "c0")
        member.consumer.register_listener(InOrder(listener))
        member.consumer.subscribe(TOPIC)
        await lab.send("0", "1", "2")
        async with member.consumer:
            await eventually(lambda: member.consumer.offsets.get(lab.queues[0]) == 3, 30)
    assert calls == ["0", "1", "1", "1", "2"]
    assert logged in caplog.text


@pytest.mark.virtual_time
async def test_a_queue_goes_on_after_putting_a_message_aside_failed(
    tmp_path: Path, environment: Environment, caplog: pytest.LogCaptureFixture
) -> None:
    """No new message comes that would take the queue up again: it has to go on by itself."""
    calls: list[str] = []
    put_aside: list[str] = []

    async def listener(messages: Sequence[MessageExt], context: ConsumeOrderlyContext) -> None:
        calls.append(messages[0].body.decode())
        if calls[-1] == "1":
            raise ValueError("never")

    async def exhausted(message: MessageExt) -> bool:
        put_aside.append(message.body.decode())
        if len(put_aside) == 1:
            raise RuntimeError("no")
        return True

    async with group_lab(tmp_path, environment, queues=1) as lab:
        member = Member(lab, "c0", max_reconsume_times=0)
        member.consumer.register_listener(InOrder(listener))
        member.consumer.subscribe(TOPIC)
        await lab.send("0", "1", "2")
        async with member.consumer:
            member.consumer.service.exhausted = exhausted
            await eventually(lambda: member.consumer.offsets.get(lab.queues[0]) == 3, 30)
    assert calls == ["0", "1", "1", "2"]
    assert put_aside == ["1", "1"]
    assert "is tried again" in caplog.text
