"""What operators ask controllers and tell them.

Source: `MQClientAPIImpl`, `DefaultMQAdminExtImpl`, RocketMQ 5.3: the calls of getControllerMetaData, getSyncStateSet,
electMaster and cleanBrokerMetadata.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import msgspec

from rocketmq_py.client.errors import BrokerResponseError, ClientError
from rocketmq_py.common.environment import Clock
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.host import split_address
from rocketmq_py.remoting.bodies.controller import BrokerReplicasInfo, ElectMasterResponseBody, ReplicasInfo
from rocketmq_py.remoting.client import RemotingClient
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.errors import RemotingConnectError, RemotingError
from rocketmq_py.remoting.header import decode_header, encode_header
from rocketmq_py.remoting.headers import controller as headers
from rocketmq_py.remoting.java_json import decode_body

#: Seconds for one answer.
TIMEOUT: Final = 3.0
#: Seconds to wait for the controllers to elect a leader among themselves.
LEADER_SECONDS: Final = 5.0
ASK_AGAIN_SECONDS: Final = 0.2


class ControllerAdmin:
    """Asks a group of controllers; finds their leader.

    Args:
        client: the connections; whoever made it closes it.
        clock: the wall clock.
        addresses: `host:port` of some of the controllers, separated by `;`.

    Raises:
        InvalidInputError: an address is none.
    """

    def __init__(self, client: RemotingClient, clock: Clock, addresses: str) -> None:
        self._client = client
        self._clock = clock
        self.addresses = [address.strip() for address in addresses.split(";") if address.strip()]
        if not self.addresses:
            raise InvalidInputError("no address of a controller was given; write 127.0.0.1:9878")
        for address in self.addresses:
            split_address(address)

    async def metadata(self) -> dict[str, headers.GetMetaDataResponseHeader | RemotingError]:
        """Return what each controller says of the group (1005), or why it said nothing."""
        found: dict[str, headers.GetMetaDataResponseHeader | RemotingError] = {}
        for address in self.addresses:
            try:
                response = await self._ask(address, RequestCode.CONTROLLER_GET_METADATA_INFO)
                found[address] = decode_header(headers.GetMetaDataResponseHeader, response.ext_fields)
            except RemotingError as error:
                found[address] = error
        return found

    async def leader(self) -> str:
        """Return the leader's address; waits up to 5 s for one to be elected.

        Raises:
            ClientError: there is none, or no controller answers.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + LEADER_SECONDS
        while True:
            found = await self.metadata()
            for metadata in found.values():
                if isinstance(metadata, headers.GetMetaDataResponseHeader) and metadata.controller_leader_address:
                    return metadata.controller_leader_address
            answered = [item for item in found.values() if not isinstance(item, RemotingError)]
            if not answered:
                raise next(item for item in found.values() if isinstance(item, RemotingError))
            if loop.time() >= deadline:
                raise ClientError(f"the controllers at {', '.join(self.addresses)} have no leader")
            await asyncio.sleep(ASK_AGAIN_SECONDS)

    async def sync_state(self, broker_names: Sequence[str]) -> dict[str, ReplicasInfo]:
        """Return master and replicas of broker groups (1006); unknown names are left out."""
        if not broker_names:
            return {}
        body = msgspec.json.encode(list(broker_names))
        response = await self._ask_leader(RequestCode.CONTROLLER_GET_SYNC_STATE_DATA, body=body)
        return decode_body(response.body, BrokerReplicasInfo).replicas_info_table

    async def elect_master(
        self, cluster_name: str, broker_name: str, broker_id: int = headers.NO_BROKER_ID
    ) -> tuple[headers.ElectMasterResponseHeader, ElectMasterResponseBody]:
        """Make a replica the master, or with -1 let the controller choose one if the master is gone (1002).

        Raises:
            BrokerResponseError: it was refused; 2011 says that the master stays.
        """
        request = headers.ElectMasterRequestHeader(
            cluster_name=cluster_name,
            broker_name=broker_name,
            broker_id=broker_id,
            designate_elect=broker_id != headers.NO_BROKER_ID,
            invoke_time=self._clock.wall_ms(),
        )
        response = await self._ask_leader(RequestCode.CONTROLLER_ELECT_MASTER, request)
        header = decode_header(headers.ElectMasterResponseHeader, response.ext_fields)
        return header, decode_body(response.body, ElectMasterResponseBody)

    async def clean_broker_data(
        self, cluster_name: str, broker_name: str, broker_ids: Sequence[int], *, even_if_alive: bool = False
    ) -> None:
        """Forget replicas, or with no ids the whole group (1011).

        Raises:
            BrokerResponseError: it was refused, for instance because one of them is alive.
        """
        request = headers.CleanControllerBrokerDataRequestHeader(
            cluster_name=cluster_name,
            broker_name=broker_name,
            broker_controller_ids_to_clean=";".join(map(str, broker_ids)) or None,
            is_clean_living_broker=even_if_alive,
            invoke_time=self._clock.wall_ms(),
        )
        await self._ask_leader(RequestCode.CLEAN_BROKER_DATA, request)

    async def _ask_leader(self, code: int, header: msgspec.Struct | None = None, body: bytes = b"") -> RemotingCommand:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + LEADER_SECONDS
        while True:
            try:
                return await self._ask(await self.leader(), code, header, body)
            except RemotingConnectError:
                # The others still name one that is down; they will notice.
                if loop.time() >= deadline:
                    raise
            except BrokerResponseError as error:
                if error.code != ResponseCode.CONTROLLER_NOT_LEADER or loop.time() >= deadline:
                    raise
            await asyncio.sleep(ASK_AGAIN_SECONDS)

    async def _ask(
        self, address: str, code: int, header: msgspec.Struct | None = None, body: bytes = b""
    ) -> RemotingCommand:
        command = RemotingCommand.create_request(code, encode_header(header) if header is not None else {}, body)
        response = await self._client.request(address, command, TIMEOUT)
        if response.code != ResponseCode.SUCCESS:
            raise BrokerResponseError(response.code, response.remark, address)
        return response
