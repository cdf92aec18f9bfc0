"""Which group filters which topic by SQL92, and since when: the table behind `consumerFilter.json`.

A subscription is compiled once, when a consumer registers it, and gets its bits of the bloom filter. The table outlives
the consumers for a day: bit maps are only valid for messages stored *after* a filter existed, so forgetting it with
the last consumer would make every restart of a consumer evaluate its whole backlog.

Source: `ConsumerFilterManager`, `ConsumerFilterData`, RocketMQ 5.3.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import msgspec

from rocketmq_py.broker.filter.bloom import BloomFilter, BloomFilterData
from rocketmq_py.broker.filter.expression import FilterExpressionError, SqlExpression
from rocketmq_py.broker.filter.sql_compiler import SqlCompiler
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.table import Table
from rocketmq_py.remoting.bodies.subscription import SQL92, SubscriptionData, is_tag_type
from rocketmq_py.remoting.java_json import decode_body

logger = logging.getLogger(__name__)

FILE_NAME: Final = "consumerFilter.json"
#: A record read from the file counts as dead since this long before the start, until its group comes back.
_DEAD_BEFORE_START_MS: Final = 30_000


class ConsumerFilterRecord(msgspec.Struct, rename="camel", kw_only=True):
    """One record as the file has it."""

    consumer_group: str
    topic: str
    expression: str
    expression_type: str = SQL92
    born_time: int = 0
    dead_time: int = 0
    client_version: int = 0
    bloom_filter_data: BloomFilterData | None = None


class _TopicRecords(msgspec.Struct, rename="camel", kw_only=True):
    topic: str
    group_filter_data: dict[str, ConsumerFilterRecord] = {}


class _File(msgspec.Struct, rename="camel", kw_only=True):
    filter_data_by_topic: dict[str, _TopicRecords] = {}


@dataclass(slots=True)
class ConsumerFilterData:
    """A group's filter on a topic.

    Attributes:
        record: what is persisted.
        compiled: the expression; None if it does not compile (any more).
    """

    record: ConsumerFilterRecord
    compiled: SqlExpression | None

    @property
    def is_dead(self) -> bool:
        """Whether no consumer of the group subscribes the topic any more."""
        return self.record.dead_time >= self.record.born_time

    def is_bit_map_valid(self, store_timestamp: int) -> bool:
        """Tell whether a message stored then knew of this filter."""
        return store_timestamp > self.record.born_time

    def __repr__(self) -> str:
        record = self.record
        return (
            f"<ConsumerFilterData {record.consumer_group} on {record.topic}: {record.expression!r} "
            f"born {record.born_time}{' dead' if self.is_dead else ''}{'' if self.compiled else ' not compiled'}>"
        )


class ConsumerFilterManager:
    """The filters of all groups; every method runs on the event loop and waits for nothing.

    Args:
        config_path: the folder of the file.
        environment: clock and files.
        compiler: compiles expressions.
        bloom_filter: gives each group its bits.
        clean_time_span: how long a dead record is kept, ms (`filterDataCleanTimeSpan`).
    """

    def __init__(
        self,
        config_path: str,
        environment: Environment,
        compiler: SqlCompiler,
        bloom_filter: BloomFilter,
        clean_time_span: int = 86_400_000,
    ) -> None:
        self.table = Table(os.path.join(config_path, FILE_NAME), self._encode, self._decode, environment)
        self.bloom_filter = bloom_filter
        self._compiler = compiler
        self._clock = environment.clock
        self._clean_time_span = clean_time_span
        self._topics: dict[str, dict[str, ConsumerFilterData]] = {}

    async def start(self) -> None:
        """Read the file; a damaged one stops the start (see `Table.load`)."""
        self.table.load()

    # --- asking -------------------------------------------------------------------------------------------------------

    def get(self, topic: str, group: str) -> ConsumerFilterData | None:
        """Return a group's filter on a topic, dead or alive, or None."""
        return self._topics.get(topic, {}).get(group)

    def of_topic(self, topic: str) -> Iterable[ConsumerFilterData]:
        """Return all filters on a topic; dead ones too, as their bits must go on being set."""
        return self._topics.get(topic, {}).values()

    # --- consumers come and go ----------------------------------------------------------------------------------------

    def register(self, group: str, subscriptions: Iterable[SubscriptionData]) -> None:
        """Take over the subscriptions of a group, all of them at once; what it no longer subscribes dies."""
        subscribed = set()
        for subscription in subscriptions:
            subscribed.add(subscription.topic)
            if not is_tag_type(subscription.expression_type):
                self._register(group, subscription)
        for data in self._of_group(group):
            if data.record.topic not in subscribed and not data.is_dead:
                self._kill(data)

    def unregister(self, group: str) -> None:
        """Note that the last consumer of a group has gone."""
        for data in self._of_group(group):
            if not data.is_dead:
                self._kill(data)

    def _register(self, group: str, subscription: SubscriptionData) -> None:
        old = self.get(subscription.topic, group)
        bits = self.bloom_filter.generate(group, subscription.topic)
        if old is None:
            self._put(group, subscription, bits)
            return
        record = old.record
        if subscription.sub_version <= record.client_version:
            if old.is_dead and subscription.sub_version == record.client_version:
                self._revive(old)
            return
        if (record.expression, record.expression_type, record.bloom_filter_data) == (
            subscription.sub_string,
            subscription.expression_type,
            bits,
        ):
            record.client_version = subscription.sub_version
            self._revive(old)
            return
        # Another expression is another filter: bits set so far say nothing about it, so it is born now.
        del self._topics[subscription.topic][group]
        self._put(group, subscription, bits)

    def _put(self, group: str, subscription: SubscriptionData, bits: BloomFilterData) -> None:
        self.table.mark_dirty()
        record = ConsumerFilterRecord(
            consumer_group=group,
            topic=subscription.topic,
            expression=subscription.sub_string,
            expression_type=subscription.expression_type or "",
            born_time=self._clock.wall_ms(),
            client_version=subscription.sub_version,
            bloom_filter_data=bits,
        )
        compiled = self._compile(record)
        if compiled is not None:
            self._topics.setdefault(subscription.topic, {})[group] = ConsumerFilterData(record, compiled)

    def _compile(self, record: ConsumerFilterRecord) -> SqlExpression | None:
        if record.expression_type != SQL92:
            logger.warning(
                "group %s filters topic %s by %s, which is no expression type; use TAG or SQL92",
                record.consumer_group,
                record.topic,
                record.expression_type,
            )
            return None
        try:
            return self._compiler.compile(record.expression)
        except FilterExpressionError as error:
            logger.warning("the filter of group %s on topic %s: %s", record.consumer_group, record.topic, error)
            return None

    def _kill(self, data: ConsumerFilterData) -> None:
        data.record.dead_time = self._clock.wall_ms()
        self.table.mark_dirty()

    def _revive(self, data: ConsumerFilterData) -> None:
        data.record.dead_time = 0
        self.table.mark_dirty()

    def _of_group(self, group: str) -> Iterator[ConsumerFilterData]:
        for groups in self._topics.values():
            if group in groups:
                yield groups[group]

    def clean(self) -> None:
        """Forget records that have been dead for long."""
        now = self._clock.wall_ms()
        for topic, groups in list(self._topics.items()):
            for group, data in list(groups.items()):
                if data.is_dead and now - data.record.dead_time > self._clean_time_span:
                    del groups[group]
                    self.table.mark_dirty()
            if not groups:
                del self._topics[topic]

    # --- the file -----------------------------------------------------------------------------------------------------

    def _encode(self) -> bytes:
        content = _File(
            filter_data_by_topic={
                topic: _TopicRecords(
                    topic=topic, group_filter_data={group: data.record for group, data in groups.items()}
                )
                for topic, groups in self._topics.items()
                if groups
            }
        )
        return msgspec.json.format(msgspec.json.encode(content), indent=2)

    def _decode(self, data: bytes) -> None:
        content = decode_body(data, _File)
        now = self._clock.wall_ms()
        topics: dict[str, dict[str, ConsumerFilterData]] = {}
        for topic, records in content.filter_data_by_topic.items():
            for group, record in records.group_filter_data.items():
                if not self.bloom_filter.is_valid(record.bloom_filter_data):
                    logger.warning(
                        "%s was written with other settings of the bloom filter than now (%s bits); it is not used; "
                        "consumers will register anew",
                        self.table.path,
                        self.bloom_filter.bits,
                    )
                    self._topics = {}
                    return
                if record.dead_time == 0:
                    # Its consumers must show first that they are still there.
                    record.dead_time = max(record.born_time, now - _DEAD_BEFORE_START_MS)
                topics.setdefault(topic, {})[group] = ConsumerFilterData(record, self._compile(record))
        self._topics = topics

    def __repr__(self) -> str:
        return f"<ConsumerFilterManager {sum(map(len, self._topics.values()))} filters on {len(self._topics)} topics>"
