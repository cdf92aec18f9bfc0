"""Running a server as a process: event loop, signals, readiness, exit."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from rocketmq_py.remoting.allocator import keep_large_blocks

#: Seconds after SIGTERM until the process ends, whatever is still under way.
STOP_SECONDS = 5.0


class Service(Protocol):
    """Anything that starts and stops."""

    async def start(self) -> None:
        """Return when it serves."""
        ...

    async def stop(self) -> None:
        """Return when everything is on disk and closed."""
        ...


def set_up_logging(verbose: bool = False) -> None:
    """Log to standard error: with colours on a terminal, as plain lines elsewhere."""
    level = logging.DEBUG if verbose else logging.INFO
    if sys.stderr.isatty():
        from rich.logging import RichHandler

        handler: logging.Handler = RichHandler(show_path=False, log_time_format="%H:%M:%S")
        logging.basicConfig(level=level, handlers=[handler], format="%(message)s")
    else:
        logging.basicConfig(level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def run_event_loop(main: Callable[[], Awaitable[Any]]) -> Any:
    """Run a coroutine function on the fastest loop there is: uvloop where it installs, else asyncio."""
    keep_large_blocks()
    try:
        import uvloop
    except ImportError:
        return asyncio.run(_as_coroutine(main))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_as_coroutine(main))


async def _as_coroutine(main: Callable[[], Awaitable[Any]]) -> Any:
    return await main()


async def serve_until_signal(service: Service, ready: Callable[[], str]) -> None:
    """Start a service, announce that it serves, and stop it on SIGTERM or SIGINT.

    A second signal, or `STOP_SECONDS` without an end, stops the process at once with status 1.

    Args:
        service: what to run.
        ready: the line to print when it serves, asked for after the start.
    """
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()

    def on_signal() -> None:
        if stopping.is_set():
            os._exit(1)
        stopping.set()
        loop.call_later(STOP_SECONDS, _give_up)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    await service.start()
    # What exists now stays for good: the garbage collector need not look at it again and again.
    gc.freeze()
    try:
        print(ready(), flush=True)
        await stopping.wait()
    finally:
        await service.stop()


def _give_up() -> None:
    logging.getLogger(__name__).error("stopping took longer than %.0f s; the process ends now", STOP_SECONDS)
    os._exit(1)
