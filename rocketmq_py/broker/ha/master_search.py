"""How a slave with a fixed role learns where its master is: from what name servers answer to its registrations.

`haMasterAddress` overrides where the log comes from. (RocketMQ 5.3.3 has the setting and ignores it.)

Source: `BrokerController#handleRegisterBrokerResult`, RocketMQ 5.3.
"""

from __future__ import annotations

from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.ha.broker_role import BrokerRoles, Master
from rocketmq_py.broker.ha.member_group import MemberGroup, Members
from rocketmq_py.broker.read_policy import MASTER_ID
from rocketmq_py.broker.registration import Registered, Registration
from rocketmq_py.common.host import split_address
from rocketmq_py.store.config import MessageStoreConfig


class MasterSearch:
    """Tells `BrokerRoles` where the master is.

    Args:
        config: whether roles are fixed.
        store_config: the address that overrides.
        roles: who wants to know.
        registration: asks the name servers.
        members: says when a master has come.
    """

    def __init__(
        self,
        config: BrokerConfig,
        store_config: MessageStoreConfig,
        roles: BrokerRoles,
        registration: Registration,
        members: MemberGroup,
    ) -> None:
        self._config = config
        self._store_config = store_config
        self._roles = roles
        self._registration = registration
        registration.listeners.append(self._registered)
        members.listeners.append(self._members_changed)

    async def start(self) -> None:
        """Use the configured address, before anybody was asked.

        Raises:
            InvalidInputError: it is none.
        """
        configured = self._store_config.ha_master_address
        if configured:
            split_address(configured)
            if self._roles.is_slave and not self._config.enable_controller_mode:
                self._roles.set_master(Master(self._roles.master.address, configured))

    def found(self, address: str, ha_address: str) -> None:
        """Take note of a master, if this broker is a slave that follows whoever the name servers name."""
        if self._roles.is_slave and not self._config.enable_controller_mode:
            self._roles.set_master(Master(address, self._store_config.ha_master_address or ha_address))

    def _registered(self, answer: Registered) -> None:
        if answer.master_addr and answer.ha_server_addr:
            self.found(answer.master_addr, answer.ha_server_addr)

    def _members_changed(self, before: Members, now: Members) -> None:
        is_new = now.get(MASTER_ID) not in (None, self._roles.master.address)
        if self._roles.is_slave and (is_new or (MASTER_ID in now and MASTER_ID not in before)):
            # Only the answer to a registration says where a master's log comes from.
            self._registration.register_soon()
