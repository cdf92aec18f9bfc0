"""What is measured, in which rounds, and what follows from it.

Every figure is taken several times, in rounds that go through all cases, and the best round counts: a shared machine
can only make a run slower. A figure is only ever compared with another one of the same run of the bench.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadtests.bench import frames, processes
from loadtests.bench.generator import Generator, Load
from loadtests.bench.serve import topic_names

Figures = dict[str, Any]

SIZE = 128
BATCH = 32


@dataclass(frozen=True, slots=True)
class Case:
    """One load on a server.

    Attributes:
        name: the key of its figures.
        frames: which file of frames.
        connections: how many.
        window: requests under way on each.
        messages: messages in one request.
    """

    name: str
    frames: str
    connections: int
    window: int = 1
    messages: int = 1


ECHO = (Case("echo 64x1", "echo", 64), Case("echo 16x32", "echo", 16, 32))
SENDS = (
    Case("send 1x1", "send", 1),
    Case("send 16x1", "send", 16),
    Case("send 64x1", "send", 64),
    Case("send 16x32", "send", 16, 32),
    Case("batch of 32, 16x1", "batch", 16, 1, BATCH),
)
PULLS = (Case("pull of 32, 64x1", "pull", 64, 1, BATCH),)
SYNC = (Case("synchronous flush, 1x1", "send", 1), Case("synchronous flush, 64x1", "send", 64))
MANY = Case("50,000 queues, 64x1", "many", 64)
FEW = Case("8 queues, 64x1", "send", 64)


@dataclass(slots=True)
class Bench:
    """One run of everything.

    Args:
        server_core: where servers run; None leaves it to the system.
        generator_core: where the generator runs.
        rounds: how often each case is measured.
        seconds: seconds of one measurement.
        say: told what happens.
        many_topics, many_queues: how the many queues are laid out.
        memory_bytes: how much is written and read for the memory figure.
    """

    server_core: int | None
    generator_core: int | None
    rounds: int = 3
    seconds: float = 1.0
    say: Callable[[str], None] = print
    many_topics: int = 1_000
    many_queues: int = 50
    memory_bytes: int = 2 << 30
    figures: dict[str, Figures] = field(default_factory=dict)
    _generator: Generator = field(init=False)
    _folder: Path = field(init=False)
    _unique: int = 0

    def run(self) -> dict[str, Figures]:
        """Measure everything and return the figures by name."""
        self._generator = Generator(self.generator_core)
        with tempfile.TemporaryDirectory(prefix="rocketmq-py-frames-") as folder:
            self._folder = Path(folder)
            self._write_frames()
            self.measure_limit()
            self.measure_start()
            for number in range(self.rounds):
                self.say(f"round {number + 1} of {self.rounds}")
                self._round()
            self.measure_memory()
        return self.figures

    def _write_frames(self) -> None:
        topic = topic_names(1)[0]
        many = [
            frame
            for name in topic_names(self.many_topics)
            for frame in frames.send_frames(name, self.many_queues, SIZE)
        ]
        for name, content in (
            ("echo", frames.echo_frames()),
            ("send", frames.send_frames(topic, 8, SIZE)),
            ("batch", frames.batch_frames(topic, 8, SIZE)),
            ("big", frames.batch_frames(topic, 8, 4_096)),
            ("pull", frames.pull_frames(topic, 8)),
            ("many", many),
        ):
            frames.write_frames(self._folder / name, content)

    def _round(self) -> None:
        with processes.echo_server(self.server_core) as echo:
            for case in ECHO:
                self.measure(case, echo)
        with processes.Broker(self.server_core) as broker:
            for case in SENDS:
                self.measure(case, broker)
            self.measure_half_load(broker)
            for case in PULLS:
                self.measure(case, broker, offset_limit=self._filled(broker))
        with processes.Broker(self.server_core, flush="SYNC_FLUSH") as broker:
            for case in SYNC:
                self.measure(case, broker)
        with processes.Broker(self.server_core, topics=self.many_topics, queues=self.many_queues) as broker:
            self.measure(MANY, broker, warmup=2.0)
        with processes.Broker(self.server_core) as broker:
            self.measure(FEW, broker, warmup=2.0)

    def _filled(self, broker: processes.Server) -> int:
        """Make every queue 20,000 messages long; return that number."""
        wanted = 20_000
        requests = 8 * wanted // BATCH
        self._load("batch", broker, connections=8, window=1, max_requests=requests, warmup=0.0, seconds=60.0)
        return wanted

    def measure(self, case: Case, server: processes.Server, **more: Any) -> None:
        """Measure one case and keep it if it is the best round so far."""
        result = self._load(case.frames, server, connections=case.connections, window=case.window, **more)
        result["messages_per_second"] = result["rate"] * case.messages
        result["cpu_us_per_message"] = result["server_cpu_us"] / case.messages
        best = self.figures.get(case.name)
        if best is None or result["rate"] > best["rate"]:
            self.figures[case.name] = result
        self.say(f"  {case.name:28} {result['rate']:>12,.0f} requests/s, {result['server_cpu_us']:.2f} us CPU each")

    def measure_half_load(self, broker: processes.Server) -> None:
        """Measure latencies at half of the best synchronous rate, in an open loop."""
        rate = self.figures["send 64x1"]["rate"] / 2
        result = self._load("send", broker, connections=64, rate=rate)
        best = self.figures.get("half load, 64")
        if best is None or result["p99_us"] < best["p99_us"]:
            self.figures["half load, 64"] = result

    def measure_limit(self) -> None:
        """Measure what the generator can do at most, against its own echo."""
        binary = self._generator.binary
        if binary is None:
            return
        with processes.c_echo_server(binary, self.server_core) as server:
            for case in ECHO:
                limit = Case(f"generator's limit, {case.name[5:]}", case.frames, case.connections, case.window)
                self.measure(limit, server)

    def measure_start(self) -> None:
        """Measure the time from the start of the process to the first accepted send."""
        seconds = min(processes.first_send_seconds(self.server_core) for _ in range(self.rounds))
        self.figures["start"] = {"seconds": seconds}
        self.say(f"  start to first accepted send {seconds:.3f} s")

    def measure_memory(self) -> None:
        """Write the log and read it back, then look at the resident memory."""
        with processes.Broker(self.server_core) as broker:
            requests = self.memory_bytes // (BATCH * 4_096)
            self._load("big", broker, connections=8, max_requests=requests, warmup=0.0, seconds=300.0)
            each = requests * BATCH // 8
            self._load(
                "pull", broker, connections=8, max_requests=requests, offset_limit=each, warmup=0.0, seconds=300.0
            )
            self.figures["memory"] = broker.memory() | {"written_and_read": requests * BATCH * 4_096}
        self.say(f"  memory after writing and reading: {self.figures['memory']}")

    def _load(self, name: str, server: processes.Server, **more: Any) -> Figures:
        options: dict[str, Any] = {"seconds": self.seconds, "window": 1} | more
        load = Load(
            port=server.port,
            frames=self._folder / name,
            server_pid=server.pid,
            first_unique=self._unique,
            **options,
        )
        # Unique keys must not repeat between runs, or the index would have only equal keys to look for.
        self._unique = (self._unique + 50_000_000) & 0xFFFFFFFF
        result = self._generator.run(load)
        if result["errors"]:
            raise RuntimeError(
                f"{name}: {result['errors']} of {result['answers']} answers were refusals, the first with code "
                f"{result['first_error']}; a broker that refuses is not fast"
            )
        return result
