"""Topologies: what the configuration files say, and the same files as running processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.cli.local_cluster import LocalCluster
from rocketmq_py.cli.member_process import MemberProcess, State, start_of
from rocketmq_py.cli.output import CliError
from rocketmq_py.cli.topology import Kind, Member, known_topologies, lay_out, parse_assignments, read_topology
from rocketmq_py.common.config import apply_properties, parse_properties
from rocketmq_py.common.environment import system_environment
from rocketmq_py.common.errors import ConfigError
from rocketmq_py.store.config import BrokerRole, FlushDiskType, MessageStoreConfig

PATIENCE = 60.0


def settings_of(member: Member) -> tuple[BrokerConfig, MessageStoreConfig]:
    """Return what a broker makes of its file."""
    config, store_config = BrokerConfig(), MessageStoreConfig()
    apply_properties(parse_properties(member.text, member.name), config, store_config)
    return config, store_config


def laid_out(topology: str, base_port: int | None = None, **assignments: str) -> dict[str, Member]:
    files = read_topology(topology, system_environment())
    return {member.name: member for member in lay_out(files, Path("/cluster"), base_port, assignments)}


# --- the files --------------------------------------------------------------------------------------------------------


@pytest.mark.claim("ha-06")
def test_the_default_is_neither_a_synchronous_copy_nor_a_synchronous_flush() -> None:
    """Claim: synchronous double write is the default - it is not: the default is ASYNC_MASTER with ASYNC_FLUSH.

    Experiment: read the settings of a broker that nobody configured, and of the masters of the topologies.
    Observe: the default waits for nobody. Who wants to wait chooses a topology: in 2m-2s-sync a master waits for one
        slave, because inSyncReplicas is 2 there; brokerRole=SYNC_MASTER alone would wait for nobody, as in RocketMQ 5.
        What each combination can lose is shown by labs/faults/test_power_cuts.py.
    """
    default = MessageStoreConfig()
    assert default.broker_role is BrokerRole.ASYNC_MASTER
    assert default.flush_disk_type is FlushDiskType.ASYNC_FLUSH
    assert default.in_sync_replicas == 1
    masters = {}
    for topology in ("2m-noslave", "2m-2s-async", "2m-2s-sync"):
        _, store_config = settings_of(laid_out(topology)["broker-a"])
        assert store_config.flush_disk_type is FlushDiskType.ASYNC_FLUSH
        masters[topology] = (store_config.broker_role, store_config.in_sync_replicas, store_config.min_in_sync_replicas)
    assert masters == {
        "2m-noslave": (BrokerRole.ASYNC_MASTER, 1, 1),
        "2m-2s-async": (BrokerRole.ASYNC_MASTER, 1, 1),
        "2m-2s-sync": (BrokerRole.SYNC_MASTER, 2, 1),
    }


@pytest.mark.parametrize("topology", known_topologies())
def test_every_topology_fits_on_one_machine(topology: str) -> None:
    """No two members want one port or one folder, all listen on loopback only, and a broker takes its whole file."""
    members = laid_out(topology, 20_000)
    ports = [port for member in members.values() for port in member.ports]
    assert len(ports) == len(set(ports)), "two members want one port"
    stores = set()
    for member in members.values():
        if member.kind is not Kind.BROKER:
            continue
        config, store_config = settings_of(member)
        assert (config.bind_address, config.broker_ip1, config.broker_ip2) == ("127.0.0.1",) * 3
        assert (config.listen_port, store_config.ha_listen_port) == member.ports
        assert config.namesrv_addr == members["namesrv"].address
        stores.add(store_config.root_dir)
    assert len(stores) == sum(member.kind is Kind.BROKER for member in members.values())


def test_a_slave_shares_the_name_of_its_master_and_has_another_id() -> None:
    members = laid_out("2m-2s-sync")
    found = {name: settings_of(member) for name, member in members.items() if member.kind is Kind.BROKER}
    assert {(name, config.broker_name, config.broker_id) for name, (config, _) in found.items()} == {
        ("broker-a", "broker-a", 0),
        ("broker-a-s", "broker-a", 1),
        ("broker-b", "broker-b", 0),
        ("broker-b-s", "broker-b", 1),
    }
    assert {store.broker_role for name, (_, store) in found.items() if name.endswith("-s")} == {BrokerRole.SLAVE}
    assert members["broker-a"].address == "127.0.0.1:10911"
    assert members["namesrv"].address == "127.0.0.1:9876"


def test_controllers_know_each_other_and_brokers_know_all_of_them() -> None:
    members = laid_out("controller-3n", 20_000)
    config, store_config = settings_of(members["broker-n0"])
    addresses = [members[f"controller-n{number}"].address for number in range(3)]
    assert config.controller_addr == ";".join(addresses)
    peers = ";".join(f"n{number}-{address}" for number, address in enumerate(addresses))
    for number in range(3):
        settings = parse_properties(members[f"controller-n{number}"].text, "controller")
        assert settings["controllerDLegerPeers"].value == peers
        assert settings["controllerDLegerSelfId"].value == f"n{number}"
    assert (store_config.all_ack_in_sync_state_set, store_config.min_in_sync_replicas) == (True, 2)
    assert members["broker-n0"].broker_id == -1
    # Without a base port they are where `rmq-py controller` and RocketMQ's files look for them.
    assert laid_out("controller-3n")["controller-n0"].address == "127.0.0.1:9878"
    assert laid_out("controller")["namesrv"].ports == (9876, 9878)


def test_a_file_written_for_another_machine_runs_on_this_one(tmp_path: Path) -> None:
    """Addresses, ports and folders of the file are those of another machine; what it is to the others stays."""
    (tmp_path / "broker-x.conf").write_text(
        "brokerName=x\nlistenPort=30911\nbrokerIP1=10.1.2.3\nstorePathRootDir=/data/rocketmq\nnamesrvAddr=10.1.2.9:9876\n"
        "haMasterAddress=10.1.2.4:10912\nfileReservedTime=12\nmappedFileSizeCommitLog=1048576"
    )
    member = laid_out(str(tmp_path), 20_000, flushDiskType="SYNC_FLUSH")["broker-x"]
    config, store_config = settings_of(member)
    assert (config.broker_ip1, config.listen_port, config.namesrv_addr) == ("127.0.0.1", 20_012, "127.0.0.1:20000")
    assert store_config.root_dir == "/cluster/broker-x/store"
    assert store_config.ha_master_address == ""
    assert (store_config.file_reserved_time, store_config.mapped_file_size_commit_log) == (12, 1 << 20)
    assert store_config.flush_disk_type is FlushDiskType.SYNC_FLUSH


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({}, "no file of a broker"),
        ({"notes.properties": "a=b\n"}, "sets no brokerName"),
        ({"b.conf": "brokerName=b\n", "b.properties": "brokerName=c\n"}, "two files called b"),
        ({"b.conf": "brokerName=b\n", "c.conf": "brokerName=b\nbrokerId=0\n"}, "both are broker b with id 0"),
        ({"b c.conf": "brokerName=b\n"}, "the name of a file becomes that of a process"),
    ],
)
def test_a_folder_that_is_no_topology_is_refused_with_the_reason(
    tmp_path: Path, files: dict[str, str], reason: str
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(CliError, match=reason):
        read_topology(str(tmp_path), system_environment())


def test_words_that_are_no_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        parse_assignments(["flushDiskType"])
    with pytest.raises(CliError, match="too few ports"):
        laid_out("2m-2s-sync", 65_500)


# --- processes that are never mistaken --------------------------------------------------------------------------------


def test_a_number_that_belongs_to_another_process_now_gets_no_signal(tmp_path: Path) -> None:
    """What is remembered is the number and the moment of the start; this very process has the number, and lives on."""
    process = MemberProcess("x", tmp_path / "x.json", tmp_path / "x.log")
    assert process.state is State.STOPPED
    (tmp_path / "x.json").write_text(json.dumps({"pid": os.getpid(), "started": "1 of another boot"}))
    assert process.pid is None
    assert not process.send(signal.SIGKILL)
    (tmp_path / "x.json").write_text(json.dumps({"pid": os.getpid(), "started": start_of(os.getpid())}))
    assert process.pid == os.getpid()
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(CliError, match="it is not known whether x runs"):
        process.send(signal.SIGKILL)


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("chapter 1")
    with pytest.raises(CliError, match="not empty and holds no cluster"):
        LocalCluster.create(tmp_path, "2m-noslave", [])
    with pytest.raises(CliError, match="is not the folder of a cluster"):
        LocalCluster.open(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


# --- as a person uses it ------------------------------------------------------------------------------------------------


def rmq(*words: str, status: int = 0) -> str:
    """Run a command and return what it printed."""
    result = subprocess.run(
        [sys.executable, "-m", "rocketmq_py.cli.main", *words],
        env={**os.environ, "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert result.returncode == status, f"rmq-py {' '.join(words)}:\n{result.stdout}\n{result.stderr}"
    return result.stdout + result.stderr


@contextmanager
def cluster_of(topology: str, folder: Path) -> Iterator[str]:
    """Run a cluster on any free ports; give its name server."""
    try:
        yield json.loads(rmq("cluster", "up", topology, "--dir", str(folder), "--base-port", "0", "--json"))[
            "namesrvAddr"
        ]
    finally:
        if (folder / "cluster.json").exists():
            rmq("cluster", "down", "--dir", str(folder))


def status(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what `cluster status` says of each member."""
    return {row["name"]: row for row in json.loads(rmq("cluster", "status", "--json", "--dir", str(folder)))["items"]}


