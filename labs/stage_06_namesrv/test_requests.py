"""Every request that a name server answers, over a socket, with the codes and texts that tools rely on."""

import json

import pytest

from rocketmq_py.remoting.bodies.register_broker import RegisterBrokerBody, body_crc32, encode_register_body
from rocketmq_py.remoting.bodies.route import QueueData, TopicRouteData
from rocketmq_py.remoting.bodies.topic_config import TopicConfigTable
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.headers import namesrv as headers
from rocketmq_py.remoting.java_json import encode_body

from .cluster import Topics, lab_in

IDENTITY = {
    "broker_name": "broker-a",
    "broker_addr": "127.0.0.1:10911",
    "cluster_name": "DefaultCluster",
    "broker_id": 0,
}


def register_header(**changes):
    return headers.RegisterBrokerRequestHeader(**{**IDENTITY, "ha_server_addr": "127.0.0.1:10912", **changes})


def register_body(**queues):
    table = TopicConfigTable(topic_config_table=dict(Topics(**queues).topics))
    return encode_register_body(RegisterBrokerBody(topic_config_serialize_wrapper=table), compressed=False)


async def test_routes_come_in_standard_json_and_for_old_clients_with_bare_numbers_as_keys(tmp_path, environment):
    async with lab_in(tmp_path, environment) as lab:
        namesrv = await lab.namesrv()
        await lab.broker(namesrv, topics=Topics(Orders=4, More=1))
        header = headers.GetRouteInfoRequestHeader(topic="Orders")
        wanting = headers.GetRouteInfoRequestHeader(topic="Orders", accept_standard_json_only=True)

        new = await lab.ask(namesrv, RequestCode.GET_ROUTEINFO_BY_TOPIC, header, version=401)
        old = await lab.ask(namesrv, RequestCode.GET_ROUTEINFO_BY_TOPIC, header, version=400)
        old_wanting = await lab.ask(namesrv, RequestCode.GET_ROUTEINFO_BY_TOPIC, wanting, version=400)

        standard = (
            b'{"brokerDatas":[{"brokerAddrs":{"0":"127.0.0.1:10911"},"brokerName":"broker-a","cluster":"DefaultCluster",'
            b'"enableActingMaster":false}],"filterServerTable":{},"queueDatas":[{"brokerName":"broker-a","perm":6,'
            b'"readQueueNums":4,"topicSysFlag":0,"writeQueueNums":4}]}'
        )
        assert bytes(new.body) == bytes(old_wanting.body) == standard
        assert bytes(old.body) == standard.replace(b'{"0":', b"{0:")


async def test_an_unknown_topic_is_refused_with_the_text_that_clients_show(tmp_path, environment):
    async with lab_in(tmp_path, environment) as lab:
        header = headers.GetRouteInfoRequestHeader(topic="Nowhere")
        response = await lab.ask(await lab.namesrv(), RequestCode.GET_ROUTEINFO_BY_TOPIC, header)

        assert response.code == ResponseCode.TOPIC_NOT_EXIST
        assert response.remark == (
            "No topic route info in name server for the topic: Nowhere\n"
            "See https://rocketmq.apache.org/docs/bestPractice/06FAQ for further details."
        )


async def test_a_name_server_may_wait_for_brokers_before_it_answers(tmp_path, environment):
    async with lab_in(tmp_path, environment) as lab:
        namesrv = await lab.namesrv(need_wait_for_service=True)
        await lab.broker(namesrv, topics=Topics(Orders=4, More=1))
        header = headers.GetRouteInfoRequestHeader(topic="Orders")

        response = await lab.ask(namesrv, RequestCode.GET_ROUTEINFO_BY_TOPIC, header)

        assert (response.code, response.remark) == (ResponseCode.SYSTEM_ERROR, "name server not ready")
        assert (await lab.ask(namesrv, RequestCode.GET_BROKER_CLUSTER_INFO)).code == 0, "only routes wait"


async def test_a_body_that_was_damaged_on_the_way_is_refused(tmp_path, environment):
    async with lab_in(tmp_path, environment) as lab:
        namesrv = await lab.namesrv()
        body = register_body(Orders=4, More=1)
        code = RequestCode.REGISTER_BROKER

        bad = await lab.ask(namesrv, code, register_header(body_crc32=body_crc32(body) ^ 1), body)
        good = await lab.ask(namesrv, code, register_header(body_crc32=body_crc32(body)), body)

        assert (bad.code, bad.remark) == (ResponseCode.SYSTEM_ERROR, "crc32 not match")
        assert good.code == 0


