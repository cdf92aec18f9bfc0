"""What a consumer tells of its inside, and what it made of a message that it was told to handle.

Source: `ConsumerRunningInfo`, `ProcessQueueInfo`, `ConsumeStatus`, `ConsumeMessageDirectlyResult`, RocketMQ 5.3.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from rocketmq_py.common.message import MessageQueue
from rocketmq_py.remoting.bodies.consume_stats import decode_queue, encode_queue_map
from rocketmq_py.remoting.bodies.subscription import SubscriptionData
from rocketmq_py.remoting.java_json import decode_body, encode_body

#: Properties that tools look for.
PROP_NAMESERVER_ADDR = "PROP_NAMESERVER_ADDR"
PROP_CONSUME_TYPE = "PROP_CONSUME_TYPE"
PROP_CLIENT_VERSION = "PROP_CLIENT_VERSION"
PROP_CONSUMER_START_TIMESTAMP = "PROP_CONSUMER_START_TIMESTAMP"
PROP_CONSUMEORDERLY = "PROP_CONSUMEORDERLY"
PROP_THREADPOOL_CORE_SIZE = "PROP_THREADPOOL_CORE_SIZE"


class ProcessQueueInfo(msgspec.Struct, rename="camel", kw_only=True):
    """One queue; `droped` is spelled as on the wire."""

    commit_offset: int = 0
    cached_msg_min_offset: int = 0
    cached_msg_max_offset: int = 0
    cached_msg_count: int = 0
    cached_msg_size_in_mi_b: int = msgspec.field(name="cachedMsgSizeInMiB", default=0)
    transaction_msg_min_offset: int = 0
    transaction_msg_max_offset: int = 0
    transaction_msg_count: int = 0
    locked: bool = False
    try_unlock_times: int = 0
    last_lock_timestamp: int = 0
    droped: bool = False
    last_pull_timestamp: int = 0
    last_consume_timestamp: int = 0


class TopicConsumeStatus(msgspec.Struct, kw_only=True):
    """Times in ms and rates a second of one topic."""

    pull_rt: float = msgspec.field(name="pullRT", default=0.0)
    pull_tps: float = msgspec.field(name="pullTPS", default=0.0)
    consume_rt: float = msgspec.field(name="consumeRT", default=0.0)
    consume_ok_tps: float = msgspec.field(name="consumeOKTPS", default=0.0)
    consume_failed_tps: float = msgspec.field(name="consumeFailedTPS", default=0.0)
    consume_failed_msgs: int = msgspec.field(name="consumeFailedMsgs", default=0)


class _Decoded(msgspec.Struct, rename="camel", kw_only=True):
    properties: dict[str, str] = {}
    subscription_set: list[SubscriptionData] = []
    mq_table: dict[str, ProcessQueueInfo] = {}
    status_table: dict[str, TopicConsumeStatus] = {}


class ConsumerRunningInfo(msgspec.Struct, kw_only=True):
    """Answer of GET_CONSUMER_RUNNING_INFO.

    Attributes:
        properties: settings as text.
        subscription_set: what it subscribes.
        mq_table: its queues.
        status_table: figures by topic.
    """

    properties: dict[str, str]
    subscription_set: list[SubscriptionData]
    mq_table: Mapping[MessageQueue, ProcessQueueInfo]
    status_table: dict[str, TopicConsumeStatus]

    def encode(self) -> bytes:
        """Return the body."""
        return encode_body(
            {
                "properties": self.properties,
                "subscriptionSet": self.subscription_set,
                "mqTable": encode_queue_map(self.mq_table),
                "statusTable": self.status_table,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> ConsumerRunningInfo:
        """Read a body.

        Raises:
            InvalidInputError: it is not one.
        """
        body = decode_body(data, _Decoded)
        return cls(
            properties=body.properties,
            subscription_set=body.subscription_set,
            mq_table={decode_queue(key): info for key, info in body.mq_table.items()},
            status_table=body.status_table,
        )


class ConsumeMessageDirectlyResult(msgspec.Struct, rename="camel", kw_only=True):
    """Answer of CONSUME_MESSAGE_DIRECTLY; `consume_result` is `CR_SUCCESS`, `CR_LATER` or `CR_THROW_EXCEPTION`."""

    order: bool = False
    auto_commit: bool = True
    consume_result: str = "CR_SUCCESS"
    remark: str | None = None
    spent_time_mills: int = 0
