"""How many messages wait for each real topic: `config/timermetrics`.

The numbers are for people and dashboards; nothing is decided by them. They are counted as messages come and go, which
drifts with a crash, so they are counted anew from the timer log once a day and after a crash.

Source: `TimerMetrics`, `TimerMessageStore#checkAndReviseMetrics`, RocketMQ 5.3.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

import msgspec

from rocketmq_py.common.data_version import DataVersion
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.java import string_hash
from rocketmq_py.common.table import Table
from rocketmq_py.common.topic import LMQ_PREFIX, SYSTEM_TOPIC_PREFIX
from rocketmq_py.store.timer.timer_log import TimerLog
from rocketmq_py.store.timer.timer_wheel import TimerWheel


class Metric(msgspec.Struct, rename="camel"):
    """One topic: how many messages wait, and when that last changed (ms)."""

    count: int = 0
    time_stamp: int = 0


class _File(msgspec.Struct, rename="camel", kw_only=True):
    """Content of `timermetrics`."""

    data_version: DataVersion = msgspec.field(default_factory=DataVersion)
    timing_count: dict[str, Metric] = msgspec.field(default_factory=dict)


class TimerMetrics:
    """The counts of one broker.

    Args:
        path: the file.
        environment: clock, files and blocking calls.

    Attributes:
        table: the file, for the kernel to write and for slaves to copy.
        data_version: counts the changes.
    """

    def __init__(self, path: str, environment: Environment) -> None:
        self.data_version = DataVersion()
        self.table = Table(path, self.encode, self._decode, environment)
        self._clock = environment.clock
        self._counts: dict[str, Metric] = {}

    @property
    def counts(self) -> Mapping[str, Metric]:
        """The counts by real topic."""
        return self._counts

    def timing_count(self, topic: str) -> int:
        """Return how many messages wait for a topic."""
        metric = self._counts.get(topic)
        return metric.count if metric is not None else 0

    def add(self, changes: Mapping[str, int]) -> None:
        """Add to the counts, by real topic."""
        now = self._clock.wall_ms()
        for topic, change in changes.items():
            if change:
                metric = self._counts.setdefault(topic, Metric())
                metric.count += change
                metric.time_stamp = now
                self._changed(now)

    def remove(self, topic: str) -> None:
        """Forget a topic that was deleted."""
        if self._counts.pop(topic, None) is not None:
            self._changed(self._clock.wall_ms())

    def clean(self, topics: Collection[str]) -> None:
        """Forget the topics that are not among `topics`, but for those of the system."""
        for topic in [topic for topic in self._counts if topic not in topics]:
            if not topic.startswith((SYSTEM_TOPIC_PREFIX, LMQ_PREFIX)):
                self.remove(topic)

    def revise(self, by_hash: Mapping[int, int], threshold: int) -> None:
        """Replace the counts of topics below a threshold by what was counted anew, see `count_waiting`."""
        known = Counter(string_hash(topic) for topic in self._counts)
        now = self._clock.wall_ms()
        for topic, metric in self._counts.items():
            found = by_hash.get(string_hash(topic), 0)
            # Two topics with one hash cannot be told apart in the timer log.
            if metric.count < threshold and known[string_hash(topic)] == 1 and metric.count != found:
                metric.count, metric.time_stamp = found, now
                self._changed(now)

    def adopt(self, data: bytes) -> bool:
        """Take over the counts of another broker, as `encode` returned them; return whether they were news.

        Raises:
            ValueError: they cannot be read; nothing was changed.
        """
        before = self.data_version
        file = msgspec.json.decode(data, type=_File, strict=False)
        if file.data_version == before:
            return False
        self._counts, self.data_version = file.timing_count, file.data_version
        self.table.mark_dirty()
        return True

    def _changed(self, now: int) -> None:
        self.data_version.next_version(now)
        self.table.mark_dirty()

    def encode(self) -> bytes:
        """Return the table as JSON."""
        return msgspec.json.encode(_File(data_version=self.data_version, timing_count=self._counts))

    def _decode(self, data: bytes) -> None:
        file = msgspec.json.decode(data, type=_File, strict=False)
        self._counts, self.data_version = file.timing_count, file.data_version

    def __repr__(self) -> str:
        return f"<TimerMetrics {len(self._counts)} topics>"


def count_waiting(log: TimerLog, wheel: TimerWheel, since_ms: int, end: int) -> dict[int, int]:
    """Count the messages in the timer log that are not delivered yet, by the hash of their topic. For a thread.

    Args:
        log: the log.
        wheel: says before which unit nothing waits.
        since_ms: units before it were delivered.
        end: where the log ended a moment ago.
    """
    counts: Counter[int] = Counter()
    first = wheel.summary(since_ms).first_pos
    for _, unit in log.scan(end if first is None else first, end):
        if unit.time_ms >= since_ms:
            counts[unit.topic_hash] += -1 if unit.is_delete else 1
    return dict(counts)
