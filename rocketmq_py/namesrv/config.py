"""The settings of a name server, with RocketMQ's names and defaults in Python spelling.

Source: `NamesrvConfig`, RocketMQ 5.3.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from rocketmq_py.common.tls_settings import TlsSettings


@dataclass(slots=True)
class NamesrvConfig(TlsSettings):
    """Settings of a name server process. Durations are milliseconds unless the name says otherwise."""

    # Differs from RocketMQ, which listens on every interface.
    bind_address: str = "127.0.0.1"
    listen_port: int = 9876
    #: Where `put` of the KV configuration writes; `~` is the user's home.
    kv_config_path: str = "~/namesrv/kvConfig.json"
    #: Where changes that arrive over the network are kept; empty: beside the KV configuration.
    config_store_path: str = ""

    order_message_enable: bool = False
    return_order_topic_config_to_broker: bool = True
    scan_not_active_broker_interval: int = 5_000
    support_acting_master: bool = False
    enable_all_topic_list: bool = True
    enable_topic_list: bool = True
    notify_min_broker_id_changed: bool = False
    need_wait_for_service: bool = False
    wait_seconds_for_service: int = 45
    delete_topic_with_broker_registration: bool = False
    #: Run a controller in the same process, with a port of its own; its settings are in the same file.
    enable_controller_in_namesrv: bool = False
    config_black_list: str = "configBlackList;configStorePath;kvConfigPath"

    @property
    def kv_config_file(self) -> str:
        """The KV configuration's path with `~` replaced."""
        return os.path.expanduser(self.kv_config_path)

    @property
    def override_file(self) -> str:
        """The path of the settings that were changed over the network."""
        default = os.path.join(os.path.dirname(self.kv_config_file), "namesrv.override.properties")
        return os.path.expanduser(self.config_store_path) or default


#: What may be changed over the network. Paths, addresses and the list itself may not.
MUTABLE_KEYS = frozenset(
    (
        "orderMessageEnable",
        "returnOrderTopicConfigToBroker",
        "supportActingMaster",
        "enableAllTopicList",
        "enableTopicList",
        "notifyMinBrokerIdChanged",
        "needWaitForService",
        "waitSecondsForService",
        "deleteTopicWithBrokerRegistration",
    )
)
