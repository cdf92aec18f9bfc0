"""What became of a put.

Source: `PutMessageStatus`, `PutMessageResult`, RocketMQ 5.3.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class PutMessageStatus(enum.Enum):
    """The store's verdict. The first four mean that the record is in the log."""

    PUT_OK = "PUT_OK"
    FLUSH_DISK_TIMEOUT = "FLUSH_DISK_TIMEOUT"
    FLUSH_SLAVE_TIMEOUT = "FLUSH_SLAVE_TIMEOUT"
    SLAVE_NOT_AVAILABLE = "SLAVE_NOT_AVAILABLE"
    SERVICE_NOT_AVAILABLE = "SERVICE_NOT_AVAILABLE"
    CREATE_MAPPED_FILE_FAILED = "CREATE_MAPPED_FILE_FAILED"
    MESSAGE_ILLEGAL = "MESSAGE_ILLEGAL"
    PROPERTIES_SIZE_EXCEEDED = "PROPERTIES_SIZE_EXCEEDED"
    OS_PAGE_CACHE_BUSY = "OS_PAGE_CACHE_BUSY"
    UNKNOWN_ERROR = "UNKNOWN_ERROR"
    IN_SYNC_REPLICAS_NOT_ENOUGH = "IN_SYNC_REPLICAS_NOT_ENOUGH"
    PUT_TO_REMOTE_BROKER_FAIL = "PUT_TO_REMOTE_BROKER_FAIL"
    LMQ_CONSUME_QUEUE_NUM_EXCEEDED = "LMQ_CONSUME_QUEUE_NUM_EXCEEDED"
    WHEEL_TIMER_FLOW_CONTROL = "WHEEL_TIMER_FLOW_CONTROL"
    WHEEL_TIMER_MSG_ILLEGAL = "WHEEL_TIMER_MSG_ILLEGAL"
    WHEEL_TIMER_NOT_ENABLE = "WHEEL_TIMER_NOT_ENABLE"

    @property
    def is_stored(self) -> bool:
        """Whether the record is in the log; it may still be lost in a crash unless this is PUT_OK."""
        return self in _STORED


_STORED = frozenset(
    (
        PutMessageStatus.PUT_OK,
        PutMessageStatus.FLUSH_DISK_TIMEOUT,
        PutMessageStatus.FLUSH_SLAVE_TIMEOUT,
        PutMessageStatus.SLAVE_NOT_AVAILABLE,
    )
)


@dataclass(frozen=True, slots=True)
class PutMessageResult:
    """The verdict and, if the record is in the log, where it is.

    Attributes:
        status: the verdict.
        queue_offset: position in its queue, units; for a batch that of its first message.
        physical_offsets: position of each record in the commit log, bytes.
        store_timestamp: the broker's clock at the append, milliseconds since 1970.
    """

    status: PutMessageStatus
    queue_offset: int = 0
    physical_offsets: tuple[int, ...] = ()
    store_timestamp: int = 0

    @property
    def is_stored(self) -> bool:
        """Whether the record is in the log."""
        return self.status.is_stored

    @property
    def wrote_offset(self) -> int:
        """Position of the first record in the commit log; -1 if nothing was appended."""
        return self.physical_offsets[0] if self.physical_offsets else -1
