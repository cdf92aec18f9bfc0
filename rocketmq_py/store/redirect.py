"""Redirecting a draft: it is stored elsewhere, and carries in two properties where it belongs.

    REAL_TOPIC  the topic that it was meant for
    REAL_QID    the queue there

What delivers the message later reads them. Both forms of a draft's properties change together.

Source: `HookUtils#transformDelayLevelMessage`, RocketMQ 5.3.
"""

from __future__ import annotations

from collections.abc import Mapping

from rocketmq_py.common import properties as names
from rocketmq_py.common.properties import MAX_PROPERTIES_LENGTH, encode_properties
from rocketmq_py.store.draft import Draft
from rocketmq_py.store.put_result import PutMessageStatus


def redirect(
    draft: Draft, topic: str, queue_id: int, changes: Mapping[str, str | None] | None = None
) -> PutMessageStatus | None:
    """Send a draft to another topic.

    Args:
        draft: where it belongs is taken from it before it is changed.
        topic: where it goes.
        queue_id: the queue there.
        changes: further properties to set, or to remove (None).

    Returns:
        None, or why it cannot be: its properties would be longer than a record can say. The draft is as it was then.
    """
    wanted = {**(changes or {}), names.REAL_TOPIC: draft.topic, names.REAL_QID: str(draft.queue_id)}
    stored = change_properties(draft.stored_properties, wanted)
    if len(stored) > MAX_PROPERTIES_LENGTH:
        return PutMessageStatus.PROPERTIES_SIZE_EXCEEDED
    for name, value in wanted.items():
        if value is None:
            draft.properties.pop(name, None)
        else:
            draft.properties[name] = value
    draft.stored_properties = stored
    draft.topic, draft.queue_id = topic, queue_id
    return None


def change_properties(text: bytes, changes: Mapping[str, str | None]) -> bytes:
    """Return a properties text with some properties replaced or removed; all other bytes stay as they are."""
    replaced = {name.encode() for name in changes}
    parts = [part + b"\x02" for part in text.split(b"\x02") if part and part.partition(b"\x01")[0] not in replaced]
    return b"".join(parts) + encode_properties({name: value for name, value in changes.items() if value is not None})
