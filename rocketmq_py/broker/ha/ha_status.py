"""How replication goes, for `mqadmin haStatus`, for other brokers, and for everybody who asks for a broker's state.

Source: `DefaultHAService#getRuntimeInfo`, `AdminBrokerProcessor#getBrokerHaStatus`, `#prepareRuntimeInfo`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable

from rocketmq_py.broker.ha.broker_role import BrokerRoles
from rocketmq_py.broker.ha.special_services import SpecialServices
from rocketmq_py.common.environment import Clock
from rocketmq_py.remoting.bodies.ha_status import HAClientRuntimeInfo, HAConnectionRuntimeInfo, HARuntimeInfo
from rocketmq_py.store.checkpoint import StoreCheckpoint
from rocketmq_py.store.commit_log import CommitLog
from rocketmq_py.store.config import MessageStoreConfig
from rocketmq_py.store.ha.ha_client import HAClient
from rocketmq_py.store.ha.ha_connection import HAConnection
from rocketmq_py.store.ha.ha_service import HAService


class HAStatus:
    """Collects it.

    Args:
        config: when a slave counts as in sync.
        clock: for stamps.
        roles: master or slave.
        log: its end.
        service: the slaves of a master.
        client: the link of a slave.
        checkpoint: what a slave remembers of its master.
        special: whose services run here.
    """

    def __init__(
        self,
        config: MessageStoreConfig,
        clock: Clock,
        roles: BrokerRoles,
        log: CommitLog,
        service: HAService,
        client: HAClient,
        checkpoint: StoreCheckpoint,
        special: SpecialServices,
    ) -> None:
        self._config = config
        self._clock = clock
        self._roles = roles
        self._log = log
        self._service = service
        self._client = client
        self._checkpoint = checkpoint
        self._special = special
        # What was sent to each slave, or came to this one, at the last measurement, and how fast that goes.
        self._before: dict[Hashable, int] = {}
        self._rates: dict[Hashable, int] = {}

    def measure(self) -> None:
        """Find out how fast bytes go; to be called once a second."""
        now: dict[Hashable, int] = {link: link.sent_bytes for link in self._service.connections}
        if self._roles.is_slave:
            now[self._client] = self._log.max_offset
        self._rates = {key: max(0, value - self._before.get(key, value)) for key, value in now.items()}
        self._before = now

    def runtime_info(self) -> HARuntimeInfo:
        """Return the answer of GET_BROKER_HA_STATUS."""
        end = self._log.max_offset
        if self._roles.is_slave:
            return HARuntimeInfo(ha_client_runtime_info=self._as_slave(end), master=False)
        links = [self._as_master(link, end) for link in self._service.connections]
        return HARuntimeInfo(
            ha_connection_info=links,
            in_sync_slave_nums=sum(link.in_sync for link in links),
            master_commit_log_max_offset=end,
        )

    def _as_slave(self, end: int) -> HAClientRuntimeInfo:
        link = self._client.link
        return HAClientRuntimeInfo(
            last_read_timestamp=self._stamp(link.last_read) if link is not None else 0,
            last_write_timestamp=self._stamp(link.last_write) if link is not None else 0,
            master_addr=self._client.address or None,
            master_flush_offset=self._checkpoint.master_flushed_offset,
            max_offset=end,
            transferred_byte_in_second=self._rates.get(self._client, 0),
        )

    def _as_master(self, connection: HAConnection, end: int) -> HAConnectionRuntimeInfo:
        reported = self._service.acks.reported(connection)
        return HAConnectionRuntimeInfo(
            addr=connection.address,
            diff=end - reported,
            in_sync=end - reported < self._config.ha_max_gap_not_in_sync,
            slave_ack_offset=reported,
            transfer_from_where=max(0, connection.next_offset),
            transferred_byte_in_second=self._rates.get(connection, 0),
        )

    def _stamp(self, loop_time: float) -> int:
        """Return the wall clock (ms) of a time of the loop."""
        return self._clock.wall_ms() - round((asyncio.get_running_loop().time() - loop_time) * 1000)

    def broker_info(self) -> dict[str, str]:
        """Return what GET_BROKER_RUNTIME_INFO says about this."""
        info = {
            "brokerRole": self._config.broker_role.value,
            "isSpecialServiceRunning": "true" if self._special.is_running else "false",
        }
        if self._roles.is_slave:
            info["masterAddr"] = self._roles.master.address
            info["haMasterAddress"] = self._client.address
        else:
            info["slaveNums"] = str(len(self._service.connections))
            behind = self._log.max_offset - self._service.acks.largest if self._service.connections else 0
            info["slaveFallBehindBytes"] = str(behind)
        return info

    def __repr__(self) -> str:
        return f"<HAStatus {self.broker_info()}>"
