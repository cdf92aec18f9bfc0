"""A running name server: the tables, the processors and the port, put together.

Source: `NamesrvController`, RocketMQ 5.3.
"""

from __future__ import annotations

from rocketmq_py.common.environment import Environment
from rocketmq_py.common.host import join_address
from rocketmq_py.common.live_config import LiveConfig
from rocketmq_py.common.periodic import Periodic
from rocketmq_py.common.tls_settings import TlsMode
from rocketmq_py.namesrv.admin_processor import AdminProcessor
from rocketmq_py.namesrv.config import MUTABLE_KEYS, NamesrvConfig
from rocketmq_py.namesrv.kv_config import KVConfigManager
from rocketmq_py.namesrv.min_broker_id import MinBrokerIdNotifier
from rocketmq_py.namesrv.processor import DefaultRequestProcessor
from rocketmq_py.namesrv.route_info import RouteInfoManager
from rocketmq_py.remoting.client import RemotingClient
from rocketmq_py.remoting.connection import Connection
from rocketmq_py.remoting.limits import Limits
from rocketmq_py.remoting.processors import Processors
from rocketmq_py.remoting.server import RemotingServer
from rocketmq_py.remoting.tls import client_tls, server_tls


class Namesrv:
    """One name server.

    Args:
        config: its settings; with `listen_port` 0 it takes any free port, and says so there once it serves.
        environment: clock, randomness, files and blocking calls.
        limits: what peers may use up.

    Attributes:
        routes: what brokers have told.
        kv: the texts of operators.
        processors: who handles which request.
        server: the port.
    """

    def __init__(
        self,
        config: NamesrvConfig,
        environment: Environment,
        limits: Limits | None = None,
    ) -> None:
        self.config = config
        self.routes = RouteInfoManager()
        self.kv = KVConfigManager(config.kv_config_file, environment)
        self.processors = Processors()
        self.server = RemotingServer(
            self.processors,
            environment.clock,
            config.bind_address,
            config.listen_port,
            limits,
            server_tls(config),
            config.tls_server_mode is TlsMode.ENFORCING,
        )
        self._environment = environment
        self._periodic = Periodic(environment.random)
        self._client = RemotingClient(environment.clock, tls=client_tls(config))
        self._notifier = MinBrokerIdNotifier(config, self._client)
        self._live_config = LiveConfig(
            [config], MUTABLE_KEYS, lambda: config.config_black_list, config.override_file, environment
        )
        self._requests = DefaultRequestProcessor(self.routes, self.kv, config)
        self._requests.install(self.processors)
        AdminProcessor(self.routes.tables, self.kv, self._live_config, config).install(self.processors)
        self.server.on_closed.append(self._connection_closed)
        self.routes.min_broker_id_listeners.append(self._notifier.changed)
        self._live_config.listeners.append(lambda keys: self._apply_settings())
        self._periodic.every(
            config.scan_not_active_broker_interval / 1000, self.scan_not_active_brokers, "scan of silent brokers"
        )

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self.server.port

    @property
    def address(self) -> str:
        """Where clients reach it, `host:port`."""
        return join_address(self.config.bind_address, self.port)

    async def start(self) -> None:
        """Load what is kept on disk, then listen.

        Raises:
            CorruptDataError: a file is damaged, and so is its backup.
            PortInUseError: another process has the port.
        """
        self._live_config.load()
        self.kv.table.load()
        self._apply_settings()
        await self.server.serve()
        self.config.listen_port = self.server.port
        self._requests.started()
        await self._periodic.start()

    async def stop(self) -> None:
        """Close the port and all connections. A second call does nothing."""
        await self._periodic.stop()
        await self.server.stop()
        await self._notifier.stop()
        await self._client.close()

    def scan_not_active_brokers(self) -> None:
        """Drop every broker that was silent for too long, and close its connection."""
        for connection in self.routes.expire(self._requests.now()):
            if isinstance(connection, Connection):
                connection.close("its broker was silent for too long")

    def _connection_closed(self, connection: Connection) -> None:
        self.routes.connection_closed(connection)

    def _apply_settings(self) -> None:
        self.routes.delete_topics = self.config.delete_topic_with_broker_registration

    def __repr__(self) -> str:
        return f"<Namesrv {self.address} {self.routes.tables!r}>"
