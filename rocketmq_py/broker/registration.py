"""How a broker makes itself known: to every name server on its own, at start, every 30 s and whenever topics change.

There is one task per name server. Each sends the whole table of topics, waits until the period is over, a topic changes
or the connection is lost, and sends it again; a name server that does not answer is tried again sooner. So a slow name
server holds up none of the others, many changes at once become one registration, and neither the order in which the
processes of a cluster start nor the restart of a name server matters for long.

Differs from RocketMQ 5.x, which registers single topics after a change. A name server takes the data version from each
registration, so a lost one would leave its topic behind for good: the next full table carries a version that is known.

Source: `BrokerController#registerBrokerAll`, `BrokerOuterAPI`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.common.data_version import DataVersion
from rocketmq_py.common.errors import InvalidInputError, RocketMQError
from rocketmq_py.common.host import join_address, split_address
from rocketmq_py.common.permission import READ_WRITE
from rocketmq_py.remoting.bodies.kv_table import KVTable
from rocketmq_py.remoting.bodies.register_broker import RegisterBrokerBody, body_crc32, encode_register_body
from rocketmq_py.remoting.bodies.topic_config import TopicConfig, TopicConfigTable
from rocketmq_py.remoting.client import RemotingClient
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.connection import Connection
from rocketmq_py.remoting.errors import RemotingError
from rocketmq_py.remoting.header import decode_header, encode_header
from rocketmq_py.remoting.headers import namesrv as headers
from rocketmq_py.remoting.java_json import decode_body, encode_body

logger = logging.getLogger(__name__)

#: Bounds of `registerNameServerPeriod`, milliseconds.
MIN_PERIOD: Final = 10_000
MAX_PERIOD: Final = 60_000

#: Seconds after which a name server that did not answer is tried again; each further failure doubles it.
FIRST_RETRY: Final = 1.0

#: Seconds that saying goodbye to a name server may take.
UNREGISTER_SECONDS: Final = 3.0


class TopicSource(Protocol):
    """Where the registered topics come from."""

    @property
    def data_version(self) -> DataVersion:
        """Version of the topics."""
        ...

    @property
    def topics(self) -> Mapping[str, TopicConfig]:
        """All topics by name."""
        ...


class NoTopics:
    """The topics of a broker without the stage that has topics."""

    data_version = DataVersion()
    topics: Mapping[str, TopicConfig] = {}


@dataclass(frozen=True, slots=True)
class Registered:
    """What a name server answered.

    Attributes:
        namesrv: its address.
        master_addr: the master of this broker name, if that is another process.
        ha_server_addr: where that master sends its log from.
        order_topics: topic to `broker:queues;...`; None if there are none.
    """

    namesrv: str
    master_addr: str | None
    ha_server_addr: str | None
    order_topics: dict[str, str] | None


class Registration:
    """Registers this broker at all its name servers for as long as it serves.

    Args:
        config: the broker's settings; its address is read with each registration.
        client: for the requests; whoever made it closes it.

    Attributes:
        topics: the topics to register; the stage that has topics sets it.
        ha_server_addr: returns the address that slaves fetch from; the stage with slaves sets it.
        listeners: called with every answer of a name server.
        may_register: asked before each registration and heartbeat; false while the broker must stay unknown.
    """

    def __init__(self, config: BrokerConfig, client: RemotingClient) -> None:
        self.topics: TopicSource = NoTopics()
        self.ha_server_addr: Callable[[], str] = lambda: join_address(config.broker_ip2, config.listen_port + 1)
        self.listeners: list[Callable[[Registered], None]] = []
        self.may_register: Callable[[], bool] = lambda: True
        self._config = config
        self._client = client
        self._links = [_Link(self, address) for address in parse_addresses(config.namesrv_addr)]
        self._heartbeats: asyncio.Task[None] | None = None
        client.on_closed.append(self._connection_closed)

    @property
    def addresses(self) -> list[str]:
        """The name servers."""
        return [link.address for link in self._links]

    async def serve(self) -> None:
        """Register everywhere for the first time, and go on in the background.

        A name server that cannot be reached is tried again later; the broker starts all the same.
        """
        for link in self._links:
            link.start()
        if self._config.enable_slave_acting_master and self._links:
            self._heartbeats = asyncio.get_running_loop().create_task(self._send_heartbeats(), name="heartbeats")
        await self.register_all()

    async def stop_serving(self) -> None:
        """End the background work and say goodbye to every name server."""
        links = [link for link in self._links if link.is_running]
        tasks = [link.stop() for link in links]
        if self._heartbeats is not None:
            self._heartbeats.cancel()
            tasks.append(self._heartbeats)
            self._heartbeats = None
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(self._unregister(link.address) for link in links if link.is_registered))

    def register_soon(self) -> None:
        """Note that topics changed: every name server hears of it as soon as it can."""
        for link in self._links:
            link.wake()

    async def register_all(self) -> None:
        """Register everywhere, and wait until every name server has answered or cannot be reached.

        What changed before the call is in these registrations. Failures are logged, and tried again later.
        """
        await asyncio.gather(*(link.attempt() for link in self._links if link.is_running))

    # --- one exchange with one name server -------------------------------------------------------------------------

    async def register(self, address: str) -> Connection:
        """Send the whole table to one name server and tell the listeners what it answered.

        Returns:
            The connection over which it went: as long as it is open, the name server keeps this broker.

        Raises:
            RemotingError: it could not be reached, or did not answer in time.
            RegistrationFailedError: it refused.
        """
        body = encode_register_body(self._body(), compressed=self._config.compressed_register)
        connection = await self._client.connect(address)
        response = await connection.request(self._request(body), self._timeout)
        if response.code != ResponseCode.SUCCESS:
            raise RegistrationFailedError(address, response.code, response.remark)
        header = decode_header(headers.RegisterBrokerResponseHeader, response.ext_fields)
        table = decode_body(response.body, KVTable).table if response.body else None
        registered = Registered(address, header.master_addr, header.ha_server_addr, table)
        for listener in self.listeners:
            listener(registered)
        return connection

    async def is_known(self, address: str) -> bool:
        """Ask a name server whether it knows the present topics (322); false if it does not answer."""
        command = self._version_query()
        try:
            response = await self._client.request(address, command, self._timeout)
            return (
                response.code == ResponseCode.SUCCESS
                and not decode_header(headers.QueryDataVersionResponseHeader, response.ext_fields).changed
            )
        except (RemotingError, InvalidInputError):
            return False

    def _request(self, body: bytes) -> RemotingCommand:
        config = self._config
        is_acting = config.enable_slave_acting_master
        header = headers.RegisterBrokerRequestHeader(
            broker_name=config.broker_name,
            broker_addr=config.broker_address,
            cluster_name=config.broker_cluster_name,
            ha_server_addr=self.ha_server_addr(),
            broker_id=config.broker_id,
            heartbeat_timeout_millis=config.broker_not_active_timeout_millis if is_acting else None,
            enable_acting_master=is_acting,
            # Differs from RocketMQ 5.x, which says false even when the body is compressed.
            compressed=config.compressed_register,
            body_crc32=body_crc32(body),
        )
        return _command(RequestCode.REGISTER_BROKER, header, body)

    def _body(self) -> RegisterBrokerBody:
        topics: Mapping[str, TopicConfig] = self.topics.topics
        allowed = self._config.broker_permission
        if allowed & READ_WRITE != READ_WRITE:
            topics = {name: msgspec.structs.replace(topic, perm=topic.perm & allowed) for name, topic in topics.items()}
        return RegisterBrokerBody(
            topic_config_serialize_wrapper=TopicConfigTable(
                data_version=self.topics.data_version, topic_config_table=dict(topics)
            )
        )

    def _connection_closed(self, connection: Connection) -> None:
        for link in self._links:
            link.connection_closed(connection)

    async def _unregister(self, address: str) -> None:
        command = _command(RequestCode.UNREGISTER_BROKER, self._identity(), b"")
        try:
            await self._client.request(address, command, UNREGISTER_SECONDS)
        except RemotingError as error:
            logger.warning("name server %s was not told that this broker stops: %s", address, error)

    async def _send_heartbeats(self) -> None:
        # QUERY_DATA_VERSION rather than BROKER_HEARTBEAT: name servers of every version take it for a sign of life.
        while True:
            await asyncio.sleep(self._config.broker_heartbeat_interval / 1000)
            if self.may_register():
                for address in self.addresses:
                    try:
                        await self._client.one_way(address, self._version_query())
                    except RemotingError as error:
                        logger.debug("heartbeat to name server %s failed: %s", address, error)

    def _version_query(self) -> RemotingCommand:
        return _command(RequestCode.QUERY_DATA_VERSION, self._identity(), encode_body(self.topics.data_version))

    def _identity(self) -> headers.BrokerIdentityRequestHeader:
        config = self._config
        return headers.BrokerIdentityRequestHeader(
            broker_name=config.broker_name,
            broker_addr=config.broker_address,
            cluster_name=config.broker_cluster_name,
            broker_id=config.broker_id,
        )

    @property
    def _timeout(self) -> float:
        return self._config.register_broker_timeout_mills / 1000

    @property
    def period(self) -> float:
        """Seconds from one registration to the next."""
        return max(MIN_PERIOD, min(self._config.register_name_server_period, MAX_PERIOD)) / 1000

    @property
    def is_forced(self) -> bool:
        """Whether to register with every period, or only where the name server knows another version."""
        return self._config.force_register


class RegistrationFailedError(RocketMQError):
    """A name server refused a registration."""

    def __init__(self, address: str, code: int, remark: str | None) -> None:
        super().__init__(f"name server {address} refused the registration with code {code}: {remark}")
        self.address = address
        self.code = code


class _Link:
    """The registrations at one name server, one after the other."""

    def __init__(self, registration: Registration, address: str) -> None:
        self.address = address
        self._registration = registration
        self._task: asyncio.Task[None] | None = None
        self._wanted = asyncio.Event()
        self._waiters: list[asyncio.Future[None]] = []
        self._failures = 0
        self._connection: Connection | None = None
        self.is_registered = False

    @property
    def is_running(self) -> bool:
        return self._task is not None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"registration at {self.address}")

    def stop(self) -> asyncio.Task[None]:
        assert self._task is not None
        task, self._task = self._task, None
        task.cancel()
        self._finish()
        return task

    def wake(self) -> None:
        self._wanted.set()

    def connection_closed(self, connection: Connection) -> None:
        """A name server drops a broker whose connection closes, and knows nothing after a restart: register again."""
        if connection is self._connection:
            self._connection = None
            self.wake()

    async def attempt(self) -> None:
        """Wait for an attempt that begins after this call, whatever comes of it."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self.wake()
        await waiter

    async def _run(self) -> None:
        is_first = True
        while True:
            waiters, self._waiters = self._waiters, []
            # Cleared before the table is read: a change during the attempt must lead to another one.
            is_changed = self._wanted.is_set()
            self._wanted.clear()
            try:
                if self._registration.may_register():
                    await self._register(is_needed=is_first or is_changed)
                    is_first = False
            finally:
                self._finish(waiters)
            await self._pause()

    async def _register(self, *, is_needed: bool) -> None:
        registration = self._registration
        try:
            if registration.is_forced or is_needed or not await registration.is_known(self.address):
                self._connection = await registration.register(self.address)
                self.is_registered = True
        except (RemotingError, RegistrationFailedError, InvalidInputError) as error:
            self._failures += 1
            logger.warning("registration at name server %s failed (%d times): %s", self.address, self._failures, error)
        else:
            if self._failures:
                logger.warning("registered at name server %s again", self.address)
            self._failures = 0

    async def _pause(self) -> None:
        seconds = self._registration.period
        if self._failures:
            seconds = min(seconds, FIRST_RETRY * 2 ** min(self._failures - 1, 10))
        try:
            async with asyncio.timeout(seconds):
                await self._wanted.wait()
        except TimeoutError:
            pass

    def _finish(self, waiters: list[asyncio.Future[None]] | None = None) -> None:
        if waiters is None:
            waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


def parse_addresses(text: str) -> list[str]:
    """Split `host:port;host:port` into addresses, each once.

    Raises:
        InvalidInputError: an entry is not HOST:PORT.
    """
    addresses = [address.strip() for address in text.split(";") if address.strip()]
    for address in addresses:
        split_address(address)
    return list(dict.fromkeys(addresses))


def _command(code: RequestCode, header: msgspec.Struct, body: bytes) -> RemotingCommand:
    command = RemotingCommand.create_request(code, encode_header(header))
    command.body = body
    return command
