"""The second port, two below the broker's own: slaves of Apache RocketMQ ask their masters over it.

There it is the "VIP channel", for requests that must not wait behind sends. Topics (21) and timers (60, 61) are asked for
over it, and a slave that finds nobody there never gets them. All requests are the same on both ports here.

Differs from RocketMQ: it is opened when the first slave has come, and a broker without slaves has one port.

Source: `BrokerController#initialRemotingServer`, `MixAll#brokerVIPChannel`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from rocketmq_py.remoting.server import RemotingServer
from rocketmq_py.store.ha.ha_service import HAService

logger = logging.getLogger(__name__)

#: How far below the broker's own port it is.
DISTANCE: Final = 2


class FastPort:
    """Opens it.

    Args:
        server: listens.
        service: knows the slaves.
    """

    def __init__(self, server: RemotingServer, service: HAService) -> None:
        self._server = server
        self._service = service
        self._opening: asyncio.Task[None] | None = None
        service.on_change.append(self._changed)

    def _changed(self) -> None:
        port = self._server.port - DISTANCE
        if self._opening is None and self._service.connections and port > 0:
            self._opening = asyncio.get_running_loop().create_task(self._open(port), name="fast port")

    async def _open(self, port: int) -> None:
        if await self._server.listen_also(port):
            logger.info("also listening on port %d, for slaves of Apache RocketMQ", port)

    async def stop_serving(self) -> None:
        """Open it no more."""
        self._service.on_change.remove(self._changed)
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
