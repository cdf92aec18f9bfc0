"""The delivered message: what is put into the real topic when a delayed message is due.

The stored text of the properties stays byte for byte, `DELAY`, `REAL_TOPIC` and `REAL_QID` included: consumers see that a
message was delayed. What the put hooks decide by has no `DELAY` any more, or the message would be delayed for ever.

Source: `ScheduleMessageService#messageTimeUp`, RocketMQ 5.3.
"""

from __future__ import annotations

from typing import Final

from rocketmq_py.common import properties as names
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.java import parse_i32
from rocketmq_py.common.record import Record
from rocketmq_py.common.topic import SCHEDULE_TOPIC, TRANS_HALF_TOPIC
from rocketmq_py.store.draft import Draft
from rocketmq_py.store.reput import tags_code_of

#: What made the message wait, and must not do so again.
WAITED_FOR: Final = (names.DELAY, names.TIMER_DELIVER_MS, names.TIMER_DELAY_SEC, names.TIMER_DELAY_MS)


class UndeliverableError(InvalidInputError):
    """A record of the schedule topic says nowhere where it belongs; the text says what is wrong."""


def delivered_message(record: Record) -> Draft:
    """Return the draft for the real topic and queue of a delayed message.

    Raises:
        UndeliverableError: the record names no topic and queue that it could be delivered to.
    """
    draft = Draft.again(record)
    topic = draft.properties.get(names.REAL_TOPIC, "")
    if topic in ("", SCHEDULE_TOPIC, TRANS_HALF_TOPIC):
        raise UndeliverableError(f"its {names.REAL_TOPIC} is {topic!r}")
    try:
        queue_id = parse_i32(draft.properties.get(names.REAL_QID, ""), names.REAL_QID)
    except InvalidInputError as error:
        raise UndeliverableError(str(error)) from None
    if queue_id < 0:
        raise UndeliverableError(f"its {names.REAL_QID} is {queue_id}")
    for name in WAITED_FOR:
        draft.properties.pop(name, None)
    draft.topic, draft.queue_id = topic, queue_id
    draft.tags_code = tags_code_of(record.properties)
    # Whoever waited for this message was answered when it was stored the first time.
    draft.wait = False
    return draft
