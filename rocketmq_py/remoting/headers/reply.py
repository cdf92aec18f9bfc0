"""Header of the request by which a broker passes a reply on to the client that waits for it (326).

The two requests that bring the reply to the broker (324, 325) have the headers of a send.

Source: `ReplyMessageRequestHeader`, RocketMQ 5.3.
"""

from __future__ import annotations

import msgspec

from rocketmq_py.remoting.header import I32, I64


class ReplyMessageRequestHeader(msgspec.Struct, rename="camel", kw_only=True):
    """What the broker says about the reply in the body.

    Attributes:
        producer_group: the group of who replied.
        topic: the topic of replies, `CLUSTER_REPLY_TOPIC`.
        default_topic, default_topic_queue_nums: as the send said; of no use here.
        queue_id: the queue that the send asked for.
        sys_flag: says whether and how the body is compressed.
        born_timestamp: when it was sent, milliseconds by the clock of who replied.
        flag: the application's own 32 bits.
        properties: properties text; `CORRELATION_ID` says which request this answers.
        reconsume_times, unit_mode: as the send said.
        born_host: who replied, `ip:port`.
        store_host: the broker, `ip:port`.
        store_timestamp: when the broker passed it on, milliseconds by its clock.
    """

    producer_group: str
    topic: str
    default_topic: str
    default_topic_queue_nums: I32
    queue_id: I32
    sys_flag: I32
    born_timestamp: I64
    flag: I32
    properties: str | None = None
    reconsume_times: I32 | None = None
    unit_mode: bool | None = None
    born_host: str
    store_host: str
    store_timestamp: I64
