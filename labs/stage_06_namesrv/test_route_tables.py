"""The tables of a name server, without a network: registrations come in, routes come out."""

import pytest

from rocketmq_py.common.data_version import DataVersion
from rocketmq_py.namesrv import route_query, topic_admin
from rocketmq_py.namesrv.route_info import (
    BrokerIdentity,
    BrokerRegistration,
    RegisterBrokerResult,
    RegistrationRefusedError,
    RouteInfoManager,
)
from rocketmq_py.remoting.bodies.route import QueueData
from rocketmq_py.remoting.bodies.topic_config import TopicConfig, TopicConfigTable


def registration(
    name="broker-a",
    broker_id=0,
    address="10.0.0.1:10911",
    version=1,
    topics=(("T1", 4, 6), ("T2", 3, 6)),
    *,
    cluster="C",
    acting=None,
    timeout=120.0,
    connection=None,
    epoch=0,
    zone=None,
):
    return BrokerRegistration(
        identity=BrokerIdentity(cluster, name, address, broker_id),
        ha_server_addr=f"ha-{address}",
        timeout=timeout,
        enable_acting_master=acting,
        zone_name=zone,
        topics=TopicConfigTable(
            data_version=DataVersion(epoch, 1_000, version),
            topic_config_table={
                topic: TopicConfig(topic_name=topic, read_queue_nums=queues, write_queue_nums=queues, perm=perm)
                for topic, queues, perm in topics
            },
        ),
        filter_servers=[],
        connection=connection,
    )


@pytest.fixture
def routes():
    return RouteInfoManager()


def perms(routes, topic="T1"):
    route = route_query.pick_up_route(routes.tables, topic)
    return {queue.broker_name: queue.perm for queue in route.queue_datas} if route else None


def addresses(routes, topic="T1"):
    route = route_query.pick_up_route(routes.tables, topic)
    return {broker.broker_name: broker.broker_addrs for broker in route.broker_datas} if route else None


def test_a_registration_makes_routes(routes):
    assert routes.register_broker(registration(), now=1.0) == RegisterBrokerResult()

    route = route_query.pick_up_route(routes.tables, "T1")
    assert route.queue_datas == [
        QueueData(broker_name="broker-a", perm=6, read_queue_nums=4, topic_sys_flag=0, write_queue_nums=4)
    ]
    assert addresses(routes, "T2") == {"broker-a": {0: "10.0.0.1:10911"}}
    assert route_query.pick_up_route(routes.tables, "Unknown") is None


def test_a_slave_adds_its_address_and_learns_where_its_master_is(routes):
    routes.register_broker(registration(), now=1.0)

    result = routes.register_broker(
        registration(broker_id=1, address="10.0.0.2:10911", topics=(("T8", 1, 6), ("T9", 1, 6))), now=2.0
    )

    assert result == RegisterBrokerResult("ha-10.0.0.1:10911", "10.0.0.1:10911")
    assert addresses(routes) == {"broker-a": {0: "10.0.0.1:10911", 1: "10.0.0.2:10911"}}
    assert perms(routes, "T9") is None, "topics come from the master"


def test_a_wiped_permission_survives_registrations_until_the_topics_change(routes):
    routes.register_broker(registration(), now=1.0)

    assert topic_admin.wipe_write_permission(routes.tables, "broker-a") == 2
    routes.register_broker(registration(), now=31.0)
    assert perms(routes) == {"broker-a": 4}

    routes.register_broker(registration(version=2), now=61.0)
    assert perms(routes) == {"broker-a": 6}


def test_a_permission_is_given_back_by_an_operator(routes):
    routes.register_broker(registration(), now=1.0)
    topic_admin.wipe_write_permission(routes.tables, "broker-a")

    assert topic_admin.add_write_permission(routes.tables, "broker-a") == 2
    assert perms(routes) == {"broker-a": 6}
    assert topic_admin.wipe_write_permission(routes.tables, "nobody") == 0


def test_an_address_has_one_id(routes):
    routes.register_broker(registration(), now=1.0)
    routes.register_broker(registration(broker_id=1, address="10.0.0.2:10911"), now=2.0)

    routes.register_broker(registration(address="10.0.0.2:10911", version=3), now=3.0)

    assert addresses(routes) == {"broker-a": {0: "10.0.0.2:10911"}}


