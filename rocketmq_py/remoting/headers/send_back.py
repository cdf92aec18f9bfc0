"""The header of CONSUMER_SEND_MSG_BACK (36); the answer has none.

Source: `ConsumerSendMsgBackRequestHeader`, RocketMQ 5.3.
"""

from __future__ import annotations

import msgspec

from rocketmq_py.remoting.header import I32, I64


class ConsumerSendMsgBackRequestHeader(msgspec.Struct, rename="camel", kw_only=True):
    """Ask for a message again, later.

    Attributes:
        offset: first byte of its record in the commit log.
        group: the consumer group that failed.
        delay_level: when to deliver it again; 0: the broker decides, negative: never, it is a dead letter.
        origin_msg_id: its id, for logs and hooks.
        origin_topic: the topic that the listener saw, for logs and hooks.
        unit_mode: marks a retry topic that is created as belonging to a deployment unit.
        max_reconsume_times: the consumer's own limit, instead of that of the group.
        broker_name: the broker that the client means (5.x); not looked at by a broker with one name.
    """

    offset: I64
    group: str
    delay_level: I32
    origin_msg_id: str | None = None
    origin_topic: str | None = None
    unit_mode: bool | None = None
    max_reconsume_times: I32 | None = None
    broker_name: str | None = msgspec.field(default=None, name="bname")
