"""The rarer answers of a read, full answers, and the queues that hold more or less than one message a unit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from labs.stage_02_consume_queue.store_lab import START_MS, LabClock, StoreLab, draft, snapshot, store_lab
from rocketmq_py.common import sys_flag as flags
from rocketmq_py.common.properties import encode_properties
from rocketmq_py.common.record import decode_records
from rocketmq_py.store.batch_consume_queue import BATCH_UNIT_LAYOUT, BATCH_UNIT_SIZE
from rocketmq_py.store.config import BrokerRole
from rocketmq_py.store.consume_queue_unit import FILLER, pack_units
from rocketmq_py.store.get_message import GetMessageResult, GetMessageStatus, MessageReader
from rocketmq_py.store.offset_search import BoundaryType


def get(lab: StoreLab, offset: int, count: int = 32, topic: str = "TopicTest", queue_id: int = 3) -> GetMessageResult:
    result = lab.store.get_message(topic, queue_id, offset, count)
    assert result is not None, "the store calls bytes cold that were just written"
    return result


async def test_units_whose_file_is_gone_are_passed_over_to_the_next_file(tmp_path: Path) -> None:
    """OFFSET_FOUND_NULL: the offset is inside the queue and nothing is there; the next file begins at unit 20."""
    async with store_lab(tmp_path) as lab:
        await lab.write([f"m{number}" for number in range(25)])
        await lab.queues.flush.write_all()
        (tmp_path / "consumequeue/TopicTest/3" / f"{200:020}").unlink()
        result = get(lab, 13)
        assert (result.status, result.next_begin_offset) == (GetMessageStatus.OFFSET_FOUND_NULL, 20)
        assert (result.min_offset, result.max_offset, result.message_count) == (0, 25, 0)
        assert lab.read(result.next_begin_offset) == [f"m{number}" for number in range(20, 25)]
        cold = await lab.store.get_message_cold("TopicTest", 3, 13, 32)
        assert cold.status is GetMessageStatus.OFFSET_FOUND_NULL
    async with store_lab(tmp_path) as lab:
        assert lab.read_all() == [f"m{number}" for number in range(25)], "the next start makes the file again"


async def test_units_whose_records_are_gone_are_passed_over(tmp_path: Path) -> None:
    """MESSAGE_WAS_REMOVING: units are there, their log file is not; the reader goes on behind them at once."""
    async with store_lab(tmp_path, mapped_file_size_commit_log=4_096) as lab:
        await lab.write([f"{number}" * 700 for number in range(9)])
        queue = lab.queue()
        kept = next(number for number in range(9) if queue.unit(number)[0] >= 4_096)
        lab.log.files.remove_first().destroy()
        result = get(lab, 0)
        assert result.status is GetMessageStatus.FOUND, "what follows is found by the same read"
        assert [body[0] for body in lab.read(0)] == [str(number) for number in range(kept, 9)]
        for _ in range(9 - kept):
            await lab.write(["x" * 700])
        while lab.log.files.min_offset < queue.unit(8)[0] - 4_096:
            lab.log.files.remove_first().destroy()
        only_old = lab.store.get_message("TopicTest", 3, 0, 32)
        assert only_old is not None
        assert only_old.status is GetMessageStatus.FOUND


async def test_a_read_that_meets_only_removed_records_says_so(tmp_path: Path) -> None:
    async with store_lab(tmp_path, mapped_file_size_commit_log=4_096) as lab:
        await lab.write([f"{number}" * 600 for number in range(3)])
        await lab.write(["y" * 600 for _ in range(6)], topic="Other")
        lab.log.files.remove_first().destroy()
        result = get(lab, 1)
        assert (result.status, result.next_begin_offset) == (GetMessageStatus.MESSAGE_WAS_REMOVING, 3)
        assert result.message_count == 0


async def test_fillers_and_holes_are_no_messages(tmp_path: Path) -> None:
    """A reader of a filled gap, or of zeros that somebody left in a file, is sent on; it never gets an empty record."""
    async with store_lab(tmp_path) as lab:
        await lab.write(["a"])
        queue = lab.queue()
        place = queue.unit(0)
        queue.tail += FILLER * 2 + bytes(40)
        result = get(lab, 1)
        assert (result.status, result.next_begin_offset) == (GetMessageStatus.MESSAGE_WAS_REMOVING, 5)
        queue.tail += pack_units([place[0]], [place[1]], [0])
        assert lab.read(1) == ["a"], "behind them it goes on"


@pytest.mark.parametrize(
    ("offset", "status"),
    [
        (9, GetMessageStatus.OFFSET_OVERFLOW_BADLY),
        (3, GetMessageStatus.OFFSET_OVERFLOW_ONE),
        (-4, GetMessageStatus.OFFSET_TOO_SMALL),
    ],
)
async def test_a_slave_corrects_no_offset_that_it_may_only_not_have_yet(
    tmp_path: Path, offset: int, status: GetMessageStatus
) -> None:
    """The status is the same, the next offset is the one that was asked for; `offsetCheckInSlave` changes that."""
    async with store_lab(tmp_path, broker_role=BrokerRole.ASYNC_MASTER) as lab:
        await lab.write(["a", "b", "c"])
        lab.store.config.broker_role = BrokerRole.SLAVE
        result = get(lab, offset)
        assert (result.status, result.next_begin_offset) == (status, offset)
        lab.store.config.offset_check_in_slave = True
        assert get(lab, offset).next_begin_offset == min(max(offset, 0), 3)
        lab.store.config.broker_role = BrokerRole.ASYNC_MASTER


async def test_an_answer_ends_at_what_is_cheap_to_send(tmp_path: Path) -> None:
    """32 messages and 256 KiB from memory; 8 and 64 KiB for a reader who is further behind than memory reaches."""
    async with store_lab(tmp_path, mapped_file_size_commit_log=4 << 20, mapped_file_size_consume_queue=2_000) as lab:
        await lab.write(["x" * 100 for _ in range(50)], queue_id=1)
        await lab.write(["x" * 10_000 for _ in range(50)], queue_id=2)
        assert get(lab, 0, 100, queue_id=1).message_count == 32
        assert get(lab, 0, 100, queue_id=2).message_count == 262_144 // 10_200
        # A machine with next to no memory: everything but the end of the log counts as on disk.
        lab.store._reader = MessageReader(lab.log, lab.queues, lab.store.config, 2_000)
        behind = get(lab, 0, 100, queue_id=1)
        assert behind.message_count == 8
        assert behind.is_slow
        assert get(lab, 0, 100, queue_id=2).message_count == 65_536 // 10_200
        assert not get(lab, 49, 1, queue_id=2).is_slow or lab.log.max_offset - lab.queue(queue_id=2).unit(49)[0] > 800


async def test_the_first_message_is_returned_whatever_its_size(tmp_path: Path) -> None:
    """Else its reader would ask for it for ever."""
    async with store_lab(tmp_path, mapped_file_size_commit_log=4 << 20) as lab:
        await lab.write(["x" * 1_000_000, "y"])
        assert get(lab, 0).message_count == 1
        assert get(lab, 0).next_begin_offset == 1


async def test_prepared_and_rolled_back_messages_are_in_no_queue(tmp_path: Path) -> None:
    async with store_lab(tmp_path) as lab:
        for body, flag, units in (
            ("plain", 0, 1),
            ("prepared", flags.TRANSACTION_PREPARED, 0),
            ("rolled back", flags.TRANSACTION_ROLLBACK, 0),
            ("committed", flags.TRANSACTION_COMMIT, 1),
        ):
            await lab.put(draft(body, sys_flag=flag, units=units))
        assert lab.read(0) == ["plain", "committed"]
    shutil.rmtree(tmp_path / "consumequeue")
    async with store_lab(tmp_path) as lab:
        assert lab.read(0) == ["plain", "committed"], "the same from the log"


# --- several messages in a record -------------------------------------------------------------------------------------


def batch(base: int, number: int) -> bytes:
    return encode_properties({"INNER_NUM": str(number), "INNER_BASE": str(base)})


async def write_batches(lab: StoreLab, clock: LabClock) -> None:
    """Three records: offsets 0-4, 5 and 6-8, a second apart."""
    lab.queues.is_batch_topic = {"Batches"}.__contains__
    base = 0
    for number in (5, 1, 3):
        await lab.put(
            draft(f"{number} from {base}", topic="Batches", queue_id=2, properties=batch(base, number), units=number)
        )
        clock.now += 1_000
        base += number


async def test_a_batch_queue_has_a_unit_for_each_record_and_an_offset_for_each_message(tmp_path: Path) -> None:
    """46 bytes that say base and number; a message in the middle of a batch is found through the batch."""
    clock = LabClock()
    async with store_lab(tmp_path, clock=clock) as lab:
        await write_batches(lab, clock)
        assert (lab.store.min_offset("Batches", 2), lab.store.max_offset("Batches", 2)) == (0, 9)
        for offset, body, following in ((0, "5 from 0", 9), (3, "5 from 0", 9), (5, "1 from 5", 9), (8, "3 from 6", 9)):
            result = get(lab, offset, topic="Batches", queue_id=2)
            assert next(decode_records(result.records)).body.decode() == body
            assert result.next_begin_offset == following
        small = get(lab, 0, 5, "Batches", 2)
        assert (small.message_count, small.next_begin_offset) == (5, 5), "batches are never cut"
        assert get(lab, 9, topic="Batches", queue_id=2).status is GetMessageStatus.OFFSET_OVERFLOW_ONE
    data = (tmp_path / "batchconsumequeue/Batches/2" / ("0" * 20)).read_bytes()
    rows = [BATCH_UNIT_LAYOUT.struct.unpack_from(data, at * BATCH_UNIT_SIZE)[3:] for at in range(3)]
    assert rows == [
        (START_MS, 0, 5, -1, 0),
        (START_MS + 1_000, 5, 1, -1, 0),
        (START_MS + 2_000, 6, 3, -1, 0),
    ]
    assert not any(data[3 * BATCH_UNIT_SIZE :])


async def test_a_batch_queue_is_opened_rebuilt_and_searched_by_time(tmp_path: Path) -> None:
    clock = LabClock()
    async with store_lab(tmp_path, clock=clock) as lab:
        await write_batches(lab, clock)
    before = snapshot(tmp_path / "batchconsumequeue")
    for _ in range(2):
        async with store_lab(tmp_path, clock=clock, start=False) as lab:
            lab.queues.is_batch_topic = {"Batches"}.__contains__
            await lab.kernel.start()
            assert lab.store.max_offset("Batches", 2) == 9
            for stamp, lower, upper in ((START_MS - 1, 0, 0), (START_MS + 1, 5, 0), (START_MS + 1_000, 5, 5)):
                assert await lab.store.offset_by_time("Batches", 2, stamp) == lower
                assert await lab.store.offset_by_time("Batches", 2, stamp, BoundaryType.UPPER) == upper
            assert lab.store.store_time("Batches", 2, 7) == START_MS + 2_000
        assert snapshot(tmp_path / "batchconsumequeue") == before
        shutil.rmtree(tmp_path / "batchconsumequeue")


async def test_one_record_is_in_several_light_queues(tmp_path: Path) -> None:
    """The record names them and their offsets, so that a rebuild puts it into the same places."""
    named = {"INNER_MULTI_DISPATCH": "%LMQ%alice,%LMQ%bob", "INNER_MULTI_QUEUE_OFFSET": "0,0"}
    later = {"INNER_MULTI_DISPATCH": "%LMQ%bob", "INNER_MULTI_QUEUE_OFFSET": "1"}
    broken = {"INNER_MULTI_DISPATCH": "%LMQ%bob,%LMQ%eve", "INNER_MULTI_QUEUE_OFFSET": "2"}
    async with store_lab(tmp_path, enable_multi_dispatch=True) as lab:
        for body, properties in (("both", named), ("bob only", later), ("nobody", broken)):
            await lab.put(draft(body, properties=encode_properties(properties)))
    before = snapshot(tmp_path / "consumequeue")
    for _ in range(2):
        async with store_lab(tmp_path, enable_multi_dispatch=True) as lab:
            assert lab.read(0) == ["both", "bob only", "nobody"]
            assert lab.read(0, topic="%LMQ%alice", queue_id=0) == ["both"]
            assert lab.read(0, topic="%LMQ%bob", queue_id=0) == ["both", "bob only"]
            assert lab.queues.find("%LMQ%eve", 0) is None
        assert snapshot(tmp_path / "consumequeue") == before
        shutil.rmtree(tmp_path / "consumequeue")


# --- what is left of a log --------------------------------------------------------------------------------------------


async def test_a_queue_whose_log_begins_late_begins_late_too(tmp_path: Path) -> None:
    """Old log files are deleted, the queues lost: unit n is still at byte 20 * n, behind fillers that nobody is shown."""
    async with store_lab(tmp_path, mapped_file_size_commit_log=4_096) as lab:
        for number in range(24):
            lab.clock.now = START_MS + 1_000 * number
            await lab.write([f"{number:03}" * 200])
        lost = 13
        first_kept = lab.queue().unit(lost)[0] // 4_096 * 4_096
        kept = next(number for number in range(24) if lab.queue().unit(number)[0] >= first_kept)
        expected = lab.read_all(start=kept)
    shutil.rmtree(tmp_path / "consumequeue")
    for path in (tmp_path / "commitlog").iterdir():
        if int(path.name) < first_kept:
            path.unlink()
    async with store_lab(tmp_path, mapped_file_size_commit_log=4_096) as lab:
        assert (lab.queue().min_offset, lab.queue().max_offset) == (kept, 24)
        assert lab.read_all(start=kept) == expected
        assert get(lab, 0).next_begin_offset == kept
        assert await lab.store.offset_by_time("TopicTest", 3, START_MS) == kept
        assert await lab.store.offset_by_time("TopicTest", 3, START_MS + 1_000 * (kept + 2)) == kept + 2
    data = (tmp_path / "consumequeue/TopicTest/3" / f"{kept // 10 * 200:020}").read_bytes()
    assert data[: kept % 10 * 20] == FILLER * (kept % 10)
    async with store_lab(tmp_path, mapped_file_size_commit_log=4_096) as lab:
        assert (lab.queue().min_offset, lab.queue().max_offset) == (kept, 24)


@pytest.mark.parametrize("start", [0, 200, 400])
async def test_any_file_of_a_queue_may_be_lost(tmp_path: Path, start: int) -> None:
    """The first, one in the middle or the last: the next start makes the queue again, byte for byte."""
    async with store_lab(tmp_path) as lab:
        await lab.write([f"m{number}" for number in range(25)])
        await lab.write(["untouched"], topic="Other")
    before = snapshot(tmp_path / "consumequeue")
    (tmp_path / "consumequeue/TopicTest/3" / f"{start:020}").unlink()
    async with store_lab(tmp_path) as lab:
        assert lab.read_all() == [f"m{number}" for number in range(25)]
        assert (lab.queue().min_offset, lab.queue().max_offset) == (0, 25)
    assert snapshot(tmp_path / "consumequeue") == before


async def test_a_file_that_somebody_cut_ends_with_its_last_whole_unit(tmp_path: Path) -> None:
    async with store_lab(tmp_path) as lab:
        await lab.write([f"m{number}" for number in range(25)])
        await lab.queues.flush.write_all()
        with (tmp_path / "consumequeue/TopicTest/3" / f"{0:020}").open("r+b") as file:
            file.truncate(50)
        result = get(lab, 0)
        assert (result.status, result.message_count, result.next_begin_offset) == (GetMessageStatus.FOUND, 2, 2)
        result = get(lab, 2)
        assert (result.status, result.next_begin_offset) == (GetMessageStatus.OFFSET_FOUND_NULL, 10)


async def test_what_lies_behind_the_last_unit_is_wiped_by_a_start(tmp_path: Path) -> None:
    """Else units of an earlier life would count as soon as new ones have reached them."""
    async with store_lab(tmp_path) as lab:
        await lab.write([f"m{number}" for number in range(5)])
    before = snapshot(tmp_path / "consumequeue")
    with (tmp_path / "consumequeue/TopicTest/3" / f"{0:020}").open("r+b") as file:
        file.seek(6 * 20)
        file.write(pack_units([90_000, 90_100], [100, 100], [7, 8]))
    async with store_lab(tmp_path) as lab:
        assert lab.queue().max_offset == 5
    assert snapshot(tmp_path / "consumequeue") == before
