"""Reading a store's files for people: records, queue units and index entries with their bytes explained.

Nothing here opens a store: the files are only read, so it also works beside a running broker.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from rocketmq_py.common.file_system import FileSystem
from rocketmq_py.common.host import decode_host
from rocketmq_py.common.layout import Annotation, Layout
from rocketmq_py.common.record import HEAD_LAYOUTS, Record, RecordCheck, RecordState, check_record
from rocketmq_py.common.sys_flag import HOST_BITS
from rocketmq_py.store.mapped_file import NAME_DIGITS


@dataclass(frozen=True, slots=True)
class Piece:
    """Some bytes of a file and what they are."""

    offset: int
    name: str
    data: bytes
    meaning: str


def data_files(files: FileSystem, folder: str) -> list[tuple[int, str]]:
    """Return first offset and path of the files of a queue of files, in order."""
    return [
        (int(name), os.path.join(folder, name))
        for name in files.list_directory(folder)
        if len(name) == NAME_DIGITS and name.isascii() and name.isdigit()
    ]


def read_log(files: FileSystem, folder: str, start: int = 0) -> Iterator[tuple[int, RecordCheck, bytes]]:
    """Yield offset, verdict and bytes of each record of a commit log from `start` on, until the first invalid one."""
    for first, path in data_files(files, folder):
        size = files.stat(path).size
        if size == 0 or first + size <= start:
            continue
        fd = files.open_file(path, write=False)
        try:
            mapped = files.map_file(fd, size)
            try:
                yield from _read_file(memoryview(mapped), first, max(start - first, 0))
            finally:
                mapped.close()
        finally:
            files.close(fd)


def _read_file(view: memoryview, first: int, at: int) -> Iterator[tuple[int, RecordCheck, bytes]]:
    try:
        while at < len(view):
            check = check_record(view, at, position=first + at)
            if check.state is RecordState.INVALID:
                return
            yield first + at, check, bytes(view[at : at + min(check.size, 1 << 16)])
            at += check.size
    finally:
        view.release()


def explain_record(record: Record, data: bytes, offset: int) -> list[Piece]:
    """Return every field of a record with its bytes."""
    head = HEAD_LAYOUTS[record.sys_flag & HOST_BITS]
    pieces = [_piece(annotation, offset) for annotation in head.annotate(data)]
    at = head.size
    length_size = 1 if len(record.topic) <= 127 and data[at + len(record.body)] == len(record.topic) else 2
    for name, size, meaning in (
        ("body", len(record.body), ""),
        ("topic_length", length_size, str(len(record.topic))),
        ("topic", len(record.topic), record.topic.decode("utf-8", "replace")),
        ("properties_length", 2, str(len(record.properties))),
        ("properties", len(record.properties), record.properties.decode("utf-8", "replace")),
    ):
        pieces.append(Piece(offset + at, name, data[at : at + size], meaning))
        at += size
    return pieces


def explain(layout: Layout, data: bytes, offset: int = 0) -> list[Piece]:
    """Return the fields of a fixed layout with their bytes."""
    return [_piece(annotation, offset) for annotation in layout.annotate(data)]


def _piece(annotation: Annotation, offset: int) -> Piece:
    meaning = f"{_value(annotation)}  {annotation.field.meaning}".strip()
    return Piece(offset + annotation.offset, annotation.field.name, annotation.data, meaning)


def _value(annotation: Annotation) -> str:
    """Return a value as people write it: an address, a magic number in hex, a number."""
    name, value = annotation.field.name, annotation.value
    if isinstance(value, bytes):
        return decode_host(value) if name.endswith("_host") else ""
    return f"0x{value & 0xFFFFFFFF:08X}" if name == "magic" else str(value)


def hex_lines(piece: Piece, width: int = 16) -> list[str]:
    """Return a piece as lines of hex, the first with its name and meaning."""
    rows = [piece.data[at : at + width] for at in range(0, len(piece.data), width)] or [b""]
    lines = []
    for number, row in enumerate(rows):
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        label = (
            f"{piece.name}: {piece.meaning}" if number == 0 and len(rows) == 1 else piece.name if number == 0 else ""
        )
        shown = label or text
        lines.append(f"{piece.offset + number * width:>12}  {row.hex(' '):<{width * 3 - 1}}  {shown}".rstrip())
    return lines


def text_lines(piece: Piece, width: int = 16) -> list[str]:
    """Return a piece as lines of hex and text, without its name."""
    lines = []
    for at in range(0, len(piece.data), width):
        row = piece.data[at : at + width]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        lines.append(f"{piece.offset + at:>12}  {row.hex(' '):<{width * 3 - 1}}  {text}")
    return lines
