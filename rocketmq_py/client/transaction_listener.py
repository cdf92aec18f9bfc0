"""What a program says about its transactions: the two functions it gives to a transactional producer.

    execute_local_transaction(message, argument)   the half message is stored: do your part, and say how it ended
    check_local_transaction(message)               somebody's part of this message is unknown to the broker: how did it end?

The second is asked about messages of the whole producer group, also of members that have died. So it looks into what
the members share, a database as a rule, and not into its own memory.

Source: `TransactionListener`, `LocalTransactionState`, `TransactionSendResult`, RocketMQ 5.3.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any, Protocol

from rocketmq_py.client.send_result import SendResult
from rocketmq_py.common import sys_flag as flags
from rocketmq_py.common.message import Message, MessageExt


class LocalTransactionState(enum.Enum):
    """How a local transaction ended; the values are those of END_TRANSACTION.

    `UNKNOW` is RocketMQ's spelling. It is the honest answer while a transaction may still be running: the broker asks
    again, up to 15 times.
    """

    COMMIT_MESSAGE = flags.TRANSACTION_COMMIT
    ROLLBACK_MESSAGE = flags.TRANSACTION_ROLLBACK
    UNKNOW = flags.TRANSACTION_NOT
    UNKNOWN = UNKNOW


class TransactionListener(Protocol):
    """The two functions; each is plain or a coroutine function.

    Plain ones are called in threads: the first in the thread of the caller by the blocking producer, in one of several
    by the asynchronous one; the second in a thread of the check pool. An exception means UNKNOW, and is logged.
    """

    def execute_local_transaction(
        self, message: Message, argument: Any
    ) -> LocalTransactionState | Awaitable[LocalTransactionState]:
        """Do the local part. The message has its unique key by now (property `UNIQ_KEY`), also its transaction id."""
        ...

    def check_local_transaction(self, message: MessageExt) -> LocalTransactionState | Awaitable[LocalTransactionState]:
        """Say how the local part of a message ended that some member of the group has sent.

        Be sure that a part which is said to be rolled back cannot be committed any more.
        """
        ...


@dataclass(frozen=True, slots=True)
class TransactionSendResult(SendResult):
    """Where the half message was stored, and how the local transaction ended.

    Attributes:
        local_transaction_state: what the broker was told. ROLLBACK_MESSAGE without any call of the listener if the
            broker stored the half message, but not as safely as it promises (`status`).
        local_error: what the listener raised.
    """

    local_transaction_state: LocalTransactionState = LocalTransactionState.UNKNOW
    local_error: Exception | None = field(default=None, compare=False)


@dataclass(slots=True)
class EndTransactionContext:
    """One END_TRANSACTION, as hooks see it.

    Attributes:
        producer_group: who ends it.
        message: the message, or the half message of a check.
        broker_address: who is told.
        transaction_id: unique key of the message.
        state: how it ended.
        from_transaction_check: the broker had asked.
    """

    producer_group: str
    message: Message
    broker_address: str
    transaction_id: str | None
    state: LocalTransactionState
    from_transaction_check: bool


class EndTransactionHook(Protocol):
    """Sees every END_TRANSACTION. An error that it raises is logged and changes nothing."""

    def end(self, context: EndTransactionContext) -> None:
        """Called before the request is sent."""
        ...
