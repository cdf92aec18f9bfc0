"""Consumer groups: who is connected, how far they are, and moving them.

A group is found by its retry topic, which a broker creates with the group's first heartbeat.

Source: `DefaultMQAdminExtImpl`, RocketMQ 5.3.
"""

from __future__ import annotations

from rocketmq_py.client.errors import BrokerResponseError, ClientError, NoRouteError
from rocketmq_py.client.instance import MQClientInstance
from rocketmq_py.common.message import MessageQueue
from rocketmq_py.common.topic import retry_topic, validate_group
from rocketmq_py.remoting.bodies.consume_stats import ConsumeStats, OffsetWrapper, decode_offset_table
from rocketmq_py.remoting.bodies.heartbeat import (
    ConsumerConnection,
    ProducerConnection,
    ProducerInfo,
    ProducerTableInfo,
)
from rocketmq_py.remoting.bodies.route import TopicRouteData
from rocketmq_py.remoting.bodies.subscription_group import GroupList, SubscriptionGroupConfig
from rocketmq_py.remoting.bodies.topic_list import TopicList
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.header import encode_header
from rocketmq_py.remoting.headers import admin_consumer as headers
from rocketmq_py.remoting.headers.offsets import UpdateConsumerOffsetRequestHeader
from rocketmq_py.remoting.java_json import decode_body, encode_body

#: Seconds for consume statistics, which a broker gathers queue by queue.
STATS_SECONDS = 15.0


