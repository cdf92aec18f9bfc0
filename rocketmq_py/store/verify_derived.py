"""Verify, second half: what is derived from the log (queues, index), and the tables beside it."""

from __future__ import annotations

import os
import re
from typing import Final, Protocol

import msgspec

from rocketmq_py.common.file_system import FileSystem
from rocketmq_py.common.record import HEAD_LAYOUT, Record
from rocketmq_py.common.sys_flag import TRANSACTION_MASK, TRANSACTION_PREPARED, TRANSACTION_ROLLBACK
from rocketmq_py.common.topic import LMQ_PREFIX
from rocketmq_py.store.commit_log import CommitLog
from rocketmq_py.store.config import MessageStoreConfig
from rocketmq_py.store.consume_queue_unit import FILLER, FILLER_SIZE, UNIT_LAYOUT, UNIT_SIZE
from rocketmq_py.store.derived_manifest import DerivedManifest
from rocketmq_py.store.index_file import ENTRY_LAYOUT, HEADER_LAYOUT, SLOT_SIZE, index_file_size
from rocketmq_py.store.queue_files import QueueFiles

_REBUILD_QUEUE: Final = (
    "Delete the folder while the broker is stopped; the next start makes the queue again from the log"
)
_REBUILD_INDEX: Final = "Delete the file while the broker is stopped; the next start makes it again from the log"
_QUEUE_OFFSET_AT: Final = HEAD_LAYOUT.offset_of("queue_offset")
_HEAD_SIZE: Final = _QUEUE_OFFSET_AT + 8
#: RocketMQ's JSON has numbers as keys, without quotes.
_BARE_KEY: Final = re.compile(rb"([{,]\s*)(-?\d+)(\s*:)")


class Report(Protocol):
    """Takes what is found; see `verify.VerifyReport`."""

    counts: dict[str, int]
    notes: list[str]

    def add(self, place: str, expected: object, found: object, next_step: str) -> None:
        """Add a problem."""
        ...


class QueueRuns:
    """Which queue offsets the log has, for each queue: the last run without a step back."""

    def __init__(self) -> None:
        self.runs: dict[tuple[str, int], tuple[int, int]] = {}

    def add(self, record: Record) -> None:
        """Note one record, in the order of the log."""
        if record.sys_flag & TRANSACTION_MASK in (TRANSACTION_PREPARED, TRANSACTION_ROLLBACK):
            return
        key = (record.topic.decode("utf-8", "replace"), record.queue_id)
        first, last = self.runs.get(key, (record.queue_offset, -1))
        # A step back: the topic was deleted and made again.
        self.runs[key] = (first if record.queue_offset > last else record.queue_offset, record.queue_offset)


