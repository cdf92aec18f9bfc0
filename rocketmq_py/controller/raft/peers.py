"""Who may speak as a controller: whoever comes from the machine that the settings name for it.

A stranger who could vote or append would rule all brokers; the port is open to every broker and tool. With TLS and
certificates of clients a stranger does not get even so far.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Mapping

from rocketmq_py.common.environment import Environment
from rocketmq_py.common.host import split_address

logger = logging.getLogger(__name__)


class PeerAddresses:
    """The IP addresses of all controllers.

    Args:
        addresses: id to `host:port`.
        environment: its blocking calls, for names.
    """

    def __init__(self, addresses: Mapping[str, str], environment: Environment) -> None:
        self._hosts = {peer: split_address(address)[0] for peer, address in addresses.items()}
        self._environment = environment
        self._known: dict[str, frozenset[str]] = {}

    async def resolve(self) -> None:
        """Look the names up; one that cannot be found now is trusted only after a restart."""
        for peer, host in self._hosts.items():
            try:
                self._known[peer] = frozenset((str(ipaddress.ip_address(host)),))
            except ValueError:
                self._known[peer] = await self._environment.run_blocking(_look_up, host)

    def is_peer(self, peer: str, remote_address: str) -> bool:
        """Whether a connection from `ip:port` may speak for a controller."""
        remote = ipaddress.ip_address(split_address(remote_address)[0].partition("%")[0])
        mapped = getattr(remote, "ipv4_mapped", None)
        known = self._known.get(peer, frozenset())
        # A controller on this machine may come from any of its addresses of the loop.
        is_local = remote.is_loopback and any(ipaddress.ip_address(address).is_loopback for address in known)
        return is_local or str(mapped or remote) in known


def _look_up(host: str) -> frozenset[str]:
    try:
        return frozenset(str(item[4][0]).partition("%")[0] for item in socket.getaddrinfo(host, None))
    except OSError as error:
        logger.warning("the controller at %s cannot be found: %s", host, error)
        return frozenset()
