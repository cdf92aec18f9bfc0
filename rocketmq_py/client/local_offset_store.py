"""Offsets of a broadcasting consumer: in a file of its own, since every member of the group reads every queue.

    <folder>/<client id>/<group>/offsets.json

The file is found again only under the same client id, so a broadcasting consumer wants a fixed instance name.

Source: `LocalFileOffsetStore`, RocketMQ 5.3.
"""

from __future__ import annotations

import os
from collections.abc import Collection

from rocketmq_py.client.offset_store import NO_OFFSET
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.message import MessageQueue
from rocketmq_py.common.table import Table
from rocketmq_py.remoting.bodies.consume_stats import decode_offset_table, encode_offset_table


class LocalOffsetStore:
    """An `OffsetStore` in a file.

    Args:
        folder: the common folder of all such stores.
        client_id, group: whose offsets.
        environment: files.
    """

    def __init__(self, folder: str, client_id: str, group: str, environment: Environment) -> None:
        path = os.path.join(os.path.expanduser(folder), client_id, group, "offsets.json")
        self._table = Table(path, self._encode, self._decode, environment)
        self._run_blocking = environment.run_blocking
        self._stored: dict[MessageQueue, int] = {}
        self._offsets: dict[MessageQueue, int] = {}

    async def load(self) -> None:
        """Read the file or its backup; see `Table.load`."""
        await self._run_blocking(self._table.load)

    def get(self, queue: MessageQueue) -> int:
        """See `OffsetStore.get`."""
        return self._offsets.get(queue, NO_OFFSET)

    async def read(self, queue: MessageQueue) -> int:
        """Return what the file said; see `OffsetStore.read`."""
        offset = self._stored.get(queue, NO_OFFSET)
        if offset != NO_OFFSET:
            self._offsets[queue] = offset
        return offset

    def update(self, queue: MessageQueue, offset: int, *, increase_only: bool = True) -> None:
        """See `OffsetStore.update`."""
        known = self._offsets.get(queue)
        if known is None or not increase_only or offset > known:
            self._offsets[queue] = offset

    async def persist(self, queues: Collection[MessageQueue]) -> None:
        """Write the file; entries of other queues stay as they are."""
        changed = {queue: self._offsets[queue] for queue in queues if queue in self._offsets}
        if all(self._stored.get(queue) == offset for queue, offset in changed.items()):
            return
        self._stored.update(changed)
        self._table.mark_dirty()
        await self._table.persist_soon()

    def forget(self, queue: MessageQueue) -> None:
        """Drop the remembered offset; the file keeps its own."""
        self._offsets.pop(queue, None)

    def snapshot(self, topic: str | None = None) -> dict[MessageQueue, int]:
        """See `OffsetStore.snapshot`."""
        return {queue: offset for queue, offset in self._offsets.items() if topic in (None, queue.topic)}

    def _encode(self) -> bytes:
        return encode_offset_table(self._stored)

    def _decode(self, data: bytes) -> None:
        self._stored = decode_offset_table(data)

    def __repr__(self) -> str:
        return f"<LocalOffsetStore {self._table.path} {len(self._stored)} queues>"
