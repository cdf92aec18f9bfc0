"""The load generator: `lg.c`, compiled when a C compiler is there, or a slower one in Python with the same interface.

The one in Python shares the machine's time with Python's own overhead: its figures say how fast *it* is, and the
report marks them so.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from loadtests.bench.frames import Frame, read_frames

SOURCE = Path(__file__).with_name("lg.c")


@dataclass(frozen=True, slots=True)
class Load:
    """What to send.

    Attributes:
        port: where to.
        frames: a file of `write_frames`.
        connections: how many.
        window: requests under way on each connection, for a closed loop.
        rate: requests a second over all connections, for an open loop; 0 is a closed one.
        warmup: seconds before the measurement.
        seconds: seconds of the measurement.
        server_pid: the process whose CPU time is measured.
        offset_limit: pulls go round below this queue offset.
        first_unique: where the unique keys of this run begin.
        max_requests: end after so many requests; 0 is no limit.
    """

    port: int
    frames: Path
    connections: int
    window: int = 1
    rate: float = 0.0
    warmup: float = 0.3
    seconds: float = 1.0
    server_pid: int = 0
    offset_limit: int = 0
    first_unique: int = 0
    max_requests: int = 0


class Generator:
    """Runs loads on one core.

    Args:
        core: the core to run on; None leaves it to the system.
    """

    def __init__(self, core: int | None = None) -> None:
        self._core = core
        self._binary = compile_generator()

    @property
    def name(self) -> str:
        """Which generator this is, for the report."""
        return "lg.c" if self._binary else "python"

    @property
    def binary(self) -> Path | None:
        """The compiled generator; None without a compiler."""
        return self._binary

    def run(self, load: Load) -> dict[str, Any]:
        """Run one load and return its figures.

        Raises:
            RuntimeError: the generator ended with an error; the text is what it said.
        """
        arguments = [str(value) for value in asdict(load).values()]
        if self._binary:
            command = [str(self._binary), "load", *arguments]
        else:
            command = [sys.executable, "-m", "loadtests.bench.generator", *arguments]
        done = subprocess.run(
            pinned(command, self._core), capture_output=True, text=True, timeout=load.seconds + load.warmup + 600
        )
        if done.returncode:
            raise RuntimeError(f"the load generator ended with {done.returncode}: {done.stderr.strip()}")
        result: dict[str, Any] = json.loads(done.stdout)
        return result


def pinned(command: list[str], core: int | None) -> list[str]:
    """Return the command bound to a core, where the system can do that."""
    taskset = shutil.which("taskset")
    return command if core is None or taskset is None else [taskset, "-c", str(core), *command]


def compile_generator() -> Path | None:
    """Compile `lg.c` into the folder for temporary files, once for each version of it; None without a compiler."""
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
    if compiler is None:
        return None
    version = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    binary = Path(tempfile.gettempdir()) / f"rocketmq-py-lg-{version}"
    if not binary.exists():
        partial = binary.with_suffix(f".{os.getpid()}")
        subprocess.run([compiler, "-O2", "-o", str(partial), str(SOURCE)], check=True)
        partial.rename(binary)
    return binary


# --- the generator in Python ------------------------------------------------------------------------------------------


class _Connection(asyncio.Protocol):
    """Keeps a window of requests under way and notes when each was due."""

    def __init__(self, run: _Run, index: int) -> None:
        self.run = run
        self.turn = index % len(run.frames)
        self.offset = 0
        self.due: list[float] = []
        self.answered = 0
        self.data = bytearray()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def ask(self, due: float) -> None:
        frame = self.run.frames[self.turn]
        self.turn = (self.turn + self.run.load.connections) % len(self.run.frames)
        data = bytearray(frame.data)
        self.run.patch(data, frame, self)
        self.due.append(due)
        assert self.transport is not None
        self.transport.write(bytes(data))

    def data_received(self, data: bytes) -> None:
        self.data += data
        now = time.perf_counter()
        while len(self.data) >= 4:
            end = 4 + int.from_bytes(self.data[:4], "big")
            if len(self.data) < end:
                break
            self.run.count(bytes(self.data[4 : min(end, 40)]), now - self.due[self.answered])
            self.answered += 1
            del self.data[:end]
            if not self.run.load.rate:
                self.ask(now)


def _same(connection: _Connection) -> _Connection:
    return connection


class _Run:
    """One load in progress."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.frames = read_frames(load.frames)
        self.unique = load.first_unique
        self.opaque = 1_000_000_000
        self.latencies: list[float] = []
        self.errors = 0
        self.first_error = 0

    def patch(self, data: bytearray, frame: Frame, connection: _Connection) -> None:
        if frame.opaque_at >= 0:
            self.opaque += 1
            data[frame.opaque_at : frame.opaque_at + 10] = b"%010d" % self.opaque
        if frame.unique_at >= 0:
            self.unique += 1
            data[frame.unique_at : frame.unique_at + 8] = b"%08X" % (self.unique & 0xFFFFFFFF)
        if frame.offset_at >= 0:
            data[frame.offset_at : frame.offset_at + 10] = b"%010d" % connection.offset
            following = connection.offset + 32
            connection.offset = following if following + 32 <= self.load.offset_limit else 0

    def count(self, head: bytes, latency: float) -> None:
        self.latencies.append(latency)
        if self.frames[0].opaque_at >= 0 and b'"code":0,' not in head and head[4:6] != b"\x00\x00":
            self.errors += 1

    async def measure(self) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        connections = []
        for index in range(self.load.connections):
            connection = _Connection(self, index)
            await loop.create_connection(functools.partial(_same, connection), "127.0.0.1", self.load.port)
            connections.append(connection)
            for _ in range(0 if self.load.rate else self.load.window):
                connection.ask(time.perf_counter())
        await self._wait(self.load.warmup, connections)
        self.latencies.clear()
        self.errors = 0
        begin, cpu, server = time.perf_counter(), time.process_time(), cpu_of(self.load.server_pid)
        await self._wait(self.load.seconds, connections)
        seconds = time.perf_counter() - begin
        used = cpu_of(self.load.server_pid) - server
        ordered = sorted(self.latencies) or [0.0]
        for connection in connections:
            if connection.transport is not None:
                connection.transport.abort()
        return {
            "rate": len(self.latencies) / seconds,
            "answers": len(self.latencies),
            "seconds": seconds,
            **{f"{name}_us": ordered[int((len(ordered) - 1) * part)] * 1e6 for name, part in PERCENTILES.items()},
            "server_cpu_us": used * 1e6 / max(len(self.latencies), 1),
            "server_load": used / seconds,
            "generator_load": (time.process_time() - cpu) / seconds,
            "errors": self.errors,
            "first_error": self.first_error,
        }

    async def _wait(self, seconds: float, connections: list[_Connection]) -> None:
        if not self.load.rate:
            await asyncio.sleep(seconds)
            return
        end, step, turn = time.perf_counter() + seconds, 1 / self.load.rate, 0
        due = time.perf_counter()
        while due < end:
            while due <= time.perf_counter():
                connections[turn % len(connections)].ask(due)
                turn, due = turn + 1, due + step
            await asyncio.sleep(0)


PERCENTILES = {"p50": 0.5, "p99": 0.99, "p999": 0.999}


def cpu_of(pid: int) -> float:
    """Return the CPU seconds that all threads of a process have used; 0.0 where the system does not tell."""
    total = 0.0
    for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        total += int(task.read_text().split()[0]) / 1e9
    return total


def main(arguments: list[str]) -> None:
    """Run one load given as the values of `Load` and print its figures."""
    kinds = (int, Path, int, int, float, float, float, int, int, int, int)
    load = Load(*(kind(value) for kind, value in zip(kinds, arguments, strict=True)))
    print(json.dumps(asyncio.run(_Run(load).measure())))


if __name__ == "__main__":
    main(sys.argv[1:])
