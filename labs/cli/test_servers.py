"""The commands that run servers, the course's commands, and the tour."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from labs.cli.processes import Server, rmq, rmq_json, run
from labs.stage_05_remoting.certificates import make_certificate
from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.cli.broker import warn_about_addresses
from rocketmq_py.cli.standalone import local_address
from rocketmq_py.cli.tour import CHAPTERS
from rocketmq_py.common.environment import system_environment
from rocketmq_py.namesrv.config import NamesrvConfig
from rocketmq_py.namesrv.server import Namesrv
from rocketmq_py.testing.free_port import free_port

pytestmark = [pytest.mark.serial, pytest.mark.timeout(180)]


def test_the_tour_shows_every_chapter_and_ends_well() -> None:
    """Without a terminal there are no colours; each chapter checks what it shows."""
    text = rmq("tour")
    for number, (title, _) in enumerate(CHAPTERS, 1):
        assert f"{number}  {title}" in text
    assert text.count("  ok  ") >= 12
    assert "physical_offset" in text
    assert "\x1b[" not in text


def test_the_tour_keeps_its_files_where_it_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "tour"
    rmq("tour", "--dir", str(folder))
    assert rmq_json("store", "verify", str(folder / "broker-a"))["problems"] is not None
    refused = run("tour", "--dir", str(folder))
    assert refused.returncode == 1
    assert "not empty" in refused.stderr


def test_name_server_and_brokers_as_processes_of_their_own(tmp_path: Path) -> None:
    """A broker is configured with RocketMQ's own property names, by file and by option; the option wins."""
    namesrv = Server("namesrv", "start", "--port", "0", log=tmp_path / "namesrv.txt")
    try:
        address = re.search(r"127\.0\.0\.1:\d+", namesrv.ready)
        assert address is not None, namesrv.ready
        conf = tmp_path / "broker.conf"
        conf.write_text(f"brokerName=from-file\nlistenPort=1\nnamesrvAddr={address[0]}\nflushDiskType=SYNC_FLUSH\n")
        broker = Server(
            *("broker", "start", "-c", str(conf), "--set", "listenPort=0"),
            *("--set", f"storePathRootDir={tmp_path / 'store'}"),
            log=tmp_path / "broker.txt",
        )
        try:
            assert rmq_json("topic", "create", "T", "-n", address[0])["topic"] == "T"
            row = rmq_json("message", "send", "T", "x", "-n", address[0])["items"][0]
            assert (row["status"], row["broker"]) == ("SEND_OK", "from-file")
        finally:
            assert broker.stop()[0] == 0
    finally:
        assert namesrv.stop()[0] == 0


def test_two_brokers_in_one_cluster(tmp_path: Path) -> None:
    """`--brokers 2` is two processes; a topic has its queues on both."""
    server = Server(
        *("standalone", "--brokers", "2", "--store", str(tmp_path / "store"), "--namesrv-port", "0", "--port", "0"),
        log=tmp_path / "log.txt",
    )
    try:
        found = re.search(r"name server (\S+), brokers (\S+), (\S+), files in", server.ready)
        assert found is not None, server.ready
        rmq("topic", "create", "Both", "--queues", "2", "-n", found[1])
        rows = rmq_json("topic", "describe", "Both", "-n", found[1])["items"]
        assert sorted((row["broker"], row["queue"]) for row in rows) == [
            ("broker-a", 0), ("broker-a", 1), ("broker-b", 0), ("broker-b", 1),
        ]  # fmt: skip
        sent = rmq_json("message", "send", "Both", "x", "--count", "8", "-n", found[1])["items"]
        assert {row["broker"] for row in sent} == {"broker-a", "broker-b"}
    finally:
        status, seconds = server.stop()
    assert status == 0
    assert seconds < 6


