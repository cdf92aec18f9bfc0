"""What administrators ask of a name server: lists of topics, taking a broker out of writing, removing a topic.

Every change here lasts until a broker says otherwise: brokers are the owners of their topics, this is a copy.

Source: `RouteInfoManager`, RocketMQ 5.3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rocketmq_py.common import permission
from rocketmq_py.namesrv.route_tables import RouteTables
from rocketmq_py.remoting.bodies.route import QueueData
from rocketmq_py.remoting.bodies.topic_config import UNIT, UNIT_SUBSCRIPTION
from rocketmq_py.remoting.bodies.topic_list import TopicList


def all_topics(tables: RouteTables) -> TopicList:
    """Return all topics."""
    return TopicList.of(tables.topic_queue_table)


def topics_of_cluster(tables: RouteTables, cluster: str) -> TopicList:
    """Return the topics that at least one broker of the cluster has; none for an unknown cluster."""
    names = tables.cluster_addr_table.get(cluster, set())
    return TopicList.of(topic for topic, queues in tables.topic_queue_table.items() if not names.isdisjoint(queues))


def system_topics(tables: RouteTables) -> TopicList:
    """Return the topics that are named like clusters and brokers, and the address of any one broker."""
    result = TopicList.of({*tables.cluster_addr_table, *tables.broker_addr_table})
    for data in tables.broker_addr_table.values():
        for address in data.broker_addrs.values():
            result.broker_addr = address
            return result
    return result


def unit_topics(tables: RouteTables, *, unit: bool | None = None, subscription: bool | None = None) -> TopicList:
    """Return the topics whose flag has (True) or lacks (False) the unit bit and the unit subscription bit.

    A topic is judged by its queues on one broker, the first that registered it.
    """

    def is_wanted(queues: Iterable[QueueData]) -> bool:
        flag = next(iter(queues)).topic_sys_flag
        return (unit is None or bool(flag & UNIT) == unit) and (
            subscription is None or bool(flag & UNIT_SUBSCRIPTION) == subscription
        )

    return TopicList.of(topic for topic, queues in tables.topic_queue_table.items() if is_wanted(queues.values()))


def wipe_write_permission(tables: RouteTables, broker_name: str) -> int:
    """Let no producer choose a broker any more; return how many of its topics there are.

    The broker itself is not told and still accepts what arrives.
    """
    return _set_permissions(tables, broker_name, lambda perm: perm & ~permission.WRITE)


def add_write_permission(tables: RouteTables, broker_name: str) -> int:
    """Let producers choose a broker again: permission 6 for all its topics; return how many there are."""
    return _set_permissions(tables, broker_name, lambda perm: permission.READ_WRITE)


def _set_permissions(tables: RouteTables, broker_name: str, change: Callable[[int], int]) -> int:
    touched = [queues[broker_name] for queues in tables.topic_queue_table.values() if broker_name in queues]
    for data in touched:
        data.perm = change(data.perm)
    return len(touched)


def delete_topic(tables: RouteTables, topic: str, cluster: str | None) -> None:
    """Remove a topic, or only its queues on the brokers of one cluster.

    A broker that still has the topic brings it back with its next registration.
    """
    queues = tables.topic_queue_table.get(topic)
    if queues is None:
        return
    for broker_name in tables.cluster_addr_table.get(cluster, set()) if cluster else list(queues):
        queues.pop(broker_name, None)
    if not queues:
        del tables.topic_queue_table[topic]
        tables.mapping_table.pop(topic, None)


def register_topic(tables: RouteTables, topic: str, queue_datas: list[QueueData]) -> None:
    """Enter the queues of one topic, up to the first that names an unknown broker.

    With such a broker among them a new topic is not entered at all.
    """
    known = [data for data in queue_datas if data.broker_name in tables.broker_addr_table]
    if topic not in tables.topic_queue_table and len(known) < len(queue_datas):
        return
    for data in queue_datas:
        if data.broker_name not in tables.broker_addr_table:
            return
        tables.topic_queue_table.setdefault(topic, {})[data.broker_name] = data
