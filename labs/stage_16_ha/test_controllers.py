"""Controllers over the network, in virtual time: heartbeats, elections, notices, and three of them with one lost."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter

import msgspec
import pytest

from rocketmq_py.controller.journal import split_frames
from rocketmq_py.controller.raft.log import SnapshotKept, VoteKept, decode_records
from rocketmq_py.controller.raft.messages import AppendAnswer, Vote, VoteAnswer, decode
from rocketmq_py.controller.raft.node import Outbox
from rocketmq_py.controller.server import Controller
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.sim.environment import simulated_environment
from rocketmq_py.sim.file_system import SimulatedFileSystem
from rocketmq_py.testing.eventually import eventually

from .controller_lab import GROUP, ControllerLab, LabBroker, controller_lab_in, in_lab

pytestmark = [pytest.mark.virtual_time]


async def keep_alive(broker: LabBroker, seconds: float, **fields) -> None:
    """Send heartbeats once a second."""
    for _ in range(round(seconds)):
        await broker.heartbeat(**fields)
        await asyncio.sleep(1)


async def two_in_sync(lab: ControllerLab) -> tuple[LabBroker, LabBroker]:
    """A master and a replica in sync, both heard."""
    first, second = await lab.broker(21_001), await lab.broker(21_002)
    for broker in (first, second):
        await broker.join()
        await broker.heartbeat()
    assert (await first.elect()).code == 0
    assert (await first.alter([1, 2], set_epoch=1)).code == 0
    return first, second


@in_lab
async def test_brokers_join_the_first_leads_and_all_are_told(lab):
    controller = await lab.controller()
    first, second = await two_in_sync(lab)
    assert (lab.group.master, lab.group.master_epoch, lab.group.sync_state_set) == (1, 1, [1, 2])
    answer = await second.heartbeat(epoch=1, max_offset=100)
    assert answer.ext_fields == {"isLeader": "true", "masterEpoch": "1"}
    assert answer.remark == "Heart beat success"
    metadata = await first.client.request(
        controller.address, RemotingCommand.create_request(RequestCode.CONTROLLER_GET_METADATA_INFO), 3
    )
    assert metadata.ext_fields == {
        "group": "DefaultControllerGroup",
        "controllerLeaderId": "n0",
        "controllerLeaderAddress": controller.address,
        "isLeader": "true",
        "peers": f"n0:{controller.address};",
    }


@in_lab
@pytest.mark.claim("ha-03")
async def test_a_master_whose_connection_breaks_is_replaced_at_once(lab):
    """Claim: in controller mode a slave takes over when its master dies.

    Experiment: a master and a replica in sync; the master's process ends, and its connections with it.
    Observe: within 100 ms the replica is told that it is the master of the next epoch; the dead one is not told.
    """
    await lab.controller()
    first, second = await two_in_sync(lab)
    await eventually(lambda: second.notices)
    second.notices.clear()

    await first.stop()
    await eventually(lambda: second.notices, 0.1, step=0.001)

    notice, members = second.notices[-1]
    assert (notice.master_broker_id, notice.master_address) == (2, second.address)
    assert (notice.master_epoch, notice.sync_state_set_epoch, members) == (2, 3, [2])
    assert (await second.alter([2, 1], set_epoch=2, master_epoch=1)).code == ResponseCode.CONTROLLER_FENCED_MASTER_EPOCH


@in_lab
async def test_a_master_that_falls_silent_is_replaced_after_its_time_out(lab):
    await lab.controller()
    _, second = await two_in_sync(lab)
    began = asyncio.get_running_loop().time()
    async with asyncio.TaskGroup() as tasks:
        alive = tasks.create_task(keep_alive(second, 60))
        await eventually(lambda: lab.group.master == 2, 30)
        alive.cancel()
    silent = asyncio.get_running_loop().time() - began
    assert 10 <= silent <= 15.1, f"the time-out of 10 s is looked at every 5 s, but it took {silent:.1f} s"


@in_lab
async def test_a_heartbeat_says_for_how_long_it_holds(lab):
    await lab.controller()
    first, second = await two_in_sync(lab)
    await first.heartbeat(heartbeat_timeout_mills=60_000)
    async with asyncio.TaskGroup() as tasks:
        alive = tasks.create_task(keep_alive(second, 90))
        await asyncio.sleep(55)
        assert lab.group.master == 1
        await eventually(lambda: lab.group.master == 2, 15)
        alive.cancel()


@in_lab
async def test_a_controller_that_starts_again_remembers_and_deposes_nobody_in_haste(lab):
    controller = await lab.controller()
    _, second = await two_in_sync(lab)
    before = controller.manager.machine.snapshot()
    await controller.stop()

    lab.controllers.clear()
    await asyncio.sleep(0.1)  # The brokers' connections notice.
    again = await lab.controller(controller_port=controller.port)
    assert again.manager.machine.snapshot() == before

    # The replica is heard first, and wants a master.
    await second.heartbeat()
    assert (await second.register()).ext_fields["masterBrokerId"] == "1"
    assert (await second.elect()).code == ResponseCode.CONTROLLER_MASTER_STILL_EXIST
    async with asyncio.TaskGroup() as tasks:
        alive = tasks.create_task(keep_alive(second, 60))
        await asyncio.sleep(9)
        assert lab.group.master == 1, "the master had no time to be heard"
        # It is really gone, and that shows in time.
        await eventually(lambda: lab.group.master == 2, 15)
        alive.cancel()


@in_lab
async def test_an_operator_moves_the_master_and_both_are_told(lab):
    await lab.controller()
    first, second = await two_in_sync(lab)
    answer = await second.elect(designate=True)
    assert (answer.code, answer.ext_fields["masterBrokerId"], answer.ext_fields["masterEpoch"]) == (0, "2", "2")
    for broker in (first, second):
        await eventually(lambda broker=broker: broker.notices)
        assert broker.notices[-1][0].master_epoch == 2


@in_lab
async def test_no_notice_is_sent_if_that_is_switched_off(lab):
    await lab.controller(notify_broker_role_changed=False)
    first, second = await two_in_sync(lab)
    assert (await second.elect(designate=True)).code == 0
    await asyncio.sleep(5)
    assert first.notices == second.notices == []


@in_lab
async def test_bad_requests_are_refused_and_change_nothing(lab):
    controller = await lab.controller()
    first, _ = await two_in_sync(lab)
    before = controller.manager.machine.snapshot()
    for code, fields, body in (
        (RequestCode.CONTROLLER_ALTER_SYNC_STATE_SET, {}, b"{}"),
        (
            RequestCode.CONTROLLER_ALTER_SYNC_STATE_SET,
            {"brokerName": GROUP, "masterBrokerId": "1", "masterEpoch": "1"},
            b"[]",
        ),
        (RequestCode.CONTROLLER_ELECT_MASTER, {"brokerName": GROUP, "brokerId": "one"}, b""),
        (RequestCode.CONTROLLER_GET_SYNC_STATE_DATA, {}, b""),
        (RequestCode.CONTROLLER_GET_SYNC_STATE_DATA, {}, b"\xff[1"),
        (RequestCode.CONTROLLER_APPLY_BROKER_ID, {"brokerName": GROUP}, b""),
        (RequestCode.CLEAN_BROKER_DATA, {"brokerName": "unknown"}, b""),
        (RequestCode.BROKER_HEARTBEAT, {"brokerName": GROUP, "clusterName": "c", "brokerAddr": "a"}, b""),
        (RequestCode.UPDATE_CONTROLLER_CONFIG, {}, b"controllerStorePath=/tmp/elsewhere"),
        (RequestCode.UPDATE_CONTROLLER_CONFIG, {}, b"configStorePath=/tmp/elsewhere"),
        (RequestCode.UPDATE_CONTROLLER_CONFIG, {}, b"enableElectUncleanMaster=perhaps"),
    ):
        command = RemotingCommand.create_request(code, fields, body)
        answer = await first.client.request(controller.address, command, 3)
        assert answer.code != 0 and answer.remark, (code, answer)
    assert controller.manager.machine.snapshot() == before
    assert (await first.heartbeat()).code == 0


# --- three of them ---------------------------------------------------------------------------------------------------

PORTS = (29_878, 29_868, 29_858)
PEERS = ";".join(f"n{number}-127.0.0.1:{port}" for number, port in enumerate(PORTS))


async def start_one(lab: ControllerLab, number: int, **settings) -> Controller:
    """Start one of three."""
    return await lab.controller(controller_d_leger_peers=PEERS, controller_d_leger_self_id=f"n{number}", **settings)


async def leader_of(controllers: list[Controller], seconds: float = 5.0) -> Controller:
    """Wait for the one leader."""
    return await eventually(lambda: next((c for c in controllers if c.consensus.is_leader), None), seconds)


async def three(lab: ControllerLab) -> tuple[list[Controller], Controller]:
    """Start three controllers, and put the leader first in the lab."""
    controllers = [await start_one(lab, number) for number in range(3)]
    leader = await leader_of(controllers)
    lab.controllers.remove(leader)
    lab.controllers.insert(0, leader)
    return controllers, leader


async def heard_by_all(controllers: list[Controller], *brokers: LabBroker) -> None:
    """Send one heartbeat of each broker to each controller, as brokers do every second."""
    for controller in controllers:
        for broker in brokers:
            await broker.heartbeat(at=controller)


@in_lab
async def test_of_three_controllers_one_decides_and_the_others_say_who_it_is(lab):
    controllers, leader = await three(lab)
    first, second = await two_in_sync(lab)
    for controller in controllers:
        metadata = await first.client.request(
            controller.address, RemotingCommand.create_request(RequestCode.CONTROLLER_GET_METADATA_INFO), 3
        )
        assert metadata.ext_fields["controllerLeaderAddress"] == leader.address
        assert metadata.ext_fields["isLeader"] == str(controller is leader).lower()
        assert metadata.ext_fields["peers"] == "".join(f"n{n}:127.0.0.1:{port};" for n, port in enumerate(PORTS))
        if controller is not leader:
            for refused in (await second.register(at=controller), await second.elect(at=controller)):
                assert refused.code == ResponseCode.CONTROLLER_NOT_LEADER
                assert refused.remark == "The controller is not in leader state"
            assert (await second.heartbeat(at=controller)).ext_fields["isLeader"] == "false"
    await eventually(lambda: len({c.manager.machine.snapshot() for c in controllers}) == 1)


@in_lab
@pytest.mark.claim("ha-03")
async def test_a_lost_leader_of_the_controllers_is_replaced_within_five_seconds_and_knows_everything(lab):
    """Claim: with three controllers, the loss of one delays elections of masters, and loses none.

    Experiment: three controllers, a master and a replica in sync; the leading controller ends, and a second later the
    master.
    Observe: within 5 s another controller leads, with the same groups; it makes the replica the master of epoch 2.
    """
    controllers, leader = await three(lab)
    first, second = await two_in_sync(lab)
    await heard_by_all(controllers, first, second)
    before = leader.manager.machine.snapshot()

    began = asyncio.get_running_loop().time()
    await leader.stop()
    others = [controller for controller in controllers if controller is not leader]
    lab.controllers.remove(leader)
    new = await leader_of(others)
    print(f"a new leader after {asyncio.get_running_loop().time() - began:.2f} s")
    assert new.manager.machine.snapshot() == before

    await first.stop()
    lab.controllers = [new]
    await eventually(lambda: lab.group.master == 2, 1)
    assert lab.group.master_epoch == 2
    await eventually(lambda: second.notices and second.notices[-1][0].master_broker_id == 2)


@in_lab
async def test_without_more_than_half_of_them_nothing_is_decided_and_nothing_is_confirmed(lab):
    controllers, leader = await three(lab)
    first, second = await two_in_sync(lab)
    for controller in controllers:
        if controller is not leader:
            await controller.stop()

    answer = await first.alter([1], set_epoch=2)
    assert answer.code in (ResponseCode.CONTROLLER_NOT_LEADER, ResponseCode.SYSTEM_ERROR), answer
    await eventually(lambda: not leader.consensus.is_leader, 5)
    assert lab.group.sync_state_set == [1, 2], "what was not confirmed by two of three must not count"
    assert (await second.elect()).code == ResponseCode.CONTROLLER_NOT_LEADER


@in_lab
async def test_a_controller_that_was_away_catches_up(lab):
    controllers, leader = await three(lab)
    away = next(controller for controller in controllers if controller is not leader)
    number = controllers.index(away)
    await away.stop()
    lab.controllers.remove(away)
    await two_in_sync(lab)

    back = await start_one(lab, number)
    await eventually(lambda: back.manager.machine.snapshot() == leader.manager.machine.snapshot())
    assert leader.consensus.is_leader, "its return must not cost the leader its office"


@in_lab
async def test_a_stranger_cannot_speak_as_a_controller(lab):
    from rocketmq_py.controller.raft.messages import RAFT_MESSAGE, Envelope, Vote, encode

    _, leader = await three(lab)
    first, _ = await two_in_sync(lab)
    target = leader.consensus
    for group, sender, receiver in (
        ("another", "n1", leader.config.controller_d_leger_self_id),
        ("DefaultControllerGroup", "n7", leader.config.controller_d_leger_self_id),
        ("DefaultControllerGroup", "n1", "n7"),
    ):
        body = encode(Envelope(group, sender, receiver, Vote(99, 99, 99, False)))
        await first.client.one_way(leader.address, RemotingCommand.create_request(RAFT_MESSAGE, body=body))
    await first.client.one_way(leader.address, RemotingCommand.create_request(RAFT_MESSAGE, body=b"\xc1\xc1"))
    await asyncio.sleep(0.1)
    assert leader.consensus.is_leader
    assert target.core.term < 99


async def test_after_a_power_cut_of_all_three_everything_that_was_confirmed_is_there(tmp_path):
    disks = [SimulatedFileSystem() for _ in range(3)]
    async with controller_lab_in(tmp_path, simulated_environment()) as lab:

        async def start_all() -> list[Controller]:
            started = []
            for number, disk in enumerate(disks):
                lab.environment = simulated_environment(number, disk)
                started.append(await start_one(lab, number, controller_store_path="/store"))
            return started

        controllers = await start_all()
        leader = await leader_of(controllers)
        lab.controllers = [leader]
        await two_in_sync(lab)
        confirmed = leader.manager.machine.snapshot()
        # The power goes while everything runs; what the dead processes still do goes nowhere.
        for number, disk in enumerate(disks):
            disk.crash(random.Random(number))
        for controller in controllers:
            with contextlib.suppress(OSError):
                await controller.stop()

        lab.controllers.clear()
        again = await leader_of(await start_all())
        assert again.manager.machine.snapshot() == confirmed


async def test_whenever_the_power_of_one_after_the_other_goes_no_confirmed_change_is_lost(tmp_path):
    """Power cuts of single controllers at odd moments, with a small journal that is replaced by snapshots meanwhile."""
    disks = [SimulatedFileSystem() for _ in range(3)]
    async with controller_lab_in(tmp_path, simulated_environment()) as lab:
        running: list[Controller] = []
        for number, disk in enumerate(disks):
            lab.environment = simulated_environment(number, disk)
            running.append(await start_one(lab, number, controller_store_path="/store"))
        rng = random.Random(7)
        broker = await lab.broker(21_001)
        confirmed = 0
        for round_number in range(12):
            for controller in running:
                controller.consensus._compact_size = 2_000
            leader = await leader_of(running, 10)
            if not broker.broker_id:
                await broker.join(at=leader)
            for step in range(rng.randint(1, 12)):
                broker.address = f"10.0.{round_number}.{step}:10911"
                answer = await broker.register(at=leader)
                assert answer.code == 0, answer
                confirmed += 1
            # In the middle of one more change, so that disk and network are at work.
            broker_address, broker.address = broker.address, "10.9.9.9:1"
            under_way = asyncio.get_running_loop().create_task(broker.register(at=leader))
            await asyncio.sleep(rng.choice([0, 0.0001, 0.0002, 0.0004, 0.001]))
            victim = rng.randrange(3)
            disks[victim].crash(rng)
            with contextlib.suppress(OSError):
                await running[victim].stop()
            await asyncio.gather(under_way, return_exceptions=True)
            broker.address = broker_address
            await asyncio.sleep(rng.choice([0, 0.5, 3]))
            lab.environment = simulated_environment(100 + round_number, disks[victim])
            running[victim] = await start_one(lab, victim, controller_store_path="/store")

            leader = await leader_of(running, 10)
            group = leader.manager.machine.state.find(GROUP)
            assert group is not None
            assert group.address_of(1) in (broker.address, "10.9.9.9:1"), f"round {round_number}: a change was lost"
        await eventually(lambda: len({c.manager.machine.snapshot() for c in running}) == 1)
        assert confirmed > 40
        assert any(disk.exists(f"/store/controller-n{n}/snapshot") for n, disk in enumerate(disks))


class _Disk:
    """What the journal of one controller says, read back from its file."""

    def __init__(self, disk: SimulatedFileSystem, number: int) -> None:
        self._disk = disk
        self._folder = f"/store/controller-n{number}"

    def read(self) -> tuple[int, str | None, int]:
        """Return the term, the vote and the last entry's index."""
        term, voted_for, last = 0, None, 0
        if self._disk.exists(f"{self._folder}/snapshot"):
            [payload] = split_frames(self._disk.read_file(f"{self._folder}/snapshot"), "snapshot")[0]
            last = msgspec.msgpack.decode(payload, type=SnapshotKept).index
        for payload in split_frames(self._disk.read_file(f"{self._folder}/journal"), "journal")[0]:
            for record in decode_records(payload):
                if isinstance(record, VoteKept):
                    term, voted_for = record.term, record.voted_for
                else:
                    last = record.first + len(record.entries) - 1
        return term, voted_for, last


