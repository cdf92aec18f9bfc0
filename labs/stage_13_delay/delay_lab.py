"""A broker whose messages wait: on the simulated disk, so that its process can be killed and its power be cut."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from labs.stage_04_recovery.recovery_lab import BORN, ROOT, Machine, RunningStore
from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.assembly.stages import build_broker
from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.schedule.delay_offsets import DelayOffsetManager
from rocketmq_py.broker.schedule.level_delivery import LevelDelivery
from rocketmq_py.broker.schedule.schedule_message_service import ScheduleMessageService
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.message import MessageExt
from rocketmq_py.common.properties import encode_properties
from rocketmq_py.common.record import RecordState, to_message
from rocketmq_py.common.topic import SCHEDULE_TOPIC
from rocketmq_py.sim.environment import EPOCH_MS, run_inline
from rocketmq_py.store.config import MessageStoreConfig
from rocketmq_py.store.draft import Draft
from rocketmq_py.store.message_store import MessageStore

TOPIC = "Orders"
#: Room for many small records in a file, and few units.
SIZES = {"mapped_file_size_commit_log": 1 << 20, "mapped_file_size_consume_queue": 2_000}
QUEUE = 2


class DelayMachine(Machine):
    """A machine whose broker has the stages up to this one."""

    def build(self, **settings: Any) -> Kernel:
        """Return a broker that has not started; its settings are those of the store."""
        config = replace(MessageStoreConfig(store_path_root_dir=ROOT), **{**self._settings, **SIZES, **settings})
        environment = Environment(self.clock, random.Random(1), self.files, run_inline)
        return build_broker(BrokerConfig(listen_port=0), config, environment, "delay")

    async def restart(self, **settings: Any) -> RunningStore:
        """Stop in order and start again."""
        await self.stop()
        return await self.start(**settings)

    @property
    def delay_offset_path(self) -> str:
        """The file that says how far each level is."""
        return self.path("config", "delayOffset.json")


def delayed(
    body: str, level: int | str, *, topic: str = TOPIC, queue_id: int = QUEUE, tags: str = "paid", **more: str
) -> Draft:
    """Return a message with a delay level, as the broker itself or a client would put it."""
    properties = {"TAGS": tags, "DELAY": str(level), "UNIQ_KEY": f"key-{body}", **more}
    return Draft(
        topic=topic,
        queue_id=queue_id,
        body=body.encode(),
        properties=dict(properties),
        stored_properties=encode_properties(properties),
        flag=7,
        born_timestamp=EPOCH_MS - 5,
        born_host=BORN,
        reconsume_times=1,
        tags_code=99,
    )


def stored(running: RunningStore, topic: str) -> list[MessageExt]:
    """Return the messages of a topic in the order of the log."""
    log = running.log
    messages = [
        to_message(check.record)
        for _, check in log.scan(log.min_offset)
        if check.state is RecordState.VALID and check.record is not None
    ]
    return [message for message in messages if message.topic == topic]


def bodies(messages: list[MessageExt]) -> list[str]:
    return [message.body.decode() for message in messages]


def delivered(running: RunningStore, topic: str = TOPIC) -> list[str]:
    """Return the bodies that were put into the real topic, in order; a body that came twice is there twice."""
    return bodies(stored(running, topic))


def waiting(running: RunningStore, level: int) -> list[tuple[int, int, int]]:
    """Return the units of a level's queue."""
    queue = running.kernel.get(MessageStore).queues.find(SCHEDULE_TOPIC, level - 1)
    if queue is None:
        return []
    units = [queue.unit(number) for number in range(queue.min_offset, queue.max_offset)]
    return [unit for unit in units if unit is not None]


def offsets(running: RunningStore) -> dict[int, int]:
    """Return how far each level is."""
    return dict(running.kernel.get(DelayOffsetManager).offsets())


def level_of(running: RunningStore, level: int) -> LevelDelivery:
    """Return the delivery of a level."""
    return next(one for one in running.kernel.get(ScheduleMessageService).deliveries if one.level == level)
