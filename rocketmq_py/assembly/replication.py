"""Installs the copying of the log; the first part of stage ha."""

from __future__ import annotations

from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.broker.ha.broker_role import BrokerRoles, Master
from rocketmq_py.broker.ha.slave_trust import SlaveTrust
from rocketmq_py.broker.registration import Registration
from rocketmq_py.broker.runtime_info import RuntimeInfo
from rocketmq_py.common.errors import ConfigError, InvalidInputError
from rocketmq_py.common.host import join_address, split_address
from rocketmq_py.remoting.client import RemotingClient
from rocketmq_py.store.ack import AcknowledgementGate
from rocketmq_py.store.commit_log import CommitLog
from rocketmq_py.store.config import BrokerRole, MessageStoreConfig
from rocketmq_py.store.flush import FlushService
from rocketmq_py.store.flushed_position import FlushedPosition
from rocketmq_py.store.ha.ha_client import HAClient
from rocketmq_py.store.ha.ha_service import HAService
from rocketmq_py.store.ha.log_intake import LogIntake
from rocketmq_py.store.ha.replica_wait import ReplicaWait, check_replicas
from rocketmq_py.store.ha.slave_dispatch import SlaveDispatch
from rocketmq_py.store.reput import ReputMessageService
from rocketmq_py.store.tick import Tick


def install_replication(kernel: Kernel) -> None:
    """Add the master's side, the slave's side, and what makes one of them rest.

    Raises:
        ConfigError: the settings of replicas contradict each other, or name no address.
    """
    _check(kernel.store_config)
    _install_master(kernel)
    _install_slave(kernel)
    _install_role(kernel)


def _check(config: MessageStoreConfig) -> None:
    problem = check_replicas(config)
    if problem is not None:
        raise ConfigError(problem)
    if config.ha_master_address:
        try:
            split_address(config.ha_master_address)
        except InvalidInputError as error:
            raise ConfigError(f"haMasterAddress: {error}") from None


def _install_master(kernel: Kernel) -> None:
    """A port for slaves, and puts that wait for them."""
    config, store_config = kernel.config, kernel.store_config
    is_fixed = store_config.ha_listen_port != 0
    # RocketMQ's rule: the port after the broker's own. A broker on any free port has its slaves on any free port.
    port = store_config.ha_listen_port or (config.listen_port + 1 if config.listen_port else 0)
    service = kernel.provide(
        HAService(
            store_config,
            kernel.get(CommitLog),
            kernel.environment.run_blocking,
            config.bind_address,
            port,
            is_port_fixed=is_fixed,
        )
    )
    registration = kernel.get(Registration)
    registration.ha_server_addr = lambda: join_address(config.broker_ip2, service.port)
    trust = kernel.provide(SlaveTrust(config, store_config, registration, kernel.get(RemotingClient)))
    service.is_trusted = trust.is_trusted
    kernel.provide(
        ReplicaWait(
            store_config,
            service,
            kernel.get(AcknowledgementGate),
            kernel.get(Tick),
            is_acting_group=config.enable_slave_acting_master,
        )
    )


def _install_slave(kernel: Kernel) -> None:
    """A link to the master, the check of what arrives, the dispatch of what was kept."""
    store_config, log = kernel.store_config, kernel.get(CommitLog)
    flush, position = kernel.get(FlushService), kernel.get(FlushedPosition)

    def confirmed() -> int:
        # Ours: with synchronous flush a slave confirms what is on its disk. RocketMQ's slave confirms what it appended.
        return log.flushed_offset if flush.is_sync else log.max_offset

    intake = kernel.provide(LogIntake(log, store_config.max_message_size))
    dispatch = kernel.provide(SlaveDispatch(log, kernel.get(ReputMessageService), confirmed))
    client = kernel.provide(HAClient(store_config, intake, confirmed, kernel.environment.run_blocking))

    def appended() -> None:
        if position.min_offset < log.min_offset:
            # An empty slave begins somewhere in its master's log; the next start must not miss what was never here.
            position.min_offset = log.min_offset
            dispatch.begin_at(log.min_offset)
        if flush.is_sync:
            flush.wake()
        else:
            dispatch.wake()

    def flushed(offset: int) -> None:
        if flush.is_sync and store_config.broker_role is BrokerRole.SLAVE:
            dispatch.wake()
            client.report()

    kernel.get(RuntimeInfo).add(lambda: {"dispatchBehindBytes": str(dispatch.lag)})
    intake.on_appended = appended
    flush.listeners.append(flushed)


def _install_role(kernel: Kernel) -> None:
    """A slave takes no messages from clients and follows its master; a master does neither."""
    config, store_config = kernel.config, kernel.store_config
    roles, tick = kernel.get(BrokerRoles), kernel.get(Tick)
    client, service = kernel.get(HAClient), kernel.get(HAService)
    refusal: list[str] = []

    def apply() -> None:
        while refusal:
            tick.accept(refusal.pop())
        if roles.is_slave:
            master = roles.master.address
            refusal.append(f"this broker is a slave of {config.broker_name}; send to {master or 'its master'}")
            tick.refuse(refusal[0])
            service.close_connections("this broker is a slave now")
            # Differs from RocketMQ 5.3, where a configured address has no effect.
            client.follow(store_config.ha_master_address or roles.master.ha_address)
        else:
            client.follow("")

    async def role_changed() -> None:
        apply()

    def master_changed(master: Master) -> None:
        apply()

    roles.on_role.append(role_changed)
    roles.on_master.append(master_changed)
    apply()
