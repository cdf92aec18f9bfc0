"""Tells the brokers of a group that their master is another one now.

The notice is one-way and may get lost: brokers ask as well, every 5 s.

Source: `ControllerManager#notifyBrokerRoleChanged`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import functools
import logging

from rocketmq_py.common.errors import RocketMQError
from rocketmq_py.remoting.bodies.cluster import BrokerMemberGroup
from rocketmq_py.remoting.bodies.controller import SyncStateSet
from rocketmq_py.remoting.client import RemotingClient
from rocketmq_py.remoting.codes import RequestCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.header import encode_header
from rocketmq_py.remoting.headers.controller import ElectMasterResponseHeader, NotifyBrokerRoleChangedRequestHeader
from rocketmq_py.remoting.java_json import encode_body

logger = logging.getLogger(__name__)


class RoleChangeNotifier:
    """Sends NOTIFY_BROKER_ROLE_CHANGED (1008).

    Args:
        client: for the notices; whoever made it closes it.
    """

    def __init__(self, client: RemotingClient) -> None:
        self._client = client
        # By address: a newer notice takes the place of one that is still waiting for a connection.
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def elected(self, group: BrokerMemberGroup, header: ElectMasterResponseHeader, in_sync: list[int]) -> None:
        """Begin to tell the brokers of `group` about the new master."""
        notice = NotifyBrokerRoleChangedRequestHeader(
            master_address=header.master_address,
            master_epoch=header.master_epoch,
            sync_state_set_epoch=header.sync_state_set_epoch,
            master_broker_id=header.master_broker_id,
        )
        body = encode_body(SyncStateSet(sync_state_set=in_sync, sync_state_set_epoch=header.sync_state_set_epoch or 0))
        for address in group.broker_addrs.values():
            older = self._tasks.pop(address, None)
            if older is not None:
                older.cancel()
            task = asyncio.get_running_loop().create_task(self._notify(address, notice, body))
            self._tasks[address] = task
            task.add_done_callback(functools.partial(self._done, address))

    def _done(self, address: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(address) is task:
            del self._tasks[address]

    async def _notify(self, address: str, notice: NotifyBrokerRoleChangedRequestHeader, body: bytes) -> None:
        command = RemotingCommand.create_request(RequestCode.NOTIFY_BROKER_ROLE_CHANGED, encode_header(notice), body)
        try:
            await self._client.one_way(address, command)
        except RocketMQError as error:
            logger.warning("broker %s was not told of its new master: %s", address, error)

    async def stop(self) -> None:
        """Give up what was not sent yet."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
