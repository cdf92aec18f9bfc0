"""Byte layouts as tables: one table makes the struct that packs, the figure in the docs and the annotated dump.

A codec that owns a format states it once:

    UNIT_LAYOUT = Layout(
        "ConsumeQueue unit",
        Field("physical_offset", "q", "first byte of the record in the commit log"),
        Field("size", "i", "length of the record in bytes"),
        Field("tags_code", "q", "Java hash of the tag"),
    )
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Field:
    """One fixed-size field: `code` is its `struct` format character(s), such as "q" or "8s"."""

    name: str
    code: str
    meaning: str = ""

    @property
    def size(self) -> int:
        """Bytes on disk or wire."""
        return struct.calcsize(">" + self.code)


@dataclass(frozen=True, slots=True)
class Annotation:
    """One field found in real bytes: where it lies, its bytes and its value."""

    offset: int
    field: Field
    data: bytes
    value: Any


class Layout:
    """Consecutive big-endian fields without padding, as Java's `ByteBuffer` writes them.

    Attributes:
        name: what the bytes are, for people.
        fields: the fields in order.
        struct: packs and unpacks all fields at once.
        size: total bytes.
    """

    def __init__(self, name: str, *fields: Field) -> None:
        self.name = name
        self.fields = fields
        self.struct = struct.Struct(">" + "".join(field.code for field in fields))
        self.size = self.struct.size

    def offset_of(self, name: str) -> int:
        """Return the byte offset of the field called `name`; `KeyError` if there is none."""
        for offset, field in self.placed():
            if field.name == name:
                return offset
        raise KeyError(name)

    def placed(self) -> Iterator[tuple[int, Field]]:
        """Yield every field with its byte offset."""
        offset = 0
        for field in self.fields:
            yield offset, field
            offset += field.size

    def annotate(self, data: bytes | memoryview, at: int = 0) -> list[Annotation]:
        """Read the fields that lie at `at`; `struct.error` if `data` is too short."""
        values = self.struct.unpack_from(data, at)
        return [
            Annotation(at + offset, field, bytes(data[at + offset : at + offset + field.size]), value)
            for (offset, field), value in zip(self.placed(), values, strict=True)
        ]

    def __repr__(self) -> str:
        return f"<Layout {self.name} {self.size} bytes: {', '.join(field.name for field in self.fields)}>"
