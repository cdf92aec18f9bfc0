"""The services that only one broker of a group may run: whoever is the master, or acts for it.

They put messages by themselves: what was delayed, what a timer kept, what a producer did not decide. Two brokers that
ran them would put everything twice.

Source: `BrokerController#changeSpecialServiceStatus`, RocketMQ 5.3.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

logger = logging.getLogger(__name__)

Switch = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class SpecialService:
    """One of them.

    Attributes:
        name: for logs and listings.
        resume: begins it, from what this broker knows of how far the last one got.
        pause: ends it, after what is under way.
    """

    name: str
    resume: Switch
    pause: Switch


class SpecialServices:
    """Switches all of them, in the order in which they were added.

    Args:
        is_running: whether they begin with the broker; else all rest until `resume`.

    Attributes:
        is_running: whether they run, or are to run as soon as the switch that is under way is done.
    """

    def __init__(self, *, is_running: bool) -> None:
        self.is_running = is_running
        self._services: list[SpecialService] = []

    def add(self, name: str, *, resume: Switch, pause: Switch) -> None:
        """Add a service, which runs or rests now as `is_running` says."""
        self._services.append(SpecialService(name, resume, pause))

    @property
    def names(self) -> list[str]:
        """What was added."""
        return [service.name for service in self._services]

    async def switch(self, is_running: bool) -> None:
        """Let them run, or rest."""
        await (self.resume() if is_running else self.pause())

    async def resume(self) -> None:
        """Let them run from here on."""
        if self.is_running:
            return
        self.is_running = True
        logger.info("this broker now runs %s", ", ".join(self.names))
        for service in self._services:
            await self._guarded(service.name, service.resume)

    async def pause(self) -> None:
        """Let them rest; returns when nothing of them is under way."""
        if not self.is_running:
            return
        self.is_running = False
        logger.info("this broker no longer runs %s", ", ".join(self.names))
        for service in reversed(self._services):
            await self._guarded(service.name, service.pause)

    @staticmethod
    async def _guarded(name: str, switch: Switch) -> None:
        try:
            await switch()
        except Exception:
            # Broad on purpose: the one that fails must not keep the others from their turn.
            logger.exception("%s could not be switched", name)

    def __repr__(self) -> str:
        return f"<SpecialServices {'running' if self.is_running else 'resting'}: {', '.join(self.names)}>"
