"""The checkpoint: up to which moment log, queues and index are known to be on disk.

Recovery after a crash begins at a file whose first message is older than that, instead of at the first file of all.
The file is RocketMQ's, so that a store can go on in the other broker.

Source: `StoreCheckpoint`, RocketMQ 5.3.
"""

from __future__ import annotations

import logging
import os
from typing import Final

from rocketmq_py.common.file_system import FileSystem
from rocketmq_py.common.layout import Field, Layout

logger = logging.getLogger(__name__)

CHECKPOINT_LAYOUT: Final = Layout(
    "checkpoint",
    Field("physic_msg_timestamp", "q", "store time of the last message flushed to the commit log, ms"),
    Field("logics_msg_timestamp", "q", "store time of the last message whose queue unit was flushed, ms"),
    Field("index_msg_timestamp", "q", "end of the last index file that was completed, ms"),
    Field("master_flushed_offset", "q", "on a slave: the master's end at its start, bytes"),
    Field("confirm_physical_offset", "q", "end of what replicas have confirmed, bytes"),
)
#: One page; what follows the fields is zero.
CHECKPOINT_SIZE: Final = 4096
#: How far behind the checkpoint a file must begin before recovery trusts it: time stamps of one moment are not exact.
SAFETY_MS: Final = 3_000


class StoreCheckpoint:
    """The checkpoint of one store.

    A value goes in only after the flush that makes it true, and was taken before that flush began: what is appended while
    a flush runs is not covered by it.

    Attributes:
        path: the file.
        physic_msg_timestamp, logics_msg_timestamp, index_msg_timestamp, master_flushed_offset,
        confirm_physical_offset: the values, see `CHECKPOINT_LAYOUT`.
    """

    def __init__(self, files: FileSystem, root_dir: str) -> None:
        self.path = os.path.join(root_dir, "checkpoint")
        self._files = files
        self._written = b""
        self.physic_msg_timestamp = 0
        self.logics_msg_timestamp = 0
        self.index_msg_timestamp = 0
        self.master_flushed_offset = 0
        self.confirm_physical_offset = 0

    def load(self, now_ms: int) -> None:
        """Read the file. Blocks.

        A checkpoint that is missing, too short, or holds negative numbers or moments in the future is worth nothing: all
        values become 0, and recovery reads the whole log, which is slower and gives the same result.
        """
        try:
            data = self._files.read_file(self.path)
        except FileNotFoundError:
            return
        if len(data) < CHECKPOINT_LAYOUT.size:
            logger.warning("%s has %d bytes instead of %d and is ignored", self.path, len(data), CHECKPOINT_SIZE)
            return
        values = CHECKPOINT_LAYOUT.struct.unpack_from(data)
        if min(values) < 0 or max(values[:3]) > now_ms:
            logger.warning("%s holds impossible values %s at %d ms and is ignored", self.path, values, now_ms)
            return
        for name, value in zip(self._names(), values, strict=True):
            setattr(self, name, value)
        self._written = data[: CHECKPOINT_LAYOUT.size]

    @property
    def min_timestamp(self) -> int:
        """Messages stored before this moment (ms) are flushed in log and queues."""
        return max(0, min(self.physic_msg_timestamp, self.logics_msg_timestamp) - SAFETY_MS)

    def flush(self) -> None:
        """Write the values if they changed, and force them to disk. Blocks.

        The fields lie in one sector, so a power cut leaves the old values or the new ones.
        """
        data = CHECKPOINT_LAYOUT.struct.pack(*(getattr(self, name) for name in self._names()))
        if data == self._written:
            return
        is_new = not self._files.exists(self.path)
        fd = self._files.open_file(self.path, create=True)
        try:
            self._files.pwrite(fd, data if self._written else data.ljust(CHECKPOINT_SIZE, b"\0"), 0)
            self._files.fdatasync(fd)
        finally:
            self._files.close(fd)
        if is_new:
            self._files.sync_directory(os.path.dirname(self.path))
        self._written = data

    @staticmethod
    def _names() -> tuple[str, ...]:
        return tuple(field.name for field in CHECKPOINT_LAYOUT.fields)

    def __repr__(self) -> str:
        return f"<StoreCheckpoint {' '.join(f'{name} {getattr(self, name)}' for name in self._names())}>"
