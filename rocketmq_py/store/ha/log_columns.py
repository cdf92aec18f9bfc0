"""Columns from bytes of the log that were checked when they arrived: what a slave's dispatch begins with.

`reput.py` reads the log record by record and judges each. A slave has judged these bytes a moment ago, so here one `unpack`
and two slices make a row; whatever is not of the usual form goes the ordinary way.
"""

from __future__ import annotations

import struct
from typing import Final

from rocketmq_py.common import properties as names
from rocketmq_py.common.java import string_hash
from rocketmq_py.common.record import BLANK_SIZE, MAGIC_BLANK, MAGIC_V1, MIN_RECORD_SIZE, read_record
from rocketmq_py.common.sys_flag import HOST_BITS, TRANSACTION_MASK
from rocketmq_py.store.columns import Columns
from rocketmq_py.store.queue_slot import QueueSlot
from rocketmq_py.store.reput import RecordColumns, tags_code_of

#: What a row needs of a head with two IPv4 hosts: size, magic, queue id, queue offset, physical offset, system flag, store
#: time, body length.
_HEAD: Final = struct.Struct(">ii4xi4xqqi16xq20xi")
_SIZE_AND_MAGIC: Final = struct.Struct(">ii")
#: Records that are not of the usual form: IPv6 hosts, transactions.
_UNUSUAL: Final = HOST_BITS | TRANSACTION_MASK
_INNER: Final = names.INNER_NUM.encode()
_TAGS: Final = b"\x02" + names.TAGS.encode() + b"\x01"
#: Hashes of tags that are kept; applications have a few.
_MAX_TAGS: Final = 10_000

Row = tuple[QueueSlot, int, int, int, int, int, int, bytes, int, None]


class LogColumns:
    """Turns bytes into columns; remembers queues and tags."""

    def __init__(self) -> None:
        self._slots: dict[tuple[bytes, int], QueueSlot] = {}
        self._tags: dict[bytes, int] = {}
        self._ordinary = RecordColumns()

    def read(self, data: bytes, start: int) -> tuple[Columns, int]:
        """Return the whole records at the beginning of `data`, and the offset behind them.

        Args:
            data: good bytes of one file; a record begins at the first, the last may be incomplete.
            start: physical offset of the first byte.
        """
        columns, rows = Columns(), list[Row]()
        at, end, unpack, slots = 0, len(data), _HEAD.unpack_from, self._slots
        while end - at >= BLANK_SIZE:
            size, magic = _SIZE_AND_MAGIC.unpack_from(data, at)
            if magic == MAGIC_BLANK:
                # To the end of the file, whatever of it is here.
                at += size
                break
            if size > end - at or size < MIN_RECORD_SIZE:
                break
            _, _, queue_id, queue_offset, offset, sys_flag, stamp, body_length = unpack(data, at)
            topic = at + 88 + body_length
            if magic != MAGIC_V1 or sys_flag & _UNUSUAL:
                self._add_unusual(columns, rows, data[at : at + size])
                at += size
                continue
            properties = topic + 1 + data[topic]
            text = data[properties + 2 : at + size]
            if _INNER in text:
                self._add_unusual(columns, rows, data[at : at + size])
                at += size
                continue
            key = (data[topic + 1 : properties], queue_id)
            slot = slots.get(key)
            if slot is None:
                slot = slots[key] = QueueSlot(str(key[0], "utf-8", "replace"), queue_id)
            rows.append((slot, offset, size, queue_offset, self._tags_code(text), stamp, sys_flag, text, 1, None))
            at += size
        _flush(columns, rows)
        return columns, start + at

    def _tags_code(self, text: bytes) -> int:
        place = text.rfind(_TAGS)
        if place < 0:
            return tags_code_of(text)
        begin = place + len(_TAGS)
        end = text.find(b"\x02", begin)
        tag = text[begin:] if end < 0 else text[begin:end]
        code = self._tags.get(tag)
        if code is None:
            if len(self._tags) >= _MAX_TAGS:
                self._tags.clear()
            code = self._tags[tag] = string_hash(str(tag, "utf-8", "replace")) if tag else 0
        return code

    def _add_unusual(self, columns: Columns, rows: list[Row], record: bytes) -> None:
        """Append a record in the ordinary way, behind those before it."""
        _flush(columns, rows)
        rows.clear()
        self._ordinary.add(columns, read_record(record))


def _flush(columns: Columns, rows: list[Row]) -> None:
    if not rows:
        return
    (
        slots,
        physical_offsets,
        sizes,
        queue_offsets,
        tags_codes,
        store_timestamps,
        sys_flags,
        properties,
        units,
        keys,
    ) = map(list, zip(*rows, strict=True))
    columns.slots += slots
    columns.physical_offsets += physical_offsets
    columns.sizes += sizes
    columns.queue_offsets += queue_offsets
    columns.tags_codes += tags_codes
    columns.store_timestamps += store_timestamps
    columns.sys_flags += sys_flags
    columns.properties += properties
    columns.units += units
    columns.keys += keys
