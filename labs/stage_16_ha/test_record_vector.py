"""Checking many records at once gives what checking them one by one gives, for good bytes and for any others."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocketmq_py.common.environment import Environment
from rocketmq_py.common.errors import CorruptDataError
from rocketmq_py.common.record import HEAD_LAYOUT, MAGIC_V1, body_crc, encode_blank, encode_record
from rocketmq_py.common.sys_flag import TRANSACTION_PREPARED
from rocketmq_py.store.ha import ha_client
from rocketmq_py.store.ha.log_intake import LogIntake
from rocketmq_py.store.ha.record_checks import Checked, check_records
from rocketmq_py.store.ha.record_vector import MIN_RECORDS, RecordVectors

from .ha_lab import ha_lab

FILE_SIZE = 1 << 20
MAX_RECORD = 64 << 10
START = 5 * FILE_SIZE + 4_000
COUNT = MIN_RECORDS + 20
HOST = bytes(8)
HOST_V6 = bytes(20)


@pytest.fixture(scope="module")
def vectors(numpy: ModuleType) -> RecordVectors:
    return RecordVectors(numpy)


def records(count: int = COUNT, start: int = START, **unusual: bytes) -> list[bytes]:
    """Return records that lie one behind the other; the one in the middle may be of another form."""
    found = list[bytes]()
    for number in range(count):
        form = unusual if number == count // 2 else {}
        record = encode_record(
            topic=form.get("topic", b"TopicA"),
            queue_id=number % 4,
            body=bytes([number % 256]) * (number % 40),
            properties=b"KEYS\x01k%d" % number * (number % 3),
            born_host=form.get("born_host", HOST),
            store_host=HOST,
            physical_offset=start,
            sys_flag=TRANSACTION_PREPARED * (number % 2),
        )
        start += len(record)
        found.append(record)
    return found


def judged(data: bytes, vectors: RecordVectors | None, file_size: int = FILE_SIZE) -> Checked | str:
    """Return the judgement of bytes: how far they are good, or the error."""
    try:
        return check_records(memoryview(data), START, file_size, MAX_RECORD, vectors)
    except CorruptDataError as error:
        return str(error)


def test_good_records_are_taken_at_once(vectors: RecordVectors) -> None:
    """Nothing is left for the loop: without this the other labs would hold for a judge that never judges."""
    data = memoryview(b"".join(records()))
    assert vectors.good(data, START, len(data)) == len(data)
    assert vectors.good(data[:-1], START, len(data) - 1) == len(data) - len(records()[-1])
    assert judged(bytes(data), vectors) == Checked(len(data))


def test_few_records_are_not_worth_it(vectors: RecordVectors) -> None:
    data = memoryview(b"".join(records(MIN_RECORDS - 1)))
    assert vectors.good(data, START, len(data)) == 0
    assert vectors.good(memoryview(b""), START, 0) == 0
    assert judged(bytes(data), vectors) == Checked(len(data))


def test_no_record_goes_beyond_the_room_of_its_file(vectors: RecordVectors) -> None:
    """The last eight bytes of a file belong to a blank record."""
    parts = records()
    data = b"".join(parts)
    for room in (len(data) + 8, len(data) + 7, len(data)):
        file_size = START + room
        alone, many = judged(data, None, file_size), judged(data, vectors, file_size)
        assert alone == many
        assert isinstance(many, Checked) == (room == len(data) + 8)


@pytest.mark.parametrize(
    ("unusual", "rest"),
    [
        ({"topic": b"T" * 200}, b""),
        ({"born_host": HOST_V6}, b""),
        ({"topic": b""}, b""),
        ({}, encode_blank(FILE_SIZE - (START + sum(map(len, records()))) % FILE_SIZE) + b"anything"),
    ],
    ids=["long topic", "IPv6", "no topic", "blank record"],
)
def test_what_is_unusual_is_judged_one_by_one(vectors: RecordVectors, unusual: dict[str, bytes], rest: bytes) -> None:
    data = b"".join(records(**unusual)) + rest
    judgement = judged(data, vectors)
    assert judgement == judged(data, None)
    assert isinstance(judgement, Checked)
    assert judgement.size == len(data)


def test_each_flipped_bit_of_one_record_gets_the_same_judgement(vectors: RecordVectors) -> None:
    """All bits of head, body, topic and properties of a record behind the first hundred."""
    parts = records()
    victim = MIN_RECORDS + 12
    begin = sum(map(len, parts[:victim]))
    data, refused = bytearray(b"".join(parts)), 0
    for at in range(begin, begin + len(parts[victim])):
        for bit in range(8):
            data[at] ^= 1 << bit
            alone, many = judged(bytes(data), None), judged(bytes(data), vectors)
            assert many == alone, f"bit {bit} of byte {at - begin} of the record"
            refused += alone != Checked(len(data))
            data[at] ^= 1 << bit
    # Size, magic, CRC, offset and body length at least, and the body.
    assert refused >= 8 * (4 + 4 + 4 + 8 + 4)


def forged(start: int, length: int, behind_head: bytes, *, size: int | None = None) -> bytes:
    """Return a record whose offset and body CRC are right, and whose lengths are whatever one says.

    Args:
        start: where it lies.
        length: of the body, as its head says.
        behind_head: what follows the head.
        size: of the record, as its head says; by default the true one.
    """
    size = HEAD_LAYOUT.size + len(behind_head) if size is None else size
    crc = body_crc(behind_head[:length]) if length >= 0 else 0
    return HEAD_LAYOUT.struct.pack(size, MAGIC_V1, crc, 0, 0, 0, start, 0, 1, HOST, 1, HOST, 0, 0, length) + behind_head


@pytest.mark.parametrize(
    ("length", "behind_head", "size"),
    [
        (0, b"\x01T" + b"\x9c\x40" + bytes(40_000), None),
        # The byte that is said to be the length of the topic is then the last one of the body length itself.
        (-1, bytes(255) + b"\x00\x00", None),
        (50, b"body" * 5, None),
        (4, b"body" + b"\xff" + b"T" * 60, None),
        (4, b"body" + b"\x01T\x00", None),
        (0, b"\x01T\x00\x00", 0),
        (0, b"\x01", 90),
        (0, b"\x01T\x00\x00", -100),
    ],
    ids=[
        "more properties than a signed number holds",
        "negative body",
        "body behind the end",
        "topic behind the end",
        "half a length of properties",
        "size 0",
        "size below the least",
        "negative size",
    ],
)
@pytest.mark.parametrize("is_last", [True, False])
def test_lengths_that_lie_get_the_same_judgement(
    vectors: RecordVectors, length: int, behind_head: bytes, size: int | None, is_last: bool
) -> None:
    """What a head says about itself is right, except where its parts end; nobody may look behind the bytes."""
    good = b"".join(records())
    data = good + forged(START + len(good), length, behind_head, size=size)
    if not is_last:
        data += b"".join(records(start=START + len(data)))
    judgement = judged(data, vectors)
    assert judgement == judged(data, None)
    assert isinstance(judgement, str), "the forged record was taken"


@settings(max_examples=150)
@given(
    changes=st.lists(st.tuples(st.integers(0, 1 << 20), st.binary(min_size=1, max_size=8)), max_size=3),
    cut=st.integers(0, 400),
    head=st.none() | st.integers(0, HEAD_LAYOUT.size - 1),
)
def test_any_bytes_get_the_same_judgement(
    vectors: RecordVectors, changes: list[tuple[int, bytes]], cut: int, head: int | None
) -> None:
    """Changed bytes anywhere, or in the head of some record, and an end anywhere."""
    parts = records()
    begins = [0, *accumulate(map(len, parts))]
    data = bytearray(b"".join(parts))
    for place, new in changes:
        at = place % (len(data) - 8) if head is None else begins[place % COUNT] + head
        data[at : at + len(new)] = new
    del data[len(data) - cut :]
    assert judged(bytes(data), vectors) == judged(bytes(data), None)


@pytest.mark.virtual_time
async def test_a_slave_that_catches_up_loads_what_checks_many_records_at_once(
    tmp_path: Path, environment: Environment, vectors: RecordVectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that gets message by message does not: the import costs time and memory."""
    monkeypatch.setattr(ha_client, "_MANY_BYTES", 8_000)
    async with ha_lab(tmp_path, environment, slaves=1) as lab:
        [young] = lab.slaves
        for number in range(30):
            await lab.send(f"message {number}" + "x" * 500)
            await lab.copied()
        assert young.get(LogIntake).vectors is None
        late = await lab.start("slave-2", broker_id=2)
        await lab.copied()
        assert late.get(LogIntake).vectors is not None
        assert lab.log_bytes(late) == lab.log_bytes(lab.master)
