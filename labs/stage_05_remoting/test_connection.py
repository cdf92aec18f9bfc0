"""Connections: many requests on one, three ways to call, and peers that behave badly without hurting anyone else."""

from __future__ import annotations

import asyncio
import time

import pytest

from labs.stage_05_remoting.remoting_lab import COUNT, ECHO, FAIL, SLOW, remoting_lab
from rocketmq_py.common.environment import Environment
from rocketmq_py.remoting.codec import MAX_FRAME_SIZE, encode
from rocketmq_py.remoting.codes import ResponseCode
from rocketmq_py.remoting.command import RemotingCommand, SerializeType
from rocketmq_py.remoting.errors import RemotingError, RemotingTimeoutError
from rocketmq_py.remoting.limits import Limits
from rocketmq_py.remoting.processors import Processors, Request
from rocketmq_py.testing.eventually import eventually


@pytest.mark.claim("rem-01")
@pytest.mark.virtual_time
async def test_many_requests_are_under_way_on_one_connection_and_answers_find_their_requests(
    environment: Environment,
) -> None:
    """Claim: frames on long-lived connections; an id matches requests and responses, so that many can be under way.

    Experiment: one SLOW request, then 100 ECHO requests on the same connection, then let SLOW go.
    Observe: one connection; each of the 100 gets its own answer while SLOW still waits, and SLOW gets its own at last.
    """
    async with remoting_lab(environment) as lab:
        slow = asyncio.ensure_future(lab.ask(SLOW, n="slow"))
        answers = await asyncio.gather(*(lab.ask(ECHO, n=str(i)) for i in range(100)))
        assert [answer.ext_fields["n"] for answer in answers] == [str(i) for i in range(100)]
        assert not slow.done()
        assert len(lab.server.connections) == 1
        lab.release.set()
        assert (await slow).ext_fields == {"n": "slow"}


@pytest.mark.claim("rem-02")
@pytest.mark.virtual_time
async def test_three_ways_to_call(environment: Environment) -> None:
    """Claim: synchronous, asynchronous, one-way.

    Experiment: await an answer; start a request and do something else before its answer; send one that nobody answers.
    Observe: the first returns the answer, the second gives it later, and the third reaches the handler with no response.
    """
    async with remoting_lab(environment) as lab:
        assert (await lab.ask(ECHO)).remark == "echo"
        later = asyncio.ensure_future(lab.ask(ECHO, n="later"))
        assert not later.done()
        assert (await later).ext_fields == {"n": "later"}
        await lab.client.one_way(lab.address, RemotingCommand.create_request(COUNT, {"n": "1"}))
        await eventually(lambda: lab.seen)
        assert lab.seen[0].is_one_way
        await asyncio.sleep(1)
        connection = await lab.client.connect(lab.address)
        assert connection._unknown_responses == 0


@pytest.mark.claim("rem-03")
async def test_one_loop_keeps_slow_requests_from_stopping_fast_ones(environment: Environment) -> None:
    """Claim: RocketMQ serves with one acceptor, several selectors and a pool of threads for each kind of request.

    One event loop has none of these, and keeps what they are for: a slow request does not hold up others, and a limit
    for each connection keeps one peer from taking all.
    Experiment: 50 requests of a connection wait in their handlers; another connection asks 200 times; then the first
    connection exceeds its limit of 64.
    Observe: the other connection is served meanwhile; requests past the limit are not read until some are answered.
    """
    async with remoting_lab(environment, Limits(requests_in_work=64)) as lab:
        waiting = [asyncio.ensure_future(lab.ask(SLOW, 30, n=str(i))) for i in range(50)]
        reader, writer = await asyncio.open_connection("127.0.0.1", lab.server.port)
        for i in range(200):
            writer.write(encode(RemotingCommand(ECHO, opaque=i)))
            length = int.from_bytes(await reader.readexactly(4), "big")
            await reader.readexactly(length)
        assert not any(task.done() for task in waiting)
        writer.close()
        waiting += [asyncio.ensure_future(lab.ask(SLOW, 30, n=str(i))) for i in range(50, 100)]
        await eventually(lambda: any(known._in_work >= 64 for known in lab.server.connections))
        extra = asyncio.ensure_future(lab.ask(ECHO, 30))
        done, _ = await asyncio.wait([extra], timeout=0.2)
        assert not done, "a connection with so many requests in work is read no further"
        lab.release.set()
        assert len(await asyncio.gather(*waiting)) == 100
        assert (await extra).remark == "echo"


