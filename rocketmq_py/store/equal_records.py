"""Messages of one shape: as many records as one wants, packed with one call.

The messages of a batch often differ in body and unique key alone, and have one length. Then everything else is the same
in all their records, byte for byte, but for the checksum and the two offsets:

    size, magic | crc | queue, flag | queue offset | offset | rest of the head | body | topic | before | key | behind
    equal         own   equal         own            own      equal              own    equal   equal    own   equal

Source: the records are those of `MessageExtEncoder`, RocketMQ 5.3; the way is our own.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, repeat
from typing import Final

from rocketmq_py.common.crc import crc32
from rocketmq_py.store.queue_slot import QueueSlot

#: Most records that are packed with one call: a form for them is kept, and takes some 300 bytes for each.
MAX_EQUAL: Final = 256

#: Where the equal parts of a head end: before the checksum, the queue offset, and behind the physical offset.
_CRC, _QUEUE, _OFFSETS, _REST = 8, 12, 20, 36
_LENGTH = struct.Struct(">H")


@dataclass(frozen=True, slots=True)
class EqualMessages:
    """Messages that differ in body and unique key alone, and there not in length.

    Attributes:
        flag: the application's own 32 bits.
        bodies: at least one and at most `MAX_EQUAL`.
        keys: the unique key of each.
        before: stored properties before the key.
        behind: stored properties behind the key.
        tags_code: of all.
    """

    flag: int
    bodies: Sequence[bytes]
    keys: Sequence[bytes]
    before: bytes
    behind: bytes
    tags_code: int

    @property
    def variable_size(self) -> int:
        """Bytes that body and properties of one message take."""
        return len(self.bodies[0]) + self.properties_length

    @property
    def properties_length(self) -> int:
        """Bytes of the stored properties of one message."""
        return len(self.before) + len(self.keys[0]) + len(self.behind)

    def properties(self) -> list[bytes]:
        """Return the stored properties of each."""
        before, behind = self.before, self.behind
        return [before + key + behind for key in self.keys]


def pack_equal(head: bytes, size: int, slot: QueueSlot, first: int, offset: int, messages: EqualMessages) -> bytes:
    """Return the records of messages, one behind the other.

    Args:
        head: of each record, up to and including the body's length; checksum and offsets in it do not count.
        size: of one record.
        slot: their queue.
        first: queue offset of the first.
        offset: physical offset of the first.
        messages: what they hold.
    """
    bodies, keys = messages.bodies, messages.keys
    count, properties_length = len(bodies), messages.properties_length
    middle = slot.topic_part + _LENGTH.pack(properties_length) + messages.before
    form = _form(count, len(head) - _REST, len(bodies[0]), len(middle), len(keys[0]), len(messages.behind))
    return form.pack(
        *chain.from_iterable(
            zip(
                repeat(head[:_CRC]),
                [crc32(body) & 0x7FFFFFFF for body in bodies],
                repeat(head[_QUEUE:_OFFSETS]),
                range(first, first + count),
                range(offset, offset + count * size, size),
                repeat(head[_REST:]),
                bodies,
                repeat(middle),
                keys,
                repeat(messages.behind),
                strict=False,
            )
        )
    )


@lru_cache(maxsize=64)
def _form(count: int, rest: int, body: int, middle: int, key: int, behind: int) -> struct.Struct:
    return struct.Struct(">" + f"{_CRC}sI{_OFFSETS - _QUEUE}sqq{rest}s{body}s{middle}s{key}s{behind}s" * count)
