"""Places where programs look at sending: before and after each attempt.

Source: `SendMessageHook`, `SendMessageContext`, `CheckForbiddenHook`, RocketMQ 5.3.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from rocketmq_py.client.send_result import SendResult
from rocketmq_py.common.message import Message, MessageQueue


@dataclass(slots=True)
class SendMessageContext:
    """One attempt to send.

    Attributes:
        producer_group: who sends.
        messages: the message, or those of a batch.
        queue: where to.
        broker_address: the broker that is asked.
        mode: `sync`, `async` or `oneway`.
        result: afterwards, where the message was stored.
        error: afterwards, what went wrong.
        properties: for the hook itself; kept from `before` to `after`.
    """

    producer_group: str
    messages: list[Message]
    queue: MessageQueue
    broker_address: str
    mode: str
    result: SendResult | None = None
    error: Exception | None = None
    properties: dict[str, Any] = field(default_factory=dict)


class SendMessageHook(Protocol):
    """Sees every attempt. An error that it raises is logged; it stops no message."""

    def before(self, context: SendMessageContext) -> None:
        """Called when the request is complete; properties that are set here still travel."""
        ...

    def after(self, context: SendMessageContext) -> None:
        """Called with the result or the error."""
        ...


class CheckForbiddenHook(Protocol):
    """May stop an attempt."""

    def check(self, context: SendMessageContext) -> None:
        """Raise any `ClientError` to stop the attempt."""
        ...
