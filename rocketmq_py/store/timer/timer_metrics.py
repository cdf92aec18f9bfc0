"""How many messages wait for each real topic: `config/timermetrics`.

The numbers are for people and dashboards; nothing is decided by them. They are counted as messages come and go, which
drifts with a crash, so they are counted anew from the timer log once a day and after a crash.

Source: `TimerMetrics`, `TimerMessageStore#checkAndReviseMetrics`, RocketMQ 5.3.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

import msgspec

from rocketmq_py.common.environment import Environment
from rocketmq_py.common.java import string_hash
from rocketmq_py.common.topic import LMQ_PREFIX, SYSTEM_TOPIC_PREFIX
from rocketmq_py.common.topic_counts import CountsFile, TopicCount, TopicCounts
from rocketmq_py.store.timer.timer_log import TimerLog
from rocketmq_py.store.timer.timer_wheel import TimerWheel


class _File(CountsFile):
    """Content of `timermetrics`."""

    counts: dict[str, TopicCount] = msgspec.field(name="timingCount", default_factory=dict)


class TimerMetrics(TopicCounts):
    """The counts of one broker, by real topic."""

    def __init__(self, path: str, environment: Environment) -> None:
        super().__init__(path, environment, _File)

    def add(self, changes: Mapping[str, int]) -> None:
        """Add to the counts, by real topic."""
        for topic, change in changes.items():
            if change:
                self.set(topic, self.count(topic) + change)

    def clean(self, topics: Collection[str]) -> None:
        """Forget the topics that are not among `topics`, but for those of the system."""
        for topic in [topic for topic in self._counts if topic not in topics]:
            if not topic.startswith((SYSTEM_TOPIC_PREFIX, LMQ_PREFIX)):
                self.remove(topic)

    def revise(self, by_hash: Mapping[int, int], threshold: int) -> None:
        """Replace the counts of topics below a threshold by what was counted anew, see `count_waiting`."""
        known = Counter(string_hash(topic) for topic in self._counts)
        for topic, metric in list(self._counts.items()):
            found = by_hash.get(string_hash(topic), 0)
            # Two topics with one hash cannot be told apart in the timer log.
            if metric.count < threshold and known[string_hash(topic)] == 1 and metric.count != found:
                self.set(topic, found)


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
