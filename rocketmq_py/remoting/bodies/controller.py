"""What controllers know of broker groups, as JSON bodies.

Source: `SyncStateSet`, `ElectMasterResponseBody`, `BrokerReplicasInfo`, RocketMQ 5.3.
"""

from __future__ import annotations

import msgspec

from rocketmq_py.remoting.bodies.cluster import BrokerMemberGroup


class SyncStateSet(msgspec.Struct, rename="camel", kw_only=True):
    """The replicas that have everything which was acknowledged, and how often that set has changed."""

    sync_state_set: list[int] = []
    sync_state_set_epoch: int = 0


class ElectMasterResponseBody(msgspec.Struct, rename="camel", kw_only=True, omit_defaults=True):
    """Answer of CONTROLLER_ELECT_MASTER (1002); without the group if the master stayed."""

    broker_member_group: BrokerMemberGroup | None = None
    sync_state_set: list[int] = []


class ReplicaIdentity(msgspec.Struct, rename="camel", kw_only=True):
    """One replica, and whether the controller has heard of it lately."""

    alive: bool = False
    broker_address: str = ""
    broker_id: int = 0
    broker_name: str = ""


class ReplicasInfo(msgspec.Struct, rename="camel", kw_only=True):
    """One broker group; `master_broker_id` and `master_address` are null while it has no master."""

    in_sync_replicas: list[ReplicaIdentity] = []
    master_address: str | None = None
    master_broker_id: int | None = None
    master_epoch: int = 0
    not_in_sync_replicas: list[ReplicaIdentity] = []
    sync_state_set_epoch: int = 0


class BrokerReplicasInfo(msgspec.Struct, rename="camel", kw_only=True):
    """Answer of CONTROLLER_GET_SYNC_STATE_DATA (1006): broker name to its group."""

    replicas_info_table: dict[str, ReplicasInfo] = {}
