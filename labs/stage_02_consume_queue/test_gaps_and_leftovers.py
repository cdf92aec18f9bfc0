"""Queues that are not as they should be: gaps, leftovers behind the end, holes far back, a late beginning."""

from __future__ import annotations

from pathlib import Path

import pytest

from labs.stage_02_consume_queue.store_lab import START_MS, StoreLab, snapshot, store_lab
from rocketmq_py.store.consume_queue import ConsumeQueue
from rocketmq_py.store.consume_queue_unit import FILLER, pack_units
from rocketmq_py.store.offset_search import BoundaryType

PATH = "consumequeue/TopicTest/3/" + "0" * 20


async def with_a_gap(lab: StoreLab) -> ConsumeQueue:
    """Messages 0 to 3, no units for 4 to 8, and the messages that follow from 9 on; ten milliseconds between them."""
    for number in range(6):
        lab.clock.now = START_MS + 10 * number
        await lab.write([f"m{number}"])
    queue = lab.queue()
    places = [queue.unit(number) for number in range(6)]
    queue.keep(4)
    for number in (4, 5):
        queue.append(number + 5, *([value] for value in places[number]))
    assert [queue.unit(number) for number in (3, 9, 10)] == places[3:]
    assert queue.read(4, 5) == FILLER * 5
    return queue


@pytest.mark.parametrize("kept", range(6))
async def test_messages_before_a_gap_do_not_vanish_with_it(tmp_path: Path, kept: int) -> None:
    """The first unit whose record the log has is found, whether it lies before the gap or behind it."""
    async with store_lab(tmp_path, mapped_file_size_consume_queue=400) as lab:
        queue = await with_a_gap(lab)
        numbers = [0, 1, 2, 3, 9, 10]
        queue.correct_min(queue.unit(numbers[kept])[0])
        assert queue.min_offset == numbers[kept]


@pytest.mark.parametrize("cut", range(6))
async def test_a_cut_takes_units_before_a_gap_as_well(tmp_path: Path, cut: int) -> None:
    """A unit that stayed would lead its reader to whatever record comes into that place."""
    async with store_lab(tmp_path, mapped_file_size_consume_queue=400) as lab:
        queue = await with_a_gap(lab)
        numbers = [0, 1, 2, 3, 9, 10]
        place = queue.unit(numbers[cut])[0]
        queue.truncate(place)
        left = [queue.unit(number) for number in range(queue.max_offset)]
        assert len(left) == numbers[cut]
        assert [number for number, unit in enumerate(left) if unit[1] < 1_000] == numbers[:cut]


@pytest.mark.parametrize("number", range(6))
async def test_a_search_by_time_finds_messages_before_a_gap(tmp_path: Path, number: int) -> None:
    async with store_lab(tmp_path, mapped_file_size_consume_queue=400) as lab:
        await with_a_gap(lab)
        numbers = [0, 1, 2, 3, 9, 10]
        stamp = START_MS + 10 * number
        lower = await lab.store.offset_by_time("TopicTest", 3, stamp)
        assert lab.read(lower)[0] == f"m{number}"
        assert lower == numbers[number]
        for late in (0, 9):
            assert await lab.store.offset_by_time("TopicTest", 3, stamp + late, BoundaryType.UPPER) == lower


async def test_what_lies_behind_the_last_unit_is_no_unit_of_later(tmp_path: Path) -> None:
    """Left over by a crash: an empty unit, then one that looks right. Writing up to it must not bring it back."""
    async with store_lab(tmp_path) as lab:
        await lab.write([f"m{number}" for number in range(5)])
        end = lab.queue().max_physical_offset
    before = snapshot(tmp_path / "consumequeue")
    data = bytearray((tmp_path / PATH).read_bytes())
    data[6 * 20 : 7 * 20] = pack_units([end + 10_000], [100], [0])
    (tmp_path / PATH).write_bytes(data)
    async with store_lab(tmp_path) as lab:
        assert lab.queue().max_offset == 5
    assert snapshot(tmp_path / "consumequeue") == before


@pytest.mark.parametrize("start", [200, 400, 800])
async def test_a_file_lost_far_from_the_end_is_made_again(tmp_path: Path, start: int) -> None:
    """Only the last three files are checked unit by unit, but a hole shows in the names of the files."""
    async with store_lab(tmp_path) as lab:
        await lab.write([f"m{number}" for number in range(65)])
    before = snapshot(tmp_path / "consumequeue")
    assert len(before) == 7
    (tmp_path / "consumequeue/TopicTest/3" / f"{start:020}").unlink()
    async with store_lab(tmp_path) as lab:
        assert (lab.queue().min_offset, lab.queue().max_offset) == (0, 65)
        assert lab.read_all() == [f"m{number}" for number in range(65)]
    assert snapshot(tmp_path / "consumequeue") == before


async def test_a_queue_that_begins_inside_a_file_has_its_units_at_their_places(tmp_path: Path) -> None:
    """Unit 23 is the first: byte 60 of the file that begins at 400, behind three fillers, before a restart and after."""
    async with store_lab(tmp_path) as lab:
        await lab.write(["elsewhere"], topic="Other")
        end = lab.log.max_offset
        queue = lab.queues.get("TopicTest", 3)
        queue.append(23, [end - 90, end - 60, end - 30], [30, 30, 30], [1, 2, 3])
        lab.queues.flush.note(queue)
        assert (queue.first, queue.min_offset, queue.max_offset) == (20, 23, 26)
        await lab.queues.flush.write_all()
        assert [queue.unit(number) for number in (23, 25)] == [(end - 90, 30, 1), (end - 30, 30, 3)]
        data = (tmp_path / "consumequeue/TopicTest/3" / f"{400:020}").read_bytes()
        assert data[:60] == FILLER * 3
        assert data[60:120] == pack_units([end - 90, end - 60, end - 30], [30, 30, 30], [1, 2, 3])
        again = ConsumeQueue("TopicTest", 3, queue.files)
        again.load()
        assert (again.first, again.max_offset, again.unit(25)) == (20, 26, queue.unit(25))


async def test_a_number_that_is_more_than_a_file_ahead_begins_the_queue_anew(tmp_path: Path) -> None:
    """A gap of a file and less is filled; more would be fillers without end, so the queue begins at the number."""
    async with store_lab(tmp_path) as lab:
        await lab.write(["a", "b"])
        queue = lab.queue()
        end = queue.max_physical_offset
        queue.append(12, [end], [100], [0])
        assert (queue.min_offset, queue.max_offset) == (0, 13)
        queue.append(24, [end + 100], [100], [0])
        assert (queue.min_offset, queue.max_offset) == (24, 25)
        assert queue.unit(24) == (end + 100, 100, 0)
        assert queue.unit(12) is None
