"""A machine for labs: a disk whose power can be cut, and a store that is started on it again and again.

machine = Machine()
store = await machine.start()        # what `broker start` does, without a network
await store.write(["a", "b"])
await machine.cut_power(keep=0.0)    # or `kill`, or `stop`
store = await machine.start()
"""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.assembly.stages import build_broker
from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.file_system import FileSystem
from rocketmq_py.common.record import decode_records
from rocketmq_py.sim.environment import EPOCH_MS, SimulatedClock, run_inline
from rocketmq_py.sim.file_system import Personality, SimulatedFileSystem
from rocketmq_py.store.bookkeeping import Bookkeeping
from rocketmq_py.store.commit_log import CommitLog
from rocketmq_py.store.config import FlushDiskType, MessageStoreConfig
from rocketmq_py.store.consume_queue_store import ConsumeQueueStore
from rocketmq_py.store.draft import Draft
from rocketmq_py.store.message_store import MessageStore
from rocketmq_py.store.put_message import MessagePutter
from rocketmq_py.store.put_result import PutMessageResult
from rocketmq_py.store.recovery import Recovery, RecoveryReport

ROOT = "/srv/store"
BORN = bytes((10, 1, 2, 3, 0, 0, 0x27, 0x0F))
#: Small enough that a lab sees several files of each kind.
SIZES: dict[str, Any] = {
    "mapped_file_size_commit_log": 4096,
    "mapped_file_size_consume_queue": 200,
    "max_hash_slot_num": 7,
    "max_index_num": 40,
}
BOOT_ID = "/proc/sys/kernel/random/boot_id"
#: Calls that change what is on the disk.
WRITES: Final = frozenset(
    ("pwrite", "fdatasync", "fsync", "sync_directory", "allocate", "truncate", "rename", "unlink", "make_directories")
)
#: What a machine looks like to its clients: bodies by topic and queue, in order.
Content = dict[tuple[str, int], list[str]]


@dataclass
class RunningStore:
    """A store that has started."""

    kernel: Kernel

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
    def report(self) -> RecoveryReport:
        return self.kernel.get(Recovery).report

    @property
    def bookkeeping(self) -> Bookkeeping:
        return self.kernel.get(Bookkeeping)

    async def put(self, *drafts: Draft) -> list[PutMessageResult]:
        """Put all in one turn of the loop; return what each was told."""
        putter = self.kernel.get(MessagePutter)
        return list(await asyncio.gather(*(putter.put_message(one) for one in drafts)))

    async def write(self, bodies: Iterable[str], topic: str = "TopicTest", queue_id: int = 2) -> list[PutMessageResult]:
        """Put one message for each body, each in a turn of its own."""
        return [(await self.put(draft(body, topic=topic, queue_id=queue_id)))[0] for body in bodies]

    async def content(self) -> Content:
        """Read every queue as a consumer does, from its first message to its last."""
        found: Content = {}
        for topic, queue_id in self.store.topics_and_queues():
            bodies: list[str] = []
            offset, end = self.store.min_offset(topic, queue_id), self.store.max_offset(topic, queue_id)
            while offset < end:
                result = await self.store.get_message_cold(topic, queue_id, offset, 32)
                for message in decode_records(result.records):
                    assert message.queue_offset >= offset
                    bodies.append(message.body.decode())
                assert result.next_begin_offset > offset, f"{result} does not get further than {offset}"
                offset = result.next_begin_offset
            found[topic, queue_id] = bodies
        return found

    async def bodies(self, topic: str = "TopicTest", queue_id: int = 2) -> list[str]:
        """Read one queue."""
        return (await self.content()).get((topic, queue_id), [])


class DyingFiles:
    """A file system that lets so many changes through, and then fails every call: its process is as good as dead."""

    def __init__(self, disk: SimulatedFileSystem, changes: int) -> None:
        self._disk = disk
        self.changes_left = changes

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._disk, name)

        def call(*args: Any, **named: Any) -> Any:
            if name in WRITES or named.get("create"):
                self.changes_left -= 1
            if self.changes_left < 0 and name not in ("close", "exists", "is_directory"):
                raise OSError(errno.EIO, "the process is dead")
            return function(*args, **named)

        return call


class Machine:
    """A computer with one disk, and at most one store that runs on it.

    Args:
        seed: decides which sectors a power cut keeps.
        personality: how durable names are.
        settings: of the store.

    Attributes:
        disk: the disk; damage it here.
        files: what stores see of it; wrap it to let them fail.
        running: the store that runs, or None.
    """

    def __init__(
        self, seed: int = 0, *, personality: Personality = Personality.EXT4, capacity: int = 1 << 30, **settings: Any
    ) -> None:
        self.clock = SimulatedClock()
        self.disk = SimulatedFileSystem(self.clock, personality=personality, capacity=capacity)
        self.files: FileSystem = self.disk
        self.running: RunningStore | None = None
        self._random = random.Random(seed)
        self._settings = {**SIZES, **settings}
        self._boots = 0
        self._boot()

    def _boot(self) -> None:
        self._boots += 1
        self.disk.write_file(BOOT_ID, f"boot-{self._boots}\n".encode())

    def build(self, **settings: Any) -> Kernel:
        """Return a store that has not started."""
        config = MessageStoreConfig(store_path_root_dir=ROOT)
        config = replace(config, **{**self._settings, **settings})
        environment = Environment(self.clock, random.Random(1), self.files, run_inline)
        return build_broker(BrokerConfig(), config, environment, "recovery")

    async def start(self, **settings: Any) -> RunningStore:
        """Start a store on what lies on the disk."""
        kernel = self.build(**settings)
        await kernel.start()
        self.running = RunningStore(kernel)
        return self.running

    async def stop(self) -> None:
        """Stop the store in order, as SIGTERM does."""
        if self.running is not None:
            await self.running.kernel.stop()
            self.running = None

    async def kill(self) -> None:
        """End the process at once, as SIGKILL does: what it wrote stays in the page cache."""
        self.disk.kill()
        await self._end_tasks()

    async def cut_power(self, keep: float = 0.5) -> None:
        """Cut the power and boot again: each sector that was not flushed is kept with this probability."""
        self.disk.crash(self._random, keep=keep)
        await self._end_tasks()
        self._boot()

    async def _end_tasks(self) -> None:
        self.running = None
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def path(self, *names: str) -> str:
        """Return the path of a file of the store."""
        return "/".join((ROOT, *names))

    def names(self, folder: str) -> list[str]:
        """Return the names in a folder of the store."""
        return self.disk.list_directory(self.path(folder))

    def snapshot(self, *folders: str) -> dict[str, bytes]:
        """Return the files below folders of the store."""
        return {path: data for folder in folders for path, data in self.disk.snapshot(self.path(folder)).items()}


def draft(body: str, *, topic: str = "TopicTest", queue_id: int = 2, properties: bytes | None = None) -> Draft:
    """Return a message with a unique key, so that it is in the index too."""
    return Draft(
        topic=topic,
        queue_id=queue_id,
        body=body.encode(),
        stored_properties=f"UNIQ_KEY\x01key-{body}\x02".encode() if properties is None else properties,
        born_timestamp=EPOCH_MS - 5,
        born_host=BORN,
        flag=7,
        tags_code=0,
    )


def numbered(first: int, count: int, width: int = 6) -> list[str]:
    """Return bodies that are told apart."""
    return [f"m{number:0{width}d}" for number in range(first, first + count)]


SYNC: dict[str, Any] = {"flush_disk_type": FlushDiskType.SYNC_FLUSH}
