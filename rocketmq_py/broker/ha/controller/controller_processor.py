"""What controllers and operators ask a broker in controller mode: 1007 and 1008.

Source: `AdminBrokerProcessor#getBrokerEpochCache`, `#notifyBrokerRoleChanged`, RocketMQ 5.3.
"""

from __future__ import annotations

import msgspec

from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.ha.controller.replicas_manager import ReplicasManager
from rocketmq_py.remoting.answer import answer
from rocketmq_py.remoting.codes import RequestCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.header import decode_header
from rocketmq_py.remoting.headers.controller import NotifyBrokerRoleChangedRequestHeader
from rocketmq_py.remoting.java_json import encode_body
from rocketmq_py.remoting.processors import Processors, Request
from rocketmq_py.store.ha.autoswitch.auto_switch_ha_service import AutoSwitchHAService
from rocketmq_py.store.ha.autoswitch.epochs import end_of


class EpochEntry(msgspec.Struct, rename="camel", kw_only=True):
    """One epoch of a broker's log; `end_offset` is where the next one begins."""

    end_offset: int
    epoch: int
    start_offset: int


class EpochEntryCache(msgspec.Struct, rename="camel", kw_only=True):
    """Answer of GET_BROKER_EPOCH_CACHE (1007)."""

    broker_id: int
    broker_name: str
    cluster_name: str
    epoch_list: list[EpochEntry]
    max_offset: int


class ControllerModeProcessor:
    """Answers them.

    Args:
        config: names.
        manager: learns of elections.
        replication: has the epochs.
    """

    def __init__(self, config: BrokerConfig, manager: ReplicasManager, replication: AutoSwitchHAService) -> None:
        self._config = config
        self._manager = manager
        self._replication = replication

    def register(self, processors: Processors) -> None:
        """Register both handlers."""
        processors.register(RequestCode.GET_BROKER_EPOCH_CACHE, self.get_epochs, "admin")
        processors.register(RequestCode.NOTIFY_BROKER_ROLE_CHANGED, self.role_changed, "admin")

    def get_epochs(self, request: Request) -> RemotingCommand:
        """Return the epochs of this broker's log (1007)."""
        epochs, end = self._replication.epochs.epochs, self._replication.log.max_offset
        entries = [
            EpochEntry(epoch=epoch.number, start_offset=epoch.start, end_offset=end_of(epochs, index, end))
            for index, epoch in enumerate(epochs)
        ]
        body = EpochEntryCache(
            broker_id=self._manager.broker_id,
            broker_name=self._config.broker_name,
            cluster_name=self._config.broker_cluster_name,
            epoch_list=entries,
            max_offset=end,
        )
        return answer(body=encode_body(body))

    def role_changed(self, request: Request) -> RemotingCommand:
        """Look what the controller says now (1008). The notice alone decides nothing."""
        header = decode_header(NotifyBrokerRoleChangedRequestHeader, request.command.ext_fields)
        if header.master_epoch is not None:
            self._manager.notified(header.master_epoch)
        return answer()
