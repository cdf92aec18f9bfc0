"""Java for the interop labs: the jars of Apache RocketMQ, and Java programs in processes of their own.

The jars are fetched once with Maven into `~/.cache/rocketmq-py/`. Where Java, Maven or the network is missing, the labs
are skipped and say why.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from .programs import Program, running

SOURCES = Path(__file__).parent / "java"

#: The newest releases of 5.x and 4.x of which name server, broker, client and tools are all published.
VERSION = "5.3.3"
OLD_VERSION = "4.9.7"

#: Seconds that fetching the jars may take (once per machine).
FETCH_SECONDS = 300

#: A JVM that starts soon and takes little: the C1 compiler only, one thread for garbage.
SMALL_FLAGS = ("-Xms64m", "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")

#: What a broker needs to run on Java 17.
BROKER_FLAGS = (
    "--add-exports=java.base/jdk.internal.ref=ALL-UNNAMED",
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-exports=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-opens=java.base/java.nio=ALL-UNNAMED",
    "--add-opens=java.base/jdk.internal.misc=ALL-UNNAMED",
    "-Xms384m",
    "-Xmx384m",
    "-XX:MaxDirectMemorySize=384m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
)

#: The logging of 4.x: without these files its servers and tools do not start.
LOGGING = ("logback_namesrv.xml", "logback_broker.xml", "logback_tools.xml")


def cache_directory() -> Path:
    """Where fetched jars and clients are kept between runs."""
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
            [*command, f"-Drocketmq.version={version}", f"-DoutputDirectory={folder}"],
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


@functools.cache
def classes(version: str = VERSION) -> Path:
    """Compile the small programs beside this module against the jars of a version, and return where they are."""
    folder = cache_directory() / f"programs-{version}"
    sources = sorted(SOURCES.glob("*.java"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    mark = folder / "compiled"
    if not mark.exists() or mark.read_text() != digest:
        folder.mkdir(parents=True, exist_ok=True)
        command = ["javac", "-nowarn", "-cp", f"{jars(version)}/*", "-d", str(folder), *map(str, sources)]
        subprocess.run(command, check=True, timeout=120)
        mark.write_text(digest)
    return folder


def free_port() -> int:
    """Return a port that is free with its neighbours, as a broker of Apache's takes N-2, N and N+1 too."""
    for _ in range(100):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if all(_is_free(port + distance) for distance in (-2, 1)):
            return port
    raise AssertionError("no free port with free neighbours was found")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def java_command(main: str, home: Path, flags: tuple[str, ...] = SMALL_FLAGS, version: str = VERSION) -> list[str]:
    """Return the command that runs a main class, of Apache's or of ours, with `home` for its logs and stores."""
    (home / "conf").mkdir(parents=True, exist_ok=True)
    for name in LOGGING:
        (home / "conf" / name).write_text('<configuration><root level="OFF"/></configuration>')
    class_path = os.pathsep.join([str(classes(version)), f"{jars(version)}/*"])
    return ["java", *flags, f"-Duser.home={home}", f"-Drocketmq.home.dir={home}", "-cp", class_path, main]


@contextlib.asynccontextmanager
async def java(
    main: str, *arguments: str, home: Path, flags: tuple[str, ...] = SMALL_FLAGS, version: str = VERSION
) -> AsyncIterator[Program]:
    """Run a Java main class for the time of a `with` block.

    Args:
        main: the class.
        arguments: its arguments.
        home: a folder for logs and stores; RocketMQ's home too.
        flags: of the virtual machine.
        version: of Apache RocketMQ.
    """
    async with running(Program([*java_command(main, home, flags, version), *arguments], home)) as program:
        yield program
