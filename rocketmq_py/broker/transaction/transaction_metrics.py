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

from rocketmq_py.common.environment import Environment
from rocketmq_py.common.errors import CorruptDataError
from rocketmq_py.common.properties import REAL_TOPIC, find_property
from rocketmq_py.common.topic_counts import CountsFile, TopicCount, TopicCounts

logger = logging.getLogger(__name__)

_REAL_TOPIC = REAL_TOPIC.encode()


class _File(CountsFile):
    """Content of `transactionMetrics`."""

    counts: dict[str, TopicCount] = msgspec.field(name="transactionCount", default_factory=dict)


class TransactionMetrics(TopicCounts):
    """The counts of one broker."""

    def __init__(self, path: str, environment: Environment) -> None:
        super().__init__(path, environment, _File)

    def load(self) -> None:
        """Read the file. What is damaged costs nothing but its dates: the start counts anew."""
        try:
            self.table.load()
        except CorruptDataError as error:
            logger.warning("the counts of open transactions begin anew: %s", error)

    def begun(self, properties: bytes) -> None:
        """Count a new half message by its stored properties."""
        topic = real_topic_of(properties)
        self.set(topic, self.count(topic) + 1)

    def ended(self, properties: bytes) -> None:
        """Count the end of a transaction by its half message; a topic that was deleted meanwhile is not counted."""
        topic = real_topic_of(properties)
        if topic in self._counts:
            self.set(topic, self._counts[topic].count - 1)

    def revise(self, found: Mapping[str, int]) -> None:
        """Replace the counts by what was counted anew."""
        for topic in self._counts.keys() | found.keys():
            if self.count(topic) != found.get(topic, 0):
                self.set(topic, found.get(topic, 0))


def real_topic_of(properties: bytes) -> str:
    """Return the topic in which a half message with these properties is to be visible."""
    return (find_property(properties, _REAL_TOPIC) or b"").decode("utf-8", "replace")
