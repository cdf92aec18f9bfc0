"""The tour's chapter about transactions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rocketmq_py.cli.tour_guide import Guide, wait_for
from rocketmq_py.client.transaction_listener import LocalTransactionState
from rocketmq_py.client.transaction_producer import TransactionProducer
from rocketmq_py.common.message import Message, MessageExt

TOPIC = "Transfers"


class Bank:
    """The local side: how each transfer ended, and which of them the broker had to ask about."""

    def __init__(self, ended: Mapping[str, LocalTransactionState]) -> None:
        self.asked: list[str] = []
        self._ended = ended

    async def execute_local_transaction(self, message: Message, argument: Any) -> LocalTransactionState:
        """Answer at once, unless this is the transfer whose producer forgets to."""
        return self._ended[message.body.decode()] if argument != "forget" else LocalTransactionState.UNKNOW

    async def check_local_transaction(self, message: MessageExt) -> LocalTransactionState:
        """Look it up."""
        self.asked.append(message.body.decode())
        return self._ended[message.body.decode()]


async def undecided(guide: Guide) -> None:
    """Commit, roll back, and be asked."""
    guide.say(
        "A message may depend on a transaction of its producer's database. The broker stores it where nobody sees it, and "
        "delivers it when the producer says that the transaction is committed. If the producer says nothing, the broker asks."
    )
    guide.code("await producer.send_message_in_transaction(message, argument)")
    await guide.admin.topics.create(TOPIC, queues=2)
    commit, rollback = LocalTransactionState.COMMIT_MESSAGE, LocalTransactionState.ROLLBACK_MESSAGE
    bank = Bank({"rent": commit, "too much": rollback, "salary": commit})
    rows = []
    async with TransactionProducer("Bank", bank, namesrv_addr=guide.namesrv_addr) as producer:
        for body, argument in (("rent", None), ("too much", None), ("salary", "forget")):
            result = await producer.send_message_in_transaction(Message.of(TOPIC, body.encode()), argument)
            rows.append((body, result.status.name, result.local_transaction_state.name))
        guide.table("transfer", "half message", "local transaction", rows=rows)
        async with guide.consumer("Receiver", TOPIC) as inbox:
            await wait_for(lambda: bank.asked, "the broker's question")
            await inbox.receives(2)
    guide.check("the broker asked about the one that was left open", ["salary"], bank.asked)
    guide.check("what was committed came", ["rent", "salary"], sorted(inbox.bodies))
