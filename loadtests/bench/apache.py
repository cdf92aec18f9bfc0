"""`python -m loadtests.bench.apache`: our broker and Apache's under the same load, in one run on one machine.

Two comparisons: one broker of each kind pinned to one core, with the generator on the other; and the whole machine, two
broker processes of ours (RocketMQ's unit of scale, as `rmq-py standalone --brokers 2` starts them) against one broker of
Apache's that may use every core, with two generators beside either. Rounds alternate between the servers, the median
of the ratios counts, and while one side is measured the other servers are held. The virtual machine of Java is warmed up
at full load first: it compiles what it finds to be hot.

Needs Java and Maven; the jars are those of the interop labs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pytest
from rich.console import Console
from rich.table import Table

from labs.interop.java_tools import BROKER_FLAGS, VERSION, free_port, jars
from loadtests.bench import frames
from loadtests.bench.bench import FILLED
from loadtests.bench.generator import Generator, Load, compile_generator
from loadtests.bench.processes import Broker, Server, until, write_topics
from loadtests.bench.rows import BATCH, BATCHES, PIPELINED, PULLS, QUEUES, SEND_64, SIZE, TOPIC, Row

ROWS: Final = (SEND_64, PIPELINED, BATCHES, PULLS)
#: A server rests that uses less than this share of a core over so many seconds.
REST_SHARE: Final = 0.2
REST_SECONDS: Final = 0.2
TRIES: Final = 3
#: Memory of the virtual machine: enough that collecting garbage is no excuse.
MEMORY: Final = ("-Xms2g", "-Xmx2g", "-XX:MaxDirectMemorySize=1g")


class ApacheBroker(Server):
    """A broker of Apache's with a store of its own, which is deleted with it; a master needs no name server to be measured.

    Args:
        core: where it runs.
        topics: exist from the start.
        **settings: further properties, such as `brokerRole`.
    """

    def __init__(self, core: int | None, *, topics: Iterable[str] = (TOPIC,), **settings: object) -> None:
        self.store = Path(tempfile.mkdtemp(prefix="rocketmq-py-bench-apache-"))
        (self.store / "conf").mkdir()
        write_topics(self.store, topics, QUEUES)
        port = free_port()
        settings = {
            "brokerName": "broker-a",
            "brokerIP1": "127.0.0.1",
            "listenPort": port,
            "storePathRootDir": self.store,
            # At its limit a broker may answer late; it shall not refuse instead.
            "waitTimeMillsInSendQueue": 60_000,
            "waitTimeMillsInPullQueue": 60_000,
            "osPageCacheBusyTimeOutMills": 60_000,
            **settings,
        }
        file = self.store / "broker.conf"
        file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        flags = (*(flag for flag in BROKER_FLAGS if not flag.startswith("-X")), *MEMORY)
        homes = (f"-Duser.home={self.store}", f"-Drocketmq.home.dir={self.store}")
        main = ("-cp", f"{jars()}/*", "org.apache.rocketmq.broker.BrokerStartup", "-c", str(file))
        super().__init__(["java", *flags, *homes, *main], port, core)

    def stop(self) -> None:
        """End the process and delete its store."""
        super().stop()
        shutil.rmtree(self.store, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Side:
    """One of what is compared: servers, and a generator for each port that is loaded.

    Attributes:
        name: for the table.
        targets: where each generator sends; a server may be the target of both.
        core: where the generators run; None leaves it to the system.
    """

    name: str
    targets: tuple[Server, ...]
    core: int | None


class Comparison:
    """Runs loads on sides."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self._folder = folder
        self._seconds = seconds
        self._binary = compile_generator()
        self._unique = 0
        for name, content in (
            ("send", frames.send_frames(TOPIC, QUEUES, SIZE)),
            ("batch", frames.batch_frames(TOPIC, QUEUES, SIZE, BATCH)),
            ("pull", frames.pull_frames(TOPIC, QUEUES)),
        ):
            frames.write_frames(folder / name, content)

    def fill(self, server: Server) -> None:
        """Make every queue long enough for pulls."""
        self._run(server, None, replace(BATCHES, connections=QUEUES), seconds=600.0, requests_each=FILLED // BATCH)

    def messages_per_second(self, side: Side, row: Row, seconds: float = 0.0) -> float:
        """Load a side and return how many messages it stored or gave out each second."""
        part = replace(row, connections=row.connections // len(side.targets))
        with ThreadPoolExecutor(len(side.targets)) as pool:
            runs = [
                pool.submit(self._run, server, side.core, part, seconds or self._seconds) for server in side.targets
            ]
            return sum(run.result() for run in runs) * row.messages

    def _run(self, server: Server, core: int | None, row: Row, seconds: float, requests_each: int = 0) -> float:
        self._unique = (self._unique + 50_000_000) & 0xFFFFFFFF
        load = Load(
            port=server.port,
            frames=self._folder / row.frames,
            connections=row.connections,
            window=row.window,
            seconds=seconds,
            server_pid=server.pid,
            offset_limit=FILLED,
            first_unique=self._unique,
            requests_each=requests_each,
        )
        figures = Generator(core, self._binary).run(load)
        if figures["errors"]:
            raise RuntimeError(
                f"{row.name}: {figures['errors']} refusals, the first with code {figures['first_error']}"
            )
        return float(figures["rate"])


@contextmanager
def alone(side: Side, servers: Sequence[Server]) -> Iterator[None]:
    """Let the servers of one side run, once they have come to rest, and hold all others.

    Apache answers first and dispatches and flushes later, and wakes every millisecond also when nobody asks: both would be
    at the cost of whoever is measured next.
    """
    others = [server for server in servers if server not in side.targets]
    _rest(servers)
    for server in others:
        os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for server in others:
            os.kill(server.pid, signal.SIGCONT)


def _rest(servers: Sequence[Server]) -> None:
    """Wait until no server has work left over, nor the system pages to write."""
    os.sync()

    def is_at_rest() -> bool:
        before = [server.cpu_seconds() for server in servers]
        time.sleep(REST_SECONDS)
        spent = [server.cpu_seconds() - start for server, start in zip(servers, before, strict=True)]
        return max(spent) < REST_SHARE * REST_SECONDS

    until(is_at_rest)


def _measure(comparison: Comparison, side: Side, row: Row, servers: Sequence[Server]) -> float:
    """Measure one row on one side; again, if a server that had been held did not answer in time at all."""
    for _ in range(TRIES):
        with alone(side, servers):
            rate = comparison.messages_per_second(side, row)
        if rate:
            return rate
        print(f"{side.name} answered nothing to: {row.name}")
    raise RuntimeError(f"{side.name} answered nothing to {row.name}, {TRIES} times")


def spread_of_ratios(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Return the median of the ratios of each round, the lowest and the highest."""
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def compare(pairs: Sequence[tuple[Side, Side]], comparison: Comparison, rounds: int) -> Table:
    """Measure all rows in rounds and return the table: ours, Apache's, and the ratio, for each pair."""
    found: dict[tuple[str, str], list[float]] = {}
    servers = list({server.pid: server for pair in pairs for side in pair for server in side.targets}.values())
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}")
        for row in ROWS:
            for side in (side for pair in pairs for side in pair):
                found.setdefault((row.name, side.name), []).append(_measure(comparison, side, row, servers))
    table = Table("row, messages/s (medians)", title=f"ours and Apache RocketMQ {VERSION}, {SIZE}-byte messages")
    for ours, theirs in pairs:
        for column in (ours.name, theirs.name, "ratio (lowest-highest)"):
            table.add_column(column, justify="right")
    for row in ROWS:
        cells = []
        for ours, theirs in pairs:
            a, b = found[row.name, ours.name], found[row.name, theirs.name]
            cells += [f"{statistics.median(a):,.0f}", f"{statistics.median(b):,.0f}", spread_of_ratios(a, b)]
        table.add_row(row.name, *cells)
    return table


def main(arguments: list[str]) -> int:
    """Run the comparison."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench.apache", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often each row is measured on each side")
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds of one measurement")
    parser.add_argument("--warm-up", type=float, default=15.0, help="seconds at full load for Java, for each row")
    options = parser.parse_args(arguments)
    try:
        jars()
    except pytest.skip.Exception as missing:
        print(f"nothing to compare with: {missing}")
        return 2
    with ExitStack() as stack, tempfile.TemporaryDirectory(prefix="rocketmq-py-frames-") as folder:
        start = stack.enter_context
        comparison = Comparison(Path(folder), options.seconds)
        one = Side("ours, 1 core", (start(Broker(0, topics=[TOPIC], queues=QUEUES)),), 1)
        two = Side("ours, 2 processes", tuple(start(Broker(None, topics=[TOPIC], queues=QUEUES)) for _ in "ab"), None)
        apache_one = Side("Apache, 1 core", (start(ApacheBroker(0)),), 1)
        apache_all = Side("Apache, all cores", (start(ApacheBroker(None)),) * 2, None)
        for side in (one, two, apache_one, apache_all):
            for server in dict.fromkeys(side.targets):
                comparison.fill(server)
        for side in (apache_one, apache_all):
            for row in ROWS:
                print(f"warming up {side.name}: {row.name}")
                comparison.messages_per_second(side, row, options.warm_up)
        table = compare([(one, apache_one), (two, apache_all)], comparison, options.rounds)
    Console(width=max(Console().width, 140)).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
