"""The body about the units of a queue (321).

Source: `ConsumeQueueData`, `QueryConsumeQueueResponseBody`, RocketMQ 5.3.
"""

from __future__ import annotations

import msgspec

from rocketmq_py.remoting.bodies.subscription import SubscriptionData


class ConsumeQueueData(msgspec.Struct, rename="camel", kw_only=True):
    """One raw entry of a queue; `eval` tells whether the group's filter wants the message."""

    physic_offset: int
    physic_size: int
    tags_code: int
    extend_data_json: str | msgspec.UnsetType = msgspec.UNSET
    bit_map: str | msgspec.UnsetType = msgspec.UNSET
    eval: bool = False
    msg: str | msgspec.UnsetType = msgspec.UNSET


class QueryConsumeQueueResponseBody(msgspec.Struct, rename="camel", kw_only=True):
    """Answer of QUERY_CONSUME_QUEUE."""

    subscription_data: SubscriptionData | msgspec.UnsetType = msgspec.UNSET
    filter_data: str | msgspec.UnsetType = msgspec.UNSET
    queue_data: list[ConsumeQueueData] = []
    max_queue_index: int = 0
    min_queue_index: int = 0
