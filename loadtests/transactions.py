"""Transactional load: nine of ten transactions commit and have to come out, the tenth is rolled back and must not.

    rmq-py standalone                                                     (in another terminal)
    python -m locust -f loadtests/transactions.py --headless -u 20 -r 10 -t 20s

`TRANSACTION` is the time for the half message, the local transaction (which does nothing) and the word to the broker.
`RECEIVE` is the time from the call to a consumer's listener, as in `locustfile.py`, whose options count here too.
"""

from __future__ import annotations

import time
import uuid
from typing import Any

# Locust runs every user class that it finds in this module's names: the plain producers are not among them.
from loadtests import locustfile
from loadtests.locustfile import CLIENT_ENVIRONMENT, STAMP, ConsumerUser, Run
from rocketmq_py.client.transaction_listener import LocalTransactionState, TransactionSendResult
from rocketmq_py.client.transaction_producer import TransactionProducer, TransactionProducerConfig
from rocketmq_py.common.message import Message, MessageExt

__all__ = ["ConsumerUser", "TransactionUser"]

#: Every so many transactions one is rolled back.
ROLLBACK_EVERY = 10


class Ledger:
    """The local side: a transaction is committed unless its number was marked."""

    def __init__(self, run: Run) -> None:
        self._run = run

    async def execute_local_transaction(self, message: Message, argument: Any) -> LocalTransactionState:
        """Return how the transaction ended."""
        return self._state(message)

    async def check_local_transaction(self, message: MessageExt) -> LocalTransactionState:
        """Return the same when the broker asks, because it missed the first word."""
        return self._state(message)

    def _state(self, message: Message) -> LocalTransactionState:
        number = (message.get(STAMP) or "- -").split(" ")[1]
        is_rolled_back = number in self._run.rolled_back
        return LocalTransactionState.ROLLBACK_MESSAGE if is_rolled_back else LocalTransactionState.COMMIT_MESSAGE


class TransactionUser(locustfile.ProducerUser):
    """Sends `--rate` transactional messages a second, one after the other."""

    producer: TransactionProducer

    def make_producer(self, run: Run) -> TransactionProducer:
        """Return a producer of the group that all of this process share."""
        config = TransactionProducerConfig(namesrv_addr=run.name_servers, instance_name=f"load-{uuid.uuid4().hex[:12]}")
        return TransactionProducer(f"{run.group}Producers", Ledger(run), config, environment=CLIENT_ENVIRONMENT)

    def send_one(self, run: Run) -> None:
        """Send one message in a transaction and count it."""
        message, number = run.message()
        if int(number) % ROLLBACK_EVERY:
            run.expect(number)
        else:
            run.rolled_back.add(number)
        result, seconds = run.loop.run(self._send(message))
        if isinstance(result, Exception):
            run.forget(number)
            run.report("TRANSACTION", seconds, 0, result)
        else:
            run.report("TRANSACTION", seconds, len(message.body))

    async def _send(self, message: Message) -> tuple[TransactionSendResult | Exception, float]:
        begin = time.perf_counter()
        try:
            result: TransactionSendResult | Exception = await self.producer.send_message_in_transaction(message)
        except Exception as error:
            # Whatever went wrong is a row in Locust's table of failures.
            result = error
        return result, time.perf_counter() - begin
