"""Installs roles that a controller assigns (`enableControllerMode`); the third part of stage ha."""

from __future__ import annotations

import logging

from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.broker.consumer_offset import ConsumerOffsetManager
from rocketmq_py.broker.ha.broker_role import BrokerRoles
from rocketmq_py.broker.ha.controller.broker_identity import BrokerIdentityFiles
from rocketmq_py.broker.ha.controller.controller_client import ASK_SECONDS, ControllerClient
from rocketmq_py.broker.ha.controller.controller_processor import ControllerModeProcessor
from rocketmq_py.broker.ha.controller.replicas_manager import ReplicasManager, Standing
from rocketmq_py.broker.ha.special_services import SpecialServices
from rocketmq_py.broker.registration import Registration, parse_addresses
from rocketmq_py.broker.schedule.delay_offsets import DelayOffsetManager
from rocketmq_py.broker.subscription_group import SubscriptionGroupManager
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.common.errors import ConfigError, InvalidInputError
from rocketmq_py.remoting.client import RemotingClient
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.errors import RemotingError
from rocketmq_py.remoting.header import decode_header, encode_header
from rocketmq_py.remoting.headers.controller import NO_BROKER_ID
from rocketmq_py.remoting.headers.ha import ExchangeHAInfoHeader
from rocketmq_py.remoting.processors import Processors
from rocketmq_py.store.ack import AcknowledgementGate
from rocketmq_py.store.block_checks import BlockChecks
from rocketmq_py.store.bookkeeping import Bookkeeping
from rocketmq_py.store.checkpoint import StoreCheckpoint
from rocketmq_py.store.commit_log import CommitLog
from rocketmq_py.store.config import BrokerRole
from rocketmq_py.store.flush import FlushService
from rocketmq_py.store.ha.autoswitch.auto_switch_ha_service import AutoSwitchHAService
from rocketmq_py.store.ha.autoswitch.epoch_file import EpochFile
from rocketmq_py.store.ha.autoswitch.store_cut import StoreCut
from rocketmq_py.store.ha.ha_client import HAClient
from rocketmq_py.store.ha.ha_service import HAService
from rocketmq_py.store.ha.replica_wait import ReplicaWait
from rocketmq_py.store.ha.slave_dispatch import SlaveDispatch
from rocketmq_py.store.message_store import MessageStore
from rocketmq_py.store.recovery import Recovery
from rocketmq_py.store.tick import Tick
from rocketmq_py.store.timer.timer_message_store import TimerMessageStore

logger = logging.getLogger(__name__)

#: Seconds between two looks at which epochs the log still has.
EPOCH_SECONDS = 60.0


def begin_controller_mode(kernel: Kernel) -> None:
    """Begin as a slave of nobody: what this broker is, and by which id, the controller says."""
    if kernel.config.enable_controller_mode:
        kernel.store_config.broker_role = BrokerRole.SLAVE
        kernel.config.broker_id = NO_BROKER_ID


def install_controller_mode(kernel: Kernel) -> None:
    """Add replication with epochs, and the manager of the role; nothing without `enableControllerMode`.

    Raises:
        ConfigError: no controller is configured.
    """
    if kernel.config.enable_controller_mode:
        replication = _install_replication(kernel)
        _install_manager(kernel, replication)


def _install_replication(kernel: Kernel) -> AutoSwitchHAService:
    config, environment = kernel.store_config, kernel.environment
    store, tick, gate = kernel.get(MessageStore), kernel.get(Tick), kernel.get(AcknowledgementGate)
    cut = kernel.provide(
        StoreCut(
            environment,
            store,
            kernel.get(FlushService),
            tick,
            gate,
            kernel.get(BlockChecks),
            kernel.get(Bookkeeping),
        )
    )
    checkpoint = kernel.get(StoreCheckpoint)
    kernel.get(Recovery).dispatch_limit = lambda end: min(end, checkpoint.confirm_physical_offset)
    cut.derived.append(kernel.get(TimerMessageStore).truncated)
    epochs = kernel.provide(EpochFile(environment.files, config.root_dir))
    replication = kernel.provide(
        AutoSwitchHAService(
            config,
            environment,
            store,
            checkpoint,
            epochs,
            kernel.get(HAService),
            kernel.get(HAClient),
            kernel.get(SlaveDispatch),
            kernel.get(ReplicaWait),
            tick,
            gate,
            cut,
        )
    )
    log = kernel.get(CommitLog)

    async def forget_epochs() -> None:
        await environment.run_blocking(epochs.delete_before, log.min_offset)

    kernel.periodic.every(EPOCH_SECONDS, forget_epochs, "forget epochs of deleted files")
    if not config.all_ack_in_sync_state_set or config.min_in_sync_replicas < 2:
        logger.warning(
            "allAckInSyncStateSet=%s and minInSyncReplicas=%d: a fail-over may lose acknowledged messages. Set true and 2",
            str(config.all_ack_in_sync_state_set).lower(),
            config.min_in_sync_replicas,
        )
    return replication


def _install_manager(kernel: Kernel, replication: AutoSwitchHAService) -> None:
    config, environment, roles = kernel.config, kernel.environment, kernel.get(BrokerRoles)
    client, registration, tick = kernel.get(RemotingClient), kernel.get(Registration), kernel.get(Tick)
    addresses = parse_addresses(config.controller_addr)
    if not addresses:
        raise ConfigError("enableControllerMode=true needs controllerAddr, HOST:PORT;HOST:PORT")
    controllers = kernel.provide(ControllerClient(config, client, environment.clock, addresses))
    identity = BrokerIdentityFiles(
        environment.files, kernel.store_config.root_dir, config.broker_cluster_name, config.broker_name
    )
    manager = kernel.provide(ReplicasManager(config, environment, roles, controllers, identity, replication, tick))
    ControllerModeProcessor(config, manager, replication).register(kernel.get(Processors))
    kernel.get(AcknowledgementGate).fence = lambda: not manager.may_acknowledge()
    others_may = registration.may_register
    registration.may_register = lambda: others_may() and manager.info is not None
    services = kernel.get(SpecialServices)
    manager.before_slave.append(services.pause)

    async def find_ha_address(address: str) -> str:
        return await _find_ha_address(client, address)

    async def changed(epoch: int) -> None:
        """Every table's version says in which epoch it is; the services run on the master; name servers hear of it."""
        for version in (
            kernel.get(TopicConfigManager).data_version,
            kernel.get(SubscriptionGroupManager).data_version,
            kernel.get(ConsumerOffsetManager).data_version,
            kernel.get(DelayOffsetManager).data_version,
        ):
            version.state_version = epoch
        if manager.standing is Standing.MASTER:
            await services.resume()
        registration.register_soon()

    manager.find_ha_address = find_ha_address
    manager.after_change.append(changed)

    async def find_leader() -> None:
        await controllers.find_leader()

    kernel.periodic.every(config.sync_controller_metadata_period / 1000, find_leader, "find the controllers' leader")


async def _find_ha_address(client: RemotingClient, address: str) -> str:
    """Ask a master where its log comes from (906)."""
    command = RemotingCommand.create_request(RequestCode.EXCHANGE_BROKER_HA_INFO, encode_header(ExchangeHAInfoHeader()))
    try:
        response = await client.request(address, command, ASK_SECONDS)
        if response.code == ResponseCode.SUCCESS:
            return decode_header(ExchangeHAInfoHeader, response.ext_fields).master_ha_address or ""
        logger.warning("master %s does not say where its log comes from: %s", address, response.remark)
    except (RemotingError, InvalidInputError) as error:
        logger.warning("master %s does not say where its log comes from: %s", address, error)
    return ""
