"""The timer's checkpoint: how far timers are delivered, and how far their topic is in the wheel; `config/timercheck`.

Everything before it is certain to be on disk: units in the timer log, slots in the wheel, delivered messages in the
commit log. It may be old, never ahead.

Source: `TimerCheckpoint`, RocketMQ 5.3.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from typing import Final

from rocketmq_py.common.data_version import DataVersion
from rocketmq_py.common.file_system import FileSystem
from rocketmq_py.common.layout import Field, Layout

logger = logging.getLogger(__name__)

CHECKPOINT_LAYOUT: Final = Layout(
    "timer checkpoint",
    Field("last_read_time_ms", "q", "all slots before this time were delivered"),
    Field("last_timer_log_flush_pos", "q", "all units before this position are on disk, and their slots"),
    Field("last_timer_queue_offset", "q", "all records of the timer topic before this queue offset are in the wheel"),
    Field("master_timer_queue_offset", "q", "the same as a slave knows it of its master"),
    Field("state_version", "q", "version: epoch of the broker in controller mode"),
    Field("timestamp", "q", "version: when it last changed, ms"),
    Field("counter", "q", "version: how often it changed"),
)
#: One page; what follows the fields is zero.
CHECKPOINT_SIZE: Final = 4_096


@dataclass(slots=True)
class TimerCheckpoint:
    """The values; see `CHECKPOINT_LAYOUT`."""

    last_read_time_ms: int = 0
    last_timer_log_flush_pos: int = 0
    last_timer_queue_offset: int = 0
    master_timer_queue_offset: int = 0
    version: DataVersion = field(default_factory=DataVersion)

    def encode(self) -> bytes:
        """Return the 56 bytes, as they lie in the file and in the answer to GET_TIMER_CHECK_POINT."""
        version = self.version
        return CHECKPOINT_LAYOUT.struct.pack(
            self.last_read_time_ms,
            self.last_timer_log_flush_pos,
            self.last_timer_queue_offset,
            self.master_timer_queue_offset,
            version.state_version,
            version.timestamp,
            version.counter,
        )

    @classmethod
    def decode(cls, data: bytes) -> TimerCheckpoint:
        """Read the fields; the oldest form ends behind the first four."""
        read_time, flush_pos, offset, master_offset, *version = CHECKPOINT_LAYOUT.struct.unpack(
            data[: CHECKPOINT_LAYOUT.size].ljust(CHECKPOINT_LAYOUT.size, b"\0")
        )
        return cls(read_time, flush_pos, offset, master_offset, DataVersion(*version))


class TimerCheckpointFile:
    """The file.

    Args:
        files: the file system.
        path: the file.
    """

    def __init__(self, files: FileSystem, path: str) -> None:
        self.path = path
        self._files = files
        self._written = b""

    def load(self) -> TimerCheckpoint:
        """Read the file. Blocks.

        A file that is missing, too short or holds negative numbers is worth nothing: all values are 0, which makes
        recovery read everything and deliver some messages twice, but none too few.
        """
        try:
            data = self._files.read_file(self.path)
        except FileNotFoundError:
            return TimerCheckpoint()
        checkpoint = TimerCheckpoint.decode(data)
        values = (checkpoint.last_read_time_ms, checkpoint.last_timer_log_flush_pos, checkpoint.last_timer_queue_offset)
        if len(data) < 32 or min(values) < 0:
            logger.warning("%s has %d bytes and the values %s and is ignored", self.path, len(data), values)
            return TimerCheckpoint()
        return checkpoint

    def differs(self, checkpoint: TimerCheckpoint) -> bool:
        """Tell whether the values are others than those that were last written."""
        return checkpoint.encode() != self._written

    def write(self, checkpoint: TimerCheckpoint) -> None:
        """Write the values and force them to disk; for a thread.

        The fields lie in one sector, so a power cut leaves the old values or the new ones.
        """
        data = checkpoint.encode()
        files = self._files
        is_new = not files.exists(self.path)
        files.make_directories(os.path.dirname(self.path))
        fd = files.open_file(self.path, create=True)
        try:
            files.pwrite(fd, data if self._written else data.ljust(CHECKPOINT_SIZE, b"\0"), 0)
            files.fdatasync(fd)
        finally:
            files.close(fd)
        if is_new:
            files.sync_directory(os.path.dirname(self.path))
        self._written = data
