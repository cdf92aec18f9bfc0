"""A server with a few handlers, a client, and raw sockets for labs of the remoting layer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from rocketmq_py.common.environment import Environment
from rocketmq_py.remoting.client import RemotingClient
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.limits import Limits
from rocketmq_py.remoting.processors import Answer, Processors, Request
from rocketmq_py.remoting.server import RemotingServer

ECHO, SLOW, FAIL, COUNT = 1001, 1002, 1003, 1004


@dataclass
class RemotingLab:
    """Server, client, and what the server saw."""

    server: RemotingServer
    client: RemotingClient
    seen: list[RemotingCommand]
    release: asyncio.Event

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.port}"

    async def ask(self, code: int, timeout: float = 3.0, **fields: str) -> RemotingCommand:
        return await self.client.request(self.address, RemotingCommand.create_request(code, fields), timeout)


@asynccontextmanager
async def remoting_lab(
    environment: Environment, limits: Limits | None = None, **options: Any
) -> AsyncIterator[RemotingLab]:
    """Serve ECHO (at once), SLOW (when released), FAIL (raises) and COUNT (remembers)."""
    seen: list[RemotingCommand] = []
    release = asyncio.Event()

    def echo(request: Request) -> Answer:
        return RemotingCommand.create_response(0, "echo", dict(request.command.ext_fields), bytes(request.command.body))

    async def slow(request: Request) -> Answer:
        await release.wait()
        return RemotingCommand.create_response(0, "slow", dict(request.command.ext_fields))

    def fail(request: Request) -> Answer:
        raise ZeroDivisionError("the handler divides by zero")

    def count(request: Request) -> Answer:
        seen.append(request.command)
        return RemotingCommand.create_response(0)

    processors = Processors()
    for code, handler in ((ECHO, echo), (SLOW, slow), (FAIL, fail), (COUNT, count)):
        processors.register(code, handler)
    server = RemotingServer(processors, environment.clock, "127.0.0.1", 0, limits, **options)
    await server.serve()
    client = RemotingClient(environment.clock)
    try:
        yield RemotingLab(server, client, seen, release)
    finally:
        release.set()
        await client.close()
        await server.stop()