async def test_a_stranger_with_a_single_topic_is_refused(tmp_path, environment):
    async with lab_in(tmp_path, environment) as lab:
        namesrv = await lab.namesrv()

        response = await lab.ask(namesrv, RequestCode.REGISTER_BROKER, register_header(), register_body(Orders=4))

        assert (response.code, response.remark) == (ResponseCode.SYSTEM_ERROR, "register broker failed")
        cluster = await lab.ask(namesrv, RequestCode.GET_BROKER_CLUSTER_INFO)
        assert json.loads(bytes(cluster.body)) == {"brokerAddrTable": {}, "clusterAddrTable": {}}


@pytest.mark.parametrize(
    ("fields", "body", "problem"),
    [
        ({"broker_name": ""}, b"", "1 to 255 printable characters"),
        ({"broker_addr": "a\n:1"}, b"", "1 to 255 printable characters"),
        ({"compressed": True}, b"{}", "not a zlib stream"),
        ({}, b"[1]", "not a RegisterBrokerBody"),
    ],
)
async def test_a_registration_that_makes_no_sense_changes_nothing(tmp_path, environment, fields, body, problem):
    async with lab_in(tmp_path, environment) as lab:
        namesrv = await lab.namesrv()

        response = await lab.ask(namesrv, RequestCode.REGISTER_BROKER, register_header(**fields), body)

        assert response.code == ResponseCode.SYSTEM_ERROR
        assert problem in response.remark
        assert repr(namesrv.routes.tables) == "<RouteTables 0 clusters, 0 broker names, 0 live, 0 topics>"


async def test_versions_are_compared_and_heartbeats_taken(tmp_path, environment):
    async with lab_in(tmp_path, environment) as lab:
        namesrv = await lab.namesrv()
        topics = Topics(Orders=4, More=1)
        await lab.broker(namesrv, topics=topics)
        known = headers.BrokerIdentityRequestHeader(**IDENTITY)
        unknown = headers.BrokerIdentityRequestHeader(**{**IDENTITY, "broker_addr": "127.0.0.1:1"})
        version = encode_body(topics.data_version)

        same = await lab.ask(namesrv, RequestCode.QUERY_DATA_VERSION, known, version)
        other = await lab.ask(namesrv, RequestCode.QUERY_DATA_VERSION, known, b'{"counter":99,"timestamp":5}')
        none = await lab.ask(namesrv, RequestCode.QUERY_DATA_VERSION, unknown, version)

        assert (same.ext_fields, bytes(same.body)) == ({"changed": "false"}, version)
        assert (other.ext_fields, bytes(other.body)) == ({"changed": "true"}, version)
        assert (none.ext_fields, bytes(none.body)) == ({"changed": "true"}, b"")
        beat = headers.BrokerHeartbeatRequestHeader(cluster_name="C", broker_addr="x:1", broker_name="nobody")
        assert (await lab.ask(namesrv, RequestCode.BROKER_HEARTBEAT, beat)).code == 0, "also of an unknown broker"


async def test_clusters_members_and_topics_are_listed(tmp_path, environment):
    async with lab_in(tmp_path, environment) as lab:
        namesrv = await lab.namesrv()
        await lab.broker(namesrv, topics=Topics(Orders=4, More=1))

        async def body(code, header=None):
            response = await lab.ask(namesrv, code, header)
            assert response.code == 0
            return json.loads(bytes(response.body))

        member = headers.BrokerMemberGroupRequestHeader(cluster_name="DefaultCluster", broker_name="broker-a")
        nobody = headers.BrokerMemberGroupRequestHeader(cluster_name="DefaultCluster", broker_name="nobody")
        by_cluster = headers.GetTopicsByClusterRequestHeader(cluster="DefaultCluster")
        addresses = {"0": "127.0.0.1:10911"}
        assert await body(RequestCode.GET_BROKER_CLUSTER_INFO) == {
            "brokerAddrTable": {
                "broker-a": {
                    "brokerAddrs": addresses,
                    "brokerName": "broker-a",
                    "cluster": "DefaultCluster",
                    "enableActingMaster": False,
                }
            },
            "clusterAddrTable": {"DefaultCluster": ["broker-a"]},
        }
        group = {"brokerAddrs": addresses, "brokerName": "broker-a", "cluster": "DefaultCluster"}
        assert await body(RequestCode.GET_BROKER_MEMBER_GROUP, member) == {"brokerMemberGroup": group}
        assert (await body(RequestCode.GET_BROKER_MEMBER_GROUP, nobody))["brokerMemberGroup"]["brokerAddrs"] == {}
        assert await body(RequestCode.GET_ALL_TOPIC_LIST_FROM_NAMESERVER) == {"topicList": ["More", "Orders"]}
        assert await body(RequestCode.GET_TOPICS_BY_CLUSTER, by_cluster) == {"topicList": ["More", "Orders"]}
        assert await body(RequestCode.GET_SYSTEM_TOPIC_LIST_FROM_NS) == {
            "brokerAddr": "127.0.0.1:10911",
            "topicList": ["DefaultCluster", "broker-a"],
        }
        for code in (
            RequestCode.GET_UNIT_TOPIC_LIST,
            RequestCode.GET_HAS_UNIT_SUB_TOPIC_LIST,
            RequestCode.GET_HAS_UNIT_SUB_UNUNIT_TOPIC_LIST,
        ):
            assert await body(code) == {"topicList": []}


