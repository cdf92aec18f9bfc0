"""A table of texts: the order configuration, and what a broker says of its state.

Source: `KVTable`, RocketMQ 5.3.
"""

from __future__ import annotations

import msgspec


class KVTable(msgspec.Struct, rename="camel"):
    """Names and values."""

    table: dict[str, str] = {}
