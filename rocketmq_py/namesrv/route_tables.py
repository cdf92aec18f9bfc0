"""The tables of a name server: everything it knows, all of it in memory and all of it told by brokers.

    cluster_addr_table   cluster -> broker names
    broker_addr_table    broker name -> its processes (broker id -> address)
    topic_queue_table    topic -> broker name -> queues
    broker_live_table    (cluster, address) -> last sign of life of one process
    filter_server_table  (cluster, address) -> always empty today
    mapping_table        topic -> broker name -> mapping of a static topic

RocketMQ guards them with one read-write lock. Here every operation runs from start to end without an `await`, on the
one loop of the process, so a reader never sees half a registration.

Source: `RouteInfoManager`, RocketMQ 5.3.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field
from typing import Any

from rocketmq_py.common.data_version import DataVersion
from rocketmq_py.remoting.bodies.route import BrokerData, QueueData

#: A process: cluster name and `host:port`.
BrokerKey = tuple[str, str]


@dataclass(slots=True)
class BrokerLiveInfo:
    """The last sign of life of one broker process.

    Attributes:
        last_update: when it came, in seconds of the event loop's clock.
        timeout: seconds after which the process counts as dead.
        data_version: version of the topics that it registered last.
        connection: over which it registered last; compared by identity only.
        ha_server_addr: where its slaves fetch from.
    """

    last_update: float
    timeout: float
    data_version: DataVersion
    connection: object
    ha_server_addr: str


@dataclass(slots=True)
class RouteTables:
    """The six tables."""

    cluster_addr_table: dict[str, set[str]] = field(default_factory=dict)
    broker_addr_table: dict[str, BrokerData] = field(default_factory=dict)
    topic_queue_table: dict[str, dict[str, QueueData]] = field(default_factory=dict)
    broker_live_table: dict[BrokerKey, BrokerLiveInfo] = field(default_factory=dict)
    filter_server_table: dict[BrokerKey, list[str]] = field(default_factory=dict)
    mapping_table: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)

    def find_process(self, key: BrokerKey) -> tuple[BrokerData, int] | None:
        """Return the broker name's entry and the broker id of a process, if it is registered."""
        cluster, address = key
        for broker_name in self.cluster_addr_table.get(cluster, ()):
            data = self.broker_addr_table.get(broker_name)
            if data is not None:
                for broker_id, known in data.broker_addrs.items():
                    if known == address:
                        return data, broker_id
        return None

    def remove_topics_of(self, broker_name: str, keep: Container[str] = ()) -> None:
        """Take a broker name out of all topics except those in `keep`; topics without any broker go."""
        for topic in list(self.topic_queue_table):
            queues = self.topic_queue_table[topic]
            if broker_name in queues and topic not in keep:
                del queues[broker_name]
                if not queues:
                    del self.topic_queue_table[topic]

    def __repr__(self) -> str:
        return (
            f"<RouteTables {len(self.cluster_addr_table)} clusters, {len(self.broker_addr_table)} broker names, "
            f"{len(self.broker_live_table)} live, {len(self.topic_queue_table)} topics>"
        )
