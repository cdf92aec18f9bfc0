"""Headers of transactions: END_TRANSACTION (37), CHECK_TRANSACTION_STATE (39), RESUME_CHECK_HALF_MESSAGE (323).

Both sides send 37 and 39 one-way. What names a half message is its place, twice: in the half queue and in the log.

Source: `EndTransactionRequestHeader`, `CheckTransactionStateRequestHeader`, `ResumeCheckHalfMessageRequestHeader`,
RocketMQ 5.3.
"""

from __future__ import annotations

import msgspec

from rocketmq_py.remoting.header import I32, I64


class EndTransactionRequestHeader(msgspec.Struct, rename="camel", kw_only=True):
    """A producer says how a transaction ended.

    Attributes:
        producer_group: must be the group that the half message carries.
        tran_state_table_offset: queue offset of the half message.
        commit_log_offset: its first byte in the log.
        commit_or_rollback: 8 commit, 12 rollback, 0 not known yet; see `common/sys_flag.py`.
        from_transaction_check: the broker had asked.
        msg_id: unique key of the message.
        transaction_id: the same.
        topic: the real topic at the end of a send; the topic of the question otherwise (5.x).
        broker_name: the broker that the client means (5.x).
    """

    producer_group: str
    tran_state_table_offset: I64
    commit_log_offset: I64
    commit_or_rollback: I32
    from_transaction_check: bool | None = None
    msg_id: str
    transaction_id: str | None = None
    topic: str | None = None
    broker_name: str | None = msgspec.field(default=None, name="bname")


class CheckTransactionStateRequestHeader(msgspec.Struct, rename="camel", kw_only=True):
    """A broker asks how a transaction ended; the body is the half message with its real topic and queue.

    Attributes:
        tran_state_table_offset: queue offset of the half message, to be given back.
        commit_log_offset: its first byte in the log, to be given back.
        offset_msg_id: the same as an id.
        msg_id: unique key of the message.
        transaction_id: the same.
        topic: the topic of half messages (5.x).
        broker_name: who asks (5.x).
    """

    tran_state_table_offset: I64
    commit_log_offset: I64
    msg_id: str | None = None
    transaction_id: str | None = None
    offset_msg_id: str | None = None
    topic: str | None = None
    broker_name: str | None = msgspec.field(default=None, name="bname")


class ResumeCheckHalfMessageRequestHeader(msgspec.Struct, rename="camel", kw_only=True):
    """An operator wants a message that was set aside to be checked again.

    Attributes:
        msg_id: its offset message id.
        topic: where it lies (5.3).
    """

    msg_id: str
    topic: str | None = None
