"""What a peer may use up. Every limit is a parameter; the defaults suit a broker of one process.

Source: reliability rules of this project; RocketMQ limits the frame and the idle time only.
"""

from __future__ import annotations

from dataclasses import dataclass

from rocketmq_py.remoting.codec import MAX_FRAME_SIZE


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, times in seconds.

    Attributes:
        frame: largest frame, its length field included.
        connections: open connections of the server.
        connections_per_address: open connections from one IP address.
        first_frame_seconds: until the first whole frame (or TLS handshake) of a connection.
        partial_frame_seconds: until the rest of a frame that has begun.
        idle_seconds: without a byte in either direction.
        requests_in_work: of one connection; then it is not read until one is answered.
        unsent_pause: unsent bytes of one connection at which it is not read any more.
        unsent_abort: unsent bytes of one connection at which it is closed.
        unknown_responses: responses that answer nothing, per connection, at which it is closed.
    """

    frame: int = MAX_FRAME_SIZE
    connections: int = 10_000
    connections_per_address: int = 10_000
    first_frame_seconds: float = 10.0
    partial_frame_seconds: float = 30.0
    idle_seconds: float = 120.0
    requests_in_work: int = 256
    unsent_pause: int = 4 << 20
    unsent_abort: int = 64 << 20
    unknown_responses: int = 1_000
