"""Messages that the listener never finishes: after a quarter of an hour their queue goes on without them.

A listener that hangs holds the offset of its queue back: everything behind the message is consumed, and all of it would
come again after a restart. So the message at the front of a window is sent back when its listener is at it for longer
than `consume_timeout` minutes. The call that hangs is left alone; should it end after all, its result counts no more.

Source: `ProcessQueue#cleanExpiredMsg`, RocketMQ 5.3.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from rocketmq_py.client.process_queue import NOTHING, ProcessQueue
from rocketmq_py.common import properties as names
from rocketmq_py.common.message import MessageExt, MessageQueue
from rocketmq_py.common.periodic import PeriodicWork

if TYPE_CHECKING:
    from rocketmq_py.client.push_consumer import PushConsumer

logger = logging.getLogger(__name__)

#: Delay level of such messages: they come again after 10 s, to another listener as a rule.
DELAY_LEVEL: Final = 3
#: Most messages of one queue that are sent back in one round.
MAX_MESSAGES: Final = 16


class ExpiredMessages:
    """Looks after the windows of one consumer.

    Args:
        consumer: whose windows.
        send_back: called with a message and its delay level; returns whether it comes again.
    """

    def __init__(self, consumer: PushConsumer, send_back: Callable[[MessageExt, int], Awaitable[bool]]) -> None:
        self._consumer = consumer
        self._send_back = send_back
        self._work: PeriodicWork | None = None

    def start(self) -> None:
        """Look every `consume_timeout` minutes from now on. Queues in order are not looked at: they wait, as they must."""
        consumer = self._consumer
        if not consumer.service.keeps_order:
            seconds = consumer.config.consume_timeout * 60.0
            self._work = consumer.instance.periodic.every(seconds, self.run, f"expired messages of {consumer.group}")

    def stop(self) -> None:
        """End."""
        if self._work is not None:
            self._consumer.instance.periodic.cancel(self._work)
            self._work = None

    async def run(self) -> None:
        """Send back what is at the front of a window for too long."""
        for queue, window in self._consumer.queues.items():
            for _ in range(MAX_MESSAGES):
                message = next(iter(window.after(NOTHING, 1)), None)
                if window.is_dropped or message is None or not self._is_expired(message):
                    break
                if not await self._send_back(message, DELAY_LEVEL):
                    break
                logger.warning("the listener has not finished message %s in time; it was sent back", message.msg_id)
                self._pass_over(queue, window, message)

    def _pass_over(self, queue: MessageQueue, window: ProcessQueue, message: MessageExt) -> None:
        # The listener may have finished while the message was sent back.
        if message in window and not window.is_dropped:
            self._consumer.commit(queue, window, window.remove([message]))

    def _is_expired(self, message: MessageExt) -> bool:
        began = message.properties.get(names.CONSUME_START_TIME)
        if began is None:
            return False
        taken_ms = self._consumer.instance.environment.clock.wall_ms() - int(began)
        return taken_ms > self._consumer.config.consume_timeout * 60_000
