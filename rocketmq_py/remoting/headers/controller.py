"""Header fields of the requests between brokers, operators and controllers, and of their answers.

Source: the classes of `remoting.protocol.header.controller`, RocketMQ 5.3.
"""

from __future__ import annotations

import msgspec

from rocketmq_py.remoting.header import I32, I64

#: `brokerId` of an election that no broker asked for: a controller's own, or an operator's without a wish.
NO_BROKER_ID = -1


class AlterSyncStateSetRequestHeader(msgspec.Struct, rename="camel", kw_only=True):
    """CONTROLLER_ALTER_SYNC_STATE_SET (1001); the body is a `SyncStateSet` with the epoch that the master knows."""

    broker_name: str
    master_broker_id: I64
    master_epoch: I32
    invoke_time: I64 | None = None


class AlterSyncStateSetResponseHeader(msgspec.Struct, rename="camel", kw_only=True):
    """Answer of 1001."""

    new_sync_state_set_epoch: I32


class ElectMasterRequestHeader(msgspec.Struct, rename="camel", kw_only=True):
    """CONTROLLER_ELECT_MASTER (1002).

    Attributes:
        broker_id: who asks, or whom an operator wants; -1 for nobody.
        designate_elect: it must be `broker_id` and no other.
    """

    cluster_name: str = ""
    broker_name: str
    broker_id: I64 | None = None
    designate_elect: bool = False
    invoke_time: I64 | None = None


class ElectMasterResponseHeader(msgspec.Struct, rename="camel", kw_only=True):
    """Answer of 1002, also beside code 2011: the master that there is."""

    master_broker_id: I64 | None = None
    master_address: str | None = None
    master_epoch: I32 | None = None
    sync_state_set_epoch: I32 | None = None


class RegisterBrokerToControllerRequestHeader(msgspec.Struct, rename="camel", kw_only=True):
    """CONTROLLER_REGISTER_BROKER (1003)."""

    cluster_name: str
    broker_name: str
    broker_id: I64
    broker_address: str
    invoke_time: I64 | None = None


class RegisterBrokerToControllerResponseHeader(msgspec.Struct, rename="camel", kw_only=True):
    """Answer of 1003; the master's fields are absent if there is no live one."""

    cluster_name: str | None = None
    broker_name: str | None = None
    master_broker_id: I64 | None = None
    master_address: str | None = None
    master_epoch: I32 | None = None
    sync_state_set_epoch: I32 | None = None


class GetReplicaInfoRequestHeader(msgspec.Struct, rename="camel", kw_only=True):
    """CONTROLLER_GET_REPLICA_INFO (1004)."""

    broker_name: str


class GetReplicaInfoResponseHeader(msgspec.Struct, rename="camel", kw_only=True):
    """Answer of 1004."""

    master_broker_id: I64 | None = None
    master_address: str | None = None
    master_epoch: I32 | None = None


class GetMetaDataResponseHeader(msgspec.Struct, rename="camel", kw_only=True):
    """Answer of CONTROLLER_GET_METADATA_INFO (1005).

    Attributes:
        group: name of the controllers' group.
        controller_leader_id: absent while there is no leader.
        controller_leader_address: where brokers and tools find the leader.
        is_leader: whether the one who answers is it.
        peers: `id:host:port;` for every controller.
    """

    group: str | None = None
    controller_leader_id: str | None = None
    controller_leader_address: str | None = None
    is_leader: bool = False
    peers: str | None = None


class BrokerHeartbeatToControllerRequestHeader(msgspec.Struct, rename="camel", kw_only=True):
    """BROKER_HEARTBEAT (904) as a controller reads it; a name server reads less of it."""

    cluster_name: str
    broker_addr: str
    broker_name: str
    broker_id: I64 | None = None
    epoch: I32 | None = None
    max_offset: I64 | None = None
    confirm_offset: I64 | None = None
    heartbeat_timeout_mills: I64 | None = None
    election_priority: I32 | None = None


class BrokerHeartbeatToControllerResponseHeader(msgspec.Struct, rename="camel", kw_only=True):
    """Answer of 904, if one is wanted.

    Differs from RocketMQ, whose answer has no fields: with these a master knows that the controller which could elect
    another one has just heard of it, and may take that for a lease.

    Attributes:
        is_leader: whether the controller that answers is the leader of its group.
        master_epoch: of the broker's group there; absent if the controller does not know the broker.
    """

    is_leader: bool = False
    master_epoch: I32 | None = None


class NotifyBrokerRoleChangedRequestHeader(msgspec.Struct, rename="camel", kw_only=True):
    """NOTIFY_BROKER_ROLE_CHANGED (1008), one-way to brokers; the body is the new `SyncStateSet`."""

    master_address: str | None = None
    master_epoch: I32 | None = None
    sync_state_set_epoch: I32 | None = None
    master_broker_id: I64 | None = None


class CleanControllerBrokerDataRequestHeader(msgspec.Struct, rename="camel", kw_only=True):
    """CLEAN_BROKER_DATA (1011).

    Attributes:
        broker_controller_ids_to_clean: ids separated by `;`; empty or absent for the whole group.
        is_clean_living_broker: forget it even if it is alive.
    """

    cluster_name: str | None = None
    broker_name: str
    broker_controller_ids_to_clean: str | None = None
    is_clean_living_broker: bool = False
    invoke_time: I64 | None = None


class GetNextBrokerIdRequestHeader(msgspec.Struct, rename="camel", kw_only=True):
    """CONTROLLER_GET_NEXT_BROKER_ID (1012)."""

    cluster_name: str
    broker_name: str


class GetNextBrokerIdResponseHeader(msgspec.Struct, rename="camel", kw_only=True):
    """Answer of 1012."""

    cluster_name: str | None = None
    broker_name: str | None = None
    next_broker_id: I64 | None = None


class ApplyBrokerIdRequestHeader(msgspec.Struct, rename="camel", kw_only=True):
    """CONTROLLER_APPLY_BROKER_ID (1013).

    Attributes:
        register_check_code: `address;milliseconds`; whoever shows it again is the same broker.
    """

    cluster_name: str
    broker_name: str
    applied_broker_id: I64
    register_check_code: str


class ApplyBrokerIdResponseHeader(msgspec.Struct, rename="camel", kw_only=True):
    """Answer of 1013."""

    cluster_name: str | None = None
    broker_name: str | None = None
