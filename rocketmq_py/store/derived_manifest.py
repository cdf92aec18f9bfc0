"""The manifest of what is derived from the log: which queues and index files there should be.

A consume queue that is gone cannot be missed by looking at the others, and looking through the whole log for queues
would make every start as slow as the store is large. So their names and first units are written down; recovery rebuilds
from the log what the list has and the disk has not.

The file is JSON, unknown to RocketMQ and ignored by it. Without it (a store that RocketMQ wrote) the files are believed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import msgspec

from rocketmq_py.common.file_system import FileSystem, write_atomically
from rocketmq_py.store.consume_queue import ConsumeQueue
from rocketmq_py.store.message_store import MessageStore

logger = logging.getLogger(__name__)


class DerivedIndexFile(Protocol):
    """One index file, as far as it is derived from a range of the log."""

    @property
    def begin_physical_offset(self) -> int:
        """Offset of the first record in it."""
        ...

    @property
    def end_physical_offset(self) -> int:
        """Offset of the last record in it."""
        ...

    @property
    def end_timestamp(self) -> int:
        """Store time of the last record in it, milliseconds."""
        ...

    def flush(self) -> None:
        """Force it to disk. Blocks."""
        ...


@runtime_checkable
class DerivedIndex(Protocol):
    """What this stage needs of the index, if there is one."""

    @property
    def files(self) -> Sequence[DerivedIndexFile]:
        """The files, oldest first."""
        ...

    @property
    def is_damaged(self) -> bool:
        """Whether files could not be opened and are gone."""
        ...

    is_failed: bool

    def names(self) -> list[str]:
        """Return the names of the files, oldest first."""
        ...

    def build(self) -> None:
        """Add what waits to be added."""
        ...

    def truncate(self, physical_offset: int) -> None:
        """Drop the files that know records at or behind an offset; what they held is dispatched again. Blocks."""
        ...

    async def delete_expired(self, min_offset: int) -> int:
        """Delete the files whose records all lie before an offset, but never the newest; return how many."""
        ...


def index_of(store: MessageStore) -> DerivedIndex | None:
    """Return the index of a store; None if it has none."""
    return store.index if isinstance(store.index, DerivedIndex) else None


class ManifestQueue(msgspec.Struct, array_like=True, frozen=True):
    """One queue: its name, and the units from `first` to `end` that its files held."""

    topic: str
    queue_id: int
    first: int
    end: int


class Manifest(msgspec.Struct, frozen=True):
    """What was on disk when the list was written.

    Attributes:
        log_min_offset: the log began here.
        dispatched: all records before this offset are in the queues up to their `end`.
        queues: consume queues with files.
        index: names of index files.
    """

    log_min_offset: int
    dispatched: int
    queues: list[ManifestQueue]
    index: list[str]


class DerivedManifest:
    """The manifest file of one store."""

    def __init__(self, files: FileSystem, root_dir: str) -> None:
        self.path = os.path.join(root_dir, "derivedManifest.json")
        self._files = files
        self._written = b""

    def load(self) -> Manifest | None:
        """Return the list, or None if there is none that can be read. Blocks."""
        try:
            data = self._files.read_file(self.path)
        except FileNotFoundError:
            return None
        try:
            manifest = msgspec.json.decode(data, type=Manifest)
        except msgspec.DecodeError as error:
            logger.warning("%s cannot be read (%s) and is ignored", self.path, error)
            return None
        self._written = data
        return manifest

    def write(self, manifest: Manifest) -> None:
        """Replace the list if it changed. Blocks."""
        data = msgspec.json.encode(manifest)
        if data != self._written:
            write_atomically(self._files, self.path, data, keep_backup=False)
            self._written = data

    def __repr__(self) -> str:
        return f"<DerivedManifest {self.path}>"


def describe(store: MessageStore) -> Manifest:
    """Return what queues and index of a running store hold now, of what its log still needs.

    It is true of the disk once queues and index were forced there.
    """
    index, log_min_offset = index_of(store), store.commit_log.min_offset
    listed = []
    for queue in store.queues:
        if queue.end <= queue.first:
            continue
        # Files before the one of the first needed unit may go at any time.
        first = queue.min_offset if isinstance(queue, ConsumeQueue) else queue.end - 1
        first = max(first - first % queue.units_per_file, queue.first)
        listed.append(ManifestQueue(queue.topic, queue.queue_id, first, queue.end))
    names: list[str] = []
    if index is not None:
        files = zip(index.names(), index.files, strict=True)
        names = [name for name, file in files if file.end_physical_offset >= log_min_offset]
    return Manifest(log_min_offset, store.reput.reput_from_offset, listed, names)


def find_missing(manifest: Manifest, found: dict[tuple[str, int], Any]) -> list[ManifestQueue]:
    """Return the listed queues that are gone, begin later or end earlier than they did.

    Args:
        manifest: what there was.
        found: queues by topic and queue id, with `first` and `end` in units.
    """
    missing = []
    for listed in manifest.queues:
        queue = found.get((listed.topic, listed.queue_id))
        if queue is None or queue.first > listed.first or queue.end < listed.end:
            missing.append(listed)
    return missing
