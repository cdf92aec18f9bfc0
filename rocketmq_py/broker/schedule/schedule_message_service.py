"""The schedule message service: one delivery for each level, from start to stop, and what operators see of them.

Source: `ScheduleMessageService`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from rocketmq_py.broker.schedule.delay_levels import DelayLevels
from rocketmq_py.broker.schedule.delay_offsets import DelayOffsetManager
from rocketmq_py.broker.schedule.delivery_clock import DeliveryClock
from rocketmq_py.broker.schedule.delivery_marks import DeliveryMarks
from rocketmq_py.broker.schedule.level_delivery import LevelDelivery
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.topic import SCHEDULE_TOPIC
from rocketmq_py.store.columns import Arrivals
from rocketmq_py.store.draft import Draft
from rocketmq_py.store.errors import StoreError
from rocketmq_py.store.message_store import MessageStore
from rocketmq_py.store.offset_search import store_timestamp_of
from rocketmq_py.store.put_message import Putter

logger = logging.getLogger(__name__)


class ScheduleMessageService:
    """Delivers delayed messages.

    Args:
        levels: the table of levels.
        store: where messages wait.
        offsets: how far each level is.
        marks: the same, for the start after a killed process.
        environment: clock and blocking calls.
        is_master: only a master delivers; a slave gets what its master delivered.
        on_delivered: told of each message that was put into its real topic.

    Attributes:
        begins_at_once: whether delivering begins with the broker; else whoever changed this calls `begin`.
        target: takes what is delivered: the store.
    """

    def __init__(
        self,
        levels: DelayLevels,
        store: MessageStore,
        offsets: DelayOffsetManager,
        marks: DeliveryMarks,
        environment: Environment,
        *,
        is_master: bool,
        on_delivered: Callable[[Draft], None],
    ) -> None:
        self.levels = levels
        self.begins_at_once = is_master
        self.target: Putter = store
        self._store = store
        self._offsets = offsets
        self._environment = environment
        self._on_delivered = on_delivered
        self._clock = DeliveryClock(environment.clock)
        self._marks = marks
        self._deliveries: dict[int, LevelDelivery] = {}
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def deliveries(self) -> list[LevelDelivery]:
        """The levels at work."""
        return list(self._deliveries.values())

    # --- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Find out how far a process that was killed had delivered; after a stop in order the file says the same."""
        # On the loop, which serves nobody yet: it reads a record for each level.
        for mark in self._marks.load(self._store_time_of):
            if mark.queue_offset > (self._offsets.get(mark.level) or 0):
                logger.info("level %d was delivered up to %d when the broker ended", mark.level, mark.queue_offset)
                self._offsets.set(mark.level, mark.queue_offset)

    def _store_time_of(self, physical_offset: int) -> int:
        try:
            return store_timestamp_of(self._store.look_record(physical_offset))
        except StoreError:
            return -1

    async def serve(self) -> None:
        """Begin to deliver, if this broker is a master."""
        if self.begins_at_once:
            self.begin()

    async def stop_serving(self) -> None:
        """End delivering after the batches that are under way, so that their offsets are kept."""
        await self.end()

    async def stop(self) -> None:
        """Close the file of the marks."""
        self._marks.close()

    def begin(self) -> None:
        """Begin to deliver all levels; for a start, and for a slave that becomes a master."""
        if self._tasks:
            return
        self._clock.begin(self._newest_ms())
        turn, loop = asyncio.Lock(), asyncio.get_running_loop()
        for level in self._levels_with_messages():
            delivery = LevelDelivery(
                level,
                self.levels.delay_ms(level),
                self._store,
                self._clock,
                self._offsets,
                self._marks,
                self._environment.run_blocking,
                turn,
                self._on_delivered,
                self.target,
            )
            self._deliveries[level] = delivery
            self._tasks.append(loop.create_task(delivery.work.run(), name=f"deliver level {level}"))

    async def end(self) -> None:
        """End delivering; for a stop, and for a master that becomes a slave."""
        for delivery in self._deliveries.values():
            delivery.work.stop()
        tasks, self._tasks = self._tasks, []
        await asyncio.gather(*tasks)
        self._deliveries.clear()

    def _levels_with_messages(self) -> list[int]:
        """Return the levels of the table, and those of a longer one that has left messages behind.

        Differs from RocketMQ: messages of levels that a shorter `messageDelayLevel` has no more stay there for ever.
        """
        left = {queue_id + 1 for topic, queue_id in self._store.topics_and_queues() if topic == SCHEDULE_TOPIC}
        return sorted({*self.levels, *left})

    def _newest_ms(self) -> int:
        """Return when the newest delayed message was stored, milliseconds; 0 if there is none."""
        newest = 0
        for level in self._levels_with_messages():
            last = self._store.max_offset(SCHEDULE_TOPIC, level - 1) - 1
            try:
                newest = max(newest, self._store.store_time(SCHEDULE_TOPIC, level - 1, last))
            except StoreError as error:
                logger.warning("when the newest message of level %d was stored is not known: %s", level, error)
        return newest

    # --- arrivals -----------------------------------------------------------------------------------------------------

    def arrived(self, arrivals: Arrivals) -> None:
        """Wake the level that got messages, and look at the clock that dated them."""
        if arrivals.topic != SCHEDULE_TOPIC or not self._tasks:
            return
        self._clock.observe(arrivals.physical_offsets[0])
        delivery = self._deliveries.get(arrivals.queue_id + 1)
        if delivery is not None:
            delivery.arrived()

    def wake_all(self) -> None:
        """Let every level look again."""
        for delivery in self._deliveries.values():
            delivery.work.wake()

    # --- for operators ------------------------------------------------------------------------------------------------

    def runtime_info(self) -> dict[str, str]:
        """Return delivered and stored offset of each level that has messages, as GET_BROKER_RUNTIME_INFO shows them."""
        found = {}
        for level in self._levels_with_messages():
            offset, end = self._offsets.get(level), self._store.max_offset(SCHEDULE_TOPIC, level - 1)
            if offset is not None or end:
                found[f"scheduleMessageOffset_{level}"] = f"{offset or 0},{end}"
        return found

    def __repr__(self) -> str:
        return f"<ScheduleMessageService {self.deliveries}>"
