"""Messages whose bodies are not what they say: they end as dead letters, and the queue goes on."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from labs.stage_07_send.send_lab import HEADER, send_fields
from labs.stage_11_rebalance.group_lab import GROUP, TOPIC, GroupLab, group_lab
from labs.stage_14_retry.retry_lab import FailingMember, count, stored
from rocketmq_py.client import pull_api
from rocketmq_py.client.admin.client import AdminClient
from rocketmq_py.client.admin.dead_letters import DeadLetterAdmin
from rocketmq_py.client.errors import ClientError
from rocketmq_py.client.orderly import ConsumeOrderlyContext, InOrder
from rocketmq_py.client.pull_consumer import PullConsumer
from rocketmq_py.common import sys_flag as flags
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.message import MessageExt
from rocketmq_py.common.topic import dlq_topic
from rocketmq_py.remoting.bodies.heartbeat import MessageModel
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.store.tick import Tick
from rocketmq_py.testing.eventually import eventually

pytestmark = pytest.mark.virtual_time

DLQ = dlq_topic(GROUP)
#: Nothing that any decompressor knows, and what becomes a hundred times the limit of these labs.
TORN, BOMB = b"no stream at all", zlib.compress(bytes(10 << 20))
LIMIT = 100 << 10


async def send_raw(lab: GroupLab, body: bytes) -> None:
    """Send a body that claims to be compressed; a broker never looks into bodies."""
    fields = send_fields(
        TOPIC,
        {"UNIQ_KEY": f"7F00000100002A139A550A1B2C3D{len(body) % 10_000:04d}", "KEYS": "poison"},
        RequestCode.SEND_MESSAGE_V2,
        queue_id=0,
        sys_flag=flags.COMPRESSED | flags.COMPRESSION_ZLIB,
    )
    assert HEADER["queue_id"] == 1
    address = f"127.0.0.1:{lab.cluster.kernels[0].config.listen_port}"
    command = RemotingCommand.create_request(RequestCode.SEND_MESSAGE_V2, fields, body)
    answer = await lab.producer.instance.transport.request(address, command, 3)
    assert answer.code == ResponseCode.SUCCESS, answer.remark


async def send_all(lab: GroupLab) -> None:
    await lab.send("before")
    await send_raw(lab, TORN)
    await send_raw(lab, BOMB)
    await lab.send("behind")


@pytest.mark.parametrize("in_order", [False, True])
async def test_a_body_that_cannot_be_read_becomes_a_dead_letter_and_the_queue_goes_on(
    tmp_path: Path,
    environment: Environment,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    in_order: bool,
) -> None:
    """Claim: a torn body, and one that inflates to gigabytes, cost a consumer neither its process nor its queue.

    Experiment: two such messages lie between two good ones; nobody is in the dead-letter topic's way at first.
    Observe: the listener is given the good ones, and the others are among the dead letters with their bodies as they
    were; the log says why. They can be looked at, but not sent again.
    """
    monkeypatch.setattr(pull_api, "MAX_BODY_SIZE", LIMIT)
    got: list[str] = []

    async def handle(messages: Sequence[MessageExt], context: object) -> None:
        got.extend(message.body.decode() for message in messages)

    async def handle_in_order(messages: Sequence[MessageExt], context: ConsumeOrderlyContext) -> None:
        await handle(messages, context)

    async with (
        group_lab(tmp_path, environment, queues=1) as lab,
        AdminClient(namesrv_addr=lab.cluster.namesrv_addr, environment=environment) as admin,
    ):
        await send_all(lab)
        member = FailingMember(lab, consume_message_batch_max_size=4)
        member.consumer.register_listener(InOrder(handle_in_order) if in_order else handle)
        async with member.consumer:
            await eventually(lambda: member.consumer.offsets.get(lab.queues[0]) == 4, 30)
            await asyncio.sleep(60)
        assert got == ["before", "behind"]
        dead = stored(lab.cluster.kernels[0], DLQ)
        # Concurrent send-backs overtake each other.
        assert {message.body for message in dead} == {TORN, BOMB}
        assert {message.sys_flag for message in dead} == {flags.COMPRESSED | flags.COMPRESSION_ZLIB}
        letters = DeadLetterAdmin(admin.instance)
        found = await letters.newest(GROUP, 5)
        assert {letter.message.body for letter in found} == {TORN, BOMB}
        for letter in found:
            with pytest.raises(ClientError, match="nobody could read it"):
                await letters.resend(letter)
            assert await letters.find(GROUP, letter.message.msg_id)
    assert "cannot be decompressed" in caplog.text
    assert f"more than the limit of {LIMIT} bytes" in caplog.text


@pytest.mark.parametrize("in_order", [False, True])
async def test_it_waits_until_somebody_takes_it(tmp_path: Path, environment: Environment, in_order: bool) -> None:
    """It is not dropped because the disk is full: its offset waits, in order its queue too."""
    got: list[str] = []

    async def handle(messages: Sequence[MessageExt], context: object) -> None:
        got.extend(message.body.decode() for message in messages)

    async with group_lab(tmp_path, environment, queues=1) as lab:
        await lab.send("before")
        await send_raw(lab, TORN)
        await lab.send("behind")
        tick = lab.cluster.kernels[0].get(Tick)
        member = FailingMember(lab)
        member.consumer.register_listener(InOrder(handle) if in_order else handle)
        tick.refuse("the disk is full")
        async with member.consumer:
            await asyncio.sleep(60)
            assert got == (["before"] if in_order else ["before", "behind"])
            assert member.consumer.offsets.get(lab.queues[0]) == 1
            tick.accept("the disk is full")
            await eventually(lambda: member.consumer.offsets.get(lab.queues[0]) == 3, 30)
        assert got == ["before", "behind"]
        assert count(lab.cluster.kernels[0], DLQ) == 1


async def test_broadcasting_drops_it(
    tmp_path: Path, environment: Environment, caplog: pytest.LogCaptureFixture
) -> None:
    async with group_lab(tmp_path, environment, queues=1) as lab:
        await send_all(lab)
        folder = str(tmp_path / "offsets")
        member = FailingMember(
            lab, fails=lambda _: False, message_model=MessageModel.BROADCASTING, local_offset_store_dir=folder
        )
        async with member.consumer:
            await eventually(lambda: "behind" in member.bodies)
            assert member.bodies[0] == "before"
            await eventually(lambda: member.consumer.offsets.get(lab.queues[0]) == 4)
        assert count(lab.cluster.kernels[0], DLQ) == 0
    assert "is set aside" in caplog.text


async def test_who_asks_for_messages_himself_gets_an_error_for_it(tmp_path: Path, environment: Environment) -> None:
    """A pull consumer walks its queues by itself: it sees which offset it is and may pass it."""
    async with group_lab(tmp_path, environment, queues=1) as lab:
        await send_all(lab)
        consumer = PullConsumer("walker", namesrv_addr=lab.cluster.namesrv_addr, environment=environment)
        async with consumer:
            (queue,) = await consumer.fetch_queues(TOPIC)
            with pytest.raises(InvalidInputError, match="cannot be decompressed"):
                await consumer.pull(queue, 1, max_messages=1)
            result = await consumer.pull(queue, 3)
            assert [message.body for message in result.messages] == [b"behind"]
