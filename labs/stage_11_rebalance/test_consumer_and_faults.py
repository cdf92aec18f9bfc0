"""A push consumer and what happens around it: administrators, name servers and brokers that are away, any start."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import cast

import pytest

from rocketmq_py.broker.consumer_offset import ConsumerOffsetManager
from rocketmq_py.client.admin.client import AdminClient
from rocketmq_py.client.errors import ClientStateError, NoNameServerError
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.host import split_address
from rocketmq_py.remoting.bodies.heartbeat import ConsumeFromWhere, MessageModel
from rocketmq_py.sim.loop import VirtualLoop
from rocketmq_py.testing.eventually import eventually

from .group_lab import GROUP, TOPIC, GroupLab, Member, group_lab


def network():  # type: ignore[no-untyped-def]
    return cast(VirtualLoop, asyncio.get_running_loop()).network


def port_of(address: str) -> int:
    return split_address(address)[1]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET, ["0", "1", "2", "3", "new"]),
        (ConsumeFromWhere.CONSUME_FROM_TIMESTAMP, ["2", "3", "new"]),
        (ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET, ["new"]),
    ],
)
@pytest.mark.virtual_time
async def test_a_new_group_begins_where_it_wants(
    tmp_path: Path, environment: Environment, where: ConsumeFromWhere, expected: list[str]
) -> None:
    """Broadcasting shows it best: no broker has a say. The time is one between the second and the third message."""
    async with group_lab(tmp_path, environment, queues=1) as lab:
        await lab.send("0", "1")
        await asyncio.sleep(60)
        between = environment.clock.wall_ms()
        await asyncio.sleep(60)
        await lab.send("2", "3")
        member = await _broadcasting(lab, tmp_path, consume_from_where=where, consume_timestamp=between)
        await lab.send("new")
        await eventually(lambda: member.bodies[-1:] == ["new"])
        await asyncio.sleep(5)
        assert member.bodies == expected


@pytest.mark.virtual_time
async def test_without_a_time_a_group_begins_half_an_hour_before_its_start(
    tmp_path: Path, environment: Environment
) -> None:
    async with group_lab(tmp_path, environment, queues=1) as lab:
        await lab.send("old")
        await asyncio.sleep(1_000)
        await lab.send("young")
        await asyncio.sleep(1_000)
        where = ConsumeFromWhere.CONSUME_FROM_TIMESTAMP
        member = await _broadcasting(lab, tmp_path, consume_from_where=where)
        await asyncio.sleep(5)
        assert member.bodies == ["young"]


async def _broadcasting(lab: GroupLab, folder: Path, **settings: object) -> Member:
    member = await lab.join(
        "c0",
        message_model=MessageModel.BROADCASTING,
        local_offset_store_dir=str(folder / "offsets"),
        consume_thread_max=1,
        **settings,
    )
    await eventually(lambda: member.queue_ids == [0])
    return member


@pytest.mark.parametrize("is_paused", [False, True])
@pytest.mark.parametrize("at_the_server", [False, True])
@pytest.mark.virtual_time
async def test_a_running_group_is_moved_back_in_time(
    tmp_path: Path, environment: Environment, is_paused: bool, at_the_server: bool
) -> None:
    """An administrator's reset reaches members that run, also one that is paused, which stays so until it is resumed."""
    async with group_lab(tmp_path, environment, queues=2, use_server_side_reset_offset=at_the_server) as lab:
        member = await lab.join("c0")
        await lab.settled()
        await lab.send("0", "1")
        await asyncio.sleep(60)
        between = environment.clock.wall_ms()
        await asyncio.sleep(60)
        await lab.send("2", "3")
        await eventually(lambda: len(member.got) == 4)
        await asyncio.sleep(10)
        if is_paused:
            member.consumer.pause()
        async with AdminClient(namesrv_addr=lab.cluster.namesrv_addr, environment=environment) as admin:
            offsets = await admin.consumers.reset_offset_by_time(TOPIC, GROUP, between)
        assert list(offsets.values()) == [1, 1]
        if is_paused:
            await asyncio.sleep(30)
            assert len(member.got) == 4
            member.consumer.resume()
        # The broker hands the new offset out with the next pull; one that is held ends after 15 s.
        await eventually(lambda: len(member.got) == 6, 30)
        await asyncio.sleep(10)
        assert sorted(member.bodies[4:]) == ["2", "3"]
        stored = lab.cluster.kernels[0].get(ConsumerOffsetManager)
        assert [stored.query(GROUP, TOPIC, queue_id) for queue_id in (0, 1)] == [2, 2]


@pytest.mark.virtual_time
async def test_what_the_listener_has_when_its_group_is_moved_does_not_move_it_again(
    tmp_path: Path, environment: Environment
) -> None:
    async with group_lab(tmp_path, environment, queues=1) as lab:
        member = await lab.join("c0")
        await lab.settled()
        await lab.send("0", "1")
        await eventually(lambda: len(member.got) == 2)
        await asyncio.sleep(10)
        member.gate.clear()
        await lab.send("2")
        await eventually(lambda: member.running == 1)
        async with AdminClient(namesrv_addr=lab.cluster.namesrv_addr, environment=environment) as admin:
            await admin.consumers.reset_offset_by_time(TOPIC, GROUP, 0)
        member.gate.set()
        # The broker hands the new offset out with the next pull; one that is held ends after 15 s.
        await eventually(lambda: len(member.got) == 6, 30)
        await asyncio.sleep(10)
        assert sorted(member.bodies) == ["0", "0", "1", "1", "2", "2"]


