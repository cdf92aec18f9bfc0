"""A broker that is sent messages back by a client which says exactly what it is told to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labs.stage_07_send.send_lab import SECONDS, Broker, running_broker
from rocketmq_py.broker.subscription_group import SubscriptionGroupManager
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.message import MessageExt
from rocketmq_py.common.message_id import parse_offset_id
from rocketmq_py.common.topic import SCHEDULE_TOPIC, dlq_topic, retry_topic
from rocketmq_py.remoting.bodies.subscription_group import SubscriptionGroupConfig
from rocketmq_py.remoting.codes import RequestCode
from rocketmq_py.remoting.command import RemotingCommand

TOPIC = "Orders"
GROUP = "billing"
RETRY, DLQ = retry_topic(GROUP), dlq_topic(GROUP)
#: Properties of the message that labs send back, none of which RocketMQ knows but tags, keys and id.
PROPERTIES = {"TAGS": "paid", "KEYS": "order-17", "UNIQ_KEY": "7F00000100002A139A550A1B2C3D0007", "customer": "Zoë"}


@dataclass
class SendBackLab:
    """What a lab works with."""

    broker: Broker

    async def send(self, body: bytes = b"hello", **changes: Any) -> int:
        """Send one message and return its physical offset."""
        answer = await self.broker.send(changes.pop("topic", TOPIC), body, **{"properties": PROPERTIES, **changes})
        assert answer.code == 0, answer.remark
        return parse_offset_id(answer.ext_fields["msgId"])[1]

    async def send_back(
        self, offset: int | str, group: str = GROUP, level: int | str = 0, *, version: int | None = None, **more: Any
    ) -> RemotingCommand:
        """Send a message back; `more` are fields of the header by their names on the wire."""
        fields = {
            "offset": str(offset),
            "group": group,
            "delayLevel": str(level),
            **{k: str(v) for k, v in more.items()},
        }
        command = RemotingCommand.create_request(RequestCode.CONSUMER_SEND_MSG_BACK, fields)
        if version is not None:
            command.version = version
        return await self.broker.client.request(self.broker.address, command, SECONDS)

    @property
    def groups(self) -> SubscriptionGroupManager:
        return self.broker.kernel.get(SubscriptionGroupManager)

    def create_group(self, name: str = GROUP, **settings: Any) -> None:
        """Create or change a group as an operator does."""
        self.groups.update([SubscriptionGroupConfig(group_name=name, **settings)])

    def waiting(self) -> list[MessageExt]:
        """Return what waits for its time."""
        return self.broker.stored(SCHEDULE_TOPIC)


@asynccontextmanager
async def send_back_lab(environment: Environment, folder: Path, **settings: Any) -> AsyncIterator[SendBackLab]:
    """Run a broker of the stages up to this one, with a topic."""
    async with running_broker(environment, folder, through="retry", **settings) as broker:
        broker.create_topic(TOPIC)
        yield SendBackLab(broker)
