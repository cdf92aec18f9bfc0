"""A broker on a simulated disk that is killed or loses its power, and a producer that speaks to it by plain requests."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from labs.stage_07_send.send_lab import send_fields
from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.assembly.stages import build_broker
from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.broker.transaction.transaction_table import TransactionTable
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.errors import RocketMQError
from rocketmq_py.common.message import MessageExt
from rocketmq_py.common.properties import PGROUP, TRAN_MSG, UNIQ_KEY
from rocketmq_py.common.record import decode_record, decode_records
from rocketmq_py.common.topic import TRANS_CHECK_MAX_TIME_TOPIC
from rocketmq_py.remoting.bodies.heartbeat import HeartbeatData, ProducerData
from rocketmq_py.remoting.bodies.topic_config import TopicConfig
from rocketmq_py.remoting.client import RemotingClient
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.header import decode_header, encode_header
from rocketmq_py.remoting.headers.transaction import CheckTransactionStateRequestHeader, EndTransactionRequestHeader
from rocketmq_py.remoting.java_json import encode_body
from rocketmq_py.remoting.processors import Request
from rocketmq_py.remoting.server import RemotingServer
from rocketmq_py.sim.environment import SimulatedClock, run_inline
from rocketmq_py.sim.file_system import SimulatedFileSystem
from rocketmq_py.store.config import FlushDiskType, MessageStoreConfig
from rocketmq_py.store.message_store import MessageStore

TOPIC = "Transfers"
GROUP = "bank"
COMMIT, ROLLBACK, UNKNOWN = 8, 12, 0
SIZES: dict[str, Any] = {
    "mapped_file_size_commit_log": 1 << 16,
    "mapped_file_size_consume_queue": 2_000,
    "max_hash_slot_num": 100,
    "max_index_num": 400,
}
#: Seconds for one request. A broker that has just been killed answers none.
PATIENCE = 2.0


@dataclass(frozen=True, slots=True)
class Half:
    """What the producer knows of a half message that was acknowledged."""

    body: str
    queue_offset: int
    commit_log_offset: int


class TransactionMachine:
    """A computer with a disk, a broker on it, and one producer.

    Attributes:
        truth: body -> how its local transaction ended; what checks are answered with. Others are rolled back.
        checked: the bodies that the broker asked about.
        deaf: the producer answers no checks.
    """

    def __init__(self, seed: int = 0, *, sync_flush: bool = False, **settings: Any) -> None:
        self.clock = SimulatedClock()
        self.disk = SimulatedFileSystem(self.clock, capacity=1 << 30)
        self.truth: dict[str, int] = {}
        self.checked: list[str] = []
        self.deaf = False
        self._random = random.Random(seed)
        self._settings = settings
        self._flush = FlushDiskType.SYNC_FLUSH if sync_flush else FlushDiskType.ASYNC_FLUSH
        self._boots = 0
        self._boot()

    def _boot(self) -> None:
        self._boots += 1
        self.disk.write_file("/proc/sys/kernel/random/boot_id", f"boot-{self._boots}\n".encode())

    # --- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the broker on what lies on the disk, and let the producer say hello."""
        store_config = replace(
            MessageStoreConfig(store_path_root_dir="/srv/store", flush_disk_type=self._flush), **SIZES
        )
        config = BrokerConfig(listen_port=0, **self._settings)
        environment = Environment(self.clock, random.Random(1), self.disk, run_inline)
        self.kernel: Kernel = build_broker(config, store_config, environment)
        await self.kernel.start()
        topics = self.kernel.get(TopicConfigManager)
        if topics.select(TOPIC) is None:
            topics.update([TopicConfig(topic_name=TOPIC, read_queue_nums=2, write_queue_nums=2)])
            await topics.persist()
        self.client = RemotingClient(self.clock)
        self.client.on_request(RequestCode.CHECK_TRANSACTION_STATE, self._check)
        await self.introduce()

    async def introduce(self) -> None:
        """Send the producer's heartbeat."""
        heartbeat = HeartbeatData(client_id="lab", producer_data_set=[ProducerData(group_name=GROUP)])
        await self.request(RequestCode.HEART_BEAT, {}, encode_body(heartbeat))

    async def stop(self) -> None:
        """Stop the broker in order."""
        await self.client.stop()
        await self.kernel.stop()

    async def kill(self) -> None:
        """End the broker at once, as SIGKILL does."""
        self.disk.kill()
        await self._end_tasks()

    async def cut_power(self, keep: float) -> None:
        """Cut the power: what was not flushed is kept with a probability, sector by sector."""
        self.disk.crash(self._random, keep=keep)
        await self._end_tasks()
        self._boot()

    async def _end_tasks(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- the producer -------------------------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.kernel.get(RemotingServer).port}"

    @property
    def table(self) -> TransactionTable:
        return self.kernel.get(TransactionTable)

    @property
    def store(self) -> MessageStore:
        return self.kernel.get(MessageStore)

    async def request(self, code: int, fields: dict[str, str], body: bytes = b"") -> RemotingCommand:
        return await self.client.request(self.address, RemotingCommand.create_request(code, fields, body), PATIENCE)

    async def send_half(self, body: str, queue_id: int = 0, **properties: str) -> Half:
        """Send a half message.

        Raises:
            RocketMQError: it was not acknowledged.
        """
        found = {TRAN_MSG: "true", PGROUP: GROUP, UNIQ_KEY: f"key-{body}", **properties}
        born = self.clock.wall_ms()
        code = RequestCode.SEND_MESSAGE_V2
        fields = send_fields(TOPIC, found, code, queue_id=queue_id, sys_flag=4, born_timestamp=born)
        response = await self.request(code, fields, body.encode())
        assert response.code == ResponseCode.SUCCESS, response.remark
        answer = response.ext_fields
        return Half(body, int(answer["queueOffset"]), int(answer["msgId"][16:], 16))

    async def end(self, half: Half, decision: int, **changes: Any) -> RemotingCommand:
        """End a transaction and return the broker's answer."""
        header = EndTransactionRequestHeader(
            producer_group=GROUP,
            tran_state_table_offset=half.queue_offset,
            commit_log_offset=half.commit_log_offset,
            commit_or_rollback=decision,
            msg_id=f"key-{half.body}",
        )
        for name, value in changes.items():
            setattr(header, name, value)
        return await self.request(RequestCode.END_TRANSACTION, encode_header(header))

    def _check(self, request: Request) -> None:
        header = decode_header(CheckTransactionStateRequestHeader, request.command.ext_fields)
        body = decode_record(bytes(request.command.body)).body.decode()
        self.checked.append(body)
        if self.deaf:
            return
        ended = EndTransactionRequestHeader(
            producer_group=GROUP,
            tran_state_table_offset=header.tran_state_table_offset,
            commit_log_offset=header.commit_log_offset,
            commit_or_rollback=self.truth.get(body, ROLLBACK),
            from_transaction_check=True,
            msg_id=header.msg_id or "",
        )
        with contextlib.suppress(RocketMQError):
            request.connection.one_way(
                RemotingCommand.create_request(RequestCode.END_TRANSACTION, encode_header(ended))
            )

    # --- looking ------------------------------------------------------------------------------------------------------

    async def messages(self, topic: str = TOPIC, queues: int = 2) -> list[MessageExt]:
        """Read all queues of a topic, as consumers do."""
        found: list[MessageExt] = []
        for queue_id in range(queues):
            offset, end = self.store.min_offset(topic, queue_id), self.store.max_offset(topic, queue_id)
            while offset < end:
                result = await self.store.get_message_cold(topic, queue_id, offset, 32)
                found += decode_records(result.records)
                assert result.next_begin_offset > offset
                offset = result.next_begin_offset
        return found

    async def delivered(self) -> Counter[str]:
        return Counter(message.body.decode() for message in await self.messages())

    async def set_aside(self) -> Counter[str]:
        return Counter(message.body.decode() for message in await self.messages(TRANS_CHECK_MAX_TIME_TOPIC, 1))
