"""Reading a queue: every status with its next offset, limits, filters, and offsets by time."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labs.stage_02_consume_queue.store_lab import START_MS, StoreLab, draft, store_lab
from rocketmq_py.common.java import string_hash
from rocketmq_py.store.get_message import GetMessageStatus
from rocketmq_py.store.offset_search import BoundaryType, find_by_time


class Tag:
    """Wants one tag."""

    def __init__(self, tag: str) -> None:
        self.code = string_hash(tag)
        self.records = 0

    def matches_entry(self, tags_code: int, extension: object | None) -> bool:
        return tags_code == self.code

    def matches_record(self, record: bytes | memoryview) -> bool:
        self.records += 1
        return True


@pytest.mark.parametrize(
    ("offset", "status", "following"),
    [
        (0, GetMessageStatus.FOUND, 5),
        (4, GetMessageStatus.FOUND, 5),
        (5, GetMessageStatus.OFFSET_OVERFLOW_ONE, 5),
        (6, GetMessageStatus.OFFSET_OVERFLOW_BADLY, 5),
        (1_000_000, GetMessageStatus.OFFSET_OVERFLOW_BADLY, 5),
        (-1, GetMessageStatus.OFFSET_TOO_SMALL, 0),
    ],
)
async def test_a_read_says_what_it_found_and_where_to_go_on(
    tmp_path: Path, offset: int, status: GetMessageStatus, following: int
) -> None:
    async with store_lab(tmp_path) as lab:
        await lab.write(["a", "b", "c", "d", "e"])
        result = lab.store.get_message("TopicTest", 3, offset, 32)
        assert result is not None
        assert (result.status, result.next_begin_offset) == (status, following)
        assert (result.min_offset, result.max_offset) == (0, 5)
        assert result.message_count == (5 - offset if status is GetMessageStatus.FOUND else 0)


async def test_a_queue_without_messages_says_so(tmp_path: Path) -> None:
    async with store_lab(tmp_path) as lab:
        result = lab.store.get_message("Nothing", 0, 7, 32)
        assert result is not None
        assert (result.status, result.next_begin_offset) == (GetMessageStatus.NO_MESSAGE_IN_QUEUE, 0)


async def test_what_a_filter_does_not_want_is_passed_over(tmp_path: Path) -> None:
    """The next offset lies behind everything that was looked at, so that nothing is looked at twice."""
    async with store_lab(tmp_path) as lab:
        for number in range(6):
            tag = b"TAGS\x01rare\x02" if number == 4 else b"TAGS\x01often\x02"
            await lab.put(draft(f"m{number}", properties=tag))
        wanted = Tag("rare")
        result = lab.store.get_message("TopicTest", 3, 0, 32, wanted)
        assert result is not None
        assert (result.status, result.message_count, result.next_begin_offset) == (GetMessageStatus.FOUND, 1, 6)
        assert wanted.records == 1, "only the record of a matching unit is read"
        nothing = lab.store.get_message("TopicTest", 3, 0, 32, Tag("never"))
        assert nothing is not None
        assert (nothing.status, nothing.next_begin_offset) == (GetMessageStatus.NO_MATCHED_MESSAGE, 6)


async def test_a_read_keeps_its_limits_but_returns_at_least_one(tmp_path: Path) -> None:
    async with store_lab(tmp_path, mapped_file_size_commit_log=1 << 20) as lab:
        await lab.write([b"x" * 1_000 for _ in range(20)])
        by_count = lab.store.get_message("TopicTest", 3, 3, 5)
        by_bytes = lab.store.get_message("TopicTest", 3, 3, 32, max_bytes=3_500)
        one = lab.store.get_message("TopicTest", 3, 3, 32, max_bytes=1)
        assert by_count is not None
        assert by_bytes is not None
        assert one is not None
        assert (by_count.message_count, by_count.next_begin_offset) == (5, 8)
        assert (by_bytes.message_count, by_bytes.next_begin_offset) == (3, 6)
        assert (one.message_count, one.next_begin_offset) == (1, 4)
        assert one.size == len(one.records)


async def test_messages_that_the_log_has_no_more_are_told_apart(tmp_path: Path) -> None:
    """The first file of the log is gone: reads before the first message that exists are sent there."""
    async with store_lab(tmp_path, mapped_file_size_commit_log=4_096) as lab:
        await lab.write([f"{number}" * 200 for number in range(9)])
        await lab.write(["x" * 1_000 for _ in range(9)])
        queue = lab.queue()
        queue.correct_min(4_096)
        assert 0 < queue.min_offset < 18
        result = lab.store.get_message("TopicTest", 3, 0, 32)
        assert result is not None
        assert (result.status, result.next_begin_offset) == (GetMessageStatus.OFFSET_TOO_SMALL, queue.min_offset)


async def with_times(lab: StoreLab, times: list[int]) -> None:
    for time in times:
        lab.clock.now = time
        await lab.put(draft(f"{time}"))


@pytest.mark.parametrize(
    ("timestamp", "lower", "upper"),
    [
        (START_MS - 1, 0, 0),
        (START_MS, 0, 0),
        (START_MS + 1, 1, 0),
        (START_MS + 10, 1, 3),
        (START_MS + 11, 4, 3),
        (START_MS + 20, 4, 4),
        (START_MS + 21, 5, 4),
    ],
)
async def test_the_offset_of_a_time_is_exact_to_the_millisecond(
    tmp_path: Path, timestamp: int, lower: int, upper: int
) -> None:
    """LOWER is the first message that is not older than the time, UPPER the last one that is not younger."""
    async with store_lab(tmp_path) as lab:
        await with_times(lab, [START_MS, START_MS + 10, START_MS + 10, START_MS + 10, START_MS + 20])
        assert await lab.store.offset_by_time("TopicTest", 3, timestamp) == lower
        assert await lab.store.offset_by_time("TopicTest", 3, timestamp, BoundaryType.UPPER) == upper
        assert await lab.store.offset_by_time("Nothing", 3, timestamp) == 0


async def test_a_search_by_time_reads_files_and_tail_alike(tmp_path: Path) -> None:
    async with store_lab(tmp_path) as lab:
        await with_times(lab, [START_MS + 2 * number for number in range(25)])
        await lab.queues.flush.write_all()
        await with_times(lab, [START_MS + 2 * number for number in range(25, 30)])
        for number in range(30):
            assert await lab.store.offset_by_time("TopicTest", 3, START_MS + 2 * number) == number
            assert await lab.store.offset_by_time("TopicTest", 3, START_MS + 2 * number - 1) == number
        assert lab.store.store_time("TopicTest", 3, 29) == START_MS + 58
        assert lab.store.store_time("TopicTest", 3, 30) == -1


@given(st.lists(st.integers(0, 20), min_size=1, max_size=40).map(sorted), st.integers(-1, 21))
def test_the_search_agrees_with_looking_at_every_message(times: list[int], timestamp: int) -> None:
    lower = find_by_time(0, len(times), timestamp, BoundaryType.LOWER, times.__getitem__)
    upper = find_by_time(0, len(times), timestamp, BoundaryType.UPPER, times.__getitem__)
    assert lower == next((number for number, time in enumerate(times) if time >= timestamp), len(times))
    assert upper == max((number for number, time in enumerate(times) if time <= timestamp), default=0)


async def test_single_records_are_found_by_their_place_only_where_one_begins(tmp_path: Path) -> None:
    """The number of a place comes from anywhere; what does not begin there is never answered."""
    async with store_lab(tmp_path) as lab:
        one, two = await lab.put(draft("a"), draft("b"))
        assert lab.store.look_record(one.wrote_offset) is not None
        assert lab.store.look_record(two.wrote_offset) is not None
        for wrong in (-1, 1, two.wrote_offset + 3, lab.log.max_offset, 1 << 40):
            assert lab.store.look_record(wrong) is None
