"""The tools of the fault matrix, tried before they judge: a checker that finds nothing would be worse than none."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from labs.faults.fault_proxy import FaultProxy, Way
from labs.faults.history import History, Outcome, outcome_of
from rocketmq_py.common.host import split_address
from rocketmq_py.remoting.codes import ResponseCode


def history() -> History:
    """Five sends to queue 3: acknowledged, refused, unknown, acknowledged, acknowledged."""
    made = History()
    outcomes = (Outcome.ACKNOWLEDGED, Outcome.REFUSED, Outcome.UNKNOWN, Outcome.ACKNOWLEDGED, Outcome.ACKNOWLEDGED)
    for number, outcome in enumerate(outcomes):
        send = made.begin(3, 10.0 + number)
        send.ended, send.outcome = 10.5 + number, outcome
    return made


def stored(*numbers: int) -> list[bytes]:
    return [history().sends[3][number].body for number in numbers]


@pytest.mark.parametrize("numbers", [(0, 3, 4), (0, 2, 3, 4)])
def test_an_unknown_send_may_be_there_or_not(numbers: tuple[int, ...]) -> None:
    assert history().problems(3, stored(*numbers)) == []


@pytest.mark.parametrize(
    ("bodies", "what"),
    [
        (stored(0, 4), "lost 1 acknowledged"),
        (stored(0, 1, 3, 4), "1 messages that were refused, the first is 1"),
        (stored(0, 4, 3), "number 3 is stored behind 4"),
        (stored(0, 3, 3, 4), "messages twice, the first is number 3"),
        ([*stored(0, 3, 4), b"3-0000009-"], "nobody sent"),
    ],
)
def test_the_checker_finds_every_kind_of_wrong(bodies: list[bytes], what: str) -> None:
    (problem, *_) = history().problems(3, bodies)
    assert what in problem


def test_doubt_is_neither_an_acknowledgement_nor_a_refusal() -> None:
    assert outcome_of(ResponseCode.SUCCESS) is Outcome.ACKNOWLEDGED
    for code in (ResponseCode.FLUSH_DISK_TIMEOUT, ResponseCode.FLUSH_SLAVE_TIMEOUT, ResponseCode.SLAVE_NOT_AVAILABLE):
        assert outcome_of(code) is Outcome.UNKNOWN
    assert outcome_of(ResponseCode.SERVICE_NOT_AVAILABLE) is Outcome.REFUSED
    assert history().longest_gap(10.0, 15.0) == 3.0
    assert history().count() == {"acknowledged": 3, "unknown": 1, "refused": 1}


@asynccontextmanager
async def echo() -> AsyncIterator[tuple[FaultProxy, asyncio.StreamReader, asyncio.StreamWriter]]:
    """A server that sends back what it gets, a proxy before it, and a connection through the proxy."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    proxy = FaultProxy("127.0.0.1:" + str(server.sockets[0].getsockname()[1]))
    await proxy.start()
    reader, writer = await asyncio.open_connection(*split_address(proxy.address))
    try:
        yield proxy, reader, writer
    finally:
        writer.transport.abort()
        await proxy.stop()
        server.close()


async def comes(reader: asyncio.StreamReader, size: int, seconds: float = 5.0) -> bytes:
    async with asyncio.timeout(seconds):
        return await reader.readexactly(size)


async def test_a_cut_holds_bytes_back_and_loses_none() -> None:
    async with echo() as (proxy, reader, writer):
        writer.write(b"one")
        assert await comes(reader, 3) == b"one"
        proxy.cut(Way.BACK)
        writer.write(b"two")
        with pytest.raises(TimeoutError):
            await comes(reader, 3, 0.1)
        proxy.heal()
        assert await comes(reader, 3) == b"two"


async def test_delay_takes_time_both_ways() -> None:
    async with echo() as (proxy, reader, writer):
        loop = asyncio.get_running_loop()
        proxy.delay(0.05)
        began = loop.time()
        writer.write(b"x")
        await comes(reader, 1)
        assert loop.time() - began >= 0.1


async def test_dropped_and_flipped_bytes_are_exactly_those() -> None:
    async with echo() as (proxy, reader, writer):
        proxy.drop(Way.FORTH, 7)
        proxy.flip(Way.BACK)
        writer.write(bytes(range(20)))
        received = await comes(reader, 13)
        wrong = [a ^ b for a, b in zip(received, range(7, 20), strict=True) if a != b]
        assert len(wrong) == 1
        assert wrong[0].bit_count() == 1
        assert (proxy.counts["bytes dropped"], proxy.counts["bytes flipped"]) == (7, 1)


async def test_a_reset_is_seen_as_a_reset_and_a_refusal_as_an_end() -> None:
    async with echo() as (proxy, reader, writer):
        writer.write(b"x")
        await comes(reader, 1)
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            await comes(reader, 1)
        proxy.refuse()
        again, closing = await asyncio.open_connection(*split_address(proxy.address))
        try:
            assert await again.read() == b""
        except ConnectionResetError:
            pass
        closing.transport.abort()


async def test_a_server_that_is_killed_with_bytes_unread_ends_the_link() -> None:
    """Its system resets the connection instead of closing it; whoever waits for an answer has to hear of that."""

    async def read_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        proxied.set_result(writer)

    proxied: asyncio.Future[asyncio.StreamWriter] = asyncio.get_running_loop().create_future()
    server = await asyncio.start_server(read_nothing, "127.0.0.1", 0)
    proxy = FaultProxy("127.0.0.1:" + str(server.sockets[0].getsockname()[1]))
    await proxy.start()
    reader, writer = await asyncio.open_connection(*split_address(proxy.address))
    writer.write(b"x" * 100)
    transport = (await proxied).transport
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
    async with asyncio.timeout(5.0):
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
    writer.transport.abort()
    await proxy.stop()
    server.close()


async def test_lost_packets_arrive_late_and_in_order() -> None:
    async with echo() as (proxy, reader, writer):
        proxy.lose(1.0)
        writer.write(b"one")
        with pytest.raises(TimeoutError):
            await comes(reader, 3, 0.1)
        assert proxy.lost >= 1
        proxy.lose(0.0)
        writer.write(b"two")
        assert await comes(reader, 6, 30.0) == b"onetwo"
        lost = proxy.lost
        writer.write(b"x" * 300_000)
        await comes(reader, 300_000)
        assert proxy.lost == lost, "packets are lost although that has ended"


async def test_packets_of_new_connections_are_lost_too() -> None:
    """From the first one on, both ways: here from the server to the proxy."""
    async with echo() as (proxy, _, _):
        proxy.lose(0.3)
        reader, writer = await asyncio.open_connection(*split_address(proxy.address))
        before = proxy.lost
        for number in range(20):
            writer.write(b"%04d" % number)
            assert await comes(reader, 4, 60.0) == b"%04d" % number
        assert proxy.lost > before
        writer.transport.abort()
