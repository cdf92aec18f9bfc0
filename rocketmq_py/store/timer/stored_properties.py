"""Changing the properties of a message that is stored as text, without reading it all into a dictionary and back."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from rocketmq_py.common.properties import encode_properties


def with_properties(stored: bytes, added: Mapping[str, str], removed: Collection[str] = ()) -> bytes:
    """Return a properties text in which some properties have new values and others are gone; the rest stays as it is."""
    unwanted = {name.encode() for name in (*added, *removed)}
    if any(name + b"\x01" in stored for name in unwanted):
        parts = [part for part in stored.split(b"\x02") if part and part.partition(b"\x01")[0] not in unwanted]
        stored = b"".join(part + b"\x02" for part in parts)
    elif stored and not stored.endswith(b"\x02"):
        stored += b"\x02"
    return stored + encode_properties(added)
