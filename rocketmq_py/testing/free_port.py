"""A port for a server that a test starts in a process of its own, which cannot be asked for the port that it was given."""

from __future__ import annotations

import random
import socket
from collections.abc import Sequence

#: Below the ports that Linux, macOS and Windows give to outgoing connections: a port of theirs may be taken between the
#: moment when it was found free and the start of the server.
FIRST, LAST = 10_240, 32_000


def free_port(neighbours: Sequence[int] = ()) -> int:
    """Return a port of 127.0.0.1 that nobody listens on.

    Args:
        neighbours: distances of other ports that must be free, too, such as -2 and 1 for a broker of Apache's.

    Raises:
        RuntimeError: no such port was found.
    """
    # Tests that run side by side, each in a process, must not try the same ones.
    chance = random.SystemRandom()
    for _ in range(1_000):
        port = chance.randint(FIRST, LAST)
        if all(_is_free(port + distance) for distance in (0, *neighbours)):
            return port
    raise RuntimeError(f"no free port was found between {FIRST} and {LAST}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
