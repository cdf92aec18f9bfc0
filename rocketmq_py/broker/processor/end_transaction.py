"""END_TRANSACTION (37): a producer commits a half message, or rolls it back.

    commit     the message is stored anew in its real topic; then an op record says that the half message is decided
    rollback   only the op record
    0          the producer does not know yet: nothing happens, and nothing is answered

A request names the half message by its places in the half queue and in the log, and both have to fit, together with the
producer group. The first decision counts. Differs from RocketMQ, which stores the message again for each commit: here a
repetition is answered like the first request, and does nothing.

Source: `EndTransactionProcessor`, RocketMQ 5.3.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Final

from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.refusal import Refusal
from rocketmq_py.broker.send_message import RESULTS, illegal_message, unavailable
from rocketmq_py.broker.statistics import BrokerStatsManager
from rocketmq_py.broker.transaction.check_rules import too_late_to_end
from rocketmq_py.broker.transaction.half_message import HALF_QUEUE_ID, committed, origin_of
from rocketmq_py.broker.transaction.op_batch import TransactionalOpBatchService
from rocketmq_py.broker.transaction.op_search import Found, OpSearch
from rocketmq_py.broker.transaction.transaction_metrics import TransactionMetrics
from rocketmq_py.broker.transaction.transaction_table import HalfState, TransactionTable
from rocketmq_py.common import properties as names
from rocketmq_py.common.errors import CorruptDataError, InvalidInputError
from rocketmq_py.common.properties import find_property
from rocketmq_py.common.record import Record, read_record
from rocketmq_py.common.sys_flag import TRANSACTION_COMMIT, TRANSACTION_NOT, TRANSACTION_ROLLBACK
from rocketmq_py.common.topic import TRANS_HALF_TOPIC
from rocketmq_py.remoting.answer import answer
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.errors import HeaderError
from rocketmq_py.remoting.header import decode_header
from rocketmq_py.remoting.headers.transaction import EndTransactionRequestHeader
from rocketmq_py.remoting.processors import DEFERRED, Answer, Processors, Request
from rocketmq_py.store.get_message import GetMessageStatus
from rocketmq_py.store.message_store import MessageStore
from rocketmq_py.store.put_result import PutMessageResult, PutMessageStatus

logger = logging.getLogger(__name__)

NOT_FOUND: Final = "Find prepared transaction message failed"
_PGROUP: Final = names.PGROUP.encode()
_DECISIONS: Final = (TRANSACTION_NOT, TRANSACTION_COMMIT, TRANSACTION_ROLLBACK)


@dataclass(slots=True)
class Ending:
    """A decision that is being carried out, and the requests that wait for how that goes.

    Attributes:
        half: the half message that the first request named.
        header: the first request's header.
        was_open: it was not set aside before.
        requests: the first request, and those that came meanwhile for the same transaction.
    """

    half: Record
    header: EndTransactionRequestHeader
    was_open: bool
    requests: list[Request] = field(default_factory=list)


class EndTransactionProcessor:
    """Answers END_TRANSACTION.

    Args:
        config: time-out, and whether this is a master.
        max_message_size: for a remark.
        store: half messages are read there, and messages put.
        table: what is decided.
        ops: writes op records.
        search: finds old decisions.
        metrics: counts open transactions.
        statistics: counts what reaches a topic.
    """

    def __init__(
        self,
        *,
        config: BrokerConfig,
        max_message_size: int,
        store: MessageStore,
        table: TransactionTable,
        ops: TransactionalOpBatchService,
        search: OpSearch,
        metrics: TransactionMetrics,
        statistics: BrokerStatsManager,
    ) -> None:
        self._config = config
        self._max_message_size = max_message_size
        self._store = store
        self._table = table
        self._ops = ops
        self._search = search
        self._metrics = metrics
        self._statistics = statistics
        # By the queue offset of the transaction's first half message.
        self._under_way: dict[int, Ending] = {}

    def register(self, processors: Processors) -> None:
        """Register the code."""
        processors.register(RequestCode.END_TRANSACTION, self.process_request, "end transaction")

    def process_request(self, request: Request) -> Answer | Awaitable[Answer]:
        """Find the half message and end its transaction. A half message that is in memory is ended at once."""
        header = decode_header(EndTransactionRequestHeader, request.command.ext_fields)
        if header.commit_or_rollback not in _DECISIONS:
            raise HeaderError(
                f"commitOrRollback field wrong: {header.commit_or_rollback} is none of 0 (unknown), 8 (commit), 12 (rollback)"
            )
        if not self._config.is_master:
            return Refusal(ResponseCode.SLAVE_NOT_AVAILABLE, "a slave ends no transaction").to_response()
        if header.commit_or_rollback == TRANSACTION_NOT:
            logger.debug("the producer does not know yet how the transaction of %s ended", header.msg_id)
            return None
        half = self._in_memory(header)
        if half is None:
            return self._end_old(request, header)
        return self._end(request, header, half)

    # --- the half message ---------------------------------------------------------------------------------------------

    def _in_memory(self, header: EndTransactionRequestHeader) -> Record | None:
        """Return the half message if both places fit and it is in memory, as it nearly always is."""
        result = self._store.get_message(TRANS_HALF_TOPIC, HALF_QUEUE_ID, header.tran_state_table_offset, 1)
        if result is None or result.status is not GetMessageStatus.FOUND:
            return None
        record = read_record(result.records)
        return record if record.physical_offset == header.commit_log_offset else None

    async def _end_old(self, request: Request, header: EndTransactionRequestHeader) -> Answer:
        data = await self._store.look_message(header.commit_log_offset)
        try:
            half = None if data is None else read_record(data)
        except CorruptDataError:
            half = None
        # Differs from RocketMQ, which takes any message here: a committed one could be committed once more.
        if half is None or half.topic != TRANS_HALF_TOPIC.encode():
            return Refusal(ResponseCode.SYSTEM_ERROR, NOT_FOUND).to_response()
        ended = self._end(request, header, half)
        return await ended if isinstance(ended, Awaitable) else ended

    def _refuse(self, header: EndTransactionRequestHeader, half: Record, now_ms: int) -> Refusal | None:
        if not header.from_transaction_check and too_late_to_end(half, now_ms, self._config.transaction_time_out):
            return Refusal(
                ResponseCode.ILLEGAL_OPERATION,
                "the time in which the producer decides unasked is over; it will be asked",
            )
        if (find_property(half.properties, _PGROUP) or b"").decode("utf-8", "replace") != header.producer_group:
            return Refusal(ResponseCode.SYSTEM_ERROR, "The producer group wrong")
        if half.queue_offset != header.tran_state_table_offset:
            return Refusal(ResponseCode.SYSTEM_ERROR, "The transaction state table offset wrong")
        if half.physical_offset != header.commit_log_offset:
            return Refusal(ResponseCode.SYSTEM_ERROR, "The commit log offset wrong")
        return None

    # --- the end ------------------------------------------------------------------------------------------------------

    def _end(self, request: Request, header: EndTransactionRequestHeader, half: Record) -> Answer | Awaitable[Answer]:
        refusal = self._refuse(header, half, request.received_ms)
        if refusal is not None:
            logger.warning("END_TRANSACTION of %s refused: %s", request.connection.remote_address, refusal.remark)
            return refusal.to_response()
        origin = origin_of(half)
        ending = self._under_way.get(origin)
        if ending is not None:
            ending.requests.append(request)
            return DEFERRED
        state = self._table.state(half.queue_offset, origin)
        if state is HalfState.DECIDED:
            return answer()
        self._under_way[origin] = Ending(half, header, state is HalfState.UNDECIDED, [request])
        if state is HalfState.PASSED:
            return self._end_passed(origin)
        self._decide(origin)
        return DEFERRED

    async def _end_passed(self, origin: int) -> Answer:
        """End a transaction that the check service has done with: it was decided, or set aside."""
        half = self._under_way[origin].half
        offsets = frozenset((half.queue_offset, origin))
        try:
            is_waiting = any(offset in self._ops for offset in offsets)
            found = Found.DECIDED if is_waiting else await self._search.find(offsets, half.store_timestamp)
        except BaseException:
            self._finish(origin, Refusal(ResponseCode.SYSTEM_ERROR, "the op queue could not be read"))
            raise
        if found is Found.DECIDED:
            self._finish(origin, None)
            return DEFERRED
        if found is Found.GAVE_UP:
            logger.warning("it could not be found out whether the half message at %d was decided", half.physical_offset)
        self._decide(origin)
        return DEFERRED

    def _decide(self, origin: int) -> None:
        """Carry a decision out, as the first one for its transaction; the answers follow when it is stored."""
        ending = self._under_way[origin]
        half = ending.half
        newest = self._table.newest(origin)
        # After a crash the log is searched for the newest copy's place: the others may lie before the progress.
        prepared = half.physical_offset if newest is None else newest.physical_offset
        if ending.header.commit_or_rollback == TRANSACTION_ROLLBACK:
            decision = self._table.decide(half.queue_offset, origin)

            def recorded(result: PutMessageResult) -> None:
                if result.is_stored:
                    self._count_end(ending)
                else:
                    self._table.undo(decision)
                self._finish(origin, self._refusal(result.status))

            self._ops.add(decision.offsets, recorded)
            return
        try:
            draft = committed(half, prepared)
        except InvalidInputError as error:
            self._finish(origin, Refusal(ResponseCode.SYSTEM_ERROR, str(error)))
            return
        decision = self._table.decide(half.queue_offset, origin)

        def stored(result: PutMessageResult) -> None:
            if result.is_stored:
                self._statistics.topic_put(draft.topic).add(1, len(draft.body))
                self._count_end(ending)
                self._ops.add(decision.offsets)
            else:
                self._table.undo(decision)
            self._finish(origin, self._refusal(result.status))

        self._store.put([draft], stored)

    def _count_end(self, ending: Ending) -> None:
        if ending.was_open:
            self._metrics.ended(ending.half.properties)

    def _refusal(self, status: PutMessageStatus) -> Refusal | None:
        if status.is_stored:
            return None
        if status in (PutMessageStatus.MESSAGE_ILLEGAL, PutMessageStatus.PROPERTIES_SIZE_EXCEEDED):
            return illegal_message(self._max_message_size)
        if status is PutMessageStatus.SERVICE_NOT_AVAILABLE:
            return unavailable("")
        code, remark = RESULTS.get(status, (ResponseCode.SYSTEM_ERROR, "UNKNOWN_ERROR DEFAULT"))
        return Refusal(code, remark or "")

    def _finish(self, origin: int, refusal: Refusal | None) -> None:
        """Answer everybody who asked for this transaction's end."""
        for request in self._under_way.pop(origin).requests:
            response: RemotingCommand = answer() if refusal is None else refusal.to_response()
            request.reply(response)
