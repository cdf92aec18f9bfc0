"""Installs delay levels; the first half of stage delay."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.broker.processor.delay_offset import DelayOffsetProcessor
from rocketmq_py.broker.runtime_info import RuntimeInfo
from rocketmq_py.broker.schedule.delay_hook import delay_hook
from rocketmq_py.broker.schedule.delay_levels import DelayLevels
from rocketmq_py.broker.schedule.delay_offsets import DelayOffsetManager
from rocketmq_py.broker.schedule.delivery_marks import DeliveryMarks
from rocketmq_py.broker.schedule.delivery_times import DeliveryTimes
from rocketmq_py.broker.schedule.schedule_message_service import ScheduleMessageService
from rocketmq_py.broker.statistics import BrokerStatsManager
from rocketmq_py.common.topic import SCHEDULE_TOPIC
from rocketmq_py.remoting.processors import Processors
from rocketmq_py.store.commit_log import CommitLog
from rocketmq_py.store.config import BrokerRole
from rocketmq_py.store.dispatch import Dispatchers
from rocketmq_py.store.draft import Draft
from rocketmq_py.store.flush import FlushService
from rocketmq_py.store.message_store import MessageStore
from rocketmq_py.store.put_hooks import PutHooks

logger = logging.getLogger(__name__)

#: The group under which deliveries are counted.
SCHEDULE_GROUP = "SCHEDULE_CONSUMER"


def install_levels(kernel: Kernel) -> None:
    """Add the hook that sends messages with a level to the schedule topic, and the service that delivers them."""
    store_config, environment = kernel.store_config, kernel.environment
    levels = kernel.provide(DelayLevels.parse(store_config.message_delay_level))
    if levels.longest_ms > store_config.file_reserved_time * 3_600_000:
        logger.warning(
            "a level of messageDelayLevel waits %d h, and log files are deleted after %d h (fileReservedTime): "
            "such messages are deleted before they are due",
            levels.longest_ms // 3_600_000,
            store_config.file_reserved_time,
        )
    dispatchers, store = kernel.get(Dispatchers), kernel.get(MessageStore)
    kernel.get(PutHooks).install(delay_hook(levels))
    # In front: extensions of queues take over what the units would carry.
    dispatchers.add(DeliveryTimes(levels), first=True)

    folder = os.path.join(store_config.root_dir, "config")
    offsets = kernel.provide(
        DelayOffsetManager(folder, environment, kernel.get(CommitLog), kernel.config.delay_offset_update_version_step)
    )
    kernel.tables.add(offsets.table)
    kernel.periodic.every(
        store_config.flush_delay_offset_interval / 1_000, offsets.table.persist_soon, "persist delay offsets"
    )
    marks = DeliveryMarks(environment.files, store_config.root_dir, levels.max_level)
    is_master = kernel.config.is_master and store_config.broker_role is not BrokerRole.SLAVE
    service = kernel.provide(
        ScheduleMessageService(
            levels, store, offsets, marks, environment, is_master=is_master, on_delivered=_count_delivered(kernel)
        )
    )
    dispatchers.listeners.append(service)
    kernel.get(RuntimeInfo).add(service.runtime_info)
    DelayOffsetProcessor(offsets).register(kernel.get(Processors))


def _count_delivered(kernel: Kernel) -> Callable[[Draft], None]:
    """Return what is told of each delivered message."""
    statistics, flush = kernel.get(BrokerStatsManager), kernel.get(FlushService)
    is_counted = kernel.store_config.enable_schedule_message_stats

    def delivered(draft: Draft) -> None:
        if flush.is_sync:
            # Nobody waits for the flush of a delivery, but until then no consumer sees it.
            flush.wake()
        if is_counted:
            # The second count: the first was made under the schedule topic when the message was accepted.
            statistics.topic_put(draft.topic).add(1, len(draft.body))
            statistics.group_get(SCHEDULE_TOPIC, SCHEDULE_GROUP).add(1, len(draft.body))

    return delivered
