"""A proxy on loopback that does to a connection what networks do: cut it, one way or both, delay, lose, reset, spoil it.

It stands where an address is configured (`haMasterAddress`, `brokerIP2`, `controllerAddr` ...), so that the servers behind
it run unchanged.

    proxy = FaultProxy("127.0.0.1:10912")
    await proxy.start()
    ...  # let the slave connect to proxy.address
    proxy.cut()
    proxy.heal()
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import random
import socket
import struct
from collections import Counter

from labs.faults.packet_loss import Socket, lose_packets, packets_lost
from rocketmq_py.common.host import join_address, split_address

#: Bytes that are read at once, and chunks that wait on a link with delay.
CHUNK = 64 << 10
WAITING_CHUNKS = 64


class Way(enum.Enum):
    """A direction, seen from who connects."""

    FORTH = "to the server"
    BACK = "to the client"


BOTH = (Way.FORTH, Way.BACK)


class FaultProxy:
    """Passes bytes on from whoever connects to one server, and spoils that as told.

    Args:
        target: the server, `host:port`.
        address: where to listen; port 0 for any.
        seed: of delays and of the bits that are flipped.

    Attributes:
        address: where it listens.
        counts: what it did: connections, resets, packets lost by connections that ended, bytes dropped and flipped.
    """

    def __init__(self, target: str, address: str = "127.0.0.1:0", seed: int = 0) -> None:
        self.target = target
        self.address = address
        self.counts: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._server: asyncio.Server | None = None
        self._open = {way: asyncio.Event() for way in BOTH}
        self._delay = (0.0, 0.0)
        self._loss = 0.0
        self._to_drop = dict.fromkeys(BOTH, 0)
        self._to_flip: dict[Way, bytes | None] = dict.fromkeys(BOTH)
        self._refuses = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.heal()

    async def start(self) -> None:
        """Listen."""
        host, port = split_address(self.address)
        self._server = await asyncio.start_server(self._accept, host, port)
        self.address = join_address(host, self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Close everything."""
        if self._server is not None:
            self._server.close()
            self.reset()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._server.wait_closed()

    # --- faults -----------------------------------------------------------------------------------------------------

    def cut(self, *ways: Way) -> None:
        """Let nothing through, or nothing one way; connections stay open, and what was sent arrives after `heal`."""
        for way in ways or BOTH:
            self._open[way].clear()

    def delay(self, seconds: float, jitter: float = 0.0) -> None:
        """Let everything take longer, each way."""
        self._delay = (seconds, jitter)

    def lose(self, share: float) -> None:
        """Lose a share of all packets that come to the proxy, from either side. The sender's TCP notices and sends them
        again, so what a program sees is time.
        """
        self._loss = share
        for sock in self._sockets():
            lose_packets(sock, share)

    @property
    def lost(self) -> int:
        """Packets that were lost."""
        return self.counts["packets lost"] + sum(packets_lost(sock) for sock in self._sockets())

    def refuse(self) -> None:
        """Close new connections at once."""
        self._refuses = True

    def drop(self, way: Way, size: int) -> None:
        """Take the next bytes away."""
        self._to_drop[way] = size

    def flip(self, way: Way, inside: bytes = b"") -> None:
        """Flip one bit of what comes next.

        Args:
            way: of the byte.
            inside: the byte is one of the next occurrence of these; empty: any of the next chunk.
        """
        self._to_flip[way] = inside

    def reset(self) -> None:
        """Reset every connection (RST, not FIN); what was on its way is lost."""
        for writer in list(self._writers):
            for sock in _open_sockets(writer):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            self.counts["resets"] += 1

    def heal(self) -> None:
        """End all faults that last."""
        for event in self._open.values():
            event.set()
        self._delay = (0.0, 0.0)
        self._refuses = False
        self.lose(0.0)

    def _sockets(self) -> list[Socket]:
        """Return the one that listens, and those of all connections."""
        listening = self._server.sockets if self._server is not None else ()
        return [*listening, *(sock for writer in self._writers for sock in _open_sockets(writer))]

    # --- bytes ------------------------------------------------------------------------------------------------------

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.counts["connections"] += 1
        try:
            if not self._refuses:
                await self._serve(reader, writer)
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection(*split_address(self.target))
        except OSError:
            return
        self._writers |= {writer, back}
        # The other end has it from the socket that listens.
        for sock in _open_sockets(back):
            lose_packets(sock, self._loss)
        ways = [
            asyncio.create_task(self._pump(Way.FORTH, reader, back)),
            asyncio.create_task(self._pump(Way.BACK, there, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self.counts["packets lost"] += sum(
                packets_lost(sock) for end in (writer, back) for sock in _open_sockets(end)
            )
            self._writers -= {writer, back}
            back.transport.abort()

    async def _pump(self, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read ahead a little, so that a delay costs time and not throughput."""
        loop = asyncio.get_running_loop()
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(WAITING_CHUNKS)

        async def read() -> None:
            # A process that was killed resets what it had not read: that is an end like any other.
            with contextlib.suppress(ConnectionError):
                while data := await reader.read(CHUNK):
                    await waiting.put((loop.time() + self._on_the_way(), data))
            await waiting.put((0.0, b""))

        reading = asyncio.create_task(read())
        try:
            while True:
                due, data = await waiting.get()
                if due > loop.time():
                    await asyncio.sleep(due - loop.time())
                await self._open[way].wait()
                if not data:
                    return
                writer.write(self._spoil(way, data))
                await writer.drain()
        except ConnectionError:
            return
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    def _on_the_way(self) -> float:
        """Return how many seconds the next bytes take."""
        seconds, jitter = self._delay
        return max(0.0, seconds + self._random.uniform(-jitter, jitter))

    def _spoil(self, way: Way, data: bytes) -> bytes:
        dropped = min(self._to_drop[way], len(data))
        if dropped:
            self._to_drop[way] -= dropped
            self.counts["bytes dropped"] += dropped
            data = data[dropped:]
        inside = self._to_flip[way]
        if inside is not None and data and (start := data.find(inside)) >= 0:
            self._to_flip[way] = None
            self.counts["bytes flipped"] += 1
            place = start + self._random.randrange(len(inside) or len(data))
            data = data[:place] + bytes([data[place] ^ 1 << self._random.randrange(8)]) + data[place + 1 :]
        return data

    def __repr__(self) -> str:
        shut = [way.value for way in BOTH if not self._open[way].is_set()]
        return (
            f"<FaultProxy {self.address} -> {self.target}, {len(self._writers) // 2} links, shut {shut or 'nowhere'}>"
        )


def _open_sockets(writer: asyncio.StreamWriter) -> list[Socket]:
    """Return the socket of a connection, if it has one that is open."""
    raw = writer.get_extra_info("socket")
    return [raw] if raw is not None and raw.fileno() >= 0 else []
