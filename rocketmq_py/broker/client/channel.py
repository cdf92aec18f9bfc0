"""A client on one connection, as the tables of producers and consumers keep it.

Source: `ClientChannelInfo`, RocketMQ 5.3.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Protocol

from rocketmq_py.remoting.bodies.heartbeat import Connection
from rocketmq_py.remoting.command import RemotingCommand

#: A client sends a heartbeat every 30 s; after three lost ones it is taken for dead.
CHANNEL_EXPIRED_SECONDS: Final = 120.0
#: The scan for dead clients.
SCAN_SECONDS: Final = 10.0


class ClientConnection(Protocol):
    """What the tables need of a connection; they compare connections by identity."""

    @property
    def remote_address(self) -> str:
        """The peer's `ip:port`."""
        ...

    def one_way(self, command: RemotingCommand) -> None:
        """Send a request that has no answer."""
        ...

    async def request(self, command: RemotingCommand, timeout: float) -> RemotingCommand:
        """Send a request to the client and return its answer."""
        ...

    def close(self, reason: str) -> None:
        """Close the connection."""
        ...


@dataclass(slots=True, eq=False)
class ClientChannel:
    """One client on one connection.

    Attributes:
        connection: the connection.
        client_id: the client's id; one id may be on several connections.
        language, version: of the client, as its requests say.
        heard_at: when its last heartbeat came, seconds of the loop's clock.
        last_update_timestamp: the same by the wall clock, milliseconds since 1970; only for showing.
        expressions: by topic, what this client itself said in its last heartbeat.
    """

    connection: ClientConnection
    client_id: str
    language: str
    version: int
    heard_at: float = 0.0
    last_update_timestamp: int = 0
    expressions: dict[str, str] = field(default_factory=dict)

    def to_body(self) -> Connection:
        """Return it as answers list it."""
        return Connection(
            client_id=self.client_id,
            client_addr=self.connection.remote_address,
            language=self.language,
            version=self.version,
        )
