"""The settings of a controller, with RocketMQ's names and defaults in Python spelling.

Source: `ControllerConfig`, RocketMQ 5.3.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from rocketmq_py.common.config import key
from rocketmq_py.common.errors import ConfigError, InvalidInputError
from rocketmq_py.common.host import split_address
from rocketmq_py.common.tls_settings import TlsSettings

#: The port of RocketMQ's sample files; a controller without peers listens there.
DEFAULT_PORT = 9878
_PEER = re.compile(r"(?P<id>[A-Za-z0-9_]+)-(?P<address>.+)")


@dataclass(slots=True)
class ControllerConfig(TlsSettings):
    """Settings of a controller. Durations are milliseconds unless the name says otherwise.

    There is no `listenPort`: the file of a name server with a controller in it has that for the name server. The port is
    the one of this controller's entry in `controllerDLegerPeers`.
    """

    # Differs from RocketMQ, which listens on every interface.
    bind_address: str = "127.0.0.1"
    #: Not of RocketMQ: the port if there are no peers; 0 for any free one.
    controller_port: int = DEFAULT_PORT

    controller_d_leger_group: str = key("controllerDLegerGroup", "DefaultControllerGroup")
    #: `n0-127.0.0.1:9878;n1-127.0.0.1:9868;n2-127.0.0.1:9858`, the same at each of them; empty: this controller is alone.
    controller_d_leger_peers: str = key("controllerDLegerPeers", "")
    controller_d_leger_self_id: str = key("controllerDLegerSelfId", "n0")
    #: Folder of what is remembered, shared by controllers with other ids; empty: `~/.rocketmq_py/controller`.
    controller_store_path: str = ""

    scan_not_active_broker_interval: int = 5_000
    scan_inactive_master_interval: int = 5_000
    elect_master_max_retry_count: int = 3
    enable_elect_unclean_master: bool = False
    #: Ask the other controllers before a question is answered, so that no answer can be a moment too old.
    is_process_read_event: bool = key("isProcessReadEvent", False)
    notify_broker_role_changed: bool = True
    #: Where changes that arrive over the network are kept; empty: beside what is remembered.
    config_store_path: str = ""
    config_black_list: str = "configBlackList;configStorePath"

    @property
    def peers(self) -> dict[str, str]:
        """Id to `host:port` of all controllers, itself included; empty if it is alone.

        Raises:
            ConfigError: the text is not what it should be, or does not name this controller.
        """
        return parse_peers(self.controller_d_leger_peers, self.controller_d_leger_self_id)

    @property
    def folder(self) -> str:
        """Where this controller keeps what it remembers."""
        base = self.controller_store_path or os.path.join("~", ".rocketmq_py", "controller")
        return os.path.join(os.path.expanduser(base), f"controller-{self.controller_d_leger_self_id}")

    @property
    def override_file(self) -> str:
        """The path of the settings that were changed over the network."""
        default = os.path.join(self.folder, "controller.override.properties")
        return os.path.expanduser(self.config_store_path) or default


def parse_peers(text: str, own_id: str) -> dict[str, str]:
    """Return id to address; see `ControllerConfig.peers`."""
    example = "write n0-127.0.0.1:9878;n1-127.0.0.1:9868;n2-127.0.0.1:9858"
    peers: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in text.split(";"))):
        match = _PEER.fullmatch(item)
        if match is None:
            raise ConfigError(f"controllerDLegerPeers has {item!r}, which is not ID-HOST:PORT; {example}")
        try:
            split_address(match["address"])
        except InvalidInputError as error:
            raise ConfigError(f"controllerDLegerPeers has {item!r}: {error}") from None
        if match["id"] in peers:
            raise ConfigError(f"controllerDLegerPeers names {match['id']} twice; {example}")
        peers[match["id"]] = match["address"]
    if re.fullmatch(r"[A-Za-z0-9_]+", own_id) is None:
        raise ConfigError(f"controllerDLegerSelfId is {own_id!r}; write letters and digits, such as n0")
    if peers and own_id not in peers:
        raise ConfigError(
            f"controllerDLegerSelfId is {own_id!r}, but controllerDLegerPeers has only {', '.join(peers)}; {example}"
        )
    return peers


#: What may be changed over the network. Paths, addresses and the list itself may not.
MUTABLE_KEYS = frozenset(
    ("electMasterMaxRetryCount", "enableElectUncleanMaster", "isProcessReadEvent", "notifyBrokerRoleChanged")
)
