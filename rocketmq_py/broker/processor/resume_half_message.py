"""RESUME_CHECK_HALF_MESSAGE (323): an operator has a message that was set aside checked once more.

The message becomes a half message that was never checked. A transaction that was decided meanwhile, or whose message was
resumed already, is not resumed: its message would come a second time.

Source: `AdminBrokerProcessor#resumeCheckHalfMessage`, RocketMQ 5.3. Differs from RocketMQ, which resumes any message,
as often as it is asked to.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from rocketmq_py.broker.refusal import Refusal
from rocketmq_py.broker.transaction.check_rules import HOUR_MS
from rocketmq_py.broker.transaction.half_message import origin_of, resumed
from rocketmq_py.broker.transaction.op_batch import TransactionalOpBatchService
from rocketmq_py.broker.transaction.op_search import Found, OpSearch
from rocketmq_py.broker.transaction.transaction_metrics import TransactionMetrics
from rocketmq_py.broker.transaction.transaction_table import HalfState, Place, TransactionTable
from rocketmq_py.common import properties as names
from rocketmq_py.common.environment import Clock
from rocketmq_py.common.message_id import parse_offset_id
from rocketmq_py.common.properties import decode_properties
from rocketmq_py.common.record import Record, read_record
from rocketmq_py.common.topic import TRANS_CHECK_MAX_TIME_TOPIC
from rocketmq_py.remoting.answer import answer
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.header import decode_header
from rocketmq_py.remoting.headers.transaction import ResumeCheckHalfMessageRequestHeader
from rocketmq_py.remoting.processors import Answer, Processors, Request
from rocketmq_py.store.message_store import MessageStore

logger = logging.getLogger(__name__)

FAILED: Final = "Put message back to RMQ_SYS_TRANS_HALF_TOPIC failed."


class ResumeHalfMessageProcessor:
    """Answers RESUME_CHECK_HALF_MESSAGE.

    Args:
        store: where the message is.
        table: what is decided.
        ops: decisions that no op record names yet.
        search: finds old decisions.
        clock: the wall clock.
        reserved_hours: how long the log is kept; an older message would be set aside again at once.
    """

    def __init__(
        self,
        *,
        store: MessageStore,
        table: TransactionTable,
        ops: TransactionalOpBatchService,
        search: OpSearch,
        metrics: TransactionMetrics,
        clock: Clock,
        reserved_hours: int,
    ) -> None:
        self._store = store
        self._table = table
        self._ops = ops
        self._search = search
        self._metrics = metrics
        self._clock = clock
        self._reserved_hours = reserved_hours
        # One at a time: of two requests for one message the second has to see what the first did.
        self._turn = asyncio.Lock()

    def register(self, processors: Processors) -> None:
        """Register the code."""
        processors.register(RequestCode.RESUME_CHECK_HALF_MESSAGE, self.process_request, "admin")

    async def process_request(self, request: Request) -> Answer:
        """Put the message back into the half queue."""
        header = decode_header(ResumeCheckHalfMessageRequestHeader, request.command.ext_fields)
        _, offset = parse_offset_id(header.msg_id)
        data = await self._store.look_message(offset)
        if data is None:
            return _refuse(f"there is no message {header.msg_id} in this broker's log")
        message = read_record(data)
        async with self._turn:
            reason = await self._reason_against(message)
            return _refuse(reason) if reason else await self._resume(message)

    async def _reason_against(self, message: Record) -> str:
        if message.topic != TRANS_CHECK_MAX_TIME_TOPIC.encode():
            return f"the message lies in topic {message.topic.decode('utf-8', 'replace')}, not in {TRANS_CHECK_MAX_TIME_TOPIC}"
        age = self._clock.wall_ms() - message.born_timestamp
        if age > self._reserved_hours * HOUR_MS:
            return (
                f"the message was sent {age // HOUR_MS} hours ago, more than fileReservedTime={self._reserved_hours}: "
                "it would be set aside again at once. Raise fileReservedTime and restart the broker, or discard it"
            )
        if names.REAL_TOPIC not in decode_properties(message.properties):
            return f"the message has no property {names.REAL_TOPIC}"
        if not _knows_origin(message):
            # Set aside by a broker of Apache's: nothing says which half message it was.
            return ""
        origin = origin_of(message)
        if self._table.newest(origin) is not None:
            return "the message was resumed already and is being checked"
        if self._table.state(origin, origin) is HalfState.DECIDED or origin in self._ops:
            return "the transaction was decided meanwhile"
        # The decision may be older than the message's place here, never older than the message.
        found = await self._search.find(frozenset((origin,)), message.born_timestamp)
        return "the transaction was decided meanwhile" if found is Found.DECIDED else ""

    async def _resume(self, message: Record) -> Answer:
        result = await self._store.put_message(resumed(message))
        if not result.is_stored:
            return _refuse(FAILED)
        if _knows_origin(message):
            origin = origin_of(message)
            self._table.copied(origin, origin, Place(result.queue_offset, result.wrote_offset))
        self._metrics.begun(message.properties)
        logger.info("the message at %d is checked again, as an operator asks", message.physical_offset)
        return answer()


def _knows_origin(message: Record) -> bool:
    return names.TRAN_PREPARED_QUEUE_OFFSET in decode_properties(message.properties)


def _refuse(reason: str) -> Answer:
    return Refusal(ResponseCode.SYSTEM_ERROR, reason).to_response()
