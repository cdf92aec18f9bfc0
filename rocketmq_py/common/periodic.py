"""Periodic work: everything that a process does again and again, under one supervisor.

An exception in a piece of work is logged with its name and counted, and the work goes on with the next period.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

logger = logging.getLogger(__name__)

Work = Callable[[], Awaitable[None] | None]


@dataclass(slots=True)
class PeriodicWork:
    """One piece of work and what became of it.

    Attributes:
        name: for logs and listings.
        seconds: from the end of one run to the start of the next.
        delay: seconds before the first run.
        jitter: part of `seconds` (0.0 to 1.0) by which each pause is shortened or lengthened at random.
        runs: how often it was started.
        failures: how often it raised.
    """

    name: str
    seconds: float
    work: Work
    delay: float
    jitter: float
    runs: int = 0
    failures: int = 0


class Periodic:
    """Starts the periodic work of a process, and stops it.

    Args:
        rng: where jitter comes from.
    """

    def __init__(self, rng: random.Random) -> None:
        self._random = rng
        self._works: list[PeriodicWork] = []
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._is_running = False

    @property
    def works(self) -> list[PeriodicWork]:
        """What was registered, in order."""
        return list(self._works)

    def every(
        self, seconds: float, work: Work, name: str, *, delay: float | None = None, jitter: float = 0.0
    ) -> PeriodicWork:
        """Register work to be done every `seconds`, first after `delay` (default: one period).

        `work` is called on the loop and must not block; if it returns an awaitable, that is awaited.
        """
        periodic = PeriodicWork(name, seconds, work, seconds if delay is None else delay, jitter)
        self._works.append(periodic)
        if self._is_running:
            self._start(periodic)
        return periodic

    def cancel(self, periodic: PeriodicWork) -> None:
        """Take work back; a run under way is cancelled."""
        self._works.remove(periodic)
        task = self._tasks.pop(periodic.name, None)
        if task is not None:
            task.cancel()

    async def start(self) -> None:
        """Begin all registered work, and from now on whatever is registered."""
        self._is_running = True
        for periodic in self._works:
            self._start(periodic)

    async def stop(self) -> None:
        """End all work, cancelling what is under way, and wait until it has ended."""
        self._is_running = False
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, periodic: PeriodicWork) -> None:
        if periodic.name in self._tasks:
            raise ValueError(f"periodic work {periodic.name!r} is registered twice")
        self._tasks[periodic.name] = asyncio.get_running_loop().create_task(
            self._run(periodic), name=f"periodic {periodic.name}"
        )

    async def _run(self, periodic: PeriodicWork) -> None:
        await asyncio.sleep(periodic.delay)
        while True:
            periodic.runs += 1
            try:
                result = periodic.work()
                if inspect.isawaitable(result):
                    await result
            except Exception:
                # Broad on purpose: whatever one run raises must not end the work for good.
                periodic.failures += 1
                logger.exception("periodic work %r failed (%d times so far)", periodic.name, periodic.failures)
            spread = periodic.jitter * (2 * self._random.random() - 1) if periodic.jitter else 0.0
            await asyncio.sleep(periodic.seconds * (1 + spread))
