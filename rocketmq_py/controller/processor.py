"""The requests that a controller answers.

Source: `ControllerRequestProcessor`, RocketMQ 5.3.
"""

from __future__ import annotations

import msgspec

from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.live_config import LiveConfig
from rocketmq_py.controller.broker_group import BrokerGroups
from rocketmq_py.controller.config import ControllerConfig
from rocketmq_py.controller.consensus import Consensus
from rocketmq_py.controller.heartbeats import BrokerHeartbeatManager
from rocketmq_py.controller.manager import ControllerManager
from rocketmq_py.controller.replicas_info import ControllerResult
from rocketmq_py.remoting.answer import answer
from rocketmq_py.remoting.bodies.controller import SyncStateSet
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.header import decode_header
from rocketmq_py.remoting.headers import controller as headers
from rocketmq_py.remoting.java_json import decode_body, encode_body
from rocketmq_py.remoting.live_config_request import change_settings
from rocketmq_py.remoting.processors import Processors, Request

HEARTBEAT_REMARK = "Heart beat success"


class ControllerRequestProcessor:
    """Answers brokers and operators.

    Args:
        config: the controller's settings.
        manager: where decisions are made.
        consensus: who leads.
        heartbeats: who lives.
        live_config: the settings that may be changed.

    Attributes:
        addresses: id to `host:port` of all controllers; known once the port is.
    """

    def __init__(
        self,
        config: ControllerConfig,
        manager: ControllerManager,
        consensus: Consensus,
        heartbeats: BrokerHeartbeatManager,
        live_config: LiveConfig,
    ) -> None:
        self.addresses: dict[str, str] = {}
        self._config = config
        self._manager = manager
        self._consensus = consensus
        self._heartbeats = heartbeats
        self._live_config = live_config

    def install(self, processors: Processors) -> None:
        """Register every handler."""
        for code, handler in (
            (RequestCode.CONTROLLER_ALTER_SYNC_STATE_SET, self.alter_sync_state_set),
            (RequestCode.CONTROLLER_ELECT_MASTER, self.elect_master),
            (RequestCode.CONTROLLER_REGISTER_BROKER, self.register_broker),
            (RequestCode.CONTROLLER_GET_REPLICA_INFO, self.get_replica_info),
            (RequestCode.CONTROLLER_GET_METADATA_INFO, self.get_metadata),
            (RequestCode.CONTROLLER_GET_SYNC_STATE_DATA, self.get_sync_state_data),
            (RequestCode.UPDATE_CONTROLLER_CONFIG, self.update_config),
            (RequestCode.GET_CONTROLLER_CONFIG, self.get_config),
            (RequestCode.CLEAN_BROKER_DATA, self.clean_broker_data),
            (RequestCode.CONTROLLER_GET_NEXT_BROKER_ID, self.get_next_broker_id),
            (RequestCode.CONTROLLER_APPLY_BROKER_ID, self.apply_broker_id),
            (RequestCode.BROKER_HEARTBEAT, self.heartbeat),
        ):
            processors.register(code, handler, "controller")

    # --- brokers -----------------------------------------------------------------------------------------------------

    async def get_next_broker_id(self, request: Request) -> RemotingCommand:
        """Offer an id (1012)."""
        header = decode_header(headers.GetNextBrokerIdRequestHeader, request.command.ext_fields)
        return _response(await self._manager.read(lambda replicas: replicas.get_next_broker_id(header)))

    async def apply_broker_id(self, request: Request) -> RemotingCommand:
        """Give an id (1013)."""
        header = decode_header(headers.ApplyBrokerIdRequestHeader, request.command.ext_fields)
        return _response(await self._manager.write(lambda replicas: replicas.apply_broker_id(header)))

    async def register_broker(self, request: Request) -> RemotingCommand:
        """Tell a broker who its master is (1003)."""
        header = decode_header(headers.RegisterBrokerToControllerRequestHeader, request.command.ext_fields)
        return _response(await self._manager.write(lambda replicas: replicas.register_broker(header)))

    async def alter_sync_state_set(self, request: Request) -> RemotingCommand:
        """Change who is in sync (1001)."""
        header = decode_header(headers.AlterSyncStateSetRequestHeader, request.command.ext_fields)
        wanted = decode_body(request.command.body, SyncStateSet)
        return _response(await self._manager.write(lambda replicas: replicas.alter_sync_state_set(header, wanted)))

    async def get_replica_info(self, request: Request) -> RemotingCommand:
        """Tell who the master is (1004)."""
        header = decode_header(headers.GetReplicaInfoRequestHeader, request.command.ext_fields)
        return _response(await self._manager.read(lambda replicas: replicas.get_replica_info(header)))

    def heartbeat(self, request: Request) -> RemotingCommand:
        """Note that a broker lives (904). Every controller listens, so that the next leader knows already."""
        header = decode_header(headers.BrokerHeartbeatToControllerRequestHeader, request.command.ext_fields)
        if header.broker_id is None:
            return answer(ResponseCode.CONTROLLER_INVALID_REQUEST, "Heart beat with empty brokerId")
        self._heartbeats.heard(header, header.broker_id, request.connection)
        group = self._state.find(header.broker_name)
        return answer(
            ResponseCode.SUCCESS,
            HEARTBEAT_REMARK,
            header=headers.BrokerHeartbeatToControllerResponseHeader(
                is_leader=self._consensus.is_leader,
                master_epoch=group.master_epoch if group is not None and header.broker_id in group.replicas else None,
            ),
        )

    @property
    def _state(self) -> BrokerGroups:
        return self._manager.machine.state

    # --- anyone ------------------------------------------------------------------------------------------------------

    def get_metadata(self, request: Request) -> RemotingCommand:
        """Tell who leads the controllers (1005); each of them answers this."""
        leader = self._consensus.leader_id
        return answer(
            header=headers.GetMetaDataResponseHeader(
                group=self._config.controller_d_leger_group,
                controller_leader_id=leader,
                controller_leader_address=self.addresses.get(leader) if leader is not None else None,
                is_leader=self._consensus.is_leader,
                peers="".join(f"{peer}:{address};" for peer, address in self.addresses.items()),
            )
        )

    # --- operators ---------------------------------------------------------------------------------------------------

    async def elect_master(self, request: Request) -> RemotingCommand:
        """Find a master (1002); brokers ask this as well."""
        header = decode_header(headers.ElectMasterRequestHeader, request.command.ext_fields)
        return _response(await self._manager.elect_master(header))

    async def get_sync_state_data(self, request: Request) -> RemotingCommand:
        """Describe broker groups (1006)."""
        try:
            names = msgspec.json.decode(bytes(request.command.body), type=list[str])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidInputError(f"body is not a list of broker names: {error}") from None
        return _response(await self._manager.read(lambda replicas: replicas.get_sync_state_data(names)))

    async def clean_broker_data(self, request: Request) -> RemotingCommand:
        """Forget brokers (1011)."""
        header = decode_header(headers.CleanControllerBrokerDataRequestHeader, request.command.ext_fields)
        return _response(await self._manager.write(lambda replicas: replicas.clean_broker_data(header)))

    async def update_config(self, request: Request) -> RemotingCommand:
        """Change settings of this controller (1009)."""
        return await change_settings(self._live_config, request)

    def get_config(self, request: Request) -> RemotingCommand:
        """Return all settings of this controller (1010)."""
        return answer(body=self._live_config.to_text().encode())


def _response(result: ControllerResult) -> RemotingCommand:
    body = encode_body(result.body) if result.body is not None else b""
    return answer(result.code, result.remark, header=result.header, body=body)
