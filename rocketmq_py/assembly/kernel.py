"""The kernel: the parts of a running broker, found by their type, and the order in which they start and stop.

A stage installs its parts with `provide` and finds those of earlier stages with `get`. A part may have any of four
coroutine methods, called in these orders:

    start         in the order of installation: open files, load tables, begin background work
    serve         then, in the same order: let the world in (bind the port, register at the name servers)
    stop_serving  in reverse order: take no new work
    stop          then, in reverse order: finish what is under way, write what is dirty, close
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.errors import RocketMQError
from rocketmq_py.common.periodic import Periodic
from rocketmq_py.common.table import Tables
from rocketmq_py.store.config import MessageStoreConfig

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Longest time in seconds that one part may take to stop; SIGTERM must end the process within 5 s.
STOP_SECONDS = 4.0


class MissingPartError(RocketMQError, LookupError):
    """A stage asked for a part that no installed stage provides."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part and the stage that provided it."""

    stage: str
    kind: type
    part: Any


class Kernel:
    """Holds the parts of one broker process.

    Attributes:
        config: the broker's settings.
        store_config: the store's settings.
        environment: clock, randomness, files and blocking calls.
        periodic: the periodic work; started after all parts, stopped before them.
        tables: the persisted tables; written when the kernel stops.
    """

    def __init__(self, config: BrokerConfig, store_config: MessageStoreConfig, environment: Environment) -> None:
        self.config = config
        self.store_config = store_config
        self.environment = environment
        self.periodic = Periodic(environment.random)
        self.tables = Tables()
        # Run at the very end of `stop`, when all files are closed: what another process may wait for.
        self.on_stopped: list[Callable[[], None]] = []
        self.stage = "kernel"
        self._parts: dict[type, Part] = {}
        self._started: list[Part] = []

    @property
    def parts(self) -> list[Part]:
        """All parts in the order of installation."""
        return list(self._parts.values())

    def provide(self, part: T, kind: type | None = None) -> T:
        """Add a part under its own type, or under `kind` (such as a protocol that several classes satisfy)."""
        key = kind or type(part)
        if key in self._parts:
            raise ValueError(f"{key.__name__} is provided by stage {self._parts[key].stage} and again by {self.stage}")
        self._parts[key] = Part(self.stage, key, part)
        return part

    def get(self, kind: type[T]) -> T:
        """Return the part of a type.

        Raises:
            MissingPartError: no stage provided it.
        """
        if kind not in self._parts:
            raise MissingPartError(
                f"stage {self.stage} needs {kind.__name__}, which no installed stage provides; "
                f"installed are {', '.join(dict.fromkeys(part.stage for part in self._parts.values())) or 'none'}"
            )
        return cast(T, self._parts[kind].part)

    def has(self, kind: type) -> bool:
        """Tell whether a part of the type was provided."""
        return kind in self._parts

    async def start(self) -> None:
        """Start all parts, then let the world in.

        Raises:
            Exception: whatever a part raised; the parts that had started were stopped again.
        """
        try:
            for part in self.parts:
                # Entered before it is awaited: a part that fails half-way is stopped too.
                self._started.append(part)
                await _call(part.part, "start")
            await self.periodic.start()
            for part in self.parts:
                await _call(part.part, "serve")
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop all parts that were started. A second call does nothing."""
        started, self._started = self._started[::-1], []
        for part in started:
            await self._stop(part, "stop_serving")
        await self.periodic.stop()
        for part in started:
            await self._stop(part, "stop")
        if started:
            await self.environment.run_blocking(self.tables.persist_all)
            for finish in self.on_stopped:
                await self.environment.run_blocking(finish)

    async def _stop(self, part: Part, method: str) -> None:
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await _call(part.part, method)
        except Exception:
            # Broad on purpose: one part that cannot stop must not keep the others from closing their files.
            logger.exception("%s.%s failed", part.kind.__name__, method)


async def _call(part: Any, method: str) -> None:
    function = getattr(part, method, None)
    if function is not None:
        await function()
