"""Installs what a slave does besides copying the log, and what becomes of a group without its master."""

from __future__ import annotations

from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.broker.consumer_offset import ConsumerOffsetManager
from rocketmq_py.broker.ha.acting_master import ActingMaster
from rocketmq_py.broker.ha.broker_role import BrokerRoles, check_role
from rocketmq_py.broker.ha.escape_bridge import EscapeBridge
from rocketmq_py.broker.ha.fast_port import FastPort
from rocketmq_py.broker.ha.ha_status import HAStatus
from rocketmq_py.broker.ha.master_only import MasterOnly
from rocketmq_py.broker.ha.master_search import MasterSearch
from rocketmq_py.broker.ha.member_group import MemberGroup
from rocketmq_py.broker.ha.metadata_copies import GroupCopy, ProgressCopy, TopicCopy
from rocketmq_py.broker.ha.metadata_watch import MetadataWatch
from rocketmq_py.broker.ha.pre_online import BrokerPreOnlineService, Links
from rocketmq_py.broker.ha.slave_reads import SlaveReads
from rocketmq_py.broker.ha.slave_synchronize import SlaveSynchronize
from rocketmq_py.broker.ha.special_services import SpecialServices
from rocketmq_py.broker.processor.ha_status import HAStatusProcessor
from rocketmq_py.broker.processor.slave_sync import SlaveSyncProcessor
from rocketmq_py.broker.pull_message import PullChecks, PullMessageService
from rocketmq_py.broker.registration import Registration
from rocketmq_py.broker.runtime_info import RuntimeInfo
from rocketmq_py.broker.schedule.delay_offsets import DelayOffsetManager
from rocketmq_py.broker.schedule.schedule_message_service import ScheduleMessageService
from rocketmq_py.broker.subscription_group import SubscriptionGroupManager
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.broker.transaction.check_service import TransactionalMessageCheckService
from rocketmq_py.broker.transaction.load import TransactionLoader
from rocketmq_py.common.errors import ConfigError
from rocketmq_py.common.live_config import LiveConfig
from rocketmq_py.remoting.client import RemotingClient
from rocketmq_py.remoting.headers.ha import ExchangeHAInfoHeader
from rocketmq_py.remoting.processors import Processors
from rocketmq_py.remoting.server import RemotingServer
from rocketmq_py.store.checkpoint import StoreCheckpoint
from rocketmq_py.store.commit_log import CommitLog
from rocketmq_py.store.dispatch import Dispatchers
from rocketmq_py.store.ha.ha_client import HAClient
from rocketmq_py.store.ha.ha_service import HAService
from rocketmq_py.store.message_store import MessageStore
from rocketmq_py.store.timer.timer_message_store import TimerMessageStore

#: Seconds between two looks at how fast the log is copied.
MEASURE_SECONDS = 1.0


def install_slave(kernel: Kernel) -> None:
    """Add everything; a broker alone is a master whose special services run from the start.

    Raises:
        ConfigError: role and id do not fit.
    """
    problem = check_role(kernel.config, kernel.store_config)
    if problem is not None:
        raise ConfigError(problem)
    members = _install_members(kernel)
    _install_copies(kernel)
    _install_reads(kernel, members)
    _install_services(kernel)
    _install_acting(kernel, members)


def _install_members(kernel: Kernel) -> MemberGroup:
    """Who is there, and where the master is."""
    config, registration = kernel.config, kernel.get(Registration)
    members = kernel.provide(MemberGroup(config, kernel.get(RemotingClient), registration))
    kernel.provide(MasterSearch(config, kernel.store_config, kernel.get(BrokerRoles), registration, members))

    async def ask() -> None:
        await members.refresh()

    if _may_be_slave(kernel):
        # Differs from RocketMQ, which asks with `enableSlaveActingMaster` only: a slave should know, whenever it answers
        # a reader, whether there is a master to send it to.
        seconds = config.sync_broker_member_group_period / 1_000
        kernel.periodic.every(seconds, ask, "ask for the member group", delay=0.0)
    return members


def _install_copies(kernel: Kernel) -> None:
    """What a slave copies, and what a master answers it."""
    topics, groups = kernel.get(TopicConfigManager), kernel.get(SubscriptionGroupManager)
    offsets, roles, processors = kernel.get(ConsumerOffsetManager), kernel.get(BrokerRoles), kernel.get(Processors)
    progress = kernel.provide(
        ProgressCopy(
            offsets,
            kernel.get(DelayOffsetManager),
            kernel.get(TimerMessageStore),
            has_timers=kernel.store_config.timer_wheel_enable,
        )
    )
    synchronize = kernel.provide(
        SlaveSynchronize(
            kernel.get(RemotingClient),
            roles,
            TopicCopy(topics, kernel.get(MessageStore)),
            GroupCopy(groups),
            progress.copies(),
            kernel.config.slave_sync_period / 1_000,
        )
    )
    roles.on_role.append(synchronize.role_changed)
    SlaveSyncProcessor(offsets).register(processors)
    service = kernel.get(HAService)
    watch = kernel.provide(
        MetadataWatch(topics, groups, lambda host: any(slave.host == host for slave in service.connections))
    )
    watch.register(processors)
    kernel.get(RemotingServer).on_closed.append(watch.closed)
    MasterOnly(roles).guard(processors)


