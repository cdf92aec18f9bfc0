"""What is measured of a master and its slaves: how fast one catches up, and what synchronous double write costs.

Two measurements, each of a master and a slave of their own on loopback:

    catch-up   an empty slave gets the whole log: with an idle master, and with one that takes half of the sends that it
               could
    double     sends of 64 connections to an ASYNC_MASTER and to a SYNC_MASTER with `inSyncReplicas=2`, a slave attached
               to both, round by round

The dispatch of a slave, which makes its queues, is reported apart: nobody waits for it.
"""

from __future__ import annotations

import json
import socket
import statistics
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from loadtests.bench import frames
from loadtests.bench.generator import Generator, Load, compile_generator
from loadtests.bench.processes import Broker, Server
from rocketmq_py.remoting.codes import RequestCode
from rocketmq_py.testing.free_port import free_port

TOPIC: Final = "Copied"
QUEUES: Final = 8
BODY: Final = 1_024
BATCH: Final = 32
CONNECTIONS: Final = 64
GET_SECONDS: Final = 5.0
CATCH_UP_SECONDS: Final = 120.0
#: In which connections are made and what waited for them is sent, before sends at a fixed rate are measured.
CONNECT_SECONDS: Final = 0.5


def runtime_info(port: int) -> dict[str, str]:
    """Ask a broker about itself."""
    with socket.create_connection(("127.0.0.1", port), GET_SECONDS) as peer:
        peer.sendall(frames.request(RequestCode.GET_BROKER_RUNTIME_INFO, {}, b""))
        reader = peer.makefile("rb")
        length, head = struct.unpack(">II", reader.read(8))
        reader.read(head & 0xFFFFFF)
        table: dict[str, str] = json.loads(reader.read(length - 4 - (head & 0xFFFFFF)))["table"]
        return table


def log_end(port: int) -> int:
    """Return where a broker's log ends."""
    return int(runtime_info(port)["commitLogMaxOffset"])


@dataclass(slots=True)
class Pair:
    """A master, and the slaves that are started beside it."""

    master: Server
    make_slave: Callable[[], Server]
    slaves: list[Server] = field(default_factory=list)

    def start_slave(self) -> Server:
        """Start an empty slave that follows the master."""
        slave = self.make_slave()
        self.slaves.append(slave)
        return slave

    def stop(self) -> None:
        """End all."""
        for server in [*self.slaves, self.master]:
            server.stop()


@contextmanager
def pair(*, file_size: int = 1 << 30, **settings: str) -> Iterator[Pair]:
    """Run a master; it and its slaves end with the `with` block.

    Args:
        file_size: of the log's files, in bytes, of all brokers.
        **settings: of the master.
    """
    ha_port = free_port()

    def start(**more: str) -> Broker:
        return Broker(None, topics=[TOPIC], queues=QUEUES, mappedFileSizeCommitLog=str(file_size), **more)

    def make_slave() -> Broker:
        return start(
            brokerRole="SLAVE",
            brokerId="1",
            haListenPort=str(free_port()),
            haMasterAddress=f"127.0.0.1:{ha_port}",
        )

    brokers = Pair(start(haListenPort=str(ha_port), haSendAllToEmptySlave="true", **settings), make_slave)
    try:
        yield brokers
    finally:
        brokers.stop()


