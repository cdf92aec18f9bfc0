"""What a broker says about its group: roles that do not fit, state of replication, members, refusals of a slave."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rocketmq_py.assembly.stages import build_broker
from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.ha.broker_role import BrokerRoles
from rocketmq_py.broker.ha.master_only import REFUSAL
from rocketmq_py.broker.ha.member_group import MemberGroup
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.errors import ConfigError
from rocketmq_py.remoting.bodies.cluster import BrokerMemberGroupBody
from rocketmq_py.remoting.bodies.ha_status import HARuntimeInfo
from rocketmq_py.remoting.bodies.kv_table import KVTable
from rocketmq_py.remoting.bodies.route import TopicRouteData
from rocketmq_py.remoting.bodies.topic_config import TopicConfigTable
from rocketmq_py.remoting.client import RemotingClient
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.errors import RemotingConnectError
from rocketmq_py.remoting.header import decode_header
from rocketmq_py.remoting.headers.ha import ExchangeHAInfoHeader
from rocketmq_py.remoting.java_json import decode_body, encode_body
from rocketmq_py.store.checkpoint import StoreCheckpoint
from rocketmq_py.store.commit_log import CommitLog
from rocketmq_py.store.config import BrokerRole
from rocketmq_py.testing.cluster import SMALL_STORE
from rocketmq_py.testing.eventually import eventually

from .ha_lab import MASTER, TOPIC, ha_lab


async def ask(
    environment: Environment, address: str, code: int, fields: dict[str, str] | None = None, body: bytes = b""
) -> RemotingCommand:
    """Send one request over a connection of its own."""
    client = RemotingClient(environment.clock)
    try:
        command = RemotingCommand.create_request(code, fields or {})
        command.body = body
        return await client.request(address, command, 3.0)
    finally:
        await client.close()


@pytest.mark.parametrize(
    ("role", "broker_id", "fits"),
    [
        (BrokerRole.ASYNC_MASTER, 0, True),
        (BrokerRole.SYNC_MASTER, 0, True),
        (BrokerRole.SLAVE, 1, True),
        (BrokerRole.SLAVE, 7, True),
        (BrokerRole.SLAVE, 0, False),
        (BrokerRole.SLAVE, -1, False),
        (BrokerRole.ASYNC_MASTER, 1, False),
        (BrokerRole.SYNC_MASTER, 2, False),
    ],
)
def test_role_and_id_that_do_not_fit_are_refused(
    tmp_path: Path, environment: Environment, role: BrokerRole, broker_id: int, fits: bool
) -> None:
    """A slave with id 0 would take its master's place at the name servers; so would a slave without its role."""
    store_config = replace(SMALL_STORE, store_path_root_dir=str(tmp_path), broker_role=role)
    config = BrokerConfig(broker_id=broker_id)
    if fits:
        build_broker(config, store_config, environment)
        return
    with pytest.raises(ConfigError, match=rf"brokerId.*{broker_id}.*set brokerId|set brokerRole"):
        build_broker(config, store_config, environment)


@pytest.mark.virtual_time
async def test_master_and_slave_tell_how_replication_goes(tmp_path: Path, environment: Environment) -> None:
    """GET_BROKER_HA_STATUS (907) is what `mqadmin haStatus` shows; the same numbers are in the runtime information."""
    async with ha_lab(tmp_path, environment, slaves=2) as lab:
        await lab.send(*("x" * 1000 for _ in range(50)))
        await lab.copied()
        await asyncio.sleep(2)
        end = lab.master.get(CommitLog).max_offset
        response = await ask(environment, lab.master.config.broker_address, RequestCode.GET_BROKER_HA_STATUS)
        status = decode_body(response.body, HARuntimeInfo)
        assert (status.master, status.master_commit_log_max_offset, status.in_sync_slave_nums) == (True, end, 2)
        for link in status.ha_connection_info:
            assert (link.slave_ack_offset, link.diff, link.in_sync, link.transfer_from_where) == (end, 0, True, end)

        slave = lab.brokers["slave-2"]
        response = await ask(environment, slave.config.broker_address, RequestCode.GET_BROKER_HA_STATUS)
        status = decode_body(response.body, HARuntimeInfo)
        mine = status.ha_client_runtime_info
        assert not status.master and mine.max_offset == end
        assert mine.master_addr == f"127.0.0.1:{lab.ha_port}"
        assert environment.clock.wall_ms() - mine.last_read_timestamp < 10_000

        for broker, expected in (
            (lab.master, {"brokerRole": "ASYNC_MASTER", "isSpecialServiceRunning": "true", "slaveNums": "2"}),
            (slave, {"brokerRole": "SLAVE", "isSpecialServiceRunning": "false"}),
        ):
            response = await ask(environment, broker.config.broker_address, RequestCode.GET_BROKER_RUNTIME_INFO)
            table = decode_body(response.body, KVTable).table
            assert {name: table.get(name) for name in expected} == expected


