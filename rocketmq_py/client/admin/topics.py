"""Creating, changing, deleting and looking at topics.

Source: `DefaultMQAdminExtImpl`, `UpdateTopicSubCommand`, `DeleteTopicSubCommand`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Mapping

from rocketmq_py.client.admin.cluster import ClusterAdmin
from rocketmq_py.client.errors import BrokerResponseError, ClientError
from rocketmq_py.client.instance import MQClientInstance, checked
from rocketmq_py.common import permission
from rocketmq_py.common.message import MessageQueue
from rocketmq_py.common.topic import AUTO_CREATE_TOPIC_KEY_TOPIC, validate_topic
from rocketmq_py.remoting.bodies.route import TopicRouteData
from rocketmq_py.remoting.bodies.topic_config import SINGLE_TAG, TopicConfig
from rocketmq_py.remoting.bodies.topic_list import TopicList
from rocketmq_py.remoting.bodies.topic_stats import TopicOffset, TopicStatsTable
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.errors import RemotingError
from rocketmq_py.remoting.header import encode_header
from rocketmq_py.remoting.headers import namesrv as namesrv_headers
from rocketmq_py.remoting.headers.admin_topic import CreateTopicRequestHeader, TopicNameRequestHeader
from rocketmq_py.remoting.java_json import decode_body

logger = logging.getLogger(__name__)

#: Seconds for which `create` waits until every name server knows the topic, and between two looks.
ROUTE_SECONDS = 5.0
_LOOK_SECONDS = 0.05


class TopicAdmin:
    """Operations on topics.

    All methods raise `BrokerResponseError` if a server refuses and `RemotingError` if one does not answer.

    Args:
        instance: connections; started.
    """

    def __init__(self, instance: MQClientInstance) -> None:
        self._instance = instance
        self._cluster = ClusterAdmin(instance)

    async def create(
        self,
        topic: str,
        queues: int = 8,
        *,
        cluster: str = "",
        addresses: list[str] | None = None,
        perm: int = permission.READ_WRITE,
        order: bool = False,
        attributes: Mapping[str, str] | None = None,
    ) -> list[str]:
        """Create a topic, or change it, and wait until every name server knows it.

        Args:
            topic: its name.
            queues: for reading and writing, on each broker.
            cluster: at all masters of this cluster; empty: of the only cluster there is.
            addresses: at these brokers instead.
            perm: what it allows.
            order: it is meant for ordered messages.
            attributes: such as `message.type` -> `FIFO`; to be set.

        Returns:
            The brokers that have it now.

        Raises:
            InvalidInputError: the name breaks a rule.
            ClientError: there is no such cluster, or none of its masters is up.
        """
        validate_topic(topic)
        targets = addresses if addresses is not None else await self._masters(cluster)
        config = TopicConfig(
            topic_name=topic,
            read_queue_nums=queues,
            write_queue_nums=queues,
            perm=perm,
            order=order,
            attributes={f"+{key}": value for key, value in (attributes or {}).items()},
        )
        for address in targets:
            await self.update_at(address, config)
        await self._wait_for_route(topic, len(targets))
        return targets

    async def update_at(self, address: str, config: TopicConfig) -> None:
        """Create or replace a topic at one broker; the attributes of `config` are changes (`+key`, `-key`)."""
        attributes = ",".join(
            f"{key}={value}" if key.startswith("+") else key for key, value in config.attributes.items()
        )
        header = CreateTopicRequestHeader(
            topic=config.topic_name,
            default_topic=AUTO_CREATE_TOPIC_KEY_TOPIC,
            read_queue_nums=config.read_queue_nums,
            write_queue_nums=config.write_queue_nums,
            perm=config.perm,
            topic_filter_type=config.topic_filter_type or SINGLE_TAG,
            topic_sys_flag=config.topic_sys_flag,
            order=config.order,
            attributes=attributes or None,
        )
        await self._instance.ask(address, RequestCode.UPDATE_AND_CREATE_TOPIC, encode_header(header))

    async def delete(self, topic: str, *, cluster: str = "") -> None:
        """Delete a topic at the masters of a cluster and at every name server.

        Consumers' offsets of the topic go too; its messages stay in the commit log until that expires.
        """
        for address in await self._masters(cluster):
            header = TopicNameRequestHeader(topic=topic)
            await self._instance.ask(address, RequestCode.DELETE_TOPIC_IN_BROKER, encode_header(header))
        name = namesrv_headers.TopicRequestHeader(topic=topic, cluster_name=cluster or None)
        instance = self._instance
        await instance.name_servers.request_all(
            RequestCode.DELETE_TOPIC_IN_NAMESRV, encode_header(name), b"", instance.api_timeout
        )

    async def names(self) -> list[str]:
        """Return the names of all topics that one name server knows."""
        response = await self._instance.name_server_request(
            RemotingCommand.create_request(RequestCode.GET_ALL_TOPIC_LIST_FROM_NAMESERVER)
        )
        return sorted(decode_body(checked(response, "the name server").body, TopicList).topic_list)

    async def route(self, topic: str) -> TopicRouteData:
        """Return the route of a topic.

        Raises:
            NoRouteError: the name server does not know it.
        """
        return await self._instance.fetch_route(topic)

    async def config_at(self, address: str, topic: str) -> TopicConfig | None:
        """Return the configuration of a topic at one broker, or None if it does not have it."""
        header = TopicNameRequestHeader(topic=topic)
        try:
            response = await self._instance.ask(address, RequestCode.GET_TOPIC_CONFIG, encode_header(header))
        except BrokerResponseError as error:
            if error.code == ResponseCode.TOPIC_NOT_EXIST:
                return None
            raise
        return decode_body(response.body, TopicConfig)

    async def stats(self, topic: str) -> TopicStatsTable:
        """Return where every queue of a topic begins and ends, over all its brokers."""
        route = await self._instance.fetch_route(topic)
        table: dict[MessageQueue, TopicOffset] = {}
        tps = 0.0
        for data in route.broker_datas:
            address = data.master_addr or next(iter(data.broker_addrs.values()), None)
            if address is None:
                continue
            header = TopicNameRequestHeader(topic=topic)
            response = await self._instance.ask(address, RequestCode.GET_TOPIC_STATS_INFO, encode_header(header))
            stats = TopicStatsTable.decode(bytes(response.body))
            table.update(stats.offset_table)
            tps += stats.topic_put_tps
        return TopicStatsTable(offset_table=dict(sorted(table.items())), topic_put_tps=tps)

    async def _masters(self, cluster: str) -> list[str]:
        if not cluster:
            known = sorted((await self._cluster.cluster_info()).cluster_addr_table)
            if not known:
                raise ClientError("no broker is registered at the name server; start one with namesrvAddr set to it")
            if len(known) != 1:
                raise ClientError(f"there are {len(known)} clusters ({', '.join(known)}); name one")
            cluster = known[0]
        masters = await self._cluster.masters(cluster)
        if not masters:
            raise ClientError(f"no master of cluster {cluster} is up")
        return list(masters.values())

    async def _wait_for_route(self, topic: str, brokers: int) -> None:
        """Return once every name server shows the topic on that many brokers; after a time, return anyway."""
        try:
            async with asyncio.timeout(ROUTE_SECONDS):
                for address in self._instance.name_servers.addresses:
                    while await self._brokers_at(address, topic) < brokers:  # noqa: ASYNC110 (another process)
                        await asyncio.sleep(_LOOK_SECONDS)
        except TimeoutError:
            logger.warning("not every name server shows topic %s after %g s", topic, ROUTE_SECONDS)

    async def _brokers_at(self, address: str, topic: str) -> int:
        header = namesrv_headers.GetRouteInfoRequestHeader(topic=topic, accept_standard_json_only=True)
        command = RemotingCommand.create_request(RequestCode.GET_ROUTEINFO_BY_TOPIC, encode_header(header))
        try:
            response = await self._instance.request(address, command)
        except RemotingError as error:
            logger.warning("name server %s does not answer: %s", address, error)
            return sys.maxsize
        if response.code != ResponseCode.SUCCESS:
            return 0
        return len(decode_body(response.body, TopicRouteData).queue_datas)
