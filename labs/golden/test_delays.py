"""Delayed messages that wait in the stores of Apache brokers: their units are made again, and they are delivered."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from labs.golden.test_store import NAMES, broker, stores, unpack
from labs.stage_02_consume_queue.store_lab import snapshot
from rocketmq_py.assembly.stages import build_broker
from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.schedule.delay_offsets import DelayOffsetManager
from rocketmq_py.broker.schedule.schedule_message_service import ScheduleMessageService
from rocketmq_py.common.config import Setting, apply_properties
from rocketmq_py.common.environment import system_environment
from rocketmq_py.common.properties import decode_properties
from rocketmq_py.common.record import Record, RecordState
from rocketmq_py.common.topic import SCHEDULE_TOPIC
from rocketmq_py.store.commit_log import CommitLog
from rocketmq_py.store.config import BrokerRole, MessageStoreConfig
from rocketmq_py.store.consume_queue_unit import UNIT_SIZE
from rocketmq_py.testing.eventually import eventually

DELAYED = [
    name for name in NAMES if any(q["units"] for q in stores()[name]["consumequeue"].get(SCHEDULE_TOPIC, {}).values())
]
#: Stores in which messages still wait by the file that their broker left.
PENDING = ["pending-53", "pending-killed-53", "clean-49"]


def records_of(log: CommitLog) -> list[Record]:
    return [
        check.record
        for _, check in log.scan(log.min_offset)
        if check.state is RecordState.VALID and check.record is not None
    ]


def delay_offsets(root: Path) -> dict[int, int]:
    """Read `delayOffset.json` as Java wrote it."""
    text = re.sub(r"([{,]\s*)(\d+):", r'\1"\2":', (root / "config/delayOffset.json").read_text())
    return {int(level): offset for level, offset in json.loads(text)["offsetTable"].items()}


def pending_of(root: Path, expected: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the records that wait, by what the Apache broker left, in the order of each level."""
    records = {row["offset"]: row for row in expected["commitlog"]["records"]}
    offsets = delay_offsets(root)
    return [
        records[unit[1]]
        for queue_id, queue in sorted(expected["consumequeue"][SCHEDULE_TOPIC].items(), key=lambda pair: int(pair[0]))
        for unit in queue["units"]
        if unit[0] >= offsets.get(int(queue_id) + 1, 0)
    ]


@pytest.mark.parametrize("name", PENDING)
async def test_delays_of_an_apache_broker_are_delivered_by_ours(name: str, tmp_path: Path) -> None:
    """Claim: an Apache broker can be replaced by ours while messages wait: each of them comes, once.

    Experiment: open a store in which levels wait (5.3.3, killed 5.3.3, 4.9.7), whose times have come by now.
    Observe: the records behind the Apache broker's offsets, and no others, are put into their real topics and queues,
    with body, properties and born data as they were; the offsets then are the ends of the queues.
    """
    expected, root = stores()[name], unpack(name, tmp_path)
    pending = pending_of(root, expected)
    assert pending
    now = system_environment().clock
    async with broker(root, expected, "delay", now, timer_wheel_enable=False) as kernel:
        service, log = kernel.get(ScheduleMessageService), kernel.get(CommitLog)
        await eventually(lambda: sum(one.delivered + one.skipped for one in service.deliveries) >= len(pending), 20)
        new = records_of(log)[len(expected["commitlog"]["records"]) :]
        offsets = kernel.get(DelayOffsetManager).offsets()
    assert len(new) == len(pending)
    for waited in pending:
        (came,) = [record for record in new if decode_properties(record.properties) == waited["props"]]
        assert came.topic.decode() == waited["props"]["REAL_TOPIC"]
        assert came.queue_id == int(waited["props"]["REAL_QID"])
        for key, found in (
            ("crc", came.body_crc),
            ("flag", came.flag),
            ("bornTimestamp", came.born_timestamp),
            ("reconsumeTimes", came.reconsume_times),
        ):
            assert found == waited[key], key
    for queue_id, queue in expected["consumequeue"][SCHEDULE_TOPIC].items():
        if queue["units"]:
            assert offsets[int(queue_id) + 1] == queue["max"]
    async with broker(root, expected, "delay", now, timer_wheel_enable=False) as kernel:
        after = len(records_of(kernel.get(CommitLog)))
    assert after == len(expected["commitlog"]["records"]) + len(pending), "a restart delivers nothing again"


@pytest.mark.parametrize("name", DELAYED)
async def test_units_with_delivery_times_are_made_again_as_apache_made_them(name: str, tmp_path: Path) -> None:
    """Claim: the times in the units follow from the log, and are those of RocketMQ, byte for byte.

    Experiment: throw the queues of an Apache store away, extensions included, and start ours as a slave, which delivers
    nothing.
    Observe: the files of the schedule topic are the same.
    """
    expected, root = stores()[name], unpack(name, tmp_path)
    before = snapshot(root)
    for folder in ("consumequeue", "consumequeue_ext", "index"):
        shutil.rmtree(root / folder, ignore_errors=True)
    config, store_config = BrokerConfig(listen_port=0), MessageStoreConfig()
    settings = {key: Setting(value, "expected.json") for key, value in expected["brokerConfig"].items()}
    apply_properties(settings, config, store_config, lenient=True)
    config.listen_port, config.namesrv_addr = 0, ""
    store_config.store_path_root_dir, store_config.broker_role = str(root), BrokerRole.SLAVE
    kernel = build_broker(config, store_config, system_environment(), "delay")
    await kernel.start()
    await kernel.stop()
    after = snapshot(root)
    checked = 0
    for path, data in before.items():
        if f"/{SCHEDULE_TOPIC}/" in f"/{path}" and data.strip(b"\0"):
            used = -(-len(data.rstrip(b"\0")) // UNIT_SIZE) * UNIT_SIZE
            assert after[path][:used] == data[:used], path
            checked += 1
    assert checked
