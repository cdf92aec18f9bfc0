"""Opening a store the simple way: read the whole log, dispatch every record, cut off what is no record.

It needs nothing but the log, and takes as long as reading the log takes. Stage recovery replaces it by a way that reads
only what the last run did not finish.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from rocketmq_py.store.reput import read_columns

if TYPE_CHECKING:
    from rocketmq_py.store.message_store import MessageStore

logger = logging.getLogger(__name__)

#: Tails of so many bytes are written while the log is read, so that a long log does not gather in memory.
_TAIL_BYTES: Final = 65_536
_WRITE_EVERY: Final = 64


def rebuild(store: MessageStore) -> None:
    """Make queues, index and offsets agree with the log. Blocks.

    What is there already is kept: dispatching a record twice changes nothing.
    """
    log = store.commit_log
    end = dispatch_again(store, log.min_offset, log.max_offset)
    if end < log.max_offset:
        log.truncate(end)
    if log.max_offset == log.min_offset == 0:
        store.queues.destroy()
    store.queues.truncate(end)
    settle(store, end)


def dispatch_again(store: MessageStore, start: int, end: int) -> int:
    """Dispatch the valid records from `start` to `end` and return where they ended. Blocks; nobody is told."""
    position = start
    for number, (columns, behind) in enumerate(read_columns(store.commit_log, start, end), 1):
        if len(columns):
            store.dispatchers.dispatch(columns, quietly=True)
        position = behind
        if number % _WRITE_EVERY == 0:
            store.queues.flush.write_blocking(_TAIL_BYTES)
    return position


def settle(store: MessageStore, end: int) -> None:
    """Go on from the end of the log: minima, next offsets of all queues, and where dispatch continues. Blocks."""
    store.queues.correct_min(store.commit_log.min_offset)
    for queue in store.queues:
        store.slots.set_next_offset(queue.topic, queue.queue_id, queue.max_offset)
    store.reput.reput_from_offset = end
    logger.info("%d queues, log %d..%d", len(store.queues), store.commit_log.min_offset, end)
