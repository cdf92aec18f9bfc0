"""Programs of others in processes of their own: started, read line by line, and ended by their own number."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

from rocketmq_py.testing.eventually import eventually

#: Seconds that a program may take to end when asked, before it is killed.
STOP_SECONDS = 20


class Program:
    """One running program; what it prints goes to a file and is read from there.

    It belongs to no event loop, so a fixture of a whole module can hold it.

    Args:
        command: the program and its arguments.
        home: its working directory, made if need be; takes the file with its output too.
        environment: changes to our environment variables.
    """

    def __init__(self, command: Sequence[str], home: Path, environment: Mapping[str, str] | None = None) -> None:
        home.mkdir(parents=True, exist_ok=True)
        number = sum(1 for _ in home.glob("output-*.txt"))
        self.path = home / f"output-{number}.txt"
        with self.path.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                cwd=home,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self._lines: list[str] = []
        self._read = 0

    @property
    def lines(self) -> list[str]:
        """The whole lines that it has printed so far."""
        with self.path.open("rb") as output:
            output.seek(self._read)
            data = output.read()
        end = data.rfind(b"\n") + 1
        self._read += end
        texts = data[:end].decode("utf-8", "replace").splitlines()
        # The logging library of the Java tools reports at length how it configures itself.
        self._lines += [text for text in texts if " |-" not in text]
        return list(self._lines)

    @property
    def output(self) -> str:
        """Everything that it has printed so far, as one text."""
        return "\n".join(self.lines)

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def write(self, line: str) -> None:
        """Give it a line on its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()

    async def wait(self, seconds: float) -> int:
        """Wait until it ends, and return its exit status.

        Raises:
            AssertionError: it still runs; `stop` ends it.
        """
        await eventually(lambda: not self.is_running, seconds)
        return self._process.returncode

    async def until(self, condition: Callable[[], object], seconds: float) -> None:
        """Wait for something that this program must do.

        Raises:
            AssertionError: it did not, or ended before; shows what it printed last.
        """
        try:
            await eventually(lambda: condition() or not self.is_running, seconds, step=0.1)
            assert condition(), f"the program ended with status {self._process.returncode}"
        except AssertionError as error:
            raise AssertionError(f"{error}; it printed:\n{self.output[-3_000:]}") from None

    async def close_input(self) -> None:
        """End its standard input: our small programs stop then."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    async def stop(self, *, kill: bool = False) -> None:
        """End it by SIGTERM, and by SIGKILL if that does not help in time or `kill` is set."""
        if self.is_running and not kill:
            self._process.terminate()
            with contextlib.suppress(AssertionError):
                await self.wait(STOP_SECONDS)
        if self.is_running:
            self._process.kill()
        await asyncio.to_thread(self._process.wait)
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()


@contextlib.asynccontextmanager
async def running(program: Program, *, kill: bool = True) -> AsyncIterator[Program]:
    """End a program with a `with` block; by SIGKILL unless told otherwise, as nobody needs what it would still do."""
    try:
        yield program
    finally:
        await program.stop(kill=kill)
