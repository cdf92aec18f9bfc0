"""What a controller remembers: for every broker group its replicas, its master, and who has everything.

This is the state that all controllers of a group hold alike. It changes only by events, applied in the same order
everywhere, and an event says all that it needs: no clock, no randomness, no heartbeat is looked at here.

Three numbers only grow, for as long as a group exists and when it is made again after it was cleaned away:

    master epoch           counts masters and times without one; whoever speaks with an old one is refused
    sync state set epoch   counts changes of the set; a master that missed one is refused
    next broker id         is given to the next replica

Source: `BrokerReplicaInfo`, `SyncStateInfo`, `ReplicasInfoManager#applyEvent`, RocketMQ 5.3.
"""

from __future__ import annotations

from typing import Final

import msgspec

#: The first replica of a group gets this id.
FIRST_BROKER_ID: Final = 1


class Replica(msgspec.Struct):
    """One broker of a group.

    Attributes:
        address: where clients and controllers reach it.
        check_code: what it showed when it took its id.
    """

    address: str
    check_code: str


class BrokerGroup(msgspec.Struct):
    """All replicas with one broker name.

    Attributes:
        master: its id, or None; a master is always in the sync state set.
        sync_state_set: ids of the replicas that have every acknowledged message, sorted.
    """

    cluster_name: str
    broker_name: str
    replicas: dict[int, Replica] = {}
    next_broker_id: int = FIRST_BROKER_ID
    master: int | None = None
    master_epoch: int = 0
    sync_state_set: list[int] = []
    sync_state_set_epoch: int = 0

    @property
    def never_had_data(self) -> bool:
        """Whether no replica is known to have anything, so that any may begin as the master."""
        return not self.sync_state_set

    @property
    def master_address(self) -> str | None:
        """The master's address, if there is a master."""
        return self.address_of(self.master)

    def address_of(self, broker_id: int | None) -> str | None:
        """Return the address of a replica; None if there is no such one."""
        replica = self.replicas.get(broker_id) if broker_id is not None else None
        return replica.address if replica is not None else None

    def __repr__(self) -> str:
        return (
            f"<BrokerGroup {self.broker_name} replicas {sorted(self.replicas)} master {self.master} "
            f"epoch {self.master_epoch} in sync {self.sync_state_set} epoch {self.sync_state_set_epoch}>"
        )


class BrokerIdApplied(msgspec.Struct, frozen=True, tag="ApplyBrokerId"):
    """A replica has taken an id; the first one makes the group."""

    cluster_name: str
    broker_name: str
    broker_id: int
    address: str
    check_code: str


class BrokerAddressUpdated(msgspec.Struct, frozen=True, tag="UpdateBrokerAddress"):
    """A replica is to be found somewhere else now."""

    broker_name: str
    broker_id: int
    address: str


class MasterElected(msgspec.Struct, frozen=True, tag="ElectMaster"):
    """There is another master, or none any more.

    Attributes:
        new_master: None if nobody may be it; the sync state set stays then.
        master_epoch: the epoch that begins with this event.
    """

    broker_name: str
    new_master: int | None
    master_epoch: int


class SyncStateSetAltered(msgspec.Struct, frozen=True, tag="AlterSyncStateSet"):
    """Other replicas are in sync now.

    Attributes:
        master_epoch: of the master that said so.
        sync_state_set_epoch: the epoch that begins with this event.
    """

    broker_name: str
    sync_state_set: tuple[int, ...]
    master_epoch: int
    sync_state_set_epoch: int


class BrokerDataCleaned(msgspec.Struct, frozen=True, tag="CleanBrokerData"):
    """An operator has taken replicas away, or the whole group if no ids are given."""

    broker_name: str
    broker_ids: tuple[int, ...] = ()


Event = BrokerIdApplied | BrokerAddressUpdated | MasterElected | SyncStateSetAltered | BrokerDataCleaned


class _Kept(msgspec.Struct):
    groups: dict[str, BrokerGroup] = {}
    retired: dict[str, tuple[int, int]] = {}


