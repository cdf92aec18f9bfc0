"""A message store for labs: small files, a clock that the lab sets, and short ways to write and read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.assembly.stages import build_broker
from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.common.environment import Environment, system_environment
from rocketmq_py.common.java import string_hash
from rocketmq_py.common.properties import decode_properties
from rocketmq_py.common.record import decode_records
from rocketmq_py.store.commit_log import CommitLog
from rocketmq_py.store.config import MessageStoreConfig
from rocketmq_py.store.consume_queue import ConsumeQueue
from rocketmq_py.store.consume_queue_store import ConsumeQueueStore
from rocketmq_py.store.dispatch import Dispatchers
from rocketmq_py.store.draft import Draft
from rocketmq_py.store.filter import ALL, MessageFilter
from rocketmq_py.store.message_store import MessageStore
from rocketmq_py.store.put_message import MessagePutter
from rocketmq_py.store.put_result import PutMessageResult

#: Ten units a file, so that a lab sees several.
UNITS_PER_FILE = 10
SIZES: dict[str, Any] = {"mapped_file_size_commit_log": 65_536, "mapped_file_size_consume_queue": 20 * UNITS_PER_FILE}
BORN = bytes((10, 1, 2, 3, 0, 0, 0x27, 0x0F))
START_MS = 1_700_000_000_005


class LabClock:
    """A wall clock that stands still until the lab moves it."""

    def __init__(self, now: int = START_MS) -> None:
        self.now = now

    def wall_ms(self) -> int:
        return self.now


@dataclass
class StoreLab:
    """A running store."""

    kernel: Kernel
    clock: LabClock
    folder: Path

    @property
    def store(self) -> MessageStore:
        return self.kernel.get(MessageStore)

    @property
    def log(self) -> CommitLog:
        return self.kernel.get(CommitLog)

    @property
    def queues(self) -> ConsumeQueueStore:
        return self.kernel.get(ConsumeQueueStore)

    @property
    def dispatchers(self) -> Dispatchers:
        return self.kernel.get(Dispatchers)

    def queue(self, topic: str = "TopicTest", queue_id: int = 3) -> ConsumeQueue:
        queue = self.queues.find(topic, queue_id)
        assert queue is not None, f"there is no queue {topic}-{queue_id}"
        return queue

    async def put(self, *drafts: Draft) -> list[PutMessageResult]:
        """Put all in one turn of the loop and wait until they are visible."""
        putter = self.kernel.get(MessagePutter)
        results = await asyncio.gather(*(putter.put_message(one) for one in drafts))
        await asyncio.sleep(0)
        return results

    async def write(self, bodies: Iterable[bytes | str], topic: str = "TopicTest", queue_id: int = 3) -> None:
        await self.put(*(draft(body, topic=topic, queue_id=queue_id) for body in bodies))

    def read(
        self, offset: int, count: int = 32, topic: str = "TopicTest", queue_id: int = 3, wanted: MessageFilter = ALL
    ) -> list[str]:
        """Return the bodies of a read."""
        result = self.store.get_message(topic, queue_id, offset, count, wanted)
        assert result is not None, "the store calls bytes cold that were just written"
        return [message.body.decode() for message in decode_records(result.records)]

    def read_all(self, topic: str = "TopicTest", queue_id: int = 3, start: int = 0) -> list[str]:
        """Return the bodies of a queue; one read ends at the end of a queue's file."""
        found: list[str] = []
        while more := self.read(start + len(found), topic=topic, queue_id=queue_id):
            found += more
        return found


def draft(
    body: bytes | str, *, topic: str = "TopicTest", queue_id: int = 3, properties: bytes = b"", **more: Any
) -> Draft:
    """Return a message to put, with the tags code that a broker gives it."""
    tag = decode_properties(properties).get("TAGS", "")
    return Draft(
        topic=topic,
        queue_id=queue_id,
        body=body.encode() if isinstance(body, str) else body,
        stored_properties=properties,
        born_timestamp=1_700_000_000_000,
        born_host=BORN,
        tags_code=string_hash(tag) if tag else 0,
        **more,
    )


@asynccontextmanager
async def store_lab(
    folder: Path,
    *,
    clock: LabClock | None = None,
    environment: Environment | None = None,
    through: str = "consume_queue",
    start: bool = True,
    **settings: Any,
) -> AsyncIterator[StoreLab]:
    """Run a store on a folder; on leaving it everything is written and closed."""
    clock = clock or LabClock()
    config = replace(MessageStoreConfig(store_path_root_dir=str(folder)), **{**SIZES, **settings})
    environment = replace(environment or system_environment(), clock=clock)
    kernel = build_broker(BrokerConfig(), config, environment, through)
    lab = StoreLab(kernel, clock, folder)
    if start:
        await kernel.start()
    try:
        yield lab
    finally:
        await kernel.stop()


def snapshot(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder, by its path there."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }
