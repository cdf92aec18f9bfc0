"""Which code is handled by whom: the table that every stage adds its request codes to.

Source: `NettyRemotingAbstract#processorTable`, `RPCHook`, RocketMQ 5.3.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from rocketmq_py.remoting.codes import RequestCode
from rocketmq_py.remoting.command import RemotingCommand

if TYPE_CHECKING:
    from rocketmq_py.remoting.connection import Connection


class Deferred(enum.Enum):
    """What a handler returns when it answers later, through `Request.reply`."""

    DEFERRED = "deferred"


DEFERRED: Final = Deferred.DEFERRED


@dataclass(slots=True)
class Request:
    """A request on its way through its handler.

    Attributes:
        command: the decoded command.
        connection: where it came from.
        received_ms: wall clock when it was read, milliseconds.
    """

    command: RemotingCommand
    connection: Connection
    received_ms: int

    def reply(self, response: RemotingCommand) -> None:
        """Send the response, in the request's header form and with its number; nothing for a one-way request."""
        command = self.command
        if command.is_one_way:
            return
        response.opaque = command.opaque
        response.serialize_type = command.serialize_type
        self.connection.send(response)


Answer = RemotingCommand | Deferred | None
#: Plain handlers keep the order of a connection's requests; a coroutine handler runs as a task of its own.
Handler = Callable[[Request], Answer | Awaitable[Answer]]


class HotCommand(msgspec.Struct, gc=False, rename={"ext": "extFields"}):
    """The part of a JSON header that every hot handler needs; the fields stay raw JSON until one is chosen."""

    code: int
    opaque: int
    ext: msgspec.Raw = msgspec.Raw(b"{}")
    flag: int = 0
    version: int = 0


#: Takes a request of the hot path, or returns False to leave it to the ordinary handler.
HotHandler = Callable[["Connection", HotCommand, bytes], bool]


class Interceptor(Protocol):
    """Sees every request of the ordinary path before and after its handler."""

    def before(self, request: Request) -> RemotingCommand | None:
        """Return a response to refuse the request, or None to let it pass."""
        ...

    def after(self, request: Request, response: RemotingCommand) -> None:
        """Look at the response before it is sent."""
        ...


@dataclass(frozen=True, slots=True)
class Registration:
    """One row of the table: the handler, and the kind of work it does (RocketMQ's thread pool)."""

    code: int
    handler: Handler
    pool: str


class Processors:
    """The table of handlers.

    Attributes:
        hot: code to hot handler, for codes that have one beside the ordinary handler.
        interceptors: asked in order before a handler, in reverse order after it.
    """

    def __init__(self) -> None:
        self.hot: dict[int, HotHandler] = {}
        self.interceptors: list[Interceptor] = []
        self._table: dict[int, Registration] = {}

    def register(self, code: int, handler: Handler, pool: str = "default") -> None:
        """Add the handler of a request code.

        Raises:
            ValueError: the code has a handler already.
        """
        if code in self._table:
            raise ValueError(f"request code {_name(code)} has a handler already: {self._table[code].handler}")
        self._table[code] = Registration(int(code), handler, pool)

    def guard(self, code: int, refuse: Callable[[Request], RemotingCommand | None]) -> None:
        """Let `refuse` look at each request of a code before its handler: what it returns is the answer.

        For codes without a hot handler. An interceptor sees every request, and the hot path is off where there is one.

        Raises:
            KeyError: the code has no handler.
        """
        row = self._table[code]

        def guarded(request: Request) -> Answer | Awaitable[Answer]:
            refusal = refuse(request)
            return row.handler(request) if refusal is None else refusal

        self._table[code] = Registration(row.code, guarded, row.pool)

    def find(self, code: int) -> Registration | None:
        """Return the row of a code, or None."""
        return self._table.get(code)

    def registrations(self) -> list[Registration]:
        """Return all rows by code."""
        return [self._table[code] for code in sorted(self._table)]

    def __repr__(self) -> str:
        return f"<Processors {', '.join(_name(code) for code in sorted(self._table))}>"


def _name(code: int) -> str:
    try:
        return f"{RequestCode(code).name} ({code})"
    except ValueError:
        return str(code)
