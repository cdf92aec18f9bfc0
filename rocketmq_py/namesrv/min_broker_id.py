"""Tells brokers that the process with the smallest id of their broker name is another one than before.

Slaves that may act for a dead master live by this notice. It is one-way and may get lost; brokers ask, too.

Source: `RouteInfoManager#notifyMinBrokerIdChanged`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import logging

from rocketmq_py.namesrv.config import NamesrvConfig
from rocketmq_py.namesrv.route_info import MinBrokerIdChange
from rocketmq_py.remoting.client import RemotingClient
from rocketmq_py.remoting.codes import RequestCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.errors import RemotingError
from rocketmq_py.remoting.header import encode_header
from rocketmq_py.remoting.headers.namesrv import NotifyMinBrokerIdChangeRequestHeader

logger = logging.getLogger(__name__)


class MinBrokerIdNotifier:
    """Sends NOTIFY_MIN_BROKER_ID_CHANGE (905) if `notifyMinBrokerIdChanged` is on.

    Args:
        config: the name server's settings.
        client: for the notices; whoever made it closes it.
    """

    def __init__(self, config: NamesrvConfig, client: RemotingClient) -> None:
        self._config = config
        self._client = client
        self._tasks: set[asyncio.Task[None]] = set()

    def changed(self, change: MinBrokerIdChange) -> None:
        """Begin to tell the processes of one broker name, if they want to know."""
        if not self._config.notify_min_broker_id_changed or not change.data.enable_acting_master:
            return
        for address in receivers(change):
            task = asyncio.get_running_loop().create_task(self._notify(address, change))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Give up what was not sent yet."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _notify(self, address: str, change: MinBrokerIdChange) -> None:
        smallest = min(change.data.broker_addrs)
        header = NotifyMinBrokerIdChangeRequestHeader(
            min_broker_id=smallest,
            broker_name=change.data.broker_name,
            min_broker_addr=change.data.broker_addrs[smallest],
            offline_broker_addr=change.offline_addr,
            ha_broker_addr=change.ha_server_addr,
        )
        command = RemotingCommand.create_request(RequestCode.NOTIFY_MIN_BROKER_ID_CHANGE, encode_header(header))
        try:
            await self._client.one_way(address, command)
        except RemotingError as error:
            logger.warning("broker %s was not told of its new smallest id %d: %s", address, smallest, error)


def receivers(change: MinBrokerIdChange) -> list[str]:
    """Return who is told: everybody if a process went or there is only one, else everybody but the new smallest."""
    addresses = change.data.broker_addrs
    if change.offline_addr is not None or len(addresses) == 1:
        return list(addresses.values())
    smallest = min(addresses)
    return [address for broker_id, address in addresses.items() if broker_id != smallest]
