"""A broker with timers for labs: on a disk whose power can be cut, in virtual time; and a way to see what arrives when."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar, TypeVarTuple

from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.assembly.stages import build_broker
from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.file_system import FileSystem
from rocketmq_py.common.java import string_hash
from rocketmq_py.common.message import MessageExt
from rocketmq_py.common.properties import encode_properties
from rocketmq_py.common.record import decode_records
from rocketmq_py.sim.environment import EPOCH_MS, SimulatedClock, run_inline
from rocketmq_py.sim.file_system import Personality, SimulatedFileSystem
from rocketmq_py.store.config import MessageStoreConfig
from rocketmq_py.store.draft import Draft
from rocketmq_py.store.message_store import MessageStore
from rocketmq_py.store.put_result import PutMessageResult
from rocketmq_py.store.timer.timer_message_store import TimerMessageStore

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

ROOT = "/srv/store"
BOOT_ID = "/proc/sys/kernel/random/boot_id"
TOPIC = "Reminders"
BORN = bytes((10, 1, 2, 3, 0, 0, 0x27, 0x0F))
SIZES: dict[str, Any] = {
    "mapped_file_size_commit_log": 65_536,
    "mapped_file_size_consume_queue": 2_000,
    "max_hash_slot_num": 32,
    "max_index_num": 200,
    # 19 units a file.
    "mapped_file_size_timer_log": 1_004,
}


@dataclass
class RunningBroker:
    """A broker that has started."""

    kernel: Kernel

    @property
    def store(self) -> MessageStore:
        return self.kernel.get(MessageStore)

    @property
    def timers(self) -> TimerMessageStore:
        return self.kernel.get(TimerMessageStore)

    async def put(self, body: str, **wanted: Any) -> PutMessageResult:
        """Put one message; see `draft`."""
        return await self.store.put_message(draft(body, **wanted))

    async def put_all(self, drafts: Iterable[Draft]) -> list[PutMessageResult]:
        """Put all in one turn of the loop."""
        return list(await asyncio.gather(*(self.store.put_message(one) for one in drafts)))

    async def messages(self, topic: str = TOPIC) -> list[MessageExt]:
        """Return what consumers of a topic can see, in the order of each queue."""
        found: list[MessageExt] = []
        for name, queue_id in sorted(self.store.topics_and_queues()):
            offset = self.store.min_offset(name, queue_id)
            while name == topic and offset < self.store.max_offset(name, queue_id):
                result = await self.store.get_message_cold(name, queue_id, offset, 32)
                found += decode_records(result.records)
                assert result.next_begin_offset > offset
                offset = result.next_begin_offset
        return found

    async def arrivals(self, topic: str = TOPIC) -> dict[str, int]:
        """Return when each message was stored in its real topic, by its body; a message that came twice fails."""
        messages = await self.messages(topic)
        times = {message.body.decode(): message.store_timestamp for message in messages}
        assert len(times) == len(messages), f"came twice: {await self.doubled(topic)}"
        return times

    async def doubled(self, topic: str = TOPIC) -> list[str]:
        """Return the bodies that came more than once."""
        counts = Counter(message.body.decode() for message in await self.messages(topic))
        return sorted(body for body, count in counts.items() if count > 1)


class TimerMachine:
    """A computer with one disk, and at most one broker that runs on it; no network.

    Args:
        seed: decides which sectors a power cut keeps.
        settings: of the store.
    """

    def __init__(self, seed: int = 0, *, personality: Personality = Personality.EXT4, **settings: Any) -> None:
        # Each machine of a lab begins at the same moment, whatever the loop has seen before.
        self.clock = SimulatedClock(EPOCH_MS - round(asyncio.get_running_loop().time() * 1000))
        self.disk = SimulatedFileSystem(self.clock, personality=personality)
        self.files: FileSystem = self.disk
        self.running: RunningBroker | None = None
        self._random = random.Random(seed)
        self._settings = {**SIZES, **settings}
        #: How long a call in a thread takes; 0 for none of the virtual time.
        self.blocking_seconds = 0.0
        self._boots = 0
        self._boot()

    def _boot(self) -> None:
        self._boots += 1
        self.disk.write_file(BOOT_ID, f"boot-{self._boots}\n".encode())

    async def start(self, **settings: Any) -> RunningBroker:
        """Start a broker on what lies on the disk."""
        store_config = replace(MessageStoreConfig(store_path_root_dir=ROOT), **{**self._settings, **settings})
        environment = Environment(self.clock, random.Random(1), self.files, self._run_blocking)
        kernel = build_broker(BrokerConfig(listen_port=0), store_config, environment, "delay")
        self.running = RunningBroker(kernel)
        await kernel.start()
        return self.running

    async def _run_blocking(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        await asyncio.sleep(self.blocking_seconds)
        return await run_inline(function, *args)

    async def stop(self) -> None:
        """Stop the broker in order."""
        if self.running is not None:
            await self.running.kernel.stop()
            self.running = None

    async def kill(self) -> None:
        """End the process at once: what it wrote stays in the page cache."""
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

    async def travel(self, to_ms: int) -> None:
        """Wait until a moment, milliseconds since 1970; all but the last 3 s pass in one leap, as in a suspended machine."""
        left = to_ms - self.clock.wall_ms()
        if left > 3_000:
            self.clock.offset_ms += left - 3_000
            left = 3_000
        await asyncio.sleep(left / 1000)

    def path(self, *names: str) -> str:
        """Return the path of a file of the store."""
        return "/".join((ROOT, *names))


def draft(
    body: str,
    *,
    topic: str = TOPIC,
    queue_id: int = 2,
    delay_ms: int | None = None,
    deliver_ms: int | None = None,
    properties: dict[str, str] | None = None,
    **more: Any,
) -> Draft:
    """Return a message to put, with a unique key."""
    wanted = {"UNIQ_KEY": f"key-{body}", "TAGS": "lab", **(properties or {})}
    if delay_ms is not None:
        wanted["TIMER_DELAY_MS"] = str(delay_ms)
    if deliver_ms is not None:
        wanted["TIMER_DELIVER_MS"] = str(deliver_ms)
    return Draft(
        topic=topic,
        queue_id=queue_id,
        body=body.encode(),
        properties=dict(wanted),
        stored_properties=encode_properties(wanted),
        born_timestamp=EPOCH_MS - 5,
        born_host=BORN,
        flag=7,
        tags_code=string_hash("lab"),
        **more,
    )


def deletion(body: str, deliver_ms: int, topic: str = TOPIC) -> Draft:
    """Return the message that deletes another one that is due at a time."""
    return draft(
        f"no {body}", topic=topic, deliver_ms=deliver_ms, properties={"TIMER_DEL_UNIQKEY": f"{topic}+key-{body}"}
    )


def first_full_second(time_ms: int, precision_ms: int = 1000) -> int:
    """Return when a message for a time is delivered at the earliest."""
    return -(-time_ms // precision_ms) * precision_ms
