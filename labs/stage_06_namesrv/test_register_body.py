"""The body of a registration in both forms."""

import struct
import zlib

import pytest

from rocketmq_py.common.data_version import DataVersion
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.remoting.bodies import register_broker
from rocketmq_py.remoting.bodies.register_broker import RegisterBrokerBody, decode_register_body, encode_register_body
from rocketmq_py.remoting.bodies.topic_config import TopicConfig, TopicConfigTable


def text(data: bytes) -> bytes:
    return struct.pack(">i", len(data)) + data


BODY = RegisterBrokerBody(
    filter_server_list=["f:1"],
    topic_config_serialize_wrapper=TopicConfigTable(
        data_version=DataVersion(2, 1_700_000_000_123, 5),
        topic_config_table={
            "TopicA": TopicConfig(
                topic_name="TopicA",
                read_queue_nums=3,
                write_queue_nums=4,
                perm=5,
                topic_filter_type="MULTI_TAG",
                attributes={"message.type": "FIFO"},
            ),
        },
        topic_queue_mapping_info_map={"StaticT": {"bname": "broker-b", "topic": "StaticT", "totalQueues": 8}},
    ),
)


def test_both_forms_carry_the_same():
    for compressed in (False, True):
        data = encode_register_body(BODY, compressed=compressed)
        assert decode_register_body(data, compressed=compressed, static_topics=True) == BODY, compressed


def test_the_compressed_form_of_a_4_9_broker_has_five_words_a_topic_and_no_static_topics():
    data = zlib.compress(
        text(b'{"counter":5,"timestamp":1700000000123}')
        + struct.pack(">i", 2)
        + text(b"TopicA 3 4 5 MULTI_TAG")
        + text(b"TopicB 1 2 6 SINGLE_TAG")
        + text(b'["f:1","f:2"]')
    )

    body = decode_register_body(data, compressed=True, static_topics=False)

    assert body.filter_server_list == ["f:1", "f:2"]
    assert body.topic_config_serialize_wrapper.data_version == DataVersion(0, 1_700_000_000_123, 5)
    assert body.topic_config_serialize_wrapper.topic_config_table == {
        "TopicA": TopicConfig(
            topic_name="TopicA", read_queue_nums=3, write_queue_nums=4, perm=5, topic_filter_type="MULTI_TAG"
        ),
        "TopicB": TopicConfig(topic_name="TopicB", read_queue_nums=1, write_queue_nums=2),
    }


def test_no_body_means_no_topics_and_version_zero():
    body = decode_register_body(b"", compressed=True, static_topics=True)

    assert body.topic_config_serialize_wrapper.topic_config_table == {}
    assert body.topic_config_serialize_wrapper.data_version == DataVersion(0, 0, 0)


@pytest.mark.parametrize(
    ("inflated", "problem"),
    [
        (text(b"{}") + struct.pack(">i", 1 << 30), "says 1073741824"),
        (text(b"{}") + struct.pack(">i", -1), "says -1"),
        (text(b"{}") + struct.pack(">i", 1) + text(b"TopicA 3 4"), "has 3 words"),
        (text(b"{}") + struct.pack(">i", 1) + text(b"TopicA 3 1_0 6 SINGLE_TAG"), "not a decimal integer"),
        (text(b"{}") + b"\0\0", "ends at byte 6"),
    ],
)
def test_a_bad_stream_is_refused_with_the_place(inflated, problem):
    with pytest.raises(InvalidInputError) as error:
        decode_register_body(zlib.compress(inflated), compressed=True, static_topics=True)

    assert problem in str(error.value)


def test_what_is_no_stream_or_inflates_without_end_is_refused(monkeypatch):
    monkeypatch.setattr(register_broker, "MAX_INFLATED", 10_000)

    with pytest.raises(InvalidInputError, match="not a zlib stream"):
        decode_register_body(b"{}", compressed=True, static_topics=True)
    with pytest.raises(InvalidInputError, match="inflates to more than 10000"):
        decode_register_body(zlib.compress(bytes(1_000_000)), compressed=True, static_topics=True)