@pytest.mark.virtual_time
async def test_name_servers_show_the_group(tmp_path: Path, environment: Environment) -> None:
    """Master and slave under one name (105, 901); the slave's registration is answered with its master's addresses."""
    async with ha_lab(tmp_path, environment) as lab:
        slave = await lab.start("slave-3", broker_id=3, follow=False)
        await lab.linked()
        assert slave.get(BrokerRoles).master == lab.master_address, "haServerAddr and masterAddr of the answer"
        expected = {0: lab.master.config.broker_address, 3: slave.config.broker_address}
        fields = {"clusterName": "DefaultCluster", "brokerName": "broker-a"}
        response = await ask(environment, lab.namesrv.address, RequestCode.GET_BROKER_MEMBER_GROUP, fields)
        assert decode_body(response.body, BrokerMemberGroupBody).broker_member_group.broker_addrs == expected
        response = await ask(environment, lab.namesrv.address, RequestCode.GET_ROUTEINFO_BY_TOPIC, {"topic": TOPIC})
        (data,) = decode_body(response.body, TopicRouteData).broker_datas
        assert data.broker_addrs == expected
        await lab.stop(MASTER)
        response = await ask(environment, lab.namesrv.address, RequestCode.GET_ROUTEINFO_BY_TOPIC, {"topic": TOPIC})
        (data,) = decode_body(response.body, TopicRouteData).broker_datas
        assert data.broker_addrs == {3: slave.config.broker_address}, "Readers find the slave; nobody can send"


@pytest.mark.virtual_time
async def test_a_name_server_of_before_5_is_asked_by_a_topic(tmp_path: Path, environment: Environment) -> None:
    """It does not know 901: the route of a topic of the group names the members."""
    async with ha_lab(tmp_path, environment) as lab:
        del lab.namesrv.processors._table[RequestCode.GET_BROKER_MEMBER_GROUP]
        slave = await lab.start("slave-1", config={"slave_read_enable": True})
        await eventually(lambda: len(slave.get(MemberGroup).members) == 2, 5)
        assert slave.get(MemberGroup).has_master
        await lab.stop(MASTER)
        await eventually(lambda: not slave.get(MemberGroup).has_master, 5)


@pytest.mark.virtual_time
async def test_a_slave_refuses_changes_of_what_it_copies(tmp_path: Path, environment: Environment) -> None:
    """They would be lost with the next copy. Questions are answered, and a master takes the same requests."""
    async with ha_lab(tmp_path, environment, slaves=1) as lab:
        (slave,) = lab.slaves
        topic: dict[str, str] = {
            "topic": "New",
            "defaultTopic": "TBW102",
            "readQueueNums": "4",
            "writeQueueNums": "4",
            "perm": "6",
            "topicFilterType": "SINGLE_TAG",
            "topicSysFlag": "0",
            "order": "false",
        }
        group = encode_body({"groupName": "billing"})
        changes: list[tuple[int, dict[str, str], bytes]] = [
            (RequestCode.UPDATE_AND_CREATE_TOPIC, topic, b""),
            (RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, {}, group),
            (RequestCode.DELETE_TOPIC_IN_BROKER, {"topic": "New"}, b""),
            (RequestCode.DELETE_SUBSCRIPTIONGROUP, {"groupName": "billing"}, b""),
        ]
        for code, fields, body in changes:
            response = await ask(environment, slave.config.broker_address, code, fields, body)
            assert (response.code, response.remark) == (ResponseCode.SYSTEM_ERROR, REFUSAL), code
            response = await ask(environment, lab.master.config.broker_address, code, fields, body)
            assert response.code == ResponseCode.SUCCESS, response.remark
        response = await ask(environment, slave.config.broker_address, RequestCode.GET_TOPIC_CONFIG, {"topic": TOPIC})
        assert response.code == ResponseCode.SUCCESS
        # The tool asks every broker of a cluster for these, and would stop at the first refusal.
        fields = {"topic": "%RETRY%billing"}
        response = await ask(environment, slave.config.broker_address, RequestCode.DELETE_TOPIC_IN_BROKER, fields)
        assert response.code == ResponseCode.SUCCESS


