"""Answers the brokers' questions (CHECK_TRANSACTION_STATE, 39) for the transactional producers of one client.

    a question comes -> its producer, by the group in the half message -> the producer's check pool -> END_TRANSACTION

The answer goes back on the connection on which the question came. A question that finds the pool's queue full is
dropped: the broker asks again.

Source: `ClientRemotingProcessor#checkTransactionState`, `DefaultMQProducerImpl#checkTransactionState`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from rocketmq_py.client.errors import ClientError
from rocketmq_py.client.instance import MQClientInstance
from rocketmq_py.common import properties as names
from rocketmq_py.common.compression import decompress
from rocketmq_py.common.errors import CorruptDataError, InvalidInputError
from rocketmq_py.common.message import MessageExt
from rocketmq_py.common.record import decode_record
from rocketmq_py.remoting.codes import RequestCode
from rocketmq_py.remoting.connection import Connection
from rocketmq_py.remoting.header import decode_header
from rocketmq_py.remoting.headers.transaction import CheckTransactionStateRequestHeader
from rocketmq_py.remoting.processors import Request

logger = logging.getLogger(__name__)

#: Largest body that is accepted after decompression, bytes.
MAX_BODY: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class Check:
    """One question of a broker.

    Attributes:
        header: names the half message; its numbers go back with the answer.
        message: the half message, in its real topic and queue.
        connection: where the question came from.
    """

    header: CheckTransactionStateRequestHeader
    message: MessageExt
    connection: Connection


class CheckPool:
    """The check pool of one producer.

    Args:
        group: the producer group.
        size: how many questions are worked on at a time.
        hold_max: how many more may wait.
        answer: works on one question.
    """

    def __init__(self, group: str, size: int, hold_max: int, answer: Callable[[Check], Awaitable[None]]) -> None:
        self.group = group
        self.dropped = 0
        self._size = size
        self._answer = answer
        self._waiting: asyncio.Queue[Check] = asyncio.Queue(hold_max)
        self._workers: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to work."""
        loop = asyncio.get_running_loop()
        self._workers = [
            loop.create_task(self._work(), name=f"transaction checks of {self.group} {number}")
            for number in range(self._size)
        ]

    def submit(self, check: Check) -> None:
        """Take a question, or drop it if too many wait."""
        try:
            self._waiting.put_nowait(check)
        except asyncio.QueueFull:
            self.dropped += 1
            logger.warning(
                "%d transaction checks of group %s wait already; one more was dropped and will come again",
                self._waiting.qsize(),
                self.group,
            )

    async def _work(self) -> None:
        while True:
            check = await self._waiting.get()
            try:
                await self._answer(check)
            except Exception:
                # Broad on purpose: one question must not end the work on all later ones.
                logger.exception("the check of transaction %s failed", check.header.transaction_id)

    async def stop(self) -> None:
        """Drop what waits, and cancel what is being worked on; the broker asks another member, or again."""
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


class TransactionChecks:
    """Hands questions to the pools of an instance's producers."""

    def __init__(self, instance: MQClientInstance) -> None:
        self._pools: dict[str, CheckPool] = {}
        instance.transport.on_request(RequestCode.CHECK_TRANSACTION_STATE, self._check)

    @classmethod
    def of(cls, instance: MQClientInstance) -> TransactionChecks:
        """Return the one of an instance, made with its first transactional producer."""
        found = instance.shared.get(cls)
        if not isinstance(found, cls):
            found = instance.shared[cls] = cls(instance)
        return found

    def add(self, pool: CheckPool) -> None:
        """Hand a group's questions to a pool.

        Raises:
            ClientError: the instance has a transactional producer of that group already.
        """
        if pool.group in self._pools:
            raise ClientError(f"this client has a transactional producer of group {pool.group} already")
        self._pools[pool.group] = pool

    def remove(self, pool: CheckPool) -> None:
        """Take a pool's group out."""
        if self._pools.get(pool.group) is pool:
            del self._pools[pool.group]

    def _check(self, request: Request) -> None:
        """Take a question. Nothing is answered here: the answer is a request of ours."""
        header = decode_header(CheckTransactionStateRequestHeader, request.command.ext_fields)
        try:
            message = decode_record(bytes(request.command.body))
            message.body = decompress(message.body, message.sys_flag, MAX_BODY)
        except (CorruptDataError, InvalidInputError) as error:
            logger.error("%s asks about a message that cannot be read: %s", request.connection.remote_address, error)
            return
        message.broker_name = header.broker_name or ""
        group = message.properties.get(names.PGROUP, "")
        pool = self._pools.get(group)
        if pool is None:
            # The heartbeat of a producer that has just stopped may be remembered for a moment.
            logger.warning("%s asks for producer group %r, which is not here", request.connection.remote_address, group)
            return
        pool.submit(Check(header, message, request.connection))
