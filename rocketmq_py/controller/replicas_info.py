"""What a controller answers to brokers and operators, and which events follow from it.

Every method looks at the state, at who lives, and at the request; it changes nothing. What has to change is in the
events of the result: they are proposed to all controllers, and only when they are applied the answer is given.

Source: `ReplicasInfoManager`, RocketMQ 5.3: same checks, in the same order, with the same codes and remarks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.java import parse_i64
from rocketmq_py.controller.broker_group import (
    FIRST_BROKER_ID,
    BrokerAddressUpdated,
    BrokerDataCleaned,
    BrokerGroup,
    BrokerGroups,
    BrokerIdApplied,
    Event,
    MasterElected,
    SyncStateSetAltered,
)
from rocketmq_py.controller.elect_policy import Liveness, choose
from rocketmq_py.remoting.bodies.cluster import BrokerMemberGroup
from rocketmq_py.remoting.bodies.controller import (
    BrokerReplicasInfo,
    ElectMasterResponseBody,
    ReplicaIdentity,
    ReplicasInfo,
    SyncStateSet,
)
from rocketmq_py.remoting.codes import ResponseCode
from rocketmq_py.remoting.headers import controller as headers

#: Most groups and replicas of one group, longest name and address: a stranger must not fill the memory of all controllers.
MAX_GROUPS: Final = 10_000
MAX_REPLICAS: Final = 100
MAX_TEXT: Final = 255


@dataclass(slots=True)
class ControllerResult:
    """An answer, and what must be remembered before it is given.

    Attributes:
        header: a header struct; None for none.
        body: a body struct; None for none.
        events: what changes; the answer waits for it.
    """

    code: int = ResponseCode.SUCCESS
    remark: str | None = None
    header: msgspec.Struct | None = None
    body: msgspec.Struct | None = None
    events: list[Event] = field(default_factory=list)


def _refuse(code: int, remark: str, header: msgspec.Struct | None = None) -> ControllerResult:
    return ControllerResult(code, remark, header)


class ReplicasInfoManager:
    """Decides.

    Args:
        state: the groups as they are; never changed here.
        liveness: who lives.
        is_unclean_allowed: whether a replica outside the sync state set may become the master if nobody inside lives.
    """

    def __init__(self, state: BrokerGroups, liveness: Liveness, is_unclean_allowed: Callable[[], bool]) -> None:
        self._state = state
        self._liveness = liveness
        self._is_unclean_allowed = is_unclean_allowed

    # --- how a replica gets its id -----------------------------------------------------------------------------------

    def get_next_broker_id(self, request: headers.GetNextBrokerIdRequestHeader) -> ControllerResult:
        """Offer an id (1012). It is not reserved: whoever applies first has it."""
        group = self._state.find(request.broker_name)
        header = headers.GetNextBrokerIdResponseHeader(
            cluster_name=request.cluster_name,
            broker_name=request.broker_name,
            next_broker_id=FIRST_BROKER_ID if group is None else group.next_broker_id,
        )
        return ControllerResult(header=header)

    def apply_broker_id(self, request: headers.ApplyBrokerIdRequestHeader) -> ControllerResult:
        """Give an id to the broker with this check code (1013); a broker that asks again has it already."""
        broker_name, broker_id = request.broker_name, request.applied_broker_id
        header = headers.ApplyBrokerIdResponseHeader(cluster_name=request.cluster_name, broker_name=broker_name)
        address = request.register_check_code.split(";")[0]
        group = self._state.find(broker_name)
        known = group.replicas.get(broker_id) if group is not None else None
        if known is not None and known.check_code == request.register_check_code:
            return ControllerResult(header=header)
        problem = self._limits(request.cluster_name, broker_name, request.register_check_code)
        if problem is not None:
            return _refuse(ResponseCode.CONTROLLER_INVALID_REQUEST, problem, header)
        if group is None and broker_id != FIRST_BROKER_ID:
            remark = (
                f"Broker-set: {broker_name} hasn't been registered in controller, "
                f"but broker try to apply brokerId: {broker_id}"
            )
            return _refuse(ResponseCode.CONTROLLER_BROKER_ID_INVALID, remark, header)
        # Differs from RocketMQ, which gives ids below 1 too; -1 means "nobody" in elections.
        if known is not None or broker_id < FIRST_BROKER_ID:
            remark = f"Fail to apply brokerId: {broker_id} in broker-set: {broker_name}"
            return _refuse(ResponseCode.CONTROLLER_BROKER_ID_INVALID, remark, header)
        event = BrokerIdApplied(request.cluster_name, broker_name, broker_id, address, request.register_check_code)
        return ControllerResult(header=header, events=[event])

    def _limits(self, cluster_name: str, broker_name: str, check_code: str) -> str | None:
        """Return what is too much about a broker that wants an id."""
        if not broker_name or max(map(len, (cluster_name, broker_name, check_code))) > MAX_TEXT:
            return f"clusterName, brokerName and registerCheckCode have 1 to {MAX_TEXT} characters"
        group = self._state.find(broker_name)
        if group is None:
            is_full = len(self._state.groups) >= MAX_GROUPS
            return f"There are {MAX_GROUPS} broker-sets already" if is_full else None
        is_full = len(group.replicas) >= MAX_REPLICAS
        return f"Broker-set: {broker_name} has {MAX_REPLICAS} brokers already" if is_full else None

    def register_broker(self, request: headers.RegisterBrokerToControllerRequestHeader) -> ControllerResult:
        """Tell a broker that has its id who the master is (1003), and note where the broker is now."""
        header = headers.RegisterBrokerToControllerResponseHeader(
            cluster_name=request.cluster_name, broker_name=request.broker_name
        )
        group = self._state.find(request.broker_name)
        if group is None:
            remark = f"Broker-set: {request.broker_name} hasn't been registered in controller"
            return _refuse(ResponseCode.CONTROLLER_BROKER_NEED_TO_BE_REGISTERED, remark, header)
        known = group.replicas.get(request.broker_id)
        if known is None:
            remark = f"BrokerId: {request.broker_id} hasn't been registered in broker-set: {request.broker_name}"
            return _refuse(ResponseCode.CONTROLLER_BROKER_NEED_TO_BE_REGISTERED, remark, header)
        if len(request.broker_address) > MAX_TEXT:
            remark = f"brokerAddress has at most {MAX_TEXT} characters"
            return _refuse(ResponseCode.CONTROLLER_INVALID_REQUEST, remark, header)
        events: list[Event] = []
        if known.address != request.broker_address:
            events.append(BrokerAddressUpdated(group.broker_name, request.broker_id, request.broker_address))
        if group.master is not None and not self._is_gone(group, group.master):
            # A master that registers from a new address is told the new one.
            is_itself = request.broker_id == group.master
            header.master_broker_id = group.master
            header.master_address = request.broker_address if is_itself else group.master_address
            header.master_epoch = group.master_epoch
            header.sync_state_set_epoch = group.sync_state_set_epoch
        return ControllerResult(header=header, body=_set_of(group), events=events)

    # --- what the master reports -------------------------------------------------------------------------------------

    def alter_sync_state_set(
        self, request: headers.AlterSyncStateSetRequestHeader, wanted: SyncStateSet
    ) -> ControllerResult:
        """Put other replicas into the set (1001), if the right master says so and knows what it is talking about."""
        group = self._state.find(request.broker_name)
        if group is None:
            return _refuse(ResponseCode.CONTROLLER_ALTER_SYNC_STATE_SET_FAILED, "Broker metadata is not existed")
        members = sorted(set(wanted.sync_state_set))
        problem = self._problem_of_set(group, request, members, wanted.sync_state_set_epoch)
        if problem is not None:
            return problem
        epoch = group.sync_state_set_epoch + 1
        return ControllerResult(
            header=headers.AlterSyncStateSetResponseHeader(new_sync_state_set_epoch=epoch),
            body=SyncStateSet(sync_state_set=members, sync_state_set_epoch=epoch),
            events=[SyncStateSetAltered(group.broker_name, tuple(members), group.master_epoch, epoch)],
        )

    def _problem_of_set(
        self, group: BrokerGroup, request: headers.AlterSyncStateSetRequestHeader, members: list[int], epoch: int
    ) -> ControllerResult | None:
        rejecting = "Rejecting alter syncStateSet request because the"
        if members == group.sync_state_set:
            remark = "The newSyncStateSet is equal with oldSyncStateSet, no needed to update syncStateSet"
            return _refuse(ResponseCode.CONTROLLER_ALTER_SYNC_STATE_SET_FAILED, remark)
        if group.master is None or group.master != request.master_broker_id:
            remark = f"{rejecting} current leader is:{{{group.master}}}, not {{{request.master_broker_id}}}"
            return _refuse(ResponseCode.CONTROLLER_INVALID_MASTER, remark)
        if request.master_epoch != group.master_epoch:
            remark = f"{rejecting} current master epoch is:{{{group.master_epoch}}}, not {{{request.master_epoch}}}"
            return _refuse(ResponseCode.CONTROLLER_FENCED_MASTER_EPOCH, remark)
        if epoch != group.sync_state_set_epoch:
            remark = f"{rejecting} current syncStateSet epoch is:{{{group.sync_state_set_epoch}}}, not {{{epoch}}}"
            return _refuse(ResponseCode.CONTROLLER_FENCED_SYNC_STATE_SET_EPOCH, remark)
        for member in members:
            if member not in group.replicas:
                remark = f"{rejecting} replicas {{{member}}} don't exist"
                return _refuse(ResponseCode.CONTROLLER_INVALID_REPLICAS, remark)
            if not self._is_active(group, member):
                remark = f"{rejecting} replicas {{{member}}} don't alive"
                return _refuse(ResponseCode.CONTROLLER_BROKER_NOT_ALIVE, remark)
        if group.master not in members:
            remark = f"{rejecting} newSyncStateSet don't contains origin leader {{{group.master}}}"
            return _refuse(ResponseCode.CONTROLLER_ALTER_SYNC_STATE_SET_FAILED, remark)
        return None

    # --- elections ---------------------------------------------------------------------------------------------------

    def elect_master(self, request: headers.ElectMasterRequestHeader) -> ControllerResult:
        """Find a master (1002), for a broker, an operator or the controller itself.

        The master stays as long as it may be alive. In a group that never had one, the broker that asks becomes it.
        """
        group = self._state.find(request.broker_name)
        if group is None:
            remark = "Broker hasn't been registered"
            return _refuse(ResponseCode.CONTROLLER_BROKER_NEED_TO_BE_REGISTERED, remark)
        asking = headers.NO_BROKER_ID if request.broker_id is None else request.broker_id
        if asking != headers.NO_BROKER_ID and asking not in group.replicas:
            # Differs from RocketMQ, which in a new group elects whoever asks, known or not.
            remark = f"BrokerId: {asking} hasn't been registered in broker-set: {group.broker_name}"
            return _refuse(ResponseCode.CONTROLLER_BROKER_NEED_TO_BE_REGISTERED, remark)
        chosen = self._choose(group, asking, request.designate_elect)
        if chosen is None:
            return self._nobody(group, asking)
        return self._stays(group) if chosen == group.master else self._elected(group, chosen)

    def _choose(self, group: BrokerGroup, asking: int, is_designated: bool) -> int | None:
        if group.never_had_data and asking != headers.NO_BROKER_ID:
            return asking
        designated = asking if is_designated and asking != headers.NO_BROKER_ID else None
        if group.master is not None and designated is None and not self._is_gone(group, group.master):
            # Differs from RocketMQ: a controller that has just become the leader deposes no master before that
            # one had the time to be heard.
            return group.master
        living = [broker_id for broker_id in group.replicas if self._is_active(group, broker_id)]
        progress = {
            broker_id: self._liveness.progress(group.cluster_name, group.broker_name, broker_id) for broker_id in living
        }
        sets: list[Iterable[int]] = [group.sync_state_set]
        if self._is_unclean_allowed():
            sets.append(group.replicas)
        return choose([list(members) for members in sets], living, progress, group.master, designated)

    @staticmethod
    def _stays(group: BrokerGroup) -> ControllerResult:
        remark = (
            f"The old master {group.master} is still alive, not need to elect new master for broker {group.broker_name}"
        )
        return ControllerResult(
            ResponseCode.CONTROLLER_MASTER_STILL_EXIST,
            remark,
            headers.ElectMasterResponseHeader(
                master_broker_id=group.master,
                master_address=group.master_address,
                master_epoch=group.master_epoch,
                sync_state_set_epoch=group.sync_state_set_epoch,
            ),
            ElectMasterResponseBody(sync_state_set=group.sync_state_set),
        )

    @staticmethod
    def _elected(group: BrokerGroup, master: int) -> ControllerResult:
        epoch = group.master_epoch + 1
        addresses = {broker_id: replica.address for broker_id, replica in sorted(group.replicas.items())}
        return ControllerResult(
            header=headers.ElectMasterResponseHeader(
                master_broker_id=master,
                master_address=group.address_of(master),
                master_epoch=epoch,
                sync_state_set_epoch=group.sync_state_set_epoch + 1,
            ),
            body=ElectMasterResponseBody(
                broker_member_group=BrokerMemberGroup(
                    broker_addrs=addresses, broker_name=group.broker_name, cluster=group.cluster_name
                ),
                sync_state_set=[master],
            ),
            events=[MasterElected(group.broker_name, master, epoch)],
        )

    @staticmethod
    def _nobody(group: BrokerGroup, asking: int) -> ControllerResult:
        header = headers.ElectMasterResponseHeader()
        if asking != headers.NO_BROKER_ID:
            return _refuse(ResponseCode.CONTROLLER_ELECT_MASTER_FAILED, "Failed to elect a new master", header)
        remark = "Old master has down and failed to elect a new broker master"
        result = _refuse(ResponseCode.CONTROLLER_MASTER_NOT_AVAILABLE, remark, header)
        if group.master is not None:
            # The controller itself has asked: from now on the group has no master, and the old one is fenced.
            result.events.append(MasterElected(group.broker_name, None, group.master_epoch + 1))
        return result

    def groups_without_living_master(self) -> list[str]:
        """Return the groups whose master is gone while another replica lives."""
        return [
            group.broker_name
            for group in self._state.groups.values()
            if group.master is not None
            and self._is_gone(group, group.master)
            and any(self._is_active(group, broker_id) for broker_id in group.replicas)
        ]

    # --- questions ---------------------------------------------------------------------------------------------------

    def get_replica_info(self, request: headers.GetReplicaInfoRequestHeader) -> ControllerResult:
        """Tell who the master of a group is (1004), alive or not."""
        header = headers.GetReplicaInfoResponseHeader()
        group = self._state.find(request.broker_name)
        if group is None:
            remark = "Broker metadata is not existed"
            return _refuse(ResponseCode.CONTROLLER_BROKER_METADATA_NOT_EXIST, remark, header)
        header.master_broker_id = group.master
        header.master_address = group.master_address
        header.master_epoch = group.master_epoch
        return ControllerResult(header=header, body=_set_of(group))

    def get_sync_state_data(self, broker_names: Iterable[str]) -> ControllerResult:
        """Describe groups (1006); names that are not known are left out."""
        table = {}
        for broker_name in broker_names:
            group = self._state.find(broker_name)
            if group is not None:
                table[broker_name] = self._describe(group)
        return ControllerResult(body=BrokerReplicasInfo(replicas_info_table=table))

    def _describe(self, group: BrokerGroup) -> ReplicasInfo:
        info = ReplicasInfo(
            master_address=group.master_address,
            master_broker_id=group.master,
            master_epoch=group.master_epoch,
            sync_state_set_epoch=group.sync_state_set_epoch,
        )
        for broker_id, replica in sorted(group.replicas.items()):
            is_in_sync = broker_id in group.sync_state_set
            (info.in_sync_replicas if is_in_sync else info.not_in_sync_replicas).append(
                ReplicaIdentity(
                    alive=self._is_active(group, broker_id),
                    broker_address=replica.address,
                    broker_id=broker_id,
                    broker_name=group.broker_name,
                )
            )
        return info

    # --- operators ---------------------------------------------------------------------------------------------------

    def clean_broker_data(self, request: headers.CleanControllerBrokerDataRequestHeader) -> ControllerResult:
        """Forget replicas, or a whole group (1011); what lives only if that is said.

        Differs from RocketMQ, which with `isCleanLivingBroker` forgets the whole group whatever ids are named, and
        which looks for life in the request's cluster, so that a wrong cluster name hides it.
        """
        group = self._state.find(request.broker_name)
        ids_text = (request.broker_controller_ids_to_clean or "").strip()
        if not request.is_clean_living_broker and not ids_text and group is not None and group.master is not None:
            return _unclean(f"Broker {request.broker_name} is still alive, clean up failure")
        try:
            ids = sorted({parse_i64(text.strip(), "broker id") for text in ids_text.split(";") if text.strip()})
        except InvalidInputError as error:
            return _unclean(f"Please set the option <brokerControllerIdsToClean> according to the format: {error}")
        if group is None:
            return _unclean(f"Broker {request.broker_name} is not existed,clean broker data failure.")
        if not request.is_clean_living_broker:
            for broker_id in ids:
                if self._is_active(group, broker_id):
                    return _unclean(f"Broker [{request.broker_name},  {broker_id}] is still alive, clean up failure")
        if ids_text and not ids:
            return _unclean(
                "Please set the option <brokerControllerIdsToClean> according to the format: it names no id"
            )
        return ControllerResult(events=[BrokerDataCleaned(group.broker_name, tuple(ids))])

    # --- who lives ---------------------------------------------------------------------------------------------------

    def _is_active(self, group: BrokerGroup, broker_id: int) -> bool:
        return self._liveness.is_active(group.cluster_name, group.broker_name, broker_id)

    def _is_gone(self, group: BrokerGroup, broker_id: int) -> bool:
        return self._liveness.is_gone(group.cluster_name, group.broker_name, broker_id)


def _set_of(group: BrokerGroup) -> SyncStateSet:
    return SyncStateSet(sync_state_set=group.sync_state_set, sync_state_set_epoch=group.sync_state_set_epoch)


def _unclean(remark: str) -> ControllerResult:
    return _refuse(ResponseCode.CONTROLLER_INVALID_CLEAN_BROKER_METADATA, remark)
