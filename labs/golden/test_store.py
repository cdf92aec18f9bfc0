"""Every store that Apache RocketMQ 5.3.3 and 4.9.7 left behind is opened by our broker, served, and compared.

`labs/golden/data/store.tar.xz` holds the directories as brokers left them when they were stopped or killed, each with
what Apache's own classes read from it (`expected.json`).
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import tarfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.assembly.stages import build_broker
from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.common.config import Setting, apply_properties
from rocketmq_py.common.environment import Clock, system_environment
from rocketmq_py.common.host import decode_host
from rocketmq_py.common.message_id import create_offset_id
from rocketmq_py.common.properties import decode_properties
from rocketmq_py.common.record import MAGIC_V1, Record, RecordState, decode_records
from rocketmq_py.store.batch_consume_queue import BatchConsumeQueue
from rocketmq_py.store.checkpoint import StoreCheckpoint
from rocketmq_py.store.config import MessageStoreConfig
from rocketmq_py.store.consume_queue_ext import ConsumeQueueExtStore, is_address
from rocketmq_py.store.index_service import IndexService
from rocketmq_py.store.message_store import MessageStore
from rocketmq_py.store.recovery import Recovery
from rocketmq_py.store.verify import verify_store

ARCHIVE = Path(__file__).parent / "data/store.tar.xz"
#: A query that looks at everything.
ALWAYS = (0, 1 << 62)


@functools.cache
def stores() -> dict[str, dict[str, Any]]:
    """Return what is expected of each store."""
    found = {}
    with tarfile.open(ARCHIVE) as archive:
        for member in archive:
            if member.name.endswith("/expected.json"):
                file = archive.extractfile(member)
                assert file is not None
                found[member.name.split("/")[-2]] = json.load(file)
    return found


NAMES = sorted(stores())
CLEAN = [name for name in NAMES if not stores()[name]["abort"]]


def unpack(name: str, folder: Path) -> Path:
    """Put a copy of one store on the disk and return its directory."""
    with tarfile.open(ARCHIVE) as archive:
        members = [member for member in archive if f"/{name}/store/" in f"/{member.name}"]
        archive.extractall(folder, members=members, filter="data")
    (root,) = folder.rglob(f"{name}/store")
    now = time.time()
    for path in root.rglob("*"):
        # Retention goes by the age of files, and these are old.
        os.utime(path, (now, now))
    return root


class ClockOfThen:
    """Stands where the recorded broker's clock stood in the end: what waits in its store for a time is not due yet."""

    def __init__(self, expected: dict[str, Any]) -> None:
        stamps = [row["storeTimestamp"] for row in expected["commitlog"]["records"]]
        timers = expected.get("timer") or {}
        self._now = max(
            *stamps, *expected["checkpoint"].values(), timers.get("timercheck", {}).get("lastReadTimeMs", 0)
        )

    def wall_ms(self) -> int:
        return self._now


@asynccontextmanager
async def broker(
    root: Path, expected: dict[str, Any], through: str = "order", clock: Clock | None = None, **changes: Any
) -> AsyncIterator[Kernel]:
    """Run our broker on a store, with the sizes that it was written with.

    By default without the stages that store messages by themselves, and at the time at which the store was left.
    """
    config, store_config = BrokerConfig(), MessageStoreConfig()
    settings = {key: Setting(value, "expected.json") for key, value in expected["brokerConfig"].items()}
    apply_properties(settings, config, store_config, lenient=True)
    config.listen_port, config.namesrv_addr = 0, ""
    store_config.store_path_root_dir = str(root)
    for name, value in changes.items():
        setattr(store_config, name, value)
    environment = replace(system_environment(), clock=clock or ClockOfThen(expected))
    kernel = build_broker(config, store_config, environment, through)
    await kernel.start()
    try:
        yield kernel
    finally:
        await kernel.stop()


