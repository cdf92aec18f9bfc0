"""One process of a local cluster: started so that it outlives the command, found again later, and never mistaken.

What is remembered of a process is its number *and* the moment it started. Numbers are used again: only a process that has
both is the one that was started, and only that one gets a signal.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from rocketmq_py.cli.output import CliError

#: Seconds between two looks at a process that is to end or to serve.
STEP: Final = 0.02
#: So many of the last lines of a log are shown when a process did not start.
LAST_LINES: Final = 12


class State(enum.Enum):
    """What a process does."""

    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"


class _PidFile(msgspec.Struct, frozen=True):
    pid: int
    #: Of the process, as the system tells it; means something only together with `pid`.
    started: str


@dataclass(slots=True)
class MemberProcess:
    """A process by its name.

    Attributes:
        name: of the member.
        pid_path: what is remembered of it.
        log_path: what it prints; appended to.
    """

    name: str
    pid_path: Path
    log_path: Path

    # --- what there is -------------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int | None:
        """Its number if it runs or is paused; None if not, or if the number belongs to another process now."""
        remembered = self._read()
        if remembered is None or start_of(remembered.pid) != remembered.started:
            return None
        return remembered.pid

    @property
    def state(self) -> State:
        """What it does now."""
        pid = self.pid
        if pid is None:
            return State.STOPPED
        return State.PAUSED if _is_paused(pid) else State.RUNNING

    def _read(self) -> _PidFile | None:
        try:
            return msgspec.json.decode(self.pid_path.read_bytes(), type=_PidFile)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            raise CliError(
                f"{self.pid_path} cannot be read ({error}): it is not known whether {self.name} runs",
                next_step="Look with `ps`; end the process if it is there, then delete the file",
            ) from None

    # --- start -----------------------------------------------------------------------------------------------------------

    async def start(self, command: Sequence[str], seconds: float) -> None:
        """Start it, in a session of its own, and wait until it serves.

        Raises:
            CliError: it ended, or did not serve in time; then it was killed.
        """
        process, place = self._spawn(command)
        try:
            self._remember(process.pid)
            await self._wait_until_it_serves(process, place, seconds)
        except BaseException:
            process.kill()
            process.wait()
            self.forget()
            raise
        # From here on it is found by what is remembered; the object would complain that it is left alone.
        process.returncode = 0

    def _spawn(self, command: Sequence[str]) -> tuple[subprocess.Popen[bytes], int]:
        """Return the new process, and where in the log its first line will be."""
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            place = log.tell()
            # A session of its own: Ctrl-C in the terminal is for the command, not for the cluster.
            process = subprocess.Popen(
                [sys.executable, "-m", "rocketmq_py.cli.main", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return process, place

    def _remember(self, pid: int) -> None:
        self.pid_path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.pid_path.with_suffix(".tmp")
        temporary.write_bytes(msgspec.json.encode(_PidFile(pid, start_of(pid) or "")))
        temporary.replace(self.pid_path)

    async def _wait_until_it_serves(self, process: subprocess.Popen[bytes], place: int, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while b"boot success" not in (printed := self._printed_since(place)):
            if process.poll() is not None:
                raise CliError(
                    f"{self.name} ended with status {process.returncode} before it served. It said:\n"
                    + _last_lines(printed),
                    next_step=f"All it said is in {self.log_path}",
                )
            if loop.time() > deadline:
                raise CliError(
                    f"{self.name} did not serve within {seconds:g} s. It said:\n{_last_lines(printed)}",
                    next_step=f"All it said is in {self.log_path}",
                )
            await asyncio.sleep(STEP)

    def _printed_since(self, place: int) -> bytes:
        with self.log_path.open("rb") as log:
            log.seek(place)
            return log.read()

    # --- signals and the end ---------------------------------------------------------------------------------------------

    def send(self, number: signal.Signals) -> bool:
        """Send a signal if the process that was started is still there; tell whether it is."""
        pid = self.pid
        if pid is None:
            return False
        # It may end between the look and the signal; its number is not given to another process that fast.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        return True

    async def ended(self, seconds: float) -> bool:
        """Wait until it is gone; tell whether it went in time."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while (pid := self.pid) is not None:
            _reap(pid)
            if loop.time() > deadline:
                return False
            await asyncio.sleep(STEP)
        self.forget()
        return True

    def forget(self) -> None:
        """Remember nothing any more; only when it has ended."""
        self.pid_path.unlink(missing_ok=True)


def start_of(pid: int) -> str | None:
    """Return when a process started, as a text to compare; None if there is no such process, or it is a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except FileNotFoundError:
        return None if Path("/proc/self/stat").exists() else _start_by_ps(pid)
    except OSError:
        return None
    # The name in parentheses may hold anything; field 3 follows the last one. Field 22 counts ticks since the boot.
    fields = stat.rpartition(")")[2].split()
    # A zombie with threads is not over: one of them may wait for a disk, and until it is gone the ports are taken.
    is_over = fields[0] == "X" or (fields[0] == "Z" and int(fields[17]) <= 1)
    return None if is_over else f"{fields[19]} {_boot_id()}"


def _boot_id() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    return ""


def _start_by_ps(pid: int) -> str | None:
    """macOS and others."""
    found = subprocess.run(["ps", "-o", "lstart=,stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    words = found.stdout.split()
    return " ".join(words[:-1]) if words and not words[-1].startswith("Z") else None


def _is_paused(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        found = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
        return found.stdout.startswith("T")
    return stat.rpartition(")")[2].split()[0] in "Tt"


def _reap(pid: int) -> None:
    """Take note of the end of a process that this very process started; others are not ours to take note of."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _last_lines(printed: bytes) -> str:
    lines = printed.decode("utf-8", "replace").splitlines()[-LAST_LINES:]
    return "\n".join(f"    {line}" for line in lines) or "    (nothing)"
