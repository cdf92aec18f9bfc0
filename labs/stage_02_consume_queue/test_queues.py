"""Consume queues: twenty bytes a message, made from the log, and made again when they are lost."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import struct
from pathlib import Path

import pytest

from labs.stage_02_consume_queue.store_lab import UNITS_PER_FILE, draft, snapshot, store_lab
from rocketmq_py.common.java import string_hash
from rocketmq_py.store.columns import Columns
from rocketmq_py.store.consume_queue_unit import FILLER, UNIT_LAYOUT, pack_units, unpack_units, valid_prefix

TAGGED = b"TAGS\x01paid\x02"


@pytest.mark.claim("cq-01")
async def test_a_unit_has_twenty_bytes_that_say_where_how_long_and_which_tag(tmp_path: Path) -> None:
    """Claim: a consume queue entry has 20 bytes: 8 commit log offset, 4 message size, 8 tag hash code.

    Experiment: two messages with a tag; read the queue's file with nothing but `struct`.
    Observe: 20 bytes each; the offset and size are those of the records, the code is Java's hash of the tag.
    """
    async with store_lab(tmp_path) as lab:
        results = await lab.put(draft("one", properties=TAGGED), draft("second", properties=TAGGED))
        places = [result.wrote_offset for result in results]
        sizes = [places[1] - places[0], lab.log.max_offset - places[1]]
    data = (tmp_path / "consumequeue/TopicTest/3" / ("0" * 20)).read_bytes()
    assert UNIT_LAYOUT.size == 20
    assert struct.unpack(">qiq", data[:20]) == (places[0], sizes[0], string_hash("paid"))
    assert struct.unpack(">qiq", data[20:40]) == (places[1], sizes[1], string_hash("paid"))
    assert not any(data[40:])
    assert string_hash("paid") == 3433164


@pytest.mark.claim("cq-02")
@pytest.mark.claim("cq-03")
async def test_a_queue_is_an_array_in_files_named_after_their_first_byte(tmp_path: Path) -> None:
    """Claim: a file holds 300,000 entries by default and is read like an array: entry i lies at byte 20 * i; files are
    consumequeue/topic/queueId/file, named after the byte offset of their first entry.

    Experiment: the default size; then files of ten units, and 25 messages.
    Observe: 6,000,000 bytes; three files 0, 200 and 400; unit 17 is at byte 340, which is byte 140 of the second.
    """
    async with store_lab(tmp_path / "default", start=False, mapped_file_size_consume_queue=300_000 * 20) as lab:
        assert lab.kernel.store_config.mapped_file_size_consume_queue == 6_000_000
    async with store_lab(tmp_path) as lab:
        await lab.write([f"m{number}" for number in range(25)])
        sizes = [lab.queue().unit(number) for number in range(25)]
    folder = tmp_path / "consumequeue/TopicTest/3"
    assert sorted(os.listdir(folder)) == [f"{start:020}" for start in (0, 200, 400)]
    assert [path.stat().st_size for path in sorted(folder.iterdir())] == [20 * UNITS_PER_FILE] * 3
    second = (folder / f"{200:020}").read_bytes()
    assert struct.unpack(">qiq", second[140:160]) == sizes[17]


@pytest.mark.claim("cq-04")
async def test_lost_queues_are_made_again_byte_for_byte(tmp_path: Path) -> None:
    """Claim: entries are built from the commit log; lose the consume queue folder and it is rebuilt, byte for byte.

    Experiment: messages with and without tags in three queues; stop; delete the folder `consumequeue`; start and stop.
    Observe: every file is back, equal to what it was; the next message goes on with the next queue offset.
    """
    async with store_lab(tmp_path) as lab:
        for number in range(40):
            await lab.put(draft(f"m{number}", queue_id=number % 3, properties=TAGGED if number % 2 else b""))
    before = snapshot(tmp_path / "consumequeue")
    assert len(before) == 6
    shutil.rmtree(tmp_path / "consumequeue")

    async with store_lab(tmp_path) as lab:
        assert lab.read_all(queue_id=1, start=5) == [f"m{number}" for number in range(16, 40, 3)]
    assert snapshot(tmp_path / "consumequeue") == before
    async with store_lab(tmp_path) as lab:
        result = (await lab.put(draft("next", queue_id=0)))[0]
        assert result.queue_offset == 14


async def test_a_damaged_queue_is_cut_and_made_again(tmp_path: Path) -> None:
    """A unit that cannot be one ends the queue; what follows comes from the log again."""
    async with store_lab(tmp_path) as lab:
        await lab.write([f"m{number}" for number in range(25)])
    path = tmp_path / "consumequeue/TopicTest/3" / f"{200:020}"
    data = bytearray(path.read_bytes())
    data[60:80] = b"\xff" * 20
    before = snapshot(tmp_path / "consumequeue")
    path.write_bytes(data)
    async with store_lab(tmp_path) as lab:
        assert lab.read_all() == [f"m{number}" for number in range(25)]
    assert snapshot(tmp_path / "consumequeue") == before


async def test_a_record_that_is_dispatched_twice_shows_up_once(tmp_path: Path) -> None:
    """Recovery reads from a place that is certainly early enough, so dispatch must not mind a repetition."""
    async with store_lab(tmp_path) as lab:
        seen: list[Columns] = []
        lab.kernel.get(type(lab.dispatchers)).listeners.append(Recorder(lab.dispatchers, seen))
        await lab.write(["a", "b", "c"])
        for columns in seen:
            lab.dispatchers.dispatch(columns, quietly=True)
        assert lab.queue().max_offset == 3
        lab.queue().append(0, *zip(lab.queue().unit(0), strict=True))
        assert lab.queue().max_offset == 3, "the first record alone, as when recovery is cut short, is no new beginning"
        assert lab.read(0) == ["a", "b", "c"]


class Recorder:
    """Keeps what was dispatched; an arrival listener is told of it last."""

    def __init__(self, dispatchers, seen: list[Columns]) -> None:
        self._seen = seen
        original = dispatchers.dispatch

        def dispatch(columns: Columns, *, quietly: bool = False) -> None:
            if not quietly:
                seen.append(columns)
            original(columns, quietly=quietly)

        dispatchers.dispatch = dispatch

    def arrived(self, arrivals) -> None:
        pass

    def wake_all(self) -> None:
        pass


@pytest.mark.claim("cq-05")
@pytest.mark.parametrize(("topics", "pieces"), [(1, 1), (1_000, 32)])
async def test_reads_are_contiguous_with_one_topic_and_scattered_with_a_thousand(
    tmp_path: Path, topics: int, pieces: int
) -> None:
    """Claim: the log is written sequentially, but messages are read at random through the queue.

    Experiment: 32 messages in each queue, of one topic and of a thousand, sent in turn; read one queue.
    Observe: the records of the only queue are one piece of the log; those of one of a thousand are 32 pieces, each as
        far from the next as a thousand records are long. All of them come from the page cache here: what was written a
        moment ago is in memory, and that is what makes it affordable.
    """
    async with store_lab(tmp_path, mapped_file_size_commit_log=16 << 20, mapped_file_size_consume_queue=640) as lab:
        for number in range(32):
            await lab.put(*(draft(f"{number}", topic=f"t{topic}", queue_id=0) for topic in range(topics)))
        result = lab.store.get_message("t0", 0, 0, 32)
        assert result is not None, "what was just written is in memory"
        assert result.message_count == 32
        assert len(result.buffers) == pieces
        units = [lab.queue("t0", 0).unit(number) for number in range(32)]
        distances = {two[0] - one[0] - one[1] for one, two in itertools.pairwise(units)}
        assert (max(distances) == 0) is (topics == 1)


def open_descriptors() -> int:
    """Return how many descriptors this process has open; 0 where the system does not tell."""
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.is_dir() else 0


@pytest.mark.claim("cq-06")
async def test_fifty_thousand_queues_are_only_small_tails(tmp_path: Path) -> None:
    """Claim: tens of thousands of queues on one broker leave writing nearly unchanged, as queues are only index files.

    Experiment: one message to each of 50,000 queues. Count what a message costs that depends on the number of queues:
        descriptors, appends to the log, and writes of queue files while messages are put.
    Observe: no descriptor more, as many appends as turns, and no queue file written by the turns themselves: tails wait
        in memory for the background, whose steps are bounded. (The throughput as a ratio is in `loadtests/bench`.)
    """
    descriptors = open_descriptors()
    async with store_lab(tmp_path, mapped_file_size_commit_log=64 << 20, flush_interval_consume_queue=3_600_000) as lab:
        appends = 0
        append = lab.log.append

        def count(data: bytes) -> None:
            nonlocal appends
            appends += 1
            append(data)

        lab.log.append = count
        for start in range(0, 50_000, 500):
            await lab.put(*(draft("x", topic=f"t{n % 50}", queue_id=n // 50) for n in range(start, start + 500)))
        assert appends == 100
        assert len(lab.queues) == 50_000
        assert lab.queues.flush.steps == 0
        assert not (tmp_path / "consumequeue").exists() or not any((tmp_path / "consumequeue").iterdir())
        # The log's two files and what the store itself keeps; nothing for each queue.
        assert open_descriptors() < descriptors + 20
        assert lab.read(0, topic="t49", queue_id=999) == ["x"]
        due = lab.queues.flush.select_due(asyncio.get_running_loop().time() + 3_600)
        assert len(due) == 200, "a step of the background is bounded, whatever waits"
        # Nobody needs a million files of a lab.
        lab.queues.flush._dirty.clear()


@pytest.mark.claim("cq-09")
async def test_messages_of_one_queue_are_read_in_the_order_of_their_append(tmp_path: Path) -> None:
    """Claim: messages of one queue are consumed in the order in which they were appended.

    Experiment: 100 messages to two queues, several in a turn, with interleaved topics; read each queue from its start.
    Observe: ascending numbers, ascending places in the log; the other queue's messages lie between them.
    """
    async with store_lab(tmp_path) as lab:
        for start in range(0, 100, 7):
            await lab.put(*(draft(f"{n}", topic="ab"[n % 2], queue_id=0) for n in range(start, min(start + 7, 100))))
        for topic, first in (("a", 0), ("b", 1)):
            assert [int(body) for body in lab.read_all(topic, 0)] == list(range(first, 100, 2))
            places = [lab.queue(topic, 0).unit(number)[0] for number in range(50)]
            assert places == sorted(places)


async def test_units_survive_a_stop_and_the_counter_goes_on(tmp_path: Path) -> None:
    async with store_lab(tmp_path) as lab:
        await lab.write(["a", "b"])
    async with store_lab(tmp_path) as lab:
        assert lab.queue().max_offset == 2
        await lab.write(["c"])
        assert lab.read(0) == ["a", "b", "c"]
        assert lab.read(2) == ["c"]


async def test_cutting_the_log_cuts_the_queues(tmp_path: Path) -> None:
    """Units of records behind a place go; the ones before stay, in files and in the tail alike."""
    async with store_lab(tmp_path) as lab:
        await lab.write([f"m{number}" for number in range(25)])
        await lab.queues.flush.write_all()
        await lab.write(["tail 1", "tail 2"])
        queue = lab.queue()
        queue.truncate(queue.unit(12)[0])
        assert queue.max_offset == 12
        assert queue.max_physical_offset == sum(queue.unit(11)[:2])
        assert lab.read(10) == ["m10", "m11"]


async def test_a_gap_is_filled_and_skipped(tmp_path: Path) -> None:
    """A queue that lost units, as after damage of the log, keeps every later message at its own offset."""
    async with store_lab(tmp_path) as lab:
        await lab.write(["a", "b"])
        queue = lab.queue()
        end = queue.max_physical_offset
        queue.append(5, [end], [100], [0])
        assert queue.max_offset == 6
        assert queue.unit(3) == (0, 2_147_483_647, 0)
        assert queue.unit(5) == (end, 100, 0)


async def test_a_queue_that_was_deleted_begins_anew(tmp_path: Path) -> None:
    async with store_lab(tmp_path) as lab:
        await lab.write(["old 1", "old 2"])
        end = lab.queue().max_physical_offset
        lab.queue().append(0, [end], [50], [9])
        assert lab.queue().max_offset == 1
        assert lab.queue().unit(0) == (end, 50, 9)


def test_units_are_packed_in_columns_and_judged() -> None:
    """Packing and unpacking are inverse; a prefix is valid as long as sizes are positive and places ascend."""
    data = pack_units([0, 100, 250], [100, 150, 50], [-1, 2, 3])
    assert unpack_units(data) == ((0, 100, 250), (100, 150, 50), (-1, 2, 3))
    assert valid_prefix(data + b"\0" * 20) == (3, 300)
    assert valid_prefix(FILLER + data) == (4, 300)
    assert valid_prefix(data + pack_units([10], [5], [0])) == (3, 300), "a place before the last one"
    assert valid_prefix(data + pack_units([300], [-1], [0])) == (3, 300)
    assert valid_prefix(b"") == (0, -1)
