"""An event loop with virtual time and a network in memory.

Production classes run on it unchanged: they ask the running loop for time, timers, servers and connections. When every
callback has run and only timers are left, the clock jumps to the next timer, so that two hours of waiting take
milliseconds, and a run depends on nothing but the code and the seed.
"""

from __future__ import annotations

import asyncio
from asyncio import base_events
from collections.abc import Callable
from typing import Any

from rocketmq_py.common.errors import RocketMQError
from rocketmq_py.sim.network import SimulatedNetwork


class DeadlockError(RocketMQError):
    """Every task waits, and no timer is set that could wake one."""


class _NoSelector:
    """Where a real loop waits for sockets, this one moves the clock."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            waiting = "\n".join(f"  {task!r}" for task in asyncio.all_tasks(self._loop))
            raise DeadlockError(f"at {self._loop.time():.3f} s nothing can happen any more; waiting are\n{waiting}")
        self._loop.advance(timeout)
        return []

    def close(self) -> None:
        pass


class VirtualLoop(base_events.BaseEventLoop):
    """The simulated loop.

    Args:
        seed: for the network's delays.

    Attributes:
        network: all servers and connections of this loop; cut and delay them there.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self._now = 0.0
        self._selector = _NoSelector(self)
        # One nanosecond: two timers a microsecond apart must not fire together.
        self._clock_resolution = 1e-9
        self.network = SimulatedNetwork(self, seed)

    def time(self) -> float:
        """Return seconds of virtual time since the loop was made."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move the clock; the loop does it when it has nothing else to do."""
        self._now += seconds

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        # A real loop wakes its selector here; this one never sleeps.
        pass

    async def create_server(
        self, protocol_factory: Callable[[], Any], host: Any = None, port: Any = None, **_: Any
    ) -> Any:
        """Listen on a port of the simulated network."""
        return self.network.listen(protocol_factory, host or "127.0.0.1", port or 0)

    async def create_connection(
        self, protocol_factory: Callable[[], Any], host: Any = None, port: Any = None, **_: Any
    ) -> Any:
        """Connect to a port of the simulated network."""
        return await self.network.connect(protocol_factory, host, port)
