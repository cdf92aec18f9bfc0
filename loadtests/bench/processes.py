"""Starts and ends the servers under test, each on its core, and reads what they use."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from loadtests.bench.frames import OPAQUE, send_frames
from loadtests.bench.generator import pinned
from loadtests.bench.serve import topic_names

START_SECONDS = 30.0


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """A server process that prints its port when it serves; ended at the end of a `with` block."""

    def __init__(self, command: list[str], core: int | None, environment: dict[str, str] | None = None) -> None:
        self.started = time.perf_counter()
        self.process = subprocess.Popen(
            pinned(command, core), stdout=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})}
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.strip().isdigit():
            self.stop()
            raise RuntimeError(f"{' '.join(command)} did not start; what it printed: {line!r}")
        self.port = int(line)

    @property
    def pid(self) -> int:
        """Process number; `taskset` replaces itself by the server, so this is the server's own."""
        return self.process.pid

    def memory(self) -> dict[str, float]:
        """Return resident memory in MB: all of it, and the part that is not backed by files."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        values = {line.split(":")[0]: line.split()[1] for line in status.splitlines() if line.startswith("Rss")}
        values |= {"VmRSS": next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))}
        return {"rss_mb": int(values["VmRSS"]) / 1_024, "rss_anon_mb": int(values.get("RssAnon", 0)) / 1_024}

    def stop(self) -> None:
        """End the process: politely, then not."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class Broker(Server):
    """A broker with a store of its own, which is deleted with it."""

    def __init__(
        self,
        core: int | None,
        *,
        flush: str = "ASYNC_FLUSH",
        topics: int = 1,
        queues: int = 8,
        loop: str = "uvloop",
        directory: str | None = None,
    ) -> None:
        self.directory = tempfile.mkdtemp(prefix="rocketmq-py-bench-", dir=directory)
        self.topics = topic_names(topics)
        arguments = [self.directory, str(free_port()), flush, str(topics), str(queues), loop]
        try:
            super().__init__([sys.executable, "-m", "loadtests.bench.serve", *arguments], core)
        except BaseException:
            shutil.rmtree(self.directory, ignore_errors=True)
            raise

    def stop(self) -> None:
        """End the process and delete its store."""
        super().stop()
        shutil.rmtree(self.directory, ignore_errors=True)


def echo_server(core: int | None) -> Server:
    """Start the event loop's echo."""
    return Server([sys.executable, "-m", "loadtests.bench.echo"], core)


def c_echo_server(binary: Path, core: int | None) -> Server:
    """Start the generator's own echo server, which shows what the generator can do."""
    port = free_port()
    # It prints nothing; a shell prints the port for it and becomes it.
    server = Server(["/bin/sh", "-c", f"echo {port}; exec {binary} echo {port}"], core)
    until(lambda: _accepts(port))
    return server


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds.

    Raises:
        TimeoutError: it did not within `START_SECONDS`.
    """
    end = time.monotonic() + START_SECONDS
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"nothing happened for {START_SECONDS} s")
        time.sleep(0.001)


def first_send_seconds(core: int | None) -> float:
    """Start a broker and return the seconds from the start of the process to the first accepted send."""
    frame = send_frames("FirstSend", 1, 128)[0].data.replace(OPAQUE, b"1000000001")
    directory = tempfile.mkdtemp(prefix="rocketmq-py-bench-")
    port = free_port()
    begin = time.perf_counter()
    command = [sys.executable, "-m", "loadtests.bench.serve", directory, str(port), "ASYNC_FLUSH", "1", "8"]
    process = subprocess.Popen(pinned(command, core), stdout=subprocess.DEVNULL)
    try:
        until(lambda: _sends(port, frame))
        return time.perf_counter() - begin
    finally:
        process.terminate()
        process.wait(10)
        shutil.rmtree(directory, ignore_errors=True)


def _sends(port: int, frame: bytes) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 5) as connection:
            connection.sendall(frame)
            return b'"code":0,' in connection.recv(4_096)
    except OSError:
        return False
