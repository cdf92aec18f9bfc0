"""The transactional producer for ordinary code, without `await`.

    with TransactionProducer("Transfers", listener, namesrv_addr="127.0.0.1:9876") as producer:
        result = producer.send_message_in_transaction(message, argument)

A plain `execute_local_transaction` runs in the thread of the caller, so that it may use the caller's database connection.
`check_local_transaction` runs in a thread of the check pool, for messages of the whole group.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable
from typing import Any

from rocketmq_py.client import sync
from rocketmq_py.client import transaction_producer as asynchronous
from rocketmq_py.client.blocking import LoopThread
from rocketmq_py.client.transaction_listener import LocalTransactionState, TransactionListener, TransactionSendResult
from rocketmq_py.client.transaction_producer import (
    ROLLBACK,
    UNKNOW,
    TransactionProducerConfig,
    checked_state,
    transaction_result,
)
from rocketmq_py.common.message import Message

logger = logging.getLogger(__name__)


class TransactionProducer(sync.Producer):
    """Sends messages in transactions; see `client/transaction_producer.py` for what is promised.

    Args:
        group: the producer group, which brokers ask.
        listener: the program's part.
        config: the settings; None: the defaults.
        namesrv_addr: the name servers, instead of those in `config`.
        topics: topics of the group, so that a member that has sent nothing yet can be asked.
    """

    _producer: asynchronous.TransactionProducer

    def __init__(
        self,
        group: str,
        listener: TransactionListener,
        config: TransactionProducerConfig | None = None,
        *,
        namesrv_addr: str = "",
        topics: Iterable[str] = (),
    ) -> None:
        self._thread = LoopThread("rocketmq-py-transaction-producer")
        self._listener = listener
        self._producer = asynchronous.TransactionProducer(
            group, listener, config, namesrv_addr=namesrv_addr, topics=topics
        )

    def send_message_in_transaction(
        self, message: Message, argument: Any = None, *, timeout: float | None = None
    ) -> TransactionSendResult:
        """Store a half message, execute the local transaction in this thread, and tell the broker how it ended.

        What ends this thread in between, such as Ctrl-C, leaves the transaction to a question of the broker.
        """
        producer = self._producer
        half, result = self._thread.run(producer.begin_transaction(message, timeout=timeout))
        state, error = (self._execute(half, argument)) if result.is_ok else (ROLLBACK, None)
        self._thread.run(producer.end_transaction(half, result, state, error))
        return transaction_result(result, state, error)

    def _execute(self, half: Message, argument: Any) -> tuple[LocalTransactionState, Exception | None]:
        execute = self._listener.execute_local_transaction
        if inspect.iscoroutinefunction(execute):
            return self._thread.run(self._producer.execute_local_transaction(half, argument))
        try:
            return checked_state(execute(half, argument)), None
        except Exception as error:
            # Broad on purpose: the application may raise anything, and nobody knows how far it got.
            logger.exception("the transaction listener failed; the broker will ask how the transaction ended")
            return UNKNOW, error
