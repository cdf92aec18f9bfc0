"""Op records: which half messages are decided. Several decisions share one record.

Body of an op record, in the queue of RMQ_SYS_TRANS_OP_HALF_TOPIC, with tag `d`:

    4.9    "12"          one queue offset of the half queue, in decimal
    5.x    "12,15,16,"   several, each followed by a comma

Nothing in an op record says whether a transaction was committed: that is what the record in the real topic says, and it
names its half message. Hence the two speeds. A commit may wait for company up to `transactionOpBatchInterval`, because a
start after a crash finds it in the log (`load.py`). A rollback leaves no other trace, so its op record is written in the
same turn of the loop, with all that wait.

Source: `TransactionalOpBatchService`, `TransactionalMessageServiceImpl#batchSendOpMessage`, RocketMQ 5.3. Differs from
RocketMQ: there every decision waits in memory, and a crash loses those of the last three seconds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.common.environment import Clock
from rocketmq_py.common.java import string_hash
from rocketmq_py.common.topic import TRANS_OP_HALF_TOPIC
from rocketmq_py.store.draft import Draft
from rocketmq_py.store.put_result import PutMessageResult

logger = logging.getLogger(__name__)

#: The tag that means "decided".
OP_TAG: Final = "d"
OP_QUEUE_ID: Final = 0
#: What RocketMQ's op records carry, in its order.
OP_PROPERTIES: Final = f"WAIT\x01true\x02TAGS\x01{OP_TAG}\x02".encode()
_TAGS_CODE: Final = string_hash(OP_TAG)
#: Longest number in a body: 19 digits.
_DIGITS: Final = 19

Done = Callable[[PutMessageResult], None]


class Store(Protocol):
    """What takes the records."""

    def put(self, drafts: Sequence[Draft], done: Done) -> None:
        """See `MessageStore.put`."""
        ...


def decode_op_body(body: bytes) -> list[int]:
    """Return the half queue offsets in an op record's body; what is no number is left out."""
    parts = (part.strip() for part in body.split(b","))
    return [int(part) for part in parts if part.isdigit() and len(part) <= _DIGITS]


@dataclass(frozen=True, slots=True)
class Decided:
    """A decision that is not in an op record yet.

    Attributes:
        offsets: the half messages of its transaction that it names.
        done: told when it is recorded; None if nobody waits.
    """

    offsets: tuple[int, ...]
    done: Done | None

    @property
    def text(self) -> str:
        """Its part of a body."""
        return "".join(f"{offset}," for offset in self.offsets)


def split(waiting: Iterable[Decided], max_size: int) -> list[list[Decided]]:
    """Divide decisions among op records: one takes no more when its body has reached `max_size` characters."""
    records: list[list[Decided]] = []
    size = max_size
    for decided in waiting:
        if size >= max_size:
            records.append([])
            size = 0
        records[-1].append(decided)
        size += len(decided.text)
    return records


class TransactionalOpBatchService:
    """Writes op records.

    Args:
        config: sizes and the interval.
        store: takes the records.
        clock: their born time.
        store_host: returns the broker's own address, as records carry it.
        recorded: told which half offsets an op record names, and its queue offset.
    """

    def __init__(
        self,
        config: BrokerConfig,
        store: Store,
        clock: Clock,
        store_host: Callable[[], bytes],
        recorded: Callable[[Sequence[int], int], None],
    ) -> None:
        self._config = config
        self._store = store
        self._clock = clock
        self._store_host = store_host
        self._recorded = recorded
        self._waiting: list[Decided] = []
        self._size = 0
        # Records that were put and are not acknowledged: what they name, by a number of their own.
        self._writing: dict[int, list[Decided]] = {}
        self._writes = 0
        self._timer: asyncio.Handle | None = None
        self._is_timer_urgent = False
        self._is_stopping = False

    def add(self, offsets: Sequence[int], done: Done | None = None) -> None:
        """Put the half offsets of one decision into an op record.

        Args:
            offsets: one or more, of one transaction.
            done: for a decision that nothing else in the log tells of: it is written in this turn of the loop, and
                `done` is told how that went. A decision without waits until the interval is over, and if the store
                refuses it, is written with a later record.
        """
        decided = Decided(tuple(offsets), done)
        self._waiting.append(decided)
        self._size += len(decided.text)
        limit = self._config.transaction_op_msg_max_size
        self._schedule(done is not None or self._is_stopping or self._size > limit)

    def __contains__(self, offset: int) -> bool:
        """Tell whether a half offset is named by no op record yet, but will be."""
        return any(offset in decided.offsets for group in (self._waiting, *self._writing.values()) for decided in group)

    def write_soon(self) -> None:
        """Write what waits at the end of this turn of the loop."""
        if self._waiting:
            self._schedule(True)

    def _schedule(self, is_urgent: bool) -> None:
        if self._timer is not None:
            if self._is_timer_urgent or not is_urgent:
                return
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._is_timer_urgent = is_urgent
        if is_urgent:
            self._timer = loop.call_soon(self._write)
        else:
            self._timer = loop.call_later(self._config.transaction_op_batch_interval / 1_000, self._write)

    def _write(self) -> None:
        self._timer = None
        waiting, self._waiting, self._size = self._waiting, [], 0
        for record in split(waiting, max(self._config.transaction_op_msg_max_size, 1)):
            self._put(record)

    def _put(self, record: list[Decided]) -> None:
        self._writes += 1
        number = self._writes
        self._writing[number] = record
        draft = Draft(
            topic=TRANS_OP_HALF_TOPIC,
            queue_id=OP_QUEUE_ID,
            body="".join(decided.text for decided in record).encode(),
            stored_properties=OP_PROPERTIES,
            born_timestamp=self._clock.wall_ms(),
            born_host=self._store_host(),
            tags_code=_TAGS_CODE,
        )

        def done(result: PutMessageResult) -> None:
            self._written(self._writing.pop(number), result)

        self._store.put([draft], done)

    def _written(self, record: list[Decided], result: PutMessageResult) -> None:
        if result.is_stored:
            self._recorded([offset for decided in record for offset in decided.offsets], result.queue_offset)
        else:
            kept = [decided for decided in record if decided.done is None]
            if kept:
                logger.warning("an op record of %d decisions is tried again: %s", len(kept), result.status.name)
                self._waiting = [*kept, *self._waiting]
                self._size += sum(len(decided.text) for decided in kept)
                self._schedule(False)
        for decided in record:
            if decided.done is not None:
                decided.done(result)

    async def stop_serving(self) -> None:
        """Write what waits, and from now on everything at once: soon the store takes nothing any more."""
        self._is_stopping = True
        self.write_soon()
        # One turn for the write, one for what it makes known.
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def stop(self) -> None:
        """Give up what could not be written; the next start finds the commits in the log."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting:
            logger.warning("%d decisions are in no op record", len(self._waiting))

    def __repr__(self) -> str:
        return f"<TransactionalOpBatchService {len(self._waiting)} waiting, {len(self._writing)} being written>"
