"""A table of numbers by topic, kept in a file: for people and dashboards, nothing is decided by them.

Source: `TimerMetrics`, `TransactionMetrics`, RocketMQ 5.3, whose files differ in the name of one field.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from rocketmq_py.common.data_version import DataVersion
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.table import Table


class TopicCount(msgspec.Struct, rename="camel"):
    """One topic: its number, and when that last changed (ms)."""

    count: int = 0
    time_stamp: int = 0


class CountsFile(msgspec.Struct, kw_only=True):
    """Content of such a file. A subclass gives `counts` the name that it has there."""

    data_version: DataVersion = msgspec.field(name="dataVersion", default_factory=DataVersion)
    counts: dict[str, TopicCount] = msgspec.field(default_factory=dict)


class TopicCounts:
    """The counts of one broker.

    Args:
        path: the file.
        environment: clock, files and blocking calls.
        file_type: what is in the file.

    Attributes:
        table: the file, for the kernel to write and for slaves to copy.
        data_version: counts the changes.
    """

    def __init__(self, path: str, environment: Environment, file_type: type[CountsFile]) -> None:
        self.data_version = DataVersion()
        self.table = Table(path, self.encode, self._decode, environment)
        self._file_type = file_type
        self._clock = environment.clock
        self._counts: dict[str, TopicCount] = {}

    @property
    def counts(self) -> Mapping[str, TopicCount]:
        """The counts by topic."""
        return self._counts

    def count(self, topic: str) -> int:
        """Return the number of a topic; 0 for an unknown one."""
        known = self._counts.get(topic)
        return known.count if known is not None else 0

    def set(self, topic: str, count: int) -> None:
        """Note the number of a topic."""
        now = self._clock.wall_ms()
        self._counts[topic] = TopicCount(count, now)
        self._changed(now)

    def remove(self, topic: str) -> None:
        """Forget a topic that was deleted."""
        if self._counts.pop(topic, None) is not None:
            self._changed(self._clock.wall_ms())

    def adopt(self, data: bytes) -> bool:
        """Take over the counts of another broker, as `encode` returned them; return whether they were news.

        Raises:
            ValueError: they cannot be read; nothing was changed.
        """
        before = self.data_version
        file = self._read(data)
        if file.data_version == before:
            return False
        self._counts, self.data_version = file.counts, file.data_version
        self.table.mark_dirty()
        return True

    def _changed(self, now: int) -> None:
        self.data_version.next_version(now)
        self.table.mark_dirty()

    def encode(self) -> bytes:
        """Return the table as JSON."""
        return msgspec.json.encode(self._file_type(data_version=self.data_version, counts=self._counts))

    def _decode(self, data: bytes) -> None:
        file = self._read(data)
        self._counts, self.data_version = file.counts, file.data_version

    def _read(self, data: bytes) -> CountsFile:
        return msgspec.json.decode(data, type=self._file_type, strict=False)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {len(self._counts)} topics>"
