"""Who may have the log and confirm it: the slaves of this broker, and whom the settings name.

The protocol of replication has no login. So a peer is judged by its address: a name server knows it as a member of this
broker's name, `haTrustedSlaves` names it, or it is this machine and the broker serves nobody else.

Differs from RocketMQ, which sends the log to whoever connects and believes every report.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from typing import Final

from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.registration import Registration
from rocketmq_py.common.errors import RocketMQError
from rocketmq_py.common.host import split_address
from rocketmq_py.remoting.bodies.cluster import BrokerMemberGroupBody
from rocketmq_py.remoting.client import RemotingClient
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.header import encode_header
from rocketmq_py.remoting.headers.namesrv import BrokerMemberGroupRequestHeader
from rocketmq_py.remoting.java_json import decode_body
from rocketmq_py.store.config import MessageStoreConfig

logger = logging.getLogger(__name__)

ASK_SECONDS: Final = 3.0
#: Seconds for which an answer of the name servers is used again: a stranger must not make this broker ask all the time.
FRESH_SECONDS: Final = 1.0


class SlaveTrust:
    """Judges peers at the port for slaves."""

    def __init__(
        self,
        config: BrokerConfig,
        store_config: MessageStoreConfig,
        registration: Registration,
        client: RemotingClient,
    ) -> None:
        self._config = config
        self._store_config = store_config
        self._registration = registration
        self._client = client
        self._members: frozenset[str] = frozenset()
        self._asked_at = float("-inf")
        self._asking: asyncio.Lock = asyncio.Lock()

    async def is_trusted(self, host: str) -> bool:
        """Tell whether a host may follow this broker; asks the name servers if the settings do not say."""
        if is_loopback(host) and is_loopback(self._config.bind_address):
            return True
        trusted = self._store_config.ha_trusted_slaves
        if host in {name.strip() for name in trusted.split(";")}:
            return True
        async with self._asking:
            if asyncio.get_running_loop().time() - self._asked_at >= FRESH_SECONDS:
                self._members = await self._ask()
                self._asked_at = asyncio.get_running_loop().time()
        return host in self._members

    async def _ask(self) -> frozenset[str]:
        hosts: set[str] = set()
        for address in self._registration.addresses:
            header = BrokerMemberGroupRequestHeader(
                cluster_name=self._config.broker_cluster_name, broker_name=self._config.broker_name
            )
            command = RemotingCommand.create_request(RequestCode.GET_BROKER_MEMBER_GROUP, encode_header(header))
            try:
                answer = await self._client.request(address, command, ASK_SECONDS)
                if answer.code == ResponseCode.SUCCESS:
                    group = decode_body(answer.body, BrokerMemberGroupBody).broker_member_group
                    hosts.update(split_address(member)[0] for member in group.broker_addrs.values())
            except RocketMQError as error:
                logger.warning("name server %s does not say who the slaves are: %s", address, error)
        return frozenset(hosts)


def is_loopback(host: str) -> bool:
    """Tell whether an address reaches this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
