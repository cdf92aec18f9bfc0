"""Frames: the bytes of a real broker and its clients, and nothing that crashes or hangs on the bytes of anyone else."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.remoting.codec import MAX_FIELDS, decode, encode
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand, SerializeType
from rocketmq_py.remoting.errors import FrameError, HeaderError
from rocketmq_py.remoting.header import I32, I64, decode_header, encode_header
from rocketmq_py.remoting.language import LanguageCode

CODES = json.loads((Path(__file__).parents[1] / "data/codes.json").read_text())

#: GET_ROUTEINFO_BY_TOPIC as a Java client writes it.
JAVA_HEADER = (
    b'{"code":105,"extFields":{"topic":"TopicTest"},"flag":0,"language":"JAVA","opaque":7,'
    b'"serializeTypeCurrentRPC":"JSON","version":479}'
)


def frame(header: bytes, body: bytes = b"", form: int = 0) -> bytes:
    """Return a frame without its length field."""
    return (form << 24 | len(header)).to_bytes(4, "big") + header + body


def test_a_command_has_the_bytes_that_a_java_client_writes() -> None:
    command = RemotingCommand(105, {"topic": "TopicTest"}, opaque=7, language=LanguageCode.JAVA)
    encoded = encode(command)
    assert encoded == (4 + len(JAVA_HEADER)).to_bytes(4, "big") + frame(JAVA_HEADER)


def test_a_binary_header_has_its_fields_where_the_table_says() -> None:
    command = RemotingCommand(
        10, {"a": "bc"}, b"xyz", "re", 0x01020304, 0, LanguageCode.CPP, 479, SerializeType.ROCKETMQ
    )
    assert encode(command).hex(" ") == " ".join(
        (
            "00 00 00 27",  # 39 bytes follow
            "01 00 00 20",  # binary form, header of 32 bytes
            "00 0a",  # code 10
            "01",  # C++
            "01 df",  # version 479
            "01 02 03 04",  # opaque
            "00 00 00 00",  # flag
            "00 00 00 02 72 65",  # remark "re"
            "00 00 00 09",  # fields: 9 bytes
            "00 01 61 00 00 00 02 62 63",  # "a" = "bc"
            "78 79 7a",  # body
        )
    )


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(
    st.builds(
        RemotingCommand,
        code=st.integers(-1000, 32_767),
        ext_fields=st.dictionaries(texts, texts, max_size=5),
        body=st.binary(max_size=60),
        remark=st.none() | texts,
        opaque=st.integers(-(1 << 31), (1 << 31) - 1),
        flag=st.integers(0, 3),
        language=st.sampled_from(LanguageCode),
        version=st.integers(0, 32_767),
        serialize_type=st.sampled_from(SerializeType),
    )
)
def test_every_command_comes_back_in_both_forms(command: RemotingCommand) -> None:
    assert decode(encode(command)[4:]) == command


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_a_command_or_a_frame_error(data: bytes) -> None:
    try:
        decode(data)
    except FrameError:
        pass


@given(st.binary(max_size=120), st.sampled_from([0, 1]))
def test_arbitrary_headers_are_a_command_or_a_frame_error(header: bytes, form: int) -> None:
    try:
        decode(frame(header, form=form))
    except FrameError:
        pass


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (b"[]", "JSON header"),
        (b"null", "JSON header"),
        (b'"x"', "JSON header"),
        (b'{"extFields":{"a":' + b"[" * 100_000, "JSON header"),
        (b'{"code":NaN}', "JSON header"),
        (b'{"code":1e400}', "JSON header|code"),
        (b'{"code":10.5}', "code is 10.5"),
        (b'{"code":true}', "code is True"),
        (b'{"code":2147483648}', "code is 2147483648"),
        (b'{"code":"1_0"}', "code is '1_0'"),
        (b'{"code":1,"opaque":"\xef\xbc\x91"}', "opaque is"),
        (b"\xef\xbb\xbf{}", "JSON header"),
        ('{"code":1}'.encode("utf-16"), "JSON header"),
        (b'{"code":1,"extFields":{"a":"\\ud800"}}', "JSON header"),
        (json.dumps({"code": 1, "extFields": {str(i): "" for i in range(MAX_FIELDS + 1)}}).encode(), "fields"),
    ],
    ids=range(15),
)
def test_a_header_that_is_none_is_refused_with_the_reason(header: bytes, says: str) -> None:
    with pytest.raises(FrameError, match=says):
        decode(frame(header))


@pytest.mark.parametrize(
    "data", [b"", b"\0\0\0", frame(b""), frame(b"{}", form=2), frame(b"{}", form=255), b"\0\0\0\x09{}"]
)
def test_an_impossible_prefix_is_refused(data: bytes) -> None:
    with pytest.raises(FrameError):
        decode(data)


def test_what_java_tolerates_is_tolerated() -> None:
    """Numbers as texts, numbers and booleans as fields, unknown members, unknown languages, duplicate keys: last wins."""
    header = (
        b'{ "code":"10", "code":25, "opaque":"8","version":1,"language":"KLINGON","more":[1,{}],'
        b'"extFields":{"queueId":0,"unitMode":false,"none":null,"rate":1.5}}\n'
    )
    command = decode(frame(header, b"body"))
    assert (command.code, command.opaque, command.language, command.body) == (25, 8, LanguageCode.OTHER, b"body")
    assert command.ext_fields == {"queueId": "0", "unitMode": "false", "rate": "1.5"}


def test_the_dictionary_of_codes_is_complete() -> None:
    for name, entry in CODES["requestCodes"].items():
        assert RequestCode[name] == entry["value"]
    for name, entry in CODES["responseCodes"].items():
        assert ResponseCode[name] == entry["value"]
    for name, entry in CODES["languageCodes"].items():
        assert LanguageCode[name] == entry["code"]


class SampleHeader(msgspec.Struct, rename="camel", kw_only=True):
    topic: str
    queue_id: I32
    commit_offset: I64 = 0
    is_batch: bool | None = None


def test_a_typed_header_comes_back_and_absent_members_stay_absent() -> None:
    header = SampleHeader(topic="T", queue_id=3, commit_offset=1 << 40)
    fields = encode_header(header)
    assert fields == {"topic": "T", "queueId": "3", "commitOffset": "1099511627776"}
    assert decode_header(SampleHeader, {**fields, "unknown": "x"}) == header


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"topic": "T"}, "required field queueId is missing"),
        ({"topic": "T", "queueId": "1_0"}, "queueId is '1_0'"),
        ({"topic": "T", "queueId": "2147483648"}, "outside"),
        ({"topic": "T", "queueId": "0", "commitOffset": "９"}, "commitOffset"),
    ],
)
def test_a_wrong_field_is_refused_by_name(fields: dict[str, str], says: str) -> None:
    with pytest.raises(HeaderError, match=says):
        decode_header(SampleHeader, fields)


def test_what_cannot_be_encoded_is_refused_before_anything_is_written() -> None:
    with pytest.raises(InvalidInputError, match="UTF-8"):
        encode(RemotingCommand(1, {"a": "\ud800"}))
    with pytest.raises(InvalidInputError, match="largest frame"):
        encode(RemotingCommand(1, body=bytes(16 << 20)))
