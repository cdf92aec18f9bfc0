"""One connection, on either side: bytes in, requests to handlers, responses to those who wait for them.

Reading is the hot path. All frames of one read go through one loop; a hot code is handled there, without a task, a
future or a command object. What is said during a turn of the loop leaves with one write at its end,
for all connections in a row: a peer that sleeps is woken once, and finds the rest of its answers when it looks again.

Source: `NettyRemotingAbstract`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import struct
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from rocketmq_py.common.errors import RocketMQError
from rocketmq_py.common.host import encode_host, join_address
from rocketmq_py.remoting.codec import MAX_HEADER_SIZE, decode, encode, encode_head
from rocketmq_py.remoting.codes import ResponseCode
from rocketmq_py.remoting.command import ONE_WAY_FLAG, RemotingCommand
from rocketmq_py.remoting.errors import (
    FrameError,
    RemotingSendRequestError,
    RemotingTimeoutError,
    RemotingTooMuchRequestError,
)
from rocketmq_py.remoting.frames import FrameBuffer, check_length
from rocketmq_py.remoting.limits import Limits
from rocketmq_py.remoting.processors import Answer, Deferred, HotCommand, HotHandler, Processors, Request
from rocketmq_py.remoting.tls import TlsLayer

if TYPE_CHECKING:
    from rocketmq_py.common.environment import Clock

logger = logging.getLogger(__name__)

_PREFIX = struct.Struct(">iI")
_decode_hot = msgspec.json.Decoder(HotCommand).decode
_NO_HANDLERS: Final[dict[int, HotHandler]] = {}
#: Bodies larger than this are handed to the transport as they are instead of being joined with their head.
_JOIN_LIMIT: Final = 64 << 10


class Hub:
    """What the connections of one server or client share.

    Attributes:
        processors: who handles which request.
        limits: what a peer may use up.
        clock: the wall clock.
        receive_buffer: the buffer that every connection reads into; one thread, so one is enough.
        connections: the open ones.
    """

    def __init__(self, processors: Processors, limits: Limits, clock: Clock, buffer_size: int = 256 << 10) -> None:
        self.processors = processors
        self.limits = limits
        self.clock = clock
        self.receive_buffer = memoryview(bytearray(buffer_size))
        self.connections: dict[Connection, None] = {}
        self.on_open: list[Callable[[Connection], None]] = []
        self.on_closed: list[Callable[[Connection], None]] = []
        self.tls_context: ssl.SSLContext | None = None
        self.requires_tls = False
        self._touched: list[Connection] = []
        self._next_opaque = 0
        self.tasks: set[asyncio.Task[None]] = set()

    def next_opaque(self) -> int:
        """Return the number of the next request of this process."""
        self._next_opaque = self._next_opaque + 1 & 0x7FFFFFFF
        return self._next_opaque

    def flush_soon(self, connection: Connection) -> None:
        """Write what a connection has to say at the end of this loop iteration, once for all who asked."""
        if not self._touched:
            asyncio.get_running_loop().call_soon(self._flush)
        self._touched.append(connection)

    def _flush(self) -> None:
        touched, self._touched = self._touched, []
        for connection in touched:
            connection.flush()


class Connection(asyncio.BufferedProtocol):
    """One connection.

    Attributes:
        remote_address: the peer, `ip:port`.
        born_host: the peer as records carry it, 8 or 20 bytes.
        opened_at, last_active: seconds of the loop's clock.
        frame_began: when the first bytes of an unfinished frame came, 0.0 if there is none.
        has_framed: whether a whole frame came yet.
        attachments: what later stages remember about the peer, by their own key.
    """

    def __init__(self, hub: Hub, *, is_server: bool) -> None:
        self._hub = hub
        self._is_server = is_server
        self.attachments: dict[str, Any] = {}
        self.remote_address = "?"
        self.born_host = bytes(8)
        self.closed = asyncio.get_running_loop().create_future()
        # Asked for each read and write, so the loop is looked up once.
        self._time = asyncio.get_running_loop().time
        self.opened_at = self.last_active = self._time()
        self.frame_began = 0.0
        self.has_framed = False
        self._transport: asyncio.Transport | None = None
        self._frames = FrameBuffer()
        self._out: list[bytes | memoryview] = []
        self._flush_is_due = False
        self._waiting: dict[int, asyncio.Future[RemotingCommand]] = {}
        self._in_work = self._unknown_responses = 0
        self._pauses: set[str] = set()
        self._tls: TlsLayer | None = None
        self._tls_ready: asyncio.Future[None] | None = None

    # --- life ----------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop when the connection is there."""
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = transport = cast(asyncio.Transport, transport)
        transport.set_write_buffer_limits(high=self._hub.limits.unsent_pause)
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.remote_address = join_address(peer[0], peer[1])
            self.born_host = encode_host(peer[0], peer[1])
        self._hub.connections[self] = None
        for listener in self._hub.on_open:
            listener(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop when the connection is gone; everyone who waits for an answer learns it."""
        self._hub.connections.pop(self, None)
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(RemotingSendRequestError(self.remote_address, str(exc or "closed")))
        if not self.closed.done():
            self.closed.set_result(None)
        for listener in self._hub.on_closed:
            listener(self)

    @property
    def is_open(self) -> bool:
        """Whether the connection can be written to."""
        return self._transport is not None and not self._transport.is_closing()

    def close(self, reason: str = "") -> None:
        """Close after what was written; `reason` goes to the log."""
        if self.is_open and self._transport is not None:
            if reason:
                logger.warning("closing the connection with %s: %s", self.remote_address, reason)
            self.flush()
            self._transport.close()

    def abort(self, reason: str) -> None:
        """Close at once; what was not sent is dropped."""
        if self._transport is not None:
            logger.warning("aborting the connection with %s: %s", self.remote_address, reason)
            self._transport.abort()

    # --- reading -------------------------------------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:
        """Called by the loop before it reads."""
        return self._hub.receive_buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Called by the loop with what was read."""
        data = bytes(self._hub.receive_buffer[:nbytes])
        now = self._time()
        self.last_active = now
        try:
            if self._tls is not None or (not self.has_framed and self._is_tls(data)):
                data = self._decrypt(data)
            joined = self._frames.add(data) if self._frames.size else data
            if joined:
                self._feed(joined)
                # A frame that goes on keeps its beginning: one byte a second does not make it younger.
                self.frame_began = now if self._frames.size else 0.0
            elif not self.frame_began:
                self.frame_began = now
        except FrameError as error:
            self.close(str(error))
        except Exception:
            # Broad on purpose: an error of ours in one request must cost this connection and no other.
            logger.exception("a request from %s could not be handled", self.remote_address)
            self.close("see the error above")

    def eof_received(self) -> bool:
        """The peer ended its side: close ours too."""
        return False

    def _feed(self, data: bytes) -> None:
        """Handle every whole frame of `data` and keep the rest."""
        processors, limit = self._hub.processors, self._hub.limits.frame
        # Interceptors see every request, so the hot handlers rest while there are any.
        hot = _NO_HANDLERS if processors.interceptors else processors.hot
        at, end = 0, len(data)
        while end - at >= 8:
            length, word = _PREFIX.unpack_from(data, at)
            if not 4 <= length <= limit - 4:
                check_length(length, data[at : at + 16], limit)
            frame_end = at + 4 + length
            if frame_end > end:
                break
            header_end = at + 8 + word
            # The upper byte of `word` is 0 for a JSON header. Anything else, and any impossible size, is for the
            # ordinary decoder, which refuses with a reason.
            command = None
            if 0 < word <= MAX_HEADER_SIZE and header_end <= frame_end:
                try:
                    command = _decode_hot(data[at + 8 : header_end])
                except (msgspec.MsgspecError, UnicodeDecodeError):
                    # Numbers written as text, for example: unusual, not wrong.
                    pass
            handler = hot.get(command.code) if command is not None and not command.flag & 1 else None
            if command is None or handler is None or not handler(self, command, data[header_end:frame_end]):
                self._ordinary(data[at + 4 : frame_end])
            at = frame_end
        if at:
            self.has_framed = True
        if at == end:
            return
        needed = 8
        if end - at >= 4:
            length = int.from_bytes(data[at : at + 4], "big", signed=True)
            check_length(length, data[at : at + 16], self._hub.limits.frame)
            needed = max(8, 4 + length)
        self._frames.keep(data[at:], needed)

    async def begin_tls(self, context: ssl.SSLContext, hostname: str) -> None:
        """Begin TLS as a client and wait until the handshake is done.

        Raises:
            RemotingSendRequestError: the server closed the connection, for example because it has no TLS.
            FrameError: the handshake failed, for example because the certificate is for another name.
        """
        self._tls = TlsLayer(context, server_side=False, server_hostname=hostname)
        self._write_raw(self._tls.begin())
        ready = asyncio.get_running_loop().create_future()
        self._tls_ready = ready
        await asyncio.wait([ready, self.closed], return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            ready.cancel()
            raise RemotingSendRequestError(self.remote_address, "the TLS handshake was not completed")
        ready.result()

    def _is_tls(self, data: bytes) -> bool:
        if not self._is_server or self._frames.size:
            return False
        if data[:1] == b"\x16" and self._hub.tls_context is not None:
            self._tls = TlsLayer(self._hub.tls_context, server_side=True)
            return True
        if self._hub.requires_tls:
            raise FrameError("this server takes TLS connections only (tls.server.mode=enforcing)")
        return False

    def _decrypt(self, data: bytes) -> bytes:
        assert self._tls is not None
        try:
            plain = self._tls.receive(data)
        except ssl.SSLError as error:
            failure = FrameError(f"TLS failed: {getattr(error, 'verify_message', '') or error.reason or error}")
            if self._tls_ready is not None and not self._tls_ready.done():
                self._tls_ready.set_exception(failure)
            raise failure from None
        finally:
            self._write_raw(self._tls.outgoing())
        if self._tls.is_ready and self._tls_ready is not None and not self._tls_ready.done():
            self._tls_ready.set_result(None)
        if self._out:
            # Said while the handshake went on.
            self.flush()
        return plain

    # --- requests ------------------------------------------------------------------------------------------------

    def _ordinary(self, frame: bytes) -> None:
        command = decode(frame)
        if command.is_response:
            self._take_response(command)
            return
        request = Request(command, self, self._hub.clock.wall_ms())
        registration = self._hub.processors.find(command.code)
        if registration is None:
            self._finish(
                request,
                RemotingCommand.create_response(
                    ResponseCode.REQUEST_CODE_NOT_SUPPORTED, f" request type {command.code} not supported"
                ),
            )
            return
        for interceptor in self._hub.processors.interceptors:
            refusal = interceptor.before(request)
            if refusal is not None:
                self._finish(request, refusal)
                return
        try:
            result = registration.handler(request)
        except Exception as error:
            self._finish(request, _failure(command, error))
            return
        if result is None or isinstance(result, RemotingCommand | Deferred):
            self._finish(request, result)
        else:
            self._run(request, result)

    def _run(self, request: Request, awaitable: Awaitable[Answer]) -> None:
        self._in_work += 1
        if self._in_work >= self._hub.limits.requests_in_work:
            self._pause("requests in work")
        task = asyncio.get_running_loop().create_task(self._await(request, awaitable))
        self._hub.tasks.add(task)
        task.add_done_callback(self._hub.tasks.discard)

    async def _await(self, request: Request, awaitable: Awaitable[Answer]) -> None:
        try:
            result = await awaitable
        except Exception as error:
            result = _failure(request.command, error)
        finally:
            self._in_work -= 1
            self._resume("requests in work")
        self._finish(request, result)

    def _finish(self, request: Request, result: Answer) -> None:
        if isinstance(result, RemotingCommand):
            for interceptor in reversed(self._hub.processors.interceptors):
                interceptor.after(request, result)
            request.reply(result)

    # --- asking --------------------------------------------------------------------------------------------------

    async def request(self, command: RemotingCommand, timeout: float) -> RemotingCommand:
        """Send a request over this connection and wait for its response.

        Args:
            command: the request; it is numbered here.
            timeout: seconds.

        Raises:
            RemotingTimeoutError: no answer in time; a later one is dropped.
            RemotingSendRequestError: the connection is or was closed.
            RemotingTooMuchRequestError: 65,535 requests are waiting already.

        Cancellation: the answer is dropped when it comes; the peer does not learn of it.
        """
        if not self.is_open:
            raise RemotingSendRequestError(self.remote_address, "the connection is closed")
        if len(self._waiting) >= 65_535:
            raise RemotingTooMuchRequestError(
                f"{len(self._waiting)} requests to {self.remote_address} wait for answers"
            )
        command.opaque = self._hub.next_opaque()
        future: asyncio.Future[RemotingCommand] = asyncio.get_running_loop().create_future()
        self._waiting[command.opaque] = future
        try:
            self.send(command)
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError:
            raise RemotingTimeoutError(self.remote_address, timeout, command.code) from None
        finally:
            self._waiting.pop(command.opaque, None)

    def one_way(self, command: RemotingCommand) -> None:
        """Send a request that is not answered.

        Raises:
            RemotingSendRequestError: the connection is closed.
        """
        if not self.is_open:
            raise RemotingSendRequestError(self.remote_address, "the connection is closed")
        command.opaque = self._hub.next_opaque()
        command.flag |= ONE_WAY_FLAG
        self.send(command)

    def _take_response(self, response: RemotingCommand) -> None:
        future = self._waiting.get(response.opaque)
        if future is not None and not future.done():
            future.set_result(response)
            return
        # The asker has given up, or never asked.
        self._unknown_responses += 1
        if self._is_server and self._unknown_responses > self._hub.limits.unknown_responses:
            raise FrameError(f"{self._unknown_responses} responses that answer no request")

    # --- writing -------------------------------------------------------------------------------------------------

    def send(self, command: RemotingCommand) -> None:
        """Write a command; a large body is not copied."""
        if len(command.body) > _JOIN_LIMIT:
            self._out.append(encode_head(command, len(command.body)))
            self.write_soon(command.body)
        else:
            self.write_soon(encode(command))

    def write_soon(self, data: bytes | bytearray | memoryview) -> None:
        """Write `data` with everything else that this connection has to say in this loop iteration."""
        self._out.append(data)  # type: ignore[arg-type]
        if not self._flush_is_due:
            self._flush_is_due = True
            self._hub.flush_soon(self)

    def write_now(self, data: bytes | bytearray | memoryview) -> None:
        """Write `data`, behind everything that waits already, at once: for those who join their answers themselves."""
        transport = self._transport
        if self._out or self._pauses or self._tls is not None or transport is None or transport.is_closing():
            self._out.append(data)  # type: ignore[arg-type]
            self.flush()
        else:
            self.last_active = self._time()
            transport.write(data)

    def flush(self) -> None:
        """Hand everything to the transport in one write."""
        self._flush_is_due = False
        tls = self._tls
        if tls is not None and not tls.is_ready:
            return
        out, self._out = self._out, []
        if not out:
            return
        data = out[0] if len(out) == 1 else b"".join(out)
        self.last_active = self._time()
        self._write_raw(data if tls is None else tls.encrypt(data))

    def _write_raw(self, data: bytes | bytearray | memoryview) -> None:
        transport = self._transport
        if not data or transport is None or transport.is_closing():
            return
        transport.write(data)
        if self._pauses:
            # The transport said that it holds more than `unsent_pause`; before that there is nothing to look at.
            unsent = transport.get_write_buffer_size()
            if unsent > self._hub.limits.unsent_abort:
                self.abort(f"{unsent} bytes are unsent: the peer does not read")

    def pause_writing(self) -> None:
        """Called by the loop when the peer reads too slowly: take no further requests from it."""
        self._pause("unsent bytes")

    def resume_writing(self) -> None:
        """Called by the loop when the peer has caught up."""
        self._resume("unsent bytes")

    def _pause(self, reason: str) -> None:
        if not self._pauses and self.is_open and self._transport is not None:
            self._transport.pause_reading()
        self._pauses.add(reason)

    def _resume(self, reason: str) -> None:
        if reason in self._pauses:
            self._pauses.discard(reason)
            if not self._pauses and self.is_open and self._transport is not None:
                self._transport.resume_reading()

    def __repr__(self) -> str:
        state = "open" if self.is_open else "closed"
        return f"<Connection {self.remote_address} {state}, {len(self._waiting)} waiting, {self._in_work} in work>"


def _failure(command: RemotingCommand, error: Exception) -> RemotingCommand:
    """Return the response to a request whose handler raised: the text of our own errors, the kind of all others."""
    if not isinstance(error, RocketMQError):
        logger.error("request %d failed", command.code, exc_info=error)
    text = str(error) if isinstance(error, RocketMQError) else f"{type(error).__name__}: {error}"
    return RemotingCommand.create_response(ResponseCode.SYSTEM_ERROR, text)
