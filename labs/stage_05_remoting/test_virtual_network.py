"""The simulated loop: production classes run on it, and hours pass in milliseconds."""

from __future__ import annotations

import asyncio
import time

import pytest

from rocketmq_py.common.environment import Environment
from rocketmq_py.remoting.client import RemotingClient
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.errors import RemotingConnectError, RemotingSendRequestError, RemotingTimeoutError
from rocketmq_py.remoting.processors import Answer, Processors, Request
from rocketmq_py.remoting.server import RemotingServer
from rocketmq_py.sim.loop import DeadlockError, VirtualLoop
from rocketmq_py.testing.eventually import eventually

ECHO = 7
NEVER = 8


async def serve(environment: Environment) -> RemotingServer:
    async def never(_: Request) -> Answer:
        await asyncio.sleep(10_000)
        return None

    processors = Processors()
    processors.register(ECHO, lambda request: RemotingCommand.create_response(0, body=request.command.body))
    processors.register(NEVER, never)
    server = RemotingServer(processors, environment.clock, "127.0.0.1", 0)
    await server.serve()
    return server


@pytest.mark.virtual_time
async def test_two_hours_pass_in_milliseconds(environment: Environment) -> None:
    began, wall = time.perf_counter(), environment.clock.wall_ms()
    await asyncio.sleep(7_200)
    assert environment.clock.wall_ms() - wall == 7_200_000
    assert time.perf_counter() - began < 1


@pytest.mark.virtual_time
async def test_production_server_and_client_talk_in_memory(environment: Environment) -> None:
    server, client = await serve(environment), RemotingClient(environment.clock)
    body = bytes(range(256)) * 4_000

    response = await client.request(f"127.0.0.1:{server.port}", RemotingCommand.create_request(ECHO, body=body), 3)

    assert bytes(response.body) == body
    await client.close()
    await server.stop()


@pytest.mark.virtual_time
async def test_a_cut_port_is_silent_and_what_was_sent_arrives_after_the_heal(environment: Environment) -> None:
    server, client = await serve(environment), RemotingClient(environment.clock)
    address = f"127.0.0.1:{server.port}"
    await client.request(address, RemotingCommand.create_request(ECHO), 3)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)

    loop.network.cut(server.port)
    with pytest.raises(RemotingTimeoutError, match="did not answer request 7 within 3 s"):
        await client.request(address, RemotingCommand.create_request(ECHO, body=b"lost?"), 3)
    waiting = asyncio.ensure_future(client.request(address, RemotingCommand.create_request(ECHO, body=b"late"), 30))
    await asyncio.sleep(5)
    assert not waiting.done()
    loop.network.heal(server.port)

    assert bytes((await waiting).body) == b"late"
    await client.close()
    await server.stop()


@pytest.mark.virtual_time
async def test_a_reset_connection_ends_what_waits_and_the_next_request_connects_again(environment: Environment) -> None:
    server, client = await serve(environment), RemotingClient(environment.clock)
    address = f"127.0.0.1:{server.port}"
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    waiting = asyncio.ensure_future(client.request(address, RemotingCommand.create_request(NEVER), 30))
    await eventually(lambda: server.connections)
    await asyncio.sleep(1)

    loop.network.reset(server.port)

    with pytest.raises(RemotingSendRequestError):
        await waiting
    assert (await client.request(address, RemotingCommand.create_request(ECHO), 3)).code == 0
    loop.network.refuse(server.port)
    loop.network.reset(server.port)
    await asyncio.sleep(0.1)
    with pytest.raises(RemotingConnectError, match="cannot connect to"):
        await client.request(address, RemotingCommand.create_request(ECHO), 3)
    await client.close()
    await server.stop()


def test_a_run_in_which_nothing_can_happen_any_more_says_who_waits() -> None:
    async def wait_for_nobody() -> None:
        await asyncio.get_running_loop().create_future()

    loop = VirtualLoop()
    try:
        task = loop.create_task(wait_for_nobody(), name="the one who waits")
        with pytest.raises(DeadlockError, match="the one who waits"):
            loop.run_until_complete(task)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(task)
    finally:
        loop.close()