async def test_lists_can_be_switched_off(tmp_path, environment):
    async with lab_in(tmp_path, environment) as lab:
        namesrv = await lab.namesrv(enable_all_topic_list=False, enable_topic_list=False)

        for code in (RequestCode.GET_ALL_TOPIC_LIST_FROM_NAMESERVER, RequestCode.GET_UNIT_TOPIC_LIST):
            response = await lab.ask(namesrv, code)
            assert (response.code, response.remark) == (ResponseCode.SYSTEM_ERROR, "disable")


async def test_a_broker_is_taken_out_of_writing_and_back(tmp_path, environment):
    async with lab_in(tmp_path, environment) as lab:
        namesrv = await lab.namesrv()
        await lab.broker(namesrv, topics=Topics(Orders=4, More=1))
        header = headers.BrokerNameRequestHeader(broker_name="broker-a")

        wiped = await lab.ask(namesrv, RequestCode.WIPE_WRITE_PERM_OF_BROKER, header)
        assert wiped.ext_fields == {"wipeTopicCount": "2"}
        assert namesrv.routes.tables.topic_queue_table["Orders"]["broker-a"].perm == 4

        added = await lab.ask(namesrv, RequestCode.ADD_WRITE_PERM_OF_BROKER, header)
        assert added.ext_fields == {"addTopicCount": "2"}
        assert namesrv.routes.tables.topic_queue_table["Orders"]["broker-a"].perm == 6


async def test_a_topic_is_registered_and_forgotten_by_hand(tmp_path, environment):
    async with lab_in(tmp_path, environment) as lab:
        namesrv = await lab.namesrv()
        await lab.broker(namesrv, topics=Topics(Orders=4, More=1))
        header = headers.TopicRequestHeader(topic="ByHand")
        queues = TopicRouteData(queue_datas=[QueueData(broker_name="broker-a", read_queue_nums=2, write_queue_nums=3)])

        assert (await lab.ask(namesrv, RequestCode.REGISTER_TOPIC_IN_NAMESRV, header, encode_body(queues))).code == 0
        assert (await lab.route(namesrv, "ByHand"))["broker-a"][0] == 3
        assert (await lab.ask(namesrv, RequestCode.DELETE_TOPIC_IN_NAMESRV, header)).code == 0
        assert await lab.route(namesrv, "ByHand") is None
        assert (await lab.ask(namesrv, RequestCode.DELETE_TOPIC_IN_NAMESRV, header)).code == 0, "twice does no harm"


