"""The records of the timer topic: found by the timer log's units or by the topic's queue, checked, and made drafts.

Source: `TimerMessageStore#getMessageByCommitOffset`, `#convert`, `#convertMessage`, RocketMQ 5.3.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Sequence
from typing import Final

from rocketmq_py.common import properties as names
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.errors import CorruptDataError, InvalidInputError
from rocketmq_py.common.java import I64_MAX, parse_i32, string_hash
from rocketmq_py.common.properties import MAX_PROPERTIES_LENGTH, change_properties, find_property
from rocketmq_py.common.record import Record, read_record
from rocketmq_py.common.topic import TIMER_TOPIC
from rocketmq_py.store.commit_log import CommitLog
from rocketmq_py.store.draft import Draft

logger = logging.getLogger(__name__)

#: TIMER_ENQUEUE_MS of a message that was due before it came into the wheel.
NEVER_ENQUEUED: Final = I64_MAX

#: Longest text of a number that certainly fits into 64 bits.
_I64_DIGITS: Final = 18

#: Physical offset and size of a record.
Place = tuple[int, int]

_TOPIC: Final = TIMER_TOPIC.encode()
_OUT: Final = names.TIMER_OUT_MS.encode()
_REAL_TOPIC: Final = names.REAL_TOPIC.encode()
_DELETE_KEY: Final = names.TIMER_DEL_UNIQKEY.encode()
_UNIQUE_KEY: Final = names.UNIQ_KEY.encode()


class TimerRecords:
    """Reads records of the timer topic.

    Args:
        log: the commit log.
        environment: blocking calls.
    """

    def __init__(self, log: CommitLog, environment: Environment) -> None:
        self._log = log
        self._environment = environment

    async def read(self, places: Sequence[Place]) -> list[Record | None]:
        """Return records; see `read_blocking`. What is in memory is read at once, else a thread reads all."""
        found: list[Record | None] = []
        for offset, size in places:
            data = self._log.young_view(offset, size) or self._log.read_cached(offset, size)
            if data is None:
                return await self._environment.run_blocking(self.read_blocking, places)
            found.append(self._checked(data, offset, size))
        return found

    def read_blocking(self, places: Sequence[Place]) -> list[Record | None]:
        """Return the records of the timer topic at these places; for a thread.

        None stands for what is not there any more, is damaged, or is another record than the place was noted for.
        """
        return [self._read_one(offset, size) for offset, size in places]

    def _read_one(self, offset: int, size: int) -> Record | None:
        try:
            data = self._log.read_blocking(offset, size) if offset >= self._log.min_offset else None
        except CorruptDataError as error:
            logger.error("the timer message at %d is damaged and lost: %s", offset, error)
            return None
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            # What the disk cannot read does not hold up the messages behind it.
            logger.error("the disk cannot read the timer message at %d, which is lost: %s", offset, error)
            return None
        return self._checked(data, offset, size) if data is not None else None

    @staticmethod
    def _checked(data: bytes | memoryview, offset: int, size: int) -> Record | None:
        try:
            record = read_record(data)
        except CorruptDataError:
            return None
        is_it = record.physical_offset == offset and record.total_size == size and record.topic == _TOPIC
        return record if is_it else None


def out_time(record: Record) -> int | None:
    """Return when a record of the timer topic is due; None if it does not say so."""
    text = find_property(record.properties, _OUT)
    # bytes.isdigit() knows ASCII digits only; what is longer than 18 of them may not fit into 64 bits.
    return int(text) if text is not None and text.isdigit() and len(text) <= _I64_DIGITS else None


def real_topic(record: Record) -> str:
    """Return the topic that a record is for; an empty text if it does not say so."""
    return str(find_property(record.properties, _REAL_TOPIC) or b"", "utf-8", "replace")


def delete_key(record: Record) -> str | None:
    """Return which message a record deletes: real topic, `+`, unique key; None for an ordinary one.

    Differs from RocketMQ since 5.3.2, which passes over a unique key alone, as clients wrote it for brokers before:
    here it deletes a message of the deletion's own topic.
    """
    key = find_property(record.properties, _DELETE_KEY)
    if not key:
        return None
    text = str(key, "utf-8", "replace")
    return text if "+" in text else build_delete_key(real_topic(record), text)


def own_key(record: Record) -> str:
    """Return the key by which a deletion names a record."""
    unique_key = find_property(record.properties, _UNIQUE_KEY) or b""
    return build_delete_key(real_topic(record), str(unique_key, "utf-8", "replace"))


def build_delete_key(topic: str, unique_key: str) -> str:
    """Return the key of a message that waits; two topics may use one unique key."""
    return f"{topic}+{unique_key}"


def delivery(record: Record, enqueue_ms: int, dequeue_ms: int, *, is_roll: bool) -> Draft | None:
    """Return the draft that delivers a record, or puts it into the timer topic once more.

    Args:
        record: of the timer topic.
        enqueue_ms: when it came into the wheel.
        dequeue_ms: now.
        is_roll: its time is still beyond the wheel's window.

    Returns:
        None if the record does not say where it is for.
    """
    draft = Draft.again(record)
    properties = draft.properties
    added = {names.TIMER_ENQUEUE_MS: str(enqueue_ms), names.TIMER_DEQUEUE_MS: str(dequeue_ms)}
    if is_roll:
        times = properties.get(names.TIMER_ROLL_TIMES, "0")
        added[names.TIMER_ROLL_TIMES] = str(int(times) + 1 if times.isascii() and times.isdigit() else 1)
    stored = change_properties(draft.stored_properties, added)
    if len(stored) <= MAX_PROPERTIES_LENGTH:
        # Else RocketMQ took it without leaving room for these; nobody needs them.
        draft.stored_properties = stored
        properties.update(added)
    draft.tags_code = string_hash(properties[names.TAGS]) if names.TAGS in properties else 0
    draft.prepared_transaction_offset = 0
    draft.wait = False
    if is_roll:
        return draft
    # Gone from what hooks see only: the stored text keeps them, and the time, for whoever wonders later.
    draft.topic = properties.pop(names.REAL_TOPIC, "")
    try:
        draft.queue_id = parse_i32(properties.pop(names.REAL_QID, ""))
    except InvalidInputError:
        return None
    return draft if draft.topic and draft.queue_id >= 0 else None
