"""The C++, Node and Go clients for the interop labs: fetched once into `~/.cache/rocketmq-py/`, run as processes.

Where a tool or the network is missing, the labs are skipped and say what was missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from .java_tools import JavaProgram, cache_directory

HERE = Path(__file__).parent
CPP_CLIENT = "rocketmq==0.4.4"

#: Seconds that fetching or building a client may take (once per machine).
FETCH_SECONDS = 300


class Client:
    """A program with the commands `produce` and `consume`; see `cpp/client.py`, `node/client.js`, `go/client.go`."""

    def __init__(self, name: str, command: Sequence[str], environment: dict[str, str] | None = None) -> None:
        self.name = name
        self._command = list(command)
        self._environment = environment or {}

    @contextlib.asynccontextmanager
    async def run(self, *arguments: str, home: Path) -> AsyncIterator[JavaProgram]:
        """Run it for the time of a `with` block; `home` is made and takes its logs."""
        await asyncio.to_thread(home.mkdir, parents=True, exist_ok=True)
        process = await asyncio.create_subprocess_exec(
            *self._command,
            *arguments,
            cwd=home,
            env={**os.environ, **self._environment, "HOME": str(home)},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=1 << 20,
        )
        program = JavaProgram(process, self.name)
        try:
            yield program
        finally:
            await program.stop()


def received(program: JavaProgram) -> list[tuple[int, int, str]]:
    """Return queue, offset and body of everything that a consumer has printed so far."""
    lines = [line.split(" ", 2) for line in list(program.lines)]
    return [
        (int(parts[0]), int(parts[1]), parts[2])
        for parts in lines
        if len(parts) == 3 and parts[0].isdigit() and parts[1].isdigit()
    ]


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
    return Client("C++ client", [str(python), str(HERE / "cpp" / "client.py")])


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
    # Node looks for modules beside the program, so it runs a copy there; several clones may share the folder.
    source = HERE / "node" / "client.js"
    copy = folder / f"client-{hashlib.sha256(source.read_bytes()).hexdigest()[:12]}.js"
    shutil.copy(source, copy)
    return Client("Node client", ["node", str(copy)])


def go_client() -> Client:
    """Return the Go client, built."""
    return Client("Go client", [_go_program("client", "client.go", ".")])


def go_transactions() -> Client:
    """Return the Go client's transactional producer, built; see `go/transact/main.go`."""
    return Client("Go transactional producer", [_go_program("transact", "transact/main.go", "./transact")])


@functools.cache
def _go_program(name: str, source: str, package: str) -> str:
    """Return the path of a built Go program, named by what it was built from: several clones may share the cache."""
    if shutil.which("go") is None:
        pytest.skip("go is not installed: no Go client to test with")
    digest = hashlib.sha256(b"".join((HERE / "go" / part).read_bytes() for part in (source, "go.mod", "go.sum")))
    binary = cache_directory() / "go-client" / f"{name}-{digest.hexdigest()[:12]}"
    if not binary.exists():
        binary.parent.mkdir(parents=True, exist_ok=True)
        _fetch(["go", "build", "-o", str(binary), package], "rocketmq-client-go/v2", HERE / "go")
    return str(binary)


def _fetch(command: list[str], what: str, folder: Path | None = None) -> None:
    try:
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=FETCH_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{what} could not be made ready within {FETCH_SECONDS} s")
    if result.returncode:
        pytest.skip(f"{what} could not be made ready: {(result.stderr or result.stdout).strip()[-300:]}")
