"""Bit sets of the protocol: the system flag of a message and that of a pull request."""

from __future__ import annotations

from typing import Final

# --- message ------------------------------------------------------------------------------------------------
COMPRESSED: Final = 0x1
MULTI_TAGS: Final = 0x2
TRANSACTION_NOT: Final = 0x0
TRANSACTION_PREPARED: Final = 0x4
TRANSACTION_COMMIT: Final = 0x8
TRANSACTION_ROLLBACK: Final = 0xC
TRANSACTION_MASK: Final = 0xC
BORN_HOST_V6: Final = 0x10
STORE_HOST_V6: Final = 0x20
HOST_BITS: Final = BORN_HOST_V6 | STORE_HOST_V6
NEED_UNWRAP: Final = 0x40
INNER_BATCH: Final = 0x80
COMPRESSION_LZ4: Final = 0x100
COMPRESSION_ZSTD: Final = 0x200
COMPRESSION_ZLIB: Final = 0x300
COMPRESSION_TYPE_MASK: Final = 0x700
COMPRESSION_MASK: Final = COMPRESSED | COMPRESSION_TYPE_MASK

# --- pull request -------------------------------------------------------------------------------------------
PULL_COMMIT_OFFSET: Final = 0x1
PULL_SUSPEND: Final = 0x2
PULL_SUBSCRIPTION: Final = 0x4
PULL_CLASS_FILTER: Final = 0x8
PULL_LITE: Final = 0x10


def transaction_type(sys_flag: int) -> int:
    """Return one of the four TRANSACTION values."""
    return sys_flag & TRANSACTION_MASK