def _install_reads(kernel: Kernel, members: MemberGroup) -> None:
    """Who serves which read."""
    checks, service = kernel.get(PullChecks), kernel.get(PullMessageService)
    dispatchers = kernel.get(Dispatchers)
    policy = kernel.provide(
        SlaveReads(kernel.config, kernel.store_config, kernel.get(SubscriptionGroupManager), members)
    )
    checks.read_policy = service.read_policy = policy

    def settings_changed(keys: frozenset[str]) -> None:
        if "slaveReadEnable" in keys:
            policy.settings_changed()
            checks.forget()

    async def role_changed() -> None:
        policy.settings_changed()
        checks.forget()
        # Readers that wait here are told where to go now.
        dispatchers.wake_all()

    kernel.get(LiveConfig).listeners.append(settings_changed)
    kernel.get(BrokerRoles).on_role.append(role_changed)


def _install_services(kernel: Kernel) -> None:
    """What only the master runs, or who acts for it; all of it rests until it is told to run."""
    roles, store = kernel.get(BrokerRoles), kernel.get(MessageStore)
    levels, offsets = kernel.get(ScheduleMessageService), kernel.get(DelayOffsetManager)
    timers, checks = kernel.get(TimerMessageStore), kernel.get(TransactionalMessageCheckService)
    loader = kernel.get(TransactionLoader)
    bridge = kernel.provide(
        EscapeBridge(
            kernel.config,
            roles,
            store,
            kernel.get(RemotingClient),
            kernel.get(Registration),
            kernel.environment.random,
        )
    )
    levels.target = timers.delivery.target = bridge
    rests = _may_be_slave(kernel)
    services = kernel.provide(SpecialServices(is_running=not rests))
    if rests:
        levels.begins_at_once = False
        timers.enqueue.should_run = timers.dequeue.should_run = False
        checks.is_paused = True
    was_slave = roles.is_slave

    async def role_changed() -> None:
        nonlocal was_slave
        was_slave = was_slave or roles.is_slave

    async def resume_levels() -> None:
        offsets.drop_unsafe()
        levels.begin()

    async def resume_checks() -> None:
        nonlocal was_slave
        if was_slave:
            # What was decided since this process began is in the queues, not in the table that it made then.
            await loader.load(is_taken_over=True, writes_ops=not roles.is_slave)
        was_slave = roles.is_slave
        checks.forward = bridge.forward_half if roles.is_slave else None
        checks.resume()

    roles.on_role.append(role_changed)
    services.add("the delivery of levels", resume=resume_levels, pause=levels.end)
    services.add("timers", resume=timers.resume, pause=timers.pause)
    services.add("the check of half messages", resume=resume_checks, pause=checks.pause)


def _may_be_slave(kernel: Kernel) -> bool:
    """Tell whether this broker is no master from its start to its end, all alone or with slaves that only copy."""
    config = kernel.config
    return kernel.get(BrokerRoles).is_slave or config.enable_controller_mode or config.enable_slave_acting_master


def _install_acting(kernel: Kernel, members: MemberGroup) -> None:
    """Who runs them, with fixed roles; and what brokers of a group tell each other."""
    config, store_config = kernel.config, kernel.store_config
    roles, log, services = kernel.get(BrokerRoles), kernel.get(CommitLog), kernel.get(SpecialServices)
    registration, ha_service = kernel.get(Registration), kernel.get(HAService)
    acting = kernel.provide(ActingMaster(config, roles, members, services, kernel.get(Dispatchers)))

    # Also while it makes room for a master that comes: that one takes over first.
    kernel.get(SlaveSynchronize).is_held = lambda: not members.has_master and config.enable_slave_acting_master

    def own_info() -> ExchangeHAInfoHeader:
        return ExchangeHAInfoHeader(
            master_ha_address=registration.ha_server_addr(),
            master_flush_offset=log.flushed_offset,
            master_address=config.broker_address,
        )

    def has_slave(host: str) -> bool:
        return any(link.host == host and link.next_offset >= 0 for link in ha_service.connections)

    kernel.provide(
        BrokerPreOnlineService(
            config,
            store_config,
            registration,
            members,
            kernel.get(RemotingClient),
            acting,
            kernel.get(ProgressCopy),
            Links(own_info, has_slave),
        )
    )
    checkpoint = kernel.get(StoreCheckpoint)
    status = kernel.provide(
        HAStatus(
            store_config,
            kernel.environment.clock,
            roles,
            log,
            ha_service,
            kernel.get(HAClient),
            checkpoint,
            services,
        )
    )
    kernel.periodic.every(MEASURE_SECONDS, status.measure, "measure replication")
    kernel.get(RuntimeInfo).add(status.broker_info)
    kernel.provide(FastPort(kernel.get(RemotingServer), ha_service))
    HAStatusProcessor(
        config,
        store_config,
        roles,
        kernel.get(MasterSearch),
        members,
        acting,
        checkpoint,
        own_info,
        status.runtime_info,
    ).register(kernel.get(Processors))
