"""Retries that clients make themselves: the broker sees for itself which of them are at their end."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from labs.stage_14_retry.send_back_lab import DLQ, GROUP, PROPERTIES, RETRY, SendBackLab, send_back_lab
from rocketmq_py.broker.client.rebalance_lock_manager import RebalanceLockManager
from rocketmq_py.broker.retry.retry_hook import RetryHook
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.message import MessageQueue
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand

pytestmark = pytest.mark.virtual_time

ORIGIN = {**PROPERTIES, "RETRY_TOPIC": "Orders"}


async def send(lab: SendBackLab, properties: dict[str, str] | None = None, **changes: Any) -> RemotingCommand:
    """Send to the retry topic as a consumer does."""
    header = {"queue_id": 0, "topic": RETRY, "properties": {**ORIGIN, "DELAY": "4", **(properties or {})}, **changes}
    return await lab.broker.send(header.pop("topic"), b"failed", **header)


@pytest.mark.parametrize(
    ("times", "own", "is_dead"),
    [(0, None, False), (16, None, False), (17, None, True), (2, 2, False), (3, 2, True), (1, 0, True), (0, -1, True)],
)
@pytest.mark.parametrize("code", [RequestCode.SEND_MESSAGE, RequestCode.SEND_MESSAGE_V2])
async def test_a_retry_beyond_its_limit_becomes_a_dead_letter(
    environment: Environment, tmp_path: Path, code: int, times: int, own: int | None, is_dead: bool
) -> None:
    """The count in the request is that of the next try, so the limit itself is allowed still; 5.x counts so."""
    async with send_back_lab(environment, tmp_path) as lab:
        answer = await send(lab, code=code, reconsume_times=times, max_reconsume_times=own)
        assert (answer.code, answer.ext_fields["queueId"]) == (ResponseCode.SUCCESS, "0")
        dead, waiting = lab.broker.stored(DLQ), lab.waiting()
        assert (len(dead), len(waiting)) == ((1, 0) if is_dead else (0, 1))
        message = (dead or waiting)[0]
        assert message.reconsume_times == times
        assert ORIGIN.items() <= message.properties.items()
        assert message.properties["DELAY"] == ("-1" if is_dead else "4")
        if is_dead:
            assert b'"%DLQ%billing"' in (tmp_path / "config/topics.json").read_bytes()
        await asyncio.sleep(31)
        assert len(lab.broker.stored(RETRY)) == (0 if is_dead else 1)


async def test_what_a_group_in_order_sends_here_is_at_its_end(environment: Environment, tmp_path: Path) -> None:
    """It asks for a message again in its own queue; only what failed too often there comes here."""
    async with send_back_lab(environment, tmp_path) as lab:
        locks = lab.broker.kernel.get(RebalanceLockManager)
        queue = MessageQueue("Orders", "broker-a", 0)
        locks.lock("somebody-else", "a", [queue], asyncio.get_running_loop().time())
        await send(lab, reconsume_times=1)
        assert lab.broker.stored(DLQ) == []
        locks.lock(GROUP, "a", [queue], asyncio.get_running_loop().time())
        await send(lab, reconsume_times=1)
        assert len(lab.broker.stored(DLQ)) == 1
        await asyncio.sleep(61)
        await send(lab, reconsume_times=1)
        assert len(lab.broker.stored(DLQ)) == 1, "the lock is over"


async def test_a_dead_letter_is_not_kept_for_a_level_or_a_time(environment: Environment, tmp_path: Path) -> None:
    async with send_back_lab(environment, tmp_path) as lab:
        await send(lab, {"DELAY": "18"}, reconsume_times=99)
        assert len(lab.broker.stored(DLQ)) == 1
        assert lab.waiting() == []


async def test_a_retry_for_a_group_that_may_not_be_created_is_refused(environment: Environment, tmp_path: Path) -> None:
    async with send_back_lab(environment, tmp_path, auto_create_subscription_group=False) as lab:
        answer = await send(lab, topic="%RETRY%nobody")
        assert answer.code == ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST
        assert (answer.remark or "").startswith("subscription group not exist, nobody ")
        assert (await send(lab, topic="%RETRY%")).code == ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST


async def test_sends_to_other_topics_are_left_alone(environment: Environment, tmp_path: Path) -> None:
    """A dead-letter topic is a topic like others for who sends there; counts say nothing elsewhere."""
    async with send_back_lab(environment, tmp_path) as lab:
        lab.broker.create_topic(DLQ, 1)
        for topic in ("Orders", DLQ):
            answer = await lab.broker.send(topic, b"x", reconsume_times=99, queue_id=0)
            assert answer.code == ResponseCode.SUCCESS
            assert len(lab.broker.stored(topic)) == 1


@pytest.mark.parametrize("hot", [True, False])
async def test_a_message_that_is_no_retry_never_meets_this_stage(
    environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hot: bool
) -> None:
    """The hot path runs no hook, and retry topics never take it."""
    seen: list[str] = []
    monkeypatch.setattr(RetryHook, "apply", lambda self, context: seen.append(context.draft.topic))
    async with send_back_lab(environment, tmp_path, hot=hot) as lab:
        for number in range(20):
            assert (await lab.broker.send("Orders", b"plain", {"UNIQ_KEY": f"{number:032d}"})).code == 0
        assert seen == ([] if hot else ["Orders"] * 20)
        await send(lab)
        assert seen[-1] == RETRY
