"""Hashing index keys fast: `topic#key` is hashed for every key of every message.

Java's hash of a text follows from those of its parts: h(a + b) = h(a) * 31^len(b) + h(b), modulo 2^32. The hash of
`topic#` is therefore computed once for a topic, and that of a key in steps of four characters whose hashes are kept.

Source: `IndexService#buildKey`, `IndexFile#indexKeyHashMethod`, RocketMQ 5.3.
"""

from __future__ import annotations

from typing import Final

from rocketmq_py.common import properties as names
from rocketmq_py.common.java import string_hash

_MASK: Final = 0xFFFFFFFF
_POWERS: Final = tuple(pow(31, count, 1 << 32) for count in range(5))
#: Four-character hashes that are kept; keys of one client share most of theirs.
_MAX_CHUNKS: Final = 65_536

_UNIQ_KEY: Final = b"\x02" + names.UNIQ_KEY.encode() + b"\x01"
_KEYS: Final = b"\x02" + names.KEYS.encode() + b"\x01"
_BLANK: Final = names.KEY_SEPARATOR.encode()


class KeyHasher:
    """Computes the numbers under which keys are found in index files."""

    def __init__(self) -> None:
        self._prefixes: dict[bytes, int] = {}
        self._chunks: dict[bytes, int] = {}

    def prefix(self, topic: bytes) -> int:
        """Return the hash of `topic#`, modulo 2^32."""
        prefix = self._prefixes.get(topic)
        if prefix is None:
            prefix = self._prefixes[topic] = string_hash(topic.decode("utf-8", "replace") + "#") & _MASK
        return prefix

    def hash(self, topic: bytes, key: bytes) -> int:
        """Return the index's hash of `topic#key`: the absolute value of Java's, 0 where that overflows."""
        prefix = self.prefix(topic)
        if not key.isascii():
            text = topic.decode("utf-8", "replace") + "#" + key.decode("utf-8", "replace")
            return index_hash(string_hash(text))
        value, chunks = prefix, self._chunks
        for at in range(0, len(key), 4):
            part = key[at : at + 4]
            chunk = chunks.get(part)
            if chunk is None:
                if len(chunks) >= _MAX_CHUNKS:
                    chunks.clear()
                chunk = chunks[part] = string_hash(part.decode()) & _MASK
            value = value * _POWERS[len(part)] + chunk & _MASK
        return index_hash(value - (1 << 32) if value & 0x80000000 else value)


def index_hash(java_hash: int) -> int:
    """Return the number that the index keeps for a Java hash: its absolute value; 0 for the one that has none."""
    value = abs(java_hash)
    return 0 if value == 1 << 31 else value


def keys_of(properties: bytes) -> list[bytes]:
    """Return the keys of a message: its unique key first, then the words of KEYS, as they are written."""
    # With a separator in front, the first property looks like all others: one search finds any of them.
    text = b"\x02" + properties
    keys = []
    at = text.rfind(_UNIQ_KEY)
    if at >= 0:
        start = at + len(_UNIQ_KEY)
        end = text.find(b"\x02", start)
        unique_key = text[start:end] if end >= 0 else text[start:]
        if unique_key:
            keys.append(unique_key)
    at = text.rfind(_KEYS)
    if at >= 0:
        start = at + len(_KEYS)
        end = text.find(b"\x02", start)
        keys += filter(None, (text[start:end] if end >= 0 else text[start:]).split(_BLANK))
    return keys
