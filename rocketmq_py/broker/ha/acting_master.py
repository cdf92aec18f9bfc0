"""Who runs the special services of a group: its master, and in its absence, if that is switched on, the first slave.

    master alive            the master
    no master               nobody; with `enableSlaveActingMaster` the slave with the smallest id: the acting master
    master comes back       the acting master ends its services, and sends all held readers back

An acting master takes no messages: its log is a copy, and a copy it must stay. What its services put goes to another
broker name, over the escape bridge.

Source: `BrokerController#updateMinBroker`, `#onMinBrokerChange`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.ha.broker_role import BrokerRoles
from rocketmq_py.broker.ha.member_group import MemberGroup, Members
from rocketmq_py.broker.ha.special_services import SpecialServices
from rocketmq_py.broker.read_policy import MASTER_ID
from rocketmq_py.store.dispatch import Dispatchers

logger = logging.getLogger(__name__)

#: Seconds that an acting master waits for the master that said it would come.
YIELD_SECONDS: Final = 30.0


class ActingMaster:
    """Switches the special services of a broker with a fixed role.

    Args:
        config: its id, and whether slaves may act.
        roles: its role.
        members: who is alive.
        services: what is switched.
        dispatchers: where readers wait.

    Attributes:
        is_online: false while this broker must stay unknown, see `pre_online.py`.
    """

    def __init__(
        self,
        config: BrokerConfig,
        roles: BrokerRoles,
        members: MemberGroup,
        services: SpecialServices,
        dispatchers: Dispatchers,
    ) -> None:
        self.is_online = True
        self._config = config
        self._roles = roles
        self._members = members
        self._services = services
        self._dispatchers = dispatchers
        self._wanted = asyncio.Event()
        self._switching = asyncio.Lock()
        self._yields_until = 0.0
        self._task: asyncio.Task[None] | None = None
        members.listeners.append(self._members_changed)

    @property
    def is_acting(self) -> bool:
        """Whether this slave acts for its master."""
        config = self._config
        return (
            config.enable_slave_acting_master
            and asyncio.get_running_loop().time() >= self._yields_until
            and self._roles.is_slave
            and config.broker_id in self._members.members
            and self._members.min_id == config.broker_id
        )

    @property
    def runs_services(self) -> bool:
        """Whether the special services are this broker's."""
        return self.is_online and (self.is_acting if self._roles.is_slave else True)

    async def serve(self) -> None:
        """Begin to watch; a master's services run when this returns. In controller mode the controller decides."""
        if self._config.enable_controller_mode:
            return
        await self._switch()
        self._task = asyncio.get_running_loop().create_task(self._run(), name="acting master")

    async def stop_serving(self) -> None:
        """End watching. The services themselves end with the broker, each in its own way."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def look_again(self) -> None:
        """Switch the services if that is due; returns at once."""
        self._wanted.set()

    async def _run(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            await self._switch()

    async def _switch(self) -> None:
        async with self._switching:
            await self._services.switch(self.runs_services)

    async def yield_to_master(self) -> None:
        """End the services here, because a master is about to take over; returns when nothing of them is under way.

        If it does not show itself within `YIELD_SECONDS`, this broker acts again.
        """
        loop = asyncio.get_running_loop()
        self._yields_until = loop.time() + YIELD_SECONDS
        loop.call_at(self._yields_until, self.look_again)
        await self._switch()

    def _members_changed(self, before: Members, now: Members) -> None:
        if not self._roles.is_slave or self._config.enable_controller_mode:
            return
        if MASTER_ID in now and MASTER_ID not in before:
            # Readers that wait here are answered "ask the master".
            self._dispatchers.wake_all()
        elif before and min(before) != min(now, default=None):
            logger.info("the smallest id of this group is %s now, it was %d", min(now, default="unknown"), min(before))
        self.look_again()
