"""A cluster, transactional producers whose listeners answer from a table, and a reader that pulls everything."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.broker.transaction.check_service import TransactionalMessageCheckService
from rocketmq_py.broker.transaction.op_batch import TransactionalOpBatchService
from rocketmq_py.broker.transaction.transaction_table import TransactionTable
from rocketmq_py.client.pull_api import PullStatus
from rocketmq_py.client.pull_consumer import PullConsumer
from rocketmq_py.client.transaction_listener import LocalTransactionState, TransactionSendResult
from rocketmq_py.client.transaction_producer import TransactionProducer, TransactionProducerConfig
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.message import Message, MessageExt
from rocketmq_py.common.record import RecordState, to_message
from rocketmq_py.common.topic import TRANS_CHECK_MAX_TIME_TOPIC, TRANS_HALF_TOPIC, TRANS_OP_HALF_TOPIC
from rocketmq_py.remoting.bodies.topic_config import TopicConfig
from rocketmq_py.remoting.client import RemotingClient
from rocketmq_py.remoting.codes import RequestCode
from rocketmq_py.remoting.command import ONE_WAY_FLAG, RemotingCommand
from rocketmq_py.remoting.header import encode_header
from rocketmq_py.remoting.headers.transaction import EndTransactionRequestHeader
from rocketmq_py.store.message_store import MessageStore
from rocketmq_py.testing.cluster import SMALL_STORE, Cluster

TOPIC = "Transfers"
GROUP = "bank"
COMMIT = LocalTransactionState.COMMIT_MESSAGE
ROLLBACK = LocalTransactionState.ROLLBACK_MESSAGE
UNKNOW = LocalTransactionState.UNKNOW


class Book:
    """Listener of the producers of a lab: says what it was told to say about each body.

    Attributes:
        local: body -> how the local transaction ends; COMMIT for others.
        later: body -> what checks are answered, the last answer for ever; what `local` says for others.
        executed: bodies whose local transaction ran, in order.
        checked: body and time (seconds of the loop) of each check, in order.
    """

    def __init__(self) -> None:
        self.local: dict[str, LocalTransactionState] = {}
        self.later: dict[str, list[LocalTransactionState]] = {}
        self.executed: list[str] = []
        self.checked: list[tuple[str, float]] = []

    async def execute_local_transaction(self, message: Message, argument: Any) -> LocalTransactionState:
        body = message.body.decode()
        self.executed.append(body)
        return self.local.get(body, COMMIT)

    async def check_local_transaction(self, message: MessageExt) -> LocalTransactionState:
        body = message.body.decode()
        self.checked.append((body, asyncio.get_running_loop().time()))
        answers = self.later.get(body, [self.local.get(body, COMMIT)])
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def times_checked(self, body: str) -> int:
        return sum(checked == body for checked, _ in self.checked)


@dataclass
class TransactionLab:
    """What a lab works with; the first broker is the one that is looked into."""

    cluster: Cluster
    environment: Environment
    book: Book
    client: RemotingClient

    @property
    def kernel(self) -> Kernel:
        return self.cluster.kernels[0]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.kernel.config.listen_port}"

    @property
    def store(self) -> MessageStore:
        return self.kernel.get(MessageStore)

    @property
    def table(self) -> TransactionTable:
        return self.kernel.get(TransactionTable)

    @property
    def ops(self) -> TransactionalOpBatchService:
        return self.kernel.get(TransactionalOpBatchService)

    @property
    def checks(self) -> TransactionalMessageCheckService:
        return self.kernel.get(TransactionalMessageCheckService)

    def producer(
        self, name: str = "p0", group: str = GROUP, book: Book | None = None, **settings: Any
    ) -> TransactionProducer:
        """Return a producer in a client of its own, not started."""
        topics = settings.pop("topics", (TOPIC,))
        config = TransactionProducerConfig(
            namesrv_addr=self.cluster.namesrv_addr, client_ip="10.1.1.1", instance_name=name, **settings
        )
        return TransactionProducer(group, book or self.book, config, topics=topics, environment=self.environment)

    def log(self, topic: str | None = None) -> list[MessageExt]:
        """Return the messages in the log, of one topic or all, in the order of the log."""
        log = self.store.commit_log
        messages = [
            to_message(check.record)
            for _, check in log.scan(log.min_offset)
            if check.state is RecordState.VALID and check.record is not None
        ]
        return [message for message in messages if topic in (None, message.topic)]

    def halves(self) -> list[MessageExt]:
        return self.log(TRANS_HALF_TOPIC)

    def op_offsets(self) -> list[int]:
        """Return the half queue offsets that op records name, in the order of the op queue."""
        texts = [message.body.decode() for message in self.log(TRANS_OP_HALF_TOPIC)]
        return [int(part) for text in texts for part in text.split(",") if part]

    def set_aside(self) -> list[MessageExt]:
        return self.log(TRANS_CHECK_MAX_TIME_TOPIC)

    async def delivered(self, topic: str = TOPIC) -> Counter[str]:
        """Pull everything that a consumer of the topic can see; count the bodies."""
        return Counter(message.body.decode() for message in await self.pull_all(topic))

    async def pull_all(self, topic: str = TOPIC) -> list[MessageExt]:
        found: list[MessageExt] = []
        async with PullConsumer(
            "reader", namesrv_addr=self.cluster.namesrv_addr, environment=self.environment
        ) as consumer:
            for queue in await consumer.fetch_queues(topic):
                offset = await consumer.offsets.min_offset(queue)
                while (result := await consumer.pull(queue, offset)).status is PullStatus.FOUND:
                    found += result.messages
                    offset = result.next_begin_offset
        return found

    async def end(self, result: TransactionSendResult, state: int, *, one_way: bool = False, **changes: Any) -> Any:
        """Send END_TRANSACTION for a half message and return the broker's response."""
        header = EndTransactionRequestHeader(
            producer_group=GROUP,
            tran_state_table_offset=result.queue_offset,
            commit_log_offset=int(result.offset_msg_id[16:], 16),
            commit_or_rollback=state,
            msg_id=result.msg_id,
        )
        for name, value in changes.items():
            setattr(header, name, value)
        return await self.request(RequestCode.END_TRANSACTION, encode_header(header), one_way=one_way)

    async def request(self, code: int, fields: dict[str, str], *, one_way: bool = False) -> RemotingCommand | None:
        command = RemotingCommand.create_request(code, fields)
        if one_way:
            command.flag |= ONE_WAY_FLAG
            await self.client.one_way(self.address, command)
            return None
        return await self.client.request(self.address, command, 10.0)

    async def restart(self, **settings: Any) -> None:
        """Stop the broker in order and start it again, at the same port."""
        port = self.kernel.config.listen_port
        await self.kernel.stop()
        self.cluster.kernels[0] = await self.cluster.start_broker("broker-a", listen_port=port, **settings)


@asynccontextmanager
async def transaction_lab(
    folder: Path, environment: Environment, *, queues: int = 2, brokers: int = 1, store: Any = None, **settings: Any
) -> AsyncIterator[TransactionLab]:
    """Run a cluster with a topic."""
    cluster = Cluster(
        folder,
        brokers=brokers,
        environment=environment,
        config=BrokerConfig(**settings),
        store_config=replace(SMALL_STORE, **(store or {})),
    )
    client = RemotingClient(environment.clock)
    async with cluster:
        for kernel in cluster.kernels:
            topics = kernel.get(TopicConfigManager)
            topics.update([TopicConfig(topic_name=TOPIC, read_queue_nums=queues, write_queue_nums=queues)])
        try:
            yield TransactionLab(cluster, environment, Book(), client)
        finally:
            await client.stop()


def bodies(messages: Sequence[MessageExt]) -> list[str]:
    return [message.body.decode() for message in messages]