class BrokerGroups:
    """The groups of all brokers, and the events that change them.

    Attributes:
        groups: by broker name.
    """

    def __init__(self) -> None:
        self.groups: dict[str, BrokerGroup] = {}
        # Epochs of groups that were cleaned away. Differs from RocketMQ, where such a group begins at 0 again: its
        # brokers still have the old epochs in their files and refuse a smaller one.
        self._retired: dict[str, tuple[int, int]] = {}

    def find(self, broker_name: str) -> BrokerGroup | None:
        """Return a group; None if no replica of it has an id."""
        return self.groups.get(broker_name)

    # --- events ------------------------------------------------------------------------------------------------------

    def apply(self, event: Event) -> bool:
        """Change the state by one event; False if the event no longer fits the state, which it then leaves alone.

        An event is decided by one leader at a time, and fits. One that a leader proposed before it lost its office
        may come after the decisions of the next leader: its epoch gives it away.
        """
        if isinstance(event, BrokerIdApplied):
            return self._apply_broker_id(event)
        group = self.groups.get(event.broker_name)
        if group is None:
            return False
        if isinstance(event, BrokerAddressUpdated):
            return self._update_address(group, event)
        if isinstance(event, MasterElected):
            return self._elect_master(group, event)
        if isinstance(event, SyncStateSetAltered):
            return self._alter_sync_state_set(group, event)
        return self._clean(group, event)

    def _apply_broker_id(self, event: BrokerIdApplied) -> bool:
        group = self.groups.get(event.broker_name)
        if group is None:
            master_epoch, set_epoch = self._retired.pop(event.broker_name, (0, 0))
            group = BrokerGroup(
                event.cluster_name, event.broker_name, master_epoch=master_epoch, sync_state_set_epoch=set_epoch
            )
            self.groups[event.broker_name] = group
        known = group.replicas.get(event.broker_id)
        if known is not None:
            return known.check_code == event.check_code
        group.replicas[event.broker_id] = Replica(event.address, event.check_code)
        # Differs from RocketMQ, which counts replicas: an id applied for out of turn would be offered once more later.
        group.next_broker_id = max(group.next_broker_id, event.broker_id + 1)
        return True

    @staticmethod
    def _update_address(group: BrokerGroup, event: BrokerAddressUpdated) -> bool:
        replica = group.replicas.get(event.broker_id)
        if replica is None:
            return False
        replica.address = event.address
        return True

    @staticmethod
    def _elect_master(group: BrokerGroup, event: MasterElected) -> bool:
        if event.master_epoch != group.master_epoch + 1:
            return False
        if event.new_master is not None:
            if event.new_master not in group.replicas:
                return False
            group.sync_state_set = [event.new_master]
            group.sync_state_set_epoch += 1
        group.master = event.new_master
        group.master_epoch = event.master_epoch
        return True

    @staticmethod
    def _alter_sync_state_set(group: BrokerGroup, event: SyncStateSetAltered) -> bool:
        expected = (group.master_epoch, group.sync_state_set_epoch + 1)
        members = sorted(set(event.sync_state_set))
        if (event.master_epoch, event.sync_state_set_epoch) != expected or group.master not in members:
            return False
        if not group.replicas.keys() >= set(members):
            return False
        group.sync_state_set = members
        group.sync_state_set_epoch = event.sync_state_set_epoch
        return True

    def _clean(self, group: BrokerGroup, event: BrokerDataCleaned) -> bool:
        for broker_id in event.broker_ids or tuple(group.replicas):
            group.replicas.pop(broker_id, None)
        if not group.replicas:
            self._retired[group.broker_name] = (group.master_epoch, group.sync_state_set_epoch)
            del self.groups[group.broker_name]
            return True
        members = [member for member in group.sync_state_set if member in group.replicas]
        if members != group.sync_state_set:
            group.sync_state_set = members
            group.sync_state_set_epoch += 1
        if group.master is not None and group.master not in group.replicas:
            # Differs from RocketMQ, which goes on naming it.
            group.master = None
            group.master_epoch += 1
        return True

    # --- as bytes ----------------------------------------------------------------------------------------------------

    def encode(self) -> bytes:
        """Return the whole state; equal states give equal bytes."""
        groups = {
            name: msgspec.structs.replace(group, replicas=dict(sorted(group.replicas.items())))
            for name, group in sorted(self.groups.items())
        }
        return msgspec.json.encode(_Kept(groups, dict(sorted(self._retired.items()))))

    def decode(self, data: bytes) -> None:
        """Become the state that some bytes hold.

        Raises:
            ValueError: they hold none; nothing was changed.
        """
        kept = msgspec.json.decode(data, type=_Kept)
        self.groups, self._retired = kept.groups, kept.retired

    def __repr__(self) -> str:
        return f"<BrokerGroups {', '.join(map(repr, self.groups.values()))}>"


def encode_events(events: list[Event]) -> bytes:
    """Return events as one command."""
    return msgspec.json.encode(events)


def decode_events(command: bytes) -> list[Event]:
    """Return the events of a command.

    Raises:
        ValueError: it is none.
    """
    return msgspec.json.decode(command, type=list[Event])
