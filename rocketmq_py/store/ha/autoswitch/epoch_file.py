"""The file `epochFileCheckpoint`: the epochs of this broker's log.

Text, each line ended by a line feed:

    2               number of entries
    901238129       CRC-32 of the lines below, without its highest bit; 0: do not check
    1-0             epoch - start offset, both growing
    2-202

It is believed only as far as the log goes: an epoch that begins at or behind the end of the log has no byte in it. What
the file lacks (it was written before the crash, and the log went on) costs a longer way back to the point where two
logs agree, never a wrong one. It is written before the first byte of a new epoch is appended, and after a cut of the log
was flushed.

Source: `EpochFileCache`, `CheckpointFile`, RocketMQ 5.3.
"""

from __future__ import annotations

import logging
import os
import re
import zlib
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from rocketmq_py.common.errors import CorruptDataError
from rocketmq_py.common.file_system import FileSystem, write_atomically
from rocketmq_py.store.ha.autoswitch.epochs import Epoch, check_epochs, end_of, epoch_at

logger = logging.getLogger(__name__)

NAME: Final = "epochFileCheckpoint"
_ENTRY: Final = re.compile(r"(\d{1,10})-(\d{1,19})")
#: No election brings so many in the life of a cluster; a larger file is none of ours.
_MAX_BYTES: Final = 4 << 20


def encode_epochs(epochs: Sequence[Epoch]) -> bytes:
    """Return the file's content."""
    lines = "".join(f"{number}-{start}\n" for number, start in epochs).encode()
    return f"{len(epochs)}\n{zlib.crc32(lines) & 0x7FFFFFFF}\n".encode() + lines


def decode_epochs(data: bytes) -> list[Epoch]:
    """Return the epochs of a file.

    Raises:
        ValueError: it is not such a file, or damaged; the text says where.
    """
    if len(data) > _MAX_BYTES:
        raise ValueError(f"{len(data)} bytes are too many")
    # Java writes the line separator of its platform.
    lines = data.decode("ascii").split("\n")
    head, entries = [line.removesuffix("\r") for line in lines[:2]], lines[2:]
    if len(head) < 2 or not all(line.isdigit() for line in head):
        raise ValueError(f"it does not begin with a number of entries and a CRC, but with {lines[:2]}")
    count, crc = int(head[0]), int(head[1])
    if entries and entries[-1] == "":
        entries.pop()
    if len(entries) != count:
        raise ValueError(f"it announces {count} epochs and holds {len(entries)}")
    body = "".join(line + "\n" for line in entries).encode()
    if crc and zlib.crc32(body) & 0x7FFFFFFF != crc:
        raise ValueError(f"its CRC is {zlib.crc32(body) & 0x7FFFFFFF}, not {crc}")
    epochs = []
    for number, line in enumerate(entries, 3):
        match = _ENTRY.fullmatch(line.removesuffix("\r"))
        if match is None:
            raise ValueError(f"line {number} is {line[:40]!r}, not EPOCH-OFFSET")
        epochs.append(Epoch(int(match[1]), int(match[2])))
    check_epochs(epochs)
    return epochs


