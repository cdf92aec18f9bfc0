"""Clients come and go: HEART_BEAT (34), UNREGISTER_CLIENT (35) and CHECK_CLIENT_CONFIG (46).

Source: `ClientManageProcessor`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from rocketmq_py.broker.client.channel import ClientChannel, ClientConnection
from rocketmq_py.broker.client.consumer_manager import ConsumerManager
from rocketmq_py.broker.client.producer_manager import ProducerManager
from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.filter.expression import FilterExpressionError
from rocketmq_py.broker.filter.sql_compiler import SqlCompiler
from rocketmq_py.broker.subscription_group import SubscriptionGroupManager
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.topic import retry_topic
from rocketmq_py.remoting.answer import answer
from rocketmq_py.remoting.bodies.heartbeat import (
    IS_SUB_CHANGE,
    IS_SUPPORT_HEART_BEAT_V2,
    CheckClientRequestBody,
    ConsumeFromWhere,
    ConsumerData,
    ConsumeType,
    HeartbeatData,
    MessageModel,
    read_enum,
)
from rocketmq_py.remoting.bodies.subscription import SQL92, SubscriptionData, is_tag_type
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.header import decode_header
from rocketmq_py.remoting.headers.heartbeat import UnregisterClientRequestHeader
from rocketmq_py.remoting.java_json import decode_body
from rocketmq_py.remoting.processors import Processors, Request

logger = logging.getLogger(__name__)

#: Limits of one heartbeat: what a client may make the broker remember.
MAX_BODY_SIZE: Final = 1 << 20
MAX_GROUPS: Final = 1_000
MAX_SUBSCRIPTIONS: Final = 10_000
MAX_EXPRESSION_LENGTH: Final = 65_536


class ClientManageProcessor:
    """Keeps the tables of producers and consumers up to date.

    Its handlers are plain functions: heartbeats of a connection take effect in the order in which they come.
    """

    def __init__(
        self,
        config: BrokerConfig,
        environment: Environment,
        consumers: ConsumerManager,
        producers: ProducerManager,
        groups: SubscriptionGroupManager,
        topics: TopicConfigManager,
        compiler: SqlCompiler,
    ) -> None:
        self._config = config
        self._clock = environment.clock
        self._consumers = consumers
        self._producers = producers
        self._groups = groups
        self._topics = topics
        self._compiler = compiler

    def install(self, processors: Processors) -> None:
        """Register the handlers."""
        processors.register(RequestCode.HEART_BEAT, self.heart_beat, "heartbeat")
        processors.register(RequestCode.UNREGISTER_CLIENT, self.unregister_client, "client manage")
        processors.register(RequestCode.CHECK_CLIENT_CONFIG, self.check_client_config, "client manage")

    # --- heartbeats ---------------------------------------------------------------------------------------------------

    def heart_beat(self, request: Request) -> RemotingCommand:
        """Note who the client is and what it subscribes."""
        body = request.command.body
        if len(body) > MAX_BODY_SIZE:
            return answer(ResponseCode.SYSTEM_ERROR, f"heartbeat of {len(body)} bytes; at most {MAX_BODY_SIZE}")
        data = decode_body(body, HeartbeatData)
        _check_limits(data)
        is_changed = self._is_fingerprint_new(data)
        for consumer in data.consumer_data_set:
            self._register_consumer(request, data, consumer)
        for producer in data.producer_data_set:
            self._producers.register(producer.group_name, self._channel(request, data.client_id))
        response = answer()
        response.ext_fields = {IS_SUPPORT_HEART_BEAT_V2: "true", IS_SUB_CHANGE: "true" if is_changed else "false"}
        return response

    def _is_fingerprint_new(self, data: HeartbeatData) -> bool:
        """Tell a client whether it must send its subscriptions again: always, if it sends version 1."""
        fingerprint = data.heartbeat_fingerprint
        if not fingerprint:
            return True
        infos = [self._consumers.find(consumer.group_name) for consumer in data.consumer_data_set]
        if any(info is not None and info.fingerprint not in (0, fingerprint) for info in infos):
            return True
        # Differs from RocketMQ: after a restart of the broker it knows no subscriptions to go on with.
        return data.without_sub and any(info is None for info in infos)

    def _register_consumer(self, request: Request, data: HeartbeatData, consumer: ConsumerData) -> None:
        group = consumer.group_name
        consume_type = read_enum(ConsumeType, consumer.consume_type, ConsumeType.CONSUME_PASSIVELY)
        if self._config.reject_pull_consumer_enable and consume_type is ConsumeType.CONSUME_ACTIVELY:
            return
        config = self._groups.find(group)
        if config is None:
            logger.warning("client %s consumes in group %s, which may not be created", data.client_id, group)
            return
        subscribed = consumer.subscription_data_set
        if config.retry_queue_nums > 0:
            order = any(self._is_ordered(subscription) for subscription in subscribed)
            self._topics.create_in_send_back(retry_topic(group), config.retry_queue_nums, order=order)
        self._consumers.register(
            group,
            self._channel(request, data.client_id),
            consume_type=consume_type,
            message_model=read_enum(MessageModel, consumer.message_model, MessageModel.CLUSTERING),
            consume_from_where=read_enum(
                ConsumeFromWhere, consumer.consume_from_where, ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET
            ),
            subscriptions=None if data.without_sub else subscribed,
            notify=config.notify_consumer_ids_changed_enable,
        )
        info = self._consumers.find(group)
        if info is not None and not data.without_sub:
            info.fingerprint = data.heartbeat_fingerprint

    def _is_ordered(self, subscription: SubscriptionData) -> bool:
        config = self._topics.select(subscription.topic)
        return config is not None and config.order

    def _channel(self, request: Request, client_id: str) -> ClientChannel:
        connection: ClientConnection = request.connection
        command = request.command
        return ClientChannel(
            connection,
            client_id,
            command.language.name,
            command.version,
            heard_at=asyncio.get_running_loop().time(),
            last_update_timestamp=self._clock.wall_ms(),
        )

    # --- good-bye and questions ---------------------------------------------------------------------------------------

    def unregister_client(self, request: Request) -> RemotingCommand:
        """Remove a client from the groups that it names."""
        header = decode_header(UnregisterClientRequestHeader, request.command.ext_fields)
        if header.producer_group:
            self._producers.unregister(header.producer_group, request.connection)
        if header.consumer_group:
            config = self._groups.select(header.consumer_group)
            notify = config is None or config.notify_consumer_ids_changed_enable
            self._consumers.unregister(header.consumer_group, request.connection, notify=notify)
        return answer()

    def check_client_config(self, request: Request) -> RemotingCommand:
        """Tell a consumer, before it starts, whether its expression can be used here."""
        subscription = decode_body(request.command.body, CheckClientRequestBody).subscription_data
        kind = subscription.expression_type
        if is_tag_type(kind):
            return answer()
        if not self._config.enable_property_filter:
            remark = f"The broker does not support consumer to filter message by {kind}"
            return answer(ResponseCode.SYSTEM_ERROR, remark)
        if kind != SQL92:
            return answer(ResponseCode.SUBSCRIPTION_PARSE_FAILED, f"{kind} is no expression type; use TAG or SQL92")
        try:
            self._compiler.compile(subscription.sub_string)
        except FilterExpressionError as error:
            return answer(ResponseCode.SUBSCRIPTION_PARSE_FAILED, str(error))
        return answer()


def _check_limits(data: HeartbeatData) -> None:
    groups = len(data.consumer_data_set) + len(data.producer_data_set)
    if groups > MAX_GROUPS:
        raise InvalidInputError(f"heartbeat of {data.client_id} names {groups} groups; at most {MAX_GROUPS}")
    subscriptions = [one for consumer in data.consumer_data_set for one in consumer.subscription_data_set]
    if len(subscriptions) > MAX_SUBSCRIPTIONS:
        raise InvalidInputError(
            f"heartbeat of {data.client_id} has {len(subscriptions)} subscriptions; at most {MAX_SUBSCRIPTIONS}"
        )
    for subscription in subscriptions:
        if len(subscription.sub_string) > MAX_EXPRESSION_LENGTH:
            raise InvalidInputError(
                f"the expression for topic {subscription.topic[:127]} has {len(subscription.sub_string)} characters; "
                f"at most {MAX_EXPRESSION_LENGTH}"
            )
