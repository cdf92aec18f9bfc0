"""Delay levels: how long a message of each level waits, as `messageDelayLevel` says.

    1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h
    level 1                 level 5                          18

The list belongs to the broker, not to a topic. All messages of one level wait equally long, so the first that was stored
is the first that is due: a queue for each level is in order of delivery without any sorting.

Source: `DelayLevelConfig`, `ScheduleMessageService#parseDelayLevel`, RocketMQ 5.3.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from rocketmq_py.common.errors import ConfigError

_UNITS_MS: Final = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_ITEM: Final = re.compile(r"([0-9]{1,9})([smhd])", re.ASCII)
#: Each level has a queue of its own.
MAX_LEVELS: Final = 1_000
#: What a level waits that is in no table, as in RocketMQ.
UNKNOWN_LEVEL_MS: Final = 1_000


class DelayLevels:
    """The table of levels, counted from 1.

    Args:
        delays_ms: milliseconds of each level, at least one level.
    """

    def __init__(self, delays_ms: tuple[int, ...]) -> None:
        self._delays_ms = delays_ms

    @classmethod
    def parse(cls, text: str) -> DelayLevels:
        """Read the setting `messageDelayLevel`.

        Raises:
            ConfigError: an item is not a positive number with a unit, or there is none, or there are too many.
        """
        items = text.split()
        if not 0 < len(items) <= MAX_LEVELS:
            raise ConfigError(
                f"messageDelayLevel has {len(items)} levels; write 1 to {MAX_LEVELS}, separated by blanks, such as 1s 5m 2h"
            )
        return cls(tuple(_milliseconds(level, item) for level, item in enumerate(items, 1)))

    @property
    def max_level(self) -> int:
        """The last level."""
        return len(self._delays_ms)

    @property
    def longest_ms(self) -> int:
        """The longest delay of all levels, milliseconds."""
        return max(self._delays_ms)

    def clamp(self, level: int) -> int:
        """Return the level that a message gets: one past the last is taken as the last."""
        return min(level, len(self._delays_ms))

    def delay_ms(self, level: int) -> int:
        """Return how long a level waits, milliseconds."""
        level = self.clamp(level)
        return self._delays_ms[level - 1] if level > 0 else UNKNOWN_LEVEL_MS

    def __iter__(self) -> Iterator[int]:
        """Yield all levels, first to last."""
        return iter(range(1, len(self._delays_ms) + 1))

    def __repr__(self) -> str:
        return f"<DelayLevels {', '.join(f'{level}: {self.delay_ms(level)} ms' for level in self)}>"


def _milliseconds(level: int, item: str) -> int:
    found = _ITEM.fullmatch(item)
    if found is None or int(found[1]) == 0:
        raise ConfigError(
            f"messageDelayLevel: level {level} is {item[:40]!r}; write a number above 0 and its unit s, m, h or d, such as 30s"
        )
    return int(found[1]) * _UNITS_MS[found[2]]
