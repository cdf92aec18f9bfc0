"""Which brokers a name server knows.

Source: `ClusterInfo`, `BrokerMemberGroup`, `GetBrokerMemberGroupResponseBody`, RocketMQ 5.3.
"""

from __future__ import annotations

import msgspec

from rocketmq_py.remoting.bodies.route import BrokerData


class ClusterInfo(msgspec.Struct, rename="camel", kw_only=True):
    """Answer of GET_BROKER_CLUSTER_INFO.

    Attributes:
        broker_addr_table: broker name to its processes.
        cluster_addr_table: cluster name to its broker names.
    """

    broker_addr_table: dict[str, BrokerData] = {}
    cluster_addr_table: dict[str, list[str]] = {}


class BrokerMemberGroup(msgspec.Struct, rename="camel", kw_only=True):
    """The processes of one broker name; no addresses if the name is unknown."""

    broker_addrs: dict[int, str] = {}
    broker_name: str = ""
    cluster: str = ""


class BrokerMemberGroupBody(msgspec.Struct, rename="camel"):
    """Answer of GET_BROKER_MEMBER_GROUP."""

    broker_member_group: BrokerMemberGroup
