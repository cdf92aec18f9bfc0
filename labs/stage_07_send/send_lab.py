"""A broker of stage 07 for labs, and a client that says exactly what it is told to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.assembly.stages import build_broker
from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.message import Message, MessageExt
from rocketmq_py.common.message_batch import encode_batch
from rocketmq_py.common.properties import encode_properties
from rocketmq_py.common.record import RecordState, to_message
from rocketmq_py.remoting.bodies.topic_config import TopicConfig
from rocketmq_py.remoting.client import RemotingClient
from rocketmq_py.remoting.codes import RequestCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.header import encode_header
from rocketmq_py.remoting.headers.send import SendMessageRequestHeader, SendMessageRequestHeaderV2
from rocketmq_py.remoting.processors import Processors
from rocketmq_py.remoting.server import RemotingServer
from rocketmq_py.store.commit_log import CommitLog
from rocketmq_py.store.config import MessageStoreConfig

#: Fields of a send that no lab cares about; none is a default of anything.
HEADER: dict[str, Any] = {
    "producer_group": "LabProducers",
    "default_topic": "TBW102",
    "default_topic_queue_nums": 3,
    "queue_id": 1,
    "sys_flag": 0,
    "born_timestamp": 1_768_463_999_123,
    "flag": 77,
    "reconsume_times": 0,
    "unit_mode": False,
    "batch": False,
}
SECONDS = 5.0


@dataclass
class Broker:
    """A running broker and a client of it."""

    kernel: Kernel
    client: RemotingClient

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.kernel.get(RemotingServer).port}"

    @property
    def topics(self) -> TopicConfigManager:
        return self.kernel.get(TopicConfigManager)

    @property
    def log(self) -> CommitLog:
        return self.kernel.get(CommitLog)

    def create_topic(self, name: str, queues: int = 4, **settings: Any) -> None:
        """Create a topic as an operator does."""
        config = TopicConfig(topic_name=name, read_queue_nums=queues, write_queue_nums=queues, **settings)
        self.topics.update([config])

    async def request(self, code: int, fields: dict[str, str], body: bytes = b"", flag: int = 0) -> RemotingCommand:
        """Send any request and return its response."""
        command = RemotingCommand.create_request(code, fields, body)
        command.flag = flag
        return await self.client.request(self.address, command, SECONDS)

    async def send(
        self,
        topic: str,
        body: bytes = b"hello",
        properties: dict[str, str] | None = None,
        code: int = RequestCode.SEND_MESSAGE_V2,
        **changes: Any,
    ) -> RemotingCommand:
        """Send one message and return the broker's response, whatever it says."""
        return await self.request(code, send_fields(topic, properties or {}, code, **changes), body)

    async def send_batch(self, topic: str, messages: list[Message], **changes: Any) -> RemotingCommand:
        """Send several messages in one request."""
        fields = send_fields(topic, {}, RequestCode.SEND_BATCH_MESSAGE, batch=True, **changes)
        return await self.request(RequestCode.SEND_BATCH_MESSAGE, fields, encode_batch(messages))

    def stored(self, topic: str | None = None) -> list[MessageExt]:
        """Return the messages in the log, of one topic or all, in the order of the log."""
        messages = [
            to_message(check.record)
            for _, check in self.log.scan(self.log.min_offset)
            if check.state is RecordState.VALID and check.record is not None
        ]
        return [message for message in messages if topic in (None, message.topic)]

    def log_bytes(self) -> bytes:
        """Return everything that was appended."""
        found = self.log.read(0, self.log.max_offset)
        return b"" if found is None else bytes(found)


def send_fields(topic: str, properties: dict[str, str] | bytes, code: int, **changes: Any) -> dict[str, str]:
    """Return the fields of a send in the form that its code has."""
    text = properties if isinstance(properties, bytes) else encode_properties(properties)
    header = SendMessageRequestHeader(**{**HEADER, "topic": topic, "properties": text.decode(), **changes})
    if code == RequestCode.SEND_MESSAGE:
        return encode_header(header)
    return encode_header(SendMessageRequestHeaderV2.from_v1(header))


@asynccontextmanager
async def running_broker(
    environment: Environment, folder: Path, *, through: str = "send", hot: bool = True, **settings: Any
) -> AsyncIterator[Broker]:
    """Run a broker of the stages up to `through`.

    Args:
        environment: its clock and files.
        folder: for its store.
        through: the last stage.
        hot: false takes the hot handlers away, so that every request takes the ordinary path.
        settings: of the broker or of the store.
    """
    store_names = MessageStoreConfig.__dataclass_fields__
    store = {name: value for name, value in settings.items() if name in store_names}
    config = BrokerConfig(listen_port=0, **{name: value for name, value in settings.items() if name not in store_names})
    sizes = {"mapped_file_size_commit_log": 1 << 20, "max_hash_slot_num": 100, "max_index_num": 400} | store
    store_config = MessageStoreConfig(store_path_root_dir=str(folder), **sizes)
    kernel = build_broker(config, store_config, environment, through)
    if not hot:
        kernel.get(Processors).hot.clear()
    await kernel.start()
    client = RemotingClient(environment.clock)
    try:
        yield Broker(kernel, client)
    finally:
        await client.stop()
        await kernel.stop()
