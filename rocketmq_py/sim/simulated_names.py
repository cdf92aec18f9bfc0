"""The directories of the simulated disk: the names that readers see, and those that survive a power cut."""

from __future__ import annotations

import enum
import errno
import os
import posixpath
import random
from dataclasses import dataclass

from rocketmq_py.sim.simulated_file import SimulatedFile


class Personality(enum.Enum):
    """What a file system does beyond the standard.

    EXT4: syncing any file also saves all names, and after a crash the operations on names that survive are a prefix.
    STRICT: a name is durable once its own directory was synced, nothing else; any subset of the rest may survive.
    """

    EXT4 = "ext4"
    STRICT = "strict"


@dataclass(slots=True)
class _Change:
    """One operation on names that is not durable yet; `removed` goes and `added` comes, together."""

    directory: str
    added: str | None
    removed: str | None
    file: SimulatedFile | None


class SimulatedNames:
    """Which path leads to which file.

    Attributes:
        files: path -> file, as readers see it.
        directories: paths of all directories.
    """

    def __init__(self, personality: Personality) -> None:
        self.personality = personality
        self.files: dict[str, SimulatedFile] = {}
        self.directories: set[str] = {"/", "."}
        self._durable_files: dict[str, SimulatedFile] = {}
        self._durable_directories: set[str] = {"/", "."}
        self._changes: list[_Change] = []

    def all_files(self) -> list[SimulatedFile]:
        """Return every file that a reader sees or a crash could bring back."""
        found = {id(file): file for file in (*self.files.values(), *self._durable_files.values())}
        found.update((id(change.file), change.file) for change in self._changes if change.file is not None)
        return list(found.values())

    def children(self, directory: str) -> list[str]:
        """Return the names in a directory, sorted."""
        paths = (*self.files, *self.directories)
        return sorted({posixpath.basename(path) for path in paths if path != directory and _parent(path) == directory})

    def create(self, path: str, file: SimulatedFile) -> None:
        """Give a file a name; its directory must exist."""
        self._need_directory(path)
        self.files[path] = file
        self._changes.append(_Change(_parent(path), path, None, file))

    def unlink(self, path: str) -> None:
        """Take a file's name away."""
        if path not in self.files:
            raise _error(errno.ENOENT, path)
        del self.files[path]
        self._changes.append(_Change(_parent(path), None, path, None))

    def rename(self, old: str, new: str) -> None:
        """Give a file another name, in place of whatever had it."""
        self._need_directory(new)
        if old not in self.files:
            raise _error(errno.ENOENT, old)
        file = self.files.pop(old)
        self.files[new] = file
        self._changes.append(_Change(_parent(new), new, old, file))

    def make_directories(self, path: str) -> None:
        """Create a directory and those above it."""
        if path in self.directories:
            return
        if path in self.files:
            raise _error(errno.EEXIST, path)
        self.make_directories(_parent(path))
        self.directories.add(path)
        self._changes.append(_Change(_parent(path), path, None, None))

    def remove_directory(self, path: str) -> None:
        """Remove an empty directory."""
        if path not in self.directories:
            raise _error(errno.ENOENT, path)
        if self.children(path):
            raise _error(errno.ENOTEMPTY, path)
        self.directories.discard(path)
        self._changes.append(_Change(_parent(path), None, path, None))

    def sync(self, directory: str) -> None:
        """Make the names in one directory durable."""
        if directory not in self.directories:
            raise _error(errno.ENOENT, directory)
        for change in self._changes:
            if change.directory == directory:
                self._apply(change)
        self._changes = [change for change in self._changes if change.directory != directory]

    def file_synced(self) -> None:
        """A file was synced: with EXT4 the journal takes all names along."""
        if self.personality is Personality.EXT4:
            self.sync_all()

    def sync_all(self) -> None:
        """Make every name durable."""
        for change in self._changes:
            self._apply(change)
        self._changes.clear()

    def crash(self, rng: random.Random, keep: float) -> None:
        """Become what the disk holds: a prefix of the pending changes (EXT4) or any subset (STRICT)."""
        if self.personality is Personality.EXT4:
            kept = len(self._changes) if keep >= 1 else rng.randint(0, int(keep * 2 * len(self._changes) + 0.5))
            survivors = self._changes[:kept]
        else:
            survivors = [change for change in self._changes if rng.random() < keep]
        for change in survivors:
            self._apply(change)
        self._changes.clear()
        # A directory whose own name was lost takes everything below along.
        self.directories = {path for path in self._durable_directories if self._is_reachable(path)}
        self.files = {path: file for path, file in self._durable_files.items() if self._is_reachable(_parent(path))}
        self._durable_directories = set(self.directories)
        self._durable_files = dict(self.files)

    def _is_reachable(self, directory: str) -> bool:
        while directory not in ("/", "."):
            if directory not in self._durable_directories:
                return False
            directory = _parent(directory)
        return True

    def _apply(self, change: _Change) -> None:
        if change.removed is not None:
            self._durable_files.pop(change.removed, None)
            self._durable_directories.discard(change.removed)
        if change.added is not None:
            if change.file is None:
                self._durable_directories.add(change.added)
            else:
                self._durable_files[change.added] = change.file

    def _need_directory(self, path: str) -> None:
        if _parent(path) not in self.directories:
            raise _error(errno.ENOENT, path)


def _parent(path: str) -> str:
    return posixpath.dirname(path) or "."


def _error(code: int, path: str) -> OSError:
    return OSError(code, os.strerror(code), path)
