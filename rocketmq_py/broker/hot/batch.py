"""The hot path of a batch: its messages, taken apart and checked before any of them is stored.

Source: `MessageDecoder#decodeMessages`, RocketMQ 5.3; the way is our own.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Final

from rocketmq_py.broker.hot.plain_properties import PlainProperties, index_keys
from rocketmq_py.broker.send_message import MAX_BATCH_MESSAGES, stored_properties
from rocketmq_py.common.message_batch import ITEM_LAYOUT
from rocketmq_py.common.properties import MAX_PROPERTIES_LENGTH
from rocketmq_py.store.equal_records import MAX_EQUAL, EqualMessages
from rocketmq_py.store.tick import BatchRow

_ITEM: Final = ITEM_LAYOUT.struct
#: Bytes of an item before its body, and of the properties' length behind it.
_HEAD, _LENGTH = ITEM_LAYOUT.size, 2
#: Fewer messages are not worth the look at whether all have one shape.
MIN_EQUAL: Final = 4
#: What ends a property.
_END: Final = 2


def split_equal(plain: PlainProperties, body: bytes, suffix: bytes) -> EqualMessages | None:
    """Split the body of a batch whose messages differ in body and unique key alone; None if they differ in more.

    What is in the first message's properties then holds for all.

    Args:
        plain: the test that the properties must pass.
        body: the request's body.
        suffix: what is stored behind the properties of a message with a unique key, see `batch_suffixes`.
    """
    if len(body) < _HEAD + _LENGTH:
        return None
    size, _, _, flag, body_length = _ITEM.unpack_from(body)
    properties_at = _HEAD + body_length + _LENGTH
    if body_length < 0 or not properties_at < size <= len(body):
        return None
    count, rest = divmod(len(body), size)
    length = size - properties_at
    if rest or not MIN_EQUAL <= count <= MAX_EQUAL or length + len(suffix) > MAX_PROPERTIES_LENGTH:
        return None
    if body[properties_at - _LENGTH] << 8 | body[properties_at - 1] != length or body[size - 1] != _END:
        return None
    found = plain.match(body[properties_at:size])
    if found is None or found[1] is None or found[3] is not None:
        return None
    unique_key, tags, _ = found.groups()
    before = found.start(1)
    fields = _items(count, body_length, before + _LENGTH, len(unique_key), length - found.end(1)).unpack(body)
    heads, befores, keys, behinds = fields[::5], fields[2::5], fields[3::5], fields[4::5]
    if any(parts.count(parts[0]) != count for parts in (heads, befores, behinds)) or not b"".join(keys).isalnum():
        return None
    known = plain.codes.get(tags)
    code = plain.remember(tags) if known is None else known
    return EqualMessages(flag, fields[1::5], keys, befores[0][_LENGTH:], behinds[0] + suffix, code)


@lru_cache(maxsize=64)
def _items(count: int, body: int, before: int, key: int, behind: int) -> struct.Struct:
    return struct.Struct(f"{_HEAD}s{body}s{before}s{key}s{behind}s" * count)


def split_batch(
    plain: PlainProperties, body: bytes, suffixes: tuple[bytes, bytes], batch_key: bytes | None
) -> list[BatchRow] | None:
    """Split the body of a batch (`common/message_batch.py`); None if the ordinary path must look at it.

    The messages of a batch mostly differ in body and unique key alone. What was found in the properties of one
    therefore holds for the next if all around the key is the same, and a key of letters and digits stands in it.

    Args:
        plain: the test that each message's properties must pass.
        body: the request's body.
        suffixes: what is stored behind the properties of messages with and without a unique key, see `batch_suffixes`.
        batch_key: the unique key of the batch, for messages without one.
    """
    suffix, suffix_with_key = suffixes
    rows: list[BatchRow] = []
    add, unpack, match, codes = rows.append, _ITEM.unpack_from, plain.match, plain.codes
    at, end, longest = 0, len(body), MAX_PROPERTIES_LENGTH - len(suffix_with_key) - 1
    seen, before_key, behind_key, key_at, key_end, code = -1, b"", b"", 0, 0, 0
    while end - at >= _HEAD + _LENGTH:
        size, _, _, flag, body_length = unpack(body, at)
        body_at = at + _HEAD
        body_end = body_at + body_length
        properties_at = body_end + _LENGTH
        at += size
        length = at - properties_at
        if body_length < 0 or at > end or not 0 <= length <= longest:
            return None
        if body[body_end] << 8 | body[body_end + 1] != length:
            return None
        properties = body[properties_at:at]
        if length == seen and properties[:key_at] == before_key and properties[key_end:] == behind_key:
            unique_key = properties[key_at:key_end]
            if unique_key.isalnum():
                add((flag, body[body_at:body_end], properties + suffix, code, (unique_key,)))
                continue
        found = match(properties)
        if found is None:
            return None
        unique_key, tags, keys = found.groups()
        known = codes.get(tags)
        code = plain.remember(tags) if known is None else known
        own_suffix = suffix_with_key if unique_key is None else suffix
        stored = stored_properties(properties, own_suffix)
        add((flag, body[body_at:body_end], stored, code, index_keys(unique_key or batch_key, keys)))
        if unique_key is not None and keys is None and properties[-1] == _END:
            key_at, key_end = found.span(1)
            seen, before_key, behind_key = length, properties[:key_at], properties[key_end:]
        else:
            seen = -1
    return rows if at == end and len(rows) <= MAX_BATCH_MESSAGES else None
