"""What can go wrong in a store."""

from __future__ import annotations

from rocketmq_py.common.errors import CorruptDataError, RocketMQError


class StoreError(RocketMQError):
    """Base of the store's own errors."""


class StoreClosedError(StoreError):
    """The store was stopped."""


class StoreFullError(StoreError):
    """No file could be allocated for the log. Nothing was written; it works again when there is room."""


class LogFailedError(StoreError):
    """A write or sync of the log failed. Final for this process: what is on disk is known only to the next start."""


class StoreCorruptError(StoreError, CorruptDataError):
    """A file of the store does not hold what was written; says which file, where, what was expected and found."""
