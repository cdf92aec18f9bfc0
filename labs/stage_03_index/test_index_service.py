"""The index of a store: which keys, which files, and what a query finds."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest

from labs.stage_02_consume_queue.store_lab import START_MS, StoreLab, draft, snapshot, store_lab
from rocketmq_py.common.environment import system_environment
from rocketmq_py.common.host import encode_host
from rocketmq_py.common.message_id import create_offset_id, parse_offset_id
from rocketmq_py.common.properties import encode_properties
from rocketmq_py.common.record import decode_records, read_record
from rocketmq_py.store.index_hash import KeyHasher, keys_of
from rocketmq_py.store.index_service import IndexService
from rocketmq_py.store.query_message import QueryMessageResult

SMALL = {"max_hash_slot_num": 8, "max_index_num": 100}


def index_lab(folder: Path, **settings):
    return store_lab(folder, through="index", **{**SMALL, **settings})


def keyed(keys: str, unique_key: str = "", **properties: str) -> bytes:
    named = {"KEYS": keys, "UNIQ_KEY": unique_key, **properties}
    return encode_properties({name: value for name, value in named.items() if value})


async def put(lab: StoreLab, body: str, keys: str = "", unique_key: str = "", topic: str = "TopicTest") -> int:
    """Store a message and return its place in the log."""
    result = (await lab.put(draft(body, topic=topic, properties=keyed(keys, unique_key))))[0]
    return result.wrote_offset


def bodies(result: QueryMessageResult) -> list[str]:
    return [message.body.decode() for record in result.records for message in decode_records(record)]


async def query(lab: StoreLab, key: str, begin: int = 0, end: int = 1 << 60, limit: int = 32) -> list[str]:
    return bodies(await lab.store.query_messages("TopicTest", key, limit, begin, end))


@pytest.mark.claim("idx-02")
async def test_keys_are_the_unique_key_and_the_words_of_keys_behind_the_topic(tmp_path: Path) -> None:
    """Claim: keys carry the topic: topic#UNIQ_KEY always, and topic#KEY for each of the KEYS separated by blanks.

    Experiment: one message with a unique key and two words, one with neither.
    Observe: three entries, with the hashes of those texts; none for the other message; a double blank is no key.
    """
    async with index_lab(tmp_path) as lab:
        await put(lab, "a", "order-17  table-3", "UK1")
        await put(lab, "b")
        index = lab.kernel.get(IndexService)
        index.build()
        file = index.files[-1]
        hashes = [file.entry(number)[0] for number in range(1, file.index_count)]
    hasher = KeyHasher()
    assert hashes == [hasher.hash(b"TopicTest", key) for key in (b"UK1", b"order-17", b"table-3")]
    assert list(keys_of(keyed("a  b ", "u"))) == [b"u", b"a", b"b"]


@pytest.mark.claim("idx-03")
async def test_messages_are_found_by_key_in_a_span_of_time_and_by_id(tmp_path: Path) -> None:
    """Claim: messages are found by key within a time range, and by message id.

    Experiment: one key in five messages, each 700 ms after the one before; ask for spans; ask for one by its id.
    Observe: exactly those whose own store time is in the span, to the millisecond although entries have whole seconds;
        a message id needs no index: it holds the place.
    """
    async with index_lab(tmp_path) as lab:
        places = []
        for number in range(5):
            lab.clock.now = START_MS + 700 * number
            places.append(await put(lab, f"m{number}", "same"))
        assert await query(lab, "same") == ["m0", "m1", "m2", "m3", "m4"]
        assert await query(lab, "same", START_MS + 700, START_MS + 2_100) == ["m1", "m2", "m3"]
        assert await query(lab, "same", START_MS + 701, START_MS + 2_099) == ["m2"]
        assert await query(lab, "same", START_MS + 2_801) == []
        assert await query(lab, "same", limit=2) == ["m3", "m4"], "the youngest ones"
        assert await query(lab, "other") == []

        message_id = create_offset_id(encode_host("10.1.2.3", 10911), places[3])
        address, offset = parse_offset_id(message_id)
        record = await lab.store.look_message(offset)
        assert record is not None
        assert (address, read_record(record).body) == ("10.1.2.3:10911", b"m3")


@pytest.mark.claim("idx-04")
async def test_a_query_asks_the_message_for_its_keys(tmp_path: Path) -> None:
    """Claim: colliding keys are linked in their slot; a query re-checks the key on the message itself.

    Experiment: two keys with one hash, "Aa" and "BB", and a message of another topic with the key itself.
    Observe: each key finds its own message only.
    """
    async with index_lab(tmp_path) as lab:
        await put(lab, "first", "Aa")
        await put(lab, "second", "BB")
        await put(lab, "elsewhere", "Aa", topic="Other")
        offsets = await lab.kernel.get(IndexService).query_offset("TopicTest", "Aa", 32, 0, 1 << 60)
        assert len(offsets.offsets) == 2, "the index cannot tell them apart"
        assert await query(lab, "Aa") == ["first"]
        assert await query(lab, "BB") == ["second"]


@pytest.mark.claim("idx-05")
async def test_files_are_named_after_the_moment_of_their_making(tmp_path: Path) -> None:
    """Claim: index files are named after their creation time (17 digits).

    Experiment: files of five entries; ten keys, two files, the clock standing still for both.
    Observe: yyyyMMddHHmmssSSS of the local time; the second is named one later, so that sorted names are their order.
    """
    async with index_lab(tmp_path, max_index_num=6) as lab:
        for number in range(10):
            await put(lab, f"m{number}", f"k{number}")
        assert await query(lab, "k0") == ["m0"]
        names = lab.kernel.get(IndexService).names()
    expected = time.strftime("%Y%m%d%H%M%S", time.localtime(START_MS // 1_000)) + f"{START_MS % 1_000:03}"
    assert names == [expected, str(int(expected) + 1)]
    assert all(re.fullmatch(r"\d{17}", name) for name in names)
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == names


async def test_a_query_reaches_over_many_files(tmp_path: Path) -> None:
    async with index_lab(tmp_path, max_index_num=6) as lab:
        for number in range(23):
            lab.clock.now += 1_000
            await put(lab, f"m{number}", f"k{number % 2}")
        assert await query(lab, "k0") == [f"m{number}" for number in range(0, 23, 2)]
        assert await query(lab, "k0", limit=3) == ["m18", "m20", "m22"]


async def test_a_unique_key_is_a_key_like_any_other(tmp_path: Path) -> None:
    async with index_lab(tmp_path) as lab:
        await put(lab, "a", "k", "7F0000012334DF533C518367DBA70001")
        assert await query(lab, "7F0000012334DF533C518367DBA70001") == ["a"]


async def test_what_waits_is_added_before_a_query_and_at_the_end(tmp_path: Path) -> None:
    """Keys gather for a few milliseconds; nobody may notice."""
    async with index_lab(tmp_path) as lab:
        await put(lab, "a", "k")
        assert await query(lab, "k") == ["a"]
        await put(lab, "b", "k")
    async with index_lab(tmp_path) as lab:
        assert await query(lab, "k") == ["a", "b"]
        await put(lab, "c", "k")
        assert await query(lab, "k") == ["a", "b", "c"]


async def test_without_an_index_nothing_is_written_and_nothing_found(tmp_path: Path) -> None:
    async with index_lab(tmp_path, message_index_enable=False) as lab:
        await put(lab, "a", "k")
        assert await query(lab, "k") == []
    assert snapshot(tmp_path / "index") == {}


async def test_files_that_know_too_much_or_nothing_any_more_are_deleted(tmp_path: Path) -> None:
    """After a cut of the log, files that lead behind it go; files that lead to expired records only go too, but never
    the newest."""
    async with index_lab(tmp_path, max_index_num=6) as lab:
        places = [await put(lab, f"m{number}", f"k{number}") for number in range(12)]
        index = lab.kernel.get(IndexService)
        index.build()
        assert len(index.files) == 3
        assert await index.delete_expired(places[5]) == 1
        assert await query(lab, "k0") == []
        assert await query(lab, "k7") == ["m7"]
        assert await index.delete_expired(1 << 40) == 1
        assert len(index.files) == 1
        index.truncate(places[11])
        assert index.files == []


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_a_file_is_not_deleted_under_a_search_that_reads_it(tmp_path: Path, is_cancelled: bool) -> None:
    """The thread of a search reads mapped files; retention waits for it, also if nobody else does any more."""
    go_on = asyncio.Event()

    def kept() -> list[str]:
        return [path.name for path in (tmp_path / "index").iterdir()]

    async def run_slowly(function, *arguments):
        if function.__name__ == "_search":
            await go_on.wait()
        return function(*arguments)

    async with index_lab(
        tmp_path, environment=replace(system_environment(), run_blocking=run_slowly), max_index_num=6
    ) as lab:
        places = [await put(lab, f"m{number}", f"k{number}") for number in range(12)]
        index = lab.kernel.get(IndexService)
        searching = asyncio.create_task(index.query_offset("TopicTest", "k0", 32, 0, 1 << 60))
        await asyncio.sleep(0)
        expired = Path(index.files[0].path)
        deleting = asyncio.create_task(index.delete_expired(places[5]))
        for _ in range(10):
            await asyncio.sleep(0)
        assert expired.name not in index.names()
        assert expired.name in kept()
        if is_cancelled:
            searching.cancel()
            await asyncio.wait([searching])
            assert not deleting.done()
        go_on.set()
        if not is_cancelled:
            assert (await searching).offsets == [places[0]]
        assert await deleting == 1
        assert expired.name not in kept()


async def test_a_file_of_another_size_is_not_an_index_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with index_lab(tmp_path) as lab:
        await put(lab, "a", "k")
        await query(lab, "k")
    name = next((tmp_path / "index").iterdir())
    with name.open("ab") as file:
        file.write(b"more")
    (tmp_path / "index/notes.txt").write_text("mine")
    async with index_lab(tmp_path) as lab:
        assert "is damaged" in caplog.text
        assert (tmp_path / "index/notes.txt").read_text() == "mine"
        await put(lab, "b", "k")
        assert "b" in await query(lab, "k")
