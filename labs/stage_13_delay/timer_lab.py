"""A broker with timers for labs: on a disk whose power can be cut, in virtual time; and a way to see what arrives when."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar, TypeVarTuple

from labs.stage_04_recovery.recovery_lab import BORN, ROOT, Machine, RunningStore
from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.assembly.stages import build_broker
from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.java import string_hash
from rocketmq_py.common.message import MessageExt
from rocketmq_py.common.properties import encode_properties
from rocketmq_py.common.record import decode_records
from rocketmq_py.sim.environment import EPOCH_MS, run_inline
from rocketmq_py.sim.file_system import Personality
from rocketmq_py.store.config import MessageStoreConfig
from rocketmq_py.store.draft import Draft
from rocketmq_py.store.put_result import PutMessageResult
from rocketmq_py.store.timer.timer_message_store import TimerMessageStore

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

TOPIC = "Reminders"
SIZES: dict[str, Any] = {
    "mapped_file_size_commit_log": 65_536,
    "mapped_file_size_consume_queue": 2_000,
    "max_hash_slot_num": 32,
    "max_index_num": 200,
    # 19 units a file.
    "mapped_file_size_timer_log": 1_004,
}


class RunningBroker(RunningStore):
    """A broker with timers that has started."""

    @property
    def timers(self) -> TimerMessageStore:
        return self.kernel.get(TimerMessageStore)

    async def put_one(self, body: str, **wanted: Any) -> PutMessageResult:
        """Put one message; see `draft`."""
        (result,) = await self.put(draft(body, **wanted))
        return result

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


class TimerMachine(Machine):
    """A machine whose broker has timers; no network.

    Args:
        seed: decides which sectors a power cut keeps.
        personality: how durable names are.
        settings: of the store.

    Attributes:
        blocking_seconds: how long a call in a thread takes; 0 for none of the virtual time.
    """

    def __init__(self, seed: int = 0, *, personality: Personality = Personality.EXT4, **settings: Any) -> None:
        super().__init__(seed, personality=personality, **{**SIZES, **settings})
        # Each machine of a lab begins at the same moment, whatever the loop has seen before.
        self.clock.offset_ms = EPOCH_MS - round(asyncio.get_running_loop().time() * 1000)
        self.blocking_seconds = 0.0

    def build(self, **settings: Any) -> Kernel:
        """Return a broker that has not started; its settings are those of the store."""
        config = replace(MessageStoreConfig(store_path_root_dir=ROOT), **{**self._settings, **settings})
        environment = Environment(self.clock, random.Random(1), self.files, self._run_blocking)
        return build_broker(BrokerConfig(listen_port=0), config, environment, "delay")

    async def start(self, **settings: Any) -> RunningBroker:
        """Start a broker on what lies on the disk."""
        self.running = running = RunningBroker((await super().start(**settings)).kernel)
        return running

    async def _run_blocking(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        await asyncio.sleep(self.blocking_seconds)
        return await run_inline(function, *args)

    async def travel(self, to_ms: int) -> None:
        """Wait until a moment, milliseconds since 1970; all but the last 3 s pass in one leap, as in a suspended machine."""
        left = to_ms - self.clock.wall_ms()
        if left > 3_000:
            self.clock.offset_ms += left - 3_000
            left = 3_000
        await asyncio.sleep(left / 1000)


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
