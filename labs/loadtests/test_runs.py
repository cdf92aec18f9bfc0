"""The bench and the load test run from beginning to end against real server processes, if only for a moment."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from labs.interop.java_tools import jars
from loadtests import timers
from loadtests.bench import apache, rows
from loadtests.bench.bench import Bench
from loadtests.bench.processes import Server
from loadtests.replication import apache as replication
from rocketmq_py.testing.free_port import free_port

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.serial


def test_the_bench_measures_a_broker(capsys: pytest.CaptureFixture[str]) -> None:
    """Claim: `python -m loadtests.bench` starts its servers, measures in rounds, and leaves no process behind."""
    result = Bench(groups=["echo", "send"], rounds=1, seconds=0.05, uses_c=False).run()

    assert set(result.rounds) == {row.name for row in rows.ROWS if row.group in ("echo", "send")}
    for name, rounds in result.rounds.items():
        (found,) = rounds
        assert found["rate"] > 0, name
        assert found["errors"] == 0, name


def test_the_bench_compares_with_apache(capsys: pytest.CaptureFixture[str]) -> None:
    """Claim: `python -m loadtests.bench.apache` loads both brokers alike, and says where there is none of Apache's."""
    jars()

    status = apache.main(["--rounds", "1", "--seconds", "0.1", "--warm-up", "0.2"])

    assert status == 0
    rows_shown = re.findall(r"│ +([\d,]+) │ +([\d,]+) │", capsys.readouterr().out)
    assert len(rows_shown) == 2 * len(apache.ROWS)


def test_catch_up_is_compared_with_apache(capsys: pytest.CaptureFixture[str]) -> None:
    """Claim: `python -m loadtests.replication.apache` lets slaves of both kinds catch up, alone and beside sends."""
    jars()

    status = replication.main(["--rounds", "1", "--bytes", "30000000", "--seconds", "0.5", "--warm-up", "0.5"])

    assert status == 0
    shown = dict(re.findall(r"│ +(\w+) +│ +([\d,.]+) +│ +[\d,.]+ +│", capsys.readouterr().out))
    for name in ("idle_mb_per_second", "busy_mb_per_second", "sends_kept"):
        assert float(shown[name].replace(",", "")) > 0, name


