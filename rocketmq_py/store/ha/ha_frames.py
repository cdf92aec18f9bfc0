"""What crosses the wire between a master and its slaves: RocketMQ's default protocol. Bytes only, no sockets.

There is no handshake, no version and no checksum. A slave says how far its log goes, whenever it likes; the master sends
its log from there on, in frames that never cross the border of a log file but may begin and end inside a record.

Source: `DefaultHAConnection`, `DefaultHAClient`, RocketMQ 5.3.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

from rocketmq_py.common.layout import Field, Layout

REPORT_LAYOUT: Final = Layout("report, slave to master", Field("offset", "q", "where the slave's log ends"))

HEADER_LAYOUT: Final = Layout(
    "frame header, master to slave",
    Field("offset", "q", "physical offset of the first body byte"),
    Field("size", "i", "bytes of the log that follow; 0 is a sign of life"),
)


class Header(NamedTuple):
    """What a frame from the master says about itself."""

    offset: int
    size: int


class MasterCodec(Protocol):
    """One link as the master sees it. The connection does input and output, this says what the bytes mean."""

    def feed(self, data: bytes) -> int | None:
        """Take what a slave sent, in pieces of any size; return its newest report, None if none is complete."""
        ...

    def take_reply(self) -> bytes:
        """Return what must be sent before any frame, and forget it; empty if there is nothing."""
        ...

    def frame_end(self, offset: int, end: int) -> int:
        """Return how far a frame may go that begins at `offset`, when the log could give bytes up to `end`."""
        ...

    def header(self, offset: int, size: int) -> bytes:
        """Return the bytes before `size` bytes of the log from `offset` on; size 0 makes a heartbeat."""
        ...


class SlaveCodec(Protocol):
    """One link as the slave sees it."""

    #: Bytes before the body of a frame.
    header_size: int

    def hello(self) -> bytes:
        """Return what is sent first on a new link; empty if nothing is."""
        ...

    def is_ready(self) -> bool:
        """Tell whether the log may be asked for: always true without a handshake."""
        ...

    def report(self, offset: int) -> bytes:
        """Return a report: this slave has the log up to `offset`."""
        ...

    def header(self, data: bytes | bytearray | memoryview, at: int) -> Header:
        """Read the header that begins at byte `at`; `header_size` bytes are there."""
        ...


class DefaultMasterCodec:
    """The default protocol on the master's side."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> int | None:
        """Return the last report that is complete; those before it say less and do not matter any more."""
        data = self._rest + data
        whole = len(data) - len(data) % REPORT_LAYOUT.size
        self._rest = data[whole:]
        if not whole:
            return None
        offset: int = REPORT_LAYOUT.struct.unpack_from(data, whole - REPORT_LAYOUT.size)[0]
        return offset

    def take_reply(self) -> bytes:
        """There is no handshake."""
        return b""

    def frame_end(self, offset: int, end: int) -> int:
        """Frames have no borders but those of the log's files."""
        return end

    def header(self, offset: int, size: int) -> bytes:
        """Return the 12 bytes before a body."""
        return HEADER_LAYOUT.struct.pack(offset, size)


class DefaultSlaveCodec:
    """The default protocol on the slave's side."""

    header_size = HEADER_LAYOUT.size

    def hello(self) -> bytes:
        """There is no handshake."""
        return b""

    def is_ready(self) -> bool:
        """A link can be used at once."""
        return True

    def report(self, offset: int) -> bytes:
        """Return the 8 bytes of a report."""
        return REPORT_LAYOUT.struct.pack(offset)

    def header(self, data: bytes | bytearray | memoryview, at: int) -> Header:
        """Read offset and size; the size of a forged frame may be negative."""
        return Header(*HEADER_LAYOUT.struct.unpack_from(data, at))