@pytest.mark.claim("rem-04")
async def test_copying_and_handing_over_large_bodies_measured(
    environment: Environment, capsys: pytest.CaptureFixture[str]
) -> None:
    """Claim: mmap suits small random transfers, sendfile large sequential ones.

    Here answers of every size are joined slices of the map: one copy, no call for each record. A lone sendfile would
    need one system call for each piece, which only pays for large ones.
    Experiment: fetch bodies of 1 KiB, 64 KiB and 1 MiB; time them.
    Observe: all arrive whole. The figures are printed: the larger the answer, the less each byte costs.
    """
    async with remoting_lab(environment) as lab:
        costs = []
        for size, count in ((1 << 10, 200), (64 << 10, 100), (1 << 20, 20)):
            body = bytes(size)
            began = time.perf_counter()
            for _ in range(count):
                request = RemotingCommand.create_request(ECHO, body=body)
                assert len((await lab.client.request(lab.address, request, 10)).body) == size
            seconds = (time.perf_counter() - began) / count
            costs.append(seconds / size)
            with capsys.disabled():
                print(
                    f"\n  {size >> 10} KiB there and back: {seconds * 1e6:.0f} us, {size / seconds / 1e6:.0f} MB/s",
                    end="",
                )
        assert costs[2] < costs[0]


@pytest.mark.virtual_time
async def test_an_unknown_code_is_refused_in_the_words_of_rocketmq(environment: Environment) -> None:
    async with remoting_lab(environment) as lab:
        answer = await lab.ask(9999)
        assert answer.code == ResponseCode.REQUEST_CODE_NOT_SUPPORTED
        assert answer.remark == " request type 9999 not supported"


@pytest.mark.virtual_time
async def test_a_handler_that_fails_answers_and_the_connection_lives(
    environment: Environment, caplog: pytest.LogCaptureFixture
) -> None:
    async with remoting_lab(environment) as lab:
        answer = await lab.ask(FAIL)
        assert answer.code == ResponseCode.SYSTEM_ERROR
        assert answer.remark == "ZeroDivisionError: the handler divides by zero"
        assert (await lab.ask(ECHO)).remark == "echo"
        assert "request 1003 failed" in caplog.text


@pytest.mark.virtual_time
async def test_the_answer_has_the_form_of_the_request(environment: Environment) -> None:
    async with remoting_lab(environment) as lab:
        for form in SerializeType:
            command = RemotingCommand(ECHO, {"k": "v"}, b"b", serialize_type=form)
            answer = await lab.client.request(lab.address, command, 3)
            assert (answer.serialize_type, answer.ext_fields, bytes(answer.body)) == (form, {"k": "v"}, b"b")


@pytest.mark.virtual_time
async def test_a_late_answer_is_dropped_and_the_next_request_works(environment: Environment) -> None:
    async with remoting_lab(environment) as lab:
        with pytest.raises(RemotingTimeoutError, match="did not answer request 1002 within 2 s"):
            await lab.ask(SLOW, 2)
        lab.release.set()
        assert (await lab.ask(ECHO)).remark == "echo"
        assert len(lab.server.connections) == 1


@pytest.mark.virtual_time
async def test_a_server_asks_its_clients_over_their_own_connection(environment: Environment) -> None:
    async with remoting_lab(environment) as lab:

        def who(request: Request) -> RemotingCommand:
            return RemotingCommand.create_response(0, "a client")

        lab.client.on_request(2001, who)
        await lab.ask(ECHO)
        answer = await lab.server.connections[0].request(RemotingCommand.create_request(2001), 3)
        assert answer.remark == "a client"


def test_a_code_has_one_handler() -> None:
    processors = Processors()
    processors.register(10, lambda request: None)
    with pytest.raises(ValueError, match=r"SEND_MESSAGE \(10\) has a handler already"):
        processors.register(10, lambda request: None)


# --- peers that behave badly ----------------------------------------------------------------------------------------

