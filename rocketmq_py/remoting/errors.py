"""What can go wrong between two processes.

Source: the exceptions of `org.apache.rocketmq.remoting.exception`, RocketMQ 5.3.
"""

from __future__ import annotations

from rocketmq_py.common.errors import InvalidInputError, RocketMQError


class RemotingError(RocketMQError):
    """Base of all errors of the remoting layer."""


class FrameError(RemotingError):
    """Bytes from a peer that are no frame. They cannot be answered: the connection is closed."""


class HeaderError(RemotingError, InvalidInputError):
    """A header field is missing or is not what its type says; answered with SYSTEM_ERROR and this text."""


class RemotingConnectError(RemotingError, ConnectionError):
    """No connection to an address could be made."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(
            f"cannot connect to {address}: {reason}. Is the server running there, and is the address right?"
        )
        self.address = address


class RemotingSendRequestError(RemotingError, ConnectionError):
    """The connection was lost after a request was written: it may or may not have been carried out."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"the connection to {address} was lost before the answer came: {reason}")
        self.address = address


class RemotingTimeoutError(RemotingError, TimeoutError):
    """No answer within the time: the request may or may not have been carried out."""

    def __init__(self, address: str, seconds: float, code: int) -> None:
        super().__init__(f"{address} did not answer request {code} within {seconds:g} s")
        self.address = address
        self.seconds = seconds


class RemotingTooMuchRequestError(RemotingError):
    """Too many requests are under way on this side; this one was not written."""