@pytest.mark.serial
@pytest.mark.timeout(240)
@pytest.mark.claim("ha-08")
@pytest.mark.parametrize("topology", ["2m-noslave", "2m-2s-async", "2m-2s-sync"])
def test_the_three_topologies_start_by_one_command(tmp_path: Path, topology: str) -> None:
    """Claim: several masters; masters with slaves, asynchronous; masters with slaves, synchronous: all three start from
    the command line with the real configuration files.

    Experiment: `rmq-py cluster up TOPOLOGY`; send; kill the first master; send again; read all; bring it back.
    Observe: each broker is a process of its own and registered. With a slave everything is read while the master is
        gone; without one the messages of the dead master wait for its return. Both masters get messages, and
        afterwards only the one that lives.
    """
    folder = tmp_path / "cluster"
    has_slaves = topology != "2m-noslave"
    with cluster_of(topology, folder) as namesrv:
        before = status(folder)
        names = {"broker-a", "broker-b"} | ({"broker-a-s", "broker-b-s"} if has_slaves else set())
        assert {name for name, row in before.items() if row["kind"] == "broker"} == names
        assert all(row["answers"] for row in before.values())
        assert len({row["pid"] for row in before.values()}) == len(before)
        roles = {name: row["role"] for name, row in before.items() if row["role"]}
        assert roles["broker-a"] == ("SYNC_MASTER" if topology == "2m-2s-sync" else "ASYNC_MASTER")
        assert not has_slaves or roles["broker-a-s"] == "SLAVE"

        rmq("topic", "create", "T", "--queues", "2", "-n", namesrv)
        sent = json.loads(rmq("message", "send", "T", "x", "--count", "8", "--json", "-n", namesrv))["items"]
        assert {row["status"] for row in sent} == {"SEND_OK"}
        assert {row["broker"] for row in sent} == {"broker-a", "broker-b"}
        if has_slaves:
            copied(folder)

        rmq("cluster", "kill", "broker-a", "--dir", str(folder))
        assert status(folder)["broker-a"]["state"] == "stopped"
        later = json.loads(rmq("message", "send", "T", "y", "--count", "4", "--json", "-n", namesrv))["items"]
        assert {(row["status"], row["broker"]) for row in later} == {("SEND_OK", "broker-b")}
        on_dead = sum(row["broker"] == "broker-a" for row in sent)
        readable = 12 if has_slaves else 12 - on_dead
        assert consume(namesrv, readable) == readable

        rmq("cluster", "start", "broker-a", "--dir", str(folder))
        after = status(folder)
        assert after["broker-a"]["state"] == "running"
        assert after["broker-a"]["logEnd"] >= before["broker-a"]["logEnd"]
        if not has_slaves:
            assert consume(namesrv, on_dead) == on_dead, "the messages of the master that was gone"
    assert {row["state"] for row in status(folder).values()} == {"stopped"}


