"""`python -m loadtests.timers`: what waiting messages cost, and how exactly they come.

A broker of its own takes a million messages (`--count`) whose times lie evenly in a window; it is stopped and started with
all of them waiting; then they come. Measured are CPU time, memory and bytes on disk for each message, the time of the
start, and how far behind its second each message was stored.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import socket
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from loadtests.bench.frames import OPAQUE, SEND_MESSAGE_V2, body_of, request, send_fields, unique_key
from loadtests.bench.processes import Server, broker_command, write_topics
from rocketmq_py.common.properties import find_property
from rocketmq_py.common.record import RecordState, check_record
from rocketmq_py.store.timer.timer_log import UNIT_SIZE
from rocketmq_py.testing.free_port import free_port

TOPIC: Final = "Waiting"
QUEUES: Final = 8
BODY: Final = 128
#: Requests that are under way at the same time, and in one write.
WINDOW: Final = 1_024
CHUNK: Final = 64
#: Seconds over which idling is measured.
IDLE_SECONDS: Final = 10.0
PRECISION_MS: Final = 1_000

DUE: Final = b"7777777777777"


def now_ms() -> int:
    """Return milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def frames(count: int, begin_ms: int, end_ms: int) -> Iterator[bytes]:
    """Yield send requests whose times lie between two moments, in no order."""
    properties = f"TIMER_DELIVER_MS\x01{DUE.decode()}\x02UNIQ_KEY\x01{unique_key('DEADBEEF0001')}\x02TAGS\x01TagA\x02"
    templates = [
        request(SEND_MESSAGE_V2, send_fields(TOPIC, queue, properties, is_batch=False), body_of(BODY))
        for queue in range(QUEUES)
    ]
    rng = random.Random(count)
    for number in range(count):
        frame = templates[number % QUEUES]
        frame = frame.replace(OPAQUE, b"%d" % (1_000_000_000 + number))
        yield frame.replace(DUE, b"%d" % rng.randrange(begin_ms, end_ms)).replace(b"DEADBEEF", b"%08X" % number)


class Sender:
    """Sends requests over one connection, with a window of unanswered ones, and checks that all are accepted."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._room = threading.Semaphore(WINDOW // CHUNK)
        self.answered = 0
        self.refused = 0

    def send(self, requests: Iterator[bytes], count: int) -> None:
        """Send all, and return when all are answered."""
        reader = threading.Thread(target=self._read, args=(count,))
        reader.start()
        chunk: list[bytes] = []
        for number, frame in enumerate(requests, 1):
            chunk.append(frame)
            if len(chunk) == CHUNK or number == count:
                self._room.acquire()
                self._socket.sendall(b"".join(chunk))
                chunk.clear()
        reader.join()
        self._socket.close()

    def _read(self, count: int) -> None:
        data = bytearray()
        while self.answered < count:
            part = self._socket.recv(1 << 18)
            if not part:
                raise ConnectionError("the broker has closed the connection")
            data += part
            at = 0
            while len(data) - at >= 4:
                size = struct.unpack_from(">I", data, at)[0]
                if len(data) - at < 4 + size:
                    break
                self.refused += b'"code":0,' not in data[at : at + 4 + size]
                at += 4 + size
                self.answered += 1
                if self.answered % CHUNK == 0:
                    self._room.release()
            del data[:at]


def stored(store: Path) -> tuple[int, list[int], int]:
    """Read the commit log: messages in the timer topic, lateness of each delivered one (ms), bytes of a waiting one."""
    waiting, late, size = 0, [], 0
    for path in sorted((store / "commitlog").iterdir()):
        data = memoryview(path.read_bytes())
        start, at = int(path.name), 0
        while at < len(data):
            check = check_record(data, at, position=start + at, check_crc=False)
            if check.state is RecordState.INVALID:
                break
            if check.record is not None and check.record.topic == TOPIC.encode():
                asked = int(find_property(check.record.properties, b"TIMER_DELIVER_MS") or b"0")
                due = -(-asked // PRECISION_MS) * PRECISION_MS
                late.append(check.record.store_timestamp - due)
            elif check.record is not None:
                waiting, size = waiting + 1, check.size
            at += check.size
    return waiting, late, size


def allocated(path: Path) -> int:
    """Return the bytes that a file or folder takes on the disk."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_blocks * 512 for file in files)


