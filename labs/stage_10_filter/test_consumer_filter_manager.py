"""The table of SQL92 filters: when a filter is born, when it is dead, and what a restart makes of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec

from rocketmq_py.broker.filter.bloom import BloomFilter
from rocketmq_py.broker.filter.consumer_filter import ConsumerFilterManager
from rocketmq_py.broker.filter.sql_compiler import SqlCompiler
from rocketmq_py.common.environment import system_environment
from rocketmq_py.remoting.bodies.subscription import SubscriptionData

DAY_MS = 86_400_000


@dataclasses.dataclass
class HandClock:
    """A wall clock that stands still until it is moved."""

    now: int = 1_700_000_000_000

    def wall_ms(self) -> int:
        return self.now


def manager(tmp_path: Path, clock: HandClock, error_rate: int = 20) -> ConsumerFilterManager:
    environment = dataclasses.replace(system_environment(), clock=clock)
    return ConsumerFilterManager(str(tmp_path), environment, SqlCompiler(), BloomFilter(error_rate), DAY_MS)


def sql(expression: str, version: int, topic: str = "Orders") -> SubscriptionData:
    return SubscriptionData(topic=topic, sub_string=expression, expression_type="SQL92", sub_version=version)


def tag(topic: str = "Orders") -> SubscriptionData:
    return SubscriptionData(topic=topic, sub_string="*", sub_version=1)


def test_a_filter_is_born_with_its_first_registration_and_again_with_another_expression(tmp_path: Path) -> None:
    clock = HandClock()
    filters = manager(tmp_path, clock)
    filters.register("billing", [sql("a > 5", version=10), tag("Other")])
    data = filters.get("Orders", "billing")
    assert data is not None and data.record.born_time == clock.now and not data.is_dead
    assert filters.get("Other", "billing") is None, "tags need no record"
    assert not data.is_bit_map_valid(clock.now)
    assert data.is_bit_map_valid(clock.now + 1)

    clock.now += 1_000
    filters.register("billing", [sql("a > 5", version=11)])
    data = filters.get("Orders", "billing")
    assert data is not None and (data.record.born_time, data.record.client_version) == (clock.now - 1_000, 11)

    filters.register("billing", [sql("a > 6", version=11)])
    assert filters.get("Orders", "billing") is data, "a version that is not newer changes nothing"

    filters.register("billing", [sql("a > 6", version=12)])
    data = filters.get("Orders", "billing")
    assert data is not None and (data.record.expression, data.record.born_time) == ("a > 6", clock.now)


def test_an_expression_that_does_not_compile_leaves_no_filter_behind(tmp_path: Path) -> None:
    filters = manager(tmp_path, HandClock())
    filters.register("billing", [sql("a >", version=1)])
    assert filters.get("Orders", "billing") is None
    filters.register("billing", [sql("a > 1", version=2)])
    filters.register("billing", [sql("a > '1'", version=3)])
    assert filters.get("Orders", "billing") is None, "the old filter would select what nobody asks for any more"


def test_a_dead_filter_comes_back_to_life_with_its_birthday(tmp_path: Path) -> None:
    clock = HandClock()
    filters = manager(tmp_path, clock)
    filters.register("billing", [sql("a > 5", version=10)])
    born = clock.now
    clock.now += 5_000
    filters.unregister("billing")
    data = filters.get("Orders", "billing")
    assert data is not None and data.is_dead
    filters.register("billing", [sql("a > 5", version=10)])
    assert not data.is_dead
    assert data.record.born_time == born
    filters.register("billing", [sql("b = 1", version=10, topic="Other")])
    assert data.is_dead, "a topic that is no longer subscribed has no living filter"


def test_filters_survive_a_restart_and_die_out_after_a_day(tmp_path: Path) -> None:
    clock = HandClock()
    filters = manager(tmp_path, clock)
    filters.register("billing", [sql("a > 5", version=10)])
    filters.table.persist()

    clock.now += 3_600_000
    again = manager(tmp_path, clock)
    again.table.load()
    data = again.get("Orders", "billing")
    assert data is not None and data.compiled is not None and data.compiled.matches({"a": "6"})
    assert data.is_dead and data.record.dead_time == clock.now - 30_000, "dead until its group shows itself"
    again.register("billing", [sql("a > 5", version=10)])
    assert not data.is_dead

    again.unregister("billing")
    clock.now += DAY_MS
    again.clean()
    assert again.get("Orders", "billing") is not None
    clock.now += 1
    again.clean()
    assert again.get("Orders", "billing") is None


def test_the_file_is_apaches_and_void_for_other_bloom_settings(tmp_path: Path) -> None:
    # As a broker 5.3.3 wrote it.
    text = (
        '{"filterDataByTopic":{"GoldFilter":{"groupFilterData":{"GoldGroupFilter2":{"bloomFilterData":{"bitNum":112,'
        '"bitPos":[53,47,107]},"bornTime":1795263342266,"clientVersion":1795263343157,"consumerGroup":'
        '"GoldGroupFilter2","dead":true,"deadTime":1795263359239,"expression":"a > 6","expressionType":"SQL92",'
        '"topic":"GoldFilter"}},"topic":"GoldFilter"}}}'
    )
    (tmp_path / "consumerFilter.json").write_text(text)
    clock = HandClock(1_795_263_400_000)
    filters = manager(tmp_path, clock)
    filters.table.load()
    data = filters.get("GoldFilter", "GoldGroupFilter2")
    assert data is not None and data.is_dead and data.record.client_version == 1_795_263_343_157
    written = msgspec.json.decode(filters.table.encode())
    record = written["filterDataByTopic"]["GoldFilter"]["groupFilterData"]["GoldGroupFilter2"]
    expected = msgspec.json.decode(text)["filterDataByTopic"]["GoldFilter"]["groupFilterData"]["GoldGroupFilter2"]
    del expected["dead"]  # derived from the two times; RocketMQ does not read it back
    assert record == expected

    other = manager(tmp_path, clock, error_rate=10)
    other.table.load()
    assert other.get("GoldFilter", "GoldGroupFilter2") is None
