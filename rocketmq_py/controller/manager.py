"""The leader's desk: requests come in one by one, are decided, kept by all, and answered.

A decision looks at the state, so the next one begins only when the state has the events of the one before. Elections
that nobody asked for (a master has fallen silent) wait in the same line.

Source: `ControllerManager`, `DLedgerController`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from rocketmq_py.common.errors import RocketMQError
from rocketmq_py.controller.broker_group import BrokerGroups, Event, decode_events, encode_events
from rocketmq_py.controller.config import ControllerConfig
from rocketmq_py.controller.consensus import Consensus, ConsensusTimeoutError, NotLeaderError
from rocketmq_py.controller.heartbeats import BrokerHeartbeatManager, BrokerKey
from rocketmq_py.controller.notifier import RoleChangeNotifier
from rocketmq_py.controller.replicas_info import ControllerResult, ReplicasInfoManager
from rocketmq_py.remoting.bodies.cluster import BrokerMemberGroup
from rocketmq_py.remoting.bodies.controller import ElectMasterResponseBody
from rocketmq_py.remoting.codes import ResponseCode
from rocketmq_py.remoting.headers.controller import (
    NO_BROKER_ID,
    ElectMasterRequestHeader,
    ElectMasterResponseHeader,
)

logger = logging.getLogger(__name__)

NOT_LEADER_REMARK = "The controller is not in leader state"
#: How often a decision is made again because its events came too late; once is enough unless the leaders change twice.
_ATTEMPTS = 3

Decide = Callable[[ReplicasInfoManager], ControllerResult]


class GroupsMachine:
    """The groups of brokers as the state machine of the consensus."""

    def __init__(self) -> None:
        self.state = BrokerGroups()

    def apply(self, command: bytes) -> bool:
        """Apply the events of a command; True if all of them fitted."""
        fitted = [self.state.apply(event) for event in decode_events(command)]
        return all(fitted)

    def snapshot(self) -> bytes:
        """Return the whole state."""
        return self.state.encode()

    def restore(self, data: bytes) -> None:
        """Become the state of some bytes."""
        self.state.decode(data)


class ControllerManager:
    """Decides on the leader.

    Args:
        config: the controller's settings.
        machine: the state; changed by the consensus only.
        consensus: the agreement with the other controllers.
        heartbeats: who lives.
        notifier: tells brokers of elections.
    """

    def __init__(
        self,
        config: ControllerConfig,
        machine: GroupsMachine,
        consensus: Consensus,
        heartbeats: BrokerHeartbeatManager,
        notifier: RoleChangeNotifier,
    ) -> None:
        self.machine = machine
        self._config = config
        self._consensus = consensus
        self._heartbeats = heartbeats
        self._notifier = notifier
        self._replicas = ReplicasInfoManager(machine.state, heartbeats, lambda: config.enable_elect_unclean_master)
        self._turn = asyncio.Lock()
        self._elections: dict[str, asyncio.Task[None]] = {}
        self._is_stopping = False
        heartbeats.on_inactive.append(self._broker_inactive)
        consensus.on_leadership.append(self._leadership)

    # --- requests ----------------------------------------------------------------------------------------------------

    async def read(self, decide: Decide) -> ControllerResult:
        """Answer a question from the state; see `write`."""
        if not self._consensus.is_leader:
            return _not_leader()
        if self._config.is_process_read_event:
            problem = await self._keep([])
            if isinstance(problem, ControllerResult):
                return problem
        return decide(self._replicas)

    async def write(self, decide: Decide) -> ControllerResult:
        """Decide, keep the events, and return the answer.

        Returns:
            What was decided; CONTROLLER_NOT_LEADER (2007) if this controller does not lead, or lost the lead before the
            events were known to be kept.

        Cancellation: the events may be kept all the same.
        """
        async with self._turn:
            for _ in range(_ATTEMPTS):
                if not self._consensus.is_leader:
                    return _not_leader()
                result = decide(self._replicas)
                if not result.events:
                    return result
                kept = await self._keep(result.events)
                if isinstance(kept, ControllerResult):
                    return kept
                if kept:
                    self._log(result.events)
                    return result
            return ControllerResult(ResponseCode.SYSTEM_ERROR, "The state changed again and again; ask once more")

    async def _keep(self, events: list[Event]) -> bool | ControllerResult:
        """Propose events; whether they were applied, or the answer if that is not known."""
        try:
            return bool(await self._consensus.propose(encode_events(events)))
        except NotLeaderError as error:
            return ControllerResult(ResponseCode.CONTROLLER_NOT_LEADER, f"{NOT_LEADER_REMARK}: {error}")
        except ConsensusTimeoutError as error:
            return ControllerResult(ResponseCode.SYSTEM_ERROR, str(error))
        except OSError as error:
            return ControllerResult(ResponseCode.SYSTEM_ERROR, f"the controller cannot keep anything any more: {error}")

    @staticmethod
    def _log(events: list[Event]) -> None:
        for event in events:
            logger.info("%s", event)

    # --- elections ---------------------------------------------------------------------------------------------------

    async def elect_master(self, request: ElectMasterRequestHeader) -> ControllerResult:
        """Elect, and tell the living brokers of the group if there is a new master."""
        result = await self.write(lambda replicas: replicas.elect_master(request))
        header, body = result.header, result.body
        if (
            result.code == ResponseCode.SUCCESS
            and self._config.notify_broker_role_changed
            and isinstance(header, ElectMasterResponseHeader)
            and isinstance(body, ElectMasterResponseBody)
            and body.broker_member_group is not None
        ):
            self._notifier.elected(self._living(body.broker_member_group), header, body.sync_state_set)
        return result

    def _living(self, group: BrokerMemberGroup) -> BrokerMemberGroup:
        living = {
            broker_id: address
            for broker_id, address in group.broker_addrs.items()
            if self._heartbeats.is_active(group.cluster, group.broker_name, broker_id)
        }
        return BrokerMemberGroup(broker_addrs=living, broker_name=group.broker_name, cluster=group.cluster)

    def scan_inactive_masters(self) -> None:
        """Begin an election in every group whose master is gone while another replica lives."""
        if self._consensus.is_leader:
            for broker_name in self._replicas.groups_without_living_master():
                self._begin_election(broker_name)

    def _broker_inactive(self, key: BrokerKey) -> None:
        cluster_name, broker_name, broker_id = key
        if self._is_stopping:
            return
        logger.warning("broker %d of %s has fallen silent", broker_id, broker_name)
        group = self.machine.state.find(broker_name)
        if (
            self._consensus.is_leader
            and group is not None
            and (group.cluster_name, group.master) == (cluster_name, broker_id)
        ):
            self._begin_election(broker_name)

    def _begin_election(self, broker_name: str) -> None:
        if broker_name not in self._elections:
            task = asyncio.get_running_loop().create_task(self._elect(broker_name), name=f"election of {broker_name}")
            self._elections[broker_name] = task
            task.add_done_callback(lambda _: self._elections.pop(broker_name, None))

    async def _elect(self, broker_name: str) -> None:
        request = ElectMasterRequestHeader(broker_name=broker_name, broker_id=NO_BROKER_ID)
        for _ in range(max(self._config.elect_master_max_retry_count, 1)):
            try:
                result = await self.elect_master(request)
            except RocketMQError as error:
                logger.warning("the election of a master for %s failed: %s", broker_name, error)
                continue
            if result.code == ResponseCode.SUCCESS:
                header: Any = result.header
                logger.info(
                    "broker %d at %s is the master of %s with epoch %d",
                    header.master_broker_id, header.master_address, broker_name, header.master_epoch,
                )  # fmt: skip
                return
            logger.warning("no master was elected for %s: %s", broker_name, result.remark)
            if result.code != ResponseCode.SYSTEM_ERROR:
                return  # Asking again would get the same answer.

    def _leadership(self, is_leader: bool) -> None:
        if is_leader:
            self._heartbeats.begin_to_decide()

    async def stop(self) -> None:
        """Elect nobody any more: when the port closes, all brokers seem to fall silent, and none of them is dead."""
        self._is_stopping = True
        tasks = list(self._elections.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _not_leader() -> ControllerResult:
    return ControllerResult(ResponseCode.CONTROLLER_NOT_LEADER, NOT_LEADER_REMARK)
