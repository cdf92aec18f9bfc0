"""Headers of RECALL_MESSAGE (370).

Source: `RecallMessageRequestHeader`, `RecallMessageResponseHeader`, RocketMQ 5.3.2.
"""

from __future__ import annotations

import msgspec


class RecallMessageRequestHeader(msgspec.Struct, rename="camel", kw_only=True):
    """Take a message back that waits for its time.

    Attributes:
        producer_group: who asks.
        topic: the message's topic; the same as in the handle.
        recall_handle: see `common/recall_handle.py`.
        broker_name: the broker that the client means.
    """

    topic: str
    recall_handle: str
    producer_group: str | None = None
    broker_name: str | None = msgspec.field(default=None, name="bname")


class RecallMessageResponseHeader(msgspec.Struct, rename="camel", kw_only=True):
    """The broker has noted it. `msg_id` is the message's unique key."""

    msg_id: str