FOREIGN = [
    (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP"),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/2"),
    (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH"),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "TLS"),
    (b"\x7f\xff\xff\xff\0\0\0\x02{}", "frame length 2147483647"),
    (b"\xff\xff\xff\xff\0\0\0\x02{}", "frame length -1"),
    (b"\0\0\0\x03\0\0\0\x02{}", "frame length 3"),
    (MAX_FRAME_SIZE.to_bytes(4, "big") + b"\0\0\0\x02{}", "frame length 16777216"),
    (b"\0\0\0\x06\0\0\0\x07{}", "header length 7"),
    (b"\0\0\0\x06\0\0\0\x00{}", "header length 0"),
    (b"\0\0\0\x06\x02\0\0\x02{}", "header form 2"),
    (b"\0\0\0\x06\0\0\0\x02[]", "JSON header"),
    (b"\0\0\0\x06\x01\0\0\x02{}", "binary header"),
]


@pytest.mark.parametrize(("data", "says"), FOREIGN, ids=[says for _, says in FOREIGN])
@pytest.mark.virtual_time
async def test_bytes_that_are_no_frame_close_their_connection_and_no_other(
    environment: Environment, caplog: pytest.LogCaptureFixture, data: bytes, says: str
) -> None:
    async with remoting_lab(environment) as lab:
        await lab.ask(ECHO)
        reader, writer = await asyncio.open_connection("127.0.0.1", lab.server.port)
        writer.write(data)
        assert await reader.read() == b"", "a frame that cannot be decoded is never answered"
        writer.close()
        assert says in caplog.text
        assert (await lab.ask(ECHO)).remark == "echo"


@pytest.mark.virtual_time
async def test_a_frame_may_come_byte_by_byte_and_frames_may_come_joined(environment: Environment) -> None:
    async with remoting_lab(environment) as lab:
        reader, writer = await asyncio.open_connection("127.0.0.1", lab.server.port)
        data = b"".join(encode(RemotingCommand(ECHO, {"n": str(i)}, opaque=i)) for i in range(3))
        for at in range(len(data)):
            writer.write(data[at : at + 1])
        writer.write(data)
        for i in (0, 1, 2, 0, 1, 2):
            length = int.from_bytes(await reader.readexactly(4), "big")
            assert b'"n":"%d"' % i in await reader.readexactly(length)
        writer.close()


@pytest.mark.virtual_time
async def test_the_largest_frame_is_taken(environment: Environment) -> None:
    async with remoting_lab(environment) as lab:
        empty = len(encode(RemotingCommand(COUNT, opaque=1)))
        request = RemotingCommand.create_request(COUNT, body=bytes(MAX_FRAME_SIZE - empty))
        assert (await lab.client.request(lab.address, request, 60)).code == 0
        assert len(lab.seen[0].body) == MAX_FRAME_SIZE - empty


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    ("sent", "seconds", "says"),
    [(b"", 10, "no request within 10 s"), (b"\0\0", 10, "no request within"), (b"whole+part", 30, "half a request")],
)
async def test_a_slow_or_silent_peer_is_closed_after_its_time(
    environment: Environment, caplog: pytest.LogCaptureFixture, sent: bytes, seconds: float, says: str
) -> None:
    async with remoting_lab(environment) as lab:
        _, writer = await asyncio.open_connection("127.0.0.1", lab.server.port)
        whole = encode(RemotingCommand(ECHO))
        writer.write(whole + whole[:20] if sent == b"whole+part" else sent)
        await asyncio.sleep(seconds - 2)
        assert lab.server.connections
        await asyncio.sleep(4)
        assert not lab.server.connections
        assert says in caplog.text
        writer.close()


@pytest.mark.virtual_time
async def test_an_idle_connection_is_closed_after_two_minutes_and_an_active_one_is_not(
    environment: Environment,
) -> None:
    async with remoting_lab(environment) as lab:
        await lab.ask(ECHO)
        for _ in range(5):
            await asyncio.sleep(60)
            await lab.ask(ECHO)
        assert len(lab.server.connections) == 1
        await asyncio.sleep(125)
        assert not lab.server.connections
        assert (await lab.ask(ECHO)).remark == "echo"


@pytest.mark.virtual_time
async def test_a_client_that_never_reads_is_stopped_and_memory_stays_bounded(environment: Environment) -> None:
    async with remoting_lab(environment, Limits(unsent_pause=100_000, unsent_abort=1_000_000)) as lab:
        reader, writer = await asyncio.open_connection("127.0.0.1", lab.server.port, limit=1)
        request = encode(RemotingCommand(ECHO, body=bytes(10_000)))
        for _ in range(500):
            writer.write(request)
        await asyncio.sleep(5)
        held = [known._transport.get_write_buffer_size() for known in lab.server.connections if known._transport]
        assert max(held, default=0) < 1_500_000
        assert (await lab.ask(ECHO)).remark == "echo"
        writer.close()
        del reader


@pytest.mark.virtual_time
async def test_connections_past_the_limit_are_refused_and_the_others_are_served(environment: Environment) -> None:
    async with remoting_lab(environment, Limits(connections=3)) as lab:
        await lab.ask(ECHO)
        opened = [await asyncio.open_connection("127.0.0.1", lab.server.port) for _ in range(5)]
        await asyncio.sleep(1)
        assert len(lab.server.connections) == 3
        assert (await lab.ask(ECHO)).remark == "echo"
        for _, writer in opened:
            writer.close()


@pytest.mark.virtual_time
async def test_a_peer_that_answers_what_nobody_asked_is_closed(environment: Environment) -> None:
    async with remoting_lab(environment, Limits(unknown_responses=10)) as lab:
        reader, writer = await asyncio.open_connection("127.0.0.1", lab.server.port)
        writer.write(encode(RemotingCommand(0, opaque=5, flag=1)) * 11)
        assert await reader.read() == b""
        writer.close()


async def test_a_port_in_use_is_named_with_what_to_do(environment: Environment) -> None:
    from rocketmq_py.remoting.server import PortInUseError, RemotingServer

    async with remoting_lab(environment) as lab:
        second = RemotingServer(Processors(), environment.clock, "127.0.0.1", lab.server.port)
        with pytest.raises(PortInUseError, match=f"the port {lab.server.port} on 127.0.0.1 is in use"):
            await second.serve()


@pytest.mark.virtual_time
async def test_a_closed_client_says_so(environment: Environment) -> None:
    async with remoting_lab(environment) as lab:
        await lab.client.close()
        with pytest.raises(RemotingError, match="the client is closed"):
            await lab.ask(ECHO)
