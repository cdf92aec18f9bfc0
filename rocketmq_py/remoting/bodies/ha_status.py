"""How replication goes, as a broker tells it: answer of GET_BROKER_HA_STATUS (907).

Members are declared in alphabetical order, the order in which Java writes them.

Source: `HARuntimeInfo`, RocketMQ 5.3.
"""

from __future__ import annotations

import msgspec


class HAConnectionRuntimeInfo(msgspec.Struct, rename="camel", kw_only=True):
    """One slave, as its master sees it.

    Attributes:
        addr: the slave's end of the connection.
        diff: how much of the log it lacks, bytes.
        in_sync: whether that is so little that it counts.
        slave_ack_offset: up to where it has the log.
        transfer_from_where: what it is sent next.
        transferred_byte_in_second: how fast it is sent.
    """

    addr: str = ""
    diff: int = 0
    in_sync: bool = False
    slave_ack_offset: int = 0
    transfer_from_where: int = 0
    transferred_byte_in_second: int = 0


class HAClientRuntimeInfo(msgspec.Struct, rename="camel", kw_only=True):
    """A slave, as it sees itself.

    Attributes:
        last_read_timestamp, last_write_timestamp: when it last heard of its master and last reported, ms since 1970.
        master_addr: where it fetches the log from.
        master_flush_offset: the master's end at its start, bytes.
        max_offset: up to where it has the log.
        transferred_byte_in_second: how fast it gets it.
    """

    last_read_timestamp: int = 0
    last_write_timestamp: int = 0
    master_addr: str | None = None
    master_flush_offset: int = 0
    max_offset: int = 0
    transferred_byte_in_second: int = 0


class HARuntimeInfo(msgspec.Struct, rename="camel", kw_only=True):
    """One broker: the first member counts on a slave, the others on a master."""

    ha_client_runtime_info: HAClientRuntimeInfo = msgspec.field(default_factory=HAClientRuntimeInfo)
    ha_connection_info: list[HAConnectionRuntimeInfo] = []
    in_sync_slave_nums: int = 0
    master: bool = True
    master_commit_log_max_offset: int = 0
