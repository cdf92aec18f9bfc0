"""Pytest plugin: async labs just run, and labs with a mark run under virtual time.

An `async def test_...` runs on an event loop of its own: a real one, or with `@pytest.mark.virtual_time` the simulated
loop of `sim/loop.py`, on which two hours pass in milliseconds.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from rocketmq_py.common.environment import Environment, system_environment
from rocketmq_py.sim.environment import simulated_environment
from rocketmq_py.sim.loop import VirtualLoop


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark, for projects that use the plugin without this project's settings."""
    config.addinivalue_line("markers", "virtual_time: run this async test on the simulated event loop")


@pytest.fixture
def environment(request: pytest.FixtureRequest) -> Environment:
    """The environment that fits the test's loop: simulated under virtual time, else that of a real process."""
    is_virtual = request.node.get_closest_marker("virtual_time") is not None
    return simulated_environment() if is_virtual else system_environment()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> object | None:
    """Run a coroutine function on a loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    with asyncio.Runner(loop_factory=_loop_factory(pyfuncitem)) as runner:
        runner.run(pyfuncitem.obj(**arguments))
    return True


def _loop_factory(item: pytest.Function) -> Callable[[], Any]:
    return asyncio.new_event_loop if item.get_closest_marker("virtual_time") is None else VirtualLoop
