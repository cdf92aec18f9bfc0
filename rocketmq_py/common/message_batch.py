"""A batch: several small messages of one topic in the body of one request.

Source: `MessageDecoder#encodeMessages`, `#decodeMessages`, RocketMQ 5.3.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.layout import Field, Layout
from rocketmq_py.common.message import Message
from rocketmq_py.common.properties import encode_properties

ITEM_LAYOUT = Layout(
    "batch item head",
    Field("total_size", "i", "length of the item, this field included"),
    Field("magic", "i", "0"),
    Field("body_crc", "i", "0: the broker computes it"),
    Field("flag", "i", "the application's own 32 bits"),
    Field("body_length", "i", "bytes of the body that follows"),
)
_FIXED_SIZE = ITEM_LAYOUT.size + 2


@dataclass(frozen=True, slots=True)
class BatchItem:
    """One message of a batch: its bytes, not interpreted."""

    flag: int
    body: bytes
    properties: bytes


def encode_batch(messages: Iterable[Message]) -> bytes:
    """Return the request body of a batch."""
    parts: list[bytes] = []
    for message in messages:
        properties = encode_properties(message.properties)
        size = _FIXED_SIZE + len(message.body) + len(properties)
        parts.append(ITEM_LAYOUT.struct.pack(size, 0, 0, message.flag, len(message.body)))
        parts.append(message.body)
        parts.append(len(properties).to_bytes(2, "big"))
        parts.append(properties)
    return b"".join(parts)


def decode_batch(body: bytes | memoryview, max_items: int = 1_000_000) -> list[BatchItem]:
    """Split the body of a batch, checking every length before anything is used.

    Raises:
        InvalidInputError: a length does not fit, or there are more than `max_items`.
    """
    items: list[BatchItem] = []
    at = 0
    while at < len(body):
        if len(items) == max_items:
            raise InvalidInputError(f"the batch holds more than {max_items} messages; send several batches")
        at = _decode_item(body, at, items)
    return items


def _decode_item(body: bytes | memoryview, at: int, items: list[BatchItem]) -> int:
    left = len(body) - at
    if left < _FIXED_SIZE:
        raise InvalidInputError(
            f"message {len(items)} of the batch: {left} bytes are left, a message takes at least {_FIXED_SIZE}"
        )
    size, _, _, flag, body_length = ITEM_LAYOUT.struct.unpack_from(body, at)
    properties_at = at + ITEM_LAYOUT.size + body_length + 2
    if not _FIXED_SIZE <= size <= left or not 0 <= body_length <= size - _FIXED_SIZE:
        raise InvalidInputError(
            f"message {len(items)} of the batch: size {size} and body length {body_length} do not fit "
            f"into the {left} bytes that are left"
        )
    properties_length = int.from_bytes(body[properties_at - 2 : properties_at], "big", signed=True)
    end: int = properties_at + properties_length
    if properties_length < 0 or end != at + size:
        raise InvalidInputError(
            f"message {len(items)} of the batch: properties of {properties_length} bytes do not fill its {size} bytes"
        )
    items.append(
        BatchItem(flag, bytes(body[at + ITEM_LAYOUT.size : properties_at - 2]), bytes(body[properties_at:end]))
    )
    return end