async def test_nothing_is_said_before_it_is_on_disk_and_a_new_leader_has_applied_everything(tmp_path, monkeypatch):
    """Every vote and every confirmation is compared with the sender's file in the moment when it is said."""
    disks = [SimulatedFileSystem() for _ in range(3)]
    said = Counter()
    put = Outbox.put

    def look_and_put(outbox: Outbox, body: bytes) -> None:
        envelope = decode(body)
        term, voted_for, last = _Disk(disks[int(envelope.sender[1])], int(envelope.sender[1])).read()
        message = envelope.message
        if isinstance(message, VoteAnswer) and message.is_granted and not message.is_trial:
            assert (term, voted_for) == (message.term, envelope.receiver), "a vote was told before it was kept"
            said["votes"] += 1
        if isinstance(message, Vote) and not message.is_trial:
            assert (term, voted_for) == (message.term, envelope.sender), "its own vote was not kept"
        if isinstance(message, AppendAnswer) and message.is_accepted:
            assert message.index <= last and term >= message.term, "entries were confirmed before they were kept"
            said["confirmations"] += 1
        put(outbox, body)

    monkeypatch.setattr(Outbox, "put", look_and_put)
    async with controller_lab_in(tmp_path, simulated_environment()) as lab:
        running = []
        for number, disk in enumerate(disks):
            lab.environment = simulated_environment(number, disk)
            controller = await start_one(lab, number, controller_store_path="/store")
            controller.consensus.on_leadership.append(
                lambda is_leader, consensus=controller.consensus: said.update(
                    ["too early" if is_leader and consensus._applied < consensus.core.term_start else "in time"]
                )
            )
            running.append(controller)
        leader = await leader_of(running)
        lab.controllers = [leader]
        away = next(controller for controller in running if controller is not leader)
        number = running.index(away)
        await away.stop()
        await two_in_sync(lab)
        leader.consensus._compact_size = 1
        broker = await lab.broker(21_003)
        await broker.join()
        assert disks[running.index(leader)].exists(f"/store/controller-n{running.index(leader)}/snapshot")

        lab.environment = simulated_environment(9, disks[number])
        back = await start_one(lab, number, controller_store_path="/store")
        await eventually(lambda: back.manager.machine.snapshot() == leader.manager.machine.snapshot())
        assert _Disk(disks[number], number).read()[0] == leader.consensus.core.term, (
            "the term went with the old journal"
        )

        running[number] = back
        lab.controllers = [await _without(leader, running)]
        assert (await broker.register()).code == 0
    assert said["votes"] >= 2 and said["confirmations"] > 10 and not said["too early"], said


async def _without(leader: Controller, running: list[Controller]) -> Controller:
    """Stop the leader, and return the next one."""
    await leader.stop()
    return await leader_of([controller for controller in running if controller is not leader])
