"""Persisted tables: the small JSON files under `config/` that a broker or name server keeps beside its messages.

A table is written to a new file that replaces the old one by a rename, and the old one stays as `.bak`; a file that
cannot be read falls back to `.bak` and says so. Differs from RocketMQ: a table whose two files are both unreadable
stops the start. Going on with an empty one would reset every consumer's progress.

Source: `ConfigManager`, RocketMQ 5.3.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator

from rocketmq_py.common.environment import Environment
from rocketmq_py.common.errors import CorruptDataError
from rocketmq_py.common.file_system import write_atomically

logger = logging.getLogger(__name__)


class Table:
    """One file that is rewritten as a whole.

    Args:
        path: the file; `path + ".bak"` is the version before.
        encode: returns the bytes of the present state; called on the loop, so it sees a state between two awaits.
        decode: replaces the state by that of some bytes; raises `ValueError` (or a `RocketMQError`) if it cannot,
            and then must leave the state as it was.
        environment: its files and its blocking calls.
    """

    def __init__(
        self,
        path: str,
        encode: Callable[[], bytes],
        decode: Callable[[bytes], None],
        environment: Environment,
    ) -> None:
        self.path = path
        self.is_dirty = False
        self._encode = encode
        self._decode = decode
        self._environment = environment
        self._is_writing = False

    @property
    def name(self) -> str:
        """The file's name, such as `topics.json`."""
        return os.path.basename(self.path)

    def mark_dirty(self) -> None:
        """Note that the state differs from the file, so that the next `persist` writes."""
        self.is_dirty = True

    def encode(self) -> bytes:
        """Return the bytes of the present state, as a slave copies them."""
        return self._encode()

    def load(self) -> bool:
        """Read the file, or its backup if the file is missing, empty or damaged.

        Returns:
            Whether anything was read; false for a first start, when neither file exists.

        Raises:
            CorruptDataError: there is a file, but neither it nor the backup can be decoded.
        """
        problems: list[str] = []
        for path in (self.path, self.path + ".bak"):
            try:
                data = self._environment.files.read_file(path)
            except FileNotFoundError:
                continue
            try:
                if not data.strip():
                    raise ValueError("the file is empty")
                self._decode(data)
            except (ValueError, KeyError, TypeError, ArithmeticError) as error:
                problems.append(f"{os.path.basename(path)}: {error}")
                continue
            for problem in problems:
                logger.warning("%s cannot be used (%s); its backup was loaded", self.path, problem)
            return True
        if problems:
            raise CorruptDataError(
                self.path,
                "a table that can be decoded",
                "; ".join(problems),
                "Restore the file from a copy, or remove it and its .bak to start with an empty table",
            )
        return False

    def persist(self) -> None:
        """Write the state now if it is dirty. Blocks; for the stop of a process and for tools."""
        if self.is_dirty:
            self.is_dirty = False
            self._write(self._encode())

    async def persist_soon(self) -> None:
        """Write the state in a thread if it is dirty and no write is under way.

        Raises:
            OSError: the file system refused; the table stays dirty.
        """
        if not self.is_dirty or self._is_writing:
            return
        self.is_dirty = False
        self._is_writing = True
        try:
            await self._environment.run_blocking(self._write, self._encode())
        except BaseException:
            self.is_dirty = True
            raise
        finally:
            self._is_writing = False

    def _write(self, data: bytes) -> None:
        files = self._environment.files
        files.make_directories(os.path.dirname(self.path))
        write_atomically(files, self.path, data)

    def __repr__(self) -> str:
        return f"<Table {self.path}{' dirty' if self.is_dirty else ''}>"


class Tables:
    """All tables of a process, in the order in which they were added."""

    def __init__(self) -> None:
        self._tables: list[Table] = []

    def add(self, table: Table) -> Table:
        """Add a table and return it."""
        self._tables.append(table)
        return table

    def __iter__(self) -> Iterator[Table]:
        return iter(self._tables)

    def persist_all(self) -> None:
        """Write every dirty table now. Blocks."""
        for table in self._tables:
            table.persist()
