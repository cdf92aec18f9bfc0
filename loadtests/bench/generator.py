"""The load generator: `lg.c`, compiled when a C compiler is there, or the slower one in `python_generator.py`.

Both take the same arguments and print the same figures. What the generator itself can do at most is measured in every
run of the bench, against its own echo; a row in which it was busy all the time says so.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loadtests.bench.processes import start_pinned

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
        requests_each: each connection ends after so many requests; 0 is no limit.
    """

    port: int
    frames: Path
    connections: int
    window: int = 1
    rate: float = 0.0
    warmup: float = 0.2
    seconds: float = 1.0
    server_pid: int = 0
    offset_limit: int = 0
    first_unique: int = 0
    requests_each: int = 0


class Generator:
    """Runs loads on one core.

    Args:
        core: the core to run on; None leaves it to the system.
        binary: the compiled generator; None is the one in Python.
    """

    def __init__(self, core: int | None, binary: Path | None) -> None:
        self._core = core
        self.binary = binary

    @property
    def name(self) -> str:
        """Which generator this is, for the report."""
        return "lg.c" if self.binary else "python_generator.py"

    def run(self, load: Load) -> dict[str, Any]:
        """Run one load and return its figures.

        Raises:
            RuntimeError: the generator ended with an error; the text is what it said.
        """
        arguments = [str(value) for value in asdict(load).values()]
        command = (
            [str(self.binary), "load"] if self.binary else [sys.executable, "-m", "loadtests.bench.python_generator"]
        )
        process = start_pinned([*command, *arguments], self._core, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, complaint = process.communicate(timeout=load.seconds + load.warmup + 600)
        if process.returncode:
            raise RuntimeError(f"the load generator ended with {process.returncode}: {complaint.decode().strip()}")
        result: dict[str, Any] = json.loads(out)
        return result


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
