"""The load generator in Python, for machines without a C compiler: plain sockets and one selector.

It does what `lg.c` does and prints the same figures. It is slower than a fast broker, so its rates say how fast *it*
is; the CPU microseconds of the server are right all the same.
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

from loadtests.bench.frames import Frame, read_frames
from loadtests.bench.generator import Load

PERCENTILES = {"p50_us": 0.5, "p99_us": 0.99, "p999_us": 0.999}
#: First bytes of an answer that hold its code: length and kind of the header, then `{"code":` and a number.
PEEK = 24


class Connection:
    """One connection: a window of requests under way, and when each was due."""

    def __init__(self, port: int, index: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.turn = index
        self.offset = 0
        self.asked = 0
        self.due: deque[float] = deque()
        self.unread = bytearray()
        self.unsent = bytearray()

    def send(self) -> None:
        """Write what the socket takes."""
        if self.unsent:
            try:
                del self.unsent[: self.socket.send(self.unsent)]
            except BlockingIOError:
                pass


class Run:
    """One load in progress."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.frames = read_frames(load.frames)
        self.unique = load.first_unique
        self.opaque = 1_000_000_000
        self.latencies: list[float] = []
        self.errors = self.first_error = self.answers = 0
        self.connections = [Connection(load.port, index) for index in range(load.connections)]
        self.selector = selectors.DefaultSelector()
        for connection in self.connections:
            self.selector.register(connection.socket, selectors.EVENT_READ, connection)

    def ask(self, connection: Connection, due: float) -> None:
        """Queue one request, with fresh numbers."""
        if self.load.requests_each and connection.asked >= self.load.requests_each:
            return
        frame = self.frames[connection.turn % len(self.frames)]
        connection.turn += self.load.connections
        connection.asked += 1
        connection.due.append(due)
        connection.unsent += self.numbered(frame, connection)

    def numbered(self, frame: Frame, connection: Connection) -> bytearray:
        """Return the frame with a new opaque, a new unique key and the connection's next offset."""
        data = bytearray(frame.data)
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
        return data

    def read(self, connection: Connection) -> int:
        """Read and count answers; return how many."""
        data = connection.socket.recv(1 << 20)
        if not data:
            raise RuntimeError("the server closed a connection")
        unread = connection.unread
        unread += data
        now, at, done = time.perf_counter(), 0, 0
        while len(unread) - at >= 4:
            end = at + 4 + int.from_bytes(unread[at : at + 4], "big")
            if len(unread) < end:
                break
            self.latencies.append(now - connection.due.popleft())
            if self.frames[0].opaque_at >= 0:
                self.check(bytes(unread[at + 4 : min(end, at + 4 + PEEK)]))
            at, done = end, done + 1
        del unread[:at]
        self.answers += done
        return done

    def check(self, head: bytes) -> None:
        """Count an answer whose response code is not 0."""
        code = int.from_bytes(head[4:6], "big") if head[0] == 1 else json_code(head)
        if code:
            self.errors += 1
            self.first_error = self.first_error or code

    def serve(self, until: float) -> bool:
        """Send and receive until a time; false if all requests were answered before."""
        load, rate = self.load, self.load.rate
        due, turn = time.perf_counter(), 0
        while (now := time.perf_counter()) < until:
            while rate and due <= now:
                connection = self.connections[turn % len(self.connections)]
                self.ask(connection, due)
                connection.send()
                turn, due = turn + 1, due + 1 / rate
            for key, _ in self.selector.select(max(due - time.perf_counter(), 0.0) if rate else 0.1):
                connection = key.data
                done = self.read(connection)
                for _ in range(0 if rate else done):
                    self.ask(connection, time.perf_counter())
                connection.send()
            if any(connection.unsent for connection in self.connections):
                for connection in self.connections:
                    connection.send()
            if load.requests_each and not any(connection.due for connection in self.connections):
                return False
        return True

    def measure(self) -> dict[str, Any]:
        """Warm up, measure, and return the figures."""
        load = self.load
        for connection in self.connections:
            for _ in range(0 if load.rate else load.window):
                self.ask(connection, time.perf_counter())
            connection.send()
        if load.warmup:
            self.serve(time.perf_counter() + load.warmup)
        self.latencies.clear()
        self.errors = self.answers = 0
        begin, own, server = time.perf_counter(), time.process_time(), cpu_of(load.server_pid)
        self.serve(begin + load.seconds)
        seconds, used = time.perf_counter() - begin, cpu_of(load.server_pid) - server
        ordered = sorted(self.latencies) or [0.0]
        for connection in self.connections:
            connection.socket.close()
        self.selector.close()
        return {
            "rate": self.answers / seconds,
            "answers": self.answers,
            "seconds": seconds,
            **{name: ordered[int((len(ordered) - 1) * part)] * 1e6 for name, part in PERCENTILES.items()},
            "server_cpu_us": used * 1e6 / max(self.answers, 1),
            "server_load": used / seconds,
            "generator_load": (time.process_time() - own) / seconds,
            "errors": self.errors,
            "first_error": self.first_error,
        }


def json_code(head: bytes) -> int:
    """Return the response code of a JSON header; -1 if there is none."""
    _, found, rest = head.partition(b'"code":')
    digits = rest[: len(rest) - len(rest.lstrip(b"-0123456789"))]
    return int(digits) if found and digits else -1


def cpu_of(pid: int) -> float:
    """Return the CPU seconds that all threads of a process have used; 0.0 where the system does not tell."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat") if pid else ()
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def parse(arguments: list[str]) -> Load:
    """Read a load from the values of its fields, in their order."""
    kinds = (int, Path, int, int, float, float, float, int, int, int, int)
    return Load(*(kind(value) for kind, value in zip(kinds, arguments, strict=True)))


if __name__ == "__main__":
    print(json.dumps(Run(parse(sys.argv[1:])).measure()))
