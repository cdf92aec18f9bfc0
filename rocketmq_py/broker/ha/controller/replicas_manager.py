"""What this broker is, in controller mode: asks, is told, and becomes it, one change after the other.

    has no id -> applies for one -> registers -> master | slave | there is no master: asks for an election
                                                   ^________|___________|
                                              a notice (1008), or what the poll every 5 s finds

Fenced, that is without taking messages, from the start until it knows what it is, during every change, and as a master
whenever its lease is over (`lease.py`) and its members do not vouch for it. With `allAckInSyncStateSet` a member that
answers is as good as a lease: whoever could be elected is one of them, follows nobody from that moment on, and keeps what
it has confirmed before. So a group goes on while its controllers are gone, and a master that is cut off goes silent. A
process that was paused believes neither its lease nor its members before it has heard of the controller again.

    to master   stop following, dispatch all, begin the epoch; id 0, SYNC_MASTER, special services, name servers; unfence
    to slave    fence, release who waits as "in doubt", close links; own id, SLAVE, name servers; follow

Source: `ReplicasManager`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import functools
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.ha.broker_role import NO_MASTER, BrokerRoles, Master
from rocketmq_py.broker.ha.controller.broker_identity import AppliedId, BrokerIdentityFiles
from rocketmq_py.broker.ha.controller.controller_client import (
    ControllerClient,
    ControllerRefusedError,
    ControllerUnknownError,
    ReplicaInfo,
)
from rocketmq_py.broker.read_policy import MASTER_ID
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.errors import RocketMQError
from rocketmq_py.remoting.codes import ResponseCode
from rocketmq_py.remoting.headers.controller import BrokerHeartbeatToControllerRequestHeader
from rocketmq_py.store.config import BrokerRole
from rocketmq_py.store.ha.autoswitch.auto_switch_ha_service import AutoSwitchHAService
from rocketmq_py.store.ha.autoswitch.lease import MasterLease
from rocketmq_py.store.tick import Tick

logger = logging.getLogger(__name__)

#: Seconds until the controllers are asked again after they did not answer.
RETRY_SECONDS: Final = 1.0
#: Seconds until a master is asked again where its log comes from: elected a moment ago, it may not be master yet. Each
#: further question waits twice as long, up to `RETRY_SECONDS`.
FOLLOW_SECONDS: Final = 0.05
#: A heartbeat that is so many periods late says that this process was paused.
PAUSED_BEATS: Final = 3
#: Seconds between two looks at who should be in the sync state set.
CHECK_SECONDS: Final = 1.0

UNKNOWN_ROLE: Final = "its role is not known yet: the controllers have not said who is master"
NO_LEASE: Final = "no controller has confirmed lately that this broker is still the master"
CHANGING: Final = "its role is changing"

Step = Callable[[], Awaitable[None]]


class Standing(enum.Enum):
    """What this broker is."""

    UNKNOWN = "unknown"
    MASTER = "master"
    SLAVE = "slave"


class ReplicasManager:
    """Owns the role of one broker in controller mode.

    Args:
        config: periods, names.
        environment: clock and blocking calls.
        roles: what the rest of the broker looks at.
        controllers: who decides.
        identity: the id's files.
        replication: the log and its copies.
        tick: is fenced.

    Attributes:
        standing: what this broker is.
        info: what the controller said last and this broker has become.
        broker_id: its own id; -1 before it has one.
        lease: how long it may believe to be master.
        before_slave: what to do before this broker becomes a slave: special services rest.
        after_change: what to do after each change, such as to tell the name servers.
        find_ha_address: asks a master where its log comes from; empty if it does not say.
    """

    def __init__(
        self,
        config: BrokerConfig,
        environment: Environment,
        roles: BrokerRoles,
        controllers: ControllerClient,
        identity: BrokerIdentityFiles,
        replication: AutoSwitchHAService,
        tick: Tick,
    ) -> None:
        self.standing = Standing.UNKNOWN
        self.info: ReplicaInfo | None = None
        self.broker_id = -1
        self.lease = MasterLease(config.controller_heart_beat_timeout_mills / 1000)
        self.before_slave: list[Step] = []
        self.after_change: list[Callable[[int], Awaitable[None]]] = []
        self.find_ha_address: Callable[[str], Awaitable[str]] = _not_known
        self._config = config
        self._environment = environment
        self._roles = roles
        self._controllers = controllers
        self._identity = identity
        self._replication = replication
        self._tick = tick
        self._is_registered = False
        self._wanted = asyncio.Event()
        self._set_wanted = asyncio.Event()
        self._is_notified = False
        self._beat_now = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._beating: dict[str, asyncio.Task[None]] = {}
        # When the last heartbeat was sent that the controllers' leader has answered.
        self._heard_at = float("-inf")
        self._last_beat = float("-inf")
        self._follow_pause = FOLLOW_SECONDS
        # A later election is known of; nothing restores trust but becoming something else.
        self._is_deposed = False
        self._lease_end: asyncio.TimerHandle | None = None
        replication.may_confirm = self.may_acknowledge
        replication.on_wanted = self._set_wanted.set
        tick.refuse(UNKNOWN_ROLE)

    # --- life ---------------------------------------------------------------------------------------------------------

    async def serve(self) -> None:
        """Begin to ask; returns at once. The broker takes no messages until it was told what it is."""
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._run(), name="ReplicasManager"),
            loop.create_task(self._beat(), name="heartbeats to controllers"),
            loop.create_task(self._keep_set(), name="sync state set"),
        ]

    async def stop_serving(self) -> None:
        """Ask nothing more. A role is not given back: the controller finds out that this broker is gone."""
        tasks, self._tasks = [*self._tasks, *self._beating.values()], []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._lease_end is not None:
            self._lease_end.cancel()

    def notified(self, epoch: int) -> None:
        """Somebody says that there was an election (1008): ask the controllers, and who leads them, too.

        Differs from RocketMQ, where the notice itself changes the role, whoever sent it.
        """
        if epoch > self._epoch:
            self._is_notified = True
            self._wanted.set()

    @property
    def _epoch(self) -> int:
        return self.info.master_epoch if self.info is not None else -1

    # --- the lease ----------------------------------------------------------------------------------------------------

    def has_lease(self) -> bool:
        """Tell whether the controller has confirmed lately that this broker is the master."""
        return self.standing is Standing.MASTER and self.lease.is_valid(asyncio.get_running_loop().time())

    def may_acknowledge(self) -> bool:
        """Tell whether this broker may say, at this moment, that a message is kept."""
        if self.standing is not Standing.MASTER or self._is_deposed:
            return False
        now = asyncio.get_running_loop().time()
        if self.lease.is_valid(now):
            return True
        was_paused = now - self._last_beat > PAUSED_BEATS * self._config.broker_heartbeat_interval / 1000
        return not was_paused and self._replication.is_vouched_for()

    def _distrust(self, epoch: int) -> None:
        """Somebody knows of a later election than the one that made this broker master."""
        if self.standing is Standing.MASTER and epoch > self._epoch:
            self._is_deposed = True
            self.lease.revoke()
            self._review()

    def _review(self) -> None:
        """Take messages, or not, as the lease and the members say."""
        if self.standing is not Standing.MASTER:
            return
        if self.may_acknowledge():
            if NO_LEASE in self._tick.refusals:
                self._tick.accept(NO_LEASE)
                # What the members confirmed meanwhile may be shown now.
                self._replication.members_changed()
        elif NO_LEASE not in self._tick.refusals:
            logger.warning("%s: it takes no messages and acknowledges none", NO_LEASE)
            self._tick.refuse(NO_LEASE)
            self._wanted.set()

    def _lease_renewed(self) -> None:
        if self._lease_end is not None:
            self._lease_end.cancel()
        self._lease_end = asyncio.get_running_loop().call_at(self.lease.valid_until, self._review)
        self._review()

    async def _beat(self) -> None:
        """Give every controller a sign of life, every second; one that does not answer holds up no other."""
        loop = asyncio.get_running_loop()
        interval = self._config.broker_heartbeat_interval / 1000
        while True:
            now = loop.time()
            if now - self._last_beat > PAUSED_BEATS * interval:
                # Paused, or this is the first. What was heard meanwhile may be old.
                self._replication.forget_vouchers()
            self._last_beat = now
            self._review()
            if self.broker_id >= 0:
                for address in self._controllers.addresses:
                    if address not in self._beating:
                        task = loop.create_task(self._beat_once(address), name=f"heartbeat to {address}")
                        self._beating[address] = task
                        task.add_done_callback(functools.partial(self._beaten, address))
            self._beat_now.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval):
                    await self._beat_now.wait()

    def _beaten(self, address: str, task: asyncio.Task[None]) -> None:
        self._beating.pop(address, None)

    async def _beat_once(self, address: str) -> None:
        config, replication = self._config, self._replication
        sent_at = asyncio.get_running_loop().time()
        header = BrokerHeartbeatToControllerRequestHeader(
            cluster_name=config.broker_cluster_name,
            broker_addr=config.broker_address,
            broker_name=config.broker_name,
            broker_id=self.broker_id,
            epoch=replication.data_epoch,
            max_offset=replication.log.max_offset,
            confirm_offset=replication.confirm_offset,
            heartbeat_timeout_mills=config.controller_heart_beat_timeout_mills,
            election_priority=config.broker_election_priority,
        )
        answer = await self._controllers.heartbeat(address, header, max(config.broker_heartbeat_interval / 1000, 1.0))
        if answer is None or not answer.is_leader:
            return
        self._controllers.leader = address
        self._heard_at = max(self._heard_at, sent_at)
        if answer.master_epoch is not None and answer.master_epoch > self._epoch:
            self._distrust(answer.master_epoch)
            self._wanted.set()
        elif self.standing is Standing.MASTER:
            self.lease.renew(sent_at)
            self._lease_renewed()

    # --- what this broker is ------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        """The only task that changes the role."""
        while True:
            self._wanted.clear()
            seconds = self._config.sync_broker_metadata_period / 1000
            try:
                if self._is_notified:
                    self._is_notified = False
                    await self._controllers.find_leader()
                if not self._is_registered:
                    await self._register()
                else:
                    await self._apply(await self._controllers.replica_info())
            except (ControllerUnknownError, ControllerRefusedError) as error:
                seconds = RETRY_SECONDS
                logger.warning("%s", error)
            except (RocketMQError, OSError):
                seconds = RETRY_SECONDS
                logger.exception("this broker could not become what the controller says; it is tried again")
            if self.standing is Standing.UNKNOWN:
                seconds = min(seconds, RETRY_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._wanted.wait()

    async def _register(self) -> None:
        """Get an id if there is none, and learn what this broker is."""
        if self.broker_id < 0:
            # Nobody looks at the id of a broker that is fenced and not registered anywhere.
            self.broker_id = self._replication.broker_id = self._config.broker_id = await self._find_id()
            # Who was never heard of is elected by nobody, and let into no set.
            self._beat_now.set()
        info = await self._controllers.register(self.broker_id)
        self._is_registered = True
        await self._apply(info)

    async def _find_id(self) -> int:
        run_blocking, identity = self._environment.run_blocking, self._identity
        known = await run_blocking(identity.load)
        if known is not None:
            return known
        applied = await run_blocking(identity.load_applied)
        if applied is None:
            code = f"{self._config.broker_address};{self._environment.clock.wall_ms()}"
            applied = AppliedId(await self._controllers.next_broker_id(), code)
            await run_blocking(identity.write_applied, applied)
        try:
            await self._controllers.apply_broker_id(applied.broker_id, applied.check_code)
        except ControllerRefusedError as error:
            if error.code == ResponseCode.CONTROLLER_BROKER_ID_INVALID:
                # Another broker was faster: the next id, with the same code.
                again = AppliedId(await self._controllers.next_broker_id(), applied.check_code)
                await run_blocking(identity.write_applied, again)
            raise
        await run_blocking(identity.write, applied.broker_id)
        logger.info("this broker is replica %d of %s", applied.broker_id, self._config.broker_name)
        return applied.broker_id

    async def _apply(self, info: ReplicaInfo) -> None:
        """Become what the controller says."""
        if info.master_epoch < self._epoch:
            return
        if info.master_id is None:
            if self.standing is Standing.MASTER:
                await self._to_unknown(info)
            await self._controllers.elect(self.broker_id)
            # Who has won is asked at once.
            self._wanted.set()
        elif info.master_id != self.broker_id:
            await self._to_slave(info)
        elif self.standing is not Standing.MASTER or info.master_epoch > self._epoch:
            await self._to_master(info)
        else:
            self.info = info

    async def _to_master(self, info: ReplicaInfo) -> None:
        logger.info("elected master of %s in epoch %d", self._config.broker_name, info.master_epoch)
        self._tick.refuse(CHANGING)
        self._roles.set_master(NO_MASTER)
        await self._replication.change_to_master(info.master_epoch, info.members, info.members_epoch)
        self.standing, self.info, self._is_deposed = Standing.MASTER, info, False
        # Nobody else is elected before the controller has missed this broker for as long as a lease is.
        self.lease.renew(self._heard_at)
        await self._roles.change(BrokerRole.SYNC_MASTER, MASTER_ID)
        await self._changed(info)
        self._replication.members_changed()
        self._lease_renewed()
        self._tick.accept(UNKNOWN_ROLE)
        self._tick.accept(CHANGING)
        if not self.has_lease():
            self._beat_now.set()

    async def _to_slave(self, info: ReplicaInfo) -> None:
        is_new = self.standing is not Standing.SLAVE or info.master_epoch > self._epoch
        if is_new:
            logger.info(
                "slave of %s at %s in epoch %d", info.master_id, info.master_address or "nowhere", info.master_epoch
            )
            self._follow_pause = FOLLOW_SECONDS
            self._tick.refuse(CHANGING)
            await self._resign(Standing.SLAVE, info)
            self._tick.accept(UNKNOWN_ROLE)
            self._tick.accept(CHANGING)
        self.info = info
        await self._follow(info)

    async def _follow(self, info: ReplicaInfo) -> None:
        """Learn from the master where its log comes from; it may not listen yet."""
        known = self._roles.master
        if known.address == info.master_address and known.ha_address and self._is_linked():
            return
        ha_address = await self.find_ha_address(info.master_address)
        if ha_address:
            self._roles.set_master(Master(info.master_address, ha_address))
        else:
            self._roles.set_master(Master(info.master_address, known.ha_address))
            asyncio.get_running_loop().call_later(self._follow_pause, self._wanted.set)
            self._follow_pause = min(2 * self._follow_pause, RETRY_SECONDS)

    def _is_linked(self) -> bool:
        return self._replication.is_linked

    async def _to_unknown(self, info: ReplicaInfo) -> None:
        """The controller knows no master, so this broker is none."""
        logger.warning("%s has no master, says the controller", self._config.broker_name)
        self._tick.refuse(UNKNOWN_ROLE)
        await self._resign(Standing.UNKNOWN, info)

    async def _resign(self, standing: Standing, info: ReplicaInfo) -> None:
        """Be no master; the rest of the broker sees a slave."""
        self.standing, self.info = standing, info
        self.lease.revoke()
        for step in self.before_slave:
            await step()
        self._roles.set_master(NO_MASTER)
        await self._replication.change_to_slave()
        await self._roles.change(BrokerRole.SLAVE, self.broker_id)
        await self._changed(info)
        self._tick.accept(NO_LEASE)

    async def _changed(self, info: ReplicaInfo) -> None:
        for step in self.after_change:
            await step(info.master_epoch)

    # --- the sync state set -------------------------------------------------------------------------------------------

    async def _keep_set(self) -> None:
        """As master: propose another set when that is due, one at a time."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CHECK_SECONDS):
                    await self._set_wanted.wait()
            self._set_wanted.clear()
            try:
                if self.standing is Standing.MASTER:
                    await self._check_set()
            except (ControllerUnknownError, RocketMQError) as error:
                logger.warning("the sync state set could not be changed: %s", error)

    async def _check_set(self) -> None:
        replication, state, info = self._replication, self._replication.state, self.info
        assert info is not None
        if state.proposed is None:
            wanted = state.wanted(asyncio.get_running_loop().time())
            if wanted is None or not self.may_acknowledge():
                return
            # From here on both sets count, until the controller has said which one is valid.
            state.propose(wanted)
            replication.members_changed()
            try:
                valid = await self._controllers.alter_sync_state_set(
                    self.broker_id, info.master_epoch, wanted, state.epoch
                )
            except ControllerRefusedError as error:
                logger.warning("sync state set %s: %s", sorted(wanted), error)
                if error.code in (ResponseCode.CONTROLLER_FENCED_MASTER_EPOCH, ResponseCode.CONTROLLER_INVALID_MASTER):
                    self._wanted.set()
            else:
                self._set_settled(info, frozenset(valid.sync_state_set), valid.sync_state_set_epoch)
                return
        # The answer was lost, or no: only the controller knows. It is not asked again at once.
        await asyncio.sleep(CHECK_SECONDS)
        known = await self._controllers.replica_info()
        if known.master_epoch == info.master_epoch and known.master_id == self.broker_id:
            self._set_settled(info, known.members, known.members_epoch)
        else:
            self._distrust(known.master_epoch)
            self._wanted.set()

    def _set_settled(self, info: ReplicaInfo, members: frozenset[int], epoch: int) -> None:
        if self.info is not None and self.info.master_epoch == info.master_epoch and self._replication.is_master:
            self._replication.state.settled(members, epoch)
            self._replication.members_changed()
            logger.info("sync state set %s, change %d", sorted(members), epoch)

    def __repr__(self) -> str:
        return f"<ReplicasManager broker {self.broker_id} {self.standing.value} epoch {self._epoch} {self.lease!r}>"


async def _not_known(address: str) -> str:
    return ""
