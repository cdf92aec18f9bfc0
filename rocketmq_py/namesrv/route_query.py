"""What a name server answers about topics, brokers and clusters; nothing here changes a table.

Source: `RouteInfoManager#pickupTopicRouteData`, `ZoneRouteRPCHook`, RocketMQ 5.3.
"""

from __future__ import annotations

import msgspec

from rocketmq_py.common import permission
from rocketmq_py.namesrv.route_tables import RouteTables
from rocketmq_py.remoting.bodies.cluster import BrokerMemberGroup, ClusterInfo
from rocketmq_py.remoting.bodies.route import MASTER_ID, BrokerData, TopicRouteData

#: Topics that brokers use to find each other are never shown with an acting master.
SYNC_BROKER_MEMBER_PREFIX = "rmq_sys_SYNC_BROKER_MEMBER_"


def pick_up_route(tables: RouteTables, topic: str, *, acting_master: bool = False) -> TopicRouteData | None:
    """Return the route of a topic, or None if no queue or no broker is known for it.

    Args:
        tables: the name server's tables.
        topic: its name.
        acting_master: show the slave with the smallest id as id 0 where a master is missing.
    """
    queues = tables.topic_queue_table.get(topic)
    if not queues:
        return None
    brokers = [copy_broker(tables.broker_addr_table[name]) for name in queues if name in tables.broker_addr_table]
    if not brokers:
        return None
    if acting_master and not topic.startswith(SYNC_BROKER_MEMBER_PREFIX):
        for data in brokers:
            if not permission.is_writeable(queues[data.broker_name].perm):
                _show_acting_master(data)
    mapping = tables.mapping_table.get(topic)
    return TopicRouteData(
        broker_datas=brokers,
        filter_server_table={
            address: tables.filter_server_table[data.cluster, address]
            for data in brokers
            for address in data.broker_addrs.values()
            if (data.cluster, address) in tables.filter_server_table
        },
        queue_datas=[msgspec.structs.replace(data) for data in queues.values()],
        topic_queue_mapping_by_broker=mapping if mapping else msgspec.UNSET,
    )


def _show_acting_master(data: BrokerData) -> None:
    if data.enable_acting_master and data.broker_addrs and MASTER_ID not in data.broker_addrs:
        smallest = min(data.broker_addrs)
        data.broker_addrs[MASTER_ID] = data.broker_addrs.pop(smallest)


def copy_broker(data: BrokerData) -> BrokerData:
    """Return a copy whose addresses may be changed."""
    return msgspec.structs.replace(data, broker_addrs=dict(data.broker_addrs))


def filter_zone(route: TopicRouteData, zone: str) -> None:
    """Keep the brokers of one zone, and those that have no master (their slaves serve every zone)."""
    kept = [
        data
        for data in route.broker_datas
        if data.master_addr is None or (data.zone_name or "").casefold() == zone.casefold()
    ]
    removed = [data for data in route.broker_datas if data not in kept]
    names = {data.broker_name for data in removed}
    for data in removed:
        for address in data.broker_addrs.values():
            route.filter_server_table.pop(address, None)
    route.broker_datas = kept
    route.queue_datas = [queue for queue in route.queue_datas if queue.broker_name not in names]


def cluster_info(tables: RouteTables) -> ClusterInfo:
    """Return all brokers and clusters."""
    return ClusterInfo(
        broker_addr_table=dict(tables.broker_addr_table),
        cluster_addr_table={cluster: sorted(names) for cluster, names in tables.cluster_addr_table.items()},
    )


def member_group(tables: RouteTables, cluster: str, broker_name: str) -> BrokerMemberGroup:
    """Return the processes of one broker name; none if the name is unknown."""
    data = tables.broker_addr_table.get(broker_name)
    addresses = dict(data.broker_addrs) if data is not None else {}
    return BrokerMemberGroup(broker_addrs=addresses, broker_name=broker_name, cluster=cluster)
