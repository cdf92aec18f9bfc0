"""The put hook of delay levels: a message with a level goes to the schedule topic first.

    topic Orders, queue 2, DELAY=3  ->  topic SCHEDULE_TOPIC_XXXX, queue 2 (level - 1), REAL_TOPIC=Orders, REAL_QID=2

It runs for every put, also those of the broker: a message whose consumption failed is put with a level and comes back
later. The delivery of a delayed message is a put as well; there `DELAY` is gone from what this hook looks at.

Source: `HookUtils#handleScheduleMessage`, `#transformDelayLevelMessage`, RocketMQ 5.3.
"""

from __future__ import annotations

from typing import Final

from rocketmq_py.broker.schedule.delay_levels import DelayLevels
from rocketmq_py.common import properties as names
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.java import parse_i32
from rocketmq_py.common.sys_flag import TRANSACTION_PREPARED, TRANSACTION_ROLLBACK, transaction_type
from rocketmq_py.common.topic import SCHEDULE_TOPIC, TRANS_HALF_TOPIC
from rocketmq_py.store.draft import Draft
from rocketmq_py.store.put_hooks import PutHook
from rocketmq_py.store.put_result import PutMessageStatus
from rocketmq_py.store.redirect import redirect

TRIGGER: Final = names.DELAY.encode() + b"\x01"

#: A level wins over a time: these properties of a message with both are removed.
_TIMER_PROPERTIES: Final = (names.TIMER_DELIVER_MS, names.TIMER_DELAY_SEC, names.TIMER_DELAY_MS)


def delay_hook(levels: DelayLevels) -> PutHook:
    """Return the hook for a table of levels."""

    def apply(draft: Draft) -> PutMessageStatus | None:
        level = level_of(draft)
        if level is None:
            return PutMessageStatus.MESSAGE_ILLEGAL
        return delay(draft, levels.clamp(level)) if level > 0 else None

    return PutHook("delay level", (TRIGGER,), apply)


def level_of(draft: Draft) -> int | None:
    """Return the level that a draft is to wait for; 0 and less for none, None if the property is no number."""
    text = draft.properties.get(names.DELAY)
    if text is None or transaction_type(draft.sys_flag) in (TRANSACTION_PREPARED, TRANSACTION_ROLLBACK):
        return 0
    if draft.topic == TRANS_HALF_TOPIC:
        # Differs from RocketMQ: that moves a half message with a level to the schedule topic too, and throws it away
        # when it is due. Here the half message waits for its decision, and the committed one waits for its level.
        return 0
    try:
        return parse_i32(text)
    except InvalidInputError:
        return None


def delay(draft: Draft, level: int) -> PutMessageStatus | None:
    """Send a draft to the queue of a level; see `redirect`."""
    changes: dict[str, str | None] = {name: None for name in _TIMER_PROPERTIES if name in draft.properties}
    if draft.properties[names.DELAY] != str(level):
        changes[names.DELAY] = str(level)
    return redirect(draft, SCHEDULE_TOPIC, level - 1, changes)
