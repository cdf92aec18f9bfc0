"""The message that is stored for one that failed: the same, with a few properties that say what happened.

    RETRY_TOPIC         the topic where it was sent first; set once, consumers show it to their listeners
    ORIGIN_MESSAGE_ID   the id of the first copy; set once
    DELAY               the level of the next try; 0 on a dead letter
    WAIT                false
    everything else     as it was, the unique key included: the copies can be recognised as one message

Body, flag and born data are those of the first copy. The count of tries is in the record.

Source: `AbstractSendMessageProcessor#consumerSendMsgBack`, RocketMQ 5.3.
"""

from __future__ import annotations

from typing import Final

from rocketmq_py.broker.retry.retry_topics import Place
from rocketmq_py.broker.retry.verdict import one_more
from rocketmq_py.common import properties as names
from rocketmq_py.common import sys_flag as flags
from rocketmq_py.common.message_id import create_offset_id
from rocketmq_py.common.properties import change_properties
from rocketmq_py.common.record import Record
from rocketmq_py.common.topic import NOT_CONSUMED
from rocketmq_py.store.draft import Draft
from rocketmq_py.store.reput import tags_code_of

#: What the record before knew of itself, and what is not true of the next one.
_OF_THE_RECORD: Final = (names.CRC32, names.INNER_MULTI_QUEUE_OFFSET)
#: What would make the store keep a message for later.
DELAYING: Final = (names.DELAY, names.TIMER_DELIVER_MS, names.TIMER_DELAY_SEC, names.TIMER_DELAY_MS)


def is_retriable(record: Record) -> bool:
    """Tell whether a consumer can have got a record: not if it waits for a decision, or for its time.

    Differs from RocketMQ, which would show the message of an undecided transaction to whoever guesses its offset.
    """
    is_undecided = flags.transaction_type(record.sys_flag) in (flags.TRANSACTION_PREPARED, flags.TRANSACTION_ROLLBACK)
    return not is_undecided and str(record.topic, "utf-8", "replace") not in NOT_CONSUMED


def is_inner_batch(record: Record) -> bool:
    """Tell whether a record holds several messages: a retry topic has an offset for each record, not for each message."""
    return bool(record.sys_flag & flags.INNER_BATCH) or names.INNER_NUM.encode() + b"\x01" in record.properties


def retried(record: Record, place: Place, level: int) -> Draft:
    """Return the draft that comes again after a delay level."""
    return _again(record, place, {names.DELAY: str(level)})


def dead_letter(record: Record, place: Place) -> Draft:
    """Return the draft that does not come again."""
    draft = _again(record, place, {names.DELAY: "0"})
    no_delay(draft)
    return draft


def no_delay(draft: Draft) -> None:
    """Let no put hook keep a draft for later, whatever its stored properties say."""
    for name in DELAYING:
        draft.properties.pop(name, None)


def _again(record: Record, place: Place, changes: dict[str, str | None]) -> Draft:
    draft = Draft.again(record)
    changes |= {names.WAIT: "false", **dict.fromkeys(_OF_THE_RECORD)}
    if names.RETRY_TOPIC not in draft.properties:
        changes[names.RETRY_TOPIC] = draft.topic
    if names.ORIGIN_MESSAGE_ID not in draft.properties:
        changes[names.ORIGIN_MESSAGE_ID] = create_offset_id(record.store_host, record.physical_offset)
    draft.stored_properties = change_properties(draft.stored_properties, changes)
    draft.properties |= {name: value for name, value in changes.items() if value is not None}
    draft.tags_code = tags_code_of(record.properties)
    draft.reconsume_times = one_more(record.reconsume_times)
    draft.prepared_transaction_offset = 0
    draft.topic, draft.queue_id = place.topic, place.queue_id
    # Differs from RocketMQ, which does not wait (`WAIT=false`): the consumer takes the answer for a promise and stores
    # that it is done with the message, so with synchronous flush or replication a crash would lose it.
    draft.wait = True
    return draft
