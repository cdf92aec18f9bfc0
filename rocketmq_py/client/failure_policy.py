"""What happens to messages that a listener could not handle.

Here they stay with the consumer and are given to the listener again after five seconds. Stage retry has a better policy:
it sends them back to the broker, where they outlive the consumer.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol, cast, runtime_checkable

from rocketmq_py.common.message import MessageExt

if TYPE_CHECKING:
    from rocketmq_py.client.consume_service import ConsumeContext
    from rocketmq_py.client.push_consumer import PushConsumer

#: Module of a later stage with a policy for every consumer: `make_policy(consumer)`. It is not in every slice.
_LATER: Final = "rocketmq_py.client.send_back"


class FailurePolicy(Protocol):
    """Decides about failed messages."""

    async def failed(self, messages: Sequence[MessageExt], context: ConsumeContext) -> list[MessageExt]:
        """Take care of messages, and return those that the listener shall be given again."""
        ...

    async def exhausted(self, message: MessageExt) -> bool:
        """Put a message aside that failed as often as it may in order, so that its queue goes on; False if it must stay."""
        ...


@runtime_checkable
class ActivePolicy(FailurePolicy, Protocol):
    """A policy with work of its own, which lasts as long as the consumer runs."""

    def start(self) -> None:
        """The consumer has started."""
        ...

    def stop(self) -> None:
        """The consumer stops."""
        ...


class RetryLocally:
    """Keeps every failed message; its queue's offset does not pass it until it succeeds."""

    async def failed(self, messages: Sequence[MessageExt], context: ConsumeContext) -> list[MessageExt]:
        """Return all of them."""
        return list(messages)

    async def exhausted(self, message: MessageExt) -> bool:
        """Keep it: there is no other place."""
        return False


def make_policy(consumer: PushConsumer) -> FailurePolicy:
    """Return the policy of a consumer that was told no other: that of the last stage that is here."""
    if importlib.util.find_spec(_LATER) is None:
        return RetryLocally()
    return cast(FailurePolicy, importlib.import_module(_LATER).make_policy(consumer))
