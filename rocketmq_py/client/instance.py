"""What all producers and consumers of one client id share: connections, routes, and who says hello to the brokers.

    every 30 s   ask a name server for the routes of all topics in use
    every 30 s   heartbeat to the brokers, so that they know which groups are here
    at once      a route that is missing, or that a failure makes doubtful

Routes stay when the name servers are gone: a client that knows its brokers goes on working.

Source: `MQClientInstance`, RocketMQ 5.3. Differs from RocketMQ: instances are passed on, not found in a table of the
process.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rocketmq_py.client.config import DEFAULT_INSTANCE_NAME, ClientConfig
from rocketmq_py.client.errors import BrokerResponseError, ClientError, ClientStateError, NoRouteError
from rocketmq_py.client.name_servers import NameServers
from rocketmq_py.client.route import is_same_route
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.host import split_address
from rocketmq_py.common.message_id import UniqueIds
from rocketmq_py.common.periodic import Periodic
from rocketmq_py.common.topic import AUTO_CREATE_TOPIC_KEY_TOPIC
from rocketmq_py.remoting.bodies.heartbeat import ConsumerData, HeartbeatData, ProducerData
from rocketmq_py.remoting.bodies.route import MASTER_ID, TopicRouteData
from rocketmq_py.remoting.client import RemotingClient
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.errors import RemotingError
from rocketmq_py.remoting.header import encode_header
from rocketmq_py.remoting.headers.heartbeat import UnregisterClientRequestHeader
from rocketmq_py.remoting.headers.namesrv import GetRouteInfoRequestHeader
from rocketmq_py.remoting.java_json import decode_body, encode_body

logger = logging.getLogger(__name__)

#: Seconds before the first refresh of routes and the first heartbeat after a start.
FIRST_REFRESH = 0.01
FIRST_HEARTBEAT = 1.0


@dataclass(frozen=True, slots=True)
class FoundBroker:
    """Where to reach a broker name."""

    address: str
    is_slave: bool


class MQClientInstance:
    """One client id.

    Args:
        config: what all clients share.
        environment: clock, randomness and blocking calls.

    Attributes:
        client_id: `ip@instance`; two members of a consumer group must never share one. Known after `start`.
        transport: the connections.
        name_servers: who knows the routes.
        routes: the last known route of each topic in use.
        route_listeners: called with topic and route after a route changed.
        topic_sources: each returns topics whose routes are to be refreshed.
        producer_groups: the producer groups here.
        consumer_data: each returns what a heartbeat says of one consumer.
        periodic: the periodic work, running between start and stop.
        unique_ids: makes message ids. Known after `start`.
        shared: what the producers or consumers of this instance have in common, by its type.
    """

    def __init__(self, config: ClientConfig, environment: Environment) -> None:
        self.config = config
        self.environment = environment
        self.client_id = ""
        self.transport = RemotingClient(environment.clock, tls=config.tls)
        self.name_servers = NameServers(config.namesrv_addr, self.transport, environment.random)
        self.routes: dict[str, TopicRouteData] = {}
        self.route_listeners: list[Callable[[str, TopicRouteData], None]] = []
        self.topic_sources: list[Callable[[], Iterable[str]]] = []
        self.producer_groups: set[str] = set()
        self.consumer_data: list[Callable[[], ConsumerData]] = []
        self.periodic = Periodic(environment.random)
        self.shared: dict[type, object] = {}
        self._brokers: dict[str, dict[int, str]] = {}
        self._route_tasks: dict[tuple[str, bool], asyncio.Task[bool]] = {}
        self._is_running = False
        self.periodic.every(
            config.poll_name_server_interval / 1000, self.update_routes, "refresh of routes", delay=FIRST_REFRESH
        )
        self.periodic.every(
            config.heartbeat_broker_interval / 1000, self.send_heartbeats, "heartbeats", delay=FIRST_HEARTBEAT
        )

    # --- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take a client id and begin the periodic work. A second call does nothing."""
        if self._is_running:
            return
        config, rng = self.config, self.environment.random
        ip = config.client_ip or await self.environment.run_blocking(local_ip, self.name_servers.addresses)
        name = config.instance_name
        if name == DEFAULT_INSTANCE_NAME:
            name = f"{os.getpid()}#{rng.getrandbits(48)}"
        self.client_id = f"{ip}@{name}" + (f"@{config.unit_name}" if config.unit_name else "")
        self.unique_ids = UniqueIds(self.environment.clock, ip, os.getpid(), rng.getrandbits(32))
        self._is_running = True
        await self.periodic.start()

    async def stop(self) -> None:
        """End the periodic work and close all connections. A second call does nothing."""
        if not self._is_running:
            return
        self._is_running = False
        await self.periodic.stop()
        for task in list(self._route_tasks.values()):
            task.cancel()
        await asyncio.gather(*self._route_tasks.values(), return_exceptions=True)
        await self.transport.close()

    def check_running(self) -> None:
        """Raise `ClientStateError` if the instance was not started, or was stopped."""
        if not self._is_running:
            raise ClientStateError("the client is not running; start it first (`async with` does), and only once")

    # --- asking ------------------------------------------------------------------------------------------------------

    @property
    def api_timeout(self) -> float:
        """Seconds for requests that name no time of their own."""
        return self.config.mq_client_api_timeout / 1000

    async def request(self, address: str, command: RemotingCommand, timeout: float | None = None) -> RemotingCommand:
        """Send a request to a broker and return its answer, whatever its code; see `RemotingClient.request`."""
        return await self.transport.request(address, command, self.api_timeout if timeout is None else timeout)

    async def ask(
        self,
        address: str,
        code: int,
        fields: dict[str, str] | None = None,
        body: bytes = b"",
        timeout: float | None = None,
    ) -> RemotingCommand:
        """Send a request to a broker and return its answer.

        Raises:
            BrokerResponseError: the answer has another code than SUCCESS.
            RemotingError: there was no answer.
        """
        response = await self.request(address, RemotingCommand.create_request(code, fields, body), timeout)
        return checked(response, address)

    async def name_server_request(self, command: RemotingCommand, timeout: float | None = None) -> RemotingCommand:
        """Send a request to any one name server; see `NameServers.request`."""
        return await self.name_servers.request(command, self.api_timeout if timeout is None else timeout)

    # --- routes ------------------------------------------------------------------------------------------------------

    async def fetch_route(self, topic: str) -> TopicRouteData:
        """Ask for a route without remembering it.

        Raises:
            NoRouteError: the name server does not know the topic.
            NoNameServerError: no name server answers.
            BrokerResponseError: it refused for another reason.
        """
        header = GetRouteInfoRequestHeader(topic=topic, accept_standard_json_only=True)
        response = await self.name_server_request(
            RemotingCommand.create_request(RequestCode.GET_ROUTEINFO_BY_TOPIC, encode_header(header))
        )
        if response.code == ResponseCode.TOPIC_NOT_EXIST:
            raise NoRouteError(
                topic, "the name server does not know it; create it, or check that its brokers are registered"
            )
        return decode_body(checked(response, "the name server").body, TopicRouteData)

    async def update_route(self, topic: str, *, use_default: bool = False, default_queue_nums: int = 4) -> bool:
        """Refresh the route of a topic; callers at the same time share one request.

        Args:
            topic: whose route.
            use_default: take the route of the template for automatic creation, because the topic does not exist yet.
            default_queue_nums: with `use_default`, the most queues that the topic will get.

        Returns:
            Whether the route is another one than before.

        Raises:
            NoRouteError, NoNameServerError, BrokerResponseError: see `fetch_route`; the old route stays.
        """
        return await asyncio.shield(self._route_task(topic, use_default, default_queue_nums))

    def update_route_soon(self, topic: str) -> None:
        """Ask for a topic's route in the background: a broker of it could not be reached, or is master no more."""
        self._route_task(topic, False, 0)

    def _route_task(self, topic: str, use_default: bool, default_queue_nums: int) -> asyncio.Task[bool]:
        """Return the question for a route that is under way, or ask it."""
        key = (topic, use_default)
        task = self._route_tasks.get(key)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._update_route(topic, use_default, default_queue_nums))
            self._route_tasks[key] = task
            task.add_done_callback(lambda done: self._route_done(key, done))
        return task

    def _route_done(self, key: tuple[str, bool], task: asyncio.Task[bool]) -> None:
        self._route_tasks.pop(key, None)
        if not task.cancelled():
            task.exception()  # Marks it as seen: every caller may have been cancelled.

    async def _update_route(self, topic: str, use_default: bool, default_queue_nums: int) -> bool:
        route = await self.fetch_route(AUTO_CREATE_TOPIC_KEY_TOPIC if use_default else topic)
        if use_default:
            for data in route.queue_datas:
                data.read_queue_nums = data.write_queue_nums = min(default_queue_nums, data.read_queue_nums)
        if is_same_route(self.routes.get(topic), route):
            return False
        self.routes[topic] = route
        self._remember_brokers()
        for listener in self.route_listeners:
            listener(topic, route)
        return True

    async def update_routes(self) -> None:
        """Refresh the routes of all topics in use. What fails is logged and stays as it is."""
        for topic in sorted({topic for source in self.topic_sources for topic in source()}):
            try:
                await self.update_route(topic)
            except NoRouteError as error:
                logger.debug("%s", error)
            except (ClientError, RemotingError, InvalidInputError) as error:
                logger.warning("the route of topic %s was not refreshed: %s", topic, error)

    def _remember_brokers(self) -> None:
        """Keep the addresses that occur in a route, and no others."""
        self._brokers = {}
        for route in self.routes.values():
            for data in route.broker_datas:
                self._brokers.setdefault(data.broker_name, {}).update(data.broker_addrs)

    def master_address(self, broker_name: str) -> str | None:
        """Return the master's address, which takes sends and knows offsets; None if it is not known."""
        return self._brokers.get(broker_name, {}).get(MASTER_ID)

    def find_broker(self, broker_name: str, broker_id: int = MASTER_ID, only_this: bool = False) -> FoundBroker | None:
        """Return where to pull from.

        Args:
            broker_name: the broker name of a queue.
            broker_id: the process that the broker suggested.
            only_this: do not make do with another process of the same name.
        """
        addresses = self._brokers.get(broker_name, {})
        candidates = [broker_id] if only_this else [broker_id, broker_id + 1, *addresses]
        for candidate in candidates:
            if candidate in addresses:
                return FoundBroker(addresses[candidate], candidate != MASTER_ID)
        return None

    def any_broker_of(self, topic: str) -> str | None:
        """Return a master's address of a topic's route, or a slave's if there is no master."""
        route = self.routes.get(topic)
        brokers = [data for data in route.broker_datas if data.broker_addrs] if route is not None else []
        if not brokers:
            return None
        data = self.environment.random.choice(brokers)
        return data.master_addr or self.environment.random.choice(sorted(data.broker_addrs.values()))

    # --- heartbeats --------------------------------------------------------------------------------------------------

    def heartbeat(self) -> HeartbeatData:
        """Return what this client says of itself."""
        return HeartbeatData(
            client_id=self.client_id,
            producer_data_set=[ProducerData(group_name=group) for group in sorted(self.producer_groups)],
            consumer_data_set=[data() for data in self.consumer_data],
        )

    async def send_heartbeats(self) -> None:
        """Tell the brokers which groups are here: every broker if there are consumers, else masters only."""
        if not self.producer_groups and not self.consumer_data:
            return
        body = encode_body(self.heartbeat())
        with_slaves = bool(self.consumer_data)
        addresses = sorted(
            address
            for known in self._brokers.values()
            for broker_id, address in known.items()
            if with_slaves or broker_id == MASTER_ID
        )
        await asyncio.gather(*(self._send_heartbeat(address, body) for address in addresses))

    async def _send_heartbeat(self, address: str, body: bytes) -> None:
        try:
            await self.ask(address, RequestCode.HEART_BEAT, body=body)
        except (BrokerResponseError, RemotingError) as error:
            logger.info("heartbeat to broker %s failed: %s", address, error)

    async def unregister(self, *, producer_group: str | None = None, consumer_group: str | None = None) -> None:
        """Tell every known broker that a group leaves this client. What fails is logged: brokers notice by themselves."""
        header = UnregisterClientRequestHeader(
            client_id=self.client_id, producer_group=producer_group, consumer_group=consumer_group
        )
        addresses = {address for known in self._brokers.values() for address in known.values()}
        await asyncio.gather(*(self._unregister(address, encode_header(header)) for address in sorted(addresses)))

    async def _unregister(self, address: str, fields: dict[str, str]) -> None:
        try:
            await self.ask(address, RequestCode.UNREGISTER_CLIENT, dict(fields))
        except (BrokerResponseError, RemotingError) as error:
            logger.info("broker %s was not told that a group left: %s", address, error)

    def __repr__(self) -> str:
        return f"<MQClientInstance {self.client_id or 'not started'} {len(self.routes)} routes>"


def checked(response: RemotingCommand, address: str) -> RemotingCommand:
    """Return a response, or raise `BrokerResponseError` if its code is not SUCCESS."""
    if response.code != ResponseCode.SUCCESS:
        raise BrokerResponseError(response.code, response.remark, address)
    return response


def local_ip(addresses: list[str]) -> str:
    """Return the address by which this machine reaches the first name server. Blocks while a name is looked up."""
    host, port = split_address(addresses[0]) if addresses else ("127.0.0.1", 9876)
    try:
        family, kind, _, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        # Connecting a datagram socket sends nothing; it only makes the system choose an interface.
        with socket.socket(family, kind) as probe:
            probe.connect(target)
            return str(probe.getsockname()[0]).partition("%")[0]
    except OSError:
        return "127.0.0.1"
