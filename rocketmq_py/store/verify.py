"""Verify: read every file of a store, change none, and say what is not as it should be.

    log      every record by its own fields, every block by its check
    queues   every unit against the record that it names
    index    every entry against the log's range, every chain downwards
    tables   every JSON file, or its backup

A start looks only at what the last run may have left unfinished. This looks at everything, and takes as long as reading
everything does.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from rocketmq_py.common.environment import Environment
from rocketmq_py.common.file_system import AlreadyLockedError, FileSystem
from rocketmq_py.common.record import Record, RecordState
from rocketmq_py.store.block_checks import BlockChecks
from rocketmq_py.store.commit_log import CommitLog
from rocketmq_py.store.config import LogWriteMode, MessageStoreConfig
from rocketmq_py.store.errors import StoreCorruptError, StoreError
from rocketmq_py.store.flushed_position import FlushedPosition
from rocketmq_py.store.lock_file import StoreLockedError
from rocketmq_py.store.record_search import check_at, next_valid
from rocketmq_py.store.run_state import RunState, read_process_id
from rocketmq_py.store.verify_derived import QueueRuns, verify_index, verify_queues, verify_tables

_REPLICA = "Copy the file from a replica or a backup while the broker is stopped"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: where, what should be there, what is there, and what to do."""

    place: str
    expected: str
    found: str
    next_step: str

    def __str__(self) -> str:
        return f"{self.place}: expected {self.expected}, found {self.found}. {self.next_step}."


@dataclass(slots=True)
class VerifyReport:
    """What was looked at, and what is wrong with it.

    Attributes:
        problems: in the order in which they were found.
        counts: what was looked at, by name.
        notes: what is no problem, but good to know.
    """

    problems: list[Problem] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def add(self, place: str, expected: object, found: object, next_step: str) -> None:
        """Add a problem."""
        self.problems.append(Problem(place, str(expected), str(found), next_step))


class ReadOnlyFiles:
    """The files of an environment, of which nothing can be changed: what would write does nothing or fails."""

    def __init__(self, files: FileSystem) -> None:
        self._files = files

    def open_file(self, path: str, *, create: bool = False, write: bool = True) -> int:
        """Open a file for reading."""
        return self._files.open_file(path, write=False)

    def make_directories(self, path: str) -> None:
        """Do nothing: a folder that is missing is an empty one."""

    def sync_directory(self, path: str) -> None:
        """Do nothing."""

    def unlink(self, path: str) -> None:
        """Do nothing: what a start would clear away is passed over."""

    def __getattr__(self, name: str) -> Any:
        if name in ("pwrite", "truncate", "allocate", "rename", "remove_directory"):
            raise AttributeError(f"{name} would change the store")
        return getattr(self._files, name)


def verify_store(
    environment: Environment, root: str, *, config: MessageStoreConfig | None = None, take_lock: bool = True
) -> VerifyReport:
    """Read all files of a store and judge them. Blocks; changes nothing.

    Args:
        environment: its files and clock.
        root: the store's directory.
        config: the sizes that the store was written with, and where its log is; None takes the defaults, and the size
            of log files from the first of them.
        take_lock: hold the store's lock meanwhile; without it a running broker's last bytes may look unfinished.

    Raises:
        StoreLockedError: a broker runs on it.
        StoreError: it cannot be read at all.
    """
    files, report = environment.files, VerifyReport()
    if not files.is_directory(root):
        raise StoreError(f"{root} is no directory; name the one that storePathRootDir says")
    lock_path = os.path.join(root, "lock")
    lock = None
    if take_lock and files.exists(lock_path):
        try:
            lock = files.lock(lock_path)
        except AlreadyLockedError:
            owner = read_process_id(files, root)
            raise StoreLockedError(
                f"the store {root} is in use by {f'process {owner}' if owner else 'another process'}; stop that broker "
                "first"
            ) from None
    try:
        _verify(environment, root, config or MessageStoreConfig(), report)
    finally:
        if lock is not None:
            lock.release()
    return report


def _verify(environment: Environment, root: str, config: MessageStoreConfig, report: VerifyReport) -> None:
    reading = replace(environment, files=ReadOnlyFiles(environment.files))
    config = replace(config, store_path_root_dir=root, log_write_mode=LogWriteMode.PWRITE, warm_maped_file_enable=False)
    config.mapped_file_size_commit_log = _log_file_size(environment.files, config)
    log = CommitLog(config, reading, bytes(8))
    try:
        try:
            log.load()
        except StoreError as error:
            report.add(config.commit_log_dir, "files of one size without a gap", error, _REPLICA)
            return
        runs = QueueRuns()
        _verify_log(reading, root, log, report, runs)
        verify_queues(reading.files, root, config, log, runs, report)
        verify_index(reading.files, root, config, log, report)
    finally:
        for file in log.files.mapped_files:
            file.close()
    verify_tables(reading.files, root, report)


def _log_file_size(files: FileSystem, config: MessageStoreConfig) -> int:
    for name in files.list_directory(config.commit_log_dir):
        path = os.path.join(config.commit_log_dir, name)
        if name.isdigit() and files.stat(path).size:
            return files.stat(path).size
    return config.mapped_file_size_commit_log


def _verify_log(environment: Environment, root: str, log: CommitLog, report: VerifyReport, runs: QueueRuns) -> None:
    position = FlushedPosition(environment.files, root)
    position.load()
    flushed = position.offset
    was_clean = RunState(environment.files, root).was_clean
    end = _walk(log, flushed, report, runs.add)
    if flushed is not None and end < flushed:
        report.add(f"{log.files.folder} at offset {end}", f"records up to {flushed}", "no valid record", _REPLICA)
    if position.min_offset < log.min_offset and flushed is not None:
        report.add(log.files.folder, f"a log from {position.min_offset}", f"one from {log.min_offset}", _REPLICA)
    if not was_clean:
        report.notes.append(
            "the abort file is there: a broker runs, or was killed and the next start recovers the rest"
        )
    log.max_offset = end
    _verify_blocks(environment, root, log, report)
    report.counts.update(log_min_offset=log.min_offset, log_end=end)


def _walk(log: CommitLog, flushed: int | None, report: VerifyReport, take: Callable[[Record], None]) -> int:
    """Look at every record and return where the last valid one ends."""
    offset, records, blanks = log.min_offset, 0, 0
    while (file := log.files.find(offset)) is not None:
        check = check_at(log, offset)
        if check.record is not None:
            records += 1
            take(check.record)
        elif check.state is RecordState.BLANK:
            blanks += 1
        else:
            following = next_valid(log, offset + 1, log.files.end)
            if following is None:
                break
            place = f"{file.path} at byte {offset - file.start} (offset {offset})"
            if flushed is None or offset < flushed:
                report.add(place, check.expected, check.found, f"Messages up to {following} are lost. {_REPLICA}")
            else:
                report.notes.append(f"{place}: behind the flushed position {flushed}; the next start cuts the log here")
                break
            offset = following
            continue
        offset += check.size
    report.counts.update(records=records, blank_records=blanks)
    return offset


def _verify_blocks(environment: Environment, root: str, log: CommitLog, report: VerifyReport) -> None:
    checks = BlockChecks(environment.files, root, log)
    covered = 0
    for block in checks.covered():
        covered += 1
        for damage in checks.check(block):
            error: StoreCorruptError = checks.error(damage)
            report.add(str(error.place), damage.expected, damage.found, _REPLICA)
    report.counts["checked_blocks"] = covered
