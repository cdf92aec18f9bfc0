"""The record: the same bytes as RocketMQ writes, read back to the same fields, and never mistaken for anything else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rocketmq_py.common.errors import CorruptDataError, InvalidInputError
from rocketmq_py.common.host import decode_host, encode_host
from rocketmq_py.common.message_id import UniqueIds, create_offset_id, parse_offset_id
from rocketmq_py.common.properties import decode_properties, encode_properties, find_property
from rocketmq_py.common.record import (
    MAGIC_V2,
    RecordState,
    check_record,
    decode_record,
    decode_records,
    encode_blank,
    encode_record,
)

BORN, STORE = encode_host("127.0.0.1", 40001), encode_host("127.0.0.1", 10911)
PROPERTIES = {
    "KEYS": "order-1",
    "UNIQ_KEY": "7F00000104D218B4AAC2000000000000",
    "CLUSTER": "DefaultCluster",
    "TAGS": "TagA",
}

#: A record of RocketMQ, one line for each field.
GOLDEN = bytes.fromhex(
    "000000ca"  # total size 202
    "daa320a7"  # magic, version 1
    "69c865ed"  # CRC of the body
    "00000003"  # queue id
    "00000000"  # flag
    "0000000000000000"  # queue offset
    "0000000000000000"  # physical offset
    "00000000"  # system flag
    "0000018bcfe56800"  # born 1700000000000
    "7f00000100009c41"  # by 127.0.0.1:40001
    "0000018bcfe56805"  # stored 1700000000005
    "7f00000100002a9f"  # by 127.0.0.1:10911
    "00000000"  # reconsume times
    "0000000000000000"  # prepared transaction offset
    "0000000e" + b"Hello RocketMQ".hex()  # body
    + "09" + b"TopicTest".hex()  # topic
    + "0058" + encode_properties(PROPERTIES).hex()
)  # fmt: skip


def encode(**changes: object) -> bytes:
    fields: dict[str, object] = {
        "topic": b"TopicTest",
        "queue_id": 3,
        "body": b"Hello RocketMQ",
        "properties": encode_properties(PROPERTIES),
        "born_host": BORN,
        "store_host": STORE,
        "born_timestamp": 1_700_000_000_000,
        "store_timestamp": 1_700_000_000_005,
    }
    return encode_record(**{**fields, **changes})  # type: ignore[arg-type]


def test_a_record_has_the_bytes_that_rocketmq_writes() -> None:
    assert encode() == GOLDEN


def test_every_field_comes_back_where_it_was_put() -> None:
    """No two fields have the same value here, so that swapping any two shows."""
    message = decode_record(
        encode(
            queue_id=11,
            flag=12,
            queue_offset=13,
            physical_offset=14,
            sys_flag=0x301,
            born_timestamp=15,
            store_timestamp=16,
            reconsume_times=17,
            prepared_transaction_offset=18,
        )
    )
    assert (message.topic, message.body, message.properties) == ("TopicTest", b"Hello RocketMQ", PROPERTIES)
    assert (message.queue_id, message.flag, message.queue_offset, message.commit_log_offset) == (11, 12, 13, 14)
    assert (message.sys_flag, message.born_timestamp, message.store_timestamp) == (0x301, 15, 16)
    assert (message.reconsume_times, message.prepared_transaction_offset) == (17, 18)
    assert (message.born_host, message.store_host) == ("127.0.0.1:40001", "127.0.0.1:10911")


def test_a_topic_of_more_than_127_bytes_needs_version_2() -> None:
    record = encode(topic=b"%RETRY%" + b"g" * 125, body=b"x", properties=b"", physical_offset=402)
    assert len(record) == 225
    assert record[4:8] == (MAGIC_V2 & 0xFFFFFFFF).to_bytes(4, "big")
    assert record[88:91] == b"x\x00\x84"
    assert decode_record(record).topic == "%RETRY%" + "g" * 125


def test_an_ipv6_host_takes_20_bytes_and_a_bit_says_so() -> None:
    record = encode(born_host=encode_host("::1", 40001))
    assert len(record) == 214
    assert record[36:40] == bytes.fromhex("00000010")
    assert record[48:68].hex() == "0000000000000000000000000000000100009c41"
    assert decode_record(record).born_host == "[::1]:40001"


@pytest.mark.claim("log-14")
def test_a_message_id_is_host_and_offset_and_has_16_bytes_or_28_with_ipv6() -> None:
    """Claim: 16 bytes name the broker and the place of a record; no index is needed to read it.

    Experiment: make the id of the golden record, of a later offset, and of an IPv6 broker; take them apart again.
    Observe: the ids have 32, 32 and 56 hex digits and give back host and offset.
    """
    assert create_offset_id(STORE, 0) == "7F00000100002A9F0000000000000000"
    v4 = create_offset_id(encode_host("192.168.1.10", 10911), 1024)
    v6 = create_offset_id(encode_host("2001:db8::10", 10911), 1024)
    assert v4 == "C0A8010A00002A9F0000000000000400"
    assert v6 == "20010DB800000000000000000000001000002A9F0000000000000400"
    assert parse_offset_id(v4) == ("192.168.1.10:10911", 1024)
    assert parse_offset_id(v6) == ("[2001:db8::10]:10911", 1024)


@pytest.mark.parametrize("text", ["", "C0A8", "G" * 32, "C0A8010A00002A9F000000000000040", "０" * 32])
def test_a_text_that_is_no_message_id_is_refused_with_its_value(text: str) -> None:
    with pytest.raises(InvalidInputError, match="does not name a broker"):
        parse_offset_id(text)


class FixedClock:
    def __init__(self, wall_ms: int) -> None:
        self.now = wall_ms

    def wall_ms(self) -> int:
        return self.now


def test_unique_keys_never_repeat_even_when_the_clock_stands_still_or_steps_back() -> None:
    clock = FixedClock(1_700_000_000_000)
    ids = UniqueIds(clock, "192.168.1.20", 12345, 0x18B4AAC2)
    made = [ids.create() for _ in range(70_000)]
    clock.now -= 5_000
    made += [ids.create() for _ in range(70_000)]
    assert len(set(made)) == len(made)
    assert made[0].startswith("C0A80114303918B4AAC2")
    assert all(len(key) == 32 for key in made)


@given(
    properties=st.dictionaries(
        st.text(st.characters(exclude_characters="\x01\x02", exclude_categories=["Cs"]), min_size=1),
        st.text(st.characters(exclude_characters="\x01\x02", exclude_categories=["Cs"]), min_size=1),
    )
)
def test_properties_come_back_whatever_they_are(properties: dict[str, str]) -> None:
    encoded = encode_properties(properties)
    assert decode_properties(encoded) == properties
    assert decode_properties(encoded.removesuffix(b"\x02")) == properties
    for name, value in properties.items():
        assert find_property(encoded, name.encode()) == value.encode()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", {}),
        (b"no separator\x02A\x01b\x02", {"A": "b"}),
        (b"\x01no name\x02A\x01b", {"A": "b"}),
        (b"no value\x01\x02A\x01b", {"A": "b"}),
        (b"A\x01first\x02A\x01second\x02", {"A": "second"}),
        (b"A\x01b\x01c\x02", {"A": "b\x01c"}),
    ],
)
def test_broken_properties_are_read_as_java_reads_them(text: bytes, expected: dict[str, str]) -> None:
    assert decode_properties(text) == expected


def test_a_separator_inside_a_property_is_refused_by_name() -> None:
    with pytest.raises(InvalidInputError, match="'colour'"):
        encode_properties({"colour": "re\x02d"})


def test_half_a_surrogate_pair_is_refused_before_anything_is_stored() -> None:
    with pytest.raises(InvalidInputError, match="UTF-8 cannot express"):
        encode_properties({"colour": "\ud800"})


def test_a_record_is_valid_only_at_its_own_offset() -> None:
    record = encode(physical_offset=700)
    assert check_record(record, 0, position=700).state is RecordState.VALID
    moved = check_record(record, 0, position=701)
    assert (moved.state, moved.expected, moved.found) == (RecordState.INVALID, "physical offset 701", "700")


def test_any_flipped_bit_of_lengths_magic_or_body_makes_a_record_invalid() -> None:
    record = encode()
    body_at = 88
    guarded = [*range(12), *range(84, body_at + 14)]
    for at in guarded:
        for bit in range(8):
            damaged = bytearray(record)
            damaged[at] ^= 1 << bit
            assert check_record(bytes(damaged), 0, position=0).state is RecordState.INVALID, f"byte {at} bit {bit}"


@given(st.binary(max_size=400))
def test_arbitrary_bytes_never_raise_anything_but_a_verdict(data: bytes) -> None:
    assert check_record(data, 0, position=0).state in RecordState
    try:
        decode_record(data)
    except CorruptDataError as error:
        assert "record at byte 0" in str(error)


def test_a_cut_record_is_invalid_at_every_length() -> None:
    record = encode()
    for length in range(len(record)):
        assert check_record(record[:length], 0).state is RecordState.INVALID


def test_a_blank_record_says_how_much_it_covers() -> None:
    assert encode_blank(300) == bytes.fromhex("0000012ccbd43194")
    check = check_record(encode_blank(300) + bytes(292), 0)
    assert (check.state, check.size) == (RecordState.BLANK, 300)
    assert check_record(encode_blank(300) + bytes(291), 0).state is RecordState.INVALID


def test_a_pull_answer_is_consecutive_records() -> None:
    records = encode(queue_offset=1) + encode(queue_offset=2, body=b"")
    assert [message.queue_offset for message in decode_records(records)] == [1, 2]
    with pytest.raises(CorruptDataError, match="record at byte"):
        list(decode_records(records[:-1]))


@pytest.mark.parametrize(("host", "port"), [("10.1.2.3", 65535), ("::1", 0), ("2001:db8::1", 9876)])
def test_a_host_comes_back(host: str, port: int) -> None:
    encoded = encode_host(host, port)
    assert len(encoded) == (20 if ":" in host else 8)
    assert decode_host(encoded) == (f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
