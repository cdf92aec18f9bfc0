"""What a broker asks controllers, and which of them it asks.

Only the leader of the controllers decides. Any of them says who that is; it is asked again as soon as an answer shows
that it is somebody else, or that nobody answers.

Source: `BrokerOuterAPI`, `ReplicasManager#updateControllerMetadata`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Final

import msgspec

from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.common.environment import Clock
from rocketmq_py.common.errors import InvalidInputError, RocketMQError
from rocketmq_py.remoting.bodies.controller import SyncStateSet
from rocketmq_py.remoting.client import RemotingClient
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.errors import RemotingError
from rocketmq_py.remoting.header import decode_header, encode_header
from rocketmq_py.remoting.headers import controller as headers
from rocketmq_py.remoting.java_json import decode_body, encode_body

logger = logging.getLogger(__name__)

#: Seconds that a controller has to answer.
ASK_SECONDS: Final = 3.0
#: Seconds to find out who leads; a controller that is dead must not hold up the others.
FIND_SECONDS: Final = 1.0


class ControllerUnknownError(RocketMQError):
    """No controller leads, or none answers: what was asked may have been done or not."""


class ControllerRefusedError(RocketMQError):
    """The controllers' leader has said no.

    Attributes:
        code: why.
    """

    def __init__(self, code: int, remark: str | None) -> None:
        super().__init__(f"the controller refused with code {code}: {remark}")
        self.code = code


@dataclass(frozen=True, slots=True)
class ReplicaInfo:
    """What the controller says of this broker's group.

    Attributes:
        master_id: who is master; None if nobody is.
        master_address: where, `ip:port`.
        master_epoch: since which election.
        members: the sync state set.
        members_epoch: how often that has changed.
    """

    master_id: int | None
    master_address: str
    master_epoch: int
    members: frozenset[int]
    members_epoch: int


class ControllerClient:
    """Talks to the controllers of one broker.

    Args:
        config: names, addresses.
        client: for the requests.
        clock: stamps elections.
        addresses: of the controllers.

    Attributes:
        leader: the leader's address, as far as is known; empty if it is not.
    """

    def __init__(self, config: BrokerConfig, client: RemotingClient, clock: Clock, addresses: list[str]) -> None:
        self.leader = ""
        self.addresses = addresses
        self._config = config
        self._client = client
        self._clock = clock

    # --- who leads ----------------------------------------------------------------------------------------------------

    async def find_leader(self) -> str:
        """Ask all controllers who leads (1005) and return the leader's address; empty if none says it does.

        The leader itself is believed before those who name it, and is spoken to where it was asked: the address that it
        has for itself may be one of another network.
        """
        found = await asyncio.gather(*map(self._ask_leader, self.addresses))
        claims = [address for address, is_itself in found if address and is_itself]
        names = [address for address, is_itself in found if address and not is_itself]
        self.leader = next(iter(claims or names), "")
        return self.leader

    async def _ask_leader(self, address: str) -> tuple[str, bool]:
        command = RemotingCommand.create_request(RequestCode.CONTROLLER_GET_METADATA_INFO, {})
        try:
            response = await self._client.request(address, command, FIND_SECONDS)
            if response.code != ResponseCode.SUCCESS:
                return "", False
            header = decode_header(headers.GetMetaDataResponseHeader, response.ext_fields)
        except (RemotingError, InvalidInputError) as error:
            logger.debug("controller %s did not say who leads: %s", address, error)
            return "", False
        return (address, True) if header.is_leader else (header.controller_leader_address or "", False)

    async def ask(self, code: RequestCode, header: msgspec.Struct, body: bytes = b"") -> RemotingCommand:
        """Ask the leader.

        Raises:
            ControllerUnknownError: there is none, or it did not answer.
            ControllerRefusedError: it said no.
        """
        leader = self.leader or await self.find_leader()
        if not leader:
            raise ControllerUnknownError(f"none of the controllers {';'.join(self.addresses)} leads or answers")
        command = RemotingCommand.create_request(code, encode_header(header), body)
        try:
            response = await self._client.request(leader, command, ASK_SECONDS)
        except RemotingError as error:
            self.leader = ""
            raise ControllerUnknownError(f"controller {leader} did not answer {code.name}: {error}") from None
        if response.code == ResponseCode.SUCCESS:
            return response
        if response.code in (ResponseCode.CONTROLLER_NOT_LEADER, ResponseCode.SYSTEM_ERROR, ResponseCode.SYSTEM_BUSY):
            self.leader = ""
            raise ControllerUnknownError(f"controller {leader} cannot say: code {response.code}, {response.remark}")
        raise ControllerRefusedError(response.code, response.remark)

    # --- an id --------------------------------------------------------------------------------------------------------

    async def next_broker_id(self) -> int:
        """Ask which id is free (1012)."""
        config = self._config
        response = await self.ask(
            RequestCode.CONTROLLER_GET_NEXT_BROKER_ID,
            headers.GetNextBrokerIdRequestHeader(
                cluster_name=config.broker_cluster_name, broker_name=config.broker_name
            ),
        )
        found = decode_header(headers.GetNextBrokerIdResponseHeader, response.ext_fields).next_broker_id
        if found is None or found < 1:
            raise ControllerUnknownError(f"a controller offers the id {found}")
        return found

    async def apply_broker_id(self, broker_id: int, check_code: str) -> None:
        """Apply for an id (1013)."""
        config = self._config
        await self.ask(
            RequestCode.CONTROLLER_APPLY_BROKER_ID,
            headers.ApplyBrokerIdRequestHeader(
                cluster_name=config.broker_cluster_name,
                broker_name=config.broker_name,
                applied_broker_id=broker_id,
                register_check_code=check_code,
            ),
        )

    # --- the group ----------------------------------------------------------------------------------------------------

    async def register(self, broker_id: int) -> ReplicaInfo:
        """Say where this broker is, and ask what it is (1003)."""
        config = self._config
        response = await self.ask(
            RequestCode.CONTROLLER_REGISTER_BROKER,
            headers.RegisterBrokerToControllerRequestHeader(
                cluster_name=config.broker_cluster_name,
                broker_name=config.broker_name,
                broker_id=broker_id,
                broker_address=config.broker_address,
                invoke_time=self._clock.wall_ms(),
            ),
        )
        header = decode_header(headers.RegisterBrokerToControllerResponseHeader, response.ext_fields)
        return _info(header, response.body)

    async def replica_info(self) -> ReplicaInfo:
        """Ask who is master (1004)."""
        response = await self.ask(
            RequestCode.CONTROLLER_GET_REPLICA_INFO,
            headers.GetReplicaInfoRequestHeader(broker_name=self._config.broker_name),
        )
        return _info(decode_header(headers.GetReplicaInfoResponseHeader, response.ext_fields), response.body)

    async def elect(self, broker_id: int) -> None:
        """Ask for an election because there is no master (1002)."""
        config = self._config
        await self.ask(
            RequestCode.CONTROLLER_ELECT_MASTER,
            headers.ElectMasterRequestHeader(
                cluster_name=config.broker_cluster_name,
                broker_name=config.broker_name,
                broker_id=broker_id,
                invoke_time=self._clock.wall_ms(),
            ),
        )

    async def alter_sync_state_set(
        self, broker_id: int, master_epoch: int, members: frozenset[int], members_epoch: int
    ) -> SyncStateSet:
        """Propose another sync state set (1001); return the one that is valid now."""
        response = await self.ask(
            RequestCode.CONTROLLER_ALTER_SYNC_STATE_SET,
            headers.AlterSyncStateSetRequestHeader(
                broker_name=self._config.broker_name,
                master_broker_id=broker_id,
                master_epoch=master_epoch,
                invoke_time=self._clock.wall_ms(),
            ),
            encode_body(SyncStateSet(sync_state_set=sorted(members), sync_state_set_epoch=members_epoch)),
        )
        if response.body:
            return decode_body(response.body, SyncStateSet)
        header = decode_header(headers.AlterSyncStateSetResponseHeader, response.ext_fields)
        return SyncStateSet(sync_state_set=sorted(members), sync_state_set_epoch=header.new_sync_state_set_epoch)

    # --- a sign of life -----------------------------------------------------------------------------------------------

    async def heartbeat(
        self, address: str, header: headers.BrokerHeartbeatToControllerRequestHeader, seconds: float
    ) -> headers.BrokerHeartbeatToControllerResponseHeader | None:
        """Give one controller a sign of life (904) and return its answer; None if there is none in time.

        Apache's controllers answer without fields; then the one that is believed to lead counts as the leader.
        """
        command = RemotingCommand.create_request(RequestCode.BROKER_HEARTBEAT, encode_header(header))
        try:
            response = await self._client.request(address, command, seconds)
            if response.code != ResponseCode.SUCCESS:
                return None
            answer = decode_header(headers.BrokerHeartbeatToControllerResponseHeader, response.ext_fields)
        except (RemotingError, InvalidInputError) as error:
            logger.debug("heartbeat to controller %s: %s", address, error)
            return None
        if "isLeader" not in response.ext_fields:
            answer.is_leader = address == self.leader
        return answer


def _info(
    header: headers.RegisterBrokerToControllerResponseHeader | headers.GetReplicaInfoResponseHeader,
    body: bytes | bytearray | memoryview,
) -> ReplicaInfo:
    members = decode_body(body, SyncStateSet) if body else SyncStateSet()
    # RocketMQ writes -1 as the id of a master that there is not.
    has_master = header.master_broker_id is not None and header.master_broker_id >= 0 and bool(header.master_address)
    return ReplicaInfo(
        header.master_broker_id if has_master else None,
        (header.master_address or "") if has_master else "",
        header.master_epoch or 0,
        frozenset(members.sync_state_set),
        members.sync_state_set_epoch,
    )
