"""What every stage builds on: strict numbers, configuration that explains itself, tables that survive, periodic work."""

from __future__ import annotations

import asyncio
import errno
import importlib
import json
import random
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.common import crc
from rocketmq_py.common.compression import CompressionType, compress, decompress
from rocketmq_py.common.config import Setting, apply_properties, parse_properties, read_properties, to_properties
from rocketmq_py.common.environment import system_environment
from rocketmq_py.common.errors import ConfigError, CorruptDataError, InvalidInputError
from rocketmq_py.common.host import split_address
from rocketmq_py.common.java import parse_bool, parse_i32, parse_i64, string_hash, to_i32
from rocketmq_py.common.message import Message
from rocketmq_py.common.message_batch import decode_batch, encode_batch
from rocketmq_py.common.periodic import Periodic
from rocketmq_py.common.properties import change_properties, decode_properties, encode_properties
from rocketmq_py.common.sys_flag import COMPRESSED
from rocketmq_py.common.table import Table
from rocketmq_py.common.topic import topic_error
from rocketmq_py.sim.environment import simulated_environment
from rocketmq_py.sim.file_system import Fault, SimulatedFileSystem
from rocketmq_py.store.config import FlushDiskType, MessageStoreConfig


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0),
        ("*", 42),
        ("TagA", 2598919),
        ("TopicTest#key1", -1655984460),
        ("polygenelubricants", -2147483648),
        ("中文", 646394),
        ("\U0001f600", 1772899),
    ],
)
def test_a_hash_is_the_one_that_java_computes(text: str, expected: int) -> None:
    assert string_hash(text) == expected


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"])))
def test_the_hash_of_two_texts_follows_from_their_hashes(left: str, right: str) -> None:
    units = len(right.encode("utf-16-be")) // 2
    assert string_hash(left + right) == to_i32(string_hash(left) * pow(31, units, 1 << 32) + string_hash(right))


@pytest.mark.parametrize("text", ["", " 1", "1 ", "1_0", "１", "0x1", "1.0", "1e3", "--1", "2147483648", "-2147483649"])
def test_a_number_that_java_would_not_parse_is_refused_with_its_text(text: str) -> None:
    with pytest.raises(InvalidInputError, match="queueId is"):
        parse_i32(text, "queueId")


def test_numbers_that_java_parses_are_parsed() -> None:
    assert [parse_i32(text) for text in ("0", "+7", "-2147483648", "2147483647", "007")] == [
        0,
        7,
        -(1 << 31),
        (1 << 31) - 1,
        7,
    ]
    assert parse_i64("9223372036854775807") == (1 << 63) - 1
    assert [parse_bool(text) for text in ("true", "TRUE", "yes", "1", "")] == [True, True, False, False, False]


