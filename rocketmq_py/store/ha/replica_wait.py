"""Puts that wait for slaves: what a SYNC_MASTER promises, and what it says when it cannot keep it.

One number decides, how many replicas must have a message before it is acknowledged, the master one of them. Since
RocketMQ 5 that is `inSyncReplicas`, whose default of 1 waits for nobody.

Source: `CommitLog#asyncPutMessage`, `#calcNeedAckNums`, `GroupTransferService`, RocketMQ 5.3.
"""

from __future__ import annotations

import logging
from typing import Protocol

from rocketmq_py.store.ack import AcknowledgementGate, Condition
from rocketmq_py.store.config import BrokerRole, MessageStoreConfig
from rocketmq_py.store.ha.ha_service import HAService
from rocketmq_py.store.ha.replica_acks import ALL_MEMBERS
from rocketmq_py.store.put_result import PutMessageStatus
from rocketmq_py.store.tick import Tick

logger = logging.getLogger(__name__)


def needed_acks(config: MessageStoreConfig, in_sync: int) -> int:
    """Return how many replicas must have a message, the master one of them; 1: nobody is waited for.

    Args:
        config: the store's settings.
        in_sync: replicas that are linked and not far behind, the master one of them.
    """
    if config.broker_role is not BrokerRole.SYNC_MASTER:
        return 1
    if config.enable_auto_in_sync_replicas:
        return max(min(config.in_sync_replicas, in_sync), config.min_in_sync_replicas)
    return config.in_sync_replicas


class Members(Protocol):
    """The sync state set of a master that a controller chose."""

    @property
    def in_sync_replicas_nums(self) -> int:
        """How many are in it, the master one of them."""
        ...

    @property
    def is_anybody_needed(self) -> bool:
        """Whether a message must be with anybody but the master."""
        ...

    @property
    def confirm_offset(self) -> int:
        """Up to where all of them have the log."""
        ...


class ReplicaWait:
    """Joins the reports of the slaves to the gate that completes puts.

    Attributes:
        condition: its place in the gate.
        need: how many replicas are asked for now; see `ReplicaAcks.reached`.
        members: the sync state set, in controller mode.
    """

    def __init__(
        self,
        config: MessageStoreConfig,
        service: HAService,
        gate: AcknowledgementGate,
        tick: Tick,
        *,
        is_acting_group: bool,
    ) -> None:
        self._config = config
        self._service = service
        self._gate = gate
        self._tick = tick
        self._is_acting_group = is_acting_group
        self._refusal: list[str] = []
        self.need = 1
        self.members: Members | None = None
        self.condition = Condition(
            "replicated",
            config.slave_timeout / 1000,
            PutMessageStatus.FLUSH_SLAVE_TIMEOUT,
            lambda: self.need != 1,
        )
        gate.conditions.append(self.condition)
        service.on_change.append(self.update)

    async def start(self) -> None:
        """Say aloud what the settings mean."""
        config = self._config
        if config.broker_role is BrokerRole.SYNC_MASTER and config.in_sync_replicas <= 1:
            logger.warning(
                "brokerRole=SYNC_MASTER with inSyncReplicas=%d waits for no slave: set inSyncReplicas=2",
                config.in_sync_replicas,
            )
        self.update()

    def update(self) -> None:
        """Follow what changed: a slave came, went, or reported; a setting."""
        if self.members is not None:
            in_sync = self.members.in_sync_replicas_nums
        else:
            in_sync = self._service.acks.in_sync(self._config.ha_max_gap_not_in_sync)
        self.need = needed_acks(self._config, in_sync)
        if self.members is not None and self._config.all_ack_in_sync_state_set:
            self.need = ALL_MEMBERS if self.members.is_anybody_needed else 1
        if self.need == ALL_MEMBERS and self.members is not None:
            self._gate.advance(self.condition, self.members.confirm_offset)
        elif self.need != 1:
            self._gate.advance(self.condition, self._service.acks.reached(self.need))
        self._refuse(in_sync)

    def _refuse(self, in_sync: int) -> None:
        """Take no messages while too few replicas could have them."""
        config, reason = self._config, ""
        if config.broker_role is BrokerRole.SYNC_MASTER:
            # Differs from RocketMQ, which asks for minInSyncReplicas in controller mode only.
            least = self.need if self._is_acting_group else config.min_in_sync_replicas
            if in_sync < least:
                reason = f"{in_sync} of at least {least} replicas are in sync"
        if self._refusal != [reason]:
            for old in self._refusal:
                self._tick.accept(old)
            self._refusal = [reason] if reason else []
            if reason:
                self._tick.refuse(reason, PutMessageStatus.IN_SYNC_REPLICAS_NOT_ENOUGH)

    def __repr__(self) -> str:
        return f"<ReplicaWait needs {self.need} {self.condition!r}>"
