"""What a broker sends to register: its topics, as JSON or as one compressed stream.

    the stream, inflated; every text has its length in front of it
    offset  content
         0  length (4 bytes, big-endian), JSON of the data version
         .  number of topics (4 bytes)
         .  per topic: length, "name readQueues writeQueues perm filterType attributesJSON"
         .  length, JSON list of filter servers
         .  number of static topics (4 bytes); per topic: length, JSON. Only from brokers of 5.0 or later

A 4.9 name server accepts exactly five words per topic, a 5.x name server five or more.

Source: `RegisterBrokerBody`, `TopicConfig#encode`, RocketMQ 5.3.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any, Final

import msgspec

from rocketmq_py.common.data_version import DataVersion
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.java import parse_i32
from rocketmq_py.remoting.bodies.topic_config import TopicConfig, TopicConfigTable
from rocketmq_py.remoting.java_json import decode_body, encode_body

#: Largest inflated body that is read, bytes. A table of 100,000 topics needs about 10 MB.
MAX_INFLATED: Final = 64 << 20

_LENGTH = struct.Struct(">i")


class RegisterBrokerBody(msgspec.Struct, rename="camel", kw_only=True):
    """Body of REGISTER_BROKER (103).

    Attributes:
        filter_server_list: None leaves what the name server has; always empty today.
        topic_config_serialize_wrapper: the topics and their version.
    """

    filter_server_list: list[str] | None = []
    topic_config_serialize_wrapper: TopicConfigTable = msgspec.field(default_factory=TopicConfigTable)


def body_crc32(body: bytes) -> int:
    """Return the checksum that the request header carries: CRC-32 without its highest bit."""
    return zlib.crc32(body) & 0x7FFFFFFF


def encode_register_body(body: RegisterBrokerBody, *, compressed: bool, attributes: bool = True) -> bytes:
    """Encode a registration.

    Args:
        compressed: as one zlib stream, in which `order` and `topic_sys_flag` of the topics are lost.
        attributes: write the sixth word of each topic and the static topics, which name servers of 4.9 refuse.
    """
    if not compressed:
        return encode_body(body)
    table = body.topic_config_serialize_wrapper
    parts = [_with_length(encode_body(table.data_version)), _LENGTH.pack(len(table.topic_config_table))]
    parts += [_with_length(_topic_text(topic, attributes).encode()) for topic in table.topic_config_table.values()]
    parts.append(_with_length(encode_body(body.filter_server_list or [])))
    if attributes:
        parts.append(_LENGTH.pack(len(table.topic_queue_mapping_info_map)))
        parts += [_with_length(encode_body(info)) for info in table.topic_queue_mapping_info_map.values()]
    return zlib.compress(b"".join(parts), 9)


def decode_register_body(data: bytes, *, compressed: bool, static_topics: bool) -> RegisterBrokerBody:
    """Decode a registration; no bytes at all mean "no topics, version 0".

    Args:
        data: the body as it came.
        compressed: it is one zlib stream.
        static_topics: the sender is 5.0 or later, so the stream ends with static topics.

    Raises:
        InvalidInputError: the bytes are not what a broker sends, or inflate to more than `MAX_INFLATED`.
    """
    if not data:
        return RegisterBrokerBody()
    if not compressed:
        return decode_body(data, RegisterBrokerBody)
    stream = _Stream(_inflate(data))
    table = TopicConfigTable(data_version=decode_body(stream.text(), DataVersion))
    for _ in range(stream.number()):
        topic = _parse_topic(stream.text())
        table.topic_config_table[topic.topic_name] = topic
    filter_servers = decode_body(stream.text(), list[str])
    if static_topics:
        for _ in range(stream.number()):
            info = decode_body(stream.text(), dict[str, Any])
            table.topic_queue_mapping_info_map[str(info.get("topic"))] = info
    return RegisterBrokerBody(filter_server_list=filter_servers, topic_config_serialize_wrapper=table)


def _with_length(data: bytes) -> bytes:
    return _LENGTH.pack(len(data)) + data


def _topic_text(topic: TopicConfig, attributes: bool) -> str:
    words = [topic.topic_name, topic.read_queue_nums, topic.write_queue_nums, topic.perm, topic.topic_filter_type]
    if attributes:
        words.append(encode_body(topic.attributes).decode())
    return " ".join(map(str, words))


def _parse_topic(text: bytes) -> TopicConfig:
    try:
        words = text.decode("utf-8").split(" ")
    except UnicodeDecodeError:
        raise InvalidInputError(f"topic in a registration is not UTF-8: {text[:64]!r}") from None
    if len(words) < 5:
        raise InvalidInputError(f"topic in a registration has {len(words)} words, expected at least 5: {text[:64]!r}")
    return TopicConfig(
        topic_name=words[0],
        read_queue_nums=parse_i32(words[1], "readQueueNums"),
        write_queue_nums=parse_i32(words[2], "writeQueueNums"),
        perm=parse_i32(words[3], "perm"),
        topic_filter_type=words[4],
        attributes=decode_body(words[5].encode(), dict[str, str]) if len(words) > 5 and words[5] else {},
    )


def _inflate(data: bytes) -> bytes:
    inflater = zlib.decompressobj()
    try:
        result = inflater.decompress(data, MAX_INFLATED)
    except zlib.error as error:
        raise InvalidInputError(f"compressed registration is not a zlib stream: {error}") from None
    if inflater.unconsumed_tail or not inflater.eof:
        raise InvalidInputError(f"compressed registration is cut off, or inflates to more than {MAX_INFLATED} bytes")
    return result


class _Stream:
    """Takes length-prefixed texts off the inflated body."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def number(self) -> int:
        if len(self.data) - self.at < _LENGTH.size:
            raise InvalidInputError(f"registration ends at byte {self.at}, expected a 4-byte number there")
        number = int(_LENGTH.unpack_from(self.data, self.at)[0])
        self.at += _LENGTH.size
        # Every element takes at least its own length word, so a larger count cannot be honest.
        if not 0 <= number <= len(self.data) - self.at:
            raise InvalidInputError(
                f"registration says {number} at byte {self.at - 4}, but {len(self.data)} bytes came"
            )
        return number

    def text(self) -> bytes:
        length = self.number()
        self.at += length
        return self.data[self.at - length : self.at]