@pytest.mark.virtual_time
async def test_a_stranger_cannot_lead_a_slave_away(tmp_path: Path, environment: Environment) -> None:
    """EXCHANGE_BROKER_HA_INFO (906) with addresses is for a master that speaks of itself."""
    async with ha_lab(tmp_path, environment, slaves=1) as lab:
        (slave,) = lab.slaves
        before = slave.get(BrokerRoles).master
        foreign = {"masterHaAddress": "10.9.9.9:10912", "masterAddress": "10.9.9.9:10911", "masterFlushOffset": "7"}
        response = await ask(environment, slave.config.broker_address, RequestCode.EXCHANGE_BROKER_HA_INFO, foreign)
        assert response.code == ResponseCode.NO_PERMISSION
        assert slave.get(BrokerRoles).master == before

        response = await ask(environment, lab.master.config.broker_address, RequestCode.EXCHANGE_BROKER_HA_INFO)
        header = decode_header(ExchangeHAInfoHeader, response.ext_fields)
        assert (header.master_address, header.master_ha_address) == (before.address, before.ha_address)


@pytest.mark.virtual_time
async def test_a_slave_remembers_its_masters_flushed_offset(tmp_path: Path, environment: Environment) -> None:
    """With `syncMasterFlushOffsetWhenStartup` from the exchange, if it had none; by RESET_MASTER_FLUSH_OFFSET (908)."""
    async with ha_lab(tmp_path, environment, slaves=1, sync_master_flush_offset_when_startup=True) as lab:
        (slave,) = lab.slaves
        checkpoint, address = slave.get(StoreCheckpoint), slave.config.broker_address
        master = lab.master_address
        for offset, expected in (("77", 77), ("99", 77)):
            fields = {
                "masterHaAddress": master.ha_address,
                "masterAddress": master.address,
                "masterFlushOffset": offset,
            }
            response = await ask(environment, address, RequestCode.EXCHANGE_BROKER_HA_INFO, fields)
            assert response.code == ResponseCode.SUCCESS and checkpoint.master_flushed_offset == expected
        fields = {"masterFlushOffset": "123"}
        await ask(environment, address, RequestCode.RESET_MASTER_FLUSH_OFFSET, fields)
        assert checkpoint.master_flushed_offset == 123
        fields = {"masterFlushOffset": "-1"}
        response = await ask(environment, address, RequestCode.RESET_MASTER_FLUSH_OFFSET, fields)
        assert response.code == ResponseCode.INVALID_PARAMETER and checkpoint.master_flushed_offset == 123


@pytest.mark.virtual_time
async def test_a_notice_of_the_smallest_id_is_checked(tmp_path: Path, environment: Environment) -> None:
    """NOTIFY_MIN_BROKER_ID_CHANGE (905) makes a broker ask; what the notice says is not believed."""
    settings: dict[str, Any] = {"enable_slave_acting_master": True, "sync_broker_member_group_period": 3_600_000}
    async with ha_lab(tmp_path, environment, config=settings) as lab:
        lab.namesrv.config.notify_min_broker_id_changed = True
        slave = await lab.start("slave-1", config=settings)
        await asyncio.sleep(2)
        members = slave.get(MemberGroup)
        lie = {"minBrokerId": "1", "brokerName": "broker-a", "minBrokerAddr": slave.config.broker_address}
        await ask(environment, slave.config.broker_address, RequestCode.NOTIFY_MIN_BROKER_ID_CHANGE, lie)
        assert members.min_id == 0 and len(members.members) == 2
        await lab.stop(MASTER)
        await asyncio.sleep(1)
        assert members.min_id == 1, "The name server tells a group whose smallest id has changed"


@pytest.mark.virtual_time
async def test_the_second_port_opens_with_the_first_slave(tmp_path: Path, environment: Environment) -> None:
    """A slave of Apache RocketMQ asks for topics and timers at the port two below its master's own."""
    async with ha_lab(tmp_path, environment, config={"listen_port": 10911}) as lab:
        with pytest.raises(RemotingConnectError):
            await ask(environment, "127.0.0.1:10909", RequestCode.GET_ALL_TOPIC_CONFIG)
        await lab.start("slave-1", config={"listen_port": 0})
        await lab.linked()
        response = await ask(environment, "127.0.0.1:10909", RequestCode.GET_ALL_TOPIC_CONFIG)
        assert TOPIC in decode_body(response.body, TopicConfigTable).topic_config_table
        await lab.stop(MASTER)
        with pytest.raises(RemotingConnectError):
            await ask(environment, "127.0.0.1:10909", RequestCode.GET_ALL_TOPIC_CONFIG)


def test_the_status_has_javas_names() -> None:
    """The tools of RocketMQ read these names."""
    names = set(msgspec.json.decode(encode_body(HARuntimeInfo())))
    assert names == {
        "haClientRuntimeInfo",
        "haConnectionInfo",
        "inSyncSlaveNums",
        "master",
        "masterCommitLogMaxOffset",
    }
