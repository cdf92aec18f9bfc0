"""The one thing that a name server keeps on disk: small texts by namespace and key.

The system uses one namespace, `ORDER_TOPIC_CONFIG`: topic -> `broker-a:4;broker-b:4`.

Source: `KVConfigManager`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import re
from typing import Final

import msgspec

from rocketmq_py.common.environment import Environment
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.table import Table
from rocketmq_py.remoting.bodies.kv_table import KVTable

NAMESPACE_ORDER_TOPIC_CONFIG: Final = "ORDER_TOPIC_CONFIG"

#: Limits of what a peer can make a name server keep. Differs from RocketMQ, which takes anything.
MAX_ENTRIES: Final = 10_000
MAX_VALUE_LENGTH: Final = 65_536
_NAME = re.compile(r"[%|a-zA-Z0-9_.:@-]{1,255}", re.ASCII)


class _File(msgspec.Struct, rename="camel"):
    """Content of `kvConfig.json`."""

    config_table: dict[str, dict[str, str]] = {}


class KVConfigManager:
    """Namespaces of texts, persisted with every change.

    Args:
        path: the file, `kvConfig.json`.
        environment: files and blocking calls.
    """

    def __init__(self, path: str, environment: Environment) -> None:
        self._namespaces: dict[str, dict[str, str]] = {}
        self._write_lock = asyncio.Lock()
        self.table = Table(path, self._encode, self._decode, environment)

    def get(self, namespace: str, key: str) -> str | None:
        """Return a value, or None."""
        return self._namespaces.get(namespace, {}).get(key)

    def namespace(self, namespace: str) -> KVTable | None:
        """Return a whole namespace, or None if nothing was ever put there."""
        values = self._namespaces.get(namespace)
        return KVTable(dict(values)) if values is not None else None

    async def put(self, namespace: str, key: str, value: str) -> None:
        """Set a value and write the file.

        Raises:
            InvalidInputError: a name has other characters than topics have, or a limit is reached.
            OSError: the file cannot be written; the value is set all the same, and the next change writes again.
        """
        for what, name in (("namespace", namespace), ("key", key)):
            if _NAME.fullmatch(name) is None:
                raise InvalidInputError(f"{what} {name[:64]!r} must match ^{_NAME.pattern}$")
        if len(value) > MAX_VALUE_LENGTH:
            raise InvalidInputError(f"value of {key} has {len(value)} characters; at most {MAX_VALUE_LENGTH} are kept")
        if self.get(namespace, key) is None and sum(map(len, self._namespaces.values())) >= MAX_ENTRIES:
            raise InvalidInputError(f"there are {MAX_ENTRIES} entries already; delete some before adding {key}")
        self._namespaces.setdefault(namespace, {})[key] = value
        await self._persist()

    async def delete(self, namespace: str, key: str) -> None:
        """Remove a value, if there is one, and write the file. An empty namespace stays."""
        if self._namespaces.get(namespace, {}).pop(key, None) is not None:
            await self._persist()

    async def _persist(self) -> None:
        self.table.mark_dirty()
        # One after the other: a change that comes while a write is under way is in the next write, and its caller
        # waits for that one.
        async with self._write_lock:
            await self.table.persist_soon()

    def _encode(self) -> bytes:
        return msgspec.json.encode(_File(self._namespaces))

    def _decode(self, data: bytes) -> None:
        self._namespaces = msgspec.json.decode(data, type=_File).config_table