class Run:
    """One run; `rows` are what it found, as name and text."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.rows: list[tuple[str, str]] = []
        self._options = options
        self._store = Path(tempfile.mkdtemp(prefix="rocketmq-py-timers-"))
        write_topics(self._store, [TOPIC], QUEUES)
        self._port = free_port()

    def _start(self) -> Server:
        settings = {"mappedFileSizeCommitLog": str(256 << 20)}
        core = None if self._options.core < 0 else self._options.core
        return Server(broker_command(self._store, self._port, settings), self._port, core, rb"boot success")

    def run(self) -> None:
        """Do it all, and delete the store."""
        try:
            self._run()
        finally:
            shutil.rmtree(self._store, ignore_errors=True)

    def _run(self) -> None:
        count, options = self._options.count, self._options
        begin = now_ms() + options.ahead * 1_000
        end = begin + options.within * 1_000
        with self._start() as server:
            self._note("memory of the empty broker", f"{server.memory()['rss_mb']:.1f} MB")
            self._send(server, count, begin, end)
        with_all = time.perf_counter()
        server = self._start()
        self._note("start with all of them waiting", f"{time.perf_counter() - with_all:.2f} s")
        with server:
            self._wait(server, begin)
            self._deliver(server, count, end)
        self._accuracy(count)

    def _send(self, server: Server, count: int, begin: int, end: int) -> None:
        cpu, wall = server.cpu_seconds(), time.perf_counter()
        sender = Sender(self._port)
        sender.send(frames(count, begin, end), count)
        if sender.refused:
            raise RuntimeError(f"{sender.refused} of {count} messages were refused")
        sent = time.perf_counter() - wall
        self._until_quiet(server)
        cpu = server.cpu_seconds() - cpu
        if now_ms() > begin:
            raise RuntimeError("the first messages were due before all had been sent; say --ahead with more seconds")
        self._note("messages", f"{count:,} of {BODY} bytes, due within {self._options.within} s")
        self._note("taken", f"{count / sent:,.0f} a second")
        self._note("CPU to take one and put it into the wheel", f"{cpu / count * 1e6:.1f} us")
        memory = server.memory()
        self._note(
            "memory with all of them waiting",
            f"{memory['rss_mb']:.1f} MB, {memory['rss_anon_mb']:.1f} MB of it not of files",
        )
        self._note("timer log", f"{UNIT_SIZE} bytes each, {allocated(self._store / 'timerlog') >> 20} MiB allocated")
        self._note("wheel on the disk", f"{allocated(self._store / 'timerwheel') / 1024:,.0f} KiB of 37,800")

    def _until_quiet(self, server: Server) -> None:
        """Wait until the broker has put into the wheel what it was sent."""
        before = -1.0
        while (cpu := server.cpu_seconds()) - before > 0.03:
            before = cpu
            time.sleep(1.0)

    def _wait(self, server: Server, begin: int) -> None:
        self._note("memory after that start", f"{server.memory()['rss_mb']:.1f} MB")
        time.sleep(1)
        if now_ms() + IDLE_SECONDS * 1_000 < begin:
            cpu = server.cpu_seconds()
            time.sleep(IDLE_SECONDS)
            self._note("CPU while they wait", f"{(server.cpu_seconds() - cpu) / IDLE_SECONDS * 100:.2f} % of a core")

    def _deliver(self, server: Server, count: int, end: int) -> None:
        cpu = server.cpu_seconds()
        time.sleep(max(0, end + 1_500 - now_ms()) / 1_000)
        self._until_quiet(server)
        memory = server.memory()
        self._note("CPU to deliver one", f"{(server.cpu_seconds() - cpu) / count * 1e6:.1f} us")
        self._note("memory afterwards", f"{memory['rss_mb']:.1f} MB, {memory['rss_anon_mb']:.1f} MB of it not of files")

    def _accuracy(self, count: int) -> None:
        waiting, late, size = stored(self._store)
        if (waiting, len(late)) != (count, count):
            raise RuntimeError(f"{count} were sent, {waiting} are in the timer topic, {len(late)} were delivered")
        late.sort()
        ranks = {"median": 0.5, "99 %": 0.99, "99.9 %": 0.999}
        text = ", ".join(f"{name} {late[int(rank * (count - 1))]} ms" for name, rank in ranks.items())
        self._note("behind their second", f"{text}, latest {late[-1]} ms, earliest {late[0]} ms")
        self._note("record in the timer topic", f"{size} bytes, and 20 in its queue")

    def _note(self, name: str, text: str) -> None:
        self.rows.append((name, text))
        print(f"{name}: {text}", flush=True)


def main(arguments: list[str]) -> int:
    """Run it, and print what was found."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.timers", description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000, help="messages (1,000,000)")
    parser.add_argument("--ahead", type=int, default=180, help="seconds until the first is due (180)")
    parser.add_argument("--within", type=int, default=120, help="seconds in which they are due (120)")
    parser.add_argument("--core", type=int, default=0, help="the broker's core; -1: any (0)")
    run = Run(parser.parse_args(arguments))
    run.run()
    table = Table(title=f"waiting messages, {os.uname().machine}, Python {sys.version.split()[0]}")
    table.add_column("what")
    table.add_column("found")
    for row in run.rows:
        table.add_row(*row)
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
