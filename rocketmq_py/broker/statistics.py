"""What the broker counted: messages and bytes by topic and by group, and their sums over the last minute, hour and day.

On the hot path a message costs three additions to a `Traffic` that its cache entry already holds. Everything else,
such as sums, rates and names, is made from those numbers when somebody asks or when a sample is due.

Source: `BrokerStatsManager`, `StatsItemSet`, `StatsItem`, `BrokerStats`, RocketMQ 5.3.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from rocketmq_py.common.environment import Clock
from rocketmq_py.common.topic import is_system_topic

TOPIC_PUT_NUMS: Final = "TOPIC_PUT_NUMS"
TOPIC_PUT_SIZE: Final = "TOPIC_PUT_SIZE"
GROUP_GET_NUMS: Final = "GROUP_GET_NUMS"
GROUP_GET_SIZE: Final = "GROUP_GET_SIZE"
BROKER_PUT_NUMS: Final = "BROKER_PUT_NUMS"
BROKER_GET_NUMS: Final = "BROKER_GET_NUMS"
BROKER_PUT_NUMS_WITHOUT_SYSTEM_TOPIC: Final = "BROKER_PUT_NUMS_WITHOUT_SYSTEM_TOPIC"
BROKER_GET_NUMS_WITHOUT_SYSTEM_TOPIC: Final = "BROKER_GET_NUMS_WITHOUT_SYSTEM_TOPIC"


class Traffic:
    """Three ever-growing numbers of one topic or of one group of a topic.

    Attributes:
        messages: how many messages.
        requests: in how many requests.
        bytes: of how many bytes, as stored.
    """

    __slots__ = ("bytes", "messages", "requests")

    def __init__(self) -> None:
        self.messages = 0
        self.requests = 0
        self.bytes = 0

    def add(self, messages: int, size: int) -> None:
        """Count one request; the hot path adds to the three numbers itself."""
        self.messages += messages
        self.requests += 1
        self.bytes += size

    def __repr__(self) -> str:
        return f"<Traffic {self.messages} messages in {self.requests} requests, {self.bytes} bytes>"


@dataclass(frozen=True, slots=True)
class Window:
    """How often a window is sampled and how many samples it keeps."""

    name: str
    seconds: int
    samples: int


MINUTE: Final = Window("statsMinute", 10, 7)
HOUR: Final = Window("statsHour", 600, 7)
DAY: Final = Window("statsDay", 3_600, 25)
WINDOWS: Final = (MINUTE, HOUR, DAY)


@dataclass(frozen=True, slots=True)
class Sums:
    """A window's result: growth, growth a second, and growth for each time that something was counted."""

    sum: int = 0
    tps: float = 0.0
    avgpt: float = 0.0
    times: int = 0


Sample = tuple[int, int, int]  # wall ms, value, times


def sums(samples: deque[Sample]) -> Sums:
    """Compare the first and the last sample of a window."""
    if not samples:
        return Sums()
    first, last = samples[0], samples[-1]
    grown, elapsed, times = last[1] - first[1], last[0] - first[0], last[2] - first[2]
    return Sums(grown, grown * 1_000 / elapsed if elapsed > 0 else 0.0, grown / times if times else 0.0, times)


@dataclass(slots=True)
class StatsItem:
    """One named number and its samples in the three windows; `read` returns (value, times)."""

    read: Callable[[], tuple[int, int]]
    windows: dict[str, deque[Sample]] = field(
        default_factory=lambda: {window.name: deque(maxlen=window.samples) for window in WINDOWS}
    )

    def sample(self, window: Window, now_ms: int) -> None:
        """Add a sample. The first one is preceded by a zero, dated one period earlier, as in RocketMQ."""
        samples = self.windows[window.name]
        if not samples:
            samples.append((now_ms - window.seconds * 1_000, 0, 0))
        samples.append((now_ms, *self.read()))