class Sends:
    """Sends to a broker, with unique keys that never come twice."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._generator = Generator(None, compile_generator())
        self._unique = 0
        frames.write_frames(folder / "send", frames.send_frames(TOPIC, QUEUES, BODY))
        frames.write_frames(folder / "batch", frames.batch_frames(TOPIC, QUEUES, BODY, BATCH))

    def rate(self, server: Server, *, seconds: float) -> float:
        """Send as fast as the server answers; return the sends that were answered each second."""
        return float(self.run(server, "send", seconds=seconds)["rate"])

    def run(
        self, server: Server, kind: str, *, seconds: float, connections: int = CONNECTIONS, **more: Any
    ) -> dict[str, Any]:
        """Send for so many seconds; return the generator's figures."""
        self._unique = (self._unique + 50_000_000) & 0xFFFFFFFF
        load = Load(
            port=server.port,
            frames=self._folder / kind,
            connections=connections,
            seconds=seconds,
            server_pid=server.pid,
            first_unique=self._unique,
            **more,
        )
        figures = self._generator.run(load)
        if figures["errors"]:
            raise RuntimeError(f"{figures['errors']} sends were refused, the first with code {figures['first_error']}")
        return figures

    def fill(self, server: Server, size: int) -> None:
        """Send batches until the log has so many bytes."""
        while (missing := size - log_end(server.port)) > 0:
            each = max(missing // (BATCH * (BODY + 200) * QUEUES), 1)
            self.run(server, "batch", seconds=600.0, connections=QUEUES, requests_each=each)


@dataclass(slots=True)
class CatchUp:
    """How one slave caught up: bytes, when, CPU seconds of both, and what its dispatch still lacked then and later."""

    size: int
    began: float
    ended: float
    master_cpu: float
    slave_cpu: float
    behind: int
    dispatch_seconds: float

    @property
    def rate(self) -> float:
        """Megabytes of log a second."""
        return self.size / (self.ended - self.began) / 1e6


def catch_up(brokers: Pair, *, wait_for_dispatch: bool) -> CatchUp:
    """Start an empty slave and wait until it has what the master had when it began."""
    target = log_end(brokers.master.port)
    slave = brokers.start_slave()
    master_cpu, slave_cpu = brokers.master.cpu_seconds(), slave.cpu_seconds()
    # The clock runs from the last look that saw no byte: the start of a process is another figure.
    started = begin = time.monotonic()
    end = 0
    while end < target:
        looked = time.monotonic()
        end = log_end(slave.port)
        if not end:
            begin = looked
        if looked - started > CATCH_UP_SECONDS:
            raise TimeoutError(f"the slave has {end} of {target} bytes after {CATCH_UP_SECONDS:.0f} s")
        time.sleep(0.02)
    ended = time.monotonic()
    master_cpu, slave_cpu = brokers.master.cpu_seconds() - master_cpu, slave.cpu_seconds() - slave_cpu
    behind = int(runtime_info(slave.port)["dispatchBehindBytes"])
    while wait_for_dispatch and int(runtime_info(slave.port)["dispatchBehindBytes"]):
        time.sleep(0.1)
    return CatchUp(end, begin, ended, master_cpu, slave_cpu, behind, time.monotonic() - ended)


def measure_catch_up(brokers: Pair, sends: Sends, size: int, seconds: float) -> dict[str, float]:
    """Let slaves catch up with an idle master, and with one that is half busy."""
    master = brokers.master
    sends.fill(master, size)
    idle = catch_up(brokers, wait_for_dispatch=True)
    brokers.slaves.pop().stop()
    half = sends.rate(master, seconds=seconds) / 2
    alone = sends.run(master, "send", seconds=seconds, rate=half, warmup=CONNECT_SECONDS)
    all_sends: list[tuple[float, dict[str, Any]]] = []
    is_over = threading.Event()

    def send() -> None:
        while not is_over.is_set():
            figures = sends.run(master, "send", seconds=1.0, rate=half, warmup=CONNECT_SECONDS)
            all_sends.append((time.monotonic(), figures))

    thread = threading.Thread(target=send)
    thread.start()
    try:
        busy = catch_up(brokers, wait_for_dispatch=False)
    finally:
        is_over.set()
        thread.join()
    # A slave takes a while to begin: those before that were sent beside nobody.
    beside = [figures for ended, figures in all_sends if ended > busy.began]
    return {
        "idle_mb_per_second": idle.rate,
        "idle_master_cpu_seconds": idle.master_cpu,
        "idle_slave_cpu_seconds": idle.slave_cpu,
        "idle_behind_mb": idle.behind / 1e6,
        "idle_dispatch_seconds": idle.dispatch_seconds,
        "busy_mb_per_second": busy.rate,
        "busy_behind_mb": busy.behind / 1e6,
        "half_rate": half,
        "sends_kept": statistics.median(figures["rate"] for figures in beside) / alone["rate"],
        "p99_alone_ms": alone["p99_us"] / 1e3,
        "p99_busy_ms": statistics.median(figures["p99_us"] for figures in beside) / 1e3,
    }


def measure_double_write(sends: Sends, seconds: float, rounds: int) -> dict[str, list[float]]:
    """Compare sends to an asynchronous and to a synchronous master, a slave attached to each; return each round's."""
    with (
        pair(brokerRole="ASYNC_MASTER") as plain,
        pair(brokerRole="SYNC_MASTER", inSyncReplicas="2") as double,
    ):
        for brokers in (plain, double):
            brokers.start_slave()
        time.sleep(1.0)
        rates = []
        for number in range(rounds):
            order = (plain, double) if number % 2 else (double, plain)
            done = {id(brokers): sends.rate(brokers.master, seconds=seconds) for brokers in order}
            rates.append((done[id(plain)], done[id(double)]))
        return {
            "async_per_second": [plain_rate for plain_rate, _ in rates],
            "sync_per_second": [double_rate for _, double_rate in rates],
            "double_write_ratio": [double_rate / plain_rate for plain_rate, double_rate in rates],
        }
