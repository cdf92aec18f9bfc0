"""`python -m loadtests.replication.apache`: how fast slaves catch up, ours and Apache's, in one run on one machine.

Round by round a pair of ours and a pair of Apache's are started, measured and ended, so that the machine's good and bad
minutes meet both, and the median of the ratios counts. Both logs are one file: an empty slave of Apache's gets the last
file only. The virtual machine of Java is warmed up at full load first.

Needs Java and Maven; the jars are those of the interop labs.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

import pytest
from rich.console import Console
from rich.table import Table

from labs.interop.java_tools import VERSION, jars
from loadtests.bench.apache import ApacheBroker, spread_of_ratios
from loadtests.bench.processes import Server, until
from loadtests.replication.measure import TOPIC, Pair, Sends, measure_catch_up, pair, runtime_info
from rocketmq_py.testing.free_port import free_port

#: The largest file that RocketMQ can have, in whole pages.
FILE_SIZE: Final = (2 << 30) - 4_096
#: What is printed of each round, and first in the table.
FIGURES: Final = ("idle_mb_per_second", "busy_mb_per_second", "sends_kept", "p99_busy_ms")


def _namesrv() -> Server:
    """Start a name server: a slave of Apache's learns nowhere else where its master is."""
    port = free_port()
    command = [sys.executable, "-m", "rocketmq_py.cli.main", "namesrv", "start", "--set", f"listenPort={port}"]
    return Server(command, port, None, rb"boot success")


def _tells_of_itself(server: Server) -> bool:
    try:
        return bool(runtime_info(server.port))
    except (OSError, ValueError):
        return False


@contextmanager
def apache_pair() -> Iterator[Pair]:
    """Run a master of Apache's; it and its slaves end with the `with` block."""
    with _namesrv() as namesrv:

        def start(**settings: object) -> ApacheBroker:
            broker = ApacheBroker(
                None,
                topics=[TOPIC],
                namesrvAddr=f"127.0.0.1:{namesrv.port}",
                brokerIP2="127.0.0.1",
                haListenPort=free_port(),
                mappedFileSizeCommitLog=FILE_SIZE,
                **settings,
            )
            # It accepts connections a moment before it knows what to answer.
            until(lambda: _tells_of_itself(broker))
            return broker

        brokers = Pair(start(), lambda: start(brokerId=1, brokerRole="SLAVE"))
        try:
            yield brokers
        finally:
            brokers.stop()


def _our_pair() -> AbstractContextManager[Pair]:
    return pair(file_size=FILE_SIZE)


def compare(sends: Sends, size: int, seconds: float, warm_up: float, rounds: int) -> Table:
    """Measure in rounds and return the table: ours, Apache's, and the ratio."""
    sides: dict[str, Callable[[], AbstractContextManager[Pair]]] = {"ours": _our_pair, "Apache": apache_pair}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in sorted(sides, reverse=bool(number % 2)):
            with sides[name]() as brokers:
                sends.rate(brokers.master, seconds=warm_up)
                figures = measure_catch_up(brokers, sends, size, seconds)
            found[name].append(figures)
            print(f"round {number + 1}, {name}: " + ", ".join(f"{key} {figures[key]:,.2f}" for key in FIGURES))
    table = Table("figure (medians)", "ours", "Apache", "ours / Apache (lowest-highest)", title=f"RocketMQ {VERSION}")
    for key in (*FIGURES, "half_rate", "p99_alone_ms"):
        ours, theirs = ([figures[key] for figures in found[name]] for name in sides)
        medians = (f"{statistics.median(ours):,.2f}", f"{statistics.median(theirs):,.2f}")
        table.add_row(key, *medians, spread_of_ratios(ours, theirs))
    return table


def main(arguments: list[str]) -> int:
    """Run the comparison."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.replication.apache", description=__doc__)
    parser.add_argument("--bytes", type=int, default=1_500_000_000, help="of the log that a slave catches up with")
    parser.add_argument("--rounds", type=int, default=3, help="how often each pair is measured")
    parser.add_argument("--seconds", type=float, default=2.0, help="of one measurement of sends")
    parser.add_argument("--warm-up", type=float, default=8.0, help="seconds at full load before each pair is measured")
    options = parser.parse_args(arguments)
    try:
        jars()
    except pytest.skip.Exception as missing:
        print(f"nothing to compare with: {missing}")
        return 2
    with tempfile.TemporaryDirectory(prefix="rocketmq-py-bench-") as folder:
        table = compare(Sends(Path(folder)), options.bytes, options.seconds, options.warm_up, options.rounds)
    Console(width=max(Console().width, 110)).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
