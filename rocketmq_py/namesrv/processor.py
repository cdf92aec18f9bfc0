"""The requests of brokers and clients that a name server answers: registration, signs of life, routes.

`admin_processor` has those of operators.

Source: `DefaultRequestProcessor`, `ClientRequestProcessor`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from rocketmq_py.common.data_version import DataVersion
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.java import parse_bool
from rocketmq_py.namesrv import route_query, topic_admin
from rocketmq_py.namesrv.config import NamesrvConfig
from rocketmq_py.namesrv.kv_config import NAMESPACE_ORDER_TOPIC_CONFIG, KVConfigManager
from rocketmq_py.namesrv.route_info import (
    BROKER_CHANNEL_EXPIRED_SECONDS,
    BrokerIdentity,
    BrokerRegistration,
    RegistrationRefusedError,
    RouteInfoManager,
)
from rocketmq_py.remoting.answer import FAQ, answer
from rocketmq_py.remoting.bodies.cluster import BrokerMemberGroupBody
from rocketmq_py.remoting.bodies.register_broker import RegisterBrokerBody, body_crc32, decode_register_body
from rocketmq_py.remoting.bodies.route import TopicRouteData, encode_route
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.header import decode_header
from rocketmq_py.remoting.headers import namesrv as headers
from rocketmq_py.remoting.java_json import decode_body, encode_body
from rocketmq_py.remoting.processors import Processors, Request

#: Ordinals of versions from which a peer behaves differently.
V4_9_4: Final = 401
V5_0_0: Final = 413

#: Longest time in seconds for which a broker may ask to be kept without a sign of life.
MAX_TIMEOUT_SECONDS: Final = 3_600.0


class DefaultRequestProcessor:
    """Answers brokers and clients.

    Args:
        routes: the route tables.
        kv: the KV configuration.
        config: the name server's settings.
    """

    def __init__(self, routes: RouteInfoManager, kv: KVConfigManager, config: NamesrvConfig) -> None:
        self._routes = routes
        self._kv = kv
        self._config = config
        self._ready_at: float | None = None

    def install(self, processors: Processors) -> None:
        """Register every handler."""
        for code, handler in (
            (RequestCode.REGISTER_BROKER, self.register_broker),
            (RequestCode.UNREGISTER_BROKER, self.unregister_broker),
            (RequestCode.QUERY_DATA_VERSION, self.query_data_version),
            (RequestCode.BROKER_HEARTBEAT, self.broker_heartbeat),
            (RequestCode.GET_ROUTEINFO_BY_TOPIC, self.get_route_info),
            (RequestCode.GET_BROKER_CLUSTER_INFO, self.get_cluster_info),
            (RequestCode.GET_BROKER_MEMBER_GROUP, self.get_member_group),
            (RequestCode.REGISTER_TOPIC_IN_NAMESRV, self.register_topic),
        ):
            processors.register(code, handler, "namesrv")

    def started(self) -> None:
        """Note the start, from which `waitSecondsForService` counts."""
        self._ready_at = self.now() + self._config.wait_seconds_for_service

    @staticmethod
    def now() -> float:
        """The time by which brokers live: seconds of the event loop's clock."""
        return asyncio.get_running_loop().time()

    # --- brokers ---------------------------------------------------------------------------------------------------

    def register_broker(self, request: Request) -> RemotingCommand:
        """Enter a broker and its topics (103)."""
        command = request.command
        header = decode_header(headers.RegisterBrokerRequestHeader, command.ext_fields)
        body_bytes = bytes(command.body)
        if header.body_crc32 and header.body_crc32 != body_crc32(body_bytes):
            return answer(ResponseCode.SYSTEM_ERROR, "crc32 not match")
        body = decode_register_body(body_bytes, compressed=header.compressed, static_topics=command.version >= V5_0_0)
        try:
            result = self._routes.register_broker(self._registration(request, header, body), self.now())
        except RegistrationRefusedError:
            return answer(ResponseCode.SYSTEM_ERROR, "register broker failed")
        order_topics = None
        if self._config.return_order_topic_config_to_broker:
            order_topics = self._kv.namespace(NAMESPACE_ORDER_TOPIC_CONFIG)
        return answer(
            header=headers.RegisterBrokerResponseHeader(
                ha_server_addr=result.ha_server_addr, master_addr=result.master_addr
            ),
            body=encode_body(order_topics) if order_topics is not None else b"",
        )

    @staticmethod
    def _registration(
        request: Request, header: headers.RegisterBrokerRequestHeader, body: RegisterBrokerBody
    ) -> BrokerRegistration:
        _check_names(header.cluster_name, header.broker_name, header.broker_addr)
        timeout = BROKER_CHANNEL_EXPIRED_SECONDS
        if header.heartbeat_timeout_millis is not None:
            timeout = min(max(header.heartbeat_timeout_millis, 0) / 1000, MAX_TIMEOUT_SECONDS)
        return BrokerRegistration(
            identity=BrokerIdentity(header.cluster_name, header.broker_name, header.broker_addr, header.broker_id),
            ha_server_addr=header.ha_server_addr,
            timeout=timeout,
            enable_acting_master=header.enable_acting_master,
            zone_name=request.command.ext_fields.get(headers.ZONE_NAME),
            topics=body.topic_config_serialize_wrapper,
            filter_servers=body.filter_server_list,
            connection=request.connection,
        )

    def unregister_broker(self, request: Request) -> RemotingCommand:
        """Remove a broker (104)."""
        header = decode_header(headers.BrokerIdentityRequestHeader, request.command.ext_fields)
        self._routes.unregister_broker(
            BrokerIdentity(header.cluster_name, header.broker_name, header.broker_addr, header.broker_id)
        )
        return answer()

    def query_data_version(self, request: Request) -> RemotingCommand:
        """Compare the version of a broker's topics with the known one; a sign of life, too (322)."""
        header = decode_header(headers.BrokerIdentityRequestHeader, request.command.ext_fields)
        version = decode_body(request.command.body, DataVersion)
        key = (header.cluster_name, header.broker_addr)
        is_changed, known = self._routes.query_data_version(key, version, self.now())
        return answer(
            header=headers.QueryDataVersionResponseHeader(changed=is_changed),
            body=encode_body(known) if known is not None else b"",
        )

    def broker_heartbeat(self, request: Request) -> RemotingCommand:
        """Note a sign of life (904)."""
        header = decode_header(headers.BrokerHeartbeatRequestHeader, request.command.ext_fields)
        self._routes.heartbeat((header.cluster_name, header.broker_addr), self.now())
        return answer()

    def register_topic(self, request: Request) -> RemotingCommand:
        """Enter the queues of one topic (217)."""
        header = decode_header(headers.TopicRequestHeader, request.command.ext_fields)
        route = decode_body(request.command.body, TopicRouteData)
        topic_admin.register_topic(self._routes.tables, header.topic, route.queue_datas)
        return answer()

    # --- clients ---------------------------------------------------------------------------------------------------

    def get_route_info(self, request: Request) -> RemotingCommand:
        """Say where the queues of a topic are (105)."""
        command = request.command
        header = decode_header(headers.GetRouteInfoRequestHeader, command.ext_fields)
        if self._config.need_wait_for_service and self._ready_at is not None and self.now() < self._ready_at:
            return answer(ResponseCode.SYSTEM_ERROR, "name server not ready")
        route = route_query.pick_up_route(
            self._routes.tables, header.topic, acting_master=self._config.support_acting_master
        )
        if route is None:
            remark = f"No topic route info in name server for the topic: {header.topic}{FAQ}"
            return answer(ResponseCode.TOPIC_NOT_EXIST, remark)
        if self._config.order_message_enable:
            order = self._kv.get(NAMESPACE_ORDER_TOPIC_CONFIG, header.topic)
            route.order_topic_conf = order if order is not None else msgspec.UNSET
        zone = command.ext_fields.get(headers.ZONE_NAME, "").strip()
        if zone and parse_bool(command.ext_fields.get(headers.ZONE_MODE, "")):
            route_query.filter_zone(route, zone)
        # Readers of before 4.9.4 know the form with bare numbers as keys only.
        is_legacy = command.version < V4_9_4 and not header.accept_standard_json_only
        return answer(body=encode_route(route, legacy=is_legacy))

    def get_cluster_info(self, request: Request) -> RemotingCommand:
        """List clusters and brokers (106)."""
        return answer(body=encode_body(route_query.cluster_info(self._routes.tables)))

    def get_member_group(self, request: Request) -> RemotingCommand:
        """List the processes of one broker name (901)."""
        header = decode_header(headers.BrokerMemberGroupRequestHeader, request.command.ext_fields)
        group = route_query.member_group(self._routes.tables, header.cluster_name, header.broker_name)
        return answer(body=encode_body(BrokerMemberGroupBody(group)))


def _check_names(*names: str) -> None:
    for name in names:
        if not name or len(name) > 255 or not name.isprintable():
            raise InvalidInputError(
                f"cluster, broker name and address must be 1 to 255 printable characters: {name[:64]!r}"
            )
