"""From a stream of bytes to whole frames, without copying large ones twice.

One object per connection: a half frame of one peer never meets bytes of another.
"""

from __future__ import annotations

from rocketmq_py.remoting.codec import MAX_FRAME_SIZE
from rocketmq_py.remoting.errors import FrameError

#: What other protocols send first, for a message that helps.
_FOREIGN = {
    b"GET ": "HTTP",
    b"POST": "HTTP",
    b"HEAD": "HTTP",
    b"PUT ": "HTTP",
    b"PRI ": "HTTP/2 (gRPC clients connect to the proxy's port)",
    b"SSH-": "SSH",
    b"*1\r\n": "Redis",
    b"PROX": "a PROXY protocol line",
}


def check_length(length: int, first: bytes, limit: int = MAX_FRAME_SIZE) -> None:
    """Check the length field of a frame before anything is kept for it.

    Raises:
        FrameError: it is impossible; says so if the bytes are those of another protocol.
    """
    if 4 <= length <= limit - 4:
        return
    if first[:2] in (b"\x16\x03",):
        raise FrameError("a TLS handshake came, but TLS is not enabled here")
    if foreign := _FOREIGN.get(first[:4]):
        raise FrameError(f"the peer speaks {foreign}; this port speaks RocketMQ's remoting protocol")
    raise FrameError(f"frame length {length} (first bytes {first[:16].hex(' ')}); it is 4 to {limit - 4}")


class FrameBuffer:
    """Collects the rest of a frame that has begun.

    Chunks are joined once, when the frame is whole; a large body is therefore copied once and not once per read.
    """

    __slots__ = ("_chunks", "_needed", "size")

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._needed = 4
        self.size = 0

    def keep(self, rest: bytes, needed: int) -> None:
        """Keep the beginning of a frame; `needed` bytes in all make it worth looking again."""
        self._chunks = [rest] if rest else []
        self.size = len(rest)
        self._needed = needed

    def add(self, data: bytes) -> bytes | None:
        """Add what was read; return all bytes once enough are there, else None."""
        if not self._chunks:
            return data
        self._chunks.append(data)
        self.size += len(data)
        if self.size < self._needed:
            return None
        joined = b"".join(self._chunks)
        self._chunks = []
        self.size = 0
        return joined
