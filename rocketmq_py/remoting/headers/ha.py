"""Header fields of what brokers of one group tell each other.

Source: `ExchangeHAInfoRequestHeader`, `ExchangeHAInfoResponseHeader`, `ResetMasterFlushOffsetHeader`, RocketMQ 5.3.
"""

from __future__ import annotations

import msgspec

from rocketmq_py.remoting.header import I64


class ExchangeHAInfoHeader(msgspec.Struct, rename="camel", kw_only=True):
    """EXCHANGE_BROKER_HA_INFO (906) and its answer.

    With an HA address the master tells a slave about itself; without one somebody asks the master.

    Attributes:
        master_ha_address: where the master sends its log from, `ip:port`.
        master_flush_offset: how much of its log is on disk, bytes.
        master_address: the master itself, `ip:port`.
    """

    master_ha_address: str | None = None
    master_flush_offset: I64 | None = None
    master_address: str | None = None


class ResetMasterFlushOffsetHeader(msgspec.Struct, rename="camel", kw_only=True):
    """RESET_MASTER_FLUSH_OFFSET (908)."""

    master_flush_offset: I64