class BrokerStatsManager:
    """The broker's counters, by set and key.

    Args:
        cluster: the cluster's name: the key of the sums over the whole broker.
        clock: dates the samples.
    """

    def __init__(self, cluster: str, clock: Clock) -> None:
        self.cluster = cluster
        self._clock = clock
        self._put: dict[str, Traffic] = {}
        self._get: dict[tuple[str, str], Traffic] = {}
        self._counted: dict[tuple[str, str], Traffic] = {}
        self._items: dict[tuple[str, str], StatsItem] = {}
        #: What deleted topics had counted: totals of the broker never shrink.
        self._deleted = {True: (0, 0), False: (0, 0)}
        self._day: tuple[int, ...] | None = None
        self._put_morning = (0, 0)  # totals at the last midnight and the one before
        self._get_morning = (0, 0)
        for name, total in (
            (BROKER_PUT_NUMS, lambda: self.put_total()),
            (BROKER_GET_NUMS, lambda: self.get_total()),
            (BROKER_PUT_NUMS_WITHOUT_SYSTEM_TOPIC, lambda: self.put_total(with_system=False)),
            (BROKER_GET_NUMS_WITHOUT_SYSTEM_TOPIC, lambda: self.get_total(with_system=False)),
        ):
            self._items[name, cluster] = StatsItem(_value_of(total))

    def topic_put(self, topic: str) -> Traffic:
        """Return the counters of what was stored in a topic; the same object each time."""
        traffic = self._put.get(topic)
        if traffic is None:
            traffic = self._put[topic] = Traffic()
            self._items[TOPIC_PUT_NUMS, topic] = StatsItem(_messages_of(traffic))
            self._items[TOPIC_PUT_SIZE, topic] = StatsItem(_bytes_of(traffic))
        return traffic

    def group_get(self, topic: str, group: str) -> Traffic:
        """Return the counters of what a group received from a topic; the same object each time."""
        traffic = self._get.get((topic, group))
        if traffic is None:
            traffic = self._get[topic, group] = Traffic()
            self._items[GROUP_GET_NUMS, f"{topic}@{group}"] = StatsItem(_messages_of(traffic))
            self._items[GROUP_GET_SIZE, f"{topic}@{group}"] = StatsItem(_bytes_of(traffic))
        return traffic

    def counted(self, name: str, key: str) -> Traffic:
        """Return the counters of anything else, such as what a group sent back; the same object each time.

        Args:
            name: of the set, such as `SNDBCK_PUT_NUMS`.
            key: within the set; `topic@group` is forgotten with its topic or its group.
        """
        traffic = self._counted.get((name, key))
        if traffic is None:
            traffic = self._counted[name, key] = Traffic()
            self._items[name, key] = StatsItem(_messages_of(traffic))
        return traffic

    def put_total(self, with_system: bool = True) -> int:
        """Return how many messages were stored since the start."""
        kept = sum(t.messages for topic, t in self._put.items() if with_system or not is_system_topic(topic))
        return kept + self._deleted[with_system][0]

    def get_total(self, with_system: bool = True) -> int:
        """Return how many messages were handed out since the start."""
        kept = sum(t.messages for (topic, _), t in self._get.items() if with_system or not is_system_topic(topic))
        return kept + self._deleted[with_system][1]

    def sample(self, window: Window) -> None:
        """Sample all items of a window; done every `window.seconds`."""
        now = self._clock.wall_ms()
        for item in self._items.values():
            item.sample(window, now)

    def check_day(self) -> None:
        """Move the day's totals on if midnight (local time) has passed."""
        today = time.localtime(self._clock.wall_ms() / 1_000)[:3]
        if self._day is not None and today != self._day:
            self.start_day()
        self._day = today

    def start_day(self) -> None:
        """Begin a new day: what was counted until now becomes "this morning"."""
        self._put_morning = (self.put_total(with_system=False), self._put_morning[0])
        self._get_morning = (self.get_total(with_system=False), self._get_morning[0])

    def view(self, name: str, key: str) -> dict[str, Sums] | None:
        """Return the three windows of one item, or None if nothing was counted under that name and key."""
        item = self._items.get((name, key))
        return None if item is None else {window: sums(samples) for window, samples in item.windows.items()}

    def keys(self) -> Iterator[tuple[str, str]]:
        """Yield set and key of every item."""
        yield from self._items

    def runtime_info(self) -> dict[str, str]:
        """Return the day totals, as GET_BROKER_RUNTIME_INFO shows them."""
        return {
            "msgPutTotalYesterdayMorning": str(self._put_morning[1]),
            "msgPutTotalTodayMorning": str(self._put_morning[0]),
            "msgPutTotalTodayNow": str(self.put_total(with_system=False)),
            "msgGetTotalYesterdayMorning": str(self._get_morning[1]),
            "msgGetTotalTodayMorning": str(self._get_morning[0]),
            "msgGetTotalTodayNow": str(self.get_total(with_system=False)),
        }

    def drop_topic(self, topic: str) -> None:
        """Forget the counters of a deleted topic; the broker's totals keep what they had."""
        self._keep_totals(topic, self._put.pop(topic, None), 0)
        for name in (TOPIC_PUT_NUMS, TOPIC_PUT_SIZE):
            self._items.pop((name, topic), None)
        for key in [key for key in self._get if key[0] == topic]:
            self._drop_get(key)
        self._drop_counted(lambda key: key.rpartition("@")[0] == topic)

    def drop_group(self, group: str) -> None:
        """Forget the counters of a deleted group; the broker's totals keep what they had."""
        for key in [key for key in self._get if key[1] == group]:
            self._drop_get(key)
        self._drop_counted(lambda key: key.rpartition("@")[2] == group)

    def _drop_counted(self, is_doomed: Callable[[str], bool]) -> None:
        for name, key in [pair for pair in self._counted if is_doomed(pair[1])]:
            del self._counted[name, key], self._items[name, key]

    def _drop_get(self, key: tuple[str, str]) -> None:
        self._keep_totals(key[0], self._get.pop(key), 1)
        for name in (GROUP_GET_NUMS, GROUP_GET_SIZE):
            self._items.pop((name, "@".join(key)), None)

    def _keep_totals(self, topic: str, traffic: Traffic | None, which: int) -> None:
        for with_system in (True, False):
            if traffic is not None and (with_system or not is_system_topic(topic)):
                put, get = self._deleted[with_system]
                grown = (put + traffic.messages, get) if which == 0 else (put, get + traffic.messages)
                self._deleted[with_system] = grown


def _value_of(total: Callable[[], int]) -> Callable[[], tuple[int, int]]:
    return lambda: (total(), 0)


def _messages_of(traffic: Traffic) -> Callable[[], tuple[int, int]]:
    return lambda: (traffic.messages, traffic.requests)


def _bytes_of(traffic: Traffic) -> Callable[[], tuple[int, int]]:
    return lambda: (traffic.bytes, traffic.requests)
