"""Bodies by which clients make themselves known: the heartbeat, and the lists of who is connected.

Source: `HeartbeatData`, `ConsumerData`, `ProducerData`, `ConsumerConnection`, `ProducerConnection`,
`ProducerTableInfo`, `CheckClientRequestBody`, RocketMQ 5.3.
"""

from __future__ import annotations

import enum
from typing import Final, TypeVar

import msgspec

from rocketmq_py.common.java import string_hash
from rocketmq_py.remoting.bodies.subscription import SubscriptionData
from rocketmq_py.remoting.java_json import encode_body


class ConsumeType(enum.StrEnum):
    """Who decides when to read. The value is what travels, the order is that of the C++ client's numbers."""

    CONSUME_ACTIVELY = "CONSUME_ACTIVELY"
    CONSUME_PASSIVELY = "CONSUME_PASSIVELY"
    CONSUME_POP = "CONSUME_POP"


class MessageModel(enum.StrEnum):
    """Whether each message goes to every consumer of a group or to one of them."""

    BROADCASTING = "BROADCASTING"
    CLUSTERING = "CLUSTERING"


class ConsumeFromWhere(enum.StrEnum):
    """Where a group begins in a queue in which it has no offset."""

    CONSUME_FROM_LAST_OFFSET = "CONSUME_FROM_LAST_OFFSET"
    CONSUME_FROM_LAST_OFFSET_AND_FROM_MIN_WHEN_BOOT_FIRST = "CONSUME_FROM_LAST_OFFSET_AND_FROM_MIN_WHEN_BOOT_FIRST"
    CONSUME_FROM_MIN_OFFSET = "CONSUME_FROM_MIN_OFFSET"
    CONSUME_FROM_MAX_OFFSET = "CONSUME_FROM_MAX_OFFSET"
    CONSUME_FROM_FIRST_OFFSET = "CONSUME_FROM_FIRST_OFFSET"
    CONSUME_FROM_TIMESTAMP = "CONSUME_FROM_TIMESTAMP"


E = TypeVar("E", ConsumeType, MessageModel, ConsumeFromWhere)


def read_enum(kind: type[E], value: str | int | None, default: E) -> E:
    """Return the enum member that a body names: by name, by ordinal (C++), or by ordinal as text; else `default`."""
    if isinstance(value, str) and value in kind.__members__:
        return kind(value)
    members = list(kind)
    text = str(value)
    if text.isascii() and text.isdigit() and len(text) < 3 and int(text) < len(members):
        return members[int(text)]
    return default


class ProducerData(msgspec.Struct, rename="camel", kw_only=True):
    """A producer group of a client."""

    group_name: str = ""


class ConsumerData(msgspec.Struct, rename="camel", kw_only=True):
    """A consumer group of a client.

    Attributes:
        group_name: the group.
        consume_type, message_model, consume_from_where: an enum's name or, from C++, its ordinal.
        subscription_data_set: what it subscribes, the group's retry topic included.
        unit_mode: a marker of one user's deployment; carried, without effect.
    """

    group_name: str = ""
    consume_type: str | int | None = ConsumeType.CONSUME_PASSIVELY.value
    message_model: str | int | None = MessageModel.CLUSTERING.value
    consume_from_where: str | int | None = ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET.value
    subscription_data_set: list[SubscriptionData] = []
    unit_mode: bool = False


class HeartbeatData(msgspec.Struct, rename="camel", kw_only=True):
    """Who a client is: sent to every broker every 30 s, and at once when something changed.

    Attributes:
        client_id: the client's id.
        producer_data_set, consumer_data_set: its groups.
        heartbeat_fingerprint: 0, or a hash of the subscriptions (version 2 of the heartbeat, 5.1.3 on).
        without_sub: the subscriptions were left out because their fingerprint is known to the broker.
    """

    client_id: str = msgspec.field(name="clientID", default="")
    producer_data_set: list[ProducerData] = []
    consumer_data_set: list[ConsumerData] = []
    heartbeat_fingerprint: int = 0
    without_sub: bool = False

    def fingerprint(self) -> int:
        """Return the fingerprint of this heartbeat: two that differ only in id and versions have the same one."""
        consumers = [
            msgspec.structs.replace(
                data,
                subscription_data_set=sorted(
                    (msgspec.structs.replace(one, sub_version=0) for one in data.subscription_data_set),
                    key=lambda one: one.topic,
                ),
            )
            for data in sorted(self.consumer_data_set, key=lambda data: data.group_name)
        ]
        producers = sorted(self.producer_data_set, key=lambda data: data.group_name)
        bare = HeartbeatData(producer_data_set=producers, consumer_data_set=consumers)
        return string_hash(encode_body(bare).decode())


class Connection(msgspec.Struct, rename="camel", kw_only=True):
    """One connection of a client: `client_addr` is `ip:port`, `version` the client's version number."""

    client_id: str = ""
    client_addr: str = ""
    language: str = "JAVA"
    version: int = 0


class ConsumerConnection(msgspec.Struct, rename="camel", kw_only=True):
    """Answer of GET_CONSUMER_CONNECTION_LIST."""

    connection_set: list[Connection] = []
    subscription_table: dict[str, SubscriptionData] = {}
    consume_type: str | None = None
    message_model: str | None = None
    consume_from_where: str | None = None


class ProducerConnection(msgspec.Struct, rename="camel", kw_only=True):
    """Answer of GET_PRODUCER_CONNECTION_LIST."""

    connection_set: list[Connection] = []


class ProducerInfo(msgspec.Struct, rename="camel", kw_only=True):
    """One producer in the answer of GET_ALL_PRODUCER_INFO; `remote_ip` is `/ip:port`."""

    client_id: str = ""
    remote_ip: str = msgspec.field(name="remoteIP", default="")
    language: str = "JAVA"
    version: int = 0
    last_update_timestamp: int = 0


class ProducerTableInfo(msgspec.Struct, rename="camel", kw_only=True):
    """Answer of GET_ALL_PRODUCER_INFO, by group."""

    data: dict[str, list[ProducerInfo]] = {}


class GetConsumerListByGroupResponseBody(msgspec.Struct, rename="camel", kw_only=True):
    """Answer of GET_CONSUMER_LIST_BY_GROUP: client ids, one per connection, in no order."""

    consumer_id_list: list[str] = []


class CheckClientRequestBody(msgspec.Struct, rename="camel", kw_only=True):
    """May this client use this subscription here?"""

    client_id: str = ""
    group: str = ""
    subscription_data: SubscriptionData = msgspec.field(default_factory=SubscriptionData)
    namespace: str | None = None


#: Fields of the answer to a heartbeat.
IS_SUPPORT_HEART_BEAT_V2: Final = "IS_SUPPORT_HEART_BEAT_V2"
IS_SUB_CHANGE: Final = "IS_SUB_CHANGE"
