"""The two steps of a filter, on plain values."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from rocketmq_py.broker.filter.bloom import BloomFilter
from rocketmq_py.broker.filter.calc_bit_map import BitMapDispatcher
from rocketmq_py.broker.filter.consumer_filter import ConsumerFilterManager
from rocketmq_py.broker.filter.message_filters import MessageFilters
from rocketmq_py.broker.filter.sql_compiler import SqlCompiler
from rocketmq_py.broker.refusal import Refusal
from rocketmq_py.common.environment import system_environment
from rocketmq_py.common.file_system import OsFileSystem
from rocketmq_py.common.host import encode_host
from rocketmq_py.common.java import string_hash
from rocketmq_py.common.properties import encode_properties
from rocketmq_py.common.record import encode_record
from rocketmq_py.remoting.bodies.subscription import SubscriptionData, build_subscription
from rocketmq_py.remoting.codes import ResponseCode
from rocketmq_py.store.consume_queue_ext import ConsumeQueueExtStore, ExtUnit, to_address
from rocketmq_py.store.filter import ALL, MessageFilter


@dataclasses.dataclass
class HandClock:
    now: int = 1_700_000_000_000

    def wall_ms(self) -> int:
        return self.now


class Parts:
    """The filters of one broker, without the broker."""

    def __init__(self, tmp_path: Path, support_retry: bool = False) -> None:
        self.clock = HandClock()
        environment = dataclasses.replace(system_environment(), clock=self.clock)
        compiler = SqlCompiler()
        self.registered = ConsumerFilterManager(str(tmp_path), environment, compiler, BloomFilter())
        self.filters = MessageFilters(compiler, self.registered, support_retry=support_retry)


def record(**properties: str) -> bytes:
    host = encode_host("127.0.0.1", 10911)
    return encode_record(
        topic=b"Orders", queue_id=3, body=b"body", properties=encode_properties(properties), born_host=host,
        store_host=host,
    )  # fmt: skip


def accepted(found: MessageFilter | Refusal) -> MessageFilter:
    assert not isinstance(found, Refusal), found
    return found


def test_tags_are_compared_by_hash_code_on_the_broker(tmp_path: Path) -> None:
    tags = Parts(tmp_path).filters.by_tag("billing", build_subscription("Orders", "TagA || TagB"))
    assert tags.matches_entry(string_hash("TagB"), None)
    assert not tags.matches_entry(string_hash("TagC"), None)
    assert not tags.matches_entry(0, None), "a message without a tag has code 0"
    assert tags.matches_record(record(TAGS="TagC")), "the broker leaves the second step to the client"
    # With an extension the code is there; if the extension lost it, the client has to look.
    assert tags.matches_entry(to_address(34), ExtUnit(string_hash("TagA"), 5))
    assert not tags.matches_entry(to_address(34), ExtUnit(string_hash("TagC"), 5))
    assert tags.matches_entry(to_address(34), None)


def test_wrong_hash_codes_of_a_client_lose_nothing(tmp_path: Path) -> None:
    # The C++ client sends 0 for every tag.
    subscription = SubscriptionData(topic="Orders", sub_string="ct || zz", tags_set=["ct", "zz"], code_set=[0, 0])
    tags = Parts(tmp_path).filters.by_tag("billing", subscription)
    assert tags.matches_entry(string_hash("zz"), None)
    assert not tags.matches_entry(0, None)


def test_everything_passes_a_star_and_a_class_filter_is_never_run(tmp_path: Path) -> None:
    filters = Parts(tmp_path).filters
    assert filters.by_tag("billing", build_subscription("Orders", "*")) is ALL
    code = SubscriptionData(topic="Orders", sub_string="public class Evil {}", class_filter_mode=True)
    assert filters.by_tag("billing", code) is ALL


def test_an_expression_that_is_not_registered_is_compiled_for_the_request(tmp_path: Path) -> None:
    filters = Parts(tmp_path).filters
    found = accepted(filters.by_sql92("billing", build_subscription("Orders", "a > 5", "SQL92")))
    assert found.matches_entry(0, ExtUnit(0, 1_800_000_000_000, bytes(14))), "no bits are known: read the message"
    assert found.matches_record(record(a="6"))
    assert not found.matches_record(record(a="5"))
    refusal = filters.by_sql92("billing", build_subscription("Orders", "a > ", "SQL92"))
    assert isinstance(refusal, Refusal) and refusal.code is ResponseCode.SUBSCRIPTION_PARSE_FAILED
    assert "position 5" in refusal.remark


def test_a_registered_filter_rules_out_by_its_bits_but_only_messages_younger_than_itself(tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    subscription = SubscriptionData(topic="Orders", sub_string="a > 5", expression_type="SQL92", sub_version=7)
    parts.registered.register("billing", [subscription])
    found = accepted(parts.filters.by_sql92("billing", subscription))
    dispatcher = BitMapDispatcher(ConsumeQueueExtStore(str(tmp_path), 4_096, OsFileSystem()), parts.registered)
    born = parts.clock.now
    yes = dispatcher.bit_map("Orders", encode_properties({"a": "6"}))
    no = dispatcher.bit_map("Orders", encode_properties({"a": "5"}))
    assert len(yes) == len(no) == 14 and any(yes) and not any(no)
    assert found.matches_entry(0, ExtUnit(0, born + 1, yes))
    assert not found.matches_entry(0, ExtUnit(0, born + 1, no))
    assert found.matches_entry(0, ExtUnit(0, born, no)), "a message stored before the filter was born has no bits of it"
    assert found.matches_entry(0, ExtUnit(0, born + 1, b"")), "no map, no verdict"
    assert found.matches_entry(0, None)
    assert dispatcher.bit_map("Other", encode_properties({"a": "6"})) == b"", "nobody filters that topic"


def test_a_retry_topic_is_filtered_by_the_expression_of_the_original_topic(tmp_path: Path) -> None:
    retry = build_subscription("%RETRY%billing", "*")
    assert Parts(tmp_path).filters.by_tag("billing", retry) is ALL, "filterSupportRetry is off by default"
    parts = Parts(tmp_path, support_retry=True)
    parts.registered.register(
        "billing",
        [SubscriptionData(topic="Orders", sub_string="a > 5", expression_type="SQL92", sub_version=7)],
    )
    found = parts.filters.by_tag("billing", retry)
    assert found.matches_record(record(a="6", RETRY_TOPIC="Orders"))
    assert not found.matches_record(record(a="5", RETRY_TOPIC="Orders"))
    assert found.matches_record(record(a="5", RETRY_TOPIC="Other"))
