"""Removes clients that are gone: at once when their connection closes, after a while when they fall silent.

Source: `ClientHousekeepingService`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio

from rocketmq_py.broker.client.channel import ClientConnection
from rocketmq_py.broker.client.consumer_manager import ConsumerManager
from rocketmq_py.broker.client.producer_manager import ProducerManager


class ClientHousekeepingService:
    """Keeps the tables of producers and consumers in step with the connections."""

    def __init__(self, consumers: ConsumerManager, producers: ProducerManager) -> None:
        self._consumers = consumers
        self._producers = producers

    def closed(self, connection: ClientConnection) -> None:
        """Remove a connection that was closed by either side, or was idle for too long."""
        self._consumers.closed(connection)
        self._producers.closed(connection)

    def scan(self) -> None:
        """Remove clients without a heartbeat for too long, and close their connections."""
        now = asyncio.get_running_loop().time()
        expired = dict.fromkeys([*self._producers.expire(now), *self._consumers.expire(now)])
        for connection in expired:
            connection.close("its client sent no heartbeat for too long")
