"""Changing the properties of a message that is stored as text, without reading it all into a dictionary and back."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from rocketmq_py.common.properties import encode_properties


def with_properties(stored: bytes, added: Mapping[str, str], removed: Collection[str] = ()) -> bytes:
    """Return a properties text in which some properties have new values and others are gone; the rest stays as it is.

    Raises:
        InvalidInputError: a new value holds a separator.
    """
    unwanted = [name.encode() + b"\x01" for name in (*added, *removed)]
    for name in unwanted:
        if name in stored:
            parts = [part for part in stored.split(b"\x02") if part and not part.startswith(tuple(unwanted))]
            stored = b"".join([part + b"\x02" for part in parts])
            break
    else:
        if stored and not stored.endswith(b"\x02"):
            stored += b"\x02"
    return stored + encode_properties(added)