def test_a_broker_that_announces_another_address_is_named_by_it(tmp_path: Path) -> None:
    """Clients connect to `brokerIP1`; where they cannot, the text has the address and the setting."""
    server = Server(
        *("standalone", "--store", str(tmp_path / "store"), "--namesrv-port", "0", "--port", "0"),
        *("--set", "brokerIP1=127.0.0.9"),
        log=tmp_path / "log.txt",
    )
    try:
        found = re.search(r"name server (\S+), broker (127\.0\.0\.9:\d+), files in", server.ready)
        assert found is not None, server.ready
        for words in (("message", "send", "T", "x"), ("topic", "create", "T")):
            result = run(*words, "-n", found[1])
            assert result.returncode == 4
            assert f"The broker announced {found[2]}" in result.stderr
            assert "brokerIP1" in result.stderr
        taken = run("standalone", "--store", str(tmp_path / "other"), "--namesrv-port", found[1].rpartition(":")[2])
        assert taken.returncode == 1
        assert "--namesrv-port" in taken.stderr
    finally:
        server.stop()


def test_opening_a_broker_to_other_machines_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody may get in by accident, and without `brokerIP1` clients elsewhere would be sent to themselves."""
    warn_about_addresses(BrokerConfig())
    assert not caplog.messages
    warn_about_addresses(BrokerConfig(bind_address="0.0.0.0", broker_ip1="192.0.2.7"))
    (warning,) = caplog.messages
    assert "no access control" in warning
    caplog.clear()
    warn_about_addresses(BrokerConfig(bind_address="0.0.0.0", broker_ip1="127.0.0.1"))
    assert "set brokerIP1" in caplog.messages[-1]


@pytest.mark.parametrize(
    "words", [("broker", "start", "--set", "listenPort=0"), ("standalone", "--namesrv-port", "0", "--port", "0")]
)
def test_an_address_of_another_machine_is_refused(words: tuple[str, ...], tmp_path: Path) -> None:
    """192.0.2.7 is set aside for examples and belongs to no machine; the warnings come before the port is opened."""
    result = run(*words, "--set", f"storePathRootDir={tmp_path}", "--set", "bindAddress=192.0.2.7")
    assert result.returncode == 1
    assert "no access control" in result.stderr
    assert "cannot listen on 192.0.2.7" in result.stderr
    assert "an address of this machine" in result.stderr


@pytest.mark.parametrize(
    ("bind_address", "reached_at"),
    [("0.0.0.0", "127.0.0.1:9876"), ("127.0.0.1", "127.0.0.1:9876"), ("192.0.2.7", "192.0.2.7:9876")],
)
def test_a_broker_beside_an_open_name_server_reaches_it_on_this_machine(bind_address: str, reached_at: str) -> None:
    namesrv = Namesrv(NamesrvConfig(bind_address=bind_address), system_environment())
    assert local_address(namesrv) == reached_at


def test_a_name_server_without_brokers_is_explained(tmp_path: Path) -> None:
    namesrv = Server("namesrv", "start", "--port", "0", log=tmp_path / "namesrv.txt")
    try:
        address = re.search(r"127\.0\.0\.1:\d+", namesrv.ready)
        assert address is not None
        for words in (("message", "send", "T", "x"), ("topic", "describe", "T"), ("topic", "create", "T")):
            result = run(*words, "-n", address[0])
            assert result.returncode in (1, 3)
            assert "roker is registered at" in result.stderr
    finally:
        namesrv.stop()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--set", "listenPort=zero"), "listenPort"),
        (("--set", "listenPrt=1"), "listenPort"),
        (("-c", "/nonexistent/broker.conf"), "/nonexistent/broker.conf"),
        (("--through", "nothing"), "commit_log"),
    ],
)
def test_wrong_settings_are_refused_before_anything_starts(words: tuple[str, ...], says: str, tmp_path: Path) -> None:
    result = run("broker", "start", *words, "--set", f"storePathRootDir={tmp_path / 'store'}")
    assert result.returncode == 2, result.stderr
    assert says in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "store" / "commitlog").exists()


def test_a_broker_tells_what_it_is_made_of() -> None:
    rows = {(row["stage"], row["kind"], row["name"]) for row in rmq_json("broker", "explain")["items"]}
    assert {
        ("commit_log", "part", "CommitLog"),
        ("consume_queue", "dispatcher", "consume queue"),
        ("send", "request", "SEND_MESSAGE_V2 310, hot path"),
        ("long_polling", "arrival listener", "PullRequestHoldService"),
        ("rebalance", "periodic", "scan clients, every 10 s"),
        ("rebalance", "request", "HEART_BEAT 34"),
    } <= rows
    early = {row["stage"] for row in rmq_json("broker", "explain", "--through", "remoting")["items"]}
    assert "remoting" in early
    assert "send" not in early
    assert "mappedFileSizeCommitLog" in rmq("broker", "settings")


def test_a_broker_of_an_early_stage_serves_what_it_can(tmp_path: Path) -> None:
    """`--through send` is a broker that takes messages and hands none out."""
    namesrv = Server("namesrv", "start", "--port", "0", log=tmp_path / "namesrv.txt")
    try:
        address = re.search(r"127\.0\.0\.1:\d+", namesrv.ready)
        assert address is not None
        broker = Server(
            *("broker", "start", "--through", "send", "--set", "listenPort=0", "--set", f"namesrvAddr={address[0]}"),
            *("--set", f"storePathRootDir={tmp_path / 'store'}"),
            log=tmp_path / "broker.txt",
        )
        try:
            rmq("topic", "create", "T", "-n", address[0])
            assert "SEND_OK" in rmq("message", "send", "T", "x", "-n", address[0])
            refused = run("message", "consume", "T", "--wait", "1", "-n", address[0])
            assert refused.returncode != 0
            assert "Traceback" not in refused.stderr
        finally:
            broker.stop()
    finally:
        namesrv.stop()


def test_stages_are_listed_and_exported(tmp_path: Path) -> None:
    names = [row["name"] for row in rmq_json("stage", "list")["items"]]
    assert names[:3] == ["tour", "commit_log", "consume_queue"]
    rmq("stage", "export", "index", str(tmp_path / "slice"))
    assert (tmp_path / "slice/rocketmq_py/store/index_file.py").is_file()
    assert not (tmp_path / "slice/rocketmq_py/remoting/server.py").exists()
    assert run("stage", "export", "index", str(tmp_path / "slice")).returncode == 2


def test_help_names_every_command() -> None:
    text = rmq("--help")
    for word in ("tour", "standalone", "namesrv", "broker", "topic", "message", "transaction", "store", "stage"):
        assert word in text
    assert re.fullmatch(r"rocketmq_py \d+\.\d+\.\d+\n", rmq("--version"))


def test_tls_is_switched_on_by_settings(tmp_path: Path) -> None:
    """Claim: with a certificate in the settings every connection can be encrypted, and with `enforcing` has to be.

    Experiment: a standalone server that enforces TLS; commands with, without, and with a useless list of authorities.
    Observe: the first work, the others fail and say why.
    """
    certificate = make_certificate(tmp_path)
    port, namesrv = free_port(), free_port()
    options = {
        "tls.server.mode": "enforcing",
        "tls.server.certPath": certificate.certificate,
        "tls.server.keyPath": certificate.key,
        "tls.enable": "true",
        "tls.client.trustCertPath": certificate.certificate,
    }
    settings = [word for name, value in options.items() for word in ("--set", f"{name}={value}")]
    words = ("standalone", "--store", str(tmp_path / "store"), "--port", str(port), "--namesrv-port", str(namesrv))
    server = Server(*words, *settings, log=tmp_path / "log")
    try:
        where = ("-n", f"127.0.0.1:{namesrv}")
        secure = {"ROCKETMQ_TLS_CA": certificate.certificate}
        assert "SEND_OK" in rmq("message", "send", "Secret", "hello", *where, **secure)
        assert "hello" in rmq("message", "consume", "Secret", "--max", "1", *where, **secure)
        for environment, text in (({}, "was lost"), ({"ROCKETMQ_TLS_CA": certificate.key}, "holds no certificates")):
            failed = run("topic", "list", *where, **environment)
            assert failed.returncode != 0
            assert text in failed.stderr, failed.stderr
    finally:
        server.stop()
