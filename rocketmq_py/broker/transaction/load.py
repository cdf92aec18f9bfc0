"""What a broker that starts must find out about its half messages, before anybody asks.

    op queue     from the stored progress on     which half messages are decided
    half queue   from the stored progress on     which are undecided, and which of them are copies of which
    the log      from the first undecided on     commits that no op record tells of yet; after a crash only

The last step makes up for decisions that waited for an op record when the process died: a committed message names its
half message, so the log itself tells. It begins at an undecided half message, and those are young: each check puts them
back at the end of the queue.

Source: `TransactionalMessageServiceImpl#fillOpRemoveMap`, RocketMQ 5.3; the last step is ours.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from rocketmq_py.broker.consumer_offset import NO_OFFSET, ConsumerOffsetManager
from rocketmq_py.broker.transaction.half_message import HALF_QUEUE_ID, origin_of
from rocketmq_py.broker.transaction.op_batch import OP_QUEUE_ID, decode_op_body
from rocketmq_py.broker.transaction.op_search import is_op, read_queue
from rocketmq_py.broker.transaction.transaction_metrics import TransactionMetrics, real_topic_of
from rocketmq_py.broker.transaction.transaction_table import UNWRITTEN, Place, TransactionTable
from rocketmq_py.common.environment import RunBlocking
from rocketmq_py.common.sys_flag import TRANSACTION_COMMIT, transaction_type
from rocketmq_py.common.topic import TRANS_HALF_TOPIC, TRANS_OP_HALF_TOPIC
from rocketmq_py.store.commit_log import CommitLog
from rocketmq_py.store.message_store import MessageStore

logger = logging.getLogger(__name__)

#: The group whose offsets are the progress in both queues.
GROUP: Final = "CID_RMQ_SYS_TRANS"
#: Bytes of the log that are read in one blocking call.
CHUNK: Final = 8 << 20


@dataclass(slots=True)
class Undecided:
    """What is not decided yet, as the two queues tell it.

    Attributes:
        by_place: physical offset of a half message -> its queue offset and that of the first one of its transaction.
        by_origin: queue offset of a transaction's first half message -> those of all that are known of it.
        topics: queue offset of the first half message of a transaction -> the topic where it is to be visible.
        first_place: the smallest of the physical offsets.
    """

    by_place: dict[int, tuple[int, int]] = field(default_factory=dict)
    by_origin: dict[int, list[int]] = field(default_factory=dict)
    topics: dict[int, str] = field(default_factory=dict)

    def add(self, place: int, offset: int, origin: int) -> None:
        """Note a half message."""
        self.by_place[place] = (offset, origin)
        self.by_origin.setdefault(origin, []).append(offset)

    @property
    def first_place(self) -> int:
        """Where the log has to be read from."""
        return min(self.by_place)


class TransactionLoader:
    """Fills the table.

    Args:
        store: the queues and the log.
        offsets: the stored progress.
        table: what is filled.
        metrics: what is counted anew.
        run_blocking: for reading the log.
        add_op: told of a decision that no op record names.
        after_crash: tells whether the last process did not stop in order, so that commits may lack their op records.
    """

    def __init__(
        self,
        store: MessageStore,
        offsets: ConsumerOffsetManager,
        table: TransactionTable,
        metrics: TransactionMetrics,
        run_blocking: RunBlocking,
        add_op: Callable[[Sequence[int]], None],
        after_crash: Callable[[], bool],
    ) -> None:
        self._store = store
        self._offsets = offsets
        self._table = table
        self._metrics = metrics
        self._run_blocking = run_blocking
        self._add_op = add_op
        self._after_crash = after_crash

    async def start(self) -> None:
        """Fill the table, before the broker serves anybody."""
        self._metrics.load()
        await self.load()

    async def load(self, *, is_taken_over: bool = False, writes_ops: bool = True) -> None:
        """Read what lies behind the stored progress; also for a slave that becomes a master.

        Args:
            is_taken_over: the last master did not stop in order, as far as its slave can know.
            writes_ops: whether decisions that no op record names shall get one; a log that is a copy takes none.
        """
        self._table.clear(self._progress(TRANS_HALF_TOPIC, HALF_QUEUE_ID))
        decided = await self._read_ops(self._progress(TRANS_OP_HALF_TOPIC, OP_QUEUE_ID))
        undecided = await self._read_halves(decided)
        if undecided.by_place and (is_taken_over or self._after_crash()):
            await self._read_log(undecided, writes_ops=writes_ops)
        self._metrics.revise(Counter(undecided.topics.values()))

    def _progress(self, topic: str, queue_id: int) -> int:
        low, high = self._store.min_offset(topic, queue_id), self._store.max_offset(topic, queue_id)
        stored = self._offsets.query(GROUP, topic, queue_id)
        return low if stored == NO_OFFSET else min(max(stored, low), high)

    async def _read_ops(self, start: int) -> dict[int, int]:
        """Return every half offset that an op record names, and that record's queue offset."""
        decided: dict[int, int] = {}
        async for record in read_queue(self._store, TRANS_OP_HALF_TOPIC, OP_QUEUE_ID, start):
            if is_op(record):
                decided.update(dict.fromkeys(decode_op_body(record.body), record.queue_offset))
        for half, op in decided.items():
            self._table.recorded((half,), op)
        return decided

    async def _read_halves(self, decided: dict[int, int]) -> Undecided:
        undecided = Undecided()
        async for record in read_queue(self._store, TRANS_HALF_TOPIC, HALF_QUEUE_ID, self._table.progress):
            offset, origin = record.queue_offset, origin_of(record)
            op = decided.get(offset, decided.get(origin))
            if op is not None:
                self._table.recorded((offset,), op)
                continue
            undecided.add(record.physical_offset, offset, origin)
            undecided.topics[origin] = real_topic_of(record.properties)
            if origin != offset:
                self._table.copied(offset, origin, Place(offset, record.physical_offset))
        return undecided

    async def _read_log(self, undecided: Undecided, *, writes_ops: bool) -> None:
        log, offset, found = self._store.commit_log, undecided.first_place, 0
        while offset < log.max_offset:
            prepared, following = await self._run_blocking(commits_in, log, offset, CHUNK)
            for place in prepared:
                half = undecided.by_place.get(place)
                if half is not None and not self._table.is_over(*half):
                    # Older copies, too: the stored progress may lie before them.
                    offsets = sorted({*self._table.decide(*half).offsets, *undecided.by_origin.get(half[1], ())})
                    self._table.recorded(offsets, UNWRITTEN)
                    undecided.topics.pop(half[1], None)
                    if writes_ops:
                        self._add_op(offsets)
                    found += 1
            if following <= offset:
                break
            offset = following
        if found:
            logger.info("%d transactions were committed before the crash and are now recorded as decided", found)


def commits_in(log: CommitLog, start: int, size: int) -> tuple[list[int], int]:
    """Read some of the log; for a thread.

    Args:
        log: the commit log.
        start: a record begins here.
        size: bytes after which to stop.

    Returns:
        For each record of a commit the physical offset of its half message, and where to go on.
    """
    found, end = [], start
    for offset, check in log.scan(start):
        record, end = check.record, offset + check.size
        if record is not None and transaction_type(record.sys_flag) == TRANSACTION_COMMIT:
            found.append(record.prepared_transaction_offset)
        if end - start >= size:
            break
    return found, end
