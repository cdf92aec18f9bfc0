"""The transactional producer: a message comes out if, and only if, the local transaction that it belongs to is committed.

    1  the message is stored as a half message, which no consumer sees
    2  the listener does its part: execute_local_transaction
    3  END_TRANSACTION, one-way: commit, rollback, or nothing if the listener does not know
    4  what the broker never heard of, or what got lost, it asks about: check_local_transaction

A crash between any two steps leaves a half message, and the broker asks any member of the group how its transaction
ended. What is promised is that message and transaction agree in the end. A consumer may get the message twice, as
always, and has to recognise it.

Source: `TransactionMQProducer`, `DefaultMQProducerImpl#sendMessageInTransaction`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Final, Self

from rocketmq_py.client.config import ProducerConfig
from rocketmq_py.client.errors import ClientError, NoRouteError
from rocketmq_py.client.instance import MQClientInstance
from rocketmq_py.client.listener_calls import ListenerCalls
from rocketmq_py.client.producer import Producer
from rocketmq_py.client.send_request import Outgoing, prepare
from rocketmq_py.client.send_result import SendResult
from rocketmq_py.client.transaction_checks import Check, CheckPool, TransactionChecks
from rocketmq_py.client.transaction_listener import (
    EndTransactionContext,
    EndTransactionHook,
    LocalTransactionState,
    TransactionListener,
    TransactionSendResult,
)
from rocketmq_py.common import properties as names
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.errors import InvalidInputError, RocketMQError
from rocketmq_py.common.message import Message, MessageQueue
from rocketmq_py.common.message_id import parse_offset_id
from rocketmq_py.common.sys_flag import TRANSACTION_PREPARED
from rocketmq_py.common.topic import validate_topic
from rocketmq_py.remoting.client import CONNECT_SECONDS
from rocketmq_py.remoting.codes import RequestCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.errors import RemotingError
from rocketmq_py.remoting.header import encode_header
from rocketmq_py.remoting.headers.transaction import EndTransactionRequestHeader
from rocketmq_py.remoting.java_json import encode_body

logger = logging.getLogger(__name__)

COMMIT: Final = LocalTransactionState.COMMIT_MESSAGE
ROLLBACK: Final = LocalTransactionState.ROLLBACK_MESSAGE
UNKNOW: Final = LocalTransactionState.UNKNOW
#: Characters of what a listener raised that a broker is told.
MAX_REMARK: Final = 500


@dataclass(slots=True, kw_only=True)
class TransactionProducerConfig(ProducerConfig):
    """Settings of a transactional producer.

    Attributes:
        check_thread_pool_max_size: how many questions of brokers are worked on at a time.
        check_request_hold_max: how many more may wait; beyond it questions are dropped, and come again.
        execute_thread_max: how many plain functions execute local transactions at a time; ours.
    """

    check_thread_pool_max_size: int = 1
    check_request_hold_max: int = 2_000
    execute_thread_max: int = 20

    def check(self) -> None:
        """Refuse sizes of pools that are none.

        Raises:
            InvalidInputError: with the setting.
        """
        for name in ("check_thread_pool_max_size", "check_request_hold_max", "execute_thread_max"):
            if getattr(self, name) < 1:
                raise InvalidInputError(f"{name} is {getattr(self, name)}; it is 1 or more")


class TransactionProducer(Producer):
    """Sends messages in transactions, and ordinary ones like `Producer`.

        async with TransactionProducer("Transfers", listener, namesrv_addr="127.0.0.1:9876") as producer:
            result = await producer.send_message_in_transaction(message, argument)
            print(result.local_transaction_state)

    Args:
        group: the producer group, which brokers ask. All its members need listeners that can answer for each other.
        listener: the program's part.
        config: the settings; None: the defaults.
        namesrv_addr: the name servers, instead of those in `config`.
        topics: topics of the group. A member that has not sent anything yet becomes known to their brokers at its start,
            and can be asked about the messages of those that died.
        instance: share connections and routes of another client.
        environment: clock and randomness, for tests.

    Attributes:
        end_hooks: see every END_TRANSACTION.
    """

    config: TransactionProducerConfig

    def __init__(
        self,
        group: str,
        listener: TransactionListener,
        config: TransactionProducerConfig | None = None,
        *,
        namesrv_addr: str = "",
        topics: Iterable[str] = (),
        instance: MQClientInstance | None = None,
        environment: Environment | None = None,
    ) -> None:
        if not group:
            raise ClientError("a transactional producer needs a group: brokers ask its members how transactions ended")
        settings = replace(config) if config is not None else TransactionProducerConfig()
        settings.check()
        super().__init__(group, settings, namesrv_addr=namesrv_addr, instance=instance, environment=environment)
        self.topics = list(dict.fromkeys(topics))
        for topic in self.topics:
            validate_topic(topic)
        self.end_hooks: list[EndTransactionHook] = []
        self._pool = CheckPool(
            group, settings.check_thread_pool_max_size, settings.check_request_hold_max, self._answer
        )
        self._execute = ListenerCalls(
            listener.execute_local_transaction, settings.execute_thread_max, self.instance.environment
        )
        self._check = ListenerCalls(
            listener.check_local_transaction, settings.check_thread_pool_max_size, self.instance.environment
        )
        # Masters that know this producer, and the connection on which each was told; a new connection is told again.
        self._known_at: dict[str, object] = {}

    # --- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Become able to send and to be asked. A second call does nothing.

        Raises:
            ClientError: the shared instance has a producer of this group already.
        """
        if self._is_running:
            return
        await super().start()
        self._execute.start()
        self._check.start()
        self._pool.start()
        TransactionChecks.of(self.instance).add(self._pool)
        for topic in self.topics:
            try:
                await self._queues.find(topic)
            except (NoRouteError, RemotingError) as error:
                # It is asked for again with the other routes.
                logger.info("%s", error)
        if self.topics:
            await self.instance.send_heartbeats()

    async def stop(self) -> None:
        """Take no more questions, drop those that wait, tell the brokers, and close. A second call does nothing.

        A plain function that is still executing or checking a transaction runs to its end, and nobody learns the result;
        the broker asks another member of the group.
        """
        if not self._is_running:
            return
        TransactionChecks.of(self.instance).remove(self._pool)
        await self._pool.stop()
        self._execute.close()
        self._check.close()
        await super().stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    # --- sending -----------------------------------------------------------------------------------------------------

    async def send_message_in_transaction(
        self, message: Message, argument: Any = None, *, timeout: float | None = None
    ) -> TransactionSendResult:
        """Store a half message, have the listener execute the local transaction, and tell the broker how it ended.

        Args:
            message: gets a unique id if it has none. Its delay level, if it has one, is left out, as in RocketMQ.
            argument: for the listener.
            timeout: seconds for storing the half message, retries included; default `send_msg_timeout`.

        Returns:
            How the local transaction ended, as far as it is known. UNKNOW is no failure: the broker will ask.

        Raises:
            InvalidInputError: the message breaks a rule; nothing was sent.
            ClientError, RemotingError: the half message was not acknowledged. The local transaction was not executed; if
                the half message is stored nevertheless, `check_local_transaction` is asked about it.

        Cancellation: before the half message is acknowledged, see `send`. After that the local transaction is cancelled
            if it is a coroutine, and left to itself in its thread if it is a plain function; the broker is told nothing,
            and asks.

        Source: `DefaultMQProducerImpl#sendMessageInTransaction`, RocketMQ 5.3.
        """
        half, result = await self.begin_transaction(message, timeout=timeout)
        state, error = ROLLBACK, None
        if result.is_ok:
            state, error = await self.execute_local_transaction(half, argument)
        await self.end_transaction(half, result, state, error)
        return transaction_result(result, state, error)

    async def begin_transaction(self, message: Message, *, timeout: float | None = None) -> tuple[Message, SendResult]:
        """Store a half message; the first third of `send_message_in_transaction`.

        Returns:
            The message as it was sent, and where it is stored.
        """
        self._check_running()
        half = replace(message, properties=dict(message.properties))
        if half.properties.pop(names.DELAY, None) is not None:
            logger.warning("a message for topic %s is sent in a transaction; its delay level was left out", half.topic)
        half.properties[names.TRAN_MSG] = "true"
        half.properties[names.PGROUP] = self.group
        outgoing = prepare(half, self.config, self.instance.unique_ids)
        # As with `send`: the id stays with the caller's message.
        message.properties[names.UNIQ_KEY] = outgoing.msg_id
        result = await self._send(outgoing, None, timeout)
        if result.transaction_id:
            half.properties[names.TRANSACTION_ID] = result.transaction_id
        return half, result

    async def execute_local_transaction(
        self, half: Message, argument: Any
    ) -> tuple[LocalTransactionState, Exception | None]:
        """Call the listener; an exception means UNKNOW, for nobody knows how far it got."""
        return await _outcome(self._execute, half, argument)

    async def end_transaction(
        self, half: Message, result: SendResult, state: LocalTransactionState, error: Exception | None = None
    ) -> None:
        """Tell the broker of the half message how the transaction ended, one-way. What fails is logged: it will ask."""
        try:
            address = await self._queues.master_of(result.queue)
            _, commit_log_offset = parse_offset_id(result.offset_msg_id or result.msg_id)
            header = EndTransactionRequestHeader(
                topic=half.topic,
                producer_group=self.group,
                tran_state_table_offset=result.queue_offset,
                commit_log_offset=commit_log_offset,
                commit_or_rollback=state.value,
                from_transaction_check=False,
                msg_id=result.msg_id,
                transaction_id=result.transaction_id,
                broker_name=result.queue.broker_name,
            )
            self._call_end_hooks(half, address, result.transaction_id, state, is_check=False)
            await self.instance.transport.one_way(address, _command(header, error))
        except (RocketMQError, OSError) as problem:
            logger.warning(
                "the broker was not told that transaction %s ended with %s and will ask: %s",
                *(result.msg_id, state.name, problem),
            )

    async def _attempt(self, outgoing: Outgoing, queue: MessageQueue, mode: str, seconds: float) -> SendResult | None:
        """Send once; before a half message the broker gets to know whom it can ask about it."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        if outgoing.sys_flag & TRANSACTION_PREPARED:
            await self._introduce(await self._queues.master_of(queue), seconds)
        return await super()._attempt(outgoing, queue, mode, max(seconds - loop.time() + began, 0.001))

    async def _introduce(self, address: str, seconds: float) -> None:
        """Send a heartbeat over a connection that has not seen one; periodic ones follow."""
        try:
            connection = await self.instance.transport.connect(address, min(seconds, CONNECT_SECONDS))
            if self._known_at.get(address) is not connection:
                body = encode_body(self.instance.heartbeat())
                await self.instance.ask(address, RequestCode.HEART_BEAT, body=body, timeout=seconds)
                self._known_at[address] = connection
        except (ClientError, RemotingError) as error:
            # What keeps the message from being sent shows in the send itself.
            logger.info("broker %s does not know group %s yet: %s", address, self.group, error)

    # --- being asked -------------------------------------------------------------------------------------------------

    async def _answer(self, check: Check) -> None:
        """Have the listener look, and tell the broker, on the connection on which it asked."""
        header, message = check.header, check.message
        state, error = await _outcome(self._check, message)
        unique_key = message.properties.get(names.UNIQ_KEY)
        ended = EndTransactionRequestHeader(
            topic=header.topic,
            producer_group=self.group,
            tran_state_table_offset=header.tran_state_table_offset,
            commit_log_offset=header.commit_log_offset,
            commit_or_rollback=state.value,
            from_transaction_check=True,
            msg_id=unique_key or message.msg_id,
            transaction_id=header.transaction_id,
            broker_name=header.broker_name,
        )
        address = check.connection.remote_address
        self._call_end_hooks(message, address, header.transaction_id, state, is_check=True)
        try:
            check.connection.one_way(_command(ended, error))
        except RemotingError as problem:
            logger.warning("broker %s was not told how %s ended and will ask again: %s", address, unique_key, problem)

    def _call_end_hooks(
        self,
        message: Message,
        address: str,
        transaction_id: str | None,
        state: LocalTransactionState,
        *,
        is_check: bool,
    ) -> None:
        context = EndTransactionContext(self.group, message, address, transaction_id, state, is_check)
        for hook in self.end_hooks:
            try:
                hook.end(context)
            except Exception:
                # Broad on purpose: what a hook does wrong must not change how a transaction ends.
                logger.exception("%s.end failed", type(hook).__name__)


async def _outcome(calls: ListenerCalls, *arguments: Any) -> tuple[LocalTransactionState, Exception | None]:
    """Call one of the listener's functions and return what it says; anything but a state means UNKNOW."""
    try:
        outcome = await calls.call(*arguments)
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # Something that the listener waited for was cancelled; nobody meant this task.
        logger.exception("the transaction listener failed")
        return UNKNOW, ClientError(f"something that the listener waited for was cancelled: {error}")
    except Exception as error:
        # Broad on purpose: the application may raise anything, and nobody knows how far it got.
        logger.exception("the transaction listener failed; the broker will ask how the transaction ended")
        return UNKNOW, error
    return checked_state(outcome), None


def checked_state(outcome: object) -> LocalTransactionState:
    """Return a listener's answer; UNKNOW for None, and for what is no state."""
    if isinstance(outcome, LocalTransactionState):
        return outcome
    if outcome is not None:
        logger.error("the transaction listener returned %r; return a LocalTransactionState", outcome)
    return UNKNOW


def transaction_result(
    result: SendResult, state: LocalTransactionState, error: Exception | None
) -> TransactionSendResult:
    """Return the result of a send, and how the local transaction ended."""
    values = {field.name: getattr(result, field.name) for field in dataclasses.fields(SendResult)}
    return TransactionSendResult(**values, local_transaction_state=state, local_error=error)


def _command(header: EndTransactionRequestHeader, error: Exception | None) -> RemotingCommand:
    command = RemotingCommand.create_request(RequestCode.END_TRANSACTION, encode_header(header))
    if error is not None:
        command.remark = f"{type(error).__name__}: {error}"[:MAX_REMARK]
    return command
