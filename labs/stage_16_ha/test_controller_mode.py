"""Brokers whose roles a controller assigns."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from rocketmq_py.broker.ha.controller.controller_client import ControllerClient, ControllerUnknownError
from rocketmq_py.broker.ha.controller.controller_processor import EpochEntryCache
from rocketmq_py.broker.ha.controller.replicas_manager import ReplicasManager, Standing
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.common.environment import Environment
from rocketmq_py.remoting.client import RemotingClient
from rocketmq_py.remoting.codes import RequestCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.header import encode_header
from rocketmq_py.remoting.headers.controller import (
    ElectMasterRequestHeader,
    NotifyBrokerRoleChangedRequestHeader,
)
from rocketmq_py.remoting.java_json import decode_body
from rocketmq_py.sim.loop import VirtualLoop
from rocketmq_py.store.commit_log import CommitLog
from rocketmq_py.store.flushed_position import FlushedPosition
from rocketmq_py.store.ha.autoswitch.store_cut import StoreCut
from rocketmq_py.store.ha.ha_client import HAClient
from rocketmq_py.store.message_store import MessageStore
from rocketmq_py.store.tick import Tick
from rocketmq_py.testing.eventually import eventually

from .autoswitch_lab import AutoSwitchLab, autoswitch_lab, ha_port, names_of, replication, standing


@pytest.mark.claim("ha-03")
@pytest.mark.virtual_time
async def test_a_fail_over_loses_nothing_that_all_in_sync_replicas_had(
    tmp_path: Path, environment: Environment
) -> None:
    """Claim: controller mode does switch, losing nothing that all in-sync replicas had.

    Experiment: three brokers, 50 messages acknowledged, the master stops.
    Observe: another broker is master within the controller's patience, has the 50, and takes the next ones.
    """
    async with autoswitch_lab(tmp_path, environment) as lab:
        master = await lab.settled()
        results = [await lab.put(master, f"message {number}") for number in range(50)]
        assert names_of(results) == ["PUT_OK"] * 50

        began = asyncio.get_running_loop().time()
        await lab.stop(lab.name_of(master))
        successor = await lab.settled(2)

        seconds = asyncio.get_running_loop().time() - began
        print(
            f"another broker took messages, with a second one in its set, {seconds:.2f} s after the master had begun to stop"
        )
        assert seconds < 8, "the fail-over took longer than promised"
        assert standing(successor) is Standing.MASTER and successor is not master
        assert lab.bodies(successor) == [f"message {number}" for number in range(50)]
        assert (await lab.put(successor, "next")).status.name == "PUT_OK"
        assert lab.read(successor) == [*(f"message {number}" for number in range(50)), "next"]
        assert [epoch.number for epoch in replication(successor).epochs.epochs] == [1, 2]


@pytest.mark.virtual_time
async def test_the_old_master_returns_and_cuts_what_the_new_one_never_had(
    tmp_path: Path, environment: Environment
) -> None:
    """A master that is cut off from its slaves keeps writing; what it wrote then is told to nobody and goes."""
    async with autoswitch_lab(tmp_path, environment) as lab:
        master = await lab.settled()
        name = lab.name_of(master)
        assert names_of([await lab.put(master, f"kept {number}") for number in range(10)]) == ["PUT_OK"] * 10

        lab.network.cut(ha_port(master))
        lost = [asyncio.ensure_future(lab.put(master, f"lost {number}")) for number in range(5)]
        assert names_of(await asyncio.gather(*lost)) == ["FLUSH_SLAVE_TIMEOUT"] * 5
        assert lab.bodies(master)[-1] == "lost 4" and lab.read(master)[-1] == "kept 9", (
            "an unconfirmed message was shown"
        )
        await lab.stop(name)
        successor = await lab.settled(2)
        results = [await lab.put(successor, f"new {number}") for number in range(10)]
        assert names_of(results) == ["PUT_OK"] * 10

        returned = await lab.start(name)
        await lab.settled(3)

        await lab.equal()
        expected = [*(f"kept {number}" for number in range(10)), *(f"new {number}" for number in range(10))]
        assert lab.bodies(returned) == expected
        await eventually(lambda: lab.read(returned) == expected, 10)
        assert standing(returned) is Standing.SLAVE
        assert replication(returned).epochs.epochs == replication(successor).epochs.epochs
        assert list((tmp_path / name / "cut").iterdir()), "what was cut off is nowhere kept"


@pytest.mark.virtual_time
async def test_a_master_that_is_cut_off_acknowledges_nothing_after_its_lease(
    tmp_path: Path, environment: Environment
) -> None:
    """Row 20: the minor side of a partition goes silent before the other side has a master.

    Experiment: the master and some clients lose the controller and the slaves; they keep sending.
    Observe: nothing is acknowledged there after the lease; the other side takes messages; after healing the tail is cut.
    """
    async with autoswitch_lab(tmp_path, environment, controller={"notify_broker_role_changed": False}) as lab:
        master = await lab.settled()
        name = lab.name_of(master)
        loop = asyncio.get_running_loop()
        await lab.put(master, "before")
        began = loop.time()
        lab.cut_from_controller(name)
        lab.network.cut(ha_port(master))
        told: list[tuple[float, str]] = []

        async def send() -> None:
            while loop.time() < began + 12:
                result = await lab.put(master, "cut off")
                told.append((loop.time() - began, result.status.name))
                await asyncio.sleep(0.1)

        sending = [asyncio.ensure_future(send()) for _ in range(3)]
        successor = await lab.elected(but=master, seconds=12)
        elected_after = loop.time() - began
        await lab.settled(2, but=master)
        assert (await lab.put(successor, "the other side")).status.name == "PUT_OK"
        await asyncio.gather(*sending)

        assert not [when for when, status in told if status == "PUT_OK"], "acknowledged without its slaves"
        assert not any(when > 4.0 + 3.0 and status != "SERVICE_NOT_AVAILABLE" for when, status in told)
        assert elected_after < 8, "row 20 promises 8 s with the fast profile"
        lab.heal(name)
        lab.network.heal(ha_port(master))
        await lab.settled(3)
        await lab.equal()
        assert lab.bodies(master) == ["before", "the other side"]


@pytest.mark.virtual_time
async def test_a_master_that_only_the_controller_lost_keeps_what_it_acknowledges(
    tmp_path: Path, environment: Environment
) -> None:
    """Its slaves vouch for it until one of them is elected; from then on it is silent, and nothing is lost."""
    async with autoswitch_lab(tmp_path, environment, controller={"notify_broker_role_changed": False}) as lab:
        master = await lab.settled()
        name, loop = lab.name_of(master), asyncio.get_running_loop()
        began, told = loop.time(), []
        lab.cut_from_controller(name)
        while loop.time() < began + 15:
            result = await lab.put(master, f"sent {len(told)}")
            told.append((loop.time() - began, result.status.name))
            await asyncio.sleep(0.1)
        successor = await lab.elected(but=master)
        acknowledged = [number for number, (_, status) in enumerate(told) if status == "PUT_OK"]
        assert acknowledged and told[acknowledged[-1]][0] < 8
        kept = lab.bodies(successor)
        assert [f"sent {number}" for number in acknowledged] == [
            body for body in kept if body in {f"sent {number}" for number in acknowledged}
        ]
        lab.heal(name)
        await lab.settled(3)
        await lab.equal()


@pytest.mark.virtual_time
async def test_a_master_that_was_paused_acknowledges_nothing_when_it_wakes(
    tmp_path: Path, environment: Environment
) -> None:
    """SIGSTOP for 30 s: the first thing that the woken master does may be to answer a send; it must look at the clock."""
    async with autoswitch_lab(tmp_path, environment) as lab:
        master = await lab.settled()
        manager, loop = master.get(ReplicasManager), asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        assert (await lab.put(master, "before")).status.name == "PUT_OK"
        put = asyncio.ensure_future(lab.put(master, "in the socket when it was paused"))
        await asyncio.sleep(0)
        # The record is in the log, the slaves get it and answer; nothing of this process has run for 30 s.
        loop.advance(30.0)
        assert not manager.may_acknowledge()
        assert (await put).status.name == "FLUSH_SLAVE_TIMEOUT"
        await lab.settled(3)
        await lab.equal()


@pytest.mark.virtual_time
async def test_without_a_controller_nobody_fails_over_and_the_master_goes_on_while_its_members_answer(
    tmp_path: Path, environment: Environment
) -> None:
    """Row 26: no quorum of controllers."""
    async with autoswitch_lab(tmp_path, environment) as lab:
        master = await lab.settled()
        await lab.stop_controller()
        for _ in range(30):
            assert (await lab.put(master, "goes on")).status.name == "PUT_OK"
            await asyncio.sleep(1)
        slave = next(kernel for kernel in lab.brokers.values() if kernel is not master)
        await lab.stop(lab.name_of(slave))
        assert (await lab.put(master, "one is missing")).status.name != "PUT_OK", (
            "nobody can say that it has left the set"
        )
        assert [standing(kernel) for kernel in lab.brokers.values()].count(Standing.MASTER) == 1

        await lab.start_controller()
        assert await lab.elected(seconds=15) is master, "the controller is back and knows who was master"
        await lab.settled(2)
        assert (await lab.put(master, "again")).status.name == "PUT_OK"


@pytest.mark.virtual_time
async def test_a_member_that_dies_holds_sends_up_until_it_has_left_the_set(
    tmp_path: Path, environment: Environment
) -> None:
    async with autoswitch_lab(tmp_path, environment) as lab:
        master = await lab.settled()
        slave = next(kernel for kernel in lab.brokers.values() if kernel is not master)
        await lab.stop(lab.name_of(slave))
        began = asyncio.get_running_loop().time()
        first = await lab.put(master, "one")
        await eventually(lambda: len(replication(master).state.members) == 2, 15)
        assert (await lab.put(master, "two")).status.name == "PUT_OK"
        assert asyncio.get_running_loop().time() - began < 10 and first.status.name in ("PUT_OK", "FLUSH_SLAVE_TIMEOUT")
        assert lab.group.sync_state_set == sorted(replication(master).state.members)

        other = next(kernel for kernel in lab.brokers.values() if kernel is not master)
        await lab.stop(lab.name_of(other))
        await eventually(lambda: len(replication(master).state.members) == 1, 15)
        assert (await lab.put(master, "alone")).status.name == "IN_SYNC_REPLICAS_NOT_ENOUGH"


@pytest.mark.virtual_time
async def test_an_answer_that_got_lost_leaves_both_sets_in_force(tmp_path: Path, environment: Environment) -> None:
    """Issue 5663 in a group: the controller has the larger set, the master does not know, and nothing is acknowledged
    that the new member lacks."""
    async with autoswitch_lab(tmp_path, environment, brokers=2) as lab:
        master = await lab.settled()
        controllers = master.get(ControllerClient)
        original, asked = controllers.alter_sync_state_set, asyncio.Event()

        async def lose_the_answer(*arguments: Any) -> Any:
            await original(*arguments)
            asked.set()
            lab.cut_from_controller(lab.name_of(master))
            raise ControllerUnknownError("the answer got lost")

        controllers.alter_sync_state_set = lose_the_answer  # type: ignore[method-assign]
        third = await lab.start("c")
        await asyncio.wait_for(asked.wait(), 30)
        assert lab.group.sync_state_set == [1, 2, 3]
        assert replication(master).state.members == {1, 2} and replication(master).state.counted == {1, 2, 3}

        third.get(HAClient).follow("")
        assert (await lab.put(master, "not with the third")).status.name == "FLUSH_SLAVE_TIMEOUT"


@pytest.mark.virtual_time
async def test_queue_offsets_are_never_given_out_twice_for_acknowledged_messages(
    tmp_path: Path, environment: Environment
) -> None:
    """Issue 7689: the new master goes on behind everything that its log has, confirmed or not."""
    async with autoswitch_lab(tmp_path, environment) as lab:
        offsets: dict[int, str] = {}
        for round_number in range(3):
            master = await lab.settled()
            for number in range(5):
                body = f"{round_number}-{number}"
                result = await lab.put(master, body)
                assert result.status.name == "PUT_OK"
                assert offsets.setdefault(result.queue_offset, body) == body
            name = lab.name_of(master)
            # Copied by the slaves, and not known to be: they have not heard that it is confirmed.
            await lab.stop(name)
            await lab.settled(2)
            await lab.start(name)
        last = await lab.settled(3)
        assert lab.read(last) == [offsets[number] for number in range(15)]


@pytest.mark.virtual_time
async def test_name_servers_show_the_master_with_id_0_and_the_epoch_as_version(
    tmp_path: Path, environment: Environment
) -> None:
    async with autoswitch_lab(tmp_path, environment, brokers=2) as lab:
        master = await lab.settled()
        slave = next(kernel for kernel in lab.brokers.values() if kernel is not master)
        assert (master.config.broker_id, slave.config.broker_id) == (0, 2)
        assert master.get(TopicConfigManager).data_version.state_version == 1
        await lab.stop(lab.name_of(master))
        await lab.elected()
        await eventually(lambda: slave.config.broker_id == 0, 10)
        assert slave.get(TopicConfigManager).data_version.state_version == 2
        await eventually(lambda: slave.get(TopicConfigManager).topics.get("TopicA") is not None, 1)


@pytest.mark.virtual_time
async def test_a_broker_keeps_its_id_and_a_lost_answer_costs_no_second_one(
    tmp_path: Path, environment: Environment
) -> None:
    async with autoswitch_lab(tmp_path, environment, brokers=1) as lab:
        assert (tmp_path / "a" / "brokerIdentity").read_text() == "DefaultCluster#broker-a#1"
        assert not (tmp_path / "a" / "brokerIdentity-temp").exists()
        await lab.stop("a")
        # As if the process had ended between the controller's answer and the file.
        check_code = lab.group.replicas[1].check_code
        (tmp_path / "a" / "brokerIdentity").rename(tmp_path / "a" / "brokerIdentity-temp")
        (tmp_path / "a" / "brokerIdentity-temp").write_text(f"DefaultCluster#broker-a#1#{check_code}")
        again = await lab.start("a")
        await lab.elected()
        assert again.get(ReplicasManager).broker_id == 1 and sorted(lab.group.replicas) == [1]

        other = await lab.start("b")
        await eventually(lambda: other.get(ReplicasManager).broker_id == 2, 10)


@pytest.mark.virtual_time
async def test_a_store_of_another_broker_is_refused(tmp_path: Path, environment: Environment) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "brokerIdentity").write_text("DefaultCluster#broker-b#7")
    async with AsyncExitStack() as stack:
        lab = AutoSwitchLab(tmp_path, environment, stack)
        await lab.start_namesrv()
        await lab.start_controller()
        broker = await lab.start("a")
        await asyncio.sleep(5)
        assert standing(broker) is Standing.UNKNOWN and broker.get(Tick).refusals


@pytest.mark.virtual_time
async def test_a_topic_that_was_acknowledged_does_not_go_with_its_master(
    tmp_path: Path, environment: Environment
) -> None:
    """Issue 9826: create a topic, and kill the master as soon as it has answered."""
    async with autoswitch_lab(tmp_path, environment) as lab:
        master = await lab.settled()
        await asyncio.sleep(1)
        lab.create_topic(master, "Young")
        await master.get(TopicConfigManager).persist()
        without = [
            lab.name_of(broker)
            for broker in lab.brokers.values()
            if broker.get(TopicConfigManager).topics.get("Young") is None
        ]
        assert without == [], "A stop in order would give them the time; a power cut would not"
        await lab.stop(lab.name_of(master))
        successor = await lab.settled(2)
        assert successor.get(TopicConfigManager).topics.get("Young") is not None


@pytest.mark.virtual_time
async def test_the_epochs_of_a_broker_can_be_asked_for(tmp_path: Path, environment: Environment) -> None:
    async with autoswitch_lab(tmp_path, environment, brokers=2) as lab:
        master = await lab.settled()
        await lab.put(master, "one")
        end = master.get(CommitLog).max_offset
        command = RemotingCommand.create_request(RequestCode.GET_BROKER_EPOCH_CACHE, {})
        response = await master.get(RemotingClient).request(master.config.broker_address, command, 3.0)
        assert response.code == 0
        found = decode_body(response.body, EpochEntryCache)
        assert (found.cluster_name, found.broker_name, found.broker_id) == ("DefaultCluster", "broker-a", 1)
        assert found.max_offset == end
        assert [(entry.epoch, entry.start_offset, entry.end_offset) for entry in found.epoch_list] == [(1, 0, end)]


@pytest.mark.virtual_time
async def test_a_forged_notice_of_an_election_changes_nothing(tmp_path: Path, environment: Environment) -> None:
    async with autoswitch_lab(tmp_path, environment, brokers=2) as lab:
        master = await lab.settled()
        header = NotifyBrokerRoleChangedRequestHeader(
            master_address="127.0.0.1:6666", master_epoch=1_000, sync_state_set_epoch=1_000, master_broker_id=66
        )
        stranger = RemotingClient(environment.clock)
        for kernel in lab.brokers.values():
            command = RemotingCommand.create_request(RequestCode.NOTIFY_BROKER_ROLE_CHANGED, encode_header(header))
            await stranger.request(kernel.config.broker_address, command, 3.0)
        assert (await lab.put(master, "still here")).status.name == "PUT_OK"
        await asyncio.sleep(10)
        assert standing(master) is Standing.MASTER and (await lab.put(master, "and here")).status.name == "PUT_OK"
        await stranger.close()


@pytest.mark.virtual_time
async def test_an_operators_election_moves_the_master_and_loses_nothing(
    tmp_path: Path, environment: Environment
) -> None:
    async with autoswitch_lab(tmp_path, environment) as lab:
        master = await lab.settled()
        chosen = next(kernel for kernel in lab.brokers.values() if kernel is not master)
        results = [await lab.put(master, f"before {number}") for number in range(20)]
        assert names_of(results) == ["PUT_OK"] * 20
        header = ElectMasterRequestHeader(
            cluster_name="DefaultCluster",
            broker_name="broker-a",
            broker_id=chosen.get(ReplicasManager).broker_id,
            designate_elect=True,
        )
        assert lab.controller is not None
        client = master.get(RemotingClient)
        command = RemotingCommand.create_request(RequestCode.CONTROLLER_ELECT_MASTER, encode_header(header))
        assert (await client.request(lab.controller.address, command, 3.0)).code == 0
        assert await lab.settled(3, but=master) is chosen
        assert (await lab.put(chosen, "after")).status.name == "PUT_OK"
        assert (await lab.put(master, "at the old one")).status.name == "SERVICE_NOT_AVAILABLE"
        await lab.equal()
        assert lab.bodies(chosen) == [*(f"before {number}" for number in range(20)), "after"]


@pytest.mark.virtual_time
@pytest.mark.parametrize("all_ack", [True, False])
async def test_a_cut_takes_everything_with_it_that_was_derived_from_the_lost_bytes(
    tmp_path: Path, environment: Environment, all_ack: bool
) -> None:
    """Log, queues, index, block checks, flushed position: all end at the cut, also those that had been shown.

    Without `allAckInSyncStateSet` a master shows what it has at once, so a tail that is lost was in its queues and index.
    """
    async with autoswitch_lab(tmp_path, environment, all_ack_in_sync_state_set=all_ack, min_in_sync_replicas=1) as lab:
        master = await lab.settled()
        name = lab.name_of(master)
        for number in range(10):
            await lab.put(master, f"kept {number}", number % 2)
        await lab.equal()
        end = master.get(CommitLog).max_offset
        lab.network.cut(ha_port(master))
        await asyncio.gather(*(lab.put(master, f"lost {number}", number % 2) for number in range(50)))
        tail = master.get(CommitLog).max_offset - end
        lab.cut_from_controller(name)
        successor = await lab.settled(2, but=master)
        for number in range(5):
            await lab.put(successor, f"new {number}", number % 2)
        lab.heal(name)
        lab.network.heal(ha_port(master))
        await lab.settled(3)
        await lab.equal()

        assert master.get(StoreCut).cuts == 1 and tail > 0
        expected = [lab.read(successor, queue_id) for queue_id in (0, 1)]
        await eventually(lambda: [lab.read(master, queue_id) for queue_id in (0, 1)] == expected, 10)
        assert not any("lost" in body for bodies in expected for body in bodies)
        # Everything below the cut is still believed, and everything behind it is checked anew.
        log, position = master.get(CommitLog), master.get(FlushedPosition)
        assert log.read_blocking(0, end) and position.offset is not None and position.offset <= log.max_offset
        index = master.get(MessageStore).index
        assert index is None or index.end_physical_offset < log.max_offset

        # And the next start agrees.
        await lab.stop(name)
        again = await lab.start(name)
        await lab.settled(3)
        await lab.equal()
        await eventually(lambda: [lab.read(again, queue_id) for queue_id in (0, 1)] == expected, 10)


@pytest.mark.virtual_time
@pytest.mark.parametrize("moment", [0.0, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.3, 1.0])
async def test_a_power_cut_during_the_cut_brings_no_old_record_back(
    moment: float, tmp_path: Path, environment: Environment
) -> None:
    """Issue 10666: a log that is cut in memory only has the old records again after a crash, in the middle of new ones."""
    async with autoswitch_lab(tmp_path, environment, has_disks=True) as lab:
        master = await lab.settled()
        name = lab.name_of(master)
        for number in range(10):
            await lab.put(master, f"kept {number}")
        lab.network.cut(ha_port(master))
        await asyncio.gather(*(lab.put(master, f"lost {number}") for number in range(30)))
        # On its disk, all of it.
        await asyncio.sleep(2)
        await lab.kill(name)
        successor = await lab.settled(2)
        for number in range(3):
            assert (await lab.put(successor, f"new {number}")).status.name == "PUT_OK"
        rng = random.Random(int(moment * 1_000))
        returned = await lab.start(name)
        await eventually(lambda: standing(returned) is Standing.SLAVE, 10)
        await asyncio.sleep(moment)
        await lab.cut_power(name, rng)

        await lab.start(name)
        await lab.settled(3)
        await lab.equal()
        assert lab.bodies(successor) == [
            *(f"kept {number}" for number in range(10)),
            *(f"new {number}" for number in range(3)),
        ]


@pytest.mark.virtual_time
async def test_a_whole_group_that_was_stopped_comes_back_with_everything(
    tmp_path: Path, environment: Environment
) -> None:
    """One after the other goes, so the last one has everything; until it is back nobody may be elected."""
    async with autoswitch_lab(tmp_path, environment) as lab:
        await lab.settled()
        sent: list[str] = []
        for _ in range(3):
            master = await lab.elected()
            for number in range(5):
                body = f"{len(lab.brokers)} alive, {number}"
                if (await lab.put(master, body)).status.name == "PUT_OK":
                    sent.append(body)
            gone = lab.name_of(master)
            last = gone
            await lab.stop(gone)
            if lab.brokers:
                await lab.settled()
        assert len(sent) == 10, "with one of three alive nothing is acknowledged"
        others = sorted({"a", "b", "c"} - {last})
        for name in others:
            await lab.start(name)
        await asyncio.sleep(20)
        assert not lab.masters(), "somebody without everything was elected"
        assert {standing(kernel) for kernel in lab.brokers.values()} <= {Standing.UNKNOWN, Standing.SLAVE}

        await lab.start(last)
        master = await lab.settled(3)
        await lab.equal()
        assert [body for body in lab.bodies(master) if body in sent] == sent
        assert (await lab.put(master, "on")).status.name == "PUT_OK"
