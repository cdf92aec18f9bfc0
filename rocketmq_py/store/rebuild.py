"""Opening a store the simple way: read the whole log, dispatch every record, cut off what is no record.

It needs nothing but the log, and takes as long as reading the log takes. Stage recovery replaces it by a way that reads
only what the last run did not finish.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from rocketmq_py.store.consume_queue import ConsumeQueue
from rocketmq_py.store.queue_files import Key
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
    first_offsets: dict[Key, int] = {}
    end = dispatch_again(store, log.min_offset, log.max_offset, first_offsets)
    if end < log.max_offset:
        log.truncate(end)
    is_behind_log = store.index is not None and store.index.end_physical_offset >= end
    if store.index is not None and is_behind_log:
        # It leads behind the log. Kept, it would take the records that come there next for those it has.
        store.index.truncate(end)
    if _empty_beheaded(store, first_offsets) or is_behind_log:
        dispatch_again(store, log.min_offset, end)
    if log.max_offset == log.min_offset == 0:
        store.queues.destroy()
    store.queues.truncate(end)
    settle(store, end)


def _empty_beheaded(store: MessageStore, first_offsets: dict[Key, int]) -> bool:
    """Empty the queues that lack files at their beginning of which the log still has the records; return if any did.

    Args:
        store: the store.
        first_offsets: the first queue offset that the log has of each queue.
    """
    beheaded = [
        queue
        for queue in store.queues
        if isinstance(queue, ConsumeQueue) and first_offsets.get(queue.key, queue.first) < queue.first
    ]
    for queue in beheaded:
        logger.error("%r has lost the files before; it is made again from the log", queue)
        queue.cut(0)
        queue.min_offset, queue.max_physical_offset = 0, -1
    return bool(beheaded)


def dispatch_again(store: MessageStore, start: int, end: int, first_offsets: dict[Key, int] | None = None) -> int:
    """Dispatch the valid records from `start` to `end` and return where they ended. Blocks; nobody is told.

    Args:
        store: the store.
        start: where a record begins.
        end: no record that ends behind it is dispatched.
        first_offsets: gets the first queue offset of each queue that is met.
    """
    position = start
    for number, (columns, behind) in enumerate(read_columns(store.commit_log, start, end), 1):
        if len(columns):
            store.dispatchers.dispatch(columns, quietly=True)
            if first_offsets is not None:
                for arrivals in columns.arrivals:
                    first_offsets.setdefault((arrivals.topic, arrivals.queue_id), arrivals.queue_offsets[0])
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
