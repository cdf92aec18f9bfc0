"""How brokers come into the tables of a name server, stay there, and go.

    REGISTER_BROKER every 30 s      -> in the tables, alive
    heartbeat, QUERY_DATA_VERSION   -> alive
    UNREGISTER_BROKER               -> out at once
    the connection closes           -> out at once
    120 s without a sign of life    -> out with the next scan

Nothing here touches a socket or a clock: the time comes in as an argument, and what has to be closed comes back.

Source: `RouteInfoManager`, `BatchUnregistrationService`, `BrokerHousekeepingService`, RocketMQ 5.3.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from rocketmq_py.common import permission
from rocketmq_py.common.data_version import DataVersion
from rocketmq_py.common.errors import RocketMQError
from rocketmq_py.namesrv.route_tables import BrokerKey, BrokerLiveInfo, RouteTables
from rocketmq_py.remoting.bodies.route import MASTER_ID, BrokerData, QueueData
from rocketmq_py.remoting.bodies.topic_config import TopicConfig, TopicConfigTable

logger = logging.getLogger(__name__)

#: Seconds without a sign of life after which a broker is dropped, unless it announced another time.
BROKER_CHANNEL_EXPIRED_SECONDS = 120.0


class RegistrationRefusedError(RocketMQError):
    """The name server does not take this registration; nothing was changed."""


@dataclass(frozen=True, slots=True)
class BrokerIdentity:
    """One broker process."""

    cluster_name: str
    broker_name: str
    broker_addr: str
    broker_id: int

    @property
    def key(self) -> BrokerKey:
        """Its key in the live table."""
        return self.cluster_name, self.broker_addr


@dataclass(frozen=True, slots=True)
class BrokerRegistration:
    """What one REGISTER_BROKER says.

    Attributes:
        identity: who registers.
        ha_server_addr: where its slaves fetch from.
        timeout: seconds of silence after which it is to be dropped.
        enable_acting_master: None for brokers of before 5.0, which do not say it.
        zone_name: where it runs.
        topics: its topics and their version.
        filter_servers: None leaves what is known.
        connection: the connection over which the request came.
    """

    identity: BrokerIdentity
    ha_server_addr: str
    timeout: float
    enable_acting_master: bool | None
    zone_name: str | None
    topics: TopicConfigTable
    filter_servers: list[str] | None
    connection: object


@dataclass(frozen=True, slots=True)
class RegisterBrokerResult:
    """What a slave learns by registering; both None for a master, or while there is none."""

    ha_server_addr: str | None = None
    master_addr: str | None = None


@dataclass(frozen=True, slots=True)
class MinBrokerIdChange:
    """The smallest broker id of a broker name is another one than before.

    Attributes:
        data: the processes after the change.
        offline_addr: the process that went, if one went.
        ha_server_addr: where the new smallest one's slaves fetch from, if it is known.
    """

    data: BrokerData
    offline_addr: str | None
    ha_server_addr: str | None


class RouteInfoManager:
    """Owns the route tables; nobody else writes to them, apart from `topic_admin`.

    Args:
        delete_topics: a full registration removes the topics that it lacks.

    Attributes:
        tables: what is known.
        min_broker_id_listeners: called after the smallest id of a broker name changed.
    """

    def __init__(self, *, delete_topics: bool = False) -> None:
        self.tables = RouteTables()
        self.delete_topics = delete_topics
        self.min_broker_id_listeners: list[Callable[[MinBrokerIdChange], None]] = []

    # --- coming ----------------------------------------------------------------------------------------------------

    def register_broker(self, registration: BrokerRegistration, now: float) -> RegisterBrokerResult:
        """Enter a broker process and its topics, or renew them.

        Args:
            registration: what it says.
            now: seconds of the event loop's clock.

        Raises:
            RegistrationRefusedError: it brings one topic only, and has never brought all of them. Differs from
                RocketMQ, which refuses too, but leaves a broker name without addresses behind.
        """
        tables, identity, topics = self.tables, registration.identity, registration.topics
        known = tables.broker_addr_table.get(identity.broker_name)
        addresses = known.broker_addrs if known is not None else {}
        if self._is_outdated(registration, addresses):
            tables.broker_live_table.pop(identity.key, None)
            return RegisterBrokerResult()
        if identity.broker_id not in addresses and len(topics.topic_config_table) == 1:
            raise RegistrationRefusedError(
                f"{identity.broker_name} {identity.broker_addr} is not registered and brings a single topic; "
                "a broker must register all its topics before it may register a change"
            )
        previous_min = min(addresses, default=MASTER_ID)
        data, is_first = self._enter_addresses(registration)
        if self._may_set_topics(registration, data):
            self._enter_topics(registration, data, is_first)
        tables.broker_live_table[identity.key] = BrokerLiveInfo(
            now, registration.timeout, topics.data_version, registration.connection, registration.ha_server_addr
        )
        if registration.filter_servers:
            tables.filter_server_table[identity.key] = registration.filter_servers
        elif registration.filter_servers is not None:
            tables.filter_server_table.pop(identity.key, None)
        if identity.broker_id < previous_min:
            self._tell_min_broker_id(MinBrokerIdChange(data, None, registration.ha_server_addr))
        return self._master_for(identity, data)

    def _is_outdated(self, registration: BrokerRegistration, addresses: dict[int, str]) -> bool:
        """Tell whether another process with this id is known that was elected later (a larger `state_version`)."""
        identity = registration.identity
        other = addresses.get(identity.broker_id)
        if other is None or other == identity.broker_addr:
            return False
        live = self.tables.broker_live_table.get((identity.cluster_name, other))
        if live is None:
            return False
        logger.warning(
            "broker %s id %d registers at %s, but %s holds that id and is alive; do two processes have one name?",
            identity.broker_name, identity.broker_id, identity.broker_addr, other,
        )  # fmt: skip
        return live.data_version.state_version > registration.topics.data_version.state_version

    def _enter_addresses(self, registration: BrokerRegistration) -> tuple[BrokerData, bool]:
        """Enter cluster, name and address; return the entry, and whether id or name are new."""
        identity, tables = registration.identity, self.tables
        tables.cluster_addr_table.setdefault(identity.cluster_name, set()).add(identity.broker_name)
        data = tables.broker_addr_table.get(identity.broker_name)
        if data is None:
            data = BrokerData(broker_name=identity.broker_name, cluster=identity.cluster_name)
            tables.broker_addr_table[identity.broker_name] = data
        data.enable_acting_master = bool(registration.enable_acting_master)
        if registration.zone_name is not None:
            data.zone_name = registration.zone_name
        # One address has one id: a slave that was promoted registers as 0 at the address that was 1 before.
        addresses = {
            broker_id: address
            for broker_id, address in data.broker_addrs.items()
            if address != identity.broker_addr or broker_id == identity.broker_id
        }
        is_first = identity.broker_id not in addresses
        addresses[identity.broker_id] = identity.broker_addr
        data.broker_addrs = addresses
        return data, is_first

    @staticmethod
    def _may_set_topics(registration: BrokerRegistration, data: BrokerData) -> bool:
        """Topics come from the master, or in its absence from the slave with the smallest id (5.0 and later)."""
        broker_id = registration.identity.broker_id
        return broker_id == MASTER_ID or (
            registration.enable_acting_master is not None and broker_id == min(data.broker_addrs)
        )

    def _enter_topics(self, registration: BrokerRegistration, data: BrokerData, is_first: bool) -> None:
        identity, topics, tables = registration.identity, registration.topics, self.tables
        live = tables.broker_live_table.get(identity.key)
        is_changed = is_first or live is None or live.data_version != topics.data_version
        if self.delete_topics and not topics.topic_queue_mapping_info_map:
            tables.remove_topics_of(identity.broker_name, keep=topics.topic_config_table)
        is_acting = identity.broker_id != MASTER_ID and data.enable_acting_master
        for topic, config in topics.topic_config_table.items():
            queues = tables.topic_queue_table.setdefault(topic, {})
            # With an unchanged version nothing is written over: a permission that an administrator wiped here
            # (WIPE_WRITE_PERM_OF_BROKER) must survive the registrations that come every 30 s.
            if is_changed or identity.broker_name not in queues:
                queues[identity.broker_name] = _queue_data(identity.broker_name, config, is_acting)
        if is_changed:
            for topic, mapping in topics.topic_queue_mapping_info_map.items():
                tables.mapping_table.setdefault(topic, {})[str(mapping.get("bname", identity.broker_name))] = mapping

    def _master_for(self, identity: BrokerIdentity, data: BrokerData) -> RegisterBrokerResult:
        master = data.master_addr
        if identity.broker_id == MASTER_ID or master is None:
            return RegisterBrokerResult()
        live = self.tables.broker_live_table.get((identity.cluster_name, master))
        return RegisterBrokerResult(live.ha_server_addr, master) if live is not None else RegisterBrokerResult()

    # --- staying ---------------------------------------------------------------------------------------------------

    def heartbeat(self, key: BrokerKey, now: float) -> None:
        """Note a sign of life; of an unknown process nothing is noted."""
        live = self.tables.broker_live_table.get(key)
        if live is not None:
            live.last_update = now

    def query_data_version(self, key: BrokerKey, version: DataVersion, now: float) -> tuple[bool, DataVersion | None]:
        """Note a sign of life; return whether the known version is another one (or none), and the known one."""
        self.heartbeat(key, now)
        live = self.tables.broker_live_table.get(key)
        if live is None:
            return True, None
        return live.data_version != version, live.data_version

    # --- going -----------------------------------------------------------------------------------------------------

    def unregister_broker(self, identity: BrokerIdentity) -> None:
        """Remove a process by its address; its broker name goes with its last process, its topics with the name.

        RocketMQ queues these removals and applies them in batches, because each takes the write lock.
        """
        tables = self.tables
        tables.broker_live_table.pop(identity.key, None)
        tables.filter_server_table.pop(identity.key, None)
        data = tables.broker_addr_table.get(identity.broker_name)
        if data is None:
            return
        previous_min = min(data.broker_addrs, default=None)
        data.broker_addrs = {key: value for key, value in data.broker_addrs.items() if value != identity.broker_addr}
        if not data.broker_addrs:
            self._remove_broker_name(identity.broker_name, data.cluster)
        elif data.enable_acting_master and MASTER_ID not in data.broker_addrs:
            self._clear_write_permission(identity.broker_name)
        if data.broker_addrs and min(data.broker_addrs) != previous_min:
            self._tell_min_broker_id(MinBrokerIdChange(data, identity.broker_addr, self._ha_address_of_min(data)))

    def connection_closed(self, connection: object) -> list[BrokerKey]:
        """Remove every process that registered last over this connection; return which they were.

        Differs from RocketMQ, which removes the first one it finds and leaves the others to expiry.
        """
        keys = [key for key, live in self.tables.broker_live_table.items() if live.connection is connection]
        for key in keys:
            self._remove_process(key)
        return keys

    def expire(self, now: float) -> list[object]:
        """Remove every process that was silent for too long; return their connections, which are to be closed."""
        silent = [key for key, live in self.tables.broker_live_table.items() if live.last_update + live.timeout < now]
        connections = []
        for key in silent:
            live = self.tables.broker_live_table[key]
            logger.warning("broker %s of cluster %s was silent for %.0f s and is dropped", key[1], key[0], live.timeout)
            connections.append(live.connection)
            self._remove_process(key)
        return connections

    def _remove_process(self, key: BrokerKey) -> None:
        found = self.tables.find_process(key)
        if found is not None:
            data, broker_id = found
            self.unregister_broker(BrokerIdentity(key[0], data.broker_name, key[1], broker_id))
        # An address that was replaced belongs to no name any more. Differs from RocketMQ 5.x, which keeps its live
        # record for ever and reports it with every scan.
        self.tables.broker_live_table.pop(key, None)

    def _remove_broker_name(self, broker_name: str, cluster: str) -> None:
        tables = self.tables
        del tables.broker_addr_table[broker_name]
        names = tables.cluster_addr_table.get(cluster, set())
        names.discard(broker_name)
        if not names:
            tables.cluster_addr_table.pop(cluster, None)
        tables.remove_topics_of(broker_name)

    def _clear_write_permission(self, broker_name: str) -> None:
        for queues in self.tables.topic_queue_table.values():
            if broker_name in queues:
                queues[broker_name].perm &= ~permission.WRITE

    def _ha_address_of_min(self, data: BrokerData) -> str | None:
        live = self.tables.broker_live_table.get((data.cluster, data.broker_addrs[min(data.broker_addrs)]))
        return live.ha_server_addr if live is not None else None

    def _tell_min_broker_id(self, change: MinBrokerIdChange) -> None:
        for listener in self.min_broker_id_listeners:
            listener(change)


def _queue_data(broker_name: str, config: TopicConfig, is_acting: bool) -> QueueData:
    return QueueData(
        broker_name=broker_name,
        perm=config.perm & ~permission.WRITE if is_acting else config.perm,
        read_queue_nums=config.read_queue_nums,
        topic_sys_flag=config.topic_sys_flag,
        write_queue_nums=config.write_queue_nums,
    )
