"""`rmq-py store`: look into the files of a store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from rocketmq_py.cli.dump import Piece, data_files, explain, explain_record, hex_lines, read_log
from rocketmq_py.cli.options import JsonOption
from rocketmq_py.cli.output import CliError, Exit, Output, reporting
from rocketmq_py.common.environment import system_environment
from rocketmq_py.common.file_system import FileSystem
from rocketmq_py.common.host import decode_host
from rocketmq_py.common.properties import decode_properties
from rocketmq_py.common.record import RecordState
from rocketmq_py.store.consume_queue_unit import UNIT_LAYOUT
from rocketmq_py.store.index_file import ENTRY_LAYOUT, HEADER_LAYOUT, SLOT_SIZE
from rocketmq_py.store.lock_file import StoreLockedError
from rocketmq_py.store.verify import verify_store

app = typer.Typer(no_args_is_help=True, help="Look into the files of a store.")

DirectoryArgument = Annotated[Path, typer.Argument(help="A store directory, such as ~/store.")]


@app.command()
def dump(
    directory: DirectoryArgument,
    start: Annotated[int, typer.Option("--from", min=0, help="Commit log offset of the first record.")] = 0,
    count: Annotated[int, typer.Option("--count", "-c", min=1, help="How many records or units.")] = 10,
    queue: Annotated[str, typer.Option(help="TOPIC/QUEUE: show units of that consume queue instead.")] = "",
    index: Annotated[bool, typer.Option("--index", help="Show entries of the index files instead.")] = False,
    slots: Annotated[int, typer.Option(min=1, help="Hash slots of an index file (maxHashSlotNum).")] = 5_000_000,
    show_bytes: Annotated[bool, typer.Option("--bytes", help="Show every field with its bytes.")] = False,
    json: JsonOption = False,
) -> None:
    """Show records of the commit log, units of a consume queue, or entries of the index. Also works beside a running broker."""
    output = Output(json)
    with reporting(output):
        files = system_environment().files
        root = str(directory.expanduser())
        if not files.is_directory(os.path.join(root, "commitlog")):
            raise CliError(f"{root} is no store directory: it has no folder commitlog", Exit.NOT_FOUND)
        if queue:
            rows = list(islice(_units(files, root, queue), count))
            columns: tuple[str, ...] = ("queueOffset", "physicalOffset", "size", "tagsCode")
        elif index:
            rows = list(islice(_index_entries(files, root, slots), count))
            columns = ("file", "entry", "keyHash", "physicalOffset", "storeTimestampMs", "previous")
        else:
            rows = list(islice(_records(files, root, start), count))
            columns = ("offset", "size", "topic", "queueId", "queueOffset", "tags", "keys", "body")
        if show_bytes and not json:
            for row in rows:
                _print_pieces(output, row)
            return
        output.rows(columns, [{name: value for name, value in row.items() if name != "pieces"} for row in rows])


def _print_pieces(output: Output, row: dict[str, Any]) -> None:
    pieces: list[Piece] = row["pieces"]
    for piece in pieces:
        for line in hex_lines(piece):
            output.line(line)
    output.line("")


def _records(files: FileSystem, root: str, start: int) -> Iterator[dict[str, Any]]:
    for offset, check, data in read_log(files, os.path.join(root, "commitlog"), start):
        record = check.record
        if check.state is RecordState.BLANK or record is None:
            yield {"offset": offset, "size": check.size, "topic": "(blank: the rest of the file)", "pieces": []}
            continue
        properties = decode_properties(record.properties)
        yield {
            "offset": offset,
            "size": check.size,
            "topic": record.topic.decode("utf-8", "replace"),
            "queueId": record.queue_id,
            "queueOffset": record.queue_offset,
            "tags": properties.get("TAGS", ""),
            "keys": properties.get("KEYS", ""),
            "body": record.body[:60].decode("utf-8", "replace"),
            "bodySize": len(record.body),
            "storeTimestampMs": record.store_timestamp,
            "bornHost": decode_host(record.born_host),
            "pieces": explain_record(record, data, offset),
        }


def _units(files: FileSystem, root: str, queue: str) -> Iterator[dict[str, Any]]:
    topic, _, queue_id = queue.rpartition("/")
    folder = os.path.join(root, "consumequeue", topic, queue_id)
    if not topic or not files.is_directory(folder):
        known = ", ".join(islice(_queue_names(files, root), 20)) or "none"
        raise CliError(
            f"there is no file of consume queue {queue!r} in {root}; name it TOPIC/QUEUE",
            Exit.NOT_FOUND,
            f"Queues that have files (up to 20): {known}. A running broker writes the newest units after a moment.",
        )
    for first, path in data_files(files, folder):
        data = files.read_file(path)
        for at in range(0, len(data) - UNIT_LAYOUT.size + 1, UNIT_LAYOUT.size):
            physical_offset, size, tags_code = UNIT_LAYOUT.struct.unpack_from(data, at)
            if size <= 0:
                return
            yield {
                "queueOffset": (first + at) // UNIT_LAYOUT.size,
                "physicalOffset": physical_offset,
                "size": size,
                "tagsCode": tags_code,
                "pieces": explain(UNIT_LAYOUT, data[at : at + UNIT_LAYOUT.size], first + at),
            }


def _queue_names(files: FileSystem, root: str) -> Iterator[str]:
    folder = os.path.join(root, "consumequeue")
    for topic in files.list_directory(folder) if files.is_directory(folder) else ():
        for queue_id in files.list_directory(os.path.join(folder, topic)):
            yield f"{topic}/{queue_id}"


def _index_entries(files: FileSystem, root: str, slots: int) -> Iterator[dict[str, Any]]:
    folder = os.path.join(root, "index")
    for name in files.list_directory(folder) if files.is_directory(folder) else ():
        data = files.read_file(os.path.join(folder, name))
        begin, _, _, _, _, next_entry = HEADER_LAYOUT.struct.unpack_from(data)
        first = HEADER_LAYOUT.size + slots * SLOT_SIZE
        if first + next_entry * ENTRY_LAYOUT.size > len(data):
            raise CliError(
                f"{name} has {len(data)} bytes, too few for {slots} slots and {next_entry} entries",
                Exit.USAGE,
                "Give --slots as maxHashSlotNum of the broker",
            )
        for number in range(1, next_entry):
            at = first + number * ENTRY_LAYOUT.size
            key_hash, physical_offset, seconds, previous = ENTRY_LAYOUT.struct.unpack_from(data, at)
            yield {
                "file": name,
                "entry": number,
                "keyHash": key_hash,
                "physicalOffset": physical_offset,
                "storeTimestampMs": begin + seconds * 1_000,
                "previous": previous,
                "pieces": explain(ENTRY_LAYOUT, data[at : at + ENTRY_LAYOUT.size], at),
            }


@app.command()
def verify(
    directory: DirectoryArgument,
    running: Annotated[bool, typer.Option("--running", help="Do not ask for the lock: a broker is running.")] = False,
    json: JsonOption = False,
) -> None:
    """Read every file of a store, change none, and say what is not as it should be. Exit status 1 if anything is."""
    output = Output(json)
    with reporting(output):
        root = str(directory.expanduser())
        environment = system_environment()
        if not environment.files.is_directory(os.path.join(root, "commitlog")):
            raise CliError(f"{root} is no store directory: it has no folder commitlog", Exit.NOT_FOUND)
        try:
            report = verify_store(environment, root, take_lock=not running)
        except StoreLockedError as error:
            raise CliError(str(error), next_step="To look at it while the broker runs, add --running") from error
        if json:
            output.json(
                {
                    "isSound": report.is_sound,
                    "problems": [asdict(problem) for problem in report.problems],
                    "counts": report.counts,
                    "notes": report.notes,
                }
            )
        else:
            output.item(report.counts)
            for line in (*report.notes, *map(str, report.problems)):
                output.line(line)
            output.line("the store is sound" if report.is_sound else f"{len(report.problems)} problems")
        if not report.is_sound:
            raise typer.Exit(Exit.FAILURE)
