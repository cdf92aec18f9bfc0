"""Names of topics.

Source: `TopicList`, RocketMQ 5.3.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class TopicList(msgspec.Struct, rename="camel", kw_only=True):
    """Answer of the requests that list topics.

    Attributes:
        broker_addr: the address of one broker, in the list of system topics only.
        topic_list: the names; their order means nothing.
    """

    broker_addr: str | msgspec.UnsetType | None = msgspec.UNSET
    topic_list: list[str] = []

    @classmethod
    def of(cls, topics: Iterable[str]) -> TopicList:
        """Build a list of names, sorted so that two answers can be compared."""
        return cls(topic_list=sorted(topics))