def test_of_two_masters_the_one_elected_later_stays(routes):
    routes.register_broker(registration(epoch=5), now=1.0)

    routes.register_broker(registration(address="10.0.0.9:10911", epoch=4, version=9), now=2.0)
    assert addresses(routes) == {"broker-a": {0: "10.0.0.1:10911"}}

    routes.register_broker(registration(address="10.0.0.9:10911", epoch=6), now=3.0)
    assert addresses(routes) == {"broker-a": {0: "10.0.0.9:10911"}}


def test_a_stranger_with_a_single_topic_is_refused_and_leaves_nothing_behind(routes):
    with pytest.raises(RegistrationRefusedError):
        routes.register_broker(registration(topics=(("T1", 4, 6),)), now=1.0)

    assert repr(routes.tables) == "<RouteTables 0 clusters, 0 broker names, 0 live, 0 topics>"


def test_a_known_broker_may_register_a_single_topic(routes):
    routes.register_broker(registration(), now=1.0)

    routes.register_broker(registration(version=2, topics=(("T3", 2, 4),)), now=2.0)

    assert perms(routes, "T3") == {"broker-a": 4}
    assert perms(routes, "T1") == {"broker-a": 6}, "the others stay"


def test_topics_that_a_registration_lacks_go_only_if_that_is_switched_on():
    for delete_topics, expected in ((False, {"broker-a": 6}), (True, None)):
        routes = RouteInfoManager(delete_topics=delete_topics)
        routes.register_broker(registration(), now=1.0)
        routes.register_broker(registration(version=2, topics=(("T2", 3, 6), ("T5", 1, 6))), now=2.0)
        assert perms(routes, "T1") == expected


def test_unregistering_the_last_process_removes_the_name_and_its_topics(routes):
    routes.register_broker(registration(), now=1.0)
    routes.register_broker(
        registration("broker-b", address="10.0.0.3:10911", topics=(("T1", 2, 6), ("T7", 1, 6))), now=1.0
    )
    routes.register_broker(registration(broker_id=1, address="10.0.0.2:10911"), now=2.0)

    routes.unregister_broker(BrokerIdentity("C", "broker-a", "10.0.0.1:10911", 0))
    assert addresses(routes) == {"broker-a": {1: "10.0.0.2:10911"}, "broker-b": {0: "10.0.0.3:10911"}}

    routes.unregister_broker(BrokerIdentity("C", "broker-a", "10.0.0.2:10911", 1))
    assert addresses(routes) == {"broker-b": {0: "10.0.0.3:10911"}}
    assert route_query.pick_up_route(routes.tables, "T2") is None
    assert routes.tables.cluster_addr_table == {"C": {"broker-b"}}


def test_a_silent_broker_goes_after_its_time_and_not_a_moment_before(routes):
    routes.register_broker(registration(connection="first"), now=10.0)
    routes.register_broker(
        registration("broker-b", address="10.0.0.3:10911", timeout=10.0, connection="second"), now=10.0
    )

    assert routes.expire(20.0) == []
    assert routes.expire(20.1) == ["second"]
    routes.heartbeat(("C", "10.0.0.1:10911"), now=100.0)
    assert routes.expire(220.0) == []
    assert routes.expire(220.1) == ["first"]
    assert repr(routes.tables) == "<RouteTables 0 clusters, 0 broker names, 0 live, 0 topics>"


def test_a_replaced_address_leaves_nothing_behind_either(routes):
    routes.register_broker(registration(connection="old"), now=1.0)
    routes.register_broker(registration(address="10.0.0.9:10911", version=2, connection="new"), now=2.0)

    assert routes.expire(121.5) == ["old"]
    assert routes.expire(121.6) == []
    assert addresses(routes) == {"broker-a": {0: "10.0.0.9:10911"}}


def test_only_the_connection_that_registered_last_speaks_for_a_broker(routes):
    old, new = object(), object()
    routes.register_broker(registration(connection=old), now=1.0)
    routes.register_broker(registration(connection=new), now=2.0)

    assert routes.connection_closed(old) == []
    assert routes.connection_closed(object()) == []
    assert addresses(routes) is not None
    assert routes.connection_closed(new) == [("C", "10.0.0.1:10911")]
    assert addresses(routes) is None


