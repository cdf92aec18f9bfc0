"""The environment of a simulated process: a clock that follows the virtual loop, seeded randomness, calls without threads."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Final, TypeVar, TypeVarTuple

from rocketmq_py.common.environment import Environment
from rocketmq_py.common.file_system import FileSystem, OsFileSystem

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

#: 2026-01-15 08:00:00 UTC: where simulated wall clocks begin.
EPOCH_MS: Final = 1_768_464_000_000


class SimulatedClock:
    """A wall clock that moves with the running loop.

    Attributes:
        offset_ms: what it shows at loop time zero; change it to let the clock jump.
    """

    def __init__(self, offset_ms: int = EPOCH_MS) -> None:
        self.offset_ms = offset_ms

    def wall_ms(self) -> int:
        """Return milliseconds since 1970."""
        # Rounded: 0.1 + 0.2 seconds must not show as 299 ms.
        return self.offset_ms + round(asyncio.get_running_loop().time() * 1000)


async def run_inline(function: Callable[[*Ts], T], *args: *Ts) -> T:
    """Run a blocking call in the next step of the loop: no threads, so that a run can be repeated exactly."""
    await asyncio.sleep(0)
    return function(*args)


def simulated_environment(seed: int = 0, files: FileSystem | None = None) -> Environment:
    """Return an environment whose every part depends only on the seed; files are real unless others are given."""
    return Environment(SimulatedClock(), random.Random(seed), files or OsFileSystem(), run_inline)
