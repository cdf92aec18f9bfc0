"""Stage 09: pulls that find nothing wait for a message."""

from __future__ import annotations

from collections.abc import Callable

from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.broker.long_polling.pull_request_hold import (
    CHECK_SECONDS,
    MAX_HOLD_MILLIS,
    HeldPull,
    PullRequestHoldService,
)
from rocketmq_py.broker.pull_message import Pull, PullMessageService
from rocketmq_py.remoting.server import RemotingServer
from rocketmq_py.store.dispatch import Dispatchers
from rocketmq_py.store.message_store import MessageStore


def install(kernel: Kernel) -> None:
    """Add the hold service, and let arrivals and closed connections reach it."""
    config, store = kernel.config, kernel.get(MessageStore)
    service = kernel.provide(PullRequestHoldService(store.max_offset, store.peek_record))

    def hold(pull: Pull, run: Callable[[], None], millis: int) -> bool:
        terms = pull.terms
        if not config.long_polling_enable:
            millis = config.short_polling_time_mills
        held = HeldPull((terms.topic, terms.queue_id), pull.offset, pull.owner, terms.filter, run)
        return service.hold(held, min(millis, MAX_HOLD_MILLIS) / 1_000)

    kernel.get(PullMessageService).hold = hold
    kernel.get(Dispatchers).listeners.append(service)
    kernel.get(RemotingServer).on_closed.append(service.closed)
    kernel.periodic.every(CHECK_SECONDS, service.check, "check held pulls")
