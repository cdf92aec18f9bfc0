"""Message ids: the one that names a place (offset id) and the one that names a message (unique key).

The offset id is the storing host and the commit log offset, so that a broker finds the record without an index. The
unique key is made by the producer's client before the first try, so that two copies of one message share it.

Source: `MessageDecoder#createMessageId`, `MessageClientIDSetter`, RocketMQ 5.3.
"""

from __future__ import annotations

import time

from rocketmq_py.common.environment import Clock
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.host import decode_host, encode_host
from rocketmq_py.common.layout import Field, Layout

OFFSET_ID_LAYOUT = Layout(
    "offset message id (IPv4)",
    Field("store_host", "4s", "IP address of the broker that stored the message (16 bytes for IPv6)"),
    Field("port", "i", "its port"),
    Field("physical_offset", "q", "first byte of the record in the commit log"),
)

UNIQUE_KEY_LAYOUT = Layout(
    "unique key (IPv4)",
    Field("client_ip", "4s", "address of the client (16 bytes for IPv6)"),
    Field("process_id", "H", "low 16 bits of the process number"),
    Field("process_value", "I", "a number that differs between clients of one process number"),
    Field("milliseconds", "I", "since the start of the month, by the client's clock"),
    Field("counter", "H", "wraps"),
)

_HEX = frozenset("0123456789abcdefABCDEF")


def create_offset_id(store_host: bytes, physical_offset: int) -> str:
    """Return 32 (IPv4) or 56 (IPv6) upper-case hex digits from an encoded host and an offset in bytes."""
    return (store_host + physical_offset.to_bytes(8, "big", signed=True)).hex().upper()


def parse_offset_id(text: str) -> tuple[str, int]:
    """Return `ip:port` and physical offset of an offset id.

    Raises:
        InvalidInputError: not 32 or 56 hex digits.
    """
    if len(text) not in (32, 56) or not _HEX.issuperset(text):
        raise InvalidInputError(
            f"message id {text[:80]!r} is not 32 or 56 hex digits: it does not name a broker and an offset"
        )
    data = bytes.fromhex(text)
    try:
        return decode_host(data[:-8]), int.from_bytes(data[-8:], "big", signed=True)
    except (OverflowError, ValueError) as error:
        raise InvalidInputError(f"message id {text!r} names no address: {error}") from None


class UniqueIds:
    """Makes unique keys. One object per client; never two equal keys from one object within a month.

    Args:
        clock: the client's wall clock; the month is taken in local time, as Java does.
        ip: the client's address as text.
        process_id: the number of the process.
        process_value: 32 bits that set apart clients with equal address and process number.
    """

    def __init__(self, clock: Clock, ip: str, process_id: int, process_value: int) -> None:
        self._clock = clock
        prefix = encode_host(ip, 0)[:-4] + (process_id & 0xFFFF).to_bytes(2, "big")
        self._prefix = (prefix + (process_value & 0xFFFFFFFF).to_bytes(4, "big")).hex().upper()
        self._month_start_ms = self._month_end_ms = 0
        self._counter = 0
        self._last_ms = 0

    def create(self) -> str:
        """Return the next unique key: 32 hex digits for an IPv4 client, 56 for IPv6."""
        now = self._clock.wall_ms()
        # A clock that steps back must not bring back numbers that were used.
        now = self._last_ms = max(now, self._last_ms)
        if not self._month_start_ms <= now < self._month_end_ms:
            self._month_start_ms, self._month_end_ms = _month_of(now)
        self._counter = self._counter + 1 & 0xFFFF
        if self._counter == 0:
            # 65,536 keys were made: borrow a millisecond, so that a burst within one cannot repeat a key.
            self._last_ms += 1
        return f"{self._prefix}{now - self._month_start_ms & 0xFFFFFFFF:08X}{self._counter:04X}"


def _month_of(wall_ms: int) -> tuple[int, int]:
    local = time.localtime(wall_ms / 1000)
    start = time.mktime((local.tm_year, local.tm_mon, 1, 0, 0, 0, 0, 0, -1))
    end = time.mktime((local.tm_year, local.tm_mon + 1, 1, 0, 0, 0, 0, 0, -1))
    return int(start * 1000), int(end * 1000)
