"""The send hook of transactions: a prepared message goes to the half topic, where no consumer sees it.

Source: `SendMessageProcessor#sendMessage`, `TransactionalMessageBridge#parseHalfMessageInner`, RocketMQ 5.3.
"""

from __future__ import annotations

from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.refusal import Refusal
from rocketmq_py.broker.send_hooks import SendContext, SendHook
from rocketmq_py.broker.send_message import illegal_message
from rocketmq_py.broker.transaction.half_message import COPY_ROOM, become_half, is_transactional
from rocketmq_py.common.properties import MAX_PROPERTIES_LENGTH
from rocketmq_py.remoting.codes import ResponseCode


def transaction_hook(config: BrokerConfig, max_message_size: int) -> SendHook:
    """Return the hook; it reads the settings with every message, as they may change.

    The property decides, not the system flag of the request, as in RocketMQ.
    """

    def apply(context: SendContext) -> Refusal | None:
        draft = context.draft
        if not is_transactional(draft.properties, draft.reconsume_times):
            return None
        if config.reject_transaction_message:
            remark = f"the broker[{config.broker_ip1}] sending transaction message is forbidden"
            return Refusal(ResponseCode.NO_PERMISSION, remark)
        become_half(draft)
        if len(draft.stored_properties) > MAX_PROPERTIES_LENGTH - COPY_ROOM:
            # Stored like this it could not be put back after a check, and would stand in the way of all behind it.
            return illegal_message(max_message_size)
        return None

    return SendHook("transaction", (rb"TRAN_MSG\x01",), apply)
