"""The route of a topic: which brokers have how many of its queues, and where those brokers are.

Members are declared in alphabetical order, the order in which Java writes them: the Go client finds the addresses by
text search. Readers of before 4.9.4 get the addresses with bare numbers as keys, which no JSON parser accepts.

Source: `TopicRouteData`, `QueueData`, `BrokerData`, RocketMQ 5.3.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from rocketmq_py.common import permission
from rocketmq_py.remoting.java_json import encode_body

MASTER_ID: Final = 0


class QueueData(msgspec.Struct, rename="camel", kw_only=True):
    """The queues of one topic on one broker name."""

    broker_name: str
    perm: int = permission.READ_WRITE
    read_queue_nums: int = 0
    topic_sys_flag: int = 0
    write_queue_nums: int = 0


class BrokerData(msgspec.Struct, rename="camel", kw_only=True):
    """The processes that share one broker name.

    Attributes:
        broker_addrs: broker id to `host:port`; id 0 is the master.
        broker_name: the name that message queues carry.
        cluster: the cluster that the broker says it belongs to.
        enable_acting_master: a slave may answer reads in the place of a dead master.
        zone_name: where the broker runs, for clients that prefer their own zone.
    """

    broker_addrs: dict[int, str] = {}
    broker_name: str = ""
    cluster: str = ""
    enable_acting_master: bool = False
    zone_name: str | msgspec.UnsetType | None = msgspec.UNSET

    @property
    def master_addr(self) -> str | None:
        """The address of the master, if there is one."""
        return self.broker_addrs.get(MASTER_ID)


class TopicRouteData(msgspec.Struct, rename="camel", kw_only=True):
    """Answer of GET_ROUTEINFO_BY_TOPIC.

    Attributes:
        broker_datas: the brokers that have the topic.
        filter_server_table: always empty today.
        order_topic_conf: `broker-a:4;broker-b:4`, for topics whose queues must stay the same in number and order.
        queue_datas: the queues, one entry for each broker name.
        topic_queue_mapping_by_broker: of static topics.
    """

    broker_datas: list[BrokerData] = []
    filter_server_table: dict[str, list[str]] = {}
    order_topic_conf: str | msgspec.UnsetType | None = msgspec.UNSET
    queue_datas: list[QueueData] = []
    topic_queue_mapping_by_broker: dict[str, dict[str, Any]] | msgspec.UnsetType | None = msgspec.UNSET


class _LegacyBrokerData(msgspec.Struct, rename="camel", kw_only=True):
    """A `BrokerData` whose address map is encoded already."""

    broker_addrs: msgspec.Raw
    broker_name: str
    cluster: str
    enable_acting_master: bool
    zone_name: str | msgspec.UnsetType | None = msgspec.UNSET


class _LegacyRoute(msgspec.Struct, rename="camel", kw_only=True):
    """A `TopicRouteData` with such brokers."""

    broker_datas: list[_LegacyBrokerData]
    filter_server_table: dict[str, list[str]]
    order_topic_conf: str | msgspec.UnsetType | None
    queue_datas: list[QueueData]
    topic_queue_mapping_by_broker: dict[str, dict[str, Any]] | msgspec.UnsetType | None


def encode_route(route: TopicRouteData, *, legacy: bool) -> bytes:
    """Encode a route: as standard JSON, or for old readers with `{0:"10.0.0.1:10911"}`."""
    if not legacy:
        return encode_body(route)
    return encode_body(
        _LegacyRoute(
            broker_datas=[
                _LegacyBrokerData(
                    broker_addrs=_bare_keys(data.broker_addrs),
                    broker_name=data.broker_name,
                    cluster=data.cluster,
                    enable_acting_master=data.enable_acting_master,
                    zone_name=data.zone_name,
                )
                for data in route.broker_datas
            ],
            filter_server_table=route.filter_server_table,
            order_topic_conf=route.order_topic_conf,
            queue_datas=route.queue_datas,
            topic_queue_mapping_by_broker=route.topic_queue_mapping_by_broker,
        )
    )


def _bare_keys(addresses: dict[int, str]) -> msgspec.Raw:
    entries = [b"%d:%b" % (broker_id, msgspec.json.encode(address)) for broker_id, address in addresses.items()]
    return msgspec.Raw(b"{" + b",".join(entries) + b"}")