class EpochFile:
    """The epochs of one log, in memory and on disk. Every method that changes them blocks until they are on disk.

    Attributes:
        path: the file; `path + ".bak"` is the version before.
    """

    def __init__(self, files: FileSystem, root_dir: str) -> None:
        self.path = os.path.join(root_dir, NAME)
        self._files = files
        self._epochs: tuple[Epoch, ...] = ()

    @property
    def epochs(self) -> tuple[Epoch, ...]:
        """All epochs, oldest first."""
        return self._epochs

    @property
    def last(self) -> Epoch | None:
        """The newest epoch; None if no controller ever spoke to this broker."""
        return self._epochs[-1] if self._epochs else None

    @property
    def last_number(self) -> int:
        """The newest epoch's number; 0 without epochs."""
        return self._epochs[-1].number if self._epochs else 0

    def load(self, max_offset: int) -> None:
        """Read the file, or its backup. Blocks.

        Args:
            max_offset: where the log ends, as recovery found it.

        Raises:
            CorruptDataError: there is a file, but neither it nor its backup can be used. Which bytes of the log were
                written by whom is not guessed.
        """
        problems: list[str] = []
        for path in (self.path, self.path + ".bak"):
            try:
                epochs = decode_epochs(self._files.read_file(path))
            except FileNotFoundError:
                continue
            except ValueError as error:
                problems.append(f"{os.path.basename(path)}: {error}")
                continue
            if not epochs:
                problems.append(f"{os.path.basename(path)}: it holds no epoch")
                continue
            for problem in problems:
                logger.warning("%s cannot be used (%s); its backup was loaded", self.path, problem)
            # Epochs that begin where the log ends: their master died before it wrote anything, or the log was cut and
            # the process ended before this file was.
            self._epochs = tuple(epoch for epoch in epochs if epoch.start < max_offset)
            return
        if problems:
            raise CorruptDataError(
                self.path,
                "the epochs of this broker's log",
                "; ".join(problems),
                "Move the store away to copy the log anew from the master, or restore the file from a backup",
            )

    def append(self, epoch: Epoch, min_offset: int = 0) -> None:
        """Begin an epoch: from `epoch.start` on, bytes come from another master.

        Entries that it makes impossible (of the same or a later epoch, or from there on) are dropped: they were
        announced, and nobody wrote in them.

        Args:
            epoch: the new epoch.
            min_offset: where the log begins. What is older than the first epoch of all belongs to it.
        """
        kept = tuple(old for old in self._epochs if old.number < epoch.number and old.start < epoch.start)
        if not kept and epoch.start > min_offset:
            # Differs from RocketMQ, where a log from before controller mode belongs to no epoch and is never sent.
            epoch = Epoch(epoch.number, min_offset)
        self._replace((*kept, epoch))

    def truncate(self, offset: int) -> None:
        """Drop the epochs that begin at or behind an offset at which the log was cut."""
        self._replace(tuple(epoch for epoch in self._epochs if epoch.start < offset))

    def adopt(self, epochs: Sequence[Epoch]) -> None:
        """Take over the epochs of a master whose log this one is a beginning of.

        Those that begin behind the end of this log are not true yet. They do no harm: this log is not longer for them,
        and `load` drops what has no byte.

        Args:
            epochs: the master's, the oldest may be missing.
        """
        if epochs:
            check_epochs(epochs)
            self._replace((*(old for old in self._epochs if old.number < epochs[0].number), *epochs))

    def delete_before(self, min_offset: int) -> None:
        """Drop the epochs of which the log has no byte any more; never the newest."""
        epochs = self._epochs
        gone = sum(1 for index in range(len(epochs) - 1) if epochs[index + 1].start <= min_offset)
        if gone:
            self._replace(epochs[gone:])

    def find(self, offset: int) -> Epoch | None:
        """Return the epoch to which an offset belongs, or None."""
        index = epoch_at(self._epochs, offset)
        return None if index is None else self._epochs[index]

    def end_of(self, offset: int, max_offset: int) -> int:
        """Return where the epoch ends to which an offset belongs."""
        index = epoch_at(self._epochs, offset)
        return max_offset if index is None else end_of(self._epochs, index, max_offset)

    def _replace(self, epochs: tuple[Epoch, ...]) -> None:
        if epochs == self._epochs:
            return
        if epochs:
            write_atomically(self._files, self.path, encode_epochs(epochs))
        else:
            # An empty list is read as damage. The backup first: it must not come back.
            for path in (self.path + ".bak", self.path):
                with suppress(FileNotFoundError):
                    self._files.unlink(path)
            self._files.sync_directory(os.path.dirname(self.path))
        self._epochs = epochs

    def __repr__(self) -> str:
        return f"<EpochFile {' '.join(f'{number}-{start}' for number, start in self._epochs) or 'empty'}>"
