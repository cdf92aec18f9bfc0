"""The check service: looks for half messages that nobody decided, and asks their producers.

    every transactionCheckInterval, from the progress to the end of the half queue, 32 at a time:
        decided, or a newer copy is there   pass
        undecided and old enough            put back at the end of the queue, ask a producer, pass
        asked about often enough            set aside, pass
        too young                           stop: all behind it are younger

A copy is stored before the progress passes the half message, so a crash in between leaves two copies and not none; the
older of the two is passed when it is met. The progress in both queues is kept as that of group CID_RMQ_SYS_TRANS, where
RocketMQ has it too.

One run holds at most 32 half messages in memory and gives other work its turn after each batch.

Source: `TransactionalMessageCheckService`, `TransactionalMessageServiceImpl#check`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.consumer_offset import ConsumerOffsetManager
from rocketmq_py.broker.transaction.check_request import CheckSender
from rocketmq_py.broker.transaction.check_rules import CheckTerms, Verdict, judge
from rocketmq_py.broker.transaction.half_message import HALF_QUEUE_ID, copied, origin_of, set_aside
from rocketmq_py.broker.transaction.load import GROUP
from rocketmq_py.broker.transaction.op_batch import OP_QUEUE_ID, TransactionalOpBatchService
from rocketmq_py.broker.transaction.op_search import read_some, records_of
from rocketmq_py.broker.transaction.transaction_metrics import TransactionMetrics
from rocketmq_py.broker.transaction.transaction_table import Place, TransactionTable
from rocketmq_py.common.environment import Clock
from rocketmq_py.common.record import Record
from rocketmq_py.common.topic import TRANS_HALF_TOPIC, TRANS_OP_HALF_TOPIC
from rocketmq_py.store.draft import Draft
from rocketmq_py.store.message_store import MessageStore
from rocketmq_py.store.put_result import PutMessageResult, PutMessageStatus

logger = logging.getLogger(__name__)

#: Decided half messages that are passed before other work gets its turn.
PASS_BATCH: Final = 1_000
#: Half messages in the table beyond which a run is not put off until its time: what one process must remember.
MAX_TABLE: Final = 1_000_000
#: Seconds between two looks at that.
RELIEF_SECONDS: Final = 5.0
#: Verdicts of the store on a message that will never fit: waiting does not help.
_NEVER: Final = (PutMessageStatus.MESSAGE_ILLEGAL, PutMessageStatus.PROPERTIES_SIZE_EXCEEDED)


@dataclass(slots=True)
class CheckTotals:
    """What the runs of one process did, for listings and labs.

    Attributes:
        put_back: half messages put back, asked about or not.
        asked: questions sent to producers.
        set_aside: half messages given up.
        unusable: half messages that can neither be put back nor set aside, and were passed.
    """

    put_back: int = 0
    asked: int = 0
    set_aside: int = 0
    unusable: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """What is to be put for one half message."""

    half: Record
    verdict: Verdict
    draft: Draft


class TransactionalMessageCheckService:
    """Checks the half messages of one broker; `run` does one round.

    Args:
        config: time-out and number of checks.
        reserved_hours: how long the log is kept.
        store: the queues.
        offsets: the stored progress.
        table: what is decided.
        ops: writes op records.
        sender: asks producers.
        metrics: counts open transactions.
        clock: the wall clock.
        make_topic: makes the topic of what is set aside, and returns when it is on disk.

    Attributes:
        totals: what was done so far.
        is_paused: a slave checks nothing: its master does.
        forward: gives a half message to another broker instead of checking it here, and returns whether that worked:
            for a slave that acts for its master, and cannot put it back into its own log. None elsewhere.
    """

    def __init__(
        self,
        *,
        config: BrokerConfig,
        reserved_hours: int,
        store: MessageStore,
        offsets: ConsumerOffsetManager,
        table: TransactionTable,
        ops: TransactionalOpBatchService,
        sender: CheckSender,
        metrics: TransactionMetrics,
        clock: Clock,
        make_topic: Callable[[], Awaitable[None]],
    ) -> None:
        self.totals = CheckTotals()
        self.is_paused = False
        self.forward: Callable[[Record], Awaitable[bool]] | None = None
        self._config = config
        self._reserved_hours = reserved_hours
        self._store = store
        self._offsets = offsets
        self._table = table
        self._ops = ops
        self._sender = sender
        self._metrics = metrics
        self._clock = clock
        self._make_topic = make_topic
        self._running = asyncio.Lock()

    async def relieve(self) -> None:
        """Do a round now if the table has grown too large for its time, such as with a check once an hour."""
        if len(self._table) > MAX_TABLE and not self._running.locked():
            await self.run()

    async def run(self) -> None:
        """Look at the half queue once, up to the first half message that is too young.

        Cancellation: between two batches; what was put is in the log and is found by the next start.
        """
        config = self._config
        terms = CheckTerms(
            time_out=config.transaction_time_out,
            check_max=config.transaction_check_max,
            reserved_hours=self._reserved_hours,
            started_ms=self._clock.wall_ms(),
        )
        if self.is_paused:
            return
        async with self._running:
            self._ops.write_soon()
            try:
                while await self._pass_decided() and await self._check_batch(terms) and not self.is_paused:
                    pass
            finally:
                self._store_progress()

    async def pause(self) -> None:
        """Check nothing from now on, for a master that becomes a slave; returns when a run under way has ended."""
        self.is_paused = True
        async with self._running:
            pass

    def resume(self) -> None:
        """Check again, for a slave that becomes a master; its table must have been filled."""
        self.is_paused = False

    async def _pass_decided(self) -> bool:
        """Pass decided half messages without reading them; return whether anything is left to look at."""
        table = self._table
        while True:
            # An op record that is not stored yet is all that a later question could be answered from.
            start = end = table.progress
            while end - start < PASS_BATCH and table.is_recorded(end):
                end += 1
            table.pass_to(end)
            await asyncio.sleep(0)
            if end - start < PASS_BATCH:
                return end < self._store.max_offset(TRANS_HALF_TOPIC, HALF_QUEUE_ID)

    async def _check_batch(self, terms: CheckTerms) -> bool:
        """Judge the next few half messages and carry the verdicts out; return whether to go on."""
        table = self._table
        result = await read_some(self._store, TRANS_HALF_TOPIC, HALF_QUEUE_ID, table.progress)
        if result is None:
            high = self._store.max_offset(TRANS_HALF_TOPIC, HALF_QUEUE_ID)
            if table.progress > high:
                # The queue was cut, with what it pointed to.
                table.clear(high)
            return False
        records, following = records_of(result), result.next_begin_offset
        if self.forward is not None:
            return await self._forward(records, following)
        steps, end, goes_on = self._judge(records, terms)
        done = await self._carry_out(steps)
        if done < len(steps):
            # The store takes nothing now; the next run begins with this one.
            table.pass_to(steps[done].half.queue_offset)
            return False
        table.pass_to(following if goes_on else end)
        if any(step.verdict is Verdict.SET_ASIDE for step in steps):
            # A crash must not set it aside a second time.
            self._store_progress()
            await self._offsets.table.persist_soon()
        return goes_on

    async def _forward(self, records: Sequence[Record], following: int) -> bool:
        """Give the undecided among some half messages to another broker; return whether to go on."""
        assert self.forward is not None
        for half in records:
            if not self._table.is_over(half.queue_offset, origin_of(half)) and not await self.forward(half):
                self._table.pass_to(half.queue_offset)
                return False
        self._table.pass_to(following)
        return True

    def _judge(self, records: Sequence[Record], terms: CheckTerms) -> tuple[list[Step], int, bool]:
        """Return what to put, the first half message that is not passed, and whether there is none."""
        now, steps = self._clock.wall_ms(), list[Step]()
        for half in records:
            offset, origin = half.queue_offset, origin_of(half)
            if self._table.is_over(offset, origin):
                if self._table.is_waiting(offset):
                    return steps, offset, False
                continue
            judgement = judge(half, now, terms)
            if judgement.verdict is Verdict.WAIT:
                return steps, offset, False
            if judgement.verdict is Verdict.SET_ASIDE:
                draft = set_aside(half)
            else:
                draft = copied(half, judgement.check_times if judgement.verdict is Verdict.CHECK else None)
            steps.append(Step(half, judgement.verdict, draft))
        return steps, 0, True

    async def _carry_out(self, steps: Sequence[Step]) -> int:
        """Put the drafts in one turn of the loop; return how many of them, from the first on, are done with."""
        if not steps:
            return 0
        if any(step.verdict is Verdict.SET_ASIDE for step in steps):
            await self._make_topic()
        loop = asyncio.get_running_loop()
        results: list[asyncio.Future[bool]] = []
        for step in steps:
            future: asyncio.Future[bool] = loop.create_future()
            results.append(future)
            if self._table.is_over(step.half.queue_offset, origin_of(step.half)):
                # Decided while the topic was being made.
                future.set_result(True)
            else:
                self._store.put([step.draft], functools.partial(self._put, step, future))
        done = await asyncio.gather(*results)
        return done.index(False) if False in done else len(done)

    def _put(self, step: Step, future: asyncio.Future[bool], result: PutMessageResult) -> None:
        """Take note of what became of one draft; called before consumers could see it."""
        if result.is_stored:
            if step.verdict is Verdict.SET_ASIDE:
                self._note_set_aside(step.half)
            else:
                self._note_copy(step, result)
        elif result.status in _NEVER:
            self.totals.unusable += 1
            self._note_end(step.half)
            logger.error(
                "the half message at offset %d of the log cannot be stored again (%s) and is passed undecided",
                step.half.physical_offset,
                result.status.name,
            )
        if not future.done():
            future.set_result(result.is_stored or result.status in _NEVER)

    def _note_set_aside(self, half: Record) -> None:
        self.totals.set_aside += 1
        self._note_end(half)
        self._table.given_up(origin_of(half))
        logger.warning(
            "the half message at offset %d of the log was set aside: no producer decided it in %d checks or in time",
            half.physical_offset,
            self._config.transaction_check_max,
        )

    def _note_end(self, half: Record) -> None:
        # One that was decided while this put was under way is counted already.
        if not self._table.is_over(half.queue_offset, origin_of(half)):
            self._metrics.ended(half.properties)

    def _note_copy(self, step: Step, result: PutMessageResult) -> None:
        place = Place(result.queue_offset, result.wrote_offset)
        self.totals.put_back += 1
        if not self._table.copied(step.half.queue_offset, origin_of(step.half), place):
            self._ops.add((place.queue_offset,))
        elif step.verdict is Verdict.CHECK:
            self.totals.asked += self._sender.send(step.half, step.draft, place, result.store_timestamp)

    def _store_progress(self) -> None:
        op_end = self._store.max_offset(TRANS_OP_HALF_TOPIC, OP_QUEUE_ID)
        self._offsets.commit(GROUP, TRANS_HALF_TOPIC, HALF_QUEUE_ID, self._table.progress)
        self._offsets.commit(GROUP, TRANS_OP_HALF_TOPIC, OP_QUEUE_ID, self._table.op_progress(op_end))

    def __repr__(self) -> str:
        return f"<TransactionalMessageCheckService {self.totals}>"
