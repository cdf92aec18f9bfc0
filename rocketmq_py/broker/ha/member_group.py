"""Who belongs to this broker's group and is alive, as the name servers see it.

A group is the brokers of one name: the master has id 0. The name servers are asked every `syncBrokerMemberGroupPeriod`
(1 s), and may say by themselves that the smallest id has changed.

Source: `BrokerController#syncBrokerMemberGroup`, `BrokerOuterAPI#syncBrokerMemberGroup`, RocketMQ 5.3.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final

from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.read_policy import MASTER_ID
from rocketmq_py.broker.registration import Registration
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.remoting.bodies.cluster import BrokerMemberGroupBody
from rocketmq_py.remoting.bodies.route import TopicRouteData
from rocketmq_py.remoting.client import RemotingClient
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.errors import RemotingError
from rocketmq_py.remoting.header import encode_header
from rocketmq_py.remoting.headers import namesrv as headers
from rocketmq_py.remoting.java_json import decode_body

logger = logging.getLogger(__name__)

ASK_SECONDS: Final = 3.0
SYNC_MEMBER_TOPIC: Final = "rmq_sys_SYNC_BROKER_MEMBER_"

Members = Mapping[int, str]


class MemberGroup:
    """Knows the members.

    Args:
        config: the broker's name and cluster.
        client: asks.
        registration: knows the name servers.

    Attributes:
        members: id to address; empty before the first answer.
        is_known: whether a name server has answered yet.
        listeners: called with the members before and now, when they have changed.
    """

    def __init__(self, config: BrokerConfig, client: RemotingClient, registration: Registration) -> None:
        self.members: Members = {}
        self.is_known = False
        self.listeners: list[Callable[[Members, Members], None]] = []
        self._config = config
        self._client = client
        self._registration = registration

    @property
    def min_id(self) -> int:
        """The smallest id; that of a master while nobody has said otherwise."""
        return min(self.members, default=MASTER_ID)

    @property
    def has_master(self) -> bool:
        """Whether a master is alive, as far as is known."""
        return self.min_id == MASTER_ID

    async def refresh(self) -> bool:
        """Ask until one name server has answered; return whether one has."""
        for address in self._registration.addresses:
            try:
                members = await self._ask(address)
            except (RemotingError, InvalidInputError) as error:
                logger.debug("name server %s did not say who belongs to this group: %s", address, error)
                continue
            if members is not None:
                self.set(members)
                return True
        return False

    def set(self, members: Members) -> None:
        """Take note of who is alive."""
        before, is_first = self.members, not self.is_known
        self.members, self.is_known = dict(members), True
        if is_first or before != self.members:
            for listener in self.listeners:
                listener(before, self.members)

    async def _ask(self, address: str) -> Members | None:
        config = self._config
        header = headers.BrokerMemberGroupRequestHeader(
            cluster_name=config.broker_cluster_name, broker_name=config.broker_name
        )
        command = RemotingCommand.create_request(RequestCode.GET_BROKER_MEMBER_GROUP, encode_header(header))
        response = await self._client.request(address, command, ASK_SECONDS)
        if response.code == ResponseCode.SUCCESS:
            return decode_body(response.body, BrokerMemberGroupBody).broker_member_group.broker_addrs
        if response.code == ResponseCode.REQUEST_CODE_NOT_SUPPORTED:
            return await self._ask_old(address)
        return None

    async def _ask_old(self, address: str) -> Members | None:
        """Ask a name server of before 5.0: each group has a topic whose route names its members."""
        header = headers.GetRouteInfoRequestHeader(topic=SYNC_MEMBER_TOPIC + self._config.broker_name)
        command = RemotingCommand.create_request(RequestCode.GET_ROUTEINFO_BY_TOPIC, encode_header(header))
        response = await self._client.request(address, command, ASK_SECONDS)
        if response.code == ResponseCode.TOPIC_NOT_EXIST:
            return {}
        if response.code != ResponseCode.SUCCESS:
            return None
        for data in decode_body(response.body, TopicRouteData).broker_datas:
            if data.broker_name == self._config.broker_name:
                return data.broker_addrs
        return {}

    def __repr__(self) -> str:
        return f"<MemberGroup {self._config.broker_name} {dict(self.members) if self.is_known else 'unknown'}>"
