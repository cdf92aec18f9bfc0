"""Plays a recorded client against our servers, in virtual time and at the recorded pace."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rocketmq_py.common.record import decode_records
from rocketmq_py.remoting.codec import decode, encode
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand

#: Longest time in seconds of virtual time that a request waits for its answer after the last frame was sent.
PATIENCE = 60.0

Row = dict[str, Any]


class Copy(NamedTuple):
    """What tells a message, and which of its tries it is."""

    unique_key: str
    reconsume_times: int
    topic: str


@dataclass(slots=True)
class Exchange:
    """One recorded request, the recorded answer, and ours; None where none came."""

    request: Row
    recorded: Row | None
    ours: RemotingCommand | None = None

    def __str__(self) -> str:
        row = self.request
        return f"{row['server']} {row['code_name']}({row['code']}) {row['extFields']}"


@dataclass(slots=True)
class Client:
    """One connection of the recorded client."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    answers: dict[int, asyncio.Future[RemotingCommand]] = field(default_factory=dict)
    asked: list[RemotingCommand] = field(default_factory=list)

    async def read(self) -> None:
        """Hand each answer to whoever waits for it; of the server's requests, replies are taken, others left alone."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                size = int.from_bytes(await self.reader.readexactly(4), "big")
                command = decode(await self.reader.readexactly(size))
                if not command.is_response:
                    self.asked.append(command)
                    if command.code == RequestCode.PUSH_REPLY_MESSAGE_TO_CLIENT:
                        taken = RemotingCommand.create_response(ResponseCode.SUCCESS)
                        taken.opaque = command.opaque
                        self.writer.write(encode(taken))
                    continue
                waiting = self.answers.pop(command.opaque, None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(command)


def exchanges(rows: Iterable[Row]) -> list[Exchange]:
    """Pair each request that a client sent with the answer that it got."""
    found: list[Exchange] = []
    waiting: dict[tuple[int, int], Exchange] = {}
    for row in rows:
        place = (row["conn"], row["opaque"])
        if row["dir"] == "c2s" and row["kind"] in ("request", "oneway"):
            exchange = Exchange(row, None)
            found.append(exchange)
            if row["kind"] == "request":
                waiting[place] = exchange
        elif row["dir"] == "s2c" and row["kind"] == "response" and place in waiting:
            waiting.pop(place).recorded = row
    return found


async def replay(
    asked: list[Exchange], addresses: dict[str, str], find: Callable[[Copy], int | None] | None = None
) -> dict[int, list[RemotingCommand]]:
    """Send the requests to the servers of the given names and fill in the answers.

    Args:
        asked: the recording.
        addresses: of our servers.
        find: returns where a message lies in our log; it lies elsewhere than in the recorded one.

    Returns:
        By connection, what the servers asked of the client.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    clients: dict[int, Client] = {}
    readers: list[asyncio.Task[None]] = []
    pending: list[tuple[Exchange, asyncio.Future[RemotingCommand]]] = []
    for exchange in asked:
        row = exchange.request
        await asyncio.sleep(max(began + row["t_ms"] / 1000 - loop.time(), 0))
        client = clients.get(row["conn"])
        if client is None:
            host, _, port = addresses[row["server"]].rpartition(":")
            client = clients[row["conn"]] = Client(*await asyncio.open_connection(host, int(port)))
            readers.append(loop.create_task(client.read()))
        if row["kind"] == "request":
            future: asyncio.Future[RemotingCommand] = loop.create_future()
            client.answers[row["opaque"]] = future
            pending.append((exchange, future))
        frame = bytes.fromhex(row["frame_hex"])
        if row["code"] == RequestCode.CONSUMER_SEND_MSG_BACK and find is not None:
            frame = sent_back(frame, asked, find)
        client.writer.write(frame)
    if pending:
        await asyncio.wait([future for _, future in pending], timeout=PATIENCE)
    for exchange, future in pending:
        if future.done():
            exchange.ours = future.result()
        else:
            future.cancel()
    for client in clients.values():
        client.writer.close()
    await asyncio.gather(*readers)
    return {number: client.asked for number, client in clients.items()}


def sent_back(frame: bytes, asked: list[Exchange], find: Callable[[Copy], int | None]) -> bytes:
    """Return a recorded send-back with the offset that its message has in our log, if the client got it in a pull."""
    command = decode(frame[4:])
    for exchange in asked:
        if exchange.request["code"] == RequestCode.PULL_MESSAGE and exchange.recorded is not None:
            answer = decode(bytes.fromhex(exchange.recorded["frame_hex"])[4:])
            messages = decode_records(bytes(answer.body)) if answer.code == ResponseCode.SUCCESS else ()
            for message in messages:
                if str(message.commit_log_offset) == command.ext_fields["offset"]:
                    place = find(Copy(message.unique_key, message.reconsume_times, message.topic))
                    if place is not None:
                        command.ext_fields["offset"] = str(place)
    return encode(command)


def topics_before(asked: list[Exchange]) -> list[str]:
    """Return the topics that existed before the recording began: the first question for their route found it."""
    found: dict[str, bool] = {}
    for exchange in asked:
        if exchange.request["code"] == RequestCode.GET_ROUTEINFO_BY_TOPIC and exchange.recorded is not None:
            topic = exchange.request["extFields"]["topic"]
            found.setdefault(topic, exchange.recorded["code"] == 0)
    return [topic for topic, is_known in found.items() if is_known]
