"""Headers of sending: codes 10 (V1), 310 and 320 (V2), and their answer.

V2 is V1 with one-letter names: the header of every message travels as JSON text, and short names save 120 bytes of it.
One set of fields serves both; `SendMessageRequestHeaderV2.to_v1` gives the form that the processor reads.

Source: `SendMessageRequestHeader`, `SendMessageRequestHeaderV2`, `SendMessageResponseHeader`, RocketMQ 5.3.
"""

from __future__ import annotations

import msgspec

from rocketmq_py.remoting.header import I32, I64


class SendMessageRequestHeader(msgspec.Struct, rename="camel", kw_only=True):
    """What a producer says about the message (or batch) in the body.

    Attributes:
        producer_group: the sender's group.
        topic: where to.
        default_topic: the topic whose configuration a new topic inherits, normally TBW102.
        default_topic_queue_nums: how many queues a new topic should get.
        queue_id: which queue; negative: the broker draws one.
        sys_flag: compression bits and others, see `common/sys_flag.py`.
        born_timestamp: the producer's clock, milliseconds.
        flag: the application's own 32 bits.
        properties: properties text, see `common/properties.py`.
        reconsume_times: how often a consumer tried already, on sends to a retry topic.
        unit_mode: marks an automatically created topic as belonging to a deployment unit.
        max_reconsume_times: the consumer's own limit, on sends to a retry topic.
        batch: the body holds several messages. This, not the request code, makes a batch.
        broker_name: the broker that the client means (5.x); not looked at by a broker with one name.
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
    max_reconsume_times: I32 | None = None
    batch: bool | None = None
    broker_name: str | None = msgspec.field(default=None, name="bname")


class SendMessageRequestHeaderV2(msgspec.Struct, kw_only=True):
    """The same header under one-letter names, in the order of `SendMessageRequestHeader`."""

    a: str
    b: str
    c: str
    d: I32
    e: I32
    f: I32
    g: I64
    h: I32
    i: str | None = None
    j: I32 | None = None
    k: bool | None = None
    l: I32 | None = None  # noqa: E741 (the protocol's name)
    m: bool | None = None
    n: str | None = None

    def to_v1(self) -> SendMessageRequestHeader:
        """Return the header with readable names."""
        return SendMessageRequestHeader(
            producer_group=self.a,
            topic=self.b,
            default_topic=self.c,
            default_topic_queue_nums=self.d,
            queue_id=self.e,
            sys_flag=self.f,
            born_timestamp=self.g,
            flag=self.h,
            properties=self.i,
            reconsume_times=self.j,
            unit_mode=self.k,
            max_reconsume_times=self.l,
            batch=self.m,
            broker_name=self.n,
        )

    @classmethod
    def from_v1(cls, header: SendMessageRequestHeader) -> SendMessageRequestHeaderV2:
        """Return the header with one-letter names."""
        return cls(
            a=header.producer_group,
            b=header.topic,
            c=header.default_topic,
            d=header.default_topic_queue_nums,
            e=header.queue_id,
            f=header.sys_flag,
            g=header.born_timestamp,
            h=header.flag,
            i=header.properties,
            j=header.reconsume_times,
            k=header.unit_mode,
            l=header.max_reconsume_times,
            m=header.batch,
            n=header.broker_name,
        )


class SendMessageResponseHeader(msgspec.Struct, rename="camel", kw_only=True):
    """Where a message was stored.

    Attributes:
        msg_id: offset message id; for a batch one id for each message, joined with commas.
        queue_id: the queue that was asked for or drawn.
        queue_offset: the position in the queue; for a batch that of its first message.
        transaction_id: the message's UNIQ_KEY (5.x).
        batch_uniq_id: UNIQ_KEY of an inner batch (5.x).
        recall_handle: names a timer message that can still be taken back (5.3.2).
    """

    msg_id: str
    queue_id: I32
    queue_offset: I64
    transaction_id: str | None = None
    batch_uniq_id: str | None = None
    recall_handle: str | None = None
