"""The manifest of what is derived from the log: which queues and index files there should be.

A consume queue that is gone cannot be missed by looking at the others, and looking through the whole log for queues
would make every start as slow as the store is large. So their names and first units are written down; recovery rebuilds
from the log what the list has and the disk has not.

The file is JSON, unknown to RocketMQ and ignored by it. Without it (a store that RocketMQ wrote) the files are believed.
"""

from __future__ import annotations

import logging
import os
from typing import Any

import msgspec

from rocketmq_py.common.file_system import FileSystem, write_atomically

logger = logging.getLogger(__name__)


class ManifestQueue(msgspec.Struct, array_like=True, frozen=True):
    """One queue: its name, and the units that its files held at least."""

    topic: str
    queue_id: int
    first: int
    flushed: int


class Manifest(msgspec.Struct, frozen=True):
    """What the disk held when the list was written.

    Attributes:
        log_min_offset: the log began here; what lies before it may be missing.
        queues: consume queues with files.
        index: names of index files.
    """

    log_min_offset: int
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


def find_missing(manifest: Manifest, found: dict[tuple[str, int], Any]) -> list[ManifestQueue]:
    """Return the listed queues that are gone, begin later or end earlier than they did.

    Args:
        manifest: what there was.
        found: queues by topic and queue id, with `first` and `end` in units.
    """
    missing = []
    for listed in manifest.queues:
        queue = found.get((listed.topic, listed.queue_id))
        if queue is None or queue.first > listed.first or queue.end < listed.flushed:
            missing.append(listed)
    return missing
