"""Starts and ends the servers under test, each on its core, and reads what they use."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Final

from loadtests.bench.frames import OPAQUE, send_frames
from rocketmq_py.testing.free_port import free_port

#: Seconds in which a server must serve after its start, and end after SIGTERM.
START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 10.0


def start_pinned(command: list[str], core: int | None, **options: int | None) -> subprocess.Popen[bytes]:
    """Start a process that runs, with all its threads, on one core; where a system cannot do that, on any."""

    def pin() -> None:
        if core is not None and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {core})

    # Compiled modules are kept, as Python does by default, but not beside the sources.
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(Path(tempfile.gettempdir()) / "rocketmq-py-bench-pyc")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
        command, preexec_fn=pin, env=environment, **options
    )


class Server:
    """A server process on one core; ended at the end of a `with` block.

    Args:
        command: starts it.
        port: where it will listen.
        core: where it runs; None leaves it to the system.
        ready: what it prints when it serves; without it the server serves once it accepts a connection.
    """

    def __init__(self, command: list[str], port: int, core: int | None, ready: bytes = b"") -> None:
        self.port = port
        self.process = start_pinned(command, core, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            if ready:
                self._wait_for_line(ready)
            else:
                until(lambda: _accepts(port))
        except BaseException:
            self.stop()
            raise

    def _wait_for_line(self, ready: bytes) -> None:
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], START_SECONDS)[0]:
            raise TimeoutError(f"{self.process.args!r} did not say that it serves within {START_SECONDS:.0f} s")
        line = self.process.stdout.readline()
        if not re.search(ready, line):
            raise RuntimeError(f"{self.process.args!r} did not start; it printed {line!r}. Run it by hand to see why")

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self.process.pid

    def cpu_seconds(self) -> float:
        """Return the CPU time that all threads of the process have used; 0.0 where the system does not tell."""
        tasks = Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9

    def memory(self) -> dict[str, float]:
        """Return resident memory in MB: all of it, and the part that is not backed by files."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        sizes = {name: int(size) for name, size in re.findall(r"^(\w+):\s+(\d+) kB$", status, re.MULTILINE)}
        return {"rss_mb": sizes["VmRSS"] / 1_024, "rss_anon_mb": sizes["RssAnon"] / 1_024}

    def stop(self) -> None:
        """End the process: politely, then not."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_SECONDS)
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


def broker_command(store: Path, port: int, settings: dict[str, str]) -> list[str]:
    """Return the command that a person would type: all stages, all hooks, RocketMQ's defaults."""
    chosen = {"listenPort": str(port), "storePathRootDir": str(store), **settings}
    words = [word for name, value in chosen.items() for word in ("--set", f"{name}={value}")]
    return [sys.executable, "-m", "rocketmq_py.cli.main", "broker", "start", *words]


class Broker(Server):
    """A broker with a store of its own, which is deleted with it.

    Args:
        core: where it runs.
        topics: exist from the start.
        queues: of each topic.
        **settings: properties of the broker, such as `flushDiskType`.
    """

    def __init__(self, core: int | None, *, topics: Iterable[str], queues: int = 8, **settings: str) -> None:
        self.store = Path(tempfile.mkdtemp(prefix="rocketmq-py-bench-"))
        try:
            write_topics(self.store, topics, queues)
            port = free_port()
            super().__init__(broker_command(self.store, port, settings), port, core, rb"boot success")
        except BaseException:
            shutil.rmtree(self.store, ignore_errors=True)
            raise

    def stop(self) -> None:
        """End the process and delete its store."""
        super().stop()
        shutil.rmtree(self.store, ignore_errors=True)


def write_topics(store: Path, topics: Iterable[str], queues: int) -> None:
    """Write the table of topics that a broker reads when it starts."""
    rows = {name: {"topicName": name, "readQueueNums": queues, "writeQueueNums": queues, "perm": 6} for name in topics}
    path = store / "config" / "topics.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"topicConfigTable": rows, "dataVersion": {"counter": 1, "timestamp": 1}}))


def echo_server(core: int | None) -> Server:
    """Start the event loop's echo: the yardstick."""
    port = free_port()
    return Server([sys.executable, "-m", "loadtests.bench.echo", str(port)], port, core)


def c_echo_server(binary: Path, core: int | None) -> Server:
    """Start the echo in C, which shows what the generator itself can do."""
    port = free_port()
    return Server([str(binary), "echo", str(port)], port, core)


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
            raise TimeoutError(f"a server did not serve within {START_SECONDS:.0f} s")
        time.sleep(0.001)


def first_send_seconds(core: int | None) -> float:
    """Start a broker with an empty store; return the seconds from the start of the process to the first accepted send.

    The topic does not exist either: the send creates it.
    """
    frame = send_frames("FirstSend", 1, 128)[0].data.replace(OPAQUE, b"1000000001")
    store, port = Path(tempfile.mkdtemp(prefix="rocketmq-py-bench-")), free_port()
    begin = time.perf_counter()
    process = start_pinned(broker_command(store, port, {}), core, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: _accepts_a_send(port, frame))
        return time.perf_counter() - begin
    finally:
        process.terminate()
        process.wait(STOP_SECONDS)
        shutil.rmtree(store, ignore_errors=True)


def _accepts_a_send(port: int, frame: bytes) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 5) as connection:
            connection.sendall(frame)
            return b'"code":0,' in connection.recv(4_096)
    except OSError:
        return False
