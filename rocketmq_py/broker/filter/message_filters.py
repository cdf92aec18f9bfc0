"""The filters that a read asks: by tag and by SQL92, each in two steps.

The first step sees only the queue's unit and is cheap; it may let too much pass, but never too little. By tag it
compares hash codes, by SQL92 bits of the bloom filter. The second step reads the message. For tags RocketMQ leaves it
to the client, which compares the texts; for SQL92 the broker evaluates the expression.

Source: `ExpressionMessageFilter`, `ExpressionForRetryMessageFilter`, `DefaultMessageFilter`, RocketMQ 5.3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from rocketmq_py.broker.filter.bloom import has_bits
from rocketmq_py.broker.filter.consumer_filter import ConsumerFilterData, ConsumerFilterManager
from rocketmq_py.broker.filter.expression import FilterExpressionError, SqlExpression
from rocketmq_py.broker.filter.sql_compiler import SqlCompiler
from rocketmq_py.broker.refusal import Refusal
from rocketmq_py.common.java import string_hash, to_i32
from rocketmq_py.common.properties import RETRY_TOPIC, decode_properties
from rocketmq_py.common.record import read_record
from rocketmq_py.common.topic import is_retry_topic
from rocketmq_py.remoting.bodies.subscription import SubscriptionData
from rocketmq_py.remoting.codes import ResponseCode
from rocketmq_py.store.consume_queue_ext import ExtUnit, is_address
from rocketmq_py.store.filter import ALL, MessageFilter

#: A filter that a broker's operator wrote: it gets the properties of a message and answers whether to deliver it.
OperatorFilter = Callable[[dict[str, str]], bool]

_NO_TAG: Final = 0


def properties_of(record: bytes | memoryview) -> dict[str, str]:
    """Return the properties of a record of the commit log."""
    return decode_properties(read_record(record).properties)


@dataclass(frozen=True, slots=True)
class TagFilter:
    """Wants messages whose tag has one of some hash codes; the client then compares the tags themselves."""

    codes: frozenset[int]

    def matches_entry(self, tags_code: int, extension: object | None) -> bool:
        if isinstance(extension, ExtUnit):
            tags_code = extension.tags_code
        elif is_address(tags_code):
            # The extension lost the unit in a crash. The client will look at the tag.
            return True
        return to_i32(tags_code) in self.codes

    def matches_record(self, record: bytes | memoryview) -> bool:
        return True


class SqlFilter:
    """Wants messages for whose properties an expression is true.

    Args:
        expression: the compiled expression.
        data: the group's registered filter; with its bits the first step rules most messages out. None if the
            expression came with the request, or was changed since.
    """

    def __init__(self, expression: SqlExpression, data: ConsumerFilterData | None) -> None:
        self._expression = expression
        self._data = data

    def matches_entry(self, tags_code: int, extension: object | None) -> bool:
        data = self._data
        if data is None or not isinstance(extension, ExtUnit) or not data.is_bit_map_valid(extension.store_timestamp):
            return True
        bits = data.record.bloom_filter_data
        if bits is None or len(extension.bit_map) * 8 != bits.bit_num:
            return True
        return has_bits(extension.bit_map, bits.bit_pos)

    def matches_record(self, record: bytes | memoryview) -> bool:
        return self._expression.matches(properties_of(record))

    def __repr__(self) -> str:
        return f"<SqlFilter {self._expression.text!r}{' with bits' if self._data else ''}>"


class RetryFilter:
    """Filters a group's retry topic by the expressions of the topics from which the messages came.

    A retry topic is subscribed with `*`. Its messages had matched once; they are judged again because the group may
    have changed its expression since (`filterSupportRetry`).
    """

    def __init__(self, group: str, filters: ConsumerFilterManager) -> None:
        self._group = group
        self._filters = filters

    def matches_entry(self, tags_code: int, extension: object | None) -> bool:
        return True

    def matches_record(self, record: bytes | memoryview) -> bool:
        properties = properties_of(record)
        data = self._filters.get(properties.get(RETRY_TOPIC, ""), self._group)
        return data is None or data.compiled is None or data.compiled.matches(properties)

    def __repr__(self) -> str:
        return f"<RetryFilter {self._group}>"


class InProcessFilter:
    """A filter in Python that the operator installed, behind the one that the consumer asked for."""

    def __init__(self, inner: MessageFilter, judge: OperatorFilter) -> None:
        self._inner = inner
        self._judge = judge

    def matches_entry(self, tags_code: int, extension: object | None) -> bool:
        return self._inner.matches_entry(tags_code, extension)

    def matches_record(self, record: bytes | memoryview) -> bool:
        return self._inner.matches_record(record) and self._judge(properties_of(record))

    def __repr__(self) -> str:
        return f"<InProcessFilter {self._judge!r} behind {self._inner!r}>"


class MessageFilters:
    """Makes the filters of subscriptions; its methods are the builders of `Subscriptions.filters`.

    Args:
        compiler: for expressions that come with a request.
        filters: the registered filters.
        support_retry: whether retry topics are filtered too (`filterSupportRetry`).

    Attributes:
        operator_filters: by group, filters that the operator installed in this process. RocketMQ once let clients
            upload such code (the filter server); here only whoever runs the broker can add any.
    """

    def __init__(self, compiler: SqlCompiler, filters: ConsumerFilterManager, *, support_retry: bool = False) -> None:
        self.operator_filters: dict[str, OperatorFilter] = {}
        self._compiler = compiler
        self._filters = filters
        self._support_retry = support_retry

    def by_tag(self, group: str, subscription: SubscriptionData) -> MessageFilter:
        """Return the filter of a tag expression."""
        return self._with_operator(group, self._by_tag(group, subscription))

    def _by_tag(self, group: str, subscription: SubscriptionData) -> MessageFilter:
        if self._support_retry and is_retry_topic(subscription.topic):
            return RetryFilter(group, self._filters)
        if subscription.is_all or subscription.class_filter_mode:
            return ALL
        # A client's hash codes may be wrong, and a wrong one loses messages; they are computed from its tags.
        codes = frozenset(map(string_hash, subscription.tags_set)) or frozenset(subscription.code_set)
        return TagFilter(codes)

    def by_sql92(self, group: str, subscription: SubscriptionData) -> MessageFilter | Refusal:
        """Return the filter of an SQL92 expression.

        Differs from RocketMQ, which lets every message pass if an expression in a pull request does not compile: it
        is refused with the place of the error.
        """
        data = self._filters.get(subscription.topic, group)
        if data is not None and data.compiled is not None and data.record.expression == subscription.sub_string:
            return self._with_operator(group, SqlFilter(data.compiled, data))
        try:
            expression = self._compiler.compile(subscription.sub_string)
        except FilterExpressionError as error:
            return Refusal(ResponseCode.SUBSCRIPTION_PARSE_FAILED, str(error))
        return self._with_operator(group, SqlFilter(expression, None))

    def _with_operator(self, group: str, message_filter: MessageFilter) -> MessageFilter:
        judge = self.operator_filters.get(group)
        return message_filter if judge is None else InProcessFilter(message_filter, judge)