def test_the_measurement_of_delays_runs_to_its_end() -> None:
    """Claim: `python -m loadtests.delays` fills, waits, restarts and delivers, and says what each cost."""
    result = subprocess.run(
        [sys.executable, "-m", "loadtests.delays", "--messages", "2000", "--seconds", "0.3"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stdout
    assert re.search(r"^flood +2000 messages in ", result.stdout, re.MULTILINE), result.stdout
    came = re.search(r"^accuracy +(\d+) of \1 messages of 1 s came", result.stdout, re.MULTILINE)
    assert came is not None, result.stdout
    assert int(came[1]) > 0


def test_waiting_messages_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """Claim: `python -m loadtests.timers` has messages wait, restarts the broker, and finds each of them delivered once."""
    status = timers.main(["--count", "500", "--ahead", "12", "--within", "3", "--core", "-1"])

    assert status == 0
    shown = capsys.readouterr().out
    assert "behind their second: median" in shown
    assert "start with all of them waiting" in shown


@pytest.mark.skipif(importlib.util.find_spec("locust") is None, reason="locust is not installed (extra: load)")
def test_locust_finds_every_message_again(tmp_path: Path) -> None:
    """Claim: producers and consumers of the load test agree on what was sent and received, and failures are told.

    Experiment: two seconds of load on a standalone server, then the same after it has stopped.
    Observe: exit code 0 and both kinds of requests in the table; then an exit code that is not 0.
    """
    namesrv, broker = free_port(), free_port()
    command = [sys.executable, "-m", "rocketmq_py.cli.main", "standalone", "--store", str(tmp_path)]
    with Server([*command, "--namesrv-port", str(namesrv), "--port", str(broker)], broker, None, rb"boot success"):
        good = _locust(namesrv)
        delayed = _locust(namesrv, DELAYED_USERS="1")
    bad = _locust(namesrv)

    assert good.returncode == 0, good.stdout
    table = re.findall(r"^(SEND|RECEIVE) +LoadTest +(\d+) +\d+\(", good.stdout, re.MULTILINE)
    requests = {kind: int(count) for kind, count in table}
    assert requests["SEND"] == requests["RECEIVE"] > 0, good.stdout
    assert delayed.returncode == 0, delayed.stdout
    assert re.search(r"^LATE +LoadTest +[1-9]\d* +0\(", delayed.stdout, re.MULTILINE), delayed.stdout
    assert bad.returncode != 0


@pytest.mark.skipif(importlib.util.find_spec("locust") is None, reason="locust is not installed (extra: load)")
def test_locust_finds_every_committed_message_and_no_other(tmp_path: Path) -> None:
    """Claim: in the transactional load what is committed comes out, and what is rolled back does not."""
    namesrv, broker = free_port(), free_port()
    command = [sys.executable, "-m", "rocketmq_py.cli.main", "standalone", "--store", str(tmp_path)]
    with Server([*command, "--namesrv-port", str(namesrv), "--port", str(broker)], broker, None, rb"boot success"):
        run = _locust(namesrv, "loadtests/transactions.py")
    assert run.returncode == 0, run.stdout
    table = re.findall(r"^(TRANSACTION|RECEIVE) +LoadTest +(\d+) +\d+\(", run.stdout, re.MULTILINE)
    requests = {kind: int(count) for kind, count in table}
    rolled_back = requests["TRANSACTION"] // 10
    assert requests["RECEIVE"] == requests["TRANSACTION"] - rolled_back > 0, run.stdout


@pytest.mark.skipif(importlib.util.find_spec("locust") is None, reason="locust is not installed (extra: load)")
def test_locust_finds_every_step_of_every_order_behind_the_one_before(tmp_path: Path) -> None:
    """Claim: in the ordered load every step comes out, and none before the one that precedes it."""
    namesrv, broker = free_port(), free_port()
    command = [sys.executable, "-m", "rocketmq_py.cli.main", "standalone", "--store", str(tmp_path)]
    with Server([*command, "--namesrv-port", str(namesrv), "--port", str(broker)], broker, None, rb"boot success"):
        run = _locust(namesrv, "loadtests/ordered.py")
    assert run.returncode == 0, run.stdout
    table = re.findall(r"^(SEND|RECEIVE) +LoadTest +(\d+) +\d+\(", run.stdout, re.MULTILINE)
    requests = {kind: int(count) for kind, count in table}
    assert requests["SEND"] == requests["RECEIVE"] > 0, run.stdout


@pytest.mark.skipif(importlib.util.find_spec("locust") is None, reason="locust is not installed (extra: load)")
def test_locust_gets_the_reply_to_every_question(tmp_path: Path) -> None:
    """Claim: in the load of questions each gets its own reply, and one that gets none is told.

    Experiment: two seconds of questions on a standalone server, then the same where nobody answers.
    Observe: exit code 0 and no failure; then an exit code that is not 0, and no reply in the table.
    """
    namesrv, broker = free_port(), free_port()
    command = [sys.executable, "-m", "rocketmq_py.cli.main", "standalone", "--store", str(tmp_path)]
    with Server([*command, "--namesrv-port", str(namesrv), "--port", str(broker)], broker, None, rb"boot success"):
        good = _locust(namesrv, "loadtests/questions.py")
        bad = _locust(namesrv, "loadtests/questions.py", "RequestUser")
    assert good.returncode == 0, good.stdout
    assert re.search(r"^REQUEST +LoadTest +[1-9]\d* +0\(", good.stdout, re.MULTILINE), good.stdout
    assert bad.returncode != 0, bad.stdout
    asked = re.search(r"^REQUEST +LoadTest +(\d+) +(\d+)\(100", bad.stdout, re.MULTILINE)
    assert asked is not None, bad.stdout
    assert asked[1] == asked[2] != "0"


def _locust(
    namesrv: int, program: str = "loadtests/locustfile.py", *users: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    options = [
        "--headless",
        "-u",
        "4",
        "-r",
        "4",
        "--seconds",
        "2",
        "--only-summary",
        "--namesrv",
        f"127.0.0.1:{namesrv}",
    ]
    return subprocess.run(
        [sys.executable, "-m", "locust", "-f", program, *options, *users],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=150,
    )
