"""What a message of a transaction looks like at each step; every step stores it once more and changes none before it.

    send      half message      RMQ_SYS_TRANS_HALF_TOPIC, real topic and queue in its properties
    commit    committed         the real topic; its record names the half message's place in the log
    check     half message      once more at the end of the half queue, with a higher count of checks
    give up   set aside         TRANS_CHECK_MAX_TIME_TOPIC, for an operator
    resume    half message      once more, with its count of checks at 0

A copy remembers where the transaction began: `TRAN_PREPARED_QUEUE_OFFSET` is the queue offset of the first half message.
So a late decision about the first one ends the newest one too. RocketMQ knows the property, and sets it on messages
with an immunity time only.

Nothing here reads or writes; drafts go to `MessageStore.put`.

Source: `TransactionalMessageBridge`, `EndTransactionProcessor#endMessageTransaction`, RocketMQ 5.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from rocketmq_py.broker.send_message import tags_code
from rocketmq_py.common import properties as names
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.java import parse_bool, parse_i32
from rocketmq_py.common.properties import change_properties, decode_properties, find_property
from rocketmq_py.common.record import Record
from rocketmq_py.common.sys_flag import TRANSACTION_COMMIT, TRANSACTION_MASK
from rocketmq_py.common.topic import TRANS_CHECK_MAX_TIME_TOPIC, TRANS_HALF_TOPIC
from rocketmq_py.store.draft import Draft

#: The half topic has one queue.
HALF_QUEUE_ID: Final = 0
#: Bytes that copies of a half message may add to its properties; a half message without so much room is refused.
COPY_ROOM: Final = 128

#: A half message waits for its decision, not for a time. What its message is to wait for begins at the commit.
_POSTPONING: Final = (names.DELAY, names.TIMER_DELAY_SEC, names.TIMER_DELAY_MS, names.TIMER_DELIVER_MS)
_ORIGIN: Final = names.TRAN_PREPARED_QUEUE_OFFSET.encode()


def is_transactional(properties: Mapping[str, str], reconsume_times: int) -> bool:
    """Tell whether a client's message is to be stored as a half message.

    Old clients send a message that failed back to its retry topic with all its properties: one that was committed
    before is no new transaction. Such a message has been retried and is delayed.
    """
    if not parse_bool(properties.get(names.TRAN_MSG, "false")):
        return False
    return not (reconsume_times > 0 and properties.get(names.DELAY, "0") not in ("", "0"))


def become_half(draft: Draft) -> None:
    """Turn the draft of a client's message into that of a half message.

    The client's own words for what only the broker knows are dropped: they could name another transaction.
    """
    draft.stored_properties = change_properties(
        draft.stored_properties,
        {
            names.TRANSACTION_CHECK_TIMES: None,
            names.TRAN_PREPARED_QUEUE_OFFSET: None,
            names.TRANSACTION_ID: draft.properties.get(names.UNIQ_KEY) or None,
            names.REAL_TOPIC: draft.topic,
            names.REAL_QID: str(draft.queue_id),
        },
    )
    _place_in_half_queue(draft)


def committed(half: Record, prepared_offset: int) -> Draft:
    """Return the message of a half message for its real topic.

    Its stored properties are those of the half message, `TRAN_MSG` and `REAL_TOPIC` included. Those that hooks look at
    lack these, so that nothing sends it back to where it was; a `DELAY` in them delays it from now on.

    Args:
        half: the half message.
        prepared_offset: its place in the log; by this number the record says which half message it ended.

    Raises:
        InvalidInputError: it does not say where the message belongs.
    """
    draft = Draft.again(half)
    topic, queue_id = draft.properties.pop(names.REAL_TOPIC, ""), draft.properties.pop(names.REAL_QID, "")
    draft.properties.pop(names.TRAN_MSG, None)
    if not topic:
        raise InvalidInputError(f"the half message at {half.physical_offset} has no property {names.REAL_TOPIC}")
    draft.topic, draft.queue_id = topic, parse_i32(queue_id, names.REAL_QID)
    draft.sys_flag = half.sys_flag & ~TRANSACTION_MASK | TRANSACTION_COMMIT
    draft.prepared_transaction_offset = prepared_offset
    draft.tags_code = tags_code(draft.properties.get(names.TAGS, ""))
    draft.wait = parse_bool(draft.properties.get(names.WAIT, "true"))
    return draft


def copied(half: Record, check_times: int | None = None) -> Draft:
    """Return the half message once more, for the end of the half queue.

    Args:
        half: the half message.
        check_times: how often it was checked now; None leaves the number as it is.
    """
    changes: dict[str, str | None] = {names.TRAN_PREPARED_QUEUE_OFFSET: str(origin_of(half))}
    if check_times is not None:
        changes[names.TRANSACTION_CHECK_TIMES] = str(check_times)
    draft = _again(half, changes)
    _place_in_half_queue(draft)
    # The one before is still there, so nobody waits until this one is on disk.
    draft.wait = False
    return draft


def resumed(message: Record) -> Draft:
    """Return a message that was set aside as a half message that was never checked.

    One that a broker of Apache's set aside does not say where its transaction began; it begins anew.
    """
    draft = _again(message, {names.TRANSACTION_CHECK_TIMES: "0"})
    _place_in_half_queue(draft)
    return draft


def set_aside(half: Record) -> Draft:
    """Return the half message for the topic of those that were given up."""
    draft = _again(half, {names.TRAN_PREPARED_QUEUE_OFFSET: str(origin_of(half))})
    _without_postponing(draft)
    draft.topic, draft.queue_id = TRANS_CHECK_MAX_TIME_TOPIC, 0
    return draft


def origin_of(half: Record) -> int:
    """Return the queue offset of the first half message of the same transaction: its own, unless it is a copy."""
    text = find_property(half.properties, _ORIGIN)
    return int(text) if text is not None and text.isdigit() and len(text) < 19 else half.queue_offset


def check_times_of(properties: Mapping[str, str]) -> int:
    """Return how often a half message was checked; 0 if it does not say so in digits."""
    text = properties.get(names.TRANSACTION_CHECK_TIMES, "0")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def immunity_of(properties: Mapping[str, str]) -> int | None:
    """Return the time in milliseconds in which a half message is not to be checked, if it names one.

    -1 for one that is no number: then the broker's own `transactionTimeOut` counts.
    """
    text = properties.get(names.CHECK_IMMUNITY_TIME_IN_SECONDS)
    if text is None:
        return None
    try:
        seconds = parse_i32(text, names.CHECK_IMMUNITY_TIME_IN_SECONDS)
    except InvalidInputError:
        return -1
    return -1 if seconds == -1 else seconds * 1_000


def _again(record: Record, changes: Mapping[str, str | None]) -> Draft:
    draft = Draft.again(record)
    draft.stored_properties = change_properties(draft.stored_properties, changes)
    draft.properties = decode_properties(draft.stored_properties)
    draft.tags_code = tags_code(draft.properties.get(names.TAGS, ""))
    return draft


def _place_in_half_queue(draft: Draft) -> None:
    _without_postponing(draft)
    # Type "none", though it is a prepared message: only so does it get a place in the half queue.
    draft.sys_flag &= ~TRANSACTION_MASK
    draft.units = 1
    draft.topic, draft.queue_id = TRANS_HALF_TOPIC, HALF_QUEUE_ID


def _without_postponing(draft: Draft) -> None:
    for name in _POSTPONING:
        draft.properties.pop(name, None)
