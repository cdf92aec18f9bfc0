"""The index against a list: a query finds what a look at every message would find, and old records keep what they had."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labs.stage_02_consume_queue.store_lab import START_MS, LabClock, StoreLab, draft, store_lab
from rocketmq_py.common.environment import system_environment
from rocketmq_py.common.properties import encode_properties
from rocketmq_py.common.record import decode_records
from rocketmq_py.store.index_file import HEADER_LAYOUT, SLOT_SIZE, IndexFile
from rocketmq_py.store.index_service import IndexService

#: "Aa" and "BB" have one hash in Java; with three slots, everything else collides as well.
KEYS = ("Aa", "BB", "k", "ключ")
TOPICS = ("TopicTest", "Other")
TINY = {"max_hash_slot_num": 3, "max_index_num": 6}

#: Milliseconds after the message before, keys, topic.
MESSAGES = st.lists(
    st.tuples(st.integers(0, 2_500), st.lists(st.sampled_from(KEYS), max_size=3, unique=True), st.sampled_from(TOPICS)),
    min_size=1,
    max_size=25,
)
#: Milliseconds after the first message, and how long.
SPANS = st.lists(st.tuples(st.integers(-1_500, 40_000), st.integers(0, 20_000)), min_size=1, max_size=4)

Row = tuple[int, list[str], str, str]


def index_lab(folder: Path, **more):
    return store_lab(folder, through="index", **{**TINY, **more})


async def put(lab: StoreLab, rows: list[Row]) -> None:
    for stamp, keys, topic, body in rows:
        lab.clock.now = stamp
        await lab.put(draft(body, topic=topic, properties=encode_properties({"KEYS": " ".join(keys)})))


async def query(lab: StoreLab, topic: str, key: str, begin: int = 0, end: int = 1 << 60, limit: int = 64) -> list[str]:
    result = await lab.store.query_messages(topic, key, limit, begin, end)
    return [message.body.decode() for record in result.records for message in decode_records(record)]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(messages=MESSAGES, spans=SPANS, stop_after=st.integers(0, 25))
def test_a_query_finds_what_a_look_at_every_message_finds(
    tmp_path_factory: pytest.TempPathFactory,
    messages: list[tuple[int, list[str], str]],
    spans: list[tuple[int, int]],
    stop_after: int,
) -> None:
    """Spans to the millisecond, keys of one hash, two topics, files of five entries, and a stop in between."""
    folder = tmp_path_factory.mktemp("index")
    rows: list[Row] = []
    now = START_MS
    for number, (pause, keys, topic) in enumerate(messages):
        now += pause
        rows.append((now, keys, topic, f"m{number}"))

    async def run() -> None:
        async with index_lab(folder, clock=LabClock()) as lab:
            await put(lab, rows[:stop_after])
        async with index_lab(folder, clock=LabClock(now)) as lab:
            await put(lab, rows[stop_after:])
            for after, length in ((-1_500, 100_000), *spans):
                begin, end = START_MS + after, START_MS + after + length
                for wanted, key in ((topic, key) for topic in TOPICS for key in KEYS):
                    expected = [
                        body
                        for stamp, keys, topic, body in rows
                        if topic == wanted and key in keys and begin <= stamp <= end
                    ]
                    assert await query(lab, wanted, key, begin, end) == expected

    asyncio.run(run())


async def test_only_files_whose_every_record_has_expired_are_deleted(tmp_path: Path) -> None:
    """A file whose last record is the first one that the log still has must stay: that record is asked for."""
    async with index_lab(tmp_path) as lab:
        await put(lab, [(START_MS + number, ["k"], "TopicTest", f"m{number}") for number in range(12)])
        index = lab.kernel.get(IndexService)
        index.build()
        first = index.files[0].end_physical_offset
        assert await index.delete_expired(first) == 0
        assert len(await query(lab, "TopicTest", "k")) == 12
        assert await index.delete_expired(first + 1) == 1
        assert await query(lab, "TopicTest", "k") == [f"m{number}" for number in range(5, 12)]


async def test_a_file_whose_last_record_was_cut_off_is_made_again(tmp_path: Path) -> None:
    """A cut at the very place of that record takes the file; one byte behind it, the record is still there."""
    async with index_lab(tmp_path) as lab:
        await put(lab, [(START_MS + number, ["k"], "TopicTest", f"m{number}") for number in range(8)])
        index = lab.kernel.get(IndexService)
        index.build()
        last = index.files[-1].end_physical_offset
        index.truncate(last + 1)
        assert len(index.files) == 2
        assert await query(lab, "TopicTest", "k") == [f"m{number}" for number in range(8)]
        index.truncate(last)
        assert len(index.files) == 1
        assert await query(lab, "TopicTest", "k") == [f"m{number}" for number in range(5)]
    async with index_lab(tmp_path) as lab:
        assert await query(lab, "TopicTest", "k") == [f"m{number}" for number in range(8)], "made again from the log"


def test_entries_outside_the_span_take_no_place_of_those_inside(tmp_path: Path) -> None:
    """Asked for two, the file returns the two youngest of the span, not what is left of the two youngest of all."""
    file = IndexFile(system_environment().files, str(tmp_path / "index"), 3, 10)
    file.put([7] * 5, [10, 20, 30, 40, 50], [100_000 + 1_000 * number for number in range(5)])
    assert file.find(7, 2, 100_000, 102_000) == [30, 20]
    assert file.find(7, 9, 101_000, 101_999) == [20]
    spans = ((0, 99_999), (0, 100_000), (104_000, 104_001), (104_001, 1 << 40), (101_500, 101_600))
    assert [file.overlaps(*span) for span in spans] == [False, True, True, False, True]
    file.close()


def test_a_clock_that_went_back_gives_no_negative_time(tmp_path: Path) -> None:
    """Nor does one that went on for a century give more seconds than the field has."""
    file = IndexFile(system_environment().files, str(tmp_path / "index"), 3, 10)
    file.put([5, 6, 7], [10, 20, 30], [5_000, 1_000, 5_000 + 2**31 * 1_000])
    assert [file.entry(number)[2] for number in (1, 2, 3)] == [0, 0, 2**31 - 1]
    file.close()


def test_a_slot_that_a_crash_left_ahead_of_the_header_is_empty(tmp_path: Path) -> None:
    """The slot reached the disk, the header did not: its number is that of an entry which the file does not have."""
    files = system_environment().files
    file = IndexFile(files, str(tmp_path / "index"), 3, 10)
    file.put([1], [10], [1_000])
    file.close()
    data = bytearray((tmp_path / "index").read_bytes())
    at = HEADER_LAYOUT.size + 2 * SLOT_SIZE
    data[at : at + SLOT_SIZE] = (8).to_bytes(4, "big")
    (tmp_path / "index").write_bytes(data)
    file = IndexFile(files, str(tmp_path / "index"), 3, 10)
    assert file.find(2, 5, 0, 1 << 40) == []
    file.put([2], [20], [1_000])
    assert file.entry(2) == (2, 20, 0, 0)
    assert file.find(2, 5, 0, 1 << 40) == [20]
    file.close()


async def test_a_damaged_file_takes_the_younger_ones_along(tmp_path: Path) -> None:
    """Files are made again from the log in order; one that stayed behind the damaged one would end that too early."""
    async with index_lab(tmp_path) as lab:
        await put(lab, [(START_MS + number, ["k"], "TopicTest", f"m{number}") for number in range(17)])
    paths = sorted((tmp_path / "index").iterdir())
    assert len(paths) == 4
    paths[1].write_bytes(b"short")
    async with index_lab(tmp_path) as lab:
        assert lab.kernel.get(IndexService).is_damaged
        assert await query(lab, "TopicTest", "k") == [f"m{number}" for number in range(17)]