async def test_texts_are_put_found_listed_and_deleted(tmp_path, environment):
    async with lab_in(tmp_path, environment) as lab:
        namesrv = await lab.namesrv()

        async def ask(code, header):
            response = await lab.ask(namesrv, code, header)
            return response.code, response.remark, response.ext_fields, bytes(response.body)

        put = headers.PutKVConfigRequestHeader(namespace="ns", key="k", value="ключ;1")
        get = headers.KVConfigRequestHeader(namespace="ns", key="k")
        assert await ask(RequestCode.GET_KV_CONFIG, get) == (22, "No config item, Namespace: ns Key: k", {}, b"")
        assert (await ask(RequestCode.PUT_KV_CONFIG, put))[0] == 0
        assert await ask(RequestCode.GET_KV_CONFIG, get) == (0, None, {"value": "ключ;1"}, b"")
        listed = await ask(RequestCode.GET_KVLIST_BY_NAMESPACE, headers.NamespaceRequestHeader(namespace="ns"))
        assert listed == (0, None, {}, '{"table":{"k":"ключ;1"}}'.encode())
        assert (await ask(RequestCode.DELETE_KV_CONFIG, get))[0] == 0
        assert (await ask(RequestCode.GET_KV_CONFIG, get))[0] == 22
        other = await ask(RequestCode.GET_KVLIST_BY_NAMESPACE, headers.NamespaceRequestHeader(namespace="other"))
        assert other == (22, "No config item, Namespace: other", {}, b"")
        bad = headers.PutKVConfigRequestHeader(namespace="a/b", key="k", value="v")
        assert (await ask(RequestCode.PUT_KV_CONFIG, bad))[0] == ResponseCode.SYSTEM_ERROR


async def test_order_configurations_reach_brokers_and_if_wanted_clients(tmp_path, environment):
    async with lab_in(tmp_path, environment) as lab:
        namesrv = await lab.namesrv(order_message_enable=True)
        await namesrv.kv.put("ORDER_TOPIC_CONFIG", "Orders", "broker-a:4")
        registration = await lab.broker(namesrv, topics=Topics(Orders=4, More=1))
        answers = []
        registration.listeners.append(answers.append)

        await registration.register_all()
        header = headers.GetRouteInfoRequestHeader(topic="Orders")
        response = await lab.ask(namesrv, RequestCode.GET_ROUTEINFO_BY_TOPIC, header)

        assert answers[-1].order_topics == {"Orders": "broker-a:4"}
        assert json.loads(bytes(response.body))["orderTopicConf"] == "broker-a:4"


async def test_settings_are_shown_and_changed_by_the_allow_list(tmp_path, environment):
    async with lab_in(tmp_path, environment) as lab:
        namesrv = await lab.namesrv()

        async def update(text):
            response = await lab.ask(namesrv, RequestCode.UPDATE_NAMESRV_CONFIG, body=text)
            return response.code, response.remark

        assert await update(b"deleteTopicWithBrokerRegistration=true") == (0, None)
        assert namesrv.routes.delete_topics is True
        shown = bytes((await lab.ask(namesrv, RequestCode.GET_NAMESRV_CONFIG)).body)
        assert b"deleteTopicWithBrokerRegistration=true\n" in shown
        assert await update(b"kvConfigPath=/tmp/x") == (16, "Can not update config in black list.")
        assert (await update(b"listenPort=1"))[0] == ResponseCode.NO_PERMISSION
        assert (await update(b"orderMessageEnable=perhaps"))[0] == ResponseCode.SYSTEM_ERROR
        assert (await update(b"nonsense"))[1].startswith("string2Properties error")


async def test_a_broker_unregisters_itself(tmp_path, environment):
    async with lab_in(tmp_path, environment) as lab:
        namesrv = await lab.namesrv()
        await lab.broker(namesrv, topics=Topics(Orders=4, More=1))

        header = headers.BrokerIdentityRequestHeader(**IDENTITY)
        assert (await lab.ask(namesrv, RequestCode.UNREGISTER_BROKER, header)).code == 0

        assert await lab.route(namesrv, "Orders") is None


async def test_a_zone_may_be_asked_for(tmp_path, environment):
    async with lab_in(tmp_path, environment) as lab:
        namesrv = await lab.namesrv()
        body = register_body(Orders=4, More=1)
        for name, port, zone in (("broker-a", 1, "north"), ("broker-b", 2, "south")):
            header = register_header(broker_name=name, broker_addr=f"127.0.0.1:{port}")
            command_fields = {headers.ZONE_NAME: zone}
            response = await lab.ask(namesrv, RequestCode.REGISTER_BROKER, header, body, zone=command_fields)
            assert response.code == 0
        header = headers.GetRouteInfoRequestHeader(topic="Orders")
        response = await lab.ask(
            namesrv,
            RequestCode.GET_ROUTEINFO_BY_TOPIC,
            header,
            zone={headers.ZONE_NAME: "South", headers.ZONE_MODE: "true"},
        )

        assert [broker["brokerName"] for broker in json.loads(bytes(response.body))["brokerDatas"]] == ["broker-b"]
