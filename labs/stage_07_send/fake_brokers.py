"""Brokers whose answers a lab decides, registered at a real name server: for what clients do when brokers fail."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.registration import Registration
from rocketmq_py.common.data_version import DataVersion
from rocketmq_py.common.environment import Environment
from rocketmq_py.namesrv.config import NamesrvConfig
from rocketmq_py.namesrv.server import Namesrv
from rocketmq_py.remoting.answer import answer
from rocketmq_py.remoting.bodies.topic_config import TopicConfig
from rocketmq_py.remoting.client import RemotingClient
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.header import decode_header
from rocketmq_py.remoting.headers.send import (
    SendMessageRequestHeader,
    SendMessageRequestHeaderV2,
    SendMessageResponseHeader,
)
from rocketmq_py.remoting.processors import DEFERRED, Deferred, Processors, Request
from rocketmq_py.remoting.server import RemotingServer

Answer = RemotingCommand | Deferred
Behaviour = Callable[[SendMessageRequestHeader], Answer]


def stored(header: SendMessageRequestHeader, code: int = ResponseCode.SUCCESS) -> Answer:
    """Say that the message was stored."""
    return answer(code, header=SendMessageResponseHeader(msg_id="0" * 32, queue_id=header.queue_id, queue_offset=7))


def silent(header: SendMessageRequestHeader) -> Answer:
    """Say nothing, ever."""
    return DEFERRED


def refusing(code: int) -> Behaviour:
    """Refuse with a code."""
    return lambda header: answer(code, f"refused with {code}")


class FakeBroker:
    """One broker process.

    Attributes:
        behaviour: what it answers; a lab changes it at will.
        received: the headers of the sends that reached it.
        current: the request that `behaviour` is asked about.
    """

    current: Request

    def __init__(self, name: str, namesrv: Namesrv, environment: Environment, broker_id: int = 0) -> None:
        self.name = name
        self.behaviour: Behaviour = stored
        self.received: list[SendMessageRequestHeader] = []
        self.data_version = DataVersion(timestamp=1_700_000_000_123, counter=1)
        self.topics = {
            topic: TopicConfig(topic_name=topic, read_queue_nums=queues, write_queue_nums=queues)
            for topic, queues in (("Orders", 2), ("Other", 1))
        }
        processors = Processors()
        processors.register(RequestCode.SEND_MESSAGE_V2, self._send)
        processors.register(RequestCode.SEND_BATCH_MESSAGE, self._send)
        processors.register(RequestCode.HEART_BEAT, lambda request: answer())
        processors.register(RequestCode.UNREGISTER_CLIENT, lambda request: answer())
        self.server = RemotingServer(processors, environment.clock, "127.0.0.1", 0)
        self.client = RemotingClient(environment.clock)
        self.config = BrokerConfig(broker_name=name, broker_id=broker_id, namesrv_addr=namesrv.address)
        self.registration = Registration(self.config, self.client)
        self.registration.topics = self

    def _send(self, request: Request) -> Answer:
        header = decode_header(SendMessageRequestHeaderV2, request.command.ext_fields).to_v1()
        self.received.append(header)
        self.current = request
        return self.behaviour(header)

    async def start(self) -> None:
        """Listen and register."""
        await self.server.serve()
        self.config.listen_port = self.server.port
        await self.registration.serve()

    async def die(self) -> None:
        """Close the port without a word to the name server."""
        await self.server.stop()

    async def stop(self) -> None:
        """Unregister and close everything."""
        await self.registration.stop_serving()
        await self.server.stop()
        await self.client.close()


class FakeCluster:
    """A real name server and some fake brokers."""

    def __init__(self, namesrv: Namesrv, environment: Environment) -> None:
        self.namesrv = namesrv
        self.environment = environment
        self.brokers: list[FakeBroker] = []

    @property
    def sends(self) -> list[int]:
        """How many sends reached each broker."""
        return [len(broker.received) for broker in self.brokers]


@contextlib.asynccontextmanager
async def fake_cluster(folder: Path, environment: Environment, *names: str) -> AsyncIterator[FakeCluster]:
    """Run one name server and a broker for each name."""
    async with contextlib.AsyncExitStack() as stack:
        namesrv = Namesrv(NamesrvConfig(listen_port=0, kv_config_path=str(folder / "kv.json")), environment)
        await namesrv.start()
        stack.push_async_callback(namesrv.stop)
        cluster = FakeCluster(namesrv, environment)
        for name in names:
            broker = FakeBroker(name, namesrv, environment)
            await broker.start()
            stack.push_async_callback(broker.stop)
            cluster.brokers.append(broker)
        yield cluster
