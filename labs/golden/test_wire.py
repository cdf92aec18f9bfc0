"""Every frame that was recorded between Apache RocketMQ 5.3.3 and 4.9.7 and their clients goes through our codec.

The recordings (`labs/golden/data/wire.tar.xz`) hold the frames of Java, C++, Node and Go clients, of mqadmin, of brokers
registering, and of hand-made wrong requests.
"""

from __future__ import annotations

import functools
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from rocketmq_py.remoting.codec import decode, encode
from rocketmq_py.remoting.codes import RequestCode
from rocketmq_py.remoting.command import RemotingCommand, SerializeType
from rocketmq_py.remoting.errors import FrameError
from rocketmq_py.remoting.language import LanguageCode

ARCHIVE = Path(__file__).parent / "data/wire.tar.xz"


@functools.cache
def scenarios() -> dict[str, list[dict[str, Any]]]:
    """Return the frames of each scenario; the streams of the replication port are no frames."""
    found = {}
    with tarfile.open(ARCHIVE) as archive:
        for member in archive:
            name = Path(member.name).stem
            if member.isfile() and member.name.endswith(".jsonl") and not name.endswith("-stream"):
                file = archive.extractfile(member)
                assert file is not None
                found[name] = [json.loads(line) for line in file.read().splitlines()][1:]
    return found


@pytest.mark.parametrize("name", sorted(scenarios()))
def test_every_recorded_frame_is_read_and_written_again(name: str) -> None:
    """What a frame says is what the recorder's own tools read from it; written again, it says the same.

    A frame in the form and order that we write comes out byte for byte; of the others (other orders of fields, numbers
    that are not texts) the decoded commands are equal.
    """
    frames = scenarios()[name]
    assert frames
    identical = 0
    for row in frames:
        data = bytes.fromhex(row["frame_hex"])
        assert int.from_bytes(data[:4], "big") == len(data) - 4
        try:
            command = decode(data[4:])
        except FrameError as error:
            assert name == "errors-raw", f"{row['kind']} {row.get('code')}: {error}"
            continue
        check_fields(command, row)
        encoded = encode(command)
        identical += encoded == data
        assert decode(encoded[4:]) == command
    print(f"{name}: {len(frames)} frames, {identical} written again byte for byte")
    if name.startswith("java") and "serialized" not in name:
        assert identical > 0.5 * len(frames), "Java's JSON headers are in alphabetical order, and so are ours"


def check_fields(command: RemotingCommand, row: dict[str, Any]) -> None:
    assert command.code == int(row["code"])
    assert command.opaque == int(row["opaque"])
    assert command.flag == int(row["flag"] or 0)
    assert command.version == int(row["version"] or 0)
    assert command.serialize_type is SerializeType[row["serialize"]]
    assert command.is_response == (row["kind"] == "response")
    assert command.is_one_way == (row["kind"] == "oneway")
    assert len(command.body) == row["body_len"]
    assert (command.remark or None) == (row.get("remark") or None)
    if isinstance(row["language"], str):
        assert command.language is LanguageCode.__members__.get(row["language"], LanguageCode.OTHER)
    for field, value in (row.get("extFields") or {}).items():
        if isinstance(value, str):
            assert command.ext_fields.get(field) == value, field


def test_the_recordings_cover_the_codes_that_clients_use() -> None:
    """A recording that lost its frames would let every test above pass."""
    codes = {row["code"] for rows in scenarios().values() for row in rows if row["kind"] != "response"}
    assert len(scenarios()) >= 35
    assert sum(len(rows) for rows in scenarios().values()) > 5_000
    for code in (
        RequestCode.SEND_MESSAGE_V2,
        RequestCode.SEND_BATCH_MESSAGE,
        RequestCode.PULL_MESSAGE,
        RequestCode.HEART_BEAT,
        RequestCode.GET_ROUTEINFO_BY_TOPIC,
        RequestCode.REGISTER_BROKER,
        RequestCode.QUERY_CONSUMER_OFFSET,
        RequestCode.GET_CONSUMER_LIST_BY_GROUP,
    ):
        assert code in codes, code.name
