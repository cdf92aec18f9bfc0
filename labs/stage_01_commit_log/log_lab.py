"""A store of stage 01 for labs: log, gate, flush and tick, with sizes small enough to look at."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rocketmq_py.assembly.commit_log import install
from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.record import RecordState
from rocketmq_py.store.ack import AcknowledgementGate
from rocketmq_py.store.columns import Columns
from rocketmq_py.store.commit_log import CommitLog
from rocketmq_py.store.config import MessageStoreConfig
from rocketmq_py.store.draft import Draft
from rocketmq_py.store.flush import FlushService
from rocketmq_py.store.put_message import MessagePutter
from rocketmq_py.store.queue_slot import QueueSlots
from rocketmq_py.store.tick import Tick

FILE_SIZE = 4096


@dataclass
class LogLab:
    """The parts of a running stage 01."""

    kernel: Kernel
    visible: list[Columns] = field(default_factory=list)

    @property
    def log(self) -> CommitLog:
        return self.kernel.get(CommitLog)

    @property
    def tick(self) -> Tick:
        return self.kernel.get(Tick)

    @property
    def flush(self) -> FlushService:
        return self.kernel.get(FlushService)

    @property
    def gate(self) -> AcknowledgementGate:
        return self.kernel.get(AcknowledgementGate)

    @property
    def slots(self) -> QueueSlots:
        return self.kernel.get(QueueSlots)

    @property
    def putter(self) -> MessagePutter:
        return self.kernel.get(MessagePutter)

    def records(self) -> list[tuple[int, str, int, bytes]]:
        """Return offset, topic, queue offset and body of every message in the log."""
        return [
            (offset, check.record.topic.decode(), check.record.queue_offset, check.record.body)
            for offset, check in self.log.scan(self.log.min_offset)
            if check.state is RecordState.VALID and check.record is not None
        ]


def draft(topic: str = "TopicA", body: bytes = b"hello", queue_id: int = 0, properties: bytes = b"") -> Draft:
    """Return a message to put."""
    return Draft(
        topic=topic,
        queue_id=queue_id,
        body=body,
        stored_properties=properties,
        born_timestamp=1_700_000_000_000,
        born_host=bytes((127, 0, 0, 1, 0, 0, 0x9C, 0x41)),
    )


@asynccontextmanager
async def log_lab(folder: Path, environment: Environment, **settings: Any) -> AsyncIterator[LogLab]:
    """Run stage 01 on a folder; on leaving it everything is flushed and closed."""
    settings.setdefault("mapped_file_size_commit_log", FILE_SIZE)
    config = replace(MessageStoreConfig(store_path_root_dir=str(folder)), **settings)
    kernel = Kernel(BrokerConfig(), config, environment)
    kernel.stage = "commit_log"
    install(kernel)
    lab = LogLab(kernel)
    lab.tick.on_visible = lab.visible.append
    lab.log.load()
    lab.log.truncate(lab.log.find_end())
    await kernel.start()
    try:
        yield lab
    finally:
        await kernel.stop()
