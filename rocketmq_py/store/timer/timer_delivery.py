"""Delivery: puts what is due, and does not let go of it before it is stored.

Source: `TimerDequeuePutMessageService`, `TimerMessageStore#doPut`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from rocketmq_py.store.config import MessageStoreConfig
from rocketmq_py.store.draft import Draft
from rocketmq_py.store.message_store import MessageStore
from rocketmq_py.store.put_message import Putter
from rocketmq_py.store.put_result import PutMessageResult, PutMessageStatus

logger = logging.getLogger(__name__)

#: What no second try would change.
HOPELESS: Final = frozenset(
    (
        PutMessageStatus.MESSAGE_ILLEGAL,
        PutMessageStatus.PROPERTIES_SIZE_EXCEEDED,
        PutMessageStatus.WHEEL_TIMER_NOT_ENABLE,
        PutMessageStatus.WHEEL_TIMER_MSG_ILLEGAL,
    )
)


class TimerDelivery:
    """Puts drafts.

    Args:
        config: what to do with unknown errors, and the precision, which the pause between tries follows.
        store: where to.

    Attributes:
        delivered: how many messages were put, rolled ones included.
        dropped: how many could not be put, ever.
        on_delivered: called with each draft that was put.
        target: takes what is delivered: the store.
    """

    def __init__(self, config: MessageStoreConfig, store: MessageStore) -> None:
        self.delivered = 0
        self.dropped = 0
        self.on_delivered: list[Callable[[Draft], None]] = []
        self._config = config
        self.target: Putter = store

    async def deliver(self, drafts: Sequence[Draft]) -> None:
        """Put all of them, in order; what the store does not take now is tried again.

        Differs from RocketMQ, which tries three times in 1.5 s and then drops the message, unless
        `timerEnableRetryUntilSuccess` is on: a disk that is full for two seconds must not cost what was acknowledged.

        Cancellation: some may have been put.
        """
        waiting, tries = list(drafts), 0
        while waiting:
            results = await self._put_all(waiting)
            refused = [draft for draft, result in zip(waiting, results, strict=True) if self._is_refused(draft, result)]
            if refused:
                tries += 1
                logger.log(
                    logging.WARNING if tries & (tries - 1) == 0 else logging.DEBUG,
                    "%d timer messages wait for the store, which refused them %d times",
                    len(refused),
                    tries,
                )
                await asyncio.sleep(0.5 * self._config.timer_precision_ms / 1000)
            waiting = refused

    async def _put_all(self, drafts: Sequence[Draft]) -> list[PutMessageResult]:
        """Put drafts in one turn of the loop, and wait until all of them have their result."""
        results: list[PutMessageResult | None] = [None] * len(drafts)
        left = len(drafts)
        finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(number: int, result: PutMessageResult) -> None:
            nonlocal left
            results[number] = result
            left -= 1
            if not left and not finished.done():
                finished.set_result(None)

        for number, draft in enumerate(drafts):
            self.target.put([draft], lambda result, number=number: done(number, result))  # type: ignore[misc]
        await finished
        return [result for result in results if result is not None]

    def _is_refused(self, draft: Draft, result: PutMessageResult) -> bool:
        """Note a result; return whether the draft is to be put again."""
        if result.is_stored:
            self.delivered += 1
            for listener in self.on_delivered:
                listener(draft)
            return False
        is_unknown = result.status is PutMessageStatus.UNKNOWN_ERROR and self._config.timer_skip_unknown_error
        if result.status in HOPELESS or is_unknown:
            self.dropped += 1
            logger.error(
                "a timer message for %s-%d is dropped: it can never be stored (%s)",
                draft.topic,
                draft.queue_id,
                result.status.name,
            )
            return False
        return True
