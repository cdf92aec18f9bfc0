"""The yardstick: what the event loop can do if it only sends back what it reads.

python -m loadtests.bench.echo PORT
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import cast


class Echo(asyncio.Protocol):
    """Sends back every read."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        # uvloop's transports are no subclasses of asyncio's.
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Send it back."""
        self.transport.write(data)


async def serve(port: int) -> None:
    """Serve until the process is ended."""
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", port, backlog=1_024)
    await server.serve_forever()


def main(port: int) -> None:
    """Run on uvloop where it is installed, as the broker does."""
    with contextlib.suppress(KeyboardInterrupt):
        try:
            import uvloop
        except ImportError:
            asyncio.run(serve(port))
        else:
            uvloop.run(serve(port))


if __name__ == "__main__":
    main(int(sys.argv[1]))