@pytest.mark.parametrize("kind", list(CompressionType))
def test_a_compressed_body_comes_back_and_a_bomb_or_a_torn_one_does_not(kind: CompressionType) -> None:
    body = b"RocketMQ " * 5_000
    packed, flag = compress(body, kind), COMPRESSED | kind.value
    assert len(packed) < len(body)
    assert decompress(packed, flag, len(body)) == body
    assert decompress(packed, 0, 10) == packed
    with pytest.raises(InvalidInputError, match=f"limit of {len(body) - 1} bytes"):
        decompress(packed, flag, len(body) - 1)
    for torn in (packed[:-2], packed[: len(packed) // 2], b"no compressed bytes"):
        with pytest.raises(InvalidInputError, match="message body of"):
            decompress(torn, flag, 1 << 20)


def test_a_compression_type_that_nobody_defined_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="compression type 5"):
        decompress(b"x", COMPRESSED | 0x500, 10)


@given(
    st.lists(
        st.builds(
            Message,
            st.just("T"),
            st.binary(max_size=50),
            st.dictionaries(st.sampled_from(["KEYS", "TAGS", "colour"]), st.sampled_from(["a", "b c"])),
            st.integers(-(1 << 31), (1 << 31) - 1),
        ),
        max_size=6,
    )
)
def test_a_batch_comes_back_and_every_cut_of_it_is_refused(messages: list[Message]) -> None:
    encoded = encode_batch(messages)
    items = decode_batch(encoded)
    assert [(item.flag, item.body) for item in items] == [(message.flag, message.body) for message in messages]
    ends = {len(encode_batch(messages[:count])) for count in range(len(messages) + 1)}
    for length in range(len(encoded)):
        if length not in ends:
            with pytest.raises(InvalidInputError, match="of the batch"):
                decode_batch(encoded[:length])


@pytest.mark.parametrize("name", ["", "  ", "../../x", "a/b", "a b", "ünï", "a" * 128, "a\nb", "a\0b", "."])
def test_a_topic_name_that_could_leave_its_folder_or_break_a_line_is_refused(name: str) -> None:
    assert topic_error(name) is not None


def test_topic_names_of_all_kinds_are_allowed() -> None:
    for name in ("TopicTest", "%RETRY%" + "g" * 248, "a" * 127, "A-b_c|d%e", "TBW102"):
        assert topic_error(name) is None


@pytest.mark.parametrize("address", ["", "host", "host:", ":1", "host:port", "host:65536", "::1:9876", "host:1:2"])
def test_an_address_without_a_usable_port_is_refused_with_its_text(address: str) -> None:
    with pytest.raises(InvalidInputError, match="address"):
        split_address(address)


# --- configuration -------------------------------------------------------------------------------------------------


def test_one_file_sets_broker_and_store_in_either_spelling() -> None:
    broker, store = BrokerConfig(), MessageStoreConfig()
    text = """
    # a comment
    brokerName = broker-7
    brokerIP1=10.1.2.3
    flush_disk_type=SYNC_FLUSH
    mappedFileSizeCommitLog=65536
    checkCRCOnRecover=false
    """
    apply_properties(parse_properties(text, "broker.conf"), broker, store)
    assert (broker.broker_name, broker.broker_ip1) == ("broker-7", "10.1.2.3")
    assert store.flush_disk_type is FlushDiskType.SYNC_FLUSH
    assert (store.mapped_file_size_commit_log, store.check_crc_on_recover) == (65536, False)
    assert to_properties(store)["flushDiskType"] == "SYNC_FLUSH"
    assert to_properties(broker)["brokerIP1"] == "10.1.2.3"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("listenPrt=1", "did you mean listenPort"),
        ("listenPort=70000", "0 to 65535"),
        ("listenPort=10911 # main", "a comment needs a line of its own"),
        ("flushDiskType=SYNC", "ASYNC_FLUSH, SYNC_FLUSH"),
        ("mappedFileSizeCommitLog=64M", "not a decimal integer"),
        ("autoCreateTopicEnable=yes", "true or false"),
        ("brokerName", "not KEY=VALUE"),
    ],
)
def test_a_wrong_line_is_refused_with_file_line_and_what_to_write(line: str, says: str) -> None:
    broker, store = BrokerConfig(), MessageStoreConfig()
    with pytest.raises(ConfigError, match="broker.conf line 2") as refused:
        apply_properties(parse_properties(f"brokerName=changed\n{line}", "broker.conf"), broker, store)
    assert says in str(refused.value)
    assert broker.broker_name == "broker-a", "a refused file must change nothing"


def test_every_key_of_rocketmq_is_known_even_if_it_has_no_effect(caplog: pytest.LogCaptureFixture) -> None:
    apply_properties({"popPollingSize": Setting("7", "broker.conf line 1")}, BrokerConfig(), MessageStoreConfig())
    assert "popPollingSize is a setting of RocketMQ that has no effect here" in caplog.text


def test_the_defaults_are_those_of_rocketmq_unless_the_architecture_says_otherwise() -> None:
    """The recorded defaults of RocketMQ 5.3.3 are the reference; what differs is listed here with its reason."""
    classes = json.loads((Path(__file__).parents[1] / "data/defaults.json").read_text())["classes"]
    differs = {
        "brokerName",  # the machine's name there
        "brokerIP1",  # the machine's address there; closed by default here
        "brokerIP2",
        "namesrvAddr",  # null there, no name server either way
        "listenPort",  # 10911 is set by RocketMQ's start-up code
        "haListenPort",  # so is this one, unless it is configured: listenPort + 1
        "haTransferBatchSize",  # larger pieces: a slave catches up faster
    }
    checked = 0
    for config, name in ((BrokerConfig(), "BrokerConfig"), (MessageStoreConfig(), "MessageStoreConfig")):
        ours = to_properties(config)
        for key, entry in classes[name].items():
            if key in ours and key not in differs and "default" in entry and entry["default"] is not None:
                default = entry["default"]
                expected = str(default).lower() if isinstance(default, bool) else str(default)
                assert ours[key] == expected, key
                checked += 1
    assert checked > 60


def test_a_configuration_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    files = system_environment().files
    with pytest.raises(ConfigError, match="missing.conf cannot be read"):
        read_properties(files, str(tmp_path / "missing.conf"))
    with pytest.raises(ConfigError, match="is a directory"):
        read_properties(files, str(tmp_path))
    (tmp_path / "latin.conf").write_bytes(b"brokerName=gr\xfcn")
    with pytest.raises(ConfigError, match="byte 13"):
        read_properties(files, str(tmp_path / "latin.conf"))
    (tmp_path / "bom.conf").write_bytes(b"\xef\xbb\xbfbrokerName=b")
    assert read_properties(files, str(tmp_path / "bom.conf"))["brokerName"].value == "b"


# --- tables --------------------------------------------------------------------------------------------------------


