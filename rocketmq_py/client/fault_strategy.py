"""Which queue a producer sends to: the next one in turn, and after a failure one of another broker.

With `send_latency_enable` brokers that were slow or failed are avoided for a while:

    latency of an attempt, at least   50    100    550   1800   3000   5000  15000 ms
    the broker is avoided for          0      0   2000   5000   6000  10000  30000 ms

A failure counts as a latency of 10 s. The time is only ever moved later; it ends by itself.

Source: `MQFaultStrategy`, `LatencyFaultToleranceImpl`, RocketMQ 5.3.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from rocketmq_py.client.route import TopicPublishInfo
from rocketmq_py.common.message import MessageQueue

LATENCY_MAX: Final = (50, 100, 550, 1_800, 3_000, 5_000, 15_000)
NOT_AVAILABLE_DURATION: Final = (0, 0, 2_000, 5_000, 6_000, 10_000, 30_000)

#: What a failure counts as, milliseconds.
ISOLATION: Final = 10_000


@dataclass(slots=True)
class FaultItem:
    """What is remembered of one broker.

    Attributes:
        available_from: second of the loop's clock from which it may be chosen again.
        is_reachable: whether its last attempt reached it.
    """

    available_from: float = 0.0
    is_reachable: bool = True


class MQFaultStrategy:
    """Chooses queues and remembers how brokers did.

    Args:
        rng: for the queue to begin with after a failure.
        enabled: whether to remember anything at all.
    """

    def __init__(self, rng: random.Random, *, enabled: bool) -> None:
        self.enabled = enabled
        self._random = rng
        self._items: dict[str, FaultItem] = {}

    def select(self, info: TopicPublishInfo, last_broker: str | None, now: float) -> MessageQueue | None:
        """Return the queue for the next attempt, or None if the topic has none.

        Args:
            info: the topic's queues.
            last_broker: the broker of the attempt that just failed; another one is preferred.
            now: seconds of the loop's clock.
        """

        def is_other(queue: MessageQueue) -> bool:
            return queue.broker_name != last_broker

        if not self.enabled:
            return info.select(is_other) or info.select()
        if last_broker is not None:
            info.randomise(self._random)
        return (
            info.select(lambda queue: is_other(queue) and self.is_available(queue.broker_name, now))
            or info.select(lambda queue: is_other(queue) and self._item(queue.broker_name).is_reachable)
            or info.select()
        )

    def update(self, broker_name: str, latency_ms: float, now: float, *, isolate: bool, reachable: bool = True) -> None:
        """Remember how an attempt went.

        Args:
            broker_name: whose attempt.
            latency_ms: how long it took.
            now: seconds of the loop's clock.
            isolate: it failed.
            reachable: the broker answered at all.
        """
        if not self.enabled:
            return
        item = self._items.setdefault(broker_name, FaultItem())
        item.is_reachable = reachable
        duration = not_available_duration(ISOLATION if isolate else latency_ms)
        if duration:
            item.available_from = max(item.available_from, now + duration / 1000)

    def is_available(self, broker_name: str, now: float) -> bool:
        """Tell whether a broker is not being avoided."""
        return now >= self._item(broker_name).available_from

    def _item(self, broker_name: str) -> FaultItem:
        return self._items.get(broker_name) or FaultItem()


def not_available_duration(latency_ms: float) -> int:
    """Return for how many milliseconds a broker of this latency is avoided."""
    for limit, duration in zip(reversed(LATENCY_MAX), reversed(NOT_AVAILABLE_DURATION), strict=True):
        if latency_ms >= limit:
            return duration
    return 0
