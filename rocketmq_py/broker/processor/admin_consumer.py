"""What operators ask a broker about consumers and producers: who is there, and what goes on inside a client.

Source: `AdminBrokerProcessor`, `Broker2Client`, RocketMQ 5.3.
"""

from __future__ import annotations

from typing import Final

from rocketmq_py.broker.client.consumer_manager import ConsumerManager
from rocketmq_py.broker.client.producer_manager import ProducerManager
from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.consumer_offset import ConsumerOffsetManager
from rocketmq_py.broker.refusal import Refusal
from rocketmq_py.broker.reset_offset import OffsetResetter
from rocketmq_py.broker.subscription_group import SubscriptionGroupManager
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.common.errors import InvalidInputError, RocketMQError
from rocketmq_py.common.message_id import parse_offset_id
from rocketmq_py.remoting.answer import answer
from rocketmq_py.remoting.bodies.consume_stats import (
    QuerySubscriptionResponseBody,
    decode_consumer_status,
    encode_consumer_statuses,
    encode_offset_table,
)
from rocketmq_py.remoting.bodies.subscription_group import GroupList
from rocketmq_py.remoting.bodies.topic_list import TopicList
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.errors import RemotingTimeoutError
from rocketmq_py.remoting.header import decode_header, encode_header
from rocketmq_py.remoting.headers import admin_consumer as headers
from rocketmq_py.remoting.java_json import encode_body
from rocketmq_py.remoting.processors import Processors, Request
from rocketmq_py.store.message_store import MessageStore

#: How long a client may take to answer a question that was passed on to it.
RELAY_SECONDS: Final = 10.0
STATUS_SECONDS: Final = 5.0


