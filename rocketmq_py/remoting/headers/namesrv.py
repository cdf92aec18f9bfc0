"""Header fields of the requests that name servers answer, and of their answers.

Source: the `*RequestHeader` and `*ResponseHeader` classes of `remoting.protocol.header.namesrv`, RocketMQ 5.3.
"""

from __future__ import annotations

import msgspec

from rocketmq_py.remoting.header import I32, I64

#: Ext fields outside the headers: the zone of a broker or client, and that a client wants brokers of its zone only.
ZONE_NAME = "__ZONE_NAME"
ZONE_MODE = "__ZONE_MODE"


class RegisterBrokerRequestHeader(msgspec.Struct, rename="camel", kw_only=True):
    """REGISTER_BROKER (103).

    Attributes:
        heartbeat_timeout_millis: how long the registration stays valid without a sign of life; default 120 s.
        enable_acting_master: absent in brokers of before 5.0.
        compressed: the body is one zlib stream.
        body_crc32: CRC-32 of the body without its highest bit; 0 means "not checked".
    """

    broker_name: str
    broker_addr: str
    cluster_name: str
    ha_server_addr: str
    broker_id: I64
    heartbeat_timeout_millis: I64 | None = None
    enable_acting_master: bool | None = None
    compressed: bool = False
    body_crc32: I32 = 0


class RegisterBrokerResponseHeader(msgspec.Struct, rename="camel", kw_only=True):
    """Answer of 103: where the master of this broker name is, if that is another process."""

    ha_server_addr: str | None = None
    master_addr: str | None = None


class BrokerIdentityRequestHeader(msgspec.Struct, rename="camel", kw_only=True):
    """UNREGISTER_BROKER (104) and QUERY_DATA_VERSION (322)."""

    broker_name: str
    broker_addr: str
    cluster_name: str
    broker_id: I64


class QueryDataVersionResponseHeader(msgspec.Struct, rename="camel", kw_only=True):
    """Answer of 322: whether the name server knows another version than the one in the request."""

    changed: bool


class BrokerHeartbeatRequestHeader(msgspec.Struct, rename="camel", kw_only=True):
    """BROKER_HEARTBEAT (904); the members for controllers are not read here."""

    cluster_name: str
    broker_addr: str
    broker_name: str
    broker_id: I64 | None = None


class GetRouteInfoRequestHeader(msgspec.Struct, rename="camel", kw_only=True):
    """GET_ROUTEINFO_BY_TOPIC (105)."""

    topic: str
    accept_standard_json_only: bool = False


class TopicRequestHeader(msgspec.Struct, rename="camel", kw_only=True):
    """DELETE_TOPIC_IN_NAMESRV (216) and REGISTER_TOPIC_IN_NAMESRV (217)."""

    topic: str
    cluster_name: str | None = None


class GetTopicsByClusterRequestHeader(msgspec.Struct, rename="camel", kw_only=True):
    """GET_TOPICS_BY_CLUSTER (224)."""

    cluster: str


class BrokerMemberGroupRequestHeader(msgspec.Struct, rename="camel", kw_only=True):
    """GET_BROKER_MEMBER_GROUP (901)."""

    cluster_name: str
    broker_name: str


class BrokerNameRequestHeader(msgspec.Struct, rename="camel", kw_only=True):
    """WIPE_WRITE_PERM_OF_BROKER (205) and ADD_WRITE_PERM_OF_BROKER (327)."""

    broker_name: str


class WipeWritePermResponseHeader(msgspec.Struct, rename="camel", kw_only=True):
    """Answer of 205: how many topics of the broker were touched."""

    wipe_topic_count: I32


class AddWritePermResponseHeader(msgspec.Struct, rename="camel", kw_only=True):
    """Answer of 327: how many topics of the broker were touched."""

    add_topic_count: I32


class PutKVConfigRequestHeader(msgspec.Struct, rename="camel", kw_only=True):
    """PUT_KV_CONFIG (100)."""

    namespace: str
    key: str
    value: str


class KVConfigRequestHeader(msgspec.Struct, rename="camel", kw_only=True):
    """GET_KV_CONFIG (101) and DELETE_KV_CONFIG (102)."""

    namespace: str
    key: str


class GetKVConfigResponseHeader(msgspec.Struct, rename="camel", kw_only=True):
    """Answer of 101."""

    value: str | None = None


class NamespaceRequestHeader(msgspec.Struct, rename="camel", kw_only=True):
    """GET_KVLIST_BY_NAMESPACE (219)."""

    namespace: str


class NotifyMinBrokerIdChangeRequestHeader(msgspec.Struct, rename="camel", kw_only=True):
    """NOTIFY_MIN_BROKER_ID_CHANGE (905), which a name server sends to brokers."""

    min_broker_id: I64 | None = None
    broker_name: str | None = None
    min_broker_addr: str | None = None
    offline_broker_addr: str | None = None
    ha_broker_addr: str | None = None
