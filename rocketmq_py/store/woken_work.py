"""Work that is done step by step in a task of its own, and rests in between until there is more of it.

    step -> it says when the next one is due -> rest until then, or until somebody wakes it -> step ...

Whoever wakes it during a step is not forgotten: the rest after that step is over at once. So is the rest of work that is
to stop.

Source: the effect is that of `ServiceThread#waitForRunning` and `#wakeup`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

logger = logging.getLogger(__name__)


class WokenWork:
    """One such task.

    Args:
        name: for the log.
        step: does a piece of the work and returns the seconds until the next one: 0 for at once, when other tasks had
            their turn; None for "when I am woken".
        retry_seconds: the rest after a step that raised.

    Attributes:
        is_stopping: no further step is begun; a long step may look at it.
    """

    def __init__(self, name: str, step: Callable[[], Awaitable[float | None]], retry_seconds: float) -> None:
        self.is_stopping = False
        self._name = name
        self._step = step
        self._retry_seconds = retry_seconds
        self._woken = asyncio.Event()
        self._failures = 0

    def wake(self) -> None:
        """Let the next step begin now."""
        self._woken.set()

    def stop(self) -> None:
        """Let `run` end after the step that is under way."""
        self.is_stopping = True
        self._woken.set()

    async def run(self) -> None:
        """Work until `stop`."""
        while not self.is_stopping:
            self._woken.clear()
            seconds = await self._guarded_step()
            if seconds == 0:
                await asyncio.sleep(0)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._woken.wait()

    async def _guarded_step(self) -> float | None:
        try:
            seconds = await self._step()
        except Exception as error:
            # Broad on purpose: whatever one piece of the work does, the rest of it must go on.
            self._failures += 1
            if self._failures & (self._failures - 1) == 0:
                # The first, second, fourth, eighth ... in a row: a broken disk must not fill another one with logs.
                logger.exception("%s failed (%s), %d times in a row now", self._name, error, self._failures)
            return self._retry_seconds
        self._failures = 0
        return seconds

    def __repr__(self) -> str:
        state = (
            "stopping" if self.is_stopping else f"failing for {self._failures} steps" if self._failures else "at work"
        )
        return f"<WokenWork {self._name} {state}>"
