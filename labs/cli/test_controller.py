"""`rmq-py controller`, and a controller in a name server, as processes."""

from __future__ import annotations

import asyncio
import json

from rocketmq_py.common.environment import SystemClock
from rocketmq_py.remoting.client import RemotingClient
from rocketmq_py.remoting.codes import RequestCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.header import encode_header
from rocketmq_py.remoting.headers import controller as headers
from rocketmq_py.testing.free_port import free_port

from .processes import Server, rmq, rmq_json, run

GROUP = {"cluster_name": "DefaultCluster", "broker_name": "broker-a"}


def register_two(address: str) -> None:
    """Let two brokers join, the first as master and the second not in sync; then they vanish."""

    async def main() -> None:
        client = RemotingClient(SystemClock())
        for broker_id in (1, 2):
            broker_address = f"127.0.0.1:1091{broker_id}"
            for code, header in (
                (
                    RequestCode.CONTROLLER_APPLY_BROKER_ID,
                    headers.ApplyBrokerIdRequestHeader(
                        **GROUP, applied_broker_id=broker_id, register_check_code=f"{broker_address};1"
                    ),
                ),
                (
                    RequestCode.CONTROLLER_REGISTER_BROKER,
                    headers.RegisterBrokerToControllerRequestHeader(
                        **GROUP, broker_id=broker_id, broker_address=broker_address
                    ),
                ),
            ):
                command = RemotingCommand.create_request(code, encode_header(header))
                assert (await client.request(address, command, 5)).code == 0
        elect = headers.ElectMasterRequestHeader(**GROUP, broker_id=1)
        command = RemotingCommand.create_request(RequestCode.CONTROLLER_ELECT_MASTER, encode_header(elect))
        assert (await client.request(address, command, 5)).code == 0
        await client.close()

    asyncio.run(main())


def test_a_controller_is_started_looked_at_told_what_to_do_and_started_again(tmp_path):
    port = free_port()
    address = f"127.0.0.1:{port}"
    words = ("controller", "start", "--port", str(port), "--set", f"controllerStorePath={tmp_path / 'store'}")
    server = Server(*words, log=tmp_path / "controller.log")
    try:
        assert server.ready == f"The Controller Server boot success. serializeType=JSON, address {address}\n"
        register_two(address)
        status = rmq_json("controller", "status", "broker-a", "--address", address)
        assert status["controllers"] == [
            {
                "address": address,
                "group": "DefaultControllerGroup",
                "isLeader": True,
                "leader": address,
                "peers": [f"n0:{address}"],
            }
        ]
        group = status["groups"]["broker-a"]
        assert (group["masterBrokerId"], group["masterAddress"], group["masterEpoch"]) == (1, "127.0.0.1:10911", 1)
        assert [(r["brokerId"], r["role"], r["inSync"], r["alive"]) for r in group["replicas"]] == [
            (1, "master", True, False),
            (2, "slave", False, False),
        ]
        shown = rmq("controller", "status", "broker-a", "-a", address)
        assert "broker-a: master epoch 1, sync state set epoch 1" in shown

        assert "do not know broker-x" in run("controller", "status", "broker-x", "-a", address).stderr
        refused = run("controller", "elect", "broker-a", "-b", "2", "-a", address)
        assert refused.returncode == 7 and "2012" in refused.stderr, refused
        refused = run("controller", "clean", "broker-a", "-b", "2", "-a", address)
        assert refused.returncode == 7 and "--yes" in refused.stderr, refused
        cleaned = rmq_json("controller", "clean", "broker-a", "-b", "2", "--yes", "-a", address)
        assert cleaned == {"brokerName": "broker-a", "cleaned": [2]}

        second = run("controller", "start", "--port", "0", "--set", f"controllerStorePath={tmp_path / 'store'}")
        assert second.returncode != 0 and "locked by another process" in second.stderr
        assert "broker is running" not in second.stderr, "it is a controller that has the folder"

        status_code, seconds = server.stop()
        assert status_code == 0 and seconds < 5
        server = Server(*words, log=tmp_path / "again.log")
        group = rmq_json("controller", "status", "broker-a", "-a", address)["groups"]["broker-a"]
        assert [replica["brokerId"] for replica in group["replicas"]] == [1]
        assert group["masterBrokerId"] == 1, "a stop is no reason to take the master away"
    finally:
        server.kill()


def test_without_a_controller_a_command_says_where_it_looked(tmp_path):
    address = f"127.0.0.1:{free_port()}"
    result = run("controller", "elect", "broker-a", "-a", address, "--json")
    assert result.returncode == 4
    said = json.loads(result.stderr)
    assert address in said["error"] and "rmq-py controller start" in said["next"]
    result = run("controller", "status", "-a", "nonsense")
    assert result.returncode == 2 and "HOST:PORT" in result.stderr


def test_a_name_server_runs_a_controller_from_the_same_file(tmp_path):
    port, namesrv_port = free_port(), free_port()
    conf = tmp_path / "namesrv.conf"
    conf.write_text(
        "enableControllerInNamesrv=true\n"
        f"listenPort={namesrv_port}\n"
        "controllerDLegerGroup=group1\n"
        f"controllerDLegerPeers=n0-127.0.0.1:{port}\n"
        "controllerDLegerSelfId=n0\n"
        f"controllerStorePath={tmp_path / 'controller'}\n"
        f"kvConfigPath={tmp_path / 'kvConfig.json'}\n"
    )
    server = Server("namesrv", "start", "-c", str(conf), log=tmp_path / "namesrv.log")
    try:
        said = rmq_json("controller", "status", "-a", f"127.0.0.1:{port}")["controllers"]
        assert (said[0]["group"], said[0]["isLeader"]) == ("group1", True)
        assert rmq_json("topic", "list", "-n", f"127.0.0.1:{namesrv_port}")["errors"] == []
        assert server.stop()[0] == 0
    finally:
        server.kill()


def test_a_list_of_controllers_that_cannot_be_stops_the_start_with_the_reason(tmp_path):
    for settings, problem in (
        (("controllerDLegerPeers=n0-127.0.0.1:1", "controllerDLegerSelfId=n9"), "has only n0"),
        (("controllerDLegerPeers=n0",), "not ID-HOST:PORT"),
        (("controllerDLegerPears=n0-127.0.0.1:1",), "did you mean controllerDLegerPeers"),
    ):
        words = [word for setting in settings for word in ("--set", setting)]
        result = run("controller", "start", *words)
        assert result.returncode == 2 and problem in result.stderr, result.stderr
    result = run("controller", "start", "--port", "1", "--set", "controllerDLegerPeers=n0-127.0.0.1:1")
    assert result.returncode == 2 and "--port does not go with" in result.stderr