class AdminConsumerProcessor:
    """Answers from the tables of clients, or passes the question on to the client that knows."""

    def __init__(
        self,
        config: BrokerConfig,
        store: MessageStore,
        topics: TopicConfigManager,
        groups: SubscriptionGroupManager,
        offsets: ConsumerOffsetManager,
        consumers: ConsumerManager,
        producers: ProducerManager,
        resetter: OffsetResetter,
    ) -> None:
        self._config = config
        self._store = store
        self._topics = topics
        self._groups = groups
        self._offsets = offsets
        self._consumers = consumers
        self._producers = producers
        self._resetter = resetter

    def install(self, processors: Processors) -> None:
        """Register every handler."""
        for code, handler in (
            (RequestCode.GET_CONSUMER_CONNECTION_LIST, self.get_consumer_connections),
            (RequestCode.GET_PRODUCER_CONNECTION_LIST, self.get_producer_connections),
            (RequestCode.GET_ALL_PRODUCER_INFO, self.get_all_producers),
            (RequestCode.QUERY_TOPIC_CONSUME_BY_WHO, self.query_groups_of_topic),
            (RequestCode.QUERY_TOPICS_BY_CONSUMER, self.query_topics_of_group),
            (RequestCode.QUERY_SUBSCRIPTION_BY_CONSUMER, self.query_subscription),
            (RequestCode.INVOKE_BROKER_TO_RESET_OFFSET, self.reset_offset),
            (RequestCode.INVOKE_BROKER_TO_GET_CONSUMER_STATUS, self.get_consumer_status),
            (RequestCode.GET_CONSUMER_RUNNING_INFO, self.get_running_info),
            (RequestCode.CONSUME_MESSAGE_DIRECTLY, self.consume_directly),
        ):
            processors.register(code, handler, "admin")

    # --- who is there -------------------------------------------------------------------------------------------------

    def get_consumer_connections(self, request: Request) -> RemotingCommand:
        """Return the members of a consumer group and what it subscribes (203)."""
        group = decode_header(headers.GetConsumerConnectionListRequestHeader, request.command.ext_fields).consumer_group
        info = self._consumers.find(group)
        if info is None:
            return answer(ResponseCode.CONSUMER_NOT_ONLINE, f"the consumer group[{group}] not online")
        return answer(body=encode_body(info.to_body()))

    def get_producer_connections(self, request: Request) -> RemotingCommand:
        """Return the members of a producer group (204)."""
        group = decode_header(headers.GetProducerConnectionListRequestHeader, request.command.ext_fields).producer_group
        connections = self._producers.connections(group)
        if connections is None:
            return answer(ResponseCode.SYSTEM_ERROR, f"the producer group[{group}] not exist")
        return answer(body=encode_body(connections))

    def get_all_producers(self, request: Request) -> RemotingCommand:
        """Return the members of all producer groups (328)."""
        return answer(body=encode_body(self._producers.to_body()))

    def query_groups_of_topic(self, request: Request) -> RemotingCommand:
        """Return the groups that subscribe a topic now or have progress in it (300)."""
        topic = decode_header(headers.QueryTopicConsumeByWhoRequestHeader, request.command.ext_fields).topic
        groups = {*self._consumers.groups_of_topic(topic), *self._offsets.groups_of(topic)}
        return answer(body=encode_body(GroupList(group_list=sorted(groups))))

    def query_topics_of_group(self, request: Request) -> RemotingCommand:
        """Return the topics in which a group has progress (343)."""
        group = decode_header(headers.QueryTopicsByConsumerRequestHeader, request.command.ext_fields).group
        topics = TopicList(topic_list=self._offsets.topics_of(group), broker_addr=self._config.broker_address)
        return answer(body=encode_body(topics))

    def query_subscription(self, request: Request) -> RemotingCommand:
        """Return what a group subscribes of a topic now (345)."""
        header = decode_header(headers.QuerySubscriptionByConsumerRequestHeader, request.command.ext_fields)
        body = QuerySubscriptionResponseBody(group=header.group, topic=header.topic)
        info = self._consumers.find(header.group)
        subscription = info.subscriptions.get(header.topic or "") if info is not None else None
        if subscription is not None:
            body.subscription_data = subscription
        return answer(body=encode_body(body))

    # --- positions ----------------------------------------------------------------------------------------------------

    async def reset_offset(self, request: Request) -> RemotingCommand:
        """Move a group's position in a topic (222)."""
        header = decode_header(headers.ResetOffsetRequestHeader, request.command.ext_fields)
        result = await self._resetter.reset(header, request.command.language)
        if isinstance(result, Refusal):
            return answer(result.code, result.remark)
        return answer(body=encode_offset_table(result))

    async def get_consumer_status(self, request: Request) -> RemotingCommand:
        """Ask the members of a group for their positions (223)."""
        header = decode_header(headers.GetConsumerStatusRequestHeader, request.command.ext_fields)
        info = self._consumers.find(header.group)
        channels = [] if info is None else list(info.channels.values())
        if not channels:
            remark = f"No Any Consumer online in the consumer group: [{header.group}]"
            return answer(ResponseCode.SYSTEM_ERROR, remark)
        statuses = {}
        for channel in channels:
            if header.client_addr and channel.client_id != header.client_addr:
                continue
            command = RemotingCommand.create_request(
                RequestCode.GET_CONSUMER_STATUS_FROM_CLIENT, {"topic": header.topic, "group": header.group}
            )
            try:
                response = await channel.connection.request(command, STATUS_SECONDS)
                if response.code == ResponseCode.SUCCESS:
                    statuses[channel.client_id] = decode_consumer_status(bytes(response.body))
            except RocketMQError:
                # Some clients never answer such a question; the others' positions are worth having.
                continue
        return answer(body=encode_consumer_statuses(statuses))

    # --- questions passed on to a client ------------------------------------------------------------------------------

    async def get_running_info(self, request: Request) -> RemotingCommand:
        """Ask one consumer about its inside (307)."""
        header = decode_header(headers.GetConsumerRunningInfoRequestHeader, request.command.ext_fields)
        command = RemotingCommand.create_request(
            RequestCode.GET_CONSUMER_RUNNING_INFO, dict(request.command.ext_fields), bytes(request.command.body)
        )
        return await self._relay(header.consumer_group, header.client_id, command)

    async def consume_directly(self, request: Request) -> RemotingCommand:
        """Let one consumer handle one message now, and return what it made of it (309)."""
        header = decode_header(headers.ConsumeMessageDirectlyResultRequestHeader, request.command.ext_fields)
        if header.client_id is None:
            return answer(
                ResponseCode.SYSTEM_ERROR, "clientId is missing; name the consumer that shall handle the message"
            )
        header.broker_name = self._config.broker_name
        topic = self._topics.select(header.topic or "")
        header.topic_sys_flag = None if topic is None else topic.topic_sys_flag
        group = self._groups.select(header.consumer_group)
        header.group_sys_flag = None if group is None else group.group_sys_flag
        record = self._find_record(header.msg_id)
        if record is None:
            return answer(ResponseCode.SYSTEM_ERROR, f"the message {header.msg_id} is not in this broker")
        command = RemotingCommand.create_request(RequestCode.CONSUME_MESSAGE_DIRECTLY, encode_header(header), record)
        return await self._relay(header.consumer_group, header.client_id, command)

    def _find_record(self, msg_id: str | None) -> bytes | None:
        try:
            _, offset = parse_offset_id(msg_id or "")
        except InvalidInputError:
            return None
        record = self._store.look_record(offset)
        return None if record is None else bytes(record)

    async def _relay(self, group: str, client_id: str, command: RemotingCommand) -> RemotingCommand:
        channel = self._consumers.find_client(group, client_id)
        if channel is None:
            return answer(ResponseCode.SYSTEM_ERROR, f"The Consumer <{group}> <{client_id}> not online")
        try:
            response = await channel.connection.request(command, RELAY_SECONDS)
        except RemotingTimeoutError as error:
            return answer(ResponseCode.CONSUME_MSG_TIMEOUT, f"consumer <{group}> <{client_id}> Timeout: {error}")
        except RocketMQError as error:
            return answer(ResponseCode.SYSTEM_ERROR, f"invoke consumer <{group}> <{client_id}> Exception: {error}")
        relayed = answer(response.code, response.remark, body=bytes(response.body))
        relayed.ext_fields = dict(response.ext_fields)
        return relayed