def described(record: Record) -> dict[str, Any]:
    """Return a record in the words of `expected.json`."""
    born, store = decode_host(record.born_host), decode_host(record.store_host)
    return {
        "offset": record.physical_offset,
        "size": record.total_size,
        "magic": "V1" if record.magic == MAGIC_V1 else "V2",
        "topic": record.topic.decode(),
        "queueId": record.queue_id,
        "queueOffset": record.queue_offset,
        "crc": record.body_crc,
        "flag": record.flag,
        "sysFlag": record.sys_flag,
        "bornTimestamp": record.born_timestamp,
        "bornPort": int(born.rpartition(":")[2]),
        "storeTimestamp": record.store_timestamp,
        "storePort": int(store.rpartition(":")[2]),
        "reconsumeTimes": record.reconsume_times,
        "preparedTransactionOffset": record.prepared_transaction_offset,
        "offsetMsgId": create_offset_id(record.store_host, record.physical_offset),
        "storedBodyLen": len(record.body),
        "storedBodySha256": hashlib.sha256(record.body).hexdigest(),
        "props": decode_properties(record.properties),
    }


def units_of(kernel: Kernel, topic: str, queue_id: int) -> list[list[Any]]:
    """Return the units of a queue in the words of `expected.json`."""
    queue = kernel.get(MessageStore).queues.find_any(topic, queue_id)
    assert queue is not None, f"there is no queue {topic}-{queue_id}"
    if isinstance(queue, BatchConsumeQueue):
        batches = [queue.unit(number) for number in range(queue.first, queue.end)]
        return [
            [unit.base, unit.physical_offset, unit.size, unit.tags_code, unit.batch_size] for unit in batches if unit
        ]
    rows: list[list[Any]] = []
    for number in range(queue.min_offset, queue.max_offset):
        unit = queue.unit(number)
        assert unit is not None
        rows.append([number, *unit])
        if is_address(unit[2]) and kernel.has(ConsumeQueueExtStore):
            extension = kernel.get(ConsumeQueueExtStore).read(topic, queue_id, unit[2])
            assert extension is not None
            rows[-1][3] = extension.tags_code
            rows[-1].append([extension.tags_code, extension.store_timestamp, extension.bit_map.hex()])
    return rows


@pytest.mark.parametrize("name", NAMES)
async def test_a_store_of_apache_is_opened_and_holds_what_apache_reads_from_it(name: str, tmp_path: Path) -> None:
    """Records, ends of the log, queues, index and checkpoint are what RocketMQ's own classes found."""
    expected, root = stores()[name], unpack(name, tmp_path)
    async with broker(root, expected) as kernel:
        store = kernel.get(MessageStore)
        log = store.commit_log
        assert kernel.get(Recovery).report.was_clean == (not expected["abort"])

        scanned = [(offset, check) for offset, check in log.scan(log.min_offset) if check.size]
        blanks = [[offset, check.size] for offset, check in scanned if check.state is RecordState.BLANK]
        records = [described(check.record) for _, check in scanned if check.record is not None]
        assert len(records) == len(expected["commitlog"]["records"])
        for found, wanted in zip(records, expected["commitlog"]["records"], strict=True):
            assert found == {key: wanted[key] for key in found}
        assert blanks == expected["commitlog"]["blanks"]

        after = expected["afterRecovery"]
        assert (log.min_offset, log.max_offset) == (after["minPhyOffset"], after["maxPhyOffset"])
        _check_queues(kernel, expected)
        await _check_index(kernel, expected)


def _check_queues(kernel: Kernel, expected: dict[str, Any]) -> None:
    store = kernel.get(MessageStore)
    for topic, queues in expected["consumequeue"].items():
        for queue_id, wanted in queues.items():
            if not wanted["units"] and store.queues.find_any(topic, int(queue_id)) is None:
                continue
            # The recorder of 4.9 wrote the address of an extension, that of 5.3 the tags code in it.
            units = [row[:3] + row[4][:1] + row[4:] if is_address(row[3]) else row for row in wanted["units"]]
            assert units_of(kernel, topic, int(queue_id)) == units, f"{topic}-{queue_id}"
            assert store.min_offset(topic, int(queue_id)) == max(wanted["min"], 0)
            assert store.max_offset(topic, int(queue_id)) == wanted["max"]


