"""One run of the bench: servers on one core, the generator on another, rounds through all rows."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from loadtests.bench import frames, rows
from loadtests.bench.generator import Generator, Load, compile_generator
from loadtests.bench.processes import Broker, Server, c_echo_server, echo_server, first_send_seconds
from loadtests.bench.rows import BATCH, MANY_QUEUES, MANY_TOPICS, MEMORY, QUEUES, ROWS, SIZE, START, TOPIC, Row

#: What one measurement of a row gave.
Figures = dict[str, Any]

#: Messages that every queue has before the first pull.
FILLED: Final = 20_000
#: Bytes of a body for the memory figure.
BIG: Final = 4_096
#: A broker that uses less of its core is idle; seconds to wait for that at most.
IDLE: Final = 0.03
SETTLE_SECONDS: Final = 90.0
#: Starts of a broker; the median counts.
STARTS: Final = 5
#: A measurement is taken again if the machine was that much slower than at its best, and how often at most.
SLOW: Final = 1.3
ATTEMPTS: Final = 4


class Calibration:
    """Tells how fast a core is now: hosts share their cores, and one may be half as fast from one second to the next.

    Args:
        core: the core to look at; the process moves there and stays.
    """

    def __init__(self, core: int | None) -> None:
        if core is not None and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {core})
        self._best = min(self._loop_seconds() for _ in range(20))

    @staticmethod
    def _loop_seconds() -> float:
        begin, total = time.thread_time(), 0
        for number in range(20_000):
            total += number * number
        return time.thread_time() - begin

    def slowness(self) -> float:
        """Return how many times longer than at its best the core needs for a fixed piece of work."""
        now = sorted(self._loop_seconds() for _ in range(9))
        self._best = min(self._best, now[0])
        return now[4] / self._best


@dataclass(slots=True)
class Result:
    """Everything that was measured.

    Attributes:
        rounds: for each row, by name, its figures in each round.
        limits: what the generator can do, by row of the echo.
        singles: figures that are no rows: every value that was measured.
    """

    rounds: dict[str, list[Figures]] = field(default_factory=dict)
    limits: dict[str, Figures] = field(default_factory=dict)
    singles: dict[str, list[float]] = field(default_factory=dict)


class Bench:
    """Measures.

    Args:
        groups: which groups of rows.
        rounds: how often each row is measured.
        seconds: seconds of one measurement.
        memory_bytes: how much is written and read for the memory figure.
        server_core, generator_core: where they run; None leaves it to the system.
        say: told what happens.
    """

    def __init__(
        self,
        *,
        groups: Collection[str] = rows.GROUPS,
        rounds: int = 5,
        seconds: float = 1.0,
        memory_bytes: int = 2 << 30,
        server_core: int | None = None,
        generator_core: int | None = None,
        uses_c: bool = True,
        say: Callable[[str], None] = print,
    ) -> None:
        self.result = Result()
        self.generator = Generator(generator_core, compile_generator() if uses_c else None)
        self._groups = groups
        self._rounds = rounds
        self._seconds = seconds
        self._memory_bytes = memory_bytes
        self._core = server_core
        self._calibration = Calibration(server_core)
        self._say = say
        self._folder = Path()
        self._servers: dict[str, Server] = {}
        self._next_unique = 0

    def run(self) -> Result:
        """Measure everything that was chosen."""
        with tempfile.TemporaryDirectory(prefix="rocketmq-py-frames-") as folder:
            self._folder = Path(folder)
            self._write_frames()
            self._measure_generator()
            if START in self._groups:
                self._measure_start()
            # The many queues have a phase of their own: writing them goes on for seconds after their row.
            self._measure_rounds([row for row in ROWS if row.group in self._groups and row.group != "queues"])
            self._measure_rounds([row for row in ROWS if row.group in self._groups and row.group == "queues"])
            if MEMORY in self._groups:
                self._measure_memory()
        return self.result

    def _write_frames(self) -> None:
        many = [frame for name in rows.topic_names() for frame in frames.send_frames(name, MANY_QUEUES, SIZE)]
        for name, content in (
            ("echo", frames.echo_frames()),
            ("send", frames.send_frames(TOPIC, QUEUES, SIZE)),
            ("batch", frames.batch_frames(TOPIC, QUEUES, SIZE, BATCH)),
            ("big", frames.batch_frames(TOPIC, QUEUES, BIG, BATCH)),
            ("pull", frames.pull_frames(TOPIC, QUEUES)),
            ("many", many),
        ):
            frames.write_frames(self._folder / name, content)

    # --- rows ---------------------------------------------------------------------------------------------------------

    def _measure_rounds(self, chosen: list[Row]) -> None:
        if not chosen:
            return
        with contextlib.ExitStack() as stack:
            self._servers = {name: stack.enter_context(self._start(name)) for name in {row.server for row in chosen}}
            if any(row.frames == "pull" for row in chosen):
                self._fill()
            if "many" in self._servers:
                self._touch_all(self._servers["many"])
            for number in range(self._rounds):
                self._say(f"round {number + 1} of {self._rounds}")
                for row in chosen:
                    self._measure(row)
        self._servers = {}

    def _start(self, name: str) -> Server:
        if name == "echo":
            return echo_server(self._core)
        if name == "many":
            return Broker(self._core, topics=rows.topic_names(), queues=MANY_QUEUES)
        settings = {"flushDiskType": "SYNC_FLUSH"} if name == "synchronous" else {}
        return Broker(self._core, topics=[TOPIC], queues=QUEUES, **settings)

    def _measure(self, row: Row) -> None:
        rate = 0.0
        if row.half_of:
            done = self.result.rounds.get(row.half_of)
            if not done:
                return
            rate = done[-1]["rate"] / 2
        attempts: list[Figures] = []
        while len(attempts) < ATTEMPTS and (not attempts or attempts[-1]["slowness"] > SLOW):
            before = self._calibration.slowness()
            figures = self._load(
                row.frames,
                self._servers[row.server],
                connections=row.connections,
                window=row.window,
                rate=rate,
                seconds=self._seconds * row.seconds,
                offset_limit=FILLED,
            )
            attempts.append(figures | {"slowness": max(before, self._calibration.slowness())})
        figures = min(attempts, key=lambda figures: float(figures["slowness"]))
        figures["messages_per_second"] = figures["rate"] * row.messages
        figures["cpu_us_per_message"] = figures["server_cpu_us"] / row.messages
        figures |= self._servers[row.server].memory()
        self.result.rounds.setdefault(row.name, []).append(figures)
        self._say(
            f"  {row.name:28} {figures['rate']:>11,.0f} requests/s, {figures['server_cpu_us']:8.2f} us CPU each, "
            f"machine at {1 / figures['slowness']:.0%} of its best"
        )

    def _fill(self) -> None:
        """Make every queue long enough for pulls; one connection for each queue."""
        requests = FILLED // BATCH
        self._load("batch", self._servers["broker"], connections=QUEUES, requests_each=requests, seconds=600.0)

    def _touch_all(self, broker: Server) -> None:
        """Send to each of the many queues and wait until their files are made, which happens once in their lives."""
        requests = MANY_TOPICS
        self._load("many", broker, connections=MANY_QUEUES, requests_each=requests, warmup=0.0, seconds=600.0)
        self._say("  waiting until the files of the queues are made")
        end = time.monotonic() + SETTLE_SECONDS
        used, before = 1.0, broker.cpu_seconds()
        while used > IDLE and time.monotonic() < end:
            time.sleep(2.0)
            now = broker.cpu_seconds()
            used, before = (now - before) / 2.0, now

    # --- other figures ------------------------------------------------------------------------------------------------

    def _measure_generator(self) -> None:
        if self.generator.binary is None:
            return
        with c_echo_server(self.generator.binary, self._core) as server:
            for row in ROWS:
                if row.group == "echo":
                    figures = self._load("echo", server, connections=row.connections, window=row.window)
                    self.result.limits[row.name] = figures
                    self._say(f"  generator, {row.name:28} {figures['rate']:>11,.0f} requests/s")

    def _measure_start(self) -> None:
        # The first one compiles modules that nobody has started before.
        seconds = [first_send_seconds(self._core) for _ in range(STARTS + 1)][1:]
        self.result.singles["start_seconds"] = seconds
        self._say(f"  start to the first accepted send {sorted(seconds)[len(seconds) // 2]:.3f} s")

    def _measure_memory(self) -> None:
        """Write and read a volume of log, then look at the memory."""
        requests = max(self._memory_bytes // (QUEUES * BATCH * BIG), 1)
        with Broker(self._core, topics=[TOPIC], queues=QUEUES) as broker:
            more: dict[str, Any] = {"connections": QUEUES, "requests_each": requests, "warmup": 0.0, "seconds": 1_200.0}
            self._load("big", broker, **more)
            self._load("pull", broker, **more, offset_limit=requests * BATCH)
            memory = broker.memory()
        for name, value in memory.items():
            self.result.singles[name] = [value]
        self.result.singles["bytes_written_and_read"] = [requests * QUEUES * BATCH * BIG]
        self._say(f"  private memory after writing and reading {memory['rss_anon_mb']:.0f} MB")

    def _load(self, name: str, server: Server, **more: Any) -> Figures:
        options: dict[str, Any] = {"seconds": self._seconds, "window": 1} | more
        load = Load(
            port=server.port,
            frames=self._folder / name,
            server_pid=server.pid,
            first_unique=self._next_unique,
            **options,
        )
        # Unique keys must not repeat between loads, or the index would have only equal keys to look for.
        self._next_unique = (self._next_unique + 50_000_000) & 0xFFFFFFFF
        figures = self.generator.run(load)
        if figures["errors"]:
            raise RuntimeError(
                f"{name}: {figures['errors']} of {figures['answers']} answers were refusals, the first with code "
                f"{figures['first_error']}; a broker that refuses is not fast"
            )
        return figures
