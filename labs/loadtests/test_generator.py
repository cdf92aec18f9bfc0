"""The load generators count what they are told to count: requests, refusals, and time from when a request was due."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from loadtests.bench import frames
from loadtests.bench.generator import Generator, Load, compile_generator
from rocketmq_py.common.message_batch import decode_batch
from rocketmq_py.remoting.codec import decode
from rocketmq_py.remoting.codes import RequestCode

BINARY = compile_generator()
GENERATORS = pytest.mark.parametrize(
    "generator",
    [
        pytest.param(Generator(None, BINARY), id="c", marks=pytest.mark.skipif(BINARY is None, reason="no C compiler")),
        pytest.param(Generator(None, None), id="python"),
    ],
)


def answer_of(code: int) -> bytes:
    """Return the frame of an answer."""
    header = json.dumps({"code": code, "opaque": 1}, separators=(",", ":")).encode()
    return (len(header) + 4).to_bytes(4, "big") + len(header).to_bytes(4, "big") + header


@contextmanager
def answering(*codes: int) -> Iterator[tuple[int, list[bytes]]]:
    """Serve one connection after the other in a thread; yield the port, and the requests' headers as they come.

    Each request is answered with the next of `codes`, the last of which is repeated.
    """
    received: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            # A generator ends its run by closing, with requests under way.
            with connection, contextlib.suppress(OSError), connection.makefile("rb") as stream:
                while len(prefix := stream.read(8)) == 8:
                    length, header = int.from_bytes(prefix[:4], "big"), int.from_bytes(prefix[5:], "big")
                    received.append(stream.read(length - 4)[:header])
                    connection.sendall(answer_of(codes[min(len(received), len(codes)) - 1]))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1], received
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def send_file(folder: Path) -> Path:
    """Write the frames of a send."""
    path = folder / "send"
    frames.write_frames(path, frames.send_frames("TopicA", queues=2, size=16))
    return path


@GENERATORS
def test_every_request_of_a_limited_run_is_answered_and_carries_fresh_numbers(
    generator: Generator, tmp_path: Path
) -> None:
    """Claim: the generator sends what it says it sends: so many requests, no two with one opaque or unique key."""
    with answering(0) as (port, received):
        load = Load(port, send_file(tmp_path), 1, requests_each=40, warmup=0.0, seconds=30.0, first_unique=0xABC)
        figures = generator.run(load)

    assert (figures["answers"], figures["errors"]) == (40, 0)
    headers = [json.loads(header) for header in received]
    assert len({header["opaque"] for header in headers}) == 40
    unique = [header["extFields"]["i"].split("\x02")[0].removeprefix("UNIQ_KEY\x01") for header in headers]
    assert sorted(int(key[20:28], 16) for key in unique) == list(range(min_of(unique), min_of(unique) + 40))


def min_of(unique: list[str]) -> int:
    """Return the first running number of unique keys."""
    return min(int(key[20:28], 16) for key in unique)


@GENERATORS
def test_a_server_that_refuses_is_not_taken_for_a_fast_one(generator: Generator, tmp_path: Path) -> None:
    """Claim: answers with a response code other than 0 are counted as errors, and the first one is told."""
    with answering(0, 0, 14, 2) as (port, _):
        load = Load(port, send_file(tmp_path), 1, requests_each=10, warmup=0.0, seconds=30.0)
        figures = generator.run(load)

    assert (figures["answers"], figures["errors"], figures["first_error"]) == (10, 8, 14)


@GENERATORS
def test_an_open_loop_keeps_its_rate(generator: Generator, tmp_path: Path) -> None:
    """Claim: with a rate, requests leave when they are due, whether or not earlier ones were answered."""
    with answering(0) as (port, received):
        figures = generator.run(Load(port, send_file(tmp_path), 1, rate=200.0, warmup=0.0, seconds=0.5))

    assert 60 <= len(received) <= 102, "0.5 s at 200 a second are 100 requests"
    assert 0 < figures["p50_us"] <= figures["p99_us"] <= figures["p999_us"]
    assert figures["generator_load"] < 0.5, "a generator that waits has to leave the core to others"


def test_frames_are_what_clients_send() -> None:
    """Claim: the prepared frames, which were built without our codec, decode to the requests that they stand for."""
    send = decode(frames.send_frames("TopicA", queues=3, size=24)[2].data[4:])
    assert (send.code, send.ext_fields["b"], send.ext_fields["e"]) == (RequestCode.SEND_MESSAGE_V2, "TopicA", "2")
    assert len(send.body) == 24

    batch = decode(frames.batch_frames("TopicA", queues=1, size=24, messages=5)[0].data[4:])
    items = decode_batch(batch.body)
    assert (batch.code, batch.ext_fields["m"], len(items)) == (RequestCode.SEND_BATCH_MESSAGE, "true", 5)
    assert all(item.body == frames.body_of(24) for item in items)

    pull = decode(frames.pull_frames("TopicA", queues=1)[0].data[4:])
    assert (pull.code, pull.ext_fields["maxMsgNums"]) == (RequestCode.PULL_MESSAGE, "32")
