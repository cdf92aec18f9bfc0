"""Every command of `rmq-py` against a running standalone, as processes."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from labs.cli.processes import COMMAND, Server, rmq, rmq_json, run

pytestmark = [pytest.mark.serial, pytest.mark.timeout(180)]


@dataclass
class Running:
    """A standalone and where it is."""

    server: Server
    namesrv: str
    broker: str
    store: Path

    def rmq(self, *words: str, status: int = 0, stdin: str | None = None) -> str:
        return rmq(*words, status=status, stdin=stdin, NAMESRV_ADDR=self.namesrv)

    def json(self, *words: str) -> dict:
        found: dict = rmq_json(*words, NAMESRV_ADDR=self.namesrv)
        return found


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("standalone")
    store = folder / "store"
    server = Server("standalone", "--store", str(store), "--namesrv-port", "0", "--port", "0", log=folder / "log.txt")
    found = re.search(r"name server (\S+), broker (\S+), files in", server.ready)
    assert found is not None, server.ready
    yield Running(server, found[1], found[2], store / "broker-a")
    if server.process.poll() is None:
        server.kill()


def test_topics_are_created_listed_described_and_deleted(running: Running) -> None:
    created = running.json("topic", "create", "CliTopic", "--queues", "3")
    assert created == {"topic": "CliTopic", "queues": 3, "perm": "RW-", "brokers": [running.broker]}
    assert "CliTopic" in running.rmq("topic", "list")
    rows = running.json("topic", "describe", "CliTopic")["items"]
    assert [(row["broker"], row["queue"], row["messages"]) for row in rows] == [("broker-a", n, 0) for n in range(3)]
    running.rmq("topic", "delete", "CliTopic", "--yes")
    assert "CliTopic" not in running.rmq("topic", "list")


def test_an_order_configuration_is_set_shown_and_deleted(running: Running) -> None:
    running.rmq("topic", "create", "CliOrder", "--queues", "3")
    assert (
        "Set one: rmq-py topic order set CliOrder"
        in run("topic", "order", "get", "CliOrder", NAMESRV_ADDR=running.namesrv).stderr
    )
    made = running.json("topic", "order", "set", "CliOrder")
    assert made["orderConf"] == "broker-a:3"
    assert made["warnings"] == [f"{running.namesrv} does not tell clients of it: start it with orderMessageEnable=true"]
    made = running.json("topic", "order", "set", "CliOrder", "--conf", "broker-z:2")
    assert made["warnings"][:2] == [
        "broker broker-z has 0 of the 2 queues now; sends to the others fail",
        "no ordered message goes to broker-a",
    ]
    rows = running.json("topic", "order", "get", "CliOrder")["items"]
    assert rows == [{"nameServer": running.namesrv, "orderConf": "broker-z:2"}]
    for wrong in ("broker-a", "broker-a:0", "broker-a:1;broker-a:2"):
        running.rmq("topic", "order", "set", "CliOrder", "--conf", wrong, status=2)
    running.rmq("topic", "order", "set", "NoSuchTopic", status=3)
    running.rmq("topic", "order", "delete", "CliOrder", stdin="", status=7)
    running.rmq("topic", "order", "delete", "CliOrder", "--yes")
    running.rmq("topic", "order", "get", "CliOrder", status=3)


def test_nothing_is_deleted_without_a_yes(running: Running) -> None:
    running.rmq("topic", "create", "Kept", "--queues", "1")
    result = run("topic", "delete", "Kept", NAMESRV_ADDR=running.namesrv, stdin="")
    assert result.returncode == 7
    assert "--yes" in result.stderr
    assert "Kept" in running.rmq("topic", "list")


def test_a_message_is_sent_found_and_consumed(running: Running) -> None:
    running.rmq("topic", "create", "CliMessages", "--queues", "2")
    sent = running.json(
        "message", "send", "CliMessages", "two coffees", "--tags", "new", "--keys", "order-17", "--property", "table=3"
    )["items"][0]
    assert sent["status"] == "SEND_OK"
    by_key = running.json("message", "query", "CliMessages", "--key", "order-17")["items"]
    by_id = running.json("message", "query", "CliMessages", "--id", sent["offsetMsgId"])["items"]
    assert by_key[0]["body"] == by_id[0]["body"] == "two coffees"
    assert by_key[0]["properties"]["table"] == "3"

    running.rmq("message", "send", "CliMessages", "-", stdin="from a pipe")
    text = running.rmq("message", "consume", "CliMessages", "--count", "2", "--wait", "5")
    assert "two coffees" in text
    assert "from a pipe" in text


def test_a_group_goes_on_where_it_stopped(running: Running) -> None:
    running.rmq("topic", "create", "CliGroup", "--queues", "1")
    running.rmq("message", "send", "CliGroup", "m", "--count", "5")

    def offsets(*words: str) -> list[int]:
        lines = running.rmq("message", "consume", "CliGroup", "--group", "readers", "--json", *words).splitlines()
        return [json.loads(line)["queueOffset"] for line in lines]

    assert offsets("--count", "2", "--wait", "5") == [0, 1]
    assert offsets("--count", "3", "--wait", "5") == [2, 3, 4]
    nothing = run("message", "consume", "CliGroup", "--group", "readers", "--wait", "0.5", NAMESRV_ADDR=running.namesrv)
    assert nothing.returncode == 3
    assert "--follow" in nothing.stderr
    assert offsets("--from-time", "0", "--count", "5", "--wait", "5") == [0, 1, 2, 3, 4]


def test_following_ends_with_ctrl_c_and_what_was_shown_is_committed(running: Running) -> None:
    running.rmq("topic", "create", "CliFollow", "--queues", "1")
    running.rmq("message", "send", "CliFollow", "m", "--count", "3")
    words = ("message", "consume", "CliFollow", "--group", "followers", "-f", "--json", "-n", running.namesrv)
    with subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert [json.loads(process.stdout.readline())["queueOffset"] for _ in range(3)] == [0, 1, 2]
        running.rmq("message", "send", "CliFollow", "one more")
        assert json.loads(process.stdout.readline())["body"] == "one more"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    running.rmq("message", "send", "CliFollow", "later")
    text = running.rmq("message", "consume", "CliFollow", "--group", "followers", "--count", "9", "--wait", "2")
    assert "later" in text
    assert "one more" not in text


def test_filters_choose(running: Running) -> None:
    running.rmq("topic", "create", "CliFilter", "--queues", "1")
    for tag in ("a", "b", "c"):
        running.rmq("message", "send", "CliFilter", tag, "--tags", tag)
    lines = running.rmq(
        "message", "consume", "CliFilter", "--filter", "a || c", "--count", "2", "--wait", "5"
    ).splitlines()
    assert [line.split()[-1] for line in lines] == ["a", "c"]


def test_the_files_are_explained(running: Running) -> None:
    running.rmq("topic", "create", "CliFiles", "--queues", "1")
    running.rmq("message", "send", "CliFiles", "look at me", "--keys", "k")
    text = running.rmq("store", "dump", str(running.store), "--count", "1000")
    assert "look at me" in text
    records = running.json("store", "dump", str(running.store), "--count", "1000")["items"]
    mine = next(row for row in records if row["body"] == "look at me")
    shown = running.rmq("store", "dump", str(running.store), "--from", str(mine["offset"]), "--count", "1", "--bytes")
    assert "physical_offset: " + str(mine["offset"]) in shown
    assert "magic: 0xDAA320A7" in shown
    assert f"store_host: {running.broker}" in shown
    assert running.json("store", "dump", str(running.store), "--index", "--count", "1")["items"]
    none = run("store", "dump", str(running.store), "--queue", "CliFiles/7")
    assert none.returncode == 3
    assert "Queues that have files" in none.stderr


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (("message", "query", "Nope", "--key", "k"), 3, "rmq-py topic create Nope"),
        (("message", "query", "CliNothing"), 2, "--key or --id"),
        (("message", "send", "T"), 2, "one of them"),
        (("message", "send", "T", "x", "--property", "novalue"), 2, "KEY=VALUE"),
        (("message", "consume", "T", "--from-time", "yesterday"), 2, "is no time"),
        (("message", "consume", "T", "--filter", "a", "--sql", "b = 1"), 2, "not both"),
        (("topic", "create", "bad name"), 2, "bad name"),
        (("store", "dump", "/nonexistent"), 3, "no folder commitlog"),
        (("store", "verify", "/nonexistent"), 3, "no folder commitlog"),
    ],
)
def test_a_mistake_is_explained(running: Running, words: tuple[str, ...], status: int, says: str) -> None:
    """Exit statuses are those of the table in the reference; the text names the next step, and there is no traceback."""
    result = run(*words, NAMESRV_ADDR=running.namesrv)
    assert result.returncode == status, result.stderr
    assert says in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_a_wrong_name_server_is_explained(running: Running) -> None:
    nobody = run("topic", "list", "-n", "127.0.0.1:1")
    assert nobody.returncode == 4
    assert "rmq-py standalone" in nobody.stderr
    broker = run("topic", "list", "-n", running.broker)
    assert broker.returncode == 4
    assert f"{running.broker} (given with -n) answers like a broker" in broker.stderr
    told = run("topic", "list", NAMESRV_ADDR="127.0.0.1:1")
    assert "from the environment variable NAMESRV_ADDR" in told.stderr


def test_a_topic_that_is_nearly_right_is_named(running: Running) -> None:
    running.rmq("topic", "create", "CliInvoices", "--queues", "1")
    result = run("topic", "describe", "CliInvoice", NAMESRV_ADDR=running.namesrv)
    assert result.returncode == 3
    assert "Did you mean CliInvoices" in result.stderr


def test_a_condition_that_the_broker_cannot_use_is_refused_once(running: Running) -> None:
    """With a group and without, before anything is read, with the setting that allows it."""
    running.rmq("topic", "create", "CliSql", "--queues", "4")
    for group in ((), ("--group", "sql")):
        words = ("message", "consume", "CliSql", "--sql", "x > 1", "--wait", "0", *group)
        refused = run(*words, NAMESRV_ADDR=running.namesrv)
        assert refused.returncode == 5
        assert "enablePropertyFilter=true" in refused.stderr
        assert refused.stderr.count("SQL92") == 1


def test_a_topic_that_may_not_be_read_or_written_is_explained(running: Running) -> None:
    running.rmq("topic", "create", "CliReadOnly", "--perm", "R")
    running.rmq("topic", "create", "CliWriteOnly", "--perm", "W")
    for words in (
        ("message", "send", "CliReadOnly", "x"),
        ("message", "consume", "CliWriteOnly"),
        ("message", "consume", "CliWriteOnly", "--group", "g"),
    ):
        result = run(*words, NAMESRV_ADDR=running.namesrv)
        assert result.returncode in (3, 5)
        assert f"rmq-py topic create {words[2]} --queues N --perm RW" in result.stderr


def test_a_message_that_the_broker_cannot_treat_rightly_is_refused(running: Running) -> None:
    """A delayed message that came at once would be worse than none."""
    running.rmq("topic", "create", "CliRefused", "--queues", "1")
    result = run("message", "send", "CliRefused", "x", "--property", "DELAY=soon", NAMESRV_ADDR=running.namesrv)
    assert result.returncode == 1
    assert "the message is illegal" in result.stderr
    running.rmq("message", "consume", "CliRefused", "--wait", "0.5", status=3)


def test_a_message_is_sent_for_later(running: Running) -> None:
    """`--delay-level 1`: the message is stored for consumers a second after it was sent."""
    running.rmq("topic", "create", "CliLater", "--queues", "1")
    began = time.time() * 1_000
    running.rmq("message", "send", "CliLater", "later", "--delay-level", "1")
    text = running.rmq("message", "consume", "CliLater", "--wait", "10", "--count", "1", "--json")
    message = json.loads(text)
    assert message["properties"]["DELAY"] == "1"
    assert message["storeTimestampMs"] >= began + 1_000
    refused = run("message", "send", "CliLater", "x", "--delay-level", "-1", NAMESRV_ADDR=running.namesrv)
    assert refused.returncode == 2


def test_people_see_times_and_programs_milliseconds(running: Running) -> None:
    running.rmq("topic", "create", "CliTimes", "--queues", "1")
    running.rmq("message", "send", "CliTimes", "x")
    row = running.json("topic", "describe", "CliTimes")["items"][0]
    assert row["lastUpdateMs"] > 1_600_000_000_000
    text = running.rmq("topic", "describe", "CliTimes")
    assert "lastUpdateMs" not in text
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}", text)


def test_a_message_is_sent_for_any_time(running: Running) -> None:
    running.rmq("topic", "create", "CliTimer", "--queues", "1")
    sent = running.json("message", "send", "CliTimer", "soon", "--delay-ms", "1500")["items"][0]
    assert sent["status"] == "SEND_OK"
    assert sent["recallHandle"]
    assert "recallHandle" not in running.json("message", "send", "CliTimer", "now")["items"][0]
    running.json("message", "send", "CliTimer", "far", "--deliver-at", "2020-01-31T12:00:00")
    text = running.rmq("message", "consume", "CliTimer", "--count", "3", "--wait", "20")
    assert all(body in text for body in ("now", "far", "soon"))
    refused = run("message", "send", "CliTimer", "x", "--delay-ms", "9999999999999", NAMESRV_ADDR=running.namesrv)
    assert refused.returncode != 0
    assert "max delay 259200000ms" in refused.stderr
    both = run("message", "send", "CliTimer", "x", "--delay-ms", "5", "--deliver-at", "1", NAMESRV_ADDR=running.namesrv)
    assert "give one of them" in both.stderr


def test_a_broker_is_stopped_by_sigterm_and_the_store_is_sound(running: Running) -> None:
    """Must be last: it ends the server that the others use."""
    locked = run("store", "verify", str(running.store))
    assert locked.returncode == 1
    assert f"process {running.server.process.pid}" in locked.stderr
    assert "--running" in locked.stderr
    beside = rmq_json("store", "verify", str(running.store), "--running")
    assert beside["isSound"], beside
    second = run("broker", "start", "--set", f"storePathRootDir={running.store}", "--set", "listenPort=0")
    assert second.returncode == 1
    assert f"process {running.server.process.pid}" in second.stderr

    status, seconds = running.server.stop()
    assert status == 0
    assert seconds < 5
    report = rmq_json("store", "verify", str(running.store))
    assert report["isSound"], report
    assert report["counts"]["records"] > 10
