"""Consumer offsets: how far each group is in each queue, kept in `consumerOffset.json`.

Progress is apart from the messages: reading changes nothing in the store, and setting a number back reads again. An
offset is that of the next message the group wants, in units of the queue.

Source: `ConsumerOffsetManager`, RocketMQ 5.3.
"""

from __future__ import annotations

import os
from typing import Final

import msgspec

from rocketmq_py.common.data_version import DataVersion
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.table import Table
from rocketmq_py.remoting.java_json import decode_body

FILE_NAME: Final = "consumerOffset.json"
_SEPARATOR: Final = "@"

#: What `query` returns for a group that never committed in the queue.
NO_OFFSET: Final = -1


class ConsumerOffsetFile(msgspec.Struct, rename="camel"):
    """The file's content; 4.9 writes no version, and what else 5.x writes is derived."""

    offset_table: dict[str, dict[int, int]] = msgspec.field(default_factory=dict)
    data_version: DataVersion = msgspec.field(default_factory=DataVersion)


class ConsumerOffsetManager:
    """The offsets of all groups.

    All methods run on the event loop; nothing here waits.

    Args:
        config_path: the folder of the file.
        environment: clock for the version, files for the table.
        version_step: how many commits make a new version (`consumerOffsetUpdateVersionStep`); slaves and tools
            compare versions and need not see each commit.
    """

    def __init__(self, config_path: str, environment: Environment, version_step: int = 500) -> None:
        self.table = Table(os.path.join(config_path, FILE_NAME), self._encode, self._decode, environment)
        self.data_version = DataVersion()
        self._clock = environment.clock
        self._version_step = max(version_step, 1)
        self._commits = 0
        self._offsets: dict[str, dict[int, int]] = {}
        # An administrator's new positions that their groups have not been told yet (5.x, server-side reset).
        self._resets: dict[str, dict[int, int]] = {}
        # Where the last pull ended. Not persisted; it tells what was handed out but not yet committed.
        self._pulled: dict[str, dict[int, int]] = {}

    async def start(self) -> None:
        """Read the file; a damaged one stops the start (see `Table.load`)."""
        self.table.load()

    # --- the everyday calls -------------------------------------------------------------------------------------------

    def commit(self, group: str, topic: str, queue_id: int, offset: int) -> None:
        """Store a group's offset. A smaller one than before is taken too: that is how a group is rewound."""
        key = topic + _SEPARATOR + group
        queues = self._offsets.get(key)
        if queues is None:
            queues = self._offsets[key] = {}
        if queues.get(queue_id) == offset:
            return
        queues[queue_id] = offset
        self.table.is_dirty = True
        self._commits += 1
        if self._commits % self._version_step == 0:
            self.data_version.next_version(self._clock.wall_ms())

    def query(self, group: str, topic: str, queue_id: int) -> int:
        """Return a group's offset, an administrator's pending one first; -1 if there is none."""
        key = topic + _SEPARATOR + group
        reset = self._resets.get(key)
        if reset is not None and queue_id in reset:
            return reset[queue_id]
        return self._offsets.get(key, {}).get(queue_id, NO_OFFSET)

    def query_all(self, group: str, topic: str) -> dict[int, int]:
        """Return a copy of a group's offsets in a topic, by queue."""
        return dict(self._offsets.get(topic + _SEPARATOR + group, {}))

    def pulled(self, group: str, topic: str) -> dict[int, int]:
        """Return where the group's pulls end, by queue: readers write it, for measuring how far behind a group is.

        The table is void when the topic or the group is deleted; nobody reads it any more then.
        """
        return self._pulled.setdefault(topic + _SEPARATOR + group, {})

    def query_pull(self, group: str, topic: str, queue_id: int) -> int:
        """Return where the group's last pull ended; -1 if it never pulled since the start."""
        return self._pulled.get(topic + _SEPARATOR + group, {}).get(queue_id, NO_OFFSET)

    # --- resets by an administrator -----------------------------------------------------------------------------------

    def assign_reset(self, group: str, topic: str, queue_id: int, offset: int) -> None:
        """Set a group's offset and remember to tell the group with its next pull."""
        self._resets.setdefault(topic + _SEPARATOR + group, {})[queue_id] = offset
        self.commit(group, topic, queue_id, offset)

    def has_reset(self, group: str, topic: str, queue_id: int) -> bool:
        """Tell whether a reset waits for the group; its own commits are ignored until it has been told."""
        return queue_id in self._resets.get(topic + _SEPARATOR + group, {})

    def take_reset(self, group: str, topic: str, queue_id: int) -> int | None:
        """Return and forget the reset of a queue, or None."""
        if not self._resets:
            return None
        key = topic + _SEPARATOR + group
        queues = self._resets.get(key)
        if queues is None:
            return None
        offset = queues.pop(queue_id, None)
        if not queues:
            del self._resets[key]
        return offset

    # --- by topic and by group ----------------------------------------------------------------------------------------

    def topics_of(self, group: str) -> list[str]:
        """Return the topics in which the group has offsets, sorted."""
        return sorted(topic for topic, owner in map(_split, self._offsets) if owner == group)

    def groups_of(self, topic: str) -> list[str]:
        """Return the groups that have offsets in the topic, sorted."""
        return sorted(group for name, group in map(_split, self._offsets) if name == topic)

    def clone(self, source_group: str, target_group: str, topic: str) -> None:
        """Give a group a copy of another group's offsets in a topic."""
        for queue_id, offset in self.query_all(source_group, topic).items():
            self.commit(target_group, topic, queue_id, offset)

    def drop_topic(self, topic: str) -> None:
        """Forget all offsets in a deleted topic."""
        self._drop([key for key in self._offsets if _split(key)[0] == topic])

    def drop_group(self, group: str, topic: str | None = None) -> None:
        """Forget all offsets of a deleted group, or only those in one topic."""
        self._drop([key for key in self._offsets if _split(key)[1] == group and topic in (None, _split(key)[0])])

    def _drop(self, keys: list[str]) -> None:
        for key in keys:
            del self._offsets[key]
            self._resets.pop(key, None)
            self._pulled.pop(key, None)
            self.table.mark_dirty()

    def adopt(self, content: ConsumerOffsetFile) -> bool:
        """Take over the offsets of another broker, and its version; return whether anything changed.

        Offsets that only this broker has stay, as in RocketMQ: the other one may have lost its file.
        """
        changed = {key: queues for key, queues in content.offset_table.items() if self._offsets.get(key) != queues}
        if not changed and content.data_version == self.data_version:
            return False
        self._offsets.update((key, dict(queues)) for key, queues in changed.items())
        self.data_version = msgspec.structs.replace(content.data_version)
        self.table.mark_dirty()
        return True

    def snapshot(self) -> dict[str, dict[int, int]]:
        """Return a copy of the whole table, keyed by `topic@group`."""
        return {key: dict(queues) for key, queues in self._offsets.items()}

    # --- the file -----------------------------------------------------------------------------------------------------

    def _encode(self) -> bytes:
        # Java writes number keys without quotes, and older brokers are only known to read that.
        lines = []
        for key, queues in self._offsets.items():
            pairs = ",".join(f"{queue_id}:{offset}" for queue_id, offset in queues.items())
            lines.append(f"\t\t{msgspec.json.encode(key).decode()}:{{{pairs}}}")
        version = msgspec.json.encode(self.data_version).decode()
        table = "{\n" + ",\n".join(lines) + "\n\t}" if lines else "{}"
        return f'{{\n\t"dataVersion":{version},\n\t"offsetTable":{table}\n}}'.encode()

    def _decode(self, data: bytes) -> None:
        content = decode_body(data, ConsumerOffsetFile)
        self._offsets = content.offset_table
        self.data_version = content.data_version

    def __repr__(self) -> str:
        return f"<ConsumerOffsetManager {len(self._offsets)} topic@group{' dirty' if self.table.is_dirty else ''}>"


def _split(key: str) -> tuple[str, str]:
    topic, _, group = key.partition(_SEPARATOR)
    return topic, group
