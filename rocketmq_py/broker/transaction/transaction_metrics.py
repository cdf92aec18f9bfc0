"""How many transactions of each topic are open: `config/transactionMetrics`.

The numbers are for people and dashboards; nothing is decided by them. A transaction is open from its half message to its
commit or rollback, or until it is set aside. Differs from RocketMQ, whose counts drift with every crash, and with every
message that is resumed or committed after it was set aside: here the half queue is counted anew at each start.

Source: `TransactionMetrics`, RocketMQ 5.3.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import msgspec

from rocketmq_py.common.data_version import DataVersion
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.errors import CorruptDataError
from rocketmq_py.common.properties import REAL_TOPIC, find_property
from rocketmq_py.common.table import Table
from rocketmq_py.store.timer.timer_metrics import Metric

logger = logging.getLogger(__name__)

_REAL_TOPIC = REAL_TOPIC.encode()


class _File(msgspec.Struct, rename="camel", kw_only=True):
    """Content of `transactionMetrics`."""

    data_version: DataVersion = msgspec.field(default_factory=DataVersion)
    transaction_count: dict[str, Metric] = msgspec.field(default_factory=dict)


class TransactionMetrics:
    """The counts of one broker.

    Args:
        path: the file.
        environment: clock, files and blocking calls.

    Attributes:
        table: the file, for the kernel to write.
        data_version: counts the changes.
    """

    def __init__(self, path: str, environment: Environment) -> None:
        self.data_version = DataVersion()
        self.table = Table(path, self.encode, self._decode, environment)
        self._clock = environment.clock
        self._counts: dict[str, Metric] = {}

    def load(self) -> None:
        """Read the file. What is damaged costs nothing but its dates: the start counts anew."""
        try:
            self.table.load()
        except CorruptDataError as error:
            logger.warning("the counts of open transactions begin anew: %s", error)

    def transaction_count(self, topic: str) -> int:
        """Return how many transactions of a topic are open."""
        metric = self._counts.get(topic)
        return 0 if metric is None else metric.count

    def begun(self, properties: bytes) -> None:
        """Count a new half message by its stored properties."""
        topic = real_topic_of(properties)
        self._set(topic, self.transaction_count(topic) + 1)

    def ended(self, properties: bytes) -> None:
        """Count the end of a transaction by its half message; a topic that was deleted meanwhile is not counted."""
        topic = real_topic_of(properties)
        if topic in self._counts:
            self._set(topic, self._counts[topic].count - 1)

    def revise(self, found: Mapping[str, int]) -> None:
        """Replace the counts by what was counted anew."""
        for topic in self._counts.keys() | found.keys():
            if self.transaction_count(topic) != found.get(topic, 0):
                self._set(topic, found.get(topic, 0))

    def remove(self, topic: str) -> None:
        """Forget a topic that was deleted."""
        if self._counts.pop(topic, None) is not None:
            self._changed(self._clock.wall_ms())

    def _set(self, topic: str, count: int) -> None:
        now = self._clock.wall_ms()
        self._counts[topic] = Metric(count, now)
        self._changed(now)

    def _changed(self, now: int) -> None:
        self.data_version.next_version(now)
        self.table.mark_dirty()

    def encode(self) -> bytes:
        """Return the table as JSON."""
        return msgspec.json.encode(_File(data_version=self.data_version, transaction_count=self._counts))

    def _decode(self, data: bytes) -> None:
        file = msgspec.json.decode(data, type=_File, strict=False)
        self._counts, self.data_version = file.transaction_count, file.data_version

    def __repr__(self) -> str:
        return f"<TransactionMetrics {len(self._counts)} topics>"


def real_topic_of(properties: bytes) -> str:
    """Return the topic in which a half message with these properties is to be visible."""
    return (find_property(properties, _REAL_TOPIC) or b"").decode("utf-8", "replace")