@pytest.mark.virtual_time
async def test_a_start_without_name_server_says_so_and_leaves_nothing_behind(
    tmp_path: Path, environment: Environment
) -> None:
    async with group_lab(tmp_path, environment, queues=1) as lab:
        member = Member(lab, "c0", namesrv_addr="127.0.0.1:1")
        member.consumer.subscribe(TOPIC)
        with pytest.raises(NoNameServerError, match=r"127\.0\.0\.1:1"):
            await member.consumer.start()
        assert repr(member.consumer) == "<PushConsumer billing stopped, 0 queues>"
        await member.consumer.stop()
        with pytest.raises(ClientStateError, match="failed to start before; make a new one"):
            await member.consumer.start()
        assert not [task for task in asyncio.all_tasks() if GROUP in task.get_name()]


@pytest.mark.virtual_time
async def test_a_consumer_goes_on_without_name_servers_and_may_even_change_its_subscription(
    tmp_path: Path, environment: Environment, caplog: pytest.LogCaptureFixture
) -> None:
    async with group_lab(tmp_path, environment, queues=1) as lab:
        member = await lab.join("c0", "TagA")
        await lab.settled()
        await lab.send("a1", tags="TagA")
        port = port_of(lab.cluster.namesrv_addr)
        network().refuse(port)
        network().reset(port)
        await lab.send("a2", tags="TagA")
        await eventually(lambda: member.bodies == ["a1", "a2"])
        member.consumer.subscribe(TOPIC, "TagB")
        await asyncio.sleep(60)
        await lab.send("b1", tags="TagB")
        await eventually(lambda: member.bodies == ["a1", "a2", "b1"])
        assert "it may not work: no name server answers" in caplog.text
        network().heal(port)


@pytest.mark.virtual_time
async def test_a_wrong_expression_on_the_way_is_reported_at_once(
    tmp_path: Path, environment: Environment, caplog: pytest.LogCaptureFixture
) -> None:
    async with group_lab(tmp_path, environment, queues=1, enable_property_filter=True) as lab:
        member = await lab.join("c0")
        await lab.settled()
        with caplog.at_level(logging.ERROR, "rocketmq_py.client.push_consumer"):
            member.consumer.subscribe(TOPIC, "a > ", "SQL92")
            await eventually(lambda: "At position 5" in caplog.text, 5)
        member.consumer.subscribe(TOPIC, "*")
        await asyncio.sleep(30)
        await lab.send("0")
        await eventually(lambda: member.bodies == ["0"], 60)


@pytest.mark.virtual_time
async def test_stop_ends_in_seconds_though_the_broker_answers_nothing(
    tmp_path: Path, environment: Environment, caplog: pytest.LogCaptureFixture
) -> None:
    """Twenty queues at a broker that hangs cost one timeout, not twenty."""
    async with group_lab(tmp_path, environment, queues=20) as lab:
        member = await lab.join("c0")
        await lab.settled()
        await lab.send(*map(str, range(20)))
        await eventually(lambda: len(member.got) == 20)
        port = lab.cluster.kernels[0].config.listen_port
        network().cut(port)
        began = asyncio.get_running_loop().time()
        await lab.leave(member)
        took = asyncio.get_running_loop().time() - began
        network().heal(port)
        print(f"stop() took {took:.1f} s")
        assert took < 10
        assert caplog.text.count("were not stored") == 1


@pytest.mark.virtual_time
async def test_a_broker_that_was_killed_is_consumed_from_soon_after_it_is_back(
    tmp_path: Path, environment: Environment
) -> None:
    """The new process has never heard of the group; the consumer does not wait for its next heartbeat to say so."""
    async with group_lab(tmp_path, environment, queues=4) as lab:
        member = await lab.join("c0")
        await lab.settled()
        await lab.send(*map(str, range(4)))
        await eventually(lambda: len(member.got) == 4)
        # Just behind a heartbeat, so that the next one is far.
        await asyncio.sleep(1.5 + 30 - asyncio.get_running_loop().time() % 30)
        kernel = lab.cluster.kernels[0]
        port = kernel.config.listen_port
        await kernel.stop()
        network().reset(port)
        await lab.cluster.start_broker("broker-a", listen_port=port)
        began = asyncio.get_running_loop().time()
        await lab.send(*map(str, range(4, 8)))
        await eventually(lambda: len(member.got) == 8, 60)
        took = asyncio.get_running_loop().time() - began
        print(f"messages came again {took:.1f} s after the broker was back")
        assert took < 8
        assert sorted(member.bodies) == [str(number) for number in range(8)]


@pytest.mark.virtual_time
async def test_offsets_of_the_last_seconds_are_stored_by_stop(tmp_path: Path, environment: Environment) -> None:
    """Periodic storing begins after ten seconds; a consumer that lived for one has its offsets stored all the same."""
    async with group_lab(tmp_path, environment, queues=2) as lab:
        member = await lab.join("c0")
        await lab.settled()
        await lab.send(*map(str, range(6)))
        # The broker hands the new offset out with the next pull; one that is held ends after 15 s.
        await eventually(lambda: len(member.got) == 6, 30)
        await lab.leave(member)
        stored = lab.cluster.kernels[0].get(ConsumerOffsetManager)
        assert [stored.query(GROUP, TOPIC, queue_id) for queue_id in (0, 1)] == [3, 3]
