"""Stores of Apache RocketMQ 5.3.3 with timers that wait: read, written again byte for byte, delivered, and lost in parts.

They hold timers of seconds, hours and days, one of them deleted; one store was stopped in order, the other killed.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from labs.golden.test_store import broker, stores, unpack
from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.assembly.stages import build_broker
from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.common.config import Setting, apply_properties
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.record import decode_records
from rocketmq_py.store.config import MessageStoreConfig
from rocketmq_py.store.message_store import MessageStore
from rocketmq_py.store.timer.timer_checkpoint import TimerCheckpointFile
from rocketmq_py.store.timer.timer_message_store import TimerMessageStore

NAMES = ("pending-53", "pending-killed-53")
TOPIC = "GoldTimer"


def unpack_timers(name: str, folder: Path) -> Path:
    """Put a copy on the disk, with its wheel."""
    root = unpack(name, folder)
    with gzip.open(root / "timerwheel.gz") as packed, open(root / "timerwheel", "wb") as wheel:
        shutil.copyfileobj(packed, wheel)
    (root / "timerwheel.gz").unlink()
    return root


def waiting(name: str) -> dict[str, int]:
    """Return what is to be delivered yet, and when at the earliest, by unique key."""
    expected = stores()[name]
    read_time = expected["timer"]["timercheck"]["lastReadTimeMs"]
    records = {row["offset"]: row for row in expected["commitlog"]["records"]}
    due: dict[str, int] = {}
    deleted: set[str] = set()
    for _, _, _, magic, write_time, delay, offset, _, _, _ in expected["timer"]["timerlog"]:
        properties = records[offset]["props"]
        if magic & 4:
            # The recorder wrote the key as brokers before 5.3.2 want it.
            deleted.add(properties["TIMER_DEL_UNIQKEY"])
        elif write_time + delay >= read_time:
            due[properties["UNIQ_KEY"]] = write_time + delay + 1_000
    assert len(deleted) == 1
    return {key: time for key, time in due.items() if key not in deleted}


def slots_of(timers: TimerMessageStore) -> list[list[int]]:
    """Return the slots in the words of `expected.json`."""
    return sorted([slot.time_ms // 1000, slot.first_pos, slot.last_pos, slot.num] for slot in timers.wheel.slots(0))


def expected_slots(name: str) -> list[list[int]]:
    return sorted(row[1:5] for row in stores()[name]["timer"]["slots"])


@pytest.mark.parametrize("name", NAMES)
async def test_the_timers_of_an_apache_broker_are_read(name: str, tmp_path: Path) -> None:
    """Slots, units and checkpoint are what RocketMQ's own classes found."""
    expected, root = stores()[name], unpack_timers(name, tmp_path)
    async with broker(root, expected, "delay") as kernel:
        timers = kernel.get(TimerMessageStore)
        assert slots_of(timers) == expected_slots(name)
        units = [[position, *unit] for position, unit in timers.log.scan(0)]
        assert units == expected["timer"]["timerlog"]
        check = expected["timer"]["timercheck"]
        checkpoint = TimerCheckpointFile(kernel.environment.files, str(root / "config/timercheck")).load()
        assert checkpoint.last_read_time_ms == check["lastReadTimeMs"]
        assert checkpoint.last_timer_log_flush_pos == check["lastTimerLogFlushPos"]
        assert checkpoint.last_timer_queue_offset == check["lastTimerQueueOffset"]
        assert checkpoint.master_timer_queue_offset == check["masterTimerQueueOffset"]
        assert timers.report.applied == 0
        assert timers.metrics.count(TOPIC) > 0


@pytest.mark.parametrize("name", NAMES)
async def test_opening_and_closing_changes_nothing_in_wheel_and_log(name: str, tmp_path: Path) -> None:
    """The files after a start and a stop are those that Apache wrote, byte for byte."""
    expected, root = stores()[name], unpack_timers(name, tmp_path)

    def digests() -> dict[str, str]:
        paths = [root / "timerwheel", *sorted((root / "timerlog").iterdir())]
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}

    before = digests()
    async with broker(root, expected, "delay"):
        pass
    assert digests() == before
    known = {file["path"]: file["sha256"] for file in expected["files"]}
    assert before["timerwheel"] == known["timerwheel"]


@pytest.mark.parametrize("name", NAMES)
async def test_the_wheel_that_is_made_again_from_the_log_is_the_one_that_was_lost(name: str, tmp_path: Path) -> None:
    """Every slot comes out as Apache wrote it: first and last unit, and the number with the deletion in it."""
    expected, root = stores()[name], unpack_timers(name, tmp_path)
    before = (root / "timerwheel").read_bytes()
    (root / "timerwheel").unlink()
    async with broker(root, expected, "delay") as kernel:
        assert kernel.get(TimerMessageStore).report.is_rebuilt
        assert slots_of(kernel.get(TimerMessageStore)) == expected_slots(name)
    assert (root / "timerwheel").read_bytes() == before


async def bodies(kernel: Kernel) -> Counter[str]:
    """Count what the topic holds, by unique key."""
    store, found = kernel.get(MessageStore), Counter[str]()
    for topic, queue_id in store.topics_and_queues():
        offset = store.min_offset(topic, queue_id)
        while topic == TOPIC and offset < store.max_offset(topic, queue_id):
            result = await store.get_message_cold(topic, queue_id, offset, 32)
            found.update(message.unique_key for message in decode_records(result.records))
            offset = result.next_begin_offset
    return found


@pytest.mark.virtual_time
@pytest.mark.parametrize("lost", ["nothing", "timerwheel", "timerlog", "timercheck"])
@pytest.mark.parametrize("name", NAMES)
async def test_what_an_apache_broker_left_waiting_is_delivered_and_what_was_deleted_is_not(
    name: str, lost: str, tmp_path: Path, environment: Environment
) -> None:
    """Each comes at its second, once, also with a file lost; without the checkpoint what was delivered comes again."""
    expected, root = stores()[name], unpack_timers(name, tmp_path)
    if lost == "timerlog":
        shutil.rmtree(root / "timerlog")
    elif lost != "nothing":
        (root / ("config/timercheck" if lost == "timercheck" else lost)).unlink()
    config, store_config = BrokerConfig(), MessageStoreConfig()
    settings = {key: Setting(value, "expected.json") for key, value in expected["brokerConfig"].items()}
    apply_properties(settings, config, store_config, lenient=True)
    config.listen_port, config.namesrv_addr = 0, ""
    store_config.store_path_root_dir = str(root)
    clock: Any = environment.clock
    clock.offset_ms = expected["timer"]["timercheck"]["lastReadTimeMs"] + 5
    due = waiting(name)
    environment = Environment(clock, random.Random(3), environment.files, environment.run_blocking)
    kernel = build_broker(config, store_config, environment)
    await kernel.start()
    await asyncio.sleep(2)
    before = await bodies(kernel)
    assert not set(due) & set(before)

    for key, time in sorted(due.items(), key=lambda item: item[1]):
        clock.offset_ms += max(time - 1_500 - clock.wall_ms(), 0)
        await asyncio.sleep(max(time + 100 - clock.wall_ms(), 0) / 1000)
        came = await bodies(kernel)
        assert came[key] == 1, f"{key} did not come at {time}"
    clock.offset_ms += 3_600_000
    await asyncio.sleep(3)
    assert await bodies(kernel) == before + Counter(list(due))
    assert kernel.get(TimerMessageStore).dequeue.deleted == 1
    await kernel.stop()
