"""How far each level is delivered, kept in `delayOffset.json`.

The file is written every `flushDelayOffsetInterval` (10 s) and at stop. A crash takes back what was delivered since: it
is delivered again. What must never happen is the opposite, a file that is ahead of the log: a delivered message that a
power cut took from the log, and that nobody delivers again because the file says that it is done. So an offset is
written only when everything that was delivered before it is on disk.

Source: `ScheduleMessageService#encode`, `#decode`, `DelayOffsetSerializeWrapper`, RocketMQ 5.3, which writes what it has.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping
from typing import Final

import msgspec

from rocketmq_py.common.data_version import DataVersion
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.table import Table
from rocketmq_py.remoting.java_json import decode_body
from rocketmq_py.store.commit_log import CommitLog

FILE_NAME: Final = "delayOffset.json"
#: Most copied offsets of a level that wait for the log: a slave that is far behind gets one every few seconds.
MAX_UNSAFE: Final = 64


class DelayOffsetFile(msgspec.Struct, rename="camel"):
    """The file's content; 4.9 writes no version."""

    offset_table: dict[int, int] = msgspec.field(default_factory=dict)
    data_version: DataVersion = msgspec.field(default_factory=DataVersion)


class DelayOffsetManager:
    """The next queue offset of each level.

    Args:
        config_path: the folder of the file.
        environment: clock for the version, files for the table.
        log: tells what is on disk.
        version_step: how many deliveries make a new version (`delayOffsetUpdateVersionStep`).
    """

    def __init__(self, config_path: str, environment: Environment, log: CommitLog, version_step: int = 200) -> None:
        self.table = Table(os.path.join(config_path, FILE_NAME), self._encode, self._decode, environment)
        self.data_version = DataVersion()
        self._clock = environment.clock
        self._log = log
        self._version_step = max(version_step, 1)
        self._updates = 0
        self._offsets: dict[int, int] = {}
        # Of each level what is on disk for sure, and later offsets with the end of the log that they need there.
        self._safe: dict[int, int] = {}
        self._unsafe: dict[int, deque[tuple[int, int]]] = {}

    async def start(self) -> None:
        """Read the file; a damaged one stops the start (see `Table.load`)."""
        self.table.load()

    def get(self, level: int) -> int | None:
        """Return the queue offset of the next message to deliver; None if the level never had one."""
        return self._offsets.get(level)

    def set(self, level: int, offset: int, deliveries: int = 0) -> None:
        """Move a level on.

        Args:
            level: the level.
            offset: the next message to deliver.
            deliveries: how many messages were delivered to get there; they are in the log by now, perhaps not on disk.
        """
        if self._offsets.get(level) == offset:
            return
        self._offsets[level] = offset
        unsafe = self._unsafe.setdefault(level, deque())
        unsafe.append((self._log.max_offset, offset))
        self._settle(level, unsafe)
        self.table.mark_dirty()
        before, self._updates = self._updates, self._updates + max(deliveries, 1)
        if self._updates // self._version_step > before // self._version_step:
            self.data_version.next_version(self._clock.wall_ms())

    def adopt(self, content: DelayOffsetFile, log_end: int) -> bool:
        """Take over the offsets of another broker, and its version; return whether anything changed.

        Args:
            content: its file.
            log_end: what it had delivered lies before this offset of the log. Until this broker's own log has got there
                the offsets are not written, nor is a delivery begun from them (see `drop_unsafe`).

        Raises:
            InvalidInputError: a level or an offset is none; nothing was changed.
        """
        _check(content)
        table = content.offset_table
        if content.data_version == self.data_version and self._offsets == {**self._offsets, **table}:
            return False
        for level, offset in table.items():
            if self._offsets.get(level) != offset:
                self._offsets[level] = offset
                unsafe = self._unsafe.setdefault(level, deque())
                if len(unsafe) >= MAX_UNSAFE:
                    unsafe.pop()
                unsafe.append((log_end, offset))
                self._settle(level, unsafe)
        self.data_version = msgspec.structs.replace(content.data_version)
        self.table.mark_dirty()
        return True

    def drop_unsafe(self) -> None:
        """Go back to the offsets that the log has: for a slave that begins to deliver.

        Its master may have delivered more than it has copied. What would be skipped is delivered again.
        """
        end = self._log.max_offset
        self._offsets = dict(self._safe)
        for level, unsafe in self._unsafe.items():
            reached = [entry for entry in unsafe if entry[0] <= end]
            unsafe.clear()
            unsafe.extend(reached)
            if reached:
                self._offsets[level] = reached[-1][1]

    def _settle(self, level: int, unsafe: deque[tuple[int, int]]) -> None:
        """Note what has got to the disk since the last call."""
        flushed = self._log.flushed_offset
        while unsafe and unsafe[0][0] <= flushed:
            self._safe[level] = unsafe.popleft()[1]

    def offsets(self) -> Mapping[int, int]:
        """Return a copy of all offsets, by level."""
        return dict(self._offsets)

    # --- the file -----------------------------------------------------------------------------------------------------

    def _encode(self) -> bytes:
        """Return what is on disk for sure."""
        for level, unsafe in self._unsafe.items():
            self._settle(level, unsafe)
        if any(self._unsafe.values()):
            # To be written again when the rest of it is true.
            self.table.mark_dirty()
        version = msgspec.json.encode(self.data_version).decode()
        # Java writes number keys without quotes, and older brokers are only known to read that.
        pairs = ",".join(f"{level}:{offset}" for level, offset in sorted(self._safe.items()))
        return f'{{\n\t"dataVersion":{version},\n\t"offsetTable":{{{pairs}}}\n}}'.encode()

    def _decode(self, data: bytes) -> None:
        content = decode_body(data, DelayOffsetFile)
        _check(content)
        self._offsets, self._safe = dict(content.offset_table), dict(content.offset_table)
        self._unsafe.clear()
        self.data_version = content.data_version

    def __repr__(self) -> str:
        return f"<DelayOffsetManager {self._offsets}{' dirty' if self.table.is_dirty else ''}>"


def _check(content: DelayOffsetFile) -> None:
    for level, offset in content.offset_table.items():
        if level < 1 or offset < 0:
            raise InvalidInputError(f"level {level} is at offset {offset}; levels begin at 1, offsets at 0")
