"""Headers of the requests by which clients come, go and find each other (35, 38, 40).

Source: `UnregisterClientRequestHeader`, `GetConsumerListByGroupRequestHeader`, `NotifyConsumerIdsChangedRequestHeader`,
RocketMQ 5.3.
"""

from __future__ import annotations

import msgspec


class UnregisterClientRequestHeader(msgspec.Struct, rename="camel", kw_only=True):
    """A client leaves one or both of its groups."""

    client_id: str = msgspec.field(name="clientID")
    producer_group: str | None = None
    consumer_group: str | None = None


class GetConsumerListByGroupRequestHeader(msgspec.Struct, rename="camel", kw_only=True):
    """Who else is in this group?"""

    consumer_group: str


class NotifyConsumerIdsChangedRequestHeader(msgspec.Struct, rename="camel", kw_only=True):
    """The broker tells a member: the group changed, divide the queues anew."""

    consumer_group: str
