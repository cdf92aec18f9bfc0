"""The outside world, passed in: wall clock, randomness, files and the thread pool for blocking calls.

Time that passes, networks and scheduling come from the running event loop and are therefore not here.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, TypeVarTuple

from rocketmq_py.common.file_system import FileSystem, OsFileSystem

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Clock(Protocol):
    """The wall clock: for stamps that are stored or sent, never for durations."""

    def wall_ms(self) -> int:
        """Return milliseconds since 1970, as RocketMQ stores them."""
        ...


class SystemClock:
    """The clock of the operating system."""

    def wall_ms(self) -> int:
        """Return milliseconds since 1970."""
        return time.time_ns() // 1_000_000


class RunBlocking(Protocol):
    """Runs a call that may block (fsync, file creation, a cold read) away from the event loop."""

    async def __call__(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Run `function(*args)` and return its result.

        Cancellation: the awaiting task stops waiting; a call that has begun runs to its end.
        """
        ...


async def run_in_thread(function: Callable[[*Ts], T], *args: *Ts) -> T:
    """Run a blocking call in the default executor of the running loop."""
    return await asyncio.get_running_loop().run_in_executor(None, function, *args)


@dataclass(frozen=True, slots=True)
class Environment:
    """Everything that a part needs of the world and that a test or the simulator replaces."""

    clock: Clock = field(default_factory=SystemClock)
    random: random.Random = field(default_factory=random.Random)
    files: FileSystem = field(default_factory=OsFileSystem)
    run_blocking: RunBlocking = run_in_thread


def system_environment() -> Environment:
    """Return the environment of a real process."""
    return Environment()
