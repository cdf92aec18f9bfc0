"""Waiting in tests: for a condition, with a limit, never for a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def eventually(condition: Callable[[], T], seconds: float = 10.0, *, step: float = 0.01) -> T:
    """Return the first true value of `condition`.

    Args:
        condition: called again and again; cheap, without effects.
        seconds: of the running loop's time; virtual seconds on the simulated loop.
        step: seconds between two calls.

    Raises:
        AssertionError: it was never true; says what it returned last.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not (value := condition()):
        if loop.time() >= deadline:
            raise AssertionError(f"after {seconds:g} s the condition still is {value!r}")
        await asyncio.sleep(step)
    return value
