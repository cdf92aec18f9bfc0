"""The simulated network: servers and connections in memory, with delays and faults.

A connection carries bytes in order and loses none while it lives, as TCP does. Faults act on a port: `refuse` new
connections, `cut` (bytes stay under way until `heal`), `reset` what is open.
"""

from __future__ import annotations

import asyncio
import errno
import random
from collections import deque
from collections.abc import Callable
from typing import Any

_HIGH_WATER = 64 << 10
_FIRST_EPHEMERAL_PORT = 40_000


class SimulatedNetwork:
    """All listeners and connections of one virtual loop.

    Attributes:
        latency: seconds from a write to its arrival; a function of the random source, constant 0.0001 by default.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, seed: int) -> None:
        self._loop = loop
        self._random = random.Random(seed)
        self.latency: Callable[[random.Random], float] = lambda _: 0.0001
        self._listeners: dict[int, SimulatedServer] = {}
        self._transports: dict[SimulatedTransport, int] = {}
        self._refused: set[int] = set()
        self._cut: set[int] = set()
        self._next_port = _FIRST_EPHEMERAL_PORT

    # --- faults --------------------------------------------------------------------------------------------------

    def refuse(self, port: int) -> None:
        """Refuse new connections to a port until `heal`."""
        self._refused.add(port)

    def cut(self, port: int) -> None:
        """Hold back every byte to and from a port, and every new connection, until `heal`."""
        self._cut.add(port)

    def heal(self, port: int) -> None:
        """End `refuse` and `cut`; what was held back arrives now."""
        self._refused.discard(port)
        self._cut.discard(port)
        for transport, server_port in list(self._transports.items()):
            if server_port == port:
                transport.deliver_soon()

    def reset(self, port: int) -> None:
        """Reset every open connection of a port."""
        for transport, server_port in list(self._transports.items()):
            if server_port == port:
                transport.abort()

    def is_cut(self, port: int) -> bool:
        """Tell whether bytes of a port are held back."""
        return port in self._cut

    # --- what the loop asks for ------------------------------------------------------------------------------------

    def listen(self, factory: Callable[[], Any], host: str, port: int) -> SimulatedServer:
        """Open a listener; port 0 takes a free one."""
        if port == 0:
            port = self._take_port()
        if port in self._listeners:
            raise OSError(errno.EADDRINUSE, f"port {port} is in use in the simulated network")
        server = SimulatedServer(self, factory, host, port)
        self._listeners[port] = server
        return server

    def unlisten(self, port: int) -> None:
        """Close a listener; open connections stay."""
        self._listeners.pop(port, None)

    async def connect(self, factory: Callable[[], Any], host: str, port: int) -> tuple[SimulatedTransport, Any]:
        """Connect; takes one latency.

        Raises:
            ConnectionRefusedError: nobody listens there.
        """
        await asyncio.sleep(self.latency(self._random))
        while port in self._cut:  # noqa: ASYNC110 - polling costs nothing in virtual time
            await asyncio.sleep(0.1)
        server = self._listeners.get(port)
        if server is None or port in self._refused:
            raise ConnectionRefusedError(errno.ECONNREFUSED, f"nobody listens on port {port} of the simulated network")
        local, remote = (host, self._take_port()), (host, port)
        near = SimulatedTransport(self, self._loop, factory(), local, remote, port)
        far = SimulatedTransport(self, self._loop, server.factory(), remote, local, port)
        near.peer, far.peer = far, near
        self._transports[near] = self._transports[far] = port
        far.protocol.connection_made(far)
        near.protocol.connection_made(near)
        return near, near.protocol

    def delay(self) -> float:
        """Draw the latency of one write."""
        return self.latency(self._random)

    def forget(self, transport: SimulatedTransport) -> None:
        """Drop a transport that is closed."""
        self._transports.pop(transport, None)

    def _take_port(self) -> int:
        self._next_port += 1
        return self._next_port


class _Socket:
    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address

    def getsockname(self) -> tuple[str, int]:
        return self._address


class SimulatedServer:
    """What `create_server` returns: the part of `asyncio.Server` that is used."""

    def __init__(self, network: SimulatedNetwork, factory: Callable[[], Any], host: str, port: int) -> None:
        self.factory = factory
        self._network = network
        self._port = port
        self._is_open = True
        self.sockets = [_Socket((host, port))]

    def is_serving(self) -> bool:
        """Whether new connections are accepted."""
        return self._is_open

    def close(self) -> None:
        """Accept no new connections."""
        if self._is_open:
            self._is_open = False
            self._network.unlisten(self._port)

    async def wait_closed(self) -> None:
        """Return at once: closing takes no time here."""


class SimulatedTransport(asyncio.Transport):
    """One end of a connection in memory."""

    def __init__(
        self,
        network: SimulatedNetwork,
        loop: asyncio.AbstractEventLoop,
        protocol: Any,
        local: tuple[str, int],
        remote: tuple[str, int],
        server_port: int,
    ) -> None:
        super().__init__({"sockname": local, "peername": remote})
        self.protocol = protocol
        self.peer: SimulatedTransport | None = None
        self._network = network
        self._loop = loop
        self._server_port = server_port
        # What the peer wrote: arrival time and bytes; None is the end of its writing.
        self._inbox: deque[tuple[float, bytes | None]] = deque()
        self._inbox_size = 0
        self._last_arrival = 0.0
        self._is_paused = self._is_closing = self._is_lost = self._peer_is_blocked = False
        self._high = _HIGH_WATER

    # --- writing -------------------------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes; they arrive one latency later, behind what was written before."""
        if self._is_closing or self.peer is None or not data:
            return
        self.peer.take(bytes(data))
        if self.peer.unread > self._high and not self.peer.blocks_writer:
            self.peer.blocks_writer = True
            self.protocol.pause_writing()

    def writelines(self, list_of_data: Any) -> None:
        """Send several pieces as one."""
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        """Half-closing is possible."""
        return True

    def write_eof(self) -> None:
        """End writing; the peer can go on."""
        if self.peer is not None and not self._is_closing:
            self.peer.take(None)

    def get_write_buffer_size(self) -> int:
        """Return the bytes that the peer has not read."""
        return self.peer.unread if self.peer is not None else 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set how many unread bytes pause the writer."""
        self._high = _HIGH_WATER if high is None else high

    # --- reading -------------------------------------------------------------------------------------------------

    @property
    def unread(self) -> int:
        """Bytes that arrived or are under way, and were not handed to the protocol."""
        return self._inbox_size

    @property
    def blocks_writer(self) -> bool:
        """Whether the peer was told to pause writing."""
        return self._peer_is_blocked

    @blocks_writer.setter
    def blocks_writer(self, value: bool) -> None:
        self._peer_is_blocked = value

    def take(self, data: bytes | None) -> None:
        """Accept what the peer wrote."""
        arrival = max(self._loop.time() + self._network.delay(), self._last_arrival)
        self._last_arrival = arrival
        self._inbox.append((arrival, data))
        self._inbox_size += len(data or b"")
        self._loop.call_at(arrival, self._deliver)

    def deliver_soon(self) -> None:
        """Try again to hand over what waits."""
        self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        while self._inbox and not (self._is_paused or self._is_lost or self._network.is_cut(self._server_port)):
            arrival, data = self._inbox[0]
            if arrival > self._loop.time() + 1e-12:
                self._loop.call_at(arrival, self._deliver)
                return
            self._inbox.popleft()
            if data is None:
                if not self.protocol.eof_received():
                    self.close()
                continue
            self._inbox_size -= len(data)
            self._hand_over(data)
            self._unblock_writer()

    def _hand_over(self, data: bytes) -> None:
        if not isinstance(self.protocol, asyncio.BufferedProtocol):
            self.protocol.data_received(data)
            return
        while data and not self._is_lost:
            buffer: Any = self.protocol.get_buffer(-1)
            count = min(len(buffer), len(data))
            buffer[:count] = data[:count]
            self.protocol.buffer_updated(count)
            data = data[count:]

    def _unblock_writer(self) -> None:
        if self._peer_is_blocked and self.peer is not None and self._inbox_size <= self.peer.high // 4:
            self._peer_is_blocked = False
            self.peer.protocol.resume_writing()

    @property
    def high(self) -> int:
        """Unread bytes at which the writer is paused."""
        return self._high

    def is_reading(self) -> bool:
        """Whether data is handed to the protocol."""
        return not self._is_paused

    def pause_reading(self) -> None:
        """Keep what arrives."""
        self._is_paused = True

    def resume_reading(self) -> None:
        """Hand over what arrived meanwhile."""
        self._is_paused = False
        self.deliver_soon()

    # --- life ----------------------------------------------------------------------------------------------------

    def get_protocol(self) -> Any:
        """Return the protocol."""
        return self.protocol

    def set_protocol(self, protocol: Any) -> None:
        """Replace the protocol."""
        self.protocol = protocol

    def is_closing(self) -> bool:
        """Whether nothing can be written any more."""
        return self._is_closing

    def close(self) -> None:
        """Close after what was written has arrived."""
        if self._is_closing:
            return
        self._is_closing = True
        if self.peer is not None:
            self.peer.take(None)
        self._loop.call_soon(self._lose, None)

    def abort(self) -> None:
        """Reset both ends at once."""
        self._is_closing = True
        self._loop.call_soon(self._lose, None)
        peer = self.peer
        if peer is not None and not peer._is_lost:
            peer._is_closing = True
            self._loop.call_soon(peer._lose, ConnectionResetError(errno.ECONNRESET, "reset in the simulated network"))

    def _lose(self, error: Exception | None) -> None:
        if self._is_lost:
            return
        self._is_lost = True
        self._inbox.clear()
        self._inbox_size = 0
        self._network.forget(self)
        self.protocol.connection_lost(error)
