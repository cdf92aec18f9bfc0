"""Runs `rmq-py` as a person or a script would: as a process, with its output in pipes."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

#: Seconds for things that take milliseconds.
PATIENCE = 30.0
COMMAND = [sys.executable, "-m", "rocketmq_py.cli.main"]


def rmq(*words: str, status: int = 0, stdin: str | None = None, **environment: str) -> str:
    """Run a command to its end and return what it printed; fail if its exit status is another one."""
    result = run(*words, stdin=stdin, **environment)
    assert result.returncode == status, f"rmq-py {' '.join(words)}:\n{result.stdout}\n{result.stderr}"
    return result.stdout


def run(*words: str, stdin: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*COMMAND, *words],
        input=stdin,
        env={**os.environ, "COLUMNS": "100", **environment},
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
    )


def rmq_json(*words: str, **environment: str) -> Any:
    """Run a command with `--json` and return what it printed."""
    return json.loads(rmq(*words, "--json", **environment))


class Server:
    """A server command that runs until it is stopped.

    Attributes:
        ready: the line with which it announced that it serves.
    """

    def __init__(self, *words: str, log: Path) -> None:
        self.log = log
        with log.open("wb") as errors:
            self.process = subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, stderr=errors)
        self.ready = self._read_line()
        if "boot success" not in self.ready:
            self.kill()
            raise AssertionError(f"rmq-py {' '.join(words)} said {self.ready!r}: {log.read_text()}")

    def _read_line(self) -> str:
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
        return self.process.stdout.readline().decode() if readable else ""

    def stop(self) -> tuple[int, float]:
        """Send SIGTERM, and return the exit status and how many seconds the end took."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(PATIENCE)
        self._close()
        return status, time.monotonic() - began

    def kill(self) -> None:
        """End the process at once."""
        self.process.kill()
        self.process.wait(PATIENCE)
        self._close()

    def _close(self) -> None:
        assert self.process.stdout is not None
        self.process.stdout.close()
