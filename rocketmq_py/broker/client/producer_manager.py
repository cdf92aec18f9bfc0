"""Who produces: the producer groups and their members.

A broker needs them to ask back: whether a transaction was committed, and where to send the reply of a request.

Source: `ProducerManager`, RocketMQ 5.3.
"""

from __future__ import annotations

import logging

from rocketmq_py.broker.client.channel import CHANNEL_EXPIRED_SECONDS, ClientChannel, ClientConnection
from rocketmq_py.remoting.bodies.heartbeat import ProducerConnection, ProducerInfo, ProducerTableInfo

logger = logging.getLogger(__name__)


class ProducerManager:
    """The producer groups that have members. All methods run on the loop and wait for nothing.

    Args:
        expired_seconds: after how long without a heartbeat a member is taken for dead.
    """

    def __init__(self, expired_seconds: float = CHANNEL_EXPIRED_SECONDS) -> None:
        self._expired_seconds = expired_seconds
        self._groups: dict[str, dict[ClientConnection, ClientChannel]] = {}
        # By client id its connections, the latest last, each with the number of groups that it is in. The latest one
        # reaches the client; leaving one group of several must not make it unreachable.
        self._clients: dict[str, dict[ClientConnection, int]] = {}
        self._turn = 0

    def register(self, group: str, channel: ClientChannel) -> None:
        """Note a heartbeat of one member."""
        members = self._groups.setdefault(group, {})
        known = members.get(channel.connection)
        if known is None or known.client_id != channel.client_id:
            if known is not None:
                self._forget(known)
            groups = self._clients.setdefault(channel.client_id, {})
            groups[channel.connection] = groups.get(channel.connection, 0) + 1
        members[channel.connection] = channel

    def _forget(self, channel: ClientChannel) -> None:
        groups = self._clients[channel.client_id]
        groups[channel.connection] -= 1
        if not groups[channel.connection]:
            del groups[channel.connection]
        if not groups:
            del self._clients[channel.client_id]

    def unregister(self, group: str, connection: ClientConnection) -> bool:
        """Remove a member; return whether it was one."""
        members = self._groups.get(group)
        channel = members.pop(connection, None) if members is not None else None
        if members is None or channel is None:
            return False
        if not members:
            del self._groups[group]
        self._forget(channel)
        return True

    def closed(self, connection: ClientConnection) -> None:
        """Remove a connection that is gone from all its groups."""
        for group in [group for group, members in self._groups.items() if connection in members]:
            self.unregister(group, connection)

    def expire(self, now: float) -> list[ClientConnection]:
        """Remove members that were silent for too long, and return their connections, to be closed."""
        expired = [
            (group, channel)
            for group, members in self._groups.items()
            for channel in members.values()
            if now - channel.heard_at > self._expired_seconds
        ]
        for group, channel in expired:
            logger.warning(
                "producer %s (%s) of group %s sent no heartbeat for %.0f s and is removed",
                channel.client_id, channel.connection.remote_address, group, now - channel.heard_at,
            )  # fmt: skip
            self.unregister(group, channel.connection)
        return list(dict.fromkeys(channel.connection for _, channel in expired))

    def find_connection(self, client_id: str) -> ClientConnection | None:
        """Return the connection that reaches a client, or None."""
        return next(reversed(self._clients.get(client_id, {})), None)

    def next_available(self, group: str) -> ClientConnection | None:
        """Return a member of a group to ask, another one with every call; None if there is none."""
        members = list(self._groups.get(group, ()))
        if not members:
            return None
        self._turn += 1
        return members[self._turn % len(members)]

    def connections(self, group: str) -> ProducerConnection | None:
        """Return the members of a group as GET_PRODUCER_CONNECTION_LIST answers; None if there is no such group."""
        members = self._groups.get(group)
        if members is None:
            return None
        return ProducerConnection(connection_set=[channel.to_body() for channel in members.values()])

    def to_body(self) -> ProducerTableInfo:
        """Return all members as GET_ALL_PRODUCER_INFO answers."""
        return ProducerTableInfo(
            data={
                group: [
                    ProducerInfo(
                        client_id=channel.client_id,
                        remote_ip=f"/{channel.connection.remote_address}",
                        language=channel.language,
                        version=channel.version,
                        last_update_timestamp=channel.last_update_timestamp,
                    )
                    for channel in members.values()
                ]
                for group, members in self._groups.items()
            }
        )

    def __repr__(self) -> str:
        return f"<ProducerManager {len(self._groups)} groups, {len(self._clients)} clients>"
