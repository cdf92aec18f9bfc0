"""What happens to messages that a listener could not handle.

Here they stay with the consumer and are given to the listener again after five seconds. A later stage sends them back
to the broker, where they outlive the consumer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from rocketmq_py.common.message import MessageExt

if TYPE_CHECKING:
    from rocketmq_py.client.consume_service import ConsumeContext


class FailurePolicy(Protocol):
    """Decides about failed messages."""

    async def failed(self, messages: Sequence[MessageExt], context: ConsumeContext) -> list[MessageExt]:
        """Take care of messages, and return those that the listener shall be given again."""
        ...


class RetryLocally:
    """Keeps every failed message; its queue's offset does not pass it until it succeeds."""

    async def failed(self, messages: Sequence[MessageExt], context: ConsumeContext) -> list[MessageExt]:
        """Return all of them."""
        return list(messages)
