"""Which replica of its group this broker is: an id that the controller gives once, kept in the store's folder.

    brokerIdentity        cluster#brokerName#brokerId
    brokerIdentity-temp   cluster#brokerName#brokerId#checkCode      while the id is applied for

The check code (`address;milliseconds`) is what makes applying safe to repeat: whoever shows it again is the same broker,
so an answer that got lost costs no second id.

Source: `BrokerMetadata`, `TempBrokerMetadata`, RocketMQ 5.3.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from rocketmq_py.common.errors import CorruptDataError
from rocketmq_py.common.file_system import FileSystem, write_atomically

NAME: Final = "brokerIdentity"
TEMPORARY_NAME: Final = "brokerIdentity-temp"


@dataclass(frozen=True, slots=True)
class AppliedId:
    """An id that was applied for, and the code that proves by whom."""

    broker_id: int
    check_code: str


class BrokerIdentityFiles:
    """Both files of one store. Every method blocks.

    Args:
        files: where they are.
        root_dir: the store's folder.
        cluster: name of the cluster.
        broker_name: name of the group.
    """

    def __init__(self, files: FileSystem, root_dir: str, cluster: str, broker_name: str) -> None:
        self.path = os.path.join(root_dir, NAME)
        self.temporary_path = os.path.join(root_dir, TEMPORARY_NAME)
        self._files = files
        self._cluster = cluster
        self._broker_name = broker_name

    def load(self) -> int | None:
        """Return the id; None for a store that has none yet.

        Raises:
            CorruptDataError: the file is damaged, or of another broker.
        """
        fields = self._read(self.path, 3)
        return int(fields[2]) if fields is not None else None

    def load_applied(self) -> AppliedId | None:
        """Return an id that was applied for by a process that ended before it was given. A damaged file is none."""
        try:
            fields = self._read(self.temporary_path, 4)
        except CorruptDataError:
            return None
        return AppliedId(int(fields[2]), fields[3]) if fields is not None else None

    def _read(self, path: str, count: int) -> list[str] | None:
        try:
            text = self._files.read_file(path).decode("utf-8", "replace").strip()
        except FileNotFoundError:
            return None
        fields = text.split("#")
        expected = f"{self._cluster}#{self._broker_name}#ID" + ("#CODE" if count == 4 else "")
        if len(fields) != count or fields[:2] != [self._cluster, self._broker_name] or not fields[2].isdigit():
            raise CorruptDataError(
                path,
                expected,
                repr(text[:80]),
                "The store is another broker's, or brokerClusterName or brokerName was changed. Restore the setting, or "
                "start with an empty store",
            )
        return fields

    def write_applied(self, applied: AppliedId) -> None:
        """Note what is applied for, before it is."""
        self._write(self.temporary_path, f"{applied.broker_id}#{applied.check_code}")

    def write(self, broker_id: int) -> None:
        """Keep the id that was given."""
        self._write(self.path, str(broker_id))
        with suppress(FileNotFoundError):
            self._files.unlink(self.temporary_path)

    def _write(self, path: str, rest: str) -> None:
        text = f"{self._cluster}#{self._broker_name}#{rest}"
        write_atomically(self._files, path, text.encode(), keep_backup=False)
