"""`rmq-py store`: look into the files of a store."""

from __future__ import annotations

import os
from collections.abc import Iterator
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

app = typer.Typer(no_args_is_help=True, help="Look into the files of a store.")

DirectoryArgument = Annotated[Path, typer.Argument(help="A store directory, such as ~/store.")]


@app.command()
def dump(
    directory: DirectoryArgument,
    start: Annotated[int, typer.Option("--from", min=0, help="Commit log offset of the first record.")] = 0,
    count: Annotated[int, typer.Option("--count", "-c", min=1, help="How many records or units.")] = 10,
    queue: Annotated[str, typer.Option(help="TOPIC/QUEUE: show units of that consume queue instead.")] = "",
    show_bytes: Annotated[bool, typer.Option("--bytes", help="Show every field with its bytes.")] = False,
    json: JsonOption = False,
) -> None:
    """Show records of the commit log, or units of a consume queue. Also works beside a running broker."""
    output = Output(json)
    with reporting(output):
        files = system_environment().files
        root = str(directory.expanduser())
        if not files.is_directory(os.path.join(root, "commitlog")):
            raise CliError(f"{root} is no store directory: it has no folder commitlog", Exit.NOT_FOUND)
        if queue:
            rows = list(islice(_units(files, root, queue), count))
            columns: tuple[str, ...] = ("queueOffset", "physicalOffset", "size", "tagsCode")
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
        raise CliError(f"there is no consume queue {queue!r} in {root}; name it TOPIC/QUEUE", Exit.NOT_FOUND)
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
