"""Replication in controller mode: one broker's log, its epochs, and what it is to the others now.

As master it sends the log, knows who is in sync, and says how far the log is confirmed. As slave it cuts what its master
never had, copies the rest, and shows no message that could be taken back. A change of role is one step after the other;
whoever calls sees to it that two changes never overlap, and that nothing is put meanwhile.

Source: `AutoSwitchHAService`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final

from rocketmq_py.common.environment import Environment
from rocketmq_py.common.record import RecordState
from rocketmq_py.store.ack import AcknowledgementGate
from rocketmq_py.store.checkpoint import StoreCheckpoint
from rocketmq_py.store.commit_log import CommitLog
from rocketmq_py.store.config import MessageStoreConfig
from rocketmq_py.store.ha.autoswitch.auto_switch_codec import (
    AutoSwitchLink,
    AutoSwitchMasterCodec,
    AutoSwitchSlaveCodec,
)
from rocketmq_py.store.ha.autoswitch.epoch_file import EpochFile
from rocketmq_py.store.ha.autoswitch.epochs import Epoch, truncation_point
from rocketmq_py.store.ha.autoswitch.frames import FrameError, Handshake, HandshakeReply, TransferHead
from rocketmq_py.store.ha.autoswitch.store_cut import StoreCut
from rocketmq_py.store.ha.autoswitch.sync_state import LEAVE_SECONDS, SyncState
from rocketmq_py.store.ha.ha_client import HAClient, Link
from rocketmq_py.store.ha.ha_connection import HAConnection
from rocketmq_py.store.ha.ha_service import HAService
from rocketmq_py.store.ha.replica_acks import ALL_MEMBERS
from rocketmq_py.store.ha.replica_wait import ReplicaWait, needed_acks
from rocketmq_py.store.ha.slave_dispatch import STEP_BYTES, SlaveDispatch
from rocketmq_py.store.message_store import MessageStore
from rocketmq_py.store.put_result import PutMessageStatus
from rocketmq_py.store.reput import read_columns
from rocketmq_py.store.tick import Tick

logger = logging.getLogger(__name__)

#: Seconds after which slaves that get no bytes are told how far the log is confirmed, so that they show it.
ANNOUNCE_SECONDS: Final = 0.1


class AutoSwitchHAService:
    """Replication of one broker in controller mode.

    Args:
        config: the store's settings.
        environment: blocking calls.
        store: the store.
        checkpoint: keeps the confirm offset.
        epochs: the epochs of the log, not loaded.
        service: the port for slaves.
        client: the link to the master.
        dispatch: dispatches what a slave has copied.
        wait: makes puts wait for members.
        tick: shows what is confirmed.
        gate: releases what is confirmed.
        cut: cuts the store.

    Attributes:
        state: the sync state set, as long as this broker is master.
        is_master: whether it is.
        broker_id: its id at the controller; set before any change of role.
        may_confirm: whether this broker may believe that it is the master still; asked when something is shown.
        on_wanted: called when the sync state set should be another one, so that it is proposed at once.
    """

    def __init__(
        self,
        config: MessageStoreConfig,
        environment: Environment,
        store: MessageStore,
        checkpoint: StoreCheckpoint,
        epochs: EpochFile,
        service: HAService,
        client: HAClient,
        dispatch: SlaveDispatch,
        wait: ReplicaWait,
        tick: Tick,
        gate: AcknowledgementGate,
        cut: StoreCut,
    ) -> None:
        self.config = config
        self.store = store
        self.log: CommitLog = store.commit_log
        self.epochs = epochs
        self.is_master = False
        self.broker_id = -1
        self.state = self._new_state()
        self.may_confirm: Callable[[], bool] = lambda: True
        self.on_wanted: Callable[[], None] = lambda: None
        self._environment = environment
        self._checkpoint = checkpoint
        self._service = service
        self._client = client
        self._dispatch = dispatch
        self._wait = wait
        self._tick = tick
        self._gate = gate
        self._cut = cut
        # Held by whoever cuts the log or changes the role: a link may be lost while its cut is under way.
        self._changing = asyncio.Lock()
        # As a slave: what the master said is confirmed.
        self._master_confirmed = 0
        self._connections: dict[int, HAConnection] = {}
        # Where the log ended when this broker became master.
        self._resumed_end = 0
        self._vouchers_since = float("-inf")
        self._announcing: asyncio.TimerHandle | None = None
        self._copied = dispatch.visible
        service.make_codec = lambda connection: AutoSwitchMasterCodec(self, connection)
        service.start_offset = self._start_offset
        service.on_change.insert(0, self._changed)
        client.make_codec = lambda: AutoSwitchSlaveCodec(self)
        client.make_link = lambda client: AutoSwitchLink(client, self)
        dispatch.visible = self._visible
        wait.in_sync = lambda: self.state.in_sync_replicas_nums
        wait.needed = self._needed
        wait.least = lambda: config.min_in_sync_replicas
        tick.confirm_offset = self._confirmed

    def _new_state(self) -> SyncState:
        return SyncState(
            self.broker_id,
            needs_all_acks=self.config.all_ack_in_sync_state_set,
            max_not_caught_up=self.config.ha_max_time_slave_not_catchup / 1000,
        )

    async def start(self) -> None:
        """Read the epochs.

        Raises:
            CorruptDataError: they cannot be read.
        """
        await self._environment.run_blocking(self.epochs.load, self.log.max_offset)
        self._master_confirmed = min(self._checkpoint.confirm_physical_offset, self.log.max_offset)

    async def stop_serving(self) -> None:
        """Announce nothing any more."""
        if self._announcing is not None:
            self._announcing.cancel()
            self._announcing = None

    @property
    def is_linked(self) -> bool:
        """Whether there is a link to a master."""
        return self._client.link is not None

    # --- how far ------------------------------------------------------------------------------------------------------

    @property
    def confirm_offset(self) -> int:
        """Everything before it is with every member of the sync state set, as far as this broker knows."""
        return self._confirmed() if self.is_master else min(self._master_confirmed, self.log.max_offset)

    def _confirmed(self) -> int:
        if self.is_master and self.may_confirm():
            return self.state.confirm(self.log.max_offset)
        return self.state.confirm_offset

    def _needed(self, in_sync: int) -> int:
        """Return how many replicas must have a message: all that count, or as many as the settings say."""
        if not self.is_master or not self.config.all_ack_in_sync_state_set:
            return needed_acks(self.config, in_sync)
        return ALL_MEMBERS if self.state.is_anybody_needed else 1

    def _visible(self) -> int:
        """Return how far a slave dispatches."""
        return min(self._copied(), self._master_confirmed)

    @property
    def data_epoch(self) -> int:
        """The epoch of the newest byte of the log; 0 without one."""
        epoch = self.epochs.find(self.log.max_offset - 1)
        return epoch.number if epoch is not None else 0

    # --- changes of role ----------------------------------------------------------------------------------------------

    async def change_to_master(self, epoch: int, members: Iterable[int], members_epoch: int) -> None:
        """Become master of an epoch: dispatch everything that is here, and begin the epoch where the log ends.

        The link to the former master is closed already, and nothing is put before this returns.
        """
        async with self._changing:
            await self._change_to_master(epoch, members, members_epoch)

    async def _change_to_master(self, epoch: int, members: Iterable[int], members_epoch: int) -> None:
        self._service.close_connections("this broker begins a new epoch")
        self._connections.clear()
        members = frozenset(members) | {self.broker_id}
        # Elected, it decides alone what the log is. Else this process was master before and ended: what others have
        # not confirmed may still be taken back.
        is_elected = members == {self.broker_id}
        await self._dispatch_all(self.log.max_offset if is_elected else self._master_confirmed)
        self._count_on()
        end = self.log.max_offset
        if self.epochs.last_number != epoch:
            await self._environment.run_blocking(self.epochs.append, Epoch(epoch, end), self.log.min_offset)
        self.state = self._new_state()
        confirmed = end if is_elected else min(self._checkpoint.confirm_physical_offset, end)
        self.state.begin(
            members,
            members_epoch,
            epoch_start=end,
            confirm_offset=confirmed,
            now=asyncio.get_running_loop().time(),
        )
        self.is_master, self._resumed_end = True, end
        self._gate.truncated(end)
        self.members_changed()
        logger.info("master of epoch %d from %d on, %r", epoch, end, self.state)

    async def _dispatch_all(self, limit: int) -> None:
        """Dispatch up to an offset; then cut what is no whole record at the end (of a file that was being copied)."""
        self._master_confirmed = limit
        reput = self.store.reput
        while (before := reput.reput_from_offset) < limit:
            reput.catch_up(min(before + STEP_BYTES, limit))
            if reput.reput_from_offset == before and reput.catch_up(limit) == before:
                break
            await asyncio.sleep(0)
        end = reput.reput_from_offset
        for offset, check in self.log.scan(end):
            if check.state is RecordState.INVALID or offset + check.size > self.log.max_offset:
                break
            end = offset + check.size
        if end < self.log.max_offset:
            await self._cut.cut(end, "no whole record is there")

    def _count_on(self) -> None:
        """Let queue offsets go on from what the log has, shown or not: two records with one number would hide a message
        (issue 7689)."""
        slots = self.store.slots
        for slot in slots:
            slot.next_offset = self.store.max_offset(slot.topic, slot.queue_id)
        for queue in self.store.queues:
            slots.set_next_offset(queue.topic, queue.queue_id, queue.max_offset)
        for columns, _ in read_columns(self.log, self.store.reput.reput_from_offset, self.log.max_offset):
            for queue_slot, offset, units in zip(columns.slots, columns.queue_offsets, columns.units, strict=True):
                if units:
                    slots.set_next_offset(queue_slot.topic, queue_slot.queue_id, offset + units)

    def _show(self) -> None:
        """Make visible what is confirmed: first what was in the log when this broker became master, if it did not know."""
        reput, limit = self.store.reput, min(self._confirmed(), self._resumed_end)
        if self.is_master and reput.reput_from_offset < limit:
            reput.catch_up(limit)
        self._tick.reveal()

    async def change_to_slave(self) -> None:
        """Be master no longer: who waits is told that it is not known, who copies is sent away."""
        async with self._changing:
            self._change_to_slave()

    def _change_to_slave(self) -> None:
        was_master, self.is_master = self.is_master, False
        self._gate.give_up(PutMessageStatus.FLUSH_SLAVE_TIMEOUT)
        self._service.close_connections("this broker is no master any more")
        self._connections.clear()
        # What waits to be shown is found in the log again, if the new master has it.
        self._tick.truncated(self.log.max_offset)
        if was_master:
            self._master_confirmed = self.state.confirm_offset

    # --- as master ----------------------------------------------------------------------------------------------------

    def shaken(self, connection: HAConnection, handshake: Handshake) -> None:
        """A slave has said who it is.

        Raises:
            FrameError: this broker is no master, or the other one says that it is this one.
        """
        if not self.is_master:
            raise FrameError("this broker is no master")
        if handshake.broker_id == self.broker_id:
            raise FrameError(f"it says that it is broker {handshake.broker_id}, which is this one")
        older = self._connections.get(handshake.broker_id)
        if older is not None and older is not connection:
            older.close(f"broker {handshake.broker_id} has connected again")
        self._connections[handshake.broker_id] = connection
        self.state.connected(
            handshake.broker_id, asyncio.get_running_loop().time(), is_learner=handshake.is_async_learner
        )

    def acked(self, broker_id: int, offset: int) -> None:
        """A slave reports how far it is.

        Raises:
            FrameError: that cannot be true.
        """
        now = asyncio.get_running_loop().time()
        try:
            self.state.acked(broker_id, offset, self.log.max_offset, now)
        except ValueError as error:
            raise FrameError(str(error)) from None
        if self.state.joins_now(broker_id):
            self.on_wanted()

    def sent(self, broker_id: int) -> None:
        """Bytes of the log are sent to a slave."""
        self.state.sent(broker_id, self.log.max_offset, asyncio.get_running_loop().time())

    def _start_offset(self, connection: HAConnection, reported: int) -> int:
        """Return where a slave begins: an empty one at the first file, unless it wants the last."""
        if reported:
            return reported
        codec = connection.codec
        if isinstance(codec, AutoSwitchMasterCodec) and codec.is_sync_from_last_file:
            return self.log.max_offset - self.log.max_offset % self.log.file_size
        return self.log.min_offset

    def _changed(self) -> None:
        """A slave came, went or reported: see what is confirmed now. The gate is told next."""
        if not self.is_master:
            return
        now = asyncio.get_running_loop().time()
        for broker_id, connection in list(self._connections.items()):
            if connection not in self._service.connections:
                del self._connections[broker_id]
                self.state.disconnected(broker_id, now)
                # Sends wait for it until it is back or out of the set: no longer than that.
                asyncio.get_running_loop().call_later(LEAVE_SECONDS, self._leave)
        self._count()
        before = self.state.confirm_offset
        if self._confirmed() > before:
            # Answers first: the gate is told in this turn, by the next listener.
            asyncio.get_running_loop().call_soon(self._show)
            if self._announcing is None:
                self._announcing = asyncio.get_running_loop().call_later(ANNOUNCE_SECONDS, self._announce)

    def _leave(self) -> None:
        if self.is_master:
            self.on_wanted()

    def _announce(self) -> None:
        """Tell slaves that have everything how far it is confirmed."""
        self._announcing = None
        self._checkpoint.confirm_physical_offset = self.state.confirm_offset
        if self.is_master:
            for connection in self._connections.values():
                if connection.next_offset >= self.log.max_offset:
                    connection.heartbeat()

    def _count(self) -> None:
        """Tell who must have a message. A member without a connection has nothing, as far as is known."""
        others = sorted(self.state.counted - {self.broker_id})
        self._service.acks.members = [self._connections.get(number, number) for number in others]

    def members_changed(self) -> None:
        """The sync state set, or what was proposed, is another one now."""
        self._count()
        self._confirmed()
        self._wait.update()
        self._show()

    def is_vouched_for(self) -> bool:
        """Tell whether every member that counts was heard of lately: none of them is master then, or was told of one.

        It says nothing unless all of them must confirm each message.
        """
        others = self.state.counted - {self.broker_id}
        if not self.is_master or not self.config.all_ack_in_sync_state_set or len(self.state.members) < 2:
            return False
        oldest = asyncio.get_running_loop().time() - 2 * self.config.ha_send_heartbeat_interval / 1000
        return all(
            number in self._connections and self._connections[number].last_read >= max(oldest, self._vouchers_since)
            for number in others
        )

    def forget_vouchers(self) -> None:
        """Believe no member before it is heard of again: what it said may have waited in a socket for long."""
        self._vouchers_since = asyncio.get_running_loop().time()

    # --- as slave -----------------------------------------------------------------------------------------------------

    async def align(self, reply: HandshakeReply, link: Link) -> None:
        """Cut what the master does not have, and take over its epochs; on disk before anything new arrives.

        Raises:
            NoCommonEpochError: the logs have nothing in common.
            FrameError: this broker has become something else meanwhile, or follows another master.
        """
        async with self._changing:
            if self.is_master or self._client.link is not link:
                raise FrameError("the link is of no use any more")
            await self._align(reply)

    async def _align(self, reply: HandshakeReply) -> None:
        log = self.log
        begin = log.min_offset if log.files.mapped_files else log.max_offset
        point = truncation_point(self.epochs.epochs, begin, log.max_offset, reply.epochs, reply.max_offset)
        if point < log.max_offset:
            await self._cut.cut(point, f"the master of epoch {reply.last_epoch} does not have it")
            self._master_confirmed = min(self._master_confirmed, point)
        await self._environment.run_blocking(self.epochs.truncate, point)
        await self._environment.run_blocking(self.epochs.adopt, reply.epochs)

    def heard(self, head: TransferHead) -> None:
        """A frame of the master says which epoch its bytes are of, and how far the log is confirmed."""
        last = self.epochs.last
        if head.epoch.number > (last.number if last is not None else -1) and head.body_size:
            # The same master in a later epoch (Apache's goes on over the same link). On disk before its bytes are, and
            # once in an election, so the loop waits for it.
            self.epochs.append(head.epoch)
        if head.confirm_offset > self._master_confirmed:
            self._master_confirmed = head.confirm_offset
            self._checkpoint.confirm_physical_offset = min(head.confirm_offset, self.log.max_offset)
            self._dispatch.wake()

    def __repr__(self) -> str:
        role = repr(self.state) if self.is_master else f"slave, confirmed {self._master_confirmed}"
        return f"<AutoSwitchHAService broker {self.broker_id} {self.epochs!r} {role}>"