def verify_queues(
    files: FileSystem, root: str, config: MessageStoreConfig, log: CommitLog, runs: QueueRuns, report: Report
) -> None:
    """Judge every unit of every consume queue by the record that it names."""
    size = -(-config.mapped_file_size_consume_queue // UNIT_SIZE) * UNIT_SIZE
    queue_files = QueueFiles(files, os.path.join(root, "consumequeue"), size, FILLER)
    found = queue_files.queues()
    is_clean = not files.exists(os.path.join(root, "abort"))
    units = 0
    for topic, queue_id in found:
        folder = os.path.join(queue_files.folder, topic, str(queue_id))
        queue = _QueueReading(files, folder, topic, log, report)
        units += queue.read()
        run = runs.runs.get((topic, queue_id))
        if is_clean and run is not None and queue.is_sound and queue.end <= run[1]:
            report.add(folder, f"units up to {run[1]}, as the log has", f"units up to {queue.end - 1}", _REBUILD_QUEUE)
    report.counts.update(queues=len(found), queue_units=units)
    manifest = DerivedManifest(files, root).load()
    for listed in manifest.queues if manifest is not None else ():
        key = (listed.topic, listed.queue_id)
        if (
            key not in found
            and key in runs.runs
            and not files.is_directory(os.path.join(root, "batchconsumequeue", *map(str, key)))
        ):
            place = os.path.join(queue_files.folder, listed.topic, str(listed.queue_id))
            report.add(place, f"{listed.end} units", "no folder", "Start the broker: it makes the queue again")


class _QueueReading:
    """One consume queue under examination."""

    def __init__(self, files: FileSystem, folder: str, topic: str, log: CommitLog, report: Report) -> None:
        self.end = 0
        self.is_sound = True
        self._files = files
        self._folder = folder
        self._is_light = topic.startswith(LMQ_PREFIX)
        self._log = log
        self._report = report
        self._last = -1

    def read(self) -> int:
        """Read all files and return the number of units that name a record."""
        count, expected = 0, None
        for name in self._files.list_directory(self._folder):
            if len(name) != 20 or not name.isdigit():
                continue
            path, start = os.path.join(self._folder, name), int(name)
            data = self._files.read_file(path)
            if expected is not None and start != expected:
                self._complain(path, f"a file that begins at {expected}", start)
            expected = start + len(data)
            count += self._read_file(path, start, data)
        return count

    def _read_file(self, path: str, start: int, data: bytes) -> int:
        count = 0
        for at in range(0, len(data) - UNIT_SIZE + 1, UNIT_SIZE):
            offset, size, _ = UNIT_LAYOUT.struct.unpack_from(data, at)
            if size <= 0 and offset == 0:
                break
            self.end = (start + at) // UNIT_SIZE + 1
            if size == FILLER_SIZE:
                continue
            count += 1
            self._judge(path, at, self.end - 1, offset, size)
        return count

    def _judge(self, path: str, at: int, number: int, offset: int, size: int) -> None:
        place = f"{path} at byte {at} (unit {number})"
        if offset <= self._last:
            self._complain(place, f"an offset behind {self._last}", offset)
        self._last = offset
        if offset < self._log.min_offset:
            return
        head = self._log.read_blocking(offset, _HEAD_SIZE)
        if head is None or len(head) < _HEAD_SIZE:
            self._complain(place, f"an offset below the log's end {self._log.max_offset}", offset)
            return
        record_size = int.from_bytes(head[:4], "big", signed=True)
        queue_offset = int.from_bytes(head[_QUEUE_OFFSET_AT:], "big", signed=True)
        if record_size != size or (queue_offset != number and not self._is_light):
            record = f"record {queue_offset} of {record_size} bytes at {offset}"
            self._complain(place, record, f"unit {number} of {size} bytes")

    def _complain(self, place: str, expected: object, found: object) -> None:
        if self.is_sound:
            # One for each queue: the others follow from it, as a rule, and the remedy is the same.
            self._report.add(place, expected, found, _REBUILD_QUEUE)
        self.is_sound = False


def verify_index(files: FileSystem, root: str, config: MessageStoreConfig, log: CommitLog, report: Report) -> None:
    """Judge every entry of every index file."""
    folder = os.path.join(root, "index")
    entries = count = 0
    for name in files.list_directory(folder):
        path = os.path.join(folder, name)
        size = files.stat(path).size
        if size != index_file_size(config.max_hash_slot_num, config.max_index_num):
            report.notes.append(f"{path} has {size} bytes, which are not the configured sizes; it was not read")
            continue
        count += 1
        entries += _verify_index_file(files, path, config.max_hash_slot_num, log, report)
    report.counts.update(index_files=count, index_entries=entries)


def _verify_index_file(files: FileSystem, path: str, slots: int, log: CommitLog, report: Report) -> int:
    fd = files.open_file(path, write=False)
    try:
        header = HEADER_LAYOUT.struct.unpack(files.pread(fd, HEADER_LAYOUT.size, 0))
        count = max(int(header[5]), 1)
        entries_at = HEADER_LAYOUT.size + slots * SLOT_SIZE
        data = files.pread(fd, (count - 1) * ENTRY_LAYOUT.size, entries_at + ENTRY_LAYOUT.size)
        last = -1
        for number, (_, offset, _, previous) in enumerate(ENTRY_LAYOUT.struct.iter_unpack(data), 1):
            place = f"{path} entry {number}"
            if not 0 <= previous < number:
                report.add(place, f"an older entry than {number}", previous, _REBUILD_INDEX)
                break
            if offset < last or offset >= log.max_offset:
                report.add(place, f"an offset from {max(last, 0)} to {log.max_offset}", offset, _REBUILD_INDEX)
                break
            last = offset
        return count - 1
    finally:
        files.close(fd)


def verify_tables(files: FileSystem, root: str, report: Report) -> None:
    """Judge the JSON tables: each, or at least its backup, can be read."""
    folder = os.path.join(root, "config")
    names = [name for name in files.list_directory(folder) if name.endswith(".json")]
    for name in names:
        path = os.path.join(folder, name)
        problem = _json_problem(files.read_file(path))
        if problem is None:
            continue
        backup = path + ".bak"
        if files.exists(backup) and _json_problem(files.read_file(backup)) is None:
            report.notes.append(f"{path} cannot be read ({problem}); the next start takes its backup")
            continue
        report.add(path, "a table in JSON, or a backup that is one", problem, "Restore the file from a copy")
    report.counts["tables"] = len(names)


def _json_problem(data: bytes) -> str | None:
    if not data.strip():
        return "the file is empty"
    try:
        msgspec.json.decode(_BARE_KEY.sub(rb'\1"\2"\3', data))
    except msgspec.DecodeError as error:
        return str(error)
    return None
