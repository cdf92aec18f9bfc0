"""What this broker is to its group now, and who must know when that changes.

With fixed roles the settings say it once and for all. In controller mode a broker begins as nothing, and is told.

Source: `BrokerController#changeSpecialServiceStatus`, `ReplicasManager#changeToMaster`, `#changeToSlave`, RocketMQ 5.3.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.read_policy import MASTER_ID
from rocketmq_py.store.config import BrokerRole, MessageStoreConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Master:
    """Where the master of this group is.

    Attributes:
        address: for clients and for the slave's questions, `ip:port`; empty if there is none or it is not known.
        ha_address: where its log comes from, `ip:port`; empty if it is not known.
    """

    address: str = ""
    ha_address: str = ""


NO_MASTER = Master()

#: Called one after the other, in the order of installation, after the settings were changed.
RoleListener = Callable[[], Awaitable[None]]
MasterListener = Callable[[Master], None]


class BrokerRoles:
    """Owns the role: nobody else changes `broker_role` and `broker_id` of the settings.

    Attributes:
        master: where the master is, as far as a slave knows.
        on_role: told after the role has changed at run time (controller mode); each does its part of the change.
        on_master: told when the master's addresses have changed.
    """

    def __init__(self, config: BrokerConfig, store_config: MessageStoreConfig) -> None:
        self.master = NO_MASTER
        self.on_role: list[RoleListener] = []
        self.on_master: list[MasterListener] = []
        self._config = config
        self._store_config = store_config

    @property
    def is_slave(self) -> bool:
        """Whether this broker copies another one's log and takes no messages itself."""
        return self._store_config.broker_role is BrokerRole.SLAVE

    async def change(self, role: BrokerRole, broker_id: int) -> None:
        """Be something else from now on, and let every listener do its part, one after the other."""
        is_known = (self._store_config.broker_role, self._config.broker_id) == (role, broker_id)
        if is_known:
            return
        self._store_config.broker_role, self._config.broker_id = role, broker_id
        logger.info("this broker is %s with id %d now", role.value, broker_id)
        for listener in self.on_role:
            await listener()

    def set_master(self, master: Master) -> None:
        """Note where the master is; a changed address is told to the listeners."""
        if master != self.master:
            self.master = master
            for listener in self.on_master:
                listener(master)

    def __repr__(self) -> str:
        role = self._store_config.broker_role.value
        return f"<BrokerRoles {role} id {self._config.broker_id} master {self.master.address or 'unknown'}>"


def check_role(config: BrokerConfig, store_config: MessageStoreConfig) -> str | None:
    """Return what is wrong with the configured role and id; None if they agree."""
    role, broker_id = store_config.broker_role, config.broker_id
    if config.enable_controller_mode:
        # Both are assigned.
        return None
    if role is BrokerRole.SLAVE and broker_id <= MASTER_ID:
        return f"brokerRole=SLAVE needs a brokerId greater than 0, not {broker_id}: set brokerId=1"
    if role is not BrokerRole.SLAVE and broker_id != MASTER_ID:
        # Differs from RocketMQ, which makes it 0: a slave whose file lacks its role would become a second master.
        return f"brokerRole={role.value} has brokerId 0, not {broker_id}: set brokerRole=SLAVE, or brokerId=0"
    return None
