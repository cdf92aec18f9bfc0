"""Puts that wait for slaves: what a SYNC_MASTER promises, and what it says when it cannot keep it.

One number decides, how many replicas must have a message before it is acknowledged, the master one of them. Since
RocketMQ 5 that is `inSyncReplicas`, whose default of 1 waits for nobody.

Source: `CommitLog#asyncPutMessage`, `#calcNeedAckNums`, `GroupTransferService`, RocketMQ 5.3.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from rocketmq_py.store.ack import AcknowledgementGate, Condition
from rocketmq_py.store.config import BrokerRole, MessageStoreConfig
from rocketmq_py.store.ha.ha_service import HAService
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
    if config.answer_slave_not_available:
        # 4.9 knows no number: one slave is waited for, or nobody is there and `ReplicaWait.verdict` says so.
        return 2 if in_sync > 1 else 1
    if config.enable_auto_in_sync_replicas:
        return max(min(config.in_sync_replicas, in_sync), config.min_in_sync_replicas)
    return config.in_sync_replicas


def check_replicas(config: MessageStoreConfig) -> str | None:
    """Return what is wrong with the numbers of replicas; None if they can be kept."""
    for name, value in (
        ("inSyncReplicas", config.in_sync_replicas),
        ("minInSyncReplicas", config.min_in_sync_replicas),
    ):
        if value < 1:
            return f"{name}={value} makes no sense: the master counts, so 1 is the least"
        # `totalReplicas` is 1 unless it is set; then nothing is known about the group.
        if 1 < config.total_replicas < value:
            return (
                f"{name}={value} is more than totalReplicas={config.total_replicas}: no message could be acknowledged"
            )
    if config.min_in_sync_replicas > config.in_sync_replicas > 1:
        return (
            f"minInSyncReplicas={config.min_in_sync_replicas} is more than inSyncReplicas={config.in_sync_replicas}: "
            "the least cannot be more than what is waited for"
        )
    return None


class ReplicaWait:
    """Joins the reports of the slaves to the gate that completes puts.

    Attributes:
        condition: its place in the gate.
        need: how many replicas are asked for now; see `ReplicaAcks.reached`.
        in_sync: returns how many replicas are near enough to count, the master one of them.
        needed: returns how many replicas must have a message when so many are in sync; it may say `ALL_MEMBERS`.
        least: returns how many must be in sync, so that messages are taken at all.
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
        self._refusal = ""
        self.need = 1
        self.in_sync: Callable[[], int] = lambda: service.acks.in_sync(config.ha_max_gap_not_in_sync)
        self.needed: Callable[[int], int] = lambda in_sync: needed_acks(config, in_sync)
        # Differs from RocketMQ, which asks for minInSyncReplicas in controller mode only.
        self.least: Callable[[], int] = lambda: self.need if is_acting_group else config.min_in_sync_replicas
        self.condition = Condition(
            "replicated",
            config.slave_timeout / 1000,
            PutMessageStatus.FLUSH_SLAVE_TIMEOUT,
            lambda: self.need != 1,
        )
        gate.conditions.append(self.condition)
        if config.answer_slave_not_available:
            gate.verdict = self.verdict
        service.on_change.append(self.update)

    async def start(self) -> None:
        """Say aloud what the settings mean."""
        config = self._config
        is_alone = config.in_sync_replicas <= 1 and not config.answer_slave_not_available
        if config.broker_role is BrokerRole.SYNC_MASTER and is_alone:
            logger.warning(
                "brokerRole=SYNC_MASTER with inSyncReplicas=%d waits for no slave: set inSyncReplicas=2",
                config.in_sync_replicas,
            )
        self.update()

    def verdict(self) -> PutMessageStatus:
        """Return what a put is told that waits for no slave, in the way of RocketMQ 4.9."""
        is_alone = self._config.broker_role is BrokerRole.SYNC_MASTER and self.in_sync() <= 1
        return PutMessageStatus.SLAVE_NOT_AVAILABLE if is_alone else PutMessageStatus.PUT_OK

    def reset(self) -> None:
        """Forget what was replicated: the log was cut, or is another one's copy now."""
        self.condition.reached = 0

    def update(self) -> None:
        """Follow what changed: a slave came, went, or reported; a setting."""
        in_sync = self.in_sync()
        self.need = self.needed(in_sync)
        if self.need != 1:
            self._gate.advance(self.condition, self._service.acks.reached(self.need))
        self._refuse(in_sync)

    def _refuse(self, in_sync: int) -> None:
        """Take no messages while too few replicas could have them."""
        reason, least = "", self.least()
        if self._config.broker_role is BrokerRole.SYNC_MASTER and in_sync < least:
            reason = f"{in_sync} of at least {least} replicas are in sync"
        if reason != self._refusal:
            self._tick.accept(self._refusal)
            self._refusal = reason
            if reason:
                self._tick.refuse(reason, PutMessageStatus.IN_SYNC_REPLICAS_NOT_ENOUGH)

    def __repr__(self) -> str:
        return f"<ReplicaWait needs {self.need} {self.condition!r}>"