async def _check_index(kernel: Kernel, expected: dict[str, Any]) -> None:
    index = kernel.get(IndexService)
    queries: dict[str, set[int]] = {}
    for file in expected["index"]:
        for text, offsets in file["queries"].items():
            queries.setdefault(text, set()).update(offsets)
    assert queries
    for text, offsets in queries.items():
        topic, _, key = text.partition("#")
        result = await index.query_offset(topic, key, 64, *ALWAYS)
        assert set(result.offsets) >= offsets, text


@pytest.mark.parametrize("name", NAMES)
async def test_a_store_of_apache_is_served_to_consumers(name: str, tmp_path: Path) -> None:
    """Every queue is read from its first message to its last, as a pull does, and goes on with the next message."""
    expected, root = stores()[name], unpack(name, tmp_path)
    by_offset = {row["offset"]: row for row in expected["commitlog"]["records"]}
    async with broker(root, expected) as kernel:
        store = kernel.get(MessageStore)
        for topic, queues in expected["consumequeue"].items():
            for queue_id, wanted in queues.items():
                offset, served = max(wanted["min"], 0), []
                while offset < wanted["max"]:
                    result = await store.get_message_cold(topic, int(queue_id), offset, 32)
                    served += [message.commit_log_offset for message in decode_records(result.records)]
                    for message in decode_records(result.records):
                        digest = hashlib.sha256(message.body).hexdigest()
                        assert digest == by_offset[message.commit_log_offset]["storedBodySha256"]
                    assert result.next_begin_offset > offset
                    offset = result.next_begin_offset
                assert served == [unit[1] for unit in wanted["units"]], f"{topic}-{queue_id}"
                slot = store.slots.find(topic, int(queue_id))
                assert (slot.next_offset if slot is not None else 0) == wanted["max"]


@pytest.mark.parametrize("name", CLEAN)
async def test_opening_and_closing_a_clean_store_changes_none_of_its_data(name: str, tmp_path: Path) -> None:
    """After a start and a stop the files of log, queues and index are those that Apache wrote, byte for byte."""
    expected, root = stores()[name], unpack(name, tmp_path)
    async with broker(root, expected):
        pass
    checked = 0
    for file in expected["files"]:
        if file["path"].split("/")[0] in (
            "commitlog",
            "consumequeue",
            "consumequeue_ext",
            "batchconsumequeue",
            "index",
        ):
            data = (root / file["path"]).read_bytes()
            assert hashlib.sha256(data).hexdigest() == file["sha256"], file["path"]
            checked += 1
    assert checked > 3
    assert not (root / "abort").exists()


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_of_apache_is_read(name: str, tmp_path: Path) -> None:
    """All five values of a checkpoint are RocketMQ's."""
    expected, root = stores()[name]["checkpoint"], unpack(name, tmp_path)
    checkpoint = StoreCheckpoint(system_environment().files, str(root))
    checkpoint.load(now_ms=1 << 62)
    assert {
        "physicMsgTimestamp": checkpoint.physic_msg_timestamp,
        "logicsMsgTimestamp": checkpoint.logics_msg_timestamp,
        "indexMsgTimestamp": checkpoint.index_msg_timestamp,
        "masterFlushedOffset": checkpoint.master_flushed_offset,
        "confirmPhyOffset": checkpoint.confirm_physical_offset,
    } == expected


@pytest.mark.parametrize("name", NAMES)
def test_a_store_of_apache_is_found_sound(name: str, tmp_path: Path) -> None:
    """`store verify` reads every file of it and has nothing to complain about, also before any broker has opened it."""
    root = unpack(name, tmp_path)
    report = verify_store(system_environment(), str(root))
    assert report.problems == []
    assert report.counts["records"] == len(stores()[name]["commitlog"]["records"])
