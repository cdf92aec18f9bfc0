"""What brokers of a group, and operators, ask about replication: 906, 907 and 908; and a name server's notice 905.

Source: `AdminBrokerProcessor#exchangeBrokerHAInfo`, `#getBrokerHaStatus`, `#resetMasterFlushOffset`,
`#notifyMinBrokerIdChange`, RocketMQ 5.3.
"""

from __future__ import annotations

from collections.abc import Callable

from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.ha.acting_master import ActingMaster
from rocketmq_py.broker.ha.broker_role import BrokerRoles
from rocketmq_py.broker.ha.master_search import MasterSearch
from rocketmq_py.broker.ha.member_group import MemberGroup
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.host import split_address
from rocketmq_py.remoting.answer import answer
from rocketmq_py.remoting.bodies.ha_status import HARuntimeInfo
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.header import decode_header
from rocketmq_py.remoting.headers.ha import ExchangeHAInfoHeader, ResetMasterFlushOffsetHeader
from rocketmq_py.remoting.headers.namesrv import NotifyMinBrokerIdChangeRequestHeader
from rocketmq_py.remoting.java_json import encode_body
from rocketmq_py.remoting.processors import Processors, Request
from rocketmq_py.store.checkpoint import StoreCheckpoint
from rocketmq_py.store.config import MessageStoreConfig


class HAStatusProcessor:
    """Answers them.

    Args:
        config: this broker's name, and whether slaves may act.
        store_config: what a slave remembers of its master.
        roles: this broker's role.
        search: is told where the master is.
        members: is asked again when a name server says that the smallest id changed.
        acting: ends what it does for the master when that comes.
        checkpoint: keeps the master's flushed offset.
        own_info: returns this broker's addresses and the end of its log at the start.
        status: returns how replication goes.
    """

    def __init__(
        self,
        config: BrokerConfig,
        store_config: MessageStoreConfig,
        roles: BrokerRoles,
        search: MasterSearch,
        members: MemberGroup,
        acting: ActingMaster,
        checkpoint: StoreCheckpoint,
        own_info: Callable[[], ExchangeHAInfoHeader],
        status: Callable[[], HARuntimeInfo],
    ) -> None:
        self._config = config
        self._store_config = store_config
        self._roles = roles
        self._search = search
        self._members = members
        self._acting = acting
        self._checkpoint = checkpoint
        self._own_info = own_info
        self._status = status

    def register(self, processors: Processors) -> None:
        """Register every handler."""
        for code, handler in (
            (RequestCode.NOTIFY_MIN_BROKER_ID_CHANGE, self.notify_min_broker_id),
            (RequestCode.EXCHANGE_BROKER_HA_INFO, self.exchange_ha_info),
            (RequestCode.GET_BROKER_HA_STATUS, self.get_status),
            (RequestCode.RESET_MASTER_FLUSH_OFFSET, self.reset_master_flush_offset),
        ):
            processors.register(code, handler, "admin")

    async def notify_min_broker_id(self, request: Request) -> RemotingCommand:
        """Ask who is alive (905). The notice itself is not believed: it may be old, or a stranger's."""
        header = decode_header(NotifyMinBrokerIdChangeRequestHeader, request.command.ext_fields)
        if header.broker_name == self._config.broker_name:
            await self._members.refresh()
        return answer()

    async def exchange_ha_info(self, request: Request) -> RemotingCommand:
        """Learn about the master, or tell about this one (906)."""
        header = decode_header(ExchangeHAInfoHeader, request.command.ext_fields)
        if header.master_ha_address is None:
            own = self._own_info() if not self._roles.is_slave else ExchangeHAInfoHeader()
            return answer(header=own)
        if not self._roles.is_slave:
            return answer(ResponseCode.SYSTEM_ERROR, "this broker is no slave")
        if header.master_address is None or not self._is_from(request, header.master_address):
            # Differs from RocketMQ, which follows whoever says so.
            remark = f"a master tells of itself; {header.master_address} is not at {request.connection.remote_address}"
            return answer(ResponseCode.NO_PERMISSION, remark)
        split_address(header.master_ha_address)
        # First the services, then the link: what the master asks next is final.
        await self._acting.yield_to_master()
        self._search.found(header.master_address, header.master_ha_address)
        if self._store_config.sync_master_flush_offset_when_startup and not self._checkpoint.master_flushed_offset:
            self._checkpoint.master_flushed_offset = max(0, header.master_flush_offset or 0)
        return answer()

    @staticmethod
    def _is_from(request: Request, address: str) -> bool:
        try:
            return split_address(address)[0] == split_address(request.connection.remote_address)[0]
        except InvalidInputError:
            return False

    def get_status(self, request: Request) -> RemotingCommand:
        """Return how replication goes (907)."""
        return answer(body=encode_body(self._status()))

    def reset_master_flush_offset(self, request: Request) -> RemotingCommand:
        """Set what a slave remembers of its master's flushed offset (908); nothing on a master."""
        header = decode_header(ResetMasterFlushOffsetHeader, request.command.ext_fields)
        if header.master_flush_offset < 0:
            return answer(ResponseCode.INVALID_PARAMETER, "masterFlushOffset must not be negative")
        if self._roles.is_slave:
            self._checkpoint.master_flushed_offset = header.master_flush_offset
        return answer()
