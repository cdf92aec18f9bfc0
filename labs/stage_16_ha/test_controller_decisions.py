"""Who is master: the decisions of a controller, with no network, no clock and no file."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from rocketmq_py.controller.broker_group import BrokerGroups, MasterElected, SyncStateSetAltered
from rocketmq_py.controller.elect_policy import BrokerProgress, choose
from rocketmq_py.controller.replicas_info import ControllerResult, ReplicasInfoManager
from rocketmq_py.remoting.bodies.controller import ElectMasterResponseBody, SyncStateSet
from rocketmq_py.remoting.codes import ResponseCode
from rocketmq_py.remoting.headers import controller as headers

from .controller_lab import CLUSTER, GROUP, Living


class Desk:
    """Decides and applies at once, as a controller without others does."""

    def __init__(self, replicas: int = 0, *, is_unclean: bool = False) -> None:
        self.state = BrokerGroups()
        self.living = Living()
        self.is_unclean = is_unclean
        self.replicas = ReplicasInfoManager(self.state, self.living, lambda: self.is_unclean)
        for broker_id in range(1, replicas + 1):
            assert self.apply_id(broker_id).code == 0
            self.living.active.add(broker_id)

    @property
    def group(self):
        group = self.state.find(GROUP)
        assert group is not None
        return group

    def take(self, result: ControllerResult) -> ControllerResult:
        for event in result.events:
            assert self.state.apply(event), f"{event} does not fit {self.state}"
        return result

    def apply_id(self, broker_id: int, code: str | None = None) -> ControllerResult:
        code = code or f"10.0.0.{broker_id}:10911;{broker_id}"
        request = headers.ApplyBrokerIdRequestHeader(
            cluster_name=CLUSTER, broker_name=GROUP, applied_broker_id=broker_id, register_check_code=code
        )
        return self.take(self.replicas.apply_broker_id(request))

    def next_id(self) -> int:
        request = headers.GetNextBrokerIdRequestHeader(cluster_name=CLUSTER, broker_name=GROUP)
        return self.replicas.get_next_broker_id(request).header.next_broker_id

    def register(self, broker_id: int, address: str | None = None) -> ControllerResult:
        request = headers.RegisterBrokerToControllerRequestHeader(
            cluster_name=CLUSTER,
            broker_name=GROUP,
            broker_id=broker_id,
            broker_address=address or f"10.0.0.{broker_id}:10911",
        )
        return self.take(self.replicas.register_broker(request))

    def elect(self, broker_id: int | None = -1, *, designate: bool = False) -> ControllerResult:
        request = headers.ElectMasterRequestHeader(broker_name=GROUP, broker_id=broker_id, designate_elect=designate)
        return self.take(self.replicas.elect_master(request))

    def alter(
        self, members: list[int], *, master: int | None = None, epoch: int | None = None, set_epoch: int | None = None
    ) -> ControllerResult:
        group = self.state.find(GROUP)
        known = (group.master, group.master_epoch, group.sync_state_set_epoch) if group else (1, 1, 1)
        request = headers.AlterSyncStateSetRequestHeader(
            broker_name=GROUP,
            master_broker_id=(known[0] or 0) if master is None else master,
            master_epoch=known[1] if epoch is None else epoch,
        )
        wanted = SyncStateSet(sync_state_set=members, sync_state_set_epoch=known[2] if set_epoch is None else set_epoch)
        return self.take(self.replicas.alter_sync_state_set(request, wanted))

    def clean(self, ids: str | None = None, *, living: bool = False) -> ControllerResult:
        request = headers.CleanControllerBrokerDataRequestHeader(
            cluster_name=CLUSTER,
            broker_name=GROUP,
            broker_controller_ids_to_clean=ids,
            is_clean_living_broker=living,
        )
        return self.take(self.replicas.clean_broker_data(request))


def in_sync(*members: int, replicas: int = 3, is_unclean: bool = False) -> Desk:
    """A group whose master is the first of `members`, all of them in sync."""
    desk = Desk(replicas, is_unclean=is_unclean)
    assert desk.elect(members[0]).code == 0
    if len(members) > 1:
        assert desk.alter(list(members)).code == 0
    return desk


# --- ids -------------------------------------------------------------------------------------------------------------


def test_ids_count_from_one_and_belong_to_whoever_shows_the_same_check_code():
    desk = Desk()
    assert desk.next_id() == 1
    assert desk.apply_id(2).code == ResponseCode.CONTROLLER_BROKER_ID_INVALID
    assert desk.apply_id(1, "a:1;5").code == 0
    assert desk.next_id() == 2
    assert desk.apply_id(1, "a:1;5").code == 0, "the broker that asks again, after it lost the answer, has its id"
    assert desk.apply_id(1, "b:1;6").code == ResponseCode.CONTROLLER_BROKER_ID_INVALID
    assert desk.apply_id(-1, "b:1;6").code == ResponseCode.CONTROLLER_BROKER_ID_INVALID
    assert desk.apply_id(2, "b:1;6").code == 0
    assert desk.group.replicas[2].address == "b:1"


def test_an_id_is_never_offered_twice_even_if_one_was_taken_out_of_turn():
    desk = Desk(1)
    assert desk.apply_id(7).code == 0
    assert desk.next_id() == 8


def test_registering_needs_an_id_and_tells_the_living_master_only():
    desk = Desk()
    assert desk.register(1).code == ResponseCode.CONTROLLER_BROKER_NEED_TO_BE_REGISTERED
    desk = in_sync(1, 2)
    assert desk.register(9).code == ResponseCode.CONTROLLER_BROKER_NEED_TO_BE_REGISTERED

    known = desk.register(2, "10.9.9.9:1")
    assert (known.header.master_broker_id, known.header.master_address) == (1, "10.0.0.1:10911")
    assert (known.header.master_epoch, known.header.sync_state_set_epoch) == (1, 2)
    assert known.body == SyncStateSet(sync_state_set=[1, 2], sync_state_set_epoch=2)
    assert desk.group.replicas[2].address == "10.9.9.9:1", "a broker that moved is found at its new address"

    desk.living.active = {2}
    gone = desk.register(2, "10.9.9.9:1")
    assert gone.header.master_broker_id is None and gone.header.master_epoch is None
    assert gone.body.sync_state_set == [1, 2]


# --- the sync state set ----------------------------------------------------------------------------------------------


def test_a_change_of_the_set_is_refused_for_the_first_of_seven_reasons_that_holds():
    assert Desk().alter([1]).code == ResponseCode.CONTROLLER_ALTER_SYNC_STATE_SET_FAILED
    desk = in_sync(1, 2)
    desk.living.active = {1, 2}
    # Each request has the fault under test and every later fault as well.
    cases = [
        ({"members": [2, 1], "master": 9, "epoch": 9, "set_epoch": 9}, ResponseCode.CONTROLLER_ALTER_SYNC_STATE_SET_FAILED),
        ({"members": [9], "master": 2, "epoch": 9, "set_epoch": 9}, ResponseCode.CONTROLLER_INVALID_MASTER),
        ({"members": [9], "epoch": 9, "set_epoch": 9}, ResponseCode.CONTROLLER_FENCED_MASTER_EPOCH),
        ({"members": [9], "set_epoch": 1}, ResponseCode.CONTROLLER_FENCED_SYNC_STATE_SET_EPOCH),
        ({"members": [9]}, ResponseCode.CONTROLLER_INVALID_REPLICAS),
        ({"members": [3]}, ResponseCode.CONTROLLER_BROKER_NOT_ALIVE),
        ({"members": [2]}, ResponseCode.CONTROLLER_ALTER_SYNC_STATE_SET_FAILED),
    ]  # fmt: skip
    for request, code in cases:
        before = desk.state.encode()
        assert desk.alter(**request).code == code, request
        assert desk.state.encode() == before, f"{request} was refused and changed something"


def test_an_accepted_change_counts_the_set_and_not_the_master():
    desk = in_sync(1, 2)
    result = desk.alter([1, 2, 3])
    assert result.header.new_sync_state_set_epoch == 3
    assert result.body == SyncStateSet(sync_state_set=[1, 2, 3], sync_state_set_epoch=3)
    assert (desk.group.master_epoch, desk.group.sync_state_set_epoch) == (1, 3)


# --- elections -------------------------------------------------------------------------------------------------------


def test_in_a_group_without_data_the_first_to_ask_is_master():
    desk = Desk(3)
    result = desk.elect(2)
    assert (result.code, result.header.master_broker_id, result.header.master_epoch) == (0, 2, 1)
    assert result.body.broker_member_group.broker_addrs == {i: f"10.0.0.{i}:10911" for i in (1, 2, 3)}
    assert desk.elect(1).code == ResponseCode.CONTROLLER_MASTER_STILL_EXIST


def test_a_broker_without_an_id_is_not_elected():
    desk = Desk(1)
    assert desk.elect(5).code == ResponseCode.CONTROLLER_BROKER_NEED_TO_BE_REGISTERED
    assert Desk().elect(1).code == ResponseCode.CONTROLLER_BROKER_NEED_TO_BE_REGISTERED


@pytest.mark.claim("ha-03")
def test_when_the_master_is_gone_only_a_living_member_of_the_set_takes_its_place():
    """Claim: in controller mode another replica takes over, and never one that lacks an acknowledged message.

    Experiment: replicas 1 and 2 are in sync, 3 is far ahead by its own words but not in sync; the master 1 dies.
    Observe: 2 is elected. When 2 dies as well, nobody is, however alive 3 is; the group waits.
    """
    desk = in_sync(1, 2)
    desk.living.told = {3: BrokerProgress(epoch=9, max_offset=9_999)}
    desk.living.active = {2, 3}
    result = desk.elect()
    assert (result.header.master_broker_id, result.header.master_epoch) == (2, 2)
    assert (desk.group.sync_state_set, desk.group.sync_state_set_epoch) == ([2], 3)

    desk.living.active = {3}
    assert desk.elect(3).code == ResponseCode.CONTROLLER_ELECT_MASTER_FAILED
    assert desk.group.master == 2, "a broker's vain wish changes nothing"
    assert desk.elect().code == ResponseCode.CONTROLLER_MASTER_NOT_AVAILABLE
    assert (desk.group.master, desk.group.master_epoch) == (None, 3), "the old master must be fenced"
    assert desk.group.sync_state_set == [2], "who has everything must not be forgotten: it is to be master again"

    desk.living.active = {2, 3}
    assert desk.elect(3).header.master_broker_id == 2
    assert desk.group.master_epoch == 4


@pytest.mark.claim("ha-03")
def test_an_unclean_election_takes_any_living_replica_and_prefers_the_set():
    desk = in_sync(1, 2, is_unclean=True)
    desk.living.active = {2, 3}
    assert desk.elect().header.master_broker_id == 2
    desk.living.active = {3}
    assert desk.elect().header.master_broker_id == 3


def test_among_the_living_the_order_is_epoch_then_log_then_priority_then_id():
    def chosen(**told: BrokerProgress) -> int:
        desk = in_sync(1, 2, 3, 4, replicas=4)
        desk.living.active = {2, 3, 4}
        desk.living.told = {int(name[1:]): said for name, said in told.items()}
        return desk.elect().header.master_broker_id

    assert chosen(b2=BrokerProgress(1, 900, 1), b3=BrokerProgress(2, 100, 9), b4=BrokerProgress(1, 950, 0)) == 3
    assert chosen(b2=BrokerProgress(1, 900, 1), b3=BrokerProgress(1, 901, 9), b4=BrokerProgress(1, 1, 0)) == 3
    assert chosen(b2=BrokerProgress(1, 900, 7), b3=BrokerProgress(1, 900, 8), b4=BrokerProgress(1, 900, 6)) == 4
    assert chosen() == 2


def test_the_old_master_stays_if_it_may_and_nobody_else_is_named():
    progress = {1: BrokerProgress(1, 1), 2: BrokerProgress(2, 2)}
    assert choose([[1, 2]], [1, 2], progress, old_master=1, designated=None) == 1
    assert choose([[1, 2]], [1, 2], progress, old_master=1, designated=1) == 1
    assert choose([[1, 2]], [1, 2], progress, old_master=1, designated=2) == 2
    assert choose([[1, 2]], [2], progress, old_master=1, designated=None) == 2
    assert choose([[1], [1, 2]], [2], progress, old_master=1, designated=None) == 2
    assert choose([[1]], [2], progress, old_master=1, designated=None) is None


def test_an_operator_names_a_replica_in_sync_or_gets_nothing():
    desk = in_sync(1, 2)
    assert desk.elect(3, designate=True).code == ResponseCode.CONTROLLER_ELECT_MASTER_FAILED
    assert desk.elect(1, designate=True).code == ResponseCode.CONTROLLER_MASTER_STILL_EXIST
    result = desk.elect(2, designate=True)
    assert (result.code, result.header.master_broker_id, result.header.master_epoch) == (0, 2, 2)
    assert desk.alter([1, 2], master=1, epoch=1).code == ResponseCode.CONTROLLER_INVALID_MASTER


def test_a_master_that_had_no_time_to_be_heard_is_not_deposed():
    desk = in_sync(1, 2)
    desk.living.active, desk.living.unheard = {2}, {1}
    result = desk.elect(2)
    assert result.code == ResponseCode.CONTROLLER_MASTER_STILL_EXIST
    assert result.header.master_broker_id == 1
    assert result.body == ElectMasterResponseBody(sync_state_set=[1, 2])
    assert desk.register(2).header.master_broker_id == 1
    assert desk.replicas.groups_without_living_master() == []
    desk.living.unheard = set()
    assert desk.replicas.groups_without_living_master() == [GROUP]


# --- questions and operators -----------------------------------------------------------------------------------------


def test_a_group_is_described_with_who_lives_and_who_is_in_sync():
    desk = in_sync(1, 2)
    desk.living.active = {1, 3}
    table = desk.replicas.get_sync_state_data([GROUP, "unknown"]).body.replicas_info_table
    info = table.pop(GROUP)
    assert table == {}
    assert [(r.broker_id, r.alive) for r in info.in_sync_replicas] == [(1, True), (2, False)]
    assert [(r.broker_id, r.alive) for r in info.not_in_sync_replicas] == [(3, True)]
    assert (info.master_broker_id, info.master_address) == (1, "10.0.0.1:10911")
    unknown = desk.replicas.get_replica_info(headers.GetReplicaInfoRequestHeader(broker_name="unknown"))
    assert unknown.code == ResponseCode.CONTROLLER_BROKER_METADATA_NOT_EXIST


def test_the_living_are_only_forgotten_on_demand():
    refused = ResponseCode.CONTROLLER_INVALID_CLEAN_BROKER_METADATA
    desk = in_sync(1, 2)
    desk.living.active = {1, 2}
    for ids in (None, "", "2", "3;2", "3;x", "1.5", ";"):
        assert desk.clean(ids).code == refused, ids
    assert desk.clean("3").code == 0
    assert sorted(desk.group.replicas) == [1, 2]
    assert desk.clean("2", living=True).code == 0
    assert (sorted(desk.group.replicas), desk.group.sync_state_set) == ([1], [1])
    assert desk.clean(living=True).code == 0
    assert desk.state.find(GROUP) is None
    assert desk.clean().code == refused


def test_a_group_that_was_forgotten_begins_again_behind_its_old_epochs():
    desk = in_sync(1, 2)
    epochs = (desk.group.master_epoch, desk.group.sync_state_set_epoch)
    assert desk.clean(living=True).code == 0
    assert desk.apply_id(1).code == 0
    assert (desk.group.master_epoch, desk.group.sync_state_set_epoch) == epochs
    assert desk.elect(1).header.master_epoch == epochs[0] + 1


def test_events_that_come_too_late_change_nothing():
    desk = in_sync(1, 2)
    before = desk.state.encode()
    for event in (
        MasterElected(GROUP, 2, 1),
        MasterElected(GROUP, 2, 3),
        MasterElected(GROUP, 9, 2),
        MasterElected("unknown", 1, 1),
        SyncStateSetAltered(GROUP, (1, 3), 1, 2),
        SyncStateSetAltered(GROUP, (1, 3), 2, 3),
        SyncStateSetAltered(GROUP, (1, 9), 1, 3),
        SyncStateSetAltered(GROUP, (2,), 1, 3),
    ):
        assert not desk.state.apply(event), event
        assert desk.state.encode() == before


def test_a_stranger_cannot_fill_the_memory_of_the_controllers(monkeypatch):
    monkeypatch.setattr("rocketmq_py.controller.replicas_info.MAX_REPLICAS", 2)
    monkeypatch.setattr("rocketmq_py.controller.replicas_info.MAX_GROUPS", 1)
    desk = Desk(2)
    assert desk.apply_id(3).code == ResponseCode.CONTROLLER_INVALID_REQUEST
    assert desk.apply_id(2).code == 0, "who has an id keeps it"
    for name in ("another", "x" * 256, ""):
        request = headers.ApplyBrokerIdRequestHeader(
            cluster_name=CLUSTER, broker_name=name, applied_broker_id=1, register_check_code="a:1;1"
        )
        assert desk.replicas.apply_broker_id(request).code == ResponseCode.CONTROLLER_INVALID_REQUEST, name


# --- anything, in any order ------------------------------------------------------------------------------------------

IDS = st.integers(1, 5)
SETS = st.lists(st.integers(1, 5), min_size=1, max_size=4)


class AnyOrder(RuleBasedStateMachine):
    """Requests of any kind in any order, with brokers that come and go; and what must hold all the time."""

    def __init__(self) -> None:
        super().__init__()
        self.desk = Desk()
        self.copy = BrokerGroups()
        self.masters: dict[int, int] = {}
        self.epochs = (0, 0)
        self.next_id = 1

    def _see(self, result: ControllerResult) -> None:
        """Apply the events to a second controller too, after a trip through bytes."""
        for event in result.events:
            assert self.copy.apply(event)
        if result.code != 0:
            assert all(isinstance(event, MasterElected) and event.new_master is None for event in result.events)

    @rule(broker_id=st.integers(-1, 6))
    def apply_id(self, broker_id: int) -> None:
        self._see(self.desk.apply_id(broker_id))

    @rule(broker_id=IDS, address=st.sampled_from([None, "10.1.1.1:1"]))
    def register(self, broker_id: int, address: str | None) -> None:
        self._see(self.desk.register(broker_id, address))

    @rule(active=st.sets(IDS), unheard=st.sets(IDS))
    def come_and_go(self, active: set[int], unheard: set[int]) -> None:
        self.desk.living.active, self.desk.living.unheard = active, unheard

    @rule(broker_id=IDS, epoch=st.integers(0, 3), offset=st.integers(0, 3))
    def tell(self, broker_id: int, epoch: int, offset: int) -> None:
        self.desk.living.told[broker_id] = BrokerProgress(epoch, offset)

    @rule(members=SETS, stale=st.sampled_from([{}, {"epoch": 1}, {"set_epoch": 1}, {"master": 2}]))
    def alter(self, members: list[int], stale: dict[str, int]) -> None:
        self._see(self.desk.alter(members, **stale))

    @rule(broker_id=st.sampled_from([-1, None, 1, 2, 3, 4, 5]), designate=st.booleans(), is_unclean=st.booleans())
    def elect(self, broker_id: int | None, designate: bool, is_unclean: bool) -> None:
        self.desk.is_unclean = is_unclean
        group = self.desk.state.find(GROUP)
        before = None if group is None else (list(group.sync_state_set), group.never_had_data)
        result = self.desk.elect(broker_id, designate=designate)
        self._see(result)
        if result.code == 0:
            assert before is not None
            in_sync_before, never_had_data = before
            elected = self.desk.group.master
            assert is_unclean or never_had_data or elected in in_sync_before, "a clean election left the set"
            assert self.desk.group.master_epoch not in self.masters, "two masters were elected with one epoch"
            self.masters[self.desk.group.master_epoch] = elected

    @rule(ids=st.sampled_from([None, "1", "2;3", "4"]), living=st.booleans())
    def clean(self, ids: str | None, living: bool) -> None:
        self._see(self.desk.clean(ids, living=living))

    @rule()
    def restart_the_copy(self) -> None:
        data = self.copy.encode()
        self.copy = BrokerGroups()
        self.copy.decode(data)

    @invariant()
    def both_controllers_agree(self) -> None:
        assert self.copy.encode() == self.desk.state.encode()

    @invariant()
    def the_master_is_a_replica_in_sync(self) -> None:
        for group in self.desk.state.groups.values():
            assert set(group.sync_state_set) <= group.replicas.keys()
            assert group.master is None or group.master in group.sync_state_set
            assert group.master is None or self.masters.get(group.master_epoch) == group.master

    @invariant()
    def epochs_and_ids_only_grow(self) -> None:
        group = self.desk.state.find(GROUP)
        if group is not None:
            epochs = (group.master_epoch, group.sync_state_set_epoch)
            assert epochs[0] >= self.epochs[0] and epochs[1] >= self.epochs[1], (self.epochs, epochs)
            self.epochs = epochs
            assert max(group.replicas) < group.next_broker_id


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
