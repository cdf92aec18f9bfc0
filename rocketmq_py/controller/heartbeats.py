"""Who lives: the heartbeats of brokers, and the moment when they stop.

Every controller hears the heartbeats of all brokers and keeps them in memory only, in the loop's time: they are no part
of what the controllers agree on. Only the leader acts on them.

A broker is *active* from its last heartbeat for as long as it asked for (10 s if it did not say). It is *gone* when that
time is over or when its connection has closed: a killed process is noticed at once. Between the two is the broker that
this controller has not heard of yet, because the controller has just started or just become the leader.

Source: `DefaultBrokerHeartbeatManager`, RocketMQ 5.3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from rocketmq_py.common.java import I32_MAX
from rocketmq_py.controller.elect_policy import UNKNOWN_PROGRESS, BrokerProgress
from rocketmq_py.remoting.headers.controller import BrokerHeartbeatToControllerRequestHeader

#: Seconds that a heartbeat holds if it does not say: DEFAULT_BROKER_CHANNEL_EXPIRED_TIME.
DEFAULT_SECONDS: Final = 10.0
#: Longest time that a broker may ask for, so that no dead one stays in memory for ever.
MAX_SECONDS: Final = 600.0
#: Most brokers that are remembered; heartbeats of further ones are not heard.
MAX_BROKERS: Final = 100_000

#: Cluster name, broker name, broker id.
BrokerKey = tuple[str, str, int]


@dataclass(slots=True)
class BrokerLiveInfo:
    """The last heartbeat of one broker.

    Attributes:
        address: as it said.
        last_update: when it came, seconds of the loop's time.
        timeout: seconds for which it holds.
        connection: on which it came; compared by identity only.
        progress: how far the broker is; it does not go backwards.
        is_closed: its connection has closed since.
    """

    address: str
    last_update: float
    timeout: float
    connection: object
    progress: BrokerProgress
    is_closed: bool = False


class BrokerHeartbeatManager:
    """The table of heartbeats.

    Args:
        now: the loop's time, in seconds.

    Attributes:
        on_inactive: called with the key of every broker that has fallen silent or closed its connection.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.on_inactive: list[Callable[[BrokerKey], None]] = []
        self._now = now
        self._table: dict[BrokerKey, BrokerLiveInfo] = {}
        self._deciding_since = 0.0

    def begin_to_decide(self) -> None:
        """Note that this controller is the leader from now on: who is not known yet gets the time to be heard."""
        self._deciding_since = self._now()

    # --- what brokers tell -------------------------------------------------------------------------------------------

    def heard(self, header: BrokerHeartbeatToControllerRequestHeader, broker_id: int, connection: object) -> None:
        """Note one heartbeat."""
        key = (header.cluster_name, header.broker_name, broker_id)
        known = self._table.get(key)
        if known is None and len(self._table) >= MAX_BROKERS:
            return
        seconds = DEFAULT_SECONDS if header.heartbeat_timeout_mills is None else header.heartbeat_timeout_mills / 1000
        self._table[key] = BrokerLiveInfo(
            address=header.broker_addr,
            last_update=self._now(),
            timeout=min(max(seconds, 0.0), MAX_SECONDS),
            connection=connection,
            progress=_newer(known.progress if known is not None else UNKNOWN_PROGRESS, header),
        )

    def connection_closed(self, connection: object) -> None:
        """Note that a connection has gone, and with it every broker whose last heartbeat came on it."""
        for key, info in list(self._table.items()):
            if info.connection is connection and not info.is_closed:
                info.is_closed = True
                self._tell(key)

    def scan(self) -> None:
        """Tell of every broker whose time is over, and forget it when it has been silent for longer still."""
        now = self._now()
        for key, info in list(self._table.items()):
            silent = now - info.last_update
            if silent <= info.timeout:
                continue
            if not info.is_closed:
                info.is_closed = True
                self._tell(key)
            if silent > info.timeout + MAX_SECONDS:
                del self._table[key]

    def _tell(self, key: BrokerKey) -> None:
        for listener in self.on_inactive:
            listener(key)

    # --- what is asked -----------------------------------------------------------------------------------------------

    def is_active(self, cluster_name: str, broker_name: str, broker_id: int) -> bool:
        """Whether a broker has been heard of within its time-out, and is still connected."""
        info = self._table.get((cluster_name, broker_name, broker_id))
        return info is not None and not info.is_closed and self._now() - info.last_update <= info.timeout

    def is_gone(self, cluster_name: str, broker_name: str, broker_id: int) -> bool:
        """Whether a broker has fallen silent, or had its time to be heard and was not."""
        if self.is_active(cluster_name, broker_name, broker_id):
            return False
        if (cluster_name, broker_name, broker_id) in self._table:
            return True
        return self._now() - self._deciding_since > DEFAULT_SECONDS

    def progress(self, cluster_name: str, broker_name: str, broker_id: int) -> BrokerProgress:
        """Return how far a broker said it is."""
        info = self._table.get((cluster_name, broker_name, broker_id))
        return info.progress if info is not None else UNKNOWN_PROGRESS

    def __repr__(self) -> str:
        return f"<BrokerHeartbeatManager {len(self._table)} brokers>"


def _newer(known: BrokerProgress, header: BrokerHeartbeatToControllerRequestHeader) -> BrokerProgress:
    """Return the progress after a heartbeat: the further of the two, with the priority of the new one."""
    epoch = -1 if header.epoch is None else header.epoch
    max_offset = -1 if header.max_offset is None else header.max_offset
    priority = I32_MAX if header.election_priority is None else header.election_priority
    if (epoch, max_offset) > (known.epoch, known.max_offset):
        return BrokerProgress(epoch, max_offset, priority)
    return BrokerProgress(known.epoch, known.max_offset, priority)
