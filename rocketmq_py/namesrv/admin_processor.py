"""The requests of operators that a name server answers: lists, permissions, KV configuration, its own settings.

Source: `DefaultRequestProcessor`, RocketMQ 5.3.
"""

from __future__ import annotations

from collections.abc import Callable

from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.live_config import LiveConfig
from rocketmq_py.namesrv import topic_admin
from rocketmq_py.namesrv.config import NamesrvConfig
from rocketmq_py.namesrv.kv_config import KVConfigManager
from rocketmq_py.namesrv.route_tables import RouteTables
from rocketmq_py.remoting.answer import answer
from rocketmq_py.remoting.bodies.topic_list import TopicList
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.header import decode_header
from rocketmq_py.remoting.headers import namesrv as headers
from rocketmq_py.remoting.java_json import encode_body
from rocketmq_py.remoting.live_config_request import change_settings
from rocketmq_py.remoting.processors import Processors, Request

ListTopics = Callable[[RouteTables], TopicList]


class AdminProcessor:
    """Answers operators.

    Args:
        tables: the route tables.
        kv: the KV configuration.
        live_config: the settings that may be changed.
        config: the name server's settings.
    """

    def __init__(
        self, tables: RouteTables, kv: KVConfigManager, live_config: LiveConfig, config: NamesrvConfig
    ) -> None:
        self._tables = tables
        self._kv = kv
        self._live_config = live_config
        self._config = config

    def install(self, processors: Processors) -> None:
        """Register every handler."""
        for code, handler in (
            (RequestCode.PUT_KV_CONFIG, self.put_kv_config),
            (RequestCode.GET_KV_CONFIG, self.get_kv_config),
            (RequestCode.DELETE_KV_CONFIG, self.delete_kv_config),
            (RequestCode.GET_KVLIST_BY_NAMESPACE, self.get_kv_list),
            (RequestCode.WIPE_WRITE_PERM_OF_BROKER, self.wipe_write_permission),
            (RequestCode.ADD_WRITE_PERM_OF_BROKER, self.add_write_permission),
            (RequestCode.GET_ALL_TOPIC_LIST_FROM_NAMESERVER, self.get_all_topics),
            (RequestCode.GET_TOPICS_BY_CLUSTER, self.get_topics_by_cluster),
            (RequestCode.GET_SYSTEM_TOPIC_LIST_FROM_NS, self.get_system_topics),
            (RequestCode.GET_UNIT_TOPIC_LIST, self.get_unit_topics),
            (RequestCode.GET_HAS_UNIT_SUB_TOPIC_LIST, self.get_unit_subscription_topics),
            (RequestCode.GET_HAS_UNIT_SUB_UNUNIT_TOPIC_LIST, self.get_unit_subscription_only_topics),
            (RequestCode.DELETE_TOPIC_IN_NAMESRV, self.delete_topic),
            (RequestCode.UPDATE_NAMESRV_CONFIG, self.update_config),
            (RequestCode.GET_NAMESRV_CONFIG, self.get_config),
        ):
            processors.register(code, handler, "namesrv")

    # --- KV configuration --------------------------------------------------------------------------------------------

    async def put_kv_config(self, request: Request) -> RemotingCommand:
        """Set a value (100)."""
        header = decode_header(headers.PutKVConfigRequestHeader, request.command.ext_fields)
        try:
            await self._kv.put(header.namespace, header.key, header.value)
        except InvalidInputError as error:
            return answer(ResponseCode.SYSTEM_ERROR, str(error))
        return answer()

    def get_kv_config(self, request: Request) -> RemotingCommand:
        """Return a value (101)."""
        header = decode_header(headers.KVConfigRequestHeader, request.command.ext_fields)
        value = self._kv.get(header.namespace, header.key)
        if value is None:
            remark = f"No config item, Namespace: {header.namespace} Key: {header.key}"
            return answer(ResponseCode.QUERY_NOT_FOUND, remark)
        return answer(header=headers.GetKVConfigResponseHeader(value=value))

    async def delete_kv_config(self, request: Request) -> RemotingCommand:
        """Remove a value (102)."""
        header = decode_header(headers.KVConfigRequestHeader, request.command.ext_fields)
        await self._kv.delete(header.namespace, header.key)
        return answer()

    def get_kv_list(self, request: Request) -> RemotingCommand:
        """Return a namespace (219)."""
        header = decode_header(headers.NamespaceRequestHeader, request.command.ext_fields)
        table = self._kv.namespace(header.namespace)
        if table is None:
            return answer(ResponseCode.QUERY_NOT_FOUND, f"No config item, Namespace: {header.namespace}")
        return answer(body=encode_body(table))

    # --- permissions and topics --------------------------------------------------------------------------------------

    def wipe_write_permission(self, request: Request) -> RemotingCommand:
        """Take a broker out of writing (205)."""
        header = decode_header(headers.BrokerNameRequestHeader, request.command.ext_fields)
        count = topic_admin.wipe_write_permission(self._tables, header.broker_name)
        return answer(header=headers.WipeWritePermResponseHeader(wipe_topic_count=count))

    def add_write_permission(self, request: Request) -> RemotingCommand:
        """Take a broker back into writing (327)."""
        header = decode_header(headers.BrokerNameRequestHeader, request.command.ext_fields)
        count = topic_admin.add_write_permission(self._tables, header.broker_name)
        return answer(header=headers.AddWritePermResponseHeader(add_topic_count=count))

    def get_all_topics(self, request: Request) -> RemotingCommand:
        """List all topics (206)."""
        return self._list(topic_admin.all_topics, is_allowed=self._config.enable_all_topic_list)

    def get_topics_by_cluster(self, request: Request) -> RemotingCommand:
        """List the topics of a cluster (224)."""
        header = decode_header(headers.GetTopicsByClusterRequestHeader, request.command.ext_fields)
        return self._list(lambda tables: topic_admin.topics_of_cluster(tables, header.cluster))

    def get_system_topics(self, request: Request) -> RemotingCommand:
        """List the topics named like clusters and brokers (304)."""
        return self._list(topic_admin.system_topics, is_allowed=True)

    def get_unit_topics(self, request: Request) -> RemotingCommand:
        """List the topics of units (311)."""
        return self._list(lambda tables: topic_admin.unit_topics(tables, unit=True))

    def get_unit_subscription_topics(self, request: Request) -> RemotingCommand:
        """List the topics with subscriptions of units (312)."""
        return self._list(lambda tables: topic_admin.unit_topics(tables, subscription=True))

    def get_unit_subscription_only_topics(self, request: Request) -> RemotingCommand:
        """List the topics with subscriptions of units that are not of a unit themselves (313)."""
        return self._list(lambda tables: topic_admin.unit_topics(tables, unit=False, subscription=True))

    def _list(self, list_topics: ListTopics, *, is_allowed: bool | None = None) -> RemotingCommand:
        if not (self._config.enable_topic_list if is_allowed is None else is_allowed):
            return answer(ResponseCode.SYSTEM_ERROR, "disable")
        return answer(body=encode_body(list_topics(self._tables)))

    def delete_topic(self, request: Request) -> RemotingCommand:
        """Forget a topic, wholly or in one cluster (216)."""
        header = decode_header(headers.TopicRequestHeader, request.command.ext_fields)
        topic_admin.delete_topic(self._tables, header.topic, header.cluster_name)
        return answer()

    # --- settings ----------------------------------------------------------------------------------------------------

    async def update_config(self, request: Request) -> RemotingCommand:
        """Change settings (318)."""
        return await change_settings(self._live_config, request)

    def get_config(self, request: Request) -> RemotingCommand:
        """Return all settings (319)."""
        return answer(body=self._live_config.to_text().encode())
