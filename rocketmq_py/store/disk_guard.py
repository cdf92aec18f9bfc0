"""The disk guard: how full the disks of log and queues are, and what follows from it.

    above diskMaxUsedSpaceRatio (75 %)          expired files go at any hour, not only at night
    above diskSpaceCleanForciblyRatio (85 %)    the oldest files go, expired or not
    above diskSpaceWarningLevelRatio (90 %)     no message is taken; back at 85 % messages are taken again

Reads go on at every level, and nothing needs a restart.

Source: `CleanCommitLogService#isSpaceToDelete`, RocketMQ 5.3.
"""

from __future__ import annotations

import enum
import logging
import math
from dataclasses import dataclass

from rocketmq_py.common.file_system import DiskUsage, FileSystem
from rocketmq_py.store.config import MessageStoreConfig
from rocketmq_py.store.running_flags import RunningFlag, RunningFlags

logger = logging.getLogger(__name__)


class DiskLevel(enum.IntEnum):
    """How full the fullest disk is."""

    FINE = 0
    USED = 1
    FORCED = 2
    FULL = 3


@dataclass(frozen=True, slots=True)
class DiskLimits:
    """The limits in per cent, within the bounds that RocketMQ sets to them."""

    used: int
    forced: int
    full: int

    @classmethod
    def of(cls, config: MessageStoreConfig) -> DiskLimits:
        """Return the limits that a configuration means now; it may change while the store runs."""
        return cls(
            used=min(max(config.disk_max_used_space_ratio, 10), 95),
            forced=min(max(config.disk_space_clean_forcibly_ratio, 30), 85),
            full=min(max(config.disk_space_warning_level_ratio, 35), 90),
        )

    def level(self, percent: int) -> DiskLevel:
        """Return what a use in per cent amounts to."""
        if percent > self.full:
            return DiskLevel.FULL
        if percent > self.forced:
            return DiskLevel.FORCED
        return DiskLevel.USED if percent > self.used else DiskLevel.FINE


def percent_of(usage: DiskUsage) -> int:
    """Return the use of a disk in per cent, rounded up as in RocketMQ."""
    return math.ceil(usage.used_ratio * 100)


class DiskGuard:
    """Looks at the disks and sets the flag that stops writes.

    Args:
        files: tells how full the disks are.
        config: limits and paths.
        flags: gets DISK_FULL.

    Attributes:
        level: what was found last.
        percent: use of the fullest disk, in per cent.
    """

    def __init__(self, files: FileSystem, config: MessageStoreConfig, flags: RunningFlags) -> None:
        self.level = DiskLevel.FINE
        self.percent = 0
        self._files = files
        self._config = config
        self._flags = flags

    def measure(self) -> tuple[int, str]:
        """Return the use of the fullest disk in per cent, and a path on it. Blocks; changes nothing."""
        paths = (self._config.commit_log_dir, self._config.root_dir)
        return max((percent_of(self._files.disk_usage(path)), path) for path in paths)

    def judge(self, percent: int, path: str) -> DiskLevel:
        """Take a measurement, set or clear the flag, and return the level; on the loop."""
        limits = DiskLimits.of(self._config)
        self.percent, self.level = percent, limits.level(percent)
        if self.level is DiskLevel.FULL:
            reason = (
                f"the disk of {path} is {percent} % full, more than diskSpaceWarningLevelRatio={limits.full} allows; "
                f"messages are taken again at {limits.forced} %"
            )
            if self._flags.set(RunningFlag.DISK_FULL, reason):
                logger.error("no message is taken: %s", reason)
        elif percent <= limits.forced and self._flags.clear(RunningFlag.DISK_FULL):
            # Between the two limits all stays as it is, so that a broker does not go on and off with every file.
            logger.warning("the disk of %s is %d %% full: messages are taken again", path, percent)
        return self.level

    def __repr__(self) -> str:
        return f"<DiskGuard {self.percent} % {self.level.name}>"