def test_the_known_data_version_is_told(routes):
    key = ("C", "10.0.0.1:10911")
    assert routes.query_data_version(key, DataVersion(0, 1_000, 1), now=1.0) == (True, None)

    routes.register_broker(registration(), now=1.0)

    assert routes.query_data_version(key, DataVersion(0, 1_000, 1), now=100.0) == (False, DataVersion(0, 1_000, 1))
    assert routes.query_data_version(key, DataVersion(0, 1_000, 2), now=101.0) == (True, DataVersion(0, 1_000, 1))
    assert routes.expire(220.0) == [], "a query is a sign of life"


def test_without_a_master_the_smallest_slave_speaks_and_may_be_shown_as_master(routes):
    routes.register_broker(registration(acting=True), now=1.0)
    routes.register_broker(registration(broker_id=2, address="10.0.0.2:10911", acting=True), now=1.0)
    seen = []
    routes.min_broker_id_listeners.append(lambda change: seen.append((change.data.broker_addrs, change.offline_addr)))

    routes.unregister_broker(BrokerIdentity("C", "broker-a", "10.0.0.1:10911", 0))

    assert seen == [({2: "10.0.0.2:10911"}, "10.0.0.1:10911")]
    assert perms(routes) == {"broker-a": 4}
    shown = route_query.pick_up_route(routes.tables, "T1", acting_master=True)
    assert shown.broker_datas[0].broker_addrs == {0: "10.0.0.2:10911"}
    assert addresses(routes) == {"broker-a": {2: "10.0.0.2:10911"}}, "the tables stay as they are"


def test_a_client_may_ask_for_its_own_zone(routes):
    routes.register_broker(registration(zone="north"), now=1.0)
    routes.register_broker(registration("broker-b", address="10.0.0.3:10911", zone="south"), now=1.0)
    routes.register_broker(
        registration("broker-c", broker_id=1, address="10.0.0.4:10911", zone="south", acting=False), now=1.0
    )
    route = route_query.pick_up_route(routes.tables, "T1")

    route_query.filter_zone(route, "NORTH")

    assert [broker.broker_name for broker in route.broker_datas] == ["broker-a", "broker-c"]
    assert [queue.broker_name for queue in route.queue_datas] == ["broker-a", "broker-c"]


def test_topics_are_listed_and_forgotten(routes):
    routes.register_broker(registration(), now=1.0)
    routes.register_broker(
        registration("broker-b", address="10.0.0.3:10911", cluster="D", topics=(("T1", 2, 6), ("T7", 1, 6))), now=1.0
    )
    tables = routes.tables

    assert topic_admin.all_topics(tables).topic_list == ["T1", "T2", "T7"]
    assert topic_admin.topics_of_cluster(tables, "D").topic_list == ["T1", "T7"]
    assert topic_admin.topics_of_cluster(tables, "E").topic_list == []
    system = topic_admin.system_topics(tables)
    assert system.topic_list == ["C", "D", "broker-a", "broker-b"]
    assert system.broker_addr == "10.0.0.1:10911"

    topic_admin.delete_topic(tables, "T1", "D")
    assert addresses(routes) == {"broker-a": {0: "10.0.0.1:10911"}}
    topic_admin.delete_topic(tables, "T1", None)
    topic_admin.delete_topic(tables, "T1", None)
    assert addresses(routes) is None


def test_unit_topics_are_told_apart_by_their_bits(routes):
    routes.register_broker(registration(topics=()), now=1.0)
    for topic, flag in (("none", 0), ("unit", 1), ("sub", 2), ("both", 3)):
        topic_admin.register_topic(routes.tables, topic, [QueueData(broker_name="broker-a", topic_sys_flag=flag)])
    tables = routes.tables

    assert topic_admin.unit_topics(tables, unit=True).topic_list == ["both", "unit"]
    assert topic_admin.unit_topics(tables, subscription=True).topic_list == ["both", "sub"]
    assert topic_admin.unit_topics(tables, unit=False, subscription=True).topic_list == ["sub"]


def test_a_new_topic_of_an_unknown_broker_is_not_entered(routes):
    routes.register_broker(registration(), now=1.0)
    known, unknown = QueueData(broker_name="broker-a", perm=4), QueueData(broker_name="nobody")

    topic_admin.register_topic(routes.tables, "T3", [known, unknown])
    topic_admin.register_topic(routes.tables, "T1", [known, unknown])

    assert perms(routes, "T3") is None
    assert perms(routes, "T1") == {"broker-a": 4}
