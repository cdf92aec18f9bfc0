"""What a controller answers when the agreement of the group fails it: a simulated group decides what becomes of commands."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from rocketmq_py.common.config import to_properties
from rocketmq_py.common.errors import ConfigError
from rocketmq_py.controller.config import ControllerConfig, parse_peers
from rocketmq_py.controller.consensus import NotLeaderError
from rocketmq_py.controller.manager import GroupsMachine
from rocketmq_py.controller.server import Controller
from rocketmq_py.remoting.codes import ResponseCode
from rocketmq_py.sim.consensus import Fate, SimulatedGroup

from .controller_lab import GROUP, ControllerLab, in_lab

pytestmark = [pytest.mark.virtual_time]


async def two_controllers(lab: ControllerLab) -> tuple[SimulatedGroup, list[Controller]]:
    """Two controllers in a simulated group; the first leads."""
    group = SimulatedGroup(NotLeaderError)
    controllers = []
    for own_id in ("n0", "n1"):
        config = ControllerConfig(
            controller_port=0, controller_store_path=str(lab.folder / own_id), controller_d_leger_self_id=own_id
        )
        controller = Controller(
            config, lab.environment, make_consensus=lambda machine, own_id=own_id: group.member(own_id, machine)
        )
        await controller.start()
        lab.defer(controller.stop)
        controllers.append(controller)
    lab.controllers = controllers
    group.elect("n0")
    return group, controllers


@in_lab
async def test_a_lost_command_is_not_confirmed_and_may_be_asked_for_again(lab):
    group, _ = await two_controllers(lab)
    broker = await lab.broker(22_001)
    await broker.join()
    group.fates.append(Fate.LOST)
    refused = await broker.elect()
    assert refused.code == ResponseCode.CONTROLLER_NOT_LEADER
    assert lab.group.master is None and broker.notices == []
    assert (await broker.elect()).code == 0
    assert lab.group.master == 1


@in_lab
async def test_a_command_whose_answer_was_lost_is_kept_and_asking_again_finds_it(lab):
    group, _ = await two_controllers(lab)
    broker = await lab.broker(22_001)
    group.fates.append(Fate.DOUBTFUL)
    with pytest.raises(AssertionError, match="leads|leader"):
        await broker.join()
    # The id was taken although the broker was told otherwise; with the same check code it is given once more.
    broker.broker_id = 0
    applied = await broker.apply_id(1)
    assert applied.code == 0
    group.fates.append(Fate.DOUBTFUL)
    broker.broker_id = 1
    assert (await broker.register()).code == 0
    assert (await broker.elect()).code == ResponseCode.CONTROLLER_NOT_LEADER
    again = await broker.elect()
    assert (again.code, again.ext_fields["masterBrokerId"]) == (ResponseCode.CONTROLLER_MASTER_STILL_EXIST, "1")
    assert lab.group.master_epoch == 1, "the same election counted twice"


@in_lab
async def test_decisions_wait_for_one_another_so_that_no_two_rest_on_one_state(lab):
    group, _ = await two_controllers(lab)
    group.seconds = 0.5
    brokers = [await lab.broker(22_001 + number) for number in range(3)]
    for broker in brokers:
        await broker.join()
    answers = await asyncio.gather(*(broker.elect() for broker in brokers))
    assert sorted(answer.code for answer in answers) == [0, 2011, 2011], "several masters were elected at once"
    assert lab.group.master_epoch == 1


@in_lab
async def test_both_controllers_hold_the_same_and_the_next_leader_goes_on(lab):
    group, controllers = await two_controllers(lab)
    broker = await lab.broker(22_001)
    await broker.join()
    assert (await broker.elect()).code == 0
    group.elect("n1")
    assert (await broker.elect()).code == ResponseCode.CONTROLLER_NOT_LEADER
    await broker.heartbeat(at=controllers[1])
    assert (await broker.elect(at=controllers[1])).code == ResponseCode.CONTROLLER_MASTER_STILL_EXIST
    assert controllers[0].manager.machine.snapshot() == controllers[1].manager.machine.snapshot()
    group.elect(None)
    assert (await broker.elect(at=controllers[1])).code == ResponseCode.CONTROLLER_NOT_LEADER


def test_a_command_of_several_events_applies_those_that_fit():
    machine = GroupsMachine()
    assert machine.apply(b"[]") is True
    with pytest.raises(ValueError):
        machine.apply(b'[{"type":"Unknown"}]')
    assert machine.state.find(GROUP) is None


@pytest.mark.parametrize(
    ("peers", "own_id", "problem"),
    [
        ("n0-127.0.0.1:9878;n1", "n0", "not ID-HOST:PORT"),
        ("n0-127.0.0.1:99999", "n0", "65535"),
        ("n0-127.0.0.1:1;n0-127.0.0.1:2", "n0", "twice"),
        ("n0-127.0.0.1:9878", "n1", "has only n0"),
        ("", "../etc", "letters and digits"),
    ],
)
def test_a_list_of_controllers_that_cannot_be_is_refused_with_the_reason(peers, own_id, problem):
    with pytest.raises(ConfigError, match=problem):
        parse_peers(peers, own_id)
    assert parse_peers("n0-localhost:9878; n1-[::1]:9868;", "n1") == {"n0": "localhost:9878", "n1": "[::1]:9868"}


#: Settings whose default is not RocketMQ's, or that RocketMQ's controller does not have, and why.
OUR_DEFAULTS = {
    "bindAddress": "closed by default",
    "controllerPort": "RocketMQ takes the port from the list of peers only",
    "controllerDLegerGroup": "RocketMQ has none, and does not start without",
    "controllerDLegerPeers": "empty, which is a controller alone; RocketMQ has none",
    "controllerDLegerSelfId": "RocketMQ has none",
    "configStorePath": "RocketMQ derives it from the home folder",
}


def test_names_and_defaults_of_the_settings_are_those_of_rocketmq():
    known = json.loads(Path("labs/data/defaults.json").read_text("utf-8"))["classes"]["ControllerConfig"]
    ours = to_properties(ControllerConfig())
    for key, value in ours.items():
        if key.startswith("tls.") or key in OUR_DEFAULTS:
            continue
        assert key in known, f"{key} is no setting of RocketMQ's controller"
        default = known[key]["default"]
        assert value == (str(default).lower() if isinstance(default, bool) else str(default)), key