def consume(namesrv: str, count: int) -> int:
    """Read so many messages as a member of a group, and return how many came."""
    text = rmq("message", "consume", "T", "--group", "G", "--count", str(count), "--json", "-n", namesrv)
    return len([json.loads(line) for line in text.splitlines()])


def copied(folder: Path) -> None:
    """Wait until no slave is behind."""
    for _ in range(100):
        if {row["behind"] for row in status(folder).values() if row["role"] == "SLAVE"} == {0}:
            return
    raise AssertionError(f"slaves stay behind: {status(folder)}")


@pytest.mark.serial
@pytest.mark.timeout(240)
def test_up_starts_what_is_missing_and_refuses_what_would_be_a_surprise(tmp_path: Path) -> None:
    folder = tmp_path / "cluster"
    with cluster_of("2m-noslave", folder) as namesrv:
        pids = {name: row["pid"] for name, row in status(folder).items()}
        rmq("cluster", "kill", "broker-b", "--signal", "STOP", "--dir", str(folder))
        paused = status(folder)["broker-b"]
        assert (paused["state"], paused["answers"], paused["pid"]) == ("paused", False, pids["broker-b"])
        rmq("cluster", "kill", "broker-b", "--signal", "CONT", "--dir", str(folder))
        rmq("cluster", "kill", "broker-a", "--signal", "TERM", "--dir", str(folder))
        assert "does not run" in rmq("cluster", "kill", "broker-a", "--dir", str(folder), status=3)

        text = rmq("cluster", "up", "2m-noslave", "--dir", str(folder))
        assert "broker-b" in text
        assert "running already" in text
        after = {name: row["pid"] for name, row in status(folder).items()}
        assert after["broker-a"] != pids["broker-a"]
        assert {name: pid for name, pid in after.items() if name != "broker-a"} == {
            name: pid for name, pid in pids.items() if name != "broker-a"
        }
        assert "not 2m-2s-sync" in rmq("cluster", "up", "2m-2s-sync", "--dir", str(folder), status=7)
        assert "would change it" in rmq(
            "cluster", "up", "2m-noslave", "--dir", str(folder), "--base-port", "0", status=7
        )
        port = namesrv.rpartition(":")[2]
        other = tmp_path / "other"
        taken = rmq("cluster", "up", "2m-noslave", "--dir", str(other), "--base-port", port, status=1)
        assert f"namesrv needs port {port}" in taken
        assert "--base-port" in taken
        assert {row["state"] for row in status(other).values()} == {"stopped"}
        assert "has no member 'broker-z'" in rmq("cluster", "kill", "broker-z", "--dir", str(folder), status=3)
        assert "boot success" in rmq("cluster", "logs", "broker-a", "--dir", str(folder), "--lines", "200")
        assert "there is no topology" in rmq("cluster", "up", "3m", "--dir", str(tmp_path / "z"), status=3)


@pytest.mark.serial
@pytest.mark.timeout(120)
def test_a_broker_that_cannot_start_takes_nobody_with_it(tmp_path: Path) -> None:
    """What was started by the same command is stopped again, and the reason is shown."""
    folder = tmp_path / "cluster"
    words = ("cluster", "up", "2m-noslave", "--dir", str(folder), "--base-port", "0")
    text = rmq(*words, "--set", "flushDiskType=SOMETIMES", status=1)
    assert "ended with status" in text
    assert "ASYNC_FLUSH, SYNC_FLUSH" in text
    assert {row["state"] for row in status(folder).values()} == {"stopped"}