class ConsumerAdmin:
    """Operations on consumer groups and producers.

    All methods raise `BrokerResponseError` if a server refuses and `RemotingError` if one does not answer.

    Args:
        instance: connections and routes; started.
    """

    def __init__(self, instance: MQClientInstance) -> None:
        self._instance = instance

    async def create_group(self, addresses: list[str], config: SubscriptionGroupConfig) -> None:
        """Create or change a group at some brokers.

        Raises:
            InvalidInputError: the name breaks a rule.
        """
        validate_group(config.group_name)
        for address in addresses:
            await self._instance.ask(address, RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, body=encode_body(config))

    async def delete_group(self, addresses: list[str], group: str, *, clean_offset: bool = False) -> None:
        """Delete a group at some brokers, with its offsets if `clean_offset`."""
        header = headers.DeleteSubscriptionGroupRequestHeader(
            group_name=group, clean_offset=clean_offset, remove_offset=clean_offset
        )
        for address in addresses:
            await self._instance.ask(address, RequestCode.DELETE_SUBSCRIPTIONGROUP, encode_header(header))

    async def consume_stats(self, group: str, topic: str | None = None) -> ConsumeStats:
        """Return how far a group is in every queue, over all brokers.

        Raises:
            NoRouteError: the group never connected.
        """
        route = await self._route_of_group(group, topic)
        header = headers.GetConsumeStatsRequestHeader(consumer_group=group, topic=topic)
        table: dict[MessageQueue, OffsetWrapper] = {}
        tps = 0.0
        for address in brokers_of(route):
            response = await self._instance.ask(
                address, RequestCode.GET_CONSUME_STATS, encode_header(header), timeout=STATS_SECONDS
            )
            stats = ConsumeStats.decode(bytes(response.body))
            table.update(stats.offset_table)
            tps += stats.consume_tps
        return ConsumeStats(offset_table=dict(sorted(table.items())), consume_tps=tps)

    async def connections(self, group: str) -> ConsumerConnection | None:
        """Return who is connected in a consumer group; None if nobody is.

        Raises:
            NoRouteError: the group never connected.
        """
        route = await self._route_of_group(group)
        header = headers.GetConsumerConnectionListRequestHeader(consumer_group=group)
        for address in brokers_of(route):
            try:
                response = await self._instance.ask(
                    address, RequestCode.GET_CONSUMER_CONNECTION_LIST, encode_header(header)
                )
            except BrokerResponseError as error:
                if error.code != ResponseCode.CONSUMER_NOT_ONLINE:
                    raise
            else:
                return decode_body(response.body, ConsumerConnection)
        return None

    async def producer_connections(self, group: str, topic: str) -> ProducerConnection | None:
        """Return who is connected in a producer group, as a broker of `topic` knows it; None if nobody is."""
        route = await self._instance.fetch_route(topic)
        header = headers.GetProducerConnectionListRequestHeader(producer_group=group)
        for address in brokers_of(route):
            try:
                response = await self._instance.ask(
                    address, RequestCode.GET_PRODUCER_CONNECTION_LIST, encode_header(header)
                )
            except BrokerResponseError as error:
                if error.code != ResponseCode.SYSTEM_ERROR:
                    raise
            else:
                return decode_body(response.body, ProducerConnection)
        return None

    async def producers_at(self, address: str) -> dict[str, list[ProducerInfo]]:
        """Return all producers that are connected to a broker, by group."""
        response = await self._instance.ask(address, RequestCode.GET_ALL_PRODUCER_INFO)
        return decode_body(response.body, ProducerTableInfo).data

    async def groups_of_topic(self, topic: str) -> list[str]:
        """Return the groups that consume a topic now or have offsets in it, over all brokers."""
        route = await self._instance.fetch_route(topic)
        header = headers.QueryTopicConsumeByWhoRequestHeader(topic=topic)
        groups: set[str] = set()
        for address in brokers_of(route):
            response = await self._instance.ask(address, RequestCode.QUERY_TOPIC_CONSUME_BY_WHO, encode_header(header))
            groups.update(decode_body(response.body, GroupList).group_list)
        return sorted(groups)

    async def topics_of_group(self, group: str) -> list[str]:
        """Return the topics in which a group has offsets, over all brokers.

        Raises:
            NoRouteError: the group never connected.
        """
        route = await self._route_of_group(group)
        header = headers.QueryTopicsByConsumerRequestHeader(group=group)
        topics: set[str] = set()
        for address in brokers_of(route):
            response = await self._instance.ask(address, RequestCode.QUERY_TOPICS_BY_CONSUMER, encode_header(header))
            topics.update(decode_body(response.body, TopicList).topic_list)
        return sorted(topics)

    async def reset_offset_by_time(
        self, topic: str, group: str, timestamp: int, *, force: bool = True
    ) -> dict[MessageQueue, int]:
        """Move a group to the first message stored at a time (milliseconds since 1970; -1: the end) or later.

        Members that are online are told by the brokers; a group without members is moved as well.

        Returns:
            The new offset of every queue.

        Raises:
            NoRouteError: the topic is not known.
            BrokerResponseError: a broker refused; brokers that were asked before it stay reset.
        """
        route = await self._instance.fetch_route(topic)
        header = headers.ResetOffsetRequestHeader(
            topic=topic, group=group, timestamp=timestamp, is_force=force, offset=-1
        )
        offsets: dict[MessageQueue, int] = {}
        for address in brokers_of(route):
            response = await self._instance.ask(
                address, RequestCode.INVOKE_BROKER_TO_RESET_OFFSET, encode_header(header)
            )
            offsets.update(decode_offset_table(bytes(response.body)))
        return dict(sorted(offsets.items()))

    async def update_offset(self, queue: MessageQueue, group: str, offset: int) -> None:
        """Set the offset of a group in one queue. Members that are online write over it.

        Raises:
            ClientError: the queue's master is not known.
        """
        await self._instance.update_route(queue.topic)
        address = self._instance.master_address(queue.broker_name)
        if address is None:
            raise ClientError(f"the master of broker {queue.broker_name} is not known")
        header = UpdateConsumerOffsetRequestHeader(
            consumer_group=group, topic=queue.topic, queue_id=queue.queue_id, commit_offset=offset
        )
        await self._instance.ask(address, RequestCode.UPDATE_CONSUMER_OFFSET, encode_header(header))

    async def _route_of_group(self, group: str, topic: str | None = None) -> TopicRouteData:
        try:
            return await self._instance.fetch_route(retry_topic(group))
        except NoRouteError:
            if topic is None:
                raise
            return await self._instance.fetch_route(topic)


def brokers_of(route: TopicRouteData) -> list[str]:
    """Return one address of each broker name: the master's, or that of a slave."""
    return [
        data.master_addr or next(iter(data.broker_addrs.values())) for data in route.broker_datas if data.broker_addrs
    ]
