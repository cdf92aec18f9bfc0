"""Clients of others for the interop labs: fetched once into `~/.cache/rocketmq-py/`, run as processes.

Where a tool or the network is missing, the labs are skipped and say what was missing. Each client is a small program
in its own language with the same commands:

    produce NAMESRV GROUP TOPIC COUNT      bodies "body 0", "body 1", ...; prints "sent COUNT" at its end
    mixture NAMESRV GROUP TOPIC            every kind of send that the client has, see use_features.py
    read NAMESRV TOPIC READER...           a push consumer for each "NAME|GROUP|MODEL|TYPE|EXPRESSION"; prints "started"
                                           and then "NAME QUEUE OFFSET BODY" for each message, until its input ends
    pull NAMESRV GROUP TOPIC COUNT         a pull consumer, until it has COUNT messages; prints as `read` does
"""

from __future__ import annotations

import contextlib
import functools
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from .java_tools import VERSION, cache_directory, java_command
from .programs import Program, running

HERE = Path(__file__).parent
CPP_CLIENT = "rocketmq==0.4.4"

#: Seconds that fetching or building a client may take (once per machine).
FETCH_SECONDS = 300

#: What a client may be able to do.
EVERYTHING = frozenset({"batch", "async", "one way", "sql", "pull"})


@dataclass(frozen=True)
class Client:
    """A program with the commands above.

    Attributes:
        name: for what the labs print.
        command: that runs it; empty for Java, whose command depends on the folder that it runs in.
        abilities: which of `EVERYTHING` it has.
        version: of the Java client.
    """

    name: str
    command: tuple[str, ...] = ()
    abilities: frozenset[str] = EVERYTHING
    version: str = VERSION

    @contextlib.asynccontextmanager
    async def run(self, *arguments: str, home: Path) -> AsyncIterator[Program]:
        """Run it for the time of a `with` block; `home` is made and takes its logs."""
        command = self.command or java_command("Client", home, version=self.version)
        async with running(Program([*command, *arguments], home, {"HOME": str(home)})) as program:
            yield program


def received(program: Program, reader: str) -> list[tuple[int, int, str]]:
    """Return queue, offset and body of everything that one reader of a program has printed so far."""
    lines = [line.split(" ", 3) for line in program.lines if line.startswith(f"{reader} ")]
    return [(int(parts[1]), int(parts[2]), parts[3]) for parts in lines]


def java_client(version: str = VERSION) -> Client:
    """Return the Java client of a version of Apache RocketMQ."""
    return Client(f"Java client {version}", version=version)


@functools.cache
def cpp_client() -> Client:
    """Return the C++ core client behind its Python binding, in a virtual environment of its own."""
    folder = cache_directory() / "cpp-client"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        _fetch([sys.executable, "-m", "venv", str(folder)], "a virtual environment")
        _fetch([str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", CPP_CLIENT], CPP_CLIENT)
        probe = subprocess.run(
            [str(python), "-c", "import rocketmq.client"], capture_output=True, text=True, check=False, timeout=60
        )
        if probe.returncode:
            pytest.skip(f"{CPP_CLIENT} cannot be loaded on this machine: {probe.stderr.strip()[-300:]}")
        (folder / "complete").touch()
    return Client("C++ client", (str(python), str(HERE / "cpp" / "client.py")), EVERYTHING - {"sql", "batch"})


@functools.cache
def node_client() -> Client:
    """Return the Node client with its modules."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: no Node client to test with")
    folder = cache_directory() / "node-client"
    if not (folder / "complete").exists():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(HERE / "node" / "package.json", folder)
        _fetch(["npm", "install", "--no-audit", "--no-fund", "--silent"], "the Node client ali-ons", folder)
        (folder / "complete").touch()
    # Node looks for modules beside the program, so it runs a copy there.
    shutil.copy(HERE / "node" / "client.js", folder)
    return Client("Node client", ("node", str(folder / "client.js")), frozenset({"sql"}))


@functools.cache
def go_client() -> Client:
    """Return the Go client, built."""
    if shutil.which("go") is None:
        pytest.skip("go is not installed: no Go client to test with")
    folder = cache_directory() / "go-client"
    binary = folder / "client"
    sources = [HERE / "go" / name for name in ("client.go", "go.mod", "go.sum")]
    if not binary.exists() or binary.stat().st_mtime < max(source.stat().st_mtime for source in sources):
        folder.mkdir(parents=True, exist_ok=True)
        _fetch(["go", "build", "-o", str(binary), "."], "rocketmq-client-go/v2", HERE / "go")
    return Client("Go client", (str(binary),))


def _fetch(command: list[str], what: str, folder: Path | None = None) -> None:
    try:
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=FETCH_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{what} could not be made ready within {FETCH_SECONDS} s")
    if result.returncode:
        pytest.skip(f"{what} could not be made ready: {(result.stderr or result.stdout).strip()[-300:]}")
