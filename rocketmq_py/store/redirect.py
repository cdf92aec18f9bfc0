"""Redirecting a draft: it is stored elsewhere, and carries in two properties where it belongs.

    REAL_TOPIC  the topic that it was meant for
    REAL_QID    the queue there

What delivers the message later reads them. Both forms of a draft's properties change together.

Source: `HookUtils#transformDelayLevelMessage`, RocketMQ 5.3.
"""

from __future__ import annotations

from collections.abc import Mapping

from rocketmq_py.common import properties as names
from rocketmq_py.common.properties import MAX_PROPERTIES_LENGTH, change_properties
from rocketmq_py.store.draft import Draft
from rocketmq_py.store.put_result import PutMessageStatus


def redirect(
    draft: Draft, topic: str, queue_id: int, changes: Mapping[str, str | None] | None = None, *, room: int = 0
) -> PutMessageStatus | None:
    """Send a draft to another topic.

    Args:
        draft: where it belongs is taken from it before it is changed.
        topic: where it goes.
        queue_id: the queue there.
        changes: further properties to set, or to remove (None).
        room: bytes that its properties must leave free, for what is added later.

    Returns:
        None, or why it cannot be: its properties would be longer than a record can say. The draft is as it was then.
    """
    wanted = {**(changes or {}), names.REAL_TOPIC: draft.topic, names.REAL_QID: str(draft.queue_id)}
    stored = change_properties(draft.stored_properties, wanted)
    if len(stored) + room > MAX_PROPERTIES_LENGTH:
        return PutMessageStatus.PROPERTIES_SIZE_EXCEEDED
    for name, value in wanted.items():
        if value is None:
            draft.properties.pop(name, None)
        else:
            draft.properties[name] = value
    draft.stored_properties = stored
    draft.topic, draft.queue_id = topic, queue_id
    return None