@dataclass
class Counts:
    values: dict[str, int]

    def encode(self) -> bytes:
        return json.dumps(self.values).encode()

    def decode(self, data: bytes) -> None:
        self.values = json.loads(data)


def table_on(disk: SimulatedFileSystem, counts: Counts) -> Table:
    return Table("/store/config/counts.json", counts.encode, counts.decode, simulated_environment(files=disk))


def test_a_table_comes_back_and_a_damaged_one_comes_back_from_its_backup(caplog: pytest.LogCaptureFixture) -> None:
    disk, counts = SimulatedFileSystem(), Counts({"a": 1})
    table = table_on(disk, counts)
    for value in (1, 2):
        counts.values["a"] = value
        table.mark_dirty()
        table.persist()

    found = Counts({})
    assert table_on(disk, found).load()
    assert found.values == {"a": 2}

    disk.damage("/store/config/counts.json", 0, b"\0\0\0")
    assert table_on(disk, found).load()
    assert found.values == {"a": 1}
    assert "its backup was loaded" in caplog.text


def test_a_table_with_both_files_damaged_stops_the_start_instead_of_being_empty() -> None:
    disk, counts = SimulatedFileSystem(), Counts({"a": 1})
    table = table_on(disk, counts)
    for _ in range(2):
        table.mark_dirty()
        table.persist()
    for path in ("/store/config/counts.json", "/store/config/counts.json.bak"):
        disk.damage(path, 0, b"\0\0\0")
    untouched = Counts({"before": 9})
    with pytest.raises(CorruptDataError, match="Restore the file from a copy"):
        table_on(disk, untouched).load()
    assert untouched.values == {"before": 9}


def test_a_first_start_has_no_table_and_that_is_no_error() -> None:
    assert not table_on(SimulatedFileSystem(), Counts({})).load()


@pytest.mark.parametrize("seed", range(30))
def test_a_power_cut_while_a_table_is_written_leaves_the_old_or_the_new_one(seed: int) -> None:
    """The cut comes after any of the calls that a write makes; what is found is whole every time."""
    rng = random.Random(seed)
    disk, counts = SimulatedFileSystem(), Counts({"a": 1})
    table = table_on(disk, counts)
    table.mark_dirty()
    table.persist()
    counts.values["a"] = 2
    table.mark_dirty()
    operation = rng.choice(["pwrite", "fsync", "rename", "sync_directory", "truncate"])
    disk.faults.append(Fault(operation, code=errno.EIO, times=1))
    with pytest.raises(OSError):
        table.persist()
    disk.crash(rng)
    found = Counts({})
    assert table_on(disk, found).load()
    assert found.values in ({"a": 1}, {"a": 2})


# --- periodic work --------------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_work_goes_on_after_it_failed_and_the_failure_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    periodic, times = Periodic(random.Random(3)), []

    def work() -> None:
        times.append(asyncio.get_running_loop().time())
        if len(times) == 2:
            raise RuntimeError("the second run fails")

    entry = periodic.every(5, work, "counting", delay=1)
    await periodic.start()
    await asyncio.sleep(17)
    await periodic.stop()
    await asyncio.sleep(20)
    assert times == [1, 6, 11, 16]
    assert (entry.runs, entry.failures) == (4, 1)
    assert "periodic work 'counting' failed" in caplog.text


_WORDS = st.text(st.characters(exclude_characters="\x01\x02", exclude_categories=["Cs"]), min_size=1, max_size=6)


@given(st.dictionaries(_WORDS, _WORDS, max_size=6), st.dictionaries(_WORDS, st.one_of(st.none(), _WORDS), max_size=4))
def test_replacing_properties_is_what_a_dictionary_does(old: dict[str, str], changes: dict[str, str | None]) -> None:
    expected = {name: value for name, value in old.items() if name not in changes}
    expected |= {name: value for name, value in changes.items() if value is not None}
    assert decode_properties(change_properties(encode_properties(old), changes)) == expected


@given(st.binary(max_size=5_000), st.integers(0, 0xFFFFFFFF), st.integers(0, 100), st.integers(0, 100))
def test_the_faster_crc_is_the_same_number(data: bytes, start: int, left: int, right: int) -> None:
    """Claim: whichever library computes it, the CRC of any bytes is zlib's, continued from any other and in any buffer."""
    view = memoryview(bytearray(data))[left : len(data) - right]
    assert crc.crc32(data, start) == zlib.crc32(data, start)
    assert crc.crc32(view) == zlib.crc32(view)


def test_the_crc_comes_from_zlib_where_nothing_faster_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Claim: the extra `fast` is an extra; without it everything works."""
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "zlib_ng", None)
        without.delitem(sys.modules, "zlib_ng.zlib_ng", raising=False)
        assert importlib.reload(crc).crc32 is zlib.crc32
    importlib.reload(crc)
