"""Transactions that nobody decided: looking at those that were set aside, resuming and discarding them.

Everything is asked by requests that Apache's brokers answer, too. What became of a message is put together from four
places: where it was set aside, its half messages, the op records, and its real topic.

Source: `DefaultMQAdminExtImpl#resumeCheckHalfMessage`, RocketMQ 5.3; the rest is ours.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

from rocketmq_py.client.errors import BrokerResponseError, ClientError, NoBrokerError, NoRouteError
from rocketmq_py.client.instance import MQClientInstance
from rocketmq_py.client.pull_api import PullStatus
from rocketmq_py.client.pull_consumer import PullConsumer
from rocketmq_py.common import properties as names
from rocketmq_py.common.java import I64_MAX
from rocketmq_py.common.message import MessageExt, MessageQueue
from rocketmq_py.common.record import decode_records
from rocketmq_py.common.sys_flag import TRANSACTION_COMMIT, TRANSACTION_ROLLBACK, transaction_type
from rocketmq_py.common.topic import TRANS_CHECK_MAX_TIME_TOPIC, TRANS_HALF_TOPIC, TRANS_OP_HALF_TOPIC
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.header import encode_header
from rocketmq_py.remoting.headers.pull import UNIQUE_KEY_QUERY, QueryMessageRequestHeader
from rocketmq_py.remoting.headers.transaction import (
    EndTransactionRequestHeader,
    ResumeCheckHalfMessageRequestHeader,
)

logger = logging.getLogger(__name__)

#: The name under which internal queues are read; it commits nothing.
GROUP: Final = "TOOLS_CONSUMER"
#: Copies of one message that are looked at.
MAX_COPIES: Final = 64


class AsideState(enum.Enum):
    """What became of a message that was set aside."""

    WAITING = "waiting"
    RESUMED = "resumed"
    COMMITTED = "committed"
    ROLLED_BACK = "rolled back"


@dataclass(frozen=True, slots=True)
class AsideMessage:
    """A message that was set aside, and what became of it since.

    Attributes:
        message: as it lies in TRANS_CHECK_MAX_TIME_TOPIC.
        state: WAITING until somebody does something about it.
    """

    message: MessageExt
    state: AsideState

    @property
    def real_topic(self) -> str:
        """Where the message would go."""
        return self.message.properties.get(names.REAL_TOPIC, "")

    @property
    def producer_group(self) -> str:
        """Who should have decided."""
        return self.message.properties.get(names.PGROUP, "")


class TransactionAdmin:
    """What operators do about transactions.

    Args:
        instance: connections and routes; started.
    """

    def __init__(self, instance: MQClientInstance) -> None:
        self._instance = instance

    async def list(self) -> list[AsideMessage]:
        """Return the messages that were set aside and are still in the log, oldest first.

        A message that was set aside several times is listed once, as it lies there last.

        Raises:
            BrokerResponseError: a broker refused.
            RemotingError: a broker does not answer.
        """
        newest: dict[tuple[str, str], MessageExt] = {}
        async for message in self._read(TRANS_CHECK_MAX_TIME_TOPIC, 0):
            newest[message.broker_name, message.unique_key or message.msg_id] = message
        messages = sorted(newest.values(), key=lambda message: message.store_timestamp)
        if not messages:
            return []
        decided = await self._decided(messages[0].store_timestamp)
        return [AsideMessage(message, await self._state(message, decided)) for message in messages]

    async def find(self, message_id: str) -> AsideMessage | None:
        """Return the message that was set aside with an offset message id or a unique key; None if there is none."""
        for aside in await self.list():
            if message_id in (aside.message.msg_id, aside.message.unique_key):
                return aside
        return None

    async def resume(self, message: MessageExt) -> None:
        """Have the broker check a message again, as if it had never been checked.

        Raises:
            BrokerResponseError: it refused, for example because the transaction was decided meanwhile.
            RemotingError: it does not answer.
        """
        header = ResumeCheckHalfMessageRequestHeader(msg_id=message.msg_id, topic=TRANS_CHECK_MAX_TIME_TOPIC)
        await self._instance.ask(self._address(message), RequestCode.RESUME_CHECK_HALF_MESSAGE, encode_header(header))

    async def discard(self, message: MessageExt) -> None:
        """Roll a message back in the place of its producer: it will never be delivered.

        Raises:
            ClientError: its half message cannot be found, because the log does not keep it any more or has no index.
            BrokerResponseError: the broker refused.
            RemotingError: it does not answer.
        """
        halves = await self._halves(message)
        if not halves:
            raise ClientError(
                f"the half message of {message.unique_key} is not in the broker's log or index any more; it cannot be "
                "delivered either, so nothing needs to be done"
            )
        half = halves[-1]
        header = EndTransactionRequestHeader(
            producer_group=message.properties.get(names.PGROUP, ""),
            tran_state_table_offset=half.queue_offset,
            commit_log_offset=half.commit_log_offset,
            commit_or_rollback=TRANSACTION_ROLLBACK,
            from_transaction_check=True,
            msg_id=message.unique_key or message.msg_id,
            transaction_id=message.unique_key or None,
            topic=TRANS_HALF_TOPIC,
            broker_name=message.broker_name,
        )
        await self._instance.ask(self._address(message), RequestCode.END_TRANSACTION, encode_header(header))

    # --- looking ------------------------------------------------------------------------------------------------------

    async def _state(self, aside: MessageExt, decided: dict[str, set[int]]) -> AsideState:
        committed = await self._query(aside, aside.properties.get(names.REAL_TOPIC, ""))
        if any(transaction_type(message.sys_flag) == TRANSACTION_COMMIT for message in committed):
            return AsideState.COMMITTED
        halves = await self._halves(aside)
        if any(half.queue_offset in decided.get(aside.broker_name, ()) for half in halves):
            return AsideState.ROLLED_BACK
        if any(half.store_timestamp > aside.store_timestamp for half in halves):
            return AsideState.RESUMED
        return AsideState.WAITING

    async def _halves(self, aside: MessageExt) -> Sequence[MessageExt]:
        """Return the half messages of a message that was set aside, in the order of the half queue."""
        found = await self._query(aside, TRANS_HALF_TOPIC)
        return sorted(found, key=lambda half: half.queue_offset)

    async def _decided(self, since_ms: int) -> dict[str, set[int]]:
        """Return the half queue offsets that op records name, by broker."""
        decided: dict[str, set[int]] = {}
        try:
            async for record in self._read(TRANS_OP_HALF_TOPIC, since_ms):
                parts = record.body.split(b",")
                decided.setdefault(record.broker_name, set()).update(int(part) for part in parts if part.isdigit())
        except BrokerResponseError as error:
            # 4.9 has no configuration of this topic until something is written to it.
            logger.info("the op records cannot be read: %s", error)
        return decided

    async def _read(self, topic: str, since_ms: int) -> AsyncIterator[MessageExt]:
        """Yield the messages of a topic that were stored since a moment, of all brokers; none if there is no topic."""
        consumer = PullConsumer(GROUP, instance=self._instance)
        async with consumer:
            try:
                queues = await consumer.fetch_queues(topic)
            except NoRouteError:
                return
            for queue in queues:
                async for message in _read_queue(consumer, queue, since_ms):
                    yield message

    async def _query(self, aside: MessageExt, topic: str) -> Sequence[MessageExt]:
        """Return the messages of a topic with the unique key of a message, at its broker."""
        if not topic or not aside.unique_key:
            return []
        header = QueryMessageRequestHeader(
            topic=topic, key=aside.unique_key, max_num=MAX_COPIES, begin_timestamp=0, end_timestamp=I64_MAX
        )
        fields = {**encode_header(header), UNIQUE_KEY_QUERY: "true"}
        try:
            response = await self._instance.ask(self._address(aside), RequestCode.QUERY_MESSAGE, fields)
        except BrokerResponseError as error:
            if error.code != ResponseCode.QUERY_NOT_FOUND:
                raise
            return []
        found = decode_records(bytes(response.body))
        return [message for message in found if message.topic == topic and message.unique_key == aside.unique_key]

    def _address(self, message: MessageExt) -> str:
        address = self._instance.master_address(message.broker_name)
        if address is None:
            raise NoBrokerError(message.broker_name)
        return address


async def _read_queue(consumer: PullConsumer, queue: MessageQueue, since_ms: int) -> AsyncIterator[MessageExt]:
    if since_ms:
        offset = await consumer.offsets.search_offset(queue, since_ms)
    else:
        offset = await consumer.offsets.min_offset(queue)
    end = await consumer.offsets.max_offset(queue)
    while offset < end:
        result = await consumer.pull(queue, offset)
        if result.status is PullStatus.FOUND:
            for message in result.messages:
                yield message
        elif result.next_begin_offset <= offset:
            return
        offset = result.next_begin_offset
