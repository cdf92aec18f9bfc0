"""Java for the interop labs: the jars of Apache RocketMQ, and Java programs in processes of their own.

The jars are fetched once with Maven into `~/.cache/rocketmq-py/`. Where Java, Maven or the network is missing, the labs
are skipped and say why. Every process has a time limit and is ended by its own number.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rocketmq_py.testing.free_port import free_port as any_free_port

HERE = Path(__file__).parent
SOURCES = HERE / "java"
#: The servers and mqadmin are of this version, and so are clients unless a lab asks for the older one.
VERSION = "5.3.3"
OLDER = "4.9.7"
#: Programs with calls that the older client does not have.
NEEDS_5 = ("ProduceLater.java",)

#: Seconds that fetching the jars may take (once per machine), and that a Java program may take to end when asked.
FETCH_SECONDS = 300
STOP_SECONDS = 15

#: What a 5.x broker needs to run on Java 17.
BROKER_FLAGS = (
    "--add-exports=java.base/jdk.internal.ref=ALL-UNNAMED",
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-exports=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-opens=java.base/java.nio=ALL-UNNAMED",
    "--add-opens=java.base/jdk.internal.misc=ALL-UNNAMED",
    "-Xms384m",
    "-Xmx384m",
    "-XX:MaxDirectMemorySize=384m",
)
SMALL_FLAGS = ("-Xms64m", "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


def cache_directory() -> Path:
    """Where fetched jars are kept between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rocketmq-py"


@functools.cache
def jars(version: str = VERSION) -> Path:
    """Return the folder with the jars of Apache RocketMQ, fetching them if need be; skip the lab if that fails."""
    for program in ("java", "javac"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: no Java client, mqadmin or Apache broker to test with")
    folder = cache_directory() / f"rocketmq-{version}"
    if (folder / "complete").exists():
        return folder
    if shutil.which("mvn") is None:
        pytest.skip(f"mvn is not installed and {folder} does not hold the jars of Apache RocketMQ {version}")
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mvn", "-B", "-q", "-f", str(SOURCES / "pom.xml"), "dependency:copy-dependencies"]
    try:
        result = subprocess.run(
            [*command, f"-DoutputDirectory={folder}", f"-Drocketmq.version={version}"],
            capture_output=True,
            text=True,
            timeout=FETCH_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"the jars of Apache RocketMQ {version} could not be fetched within {FETCH_SECONDS} s")
    if result.returncode:
        pytest.skip(f"mvn could not fetch the jars of Apache RocketMQ {version}: {result.stdout[-300:]}")
    (folder / "complete").touch()
    return folder


def compile_sources(target: Path, version: str = VERSION) -> Path:
    """Compile the small programs beside this module with the client of a version into `target`, and return it."""
    target.mkdir(parents=True, exist_ok=True)
    sources = [str(path) for path in sorted(SOURCES.glob("*.java")) if version == VERSION or path.name not in NEEDS_5]
    subprocess.run(["javac", "-cp", f"{jars(version)}/*", "-d", str(target), *sources], check=True, timeout=120)
    return target


def java_client(version: str, folder: Path) -> dict[str, Any]:
    """Return the keywords of `java` for our programs with the client of a version, compiled below `folder`."""
    jars(version)
    return {"classes": compile_sources(folder / f"classes-{version}", version), "version": version}


def free_port() -> int:
    """Return a port that is free with its neighbours, as a broker of Apache's takes N-2, N and N+1 too."""
    return any_free_port((-2, 1))


class JavaProgram:
    """One running Java program; its output is collected line by line."""

    def __init__(self, process: asyncio.subprocess.Process, name: str) -> None:
        self.name = name
        self.lines: list[str] = []
        self._process = process
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            text = line.decode("utf-8", "replace").rstrip("\n")
            # The logging library of the tools reports at length how it configures itself.
            if " |-" not in text:
                self.lines.append(text)

    @property
    def output(self) -> str:
        """Everything that it has printed so far."""
        return "\n".join(self.lines)

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.returncode is None

    async def wait(self, seconds: float) -> int:
        """Wait until it ends, and return its exit status.

        Raises:
            TimeoutError: it still runs; `stop` ends it.
        """
        async with asyncio.timeout(seconds):
            status = await self._process.wait()
            await self._reader
        return status

    async def close_input(self) -> None:
        """End its standard input: our small programs stop then."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    async def kill(self) -> None:
        """End it by SIGKILL, as a crash does."""
        self._process.kill()
        await self._process.wait()

    async def stop(self) -> None:
        """End it: by SIGTERM, and by SIGKILL if that does not help in time."""
        if self.is_running:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            try:
                await self.wait(STOP_SECONDS)
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
                await self._process.wait()
        await self._reader
        # The transport closes itself with the last pipe; asking for it keeps that off the garbage collector.
        self._process._transport.close()  # type: ignore[attr-defined]


@contextlib.asynccontextmanager
async def java(
    main: str,
    *arguments: str,
    home: Path,
    classes: Path | None = None,
    flags: tuple[str, ...] = SMALL_FLAGS,
    version: str = VERSION,
) -> AsyncIterator[JavaProgram]:
    """Run a Java main class for the time of a `with` block.

    Args:
        main: the class.
        arguments: its arguments.
        home: a folder for logs and stores; RocketMQ's home too.
        classes: where our compiled programs are.
        flags: of the virtual machine.
        version: of the jars.
    """
    (home / "conf").mkdir(parents=True, exist_ok=True)
    class_path = os.pathsep.join(filter(None, [str(classes) if classes else "", f"{jars(version)}/*"]))
    process = await asyncio.create_subprocess_exec(
        "java", *flags, f"-Duser.home={home}", f"-Drocketmq.home.dir={home}", "-cp", class_path, main, *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        limit=1 << 20,
    )  # fmt: skip
    program = JavaProgram(process, main)
    try:
        yield program
    finally:
        await program.stop()


async def mqadmin(home: Path, command: str, *arguments: str, seconds: float = 60) -> str:
    """Run one mqadmin command, and return what it printed."""
    async with java("org.apache.rocketmq.tools.command.MQAdminStartup", command, *arguments, home=home) as program:
        await program.wait(seconds)
    return program.output
