"""What can go wrong for a program that sends or receives.

Source: `MQClientException`, `MQBrokerException`, `RequestTimeoutException`, `ClientErrorCode`, RocketMQ 5.3.
"""

from __future__ import annotations

from typing import Final

from rocketmq_py.common.errors import RocketMQError

CONNECT_BROKER_EXCEPTION: Final = 10_001
ACCESS_BROKER_TIMEOUT: Final = 10_002
BROKER_NOT_EXIST_EXCEPTION: Final = 10_003
NO_NAME_SERVER_EXCEPTION: Final = 10_004
NOT_FOUND_TOPIC_EXCEPTION: Final = 10_005


class ClientError(RocketMQError):
    """Base of the errors of clients.

    Attributes:
        code: a response code of a broker, or one of the numbers above 10,000 in this module; -1 for neither.
    """

    def __init__(self, text: str, code: int = -1) -> None:
        super().__init__(text)
        self.code = code


class ClientStateError(ClientError):
    """A client was used before it was started or after it was stopped."""


class NoNameServerError(ClientError):
    """No name server is configured, or none of them answers."""

    def __init__(self, text: str) -> None:
        super().__init__(text, NO_NAME_SERVER_EXCEPTION)


class NoRouteError(ClientError):
    """No name server knows a broker that has the topic (and lets one write, for a producer)."""

    def __init__(self, topic: str, why: str) -> None:
        super().__init__(f"there is no route to topic {topic!r}: {why}", NOT_FOUND_TOPIC_EXCEPTION)
        self.topic = topic


class NoBrokerError(ClientError):
    """The address of a broker is not known, for example because its master is down."""

    def __init__(self, broker_name: str) -> None:
        super().__init__(
            f"broker {broker_name!r} has no address at the name servers; is its master running and registered?",
            BROKER_NOT_EXIST_EXCEPTION,
        )
        self.broker_name = broker_name


class BrokerResponseError(ClientError):
    """A server answered with a code that says no.

    Attributes:
        remark: the server's own words.
        address: who answered.
    """

    def __init__(self, code: int, remark: str | None, address: str) -> None:
        super().__init__(f"{address} answered with code {code}: {remark or 'no remark'}", code)
        self.remark = remark
        self.address = address


class SendFailedError(ClientError):
    """No attempt to send a message succeeded; the last cause is chained as `__cause__`.

    Attributes:
        brokers: the brokers that were tried, in order.
    """

    def __init__(self, text: str, code: int, brokers: list[str]) -> None:
        super().__init__(text, code)
        self.brokers = brokers


class SendTimeoutError(ClientError, TimeoutError):
    """The time for sending was over before an attempt succeeded; the message may or may not be stored."""
