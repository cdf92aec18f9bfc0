"""mqadmin of Apache RocketMQ: many commands in one virtual machine, as each start of one costs seconds."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path

from rocketmq_py.testing.eventually import eventually

from .java_tools import VERSION, java
from .programs import Program

DONE = "== done"


class MqAdmin:
    """Runs commands one after the other."""

    def __init__(self, program: Program, namesrv: str) -> None:
        self._program = program
        self._namesrv = namesrv
        self._done = 0

    async def __call__(self, *words: str, seconds: float = 60) -> str:
        """Run one command, and return what it printed; `-n` is added to it."""
        start = len(self._program.lines)
        self._program.write("\t".join([*words, "-n", self._namesrv]))
        self._done += 1
        await eventually(lambda: self._program.lines.count(DONE) == self._done or not self._program.is_running, seconds)
        output = "\n".join(line for line in self._program.lines[start:] if line != DONE)
        assert self._program.is_running, f"mqadmin ended at {words}:\n{output}"
        return output

    async def shows(self, *words: str, patterns: tuple[str, ...] = ()) -> str:
        """Run one command, and look for every pattern in what it printed.

        Raises:
            AssertionError: it failed, or a pattern is missing.
        """
        output = await self(*words)
        print(f"$ mqadmin {' '.join(words)}\n{output}")
        assert "Exception" not in output, f"mqadmin {words}:\n{output}"
        for pattern in patterns:
            assert re.search(pattern, output, re.MULTILINE), f"{pattern!r} is not what mqadmin {words} says:\n{output}"
        return output


@contextlib.asynccontextmanager
async def mqadmin(namesrv: str, home: Path, version: str = VERSION) -> AsyncIterator[MqAdmin]:
    """Have mqadmin at hand for the time of a `with` block."""
    async with java("Admin", home=home, version=version) as program:
        yield MqAdmin(program, namesrv)
