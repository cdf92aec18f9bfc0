"""Name servers, brokers that only register, and a client that asks: what the labs of this stage play with."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.registration import Registration
from rocketmq_py.common.data_version import DataVersion
from rocketmq_py.common.environment import Environment
from rocketmq_py.namesrv.config import NamesrvConfig
from rocketmq_py.namesrv.server import Namesrv
from rocketmq_py.remoting.bodies.route import TopicRouteData
from rocketmq_py.remoting.bodies.topic_config import TopicConfig
from rocketmq_py.remoting.client import RemotingClient
from rocketmq_py.remoting.codes import RequestCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.header import encode_header
from rocketmq_py.remoting.java_json import decode_body
from rocketmq_py.remoting.version import CURRENT_VERSION


class Topics:
    """A table of topics that a lab changes by hand."""

    def __init__(self, **queues: int) -> None:
        self.data_version = DataVersion(timestamp=1_700_000_000_123, counter=1)
        self.topics: dict[str, TopicConfig] = {}
        for topic, count in queues.items():
            self.put(topic, count)

    def put(self, topic: str, queues: int) -> None:
        """Create or change a topic."""
        self.topics[topic] = TopicConfig(topic_name=topic, read_queue_nums=queues, write_queue_nums=queues)
        self.data_version = DataVersion(
            timestamp=self.data_version.timestamp + 1, counter=self.data_version.counter + 1
        )


class Lab:
    """Starts servers, and stops them all at the end."""

    def __init__(self, folder: Path, environment: Environment) -> None:
        self.folder = folder
        self.environment = environment
        self.client = RemotingClient(self.environment.clock)
        self._stack = contextlib.AsyncExitStack()

    async def namesrv(self, port: int = 0, **settings: Any) -> Namesrv:
        """Start a name server."""
        path = str(self.folder / f"namesrv-{len(list(self.folder.iterdir()))}" / "kvConfig.json")
        namesrv = Namesrv(NamesrvConfig(listen_port=port, kv_config_path=path, **settings), self.environment)
        await namesrv.start()
        self._stack.push_async_callback(namesrv.stop)
        return namesrv

    async def broker(self, *namesrvs: Namesrv, topics: Topics, **settings: Any) -> Registration:
        """Start the registration of a broker with a connection of its own to each name server."""
        client = RemotingClient(self.environment.clock)
        addresses = ";".join(namesrv.address for namesrv in namesrvs)
        registration = Registration(BrokerConfig(namesrv_addr=addresses, **settings), client)
        registration.topics = topics
        await registration.serve()
        self._stack.push_async_callback(client.close)
        self._stack.push_async_callback(registration.stop_serving)
        return registration

    async def ask(
        self,
        namesrv: Namesrv | str,
        code: RequestCode,
        header: msgspec.Struct | None = None,
        body: bytes = b"",
        *,
        version: int = CURRENT_VERSION,
        zone: dict[str, str] | None = None,
    ) -> RemotingCommand:
        """Send one request to a name server; `zone` are ext fields beside those of the header."""
        fields = encode_header(header) if header is not None else {}
        command = RemotingCommand.create_request(code, {**fields, **(zone or {})}, body)
        command.version = version
        address = namesrv if isinstance(namesrv, str) else namesrv.address
        return await self.client.request(address, command, 3.0)

    async def route(self, namesrv: Namesrv | str, topic: str) -> dict[str, tuple[int, dict[int, str]]] | None:
        """Return broker name -> (queues, addresses) of a topic, or None if the name server does not know it."""
        command = RemotingCommand.create_request(RequestCode.GET_ROUTEINFO_BY_TOPIC, {"topic": topic})
        address = namesrv if isinstance(namesrv, str) else namesrv.address
        response = await self.client.request(address, command, 3.0)
        if response.code != 0:
            return None
        route = decode_body(response.body, TopicRouteData)
        addresses = {broker.broker_name: broker.broker_addrs for broker in route.broker_datas}
        return {
            queue.broker_name: (queue.write_queue_nums, addresses[queue.broker_name]) for queue in route.queue_datas
        }

    async def close(self) -> None:
        """Stop everything."""
        await self._stack.aclose()
        await self.client.close()


@contextlib.asynccontextmanager
async def lab_in(folder: Path, environment: Environment) -> AsyncIterator[Lab]:
    """A lab for the time of a `with` block."""
    lab = Lab(folder, environment)
    try:
        yield lab
    finally:
        await lab.close()
