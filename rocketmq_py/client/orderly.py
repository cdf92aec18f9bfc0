"""Consuming in order: one message after the other of each queue, at one member of the group at a time.

    def handle(messages, context):
        ...

    consumer.register_listener(InOrder(handle))

Three things keep the order. The queue is locked at its broker before anything is pulled from it. One task works through
the queue's window, from the front. And a message that failed is given to the listener again before the next one, however
long that takes: a queue that must keep its order cannot leave a message out.

A queue changes hands without overlap: the old owner finishes what its listener is doing, stores the offset, and only then
lets the lock go.

Source: `ConsumeMessageOrderlyService`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from rocketmq_py.client.consume_service import ConsumeContext
from rocketmq_py.client.listener_calls import ListenerCalls, restore_topic
from rocketmq_py.client.process_queue import NOTHING, ProcessQueue
from rocketmq_py.client.pull_api import UNREADABLE
from rocketmq_py.client.queue_locks import RENEW_SECONDS, QueueLocks
from rocketmq_py.client.rebalance import QueueClaim
from rocketmq_py.common.message import MessageExt, MessageQueue
from rocketmq_py.common.periodic import PeriodicWork
from rocketmq_py.remoting.bodies.heartbeat import MessageModel

if TYPE_CHECKING:
    from rocketmq_py.client.push_consumer import PushConsumer

logger = logging.getLogger(__name__)

#: Seconds before a queue whose lock is not held, or whose consumption failed, is looked at again.
RETRY_SECONDS: Final = 3.0
#: Seconds that giving a queue up waits for the listener; after that the rebalance tries again.
LEAVE_SECONDS: Final = 1.0
#: Bounds of the rest after a failure, milliseconds.
MIN_SUSPEND_MILLIS: Final = 10
MAX_SUSPEND_MILLIS: Final = 30_000


class ConsumeOrderlyStatus(enum.Enum):
    """What a listener made of its messages.

    With `auto_commit` only the first and the last mean anything. Without it SUCCESS goes on and commits nothing until a
    COMMIT, and ROLLBACK gives all messages since the last commit to the listener again.
    """

    SUCCESS = "done"
    COMMIT = "done, and everything before"
    ROLLBACK = "everything since the last commit is not done; give it to me again"
    SUSPEND_CURRENT_QUEUE_A_MOMENT = "not done; give the same messages to me again after a rest"


@dataclass(slots=True)
class ConsumeOrderlyContext:
    """What a listener is told beside the messages, and may set.

    Attributes:
        queue: where the messages came from.
        auto_commit: messages are committed as they succeed.
        suspend_current_queue_time_millis: how long to rest after a failure; -1: as the settings say.
    """

    queue: MessageQueue
    auto_commit: bool = True
    suspend_current_queue_time_millis: int = -1


#: Handles messages of one queue, in order. Returning None means SUCCESS; raising means SUSPEND_CURRENT_QUEUE_A_MOMENT.
OrderlyListener = Callable[
    [Sequence[MessageExt], ConsumeOrderlyContext],
    "ConsumeOrderlyStatus | Awaitable[ConsumeOrderlyStatus | None] | None",
]


class InOrder:
    """Makes a push consumer give messages to a listener in order.

    Args:
        listener: a plain function, run in a thread, or a coroutine function.
    """

    def __init__(self, listener: OrderlyListener) -> None:
        self._listener = listener

    def make_service(self, consumer: PushConsumer) -> OrderlyConsumeService:
        """Return the service of a consumer that is about to start, which also guards its queues."""
        return OrderlyConsumeService(consumer, self._listener)


@dataclass(slots=True, eq=False)
class _Line:
    """The work on one queue.

    Attributes:
        queue, window: the queue and what is cached of it.
        taken: offset of the last message that the listener had and that is not committed; NOTHING if there is none.
        task: works through the window; None while there is nothing to do.
        leaving: set while the queue is about to be given up.
    """

    queue: MessageQueue
    window: ProcessQueue
    taken: int = NOTHING
    task: asyncio.Task[None] | None = None
    leaving: asyncio.Event = field(default_factory=asyncio.Event)


class OrderlyConsumeService:
    """Runs the listener on up to `consume_thread_max` queues at a time, on each of them in order.

    Args:
        consumer: whose queues.
        listener: the application's.

    Attributes:
        locks: of the consumer's queues.
        exhausted: called with a message that failed `max_reconsume_times`; returns whether it was put aside, so that the
            queue may go on. It is the failure policy's.
    """

    keeps_order = True

    def __init__(self, consumer: PushConsumer, listener: OrderlyListener) -> None:
        self.locks = QueueLocks(consumer.instance, consumer.group)
        self.exhausted: Callable[[MessageExt], Awaitable[bool]] = consumer.failure_policy.exhausted
        self._consumer = consumer
        self._config = consumer.config
        self._group = consumer.group
        self._calls = ListenerCalls(listener, self._config.consume_thread_max, consumer.instance.environment)
        self._slots = asyncio.Semaphore(self._config.consume_thread_max)
        self._is_locking = self._config.message_model is MessageModel.CLUSTERING
        self._lines: dict[MessageQueue, _Line] = {}
        self._renewal: PeriodicWork | None = None
        self._is_stopping = False

    @property
    def claim(self) -> QueueClaim | None:
        """Itself: queues are taken over and given up with their locks. Broadcasting needs none."""
        return self if self._is_locking else None

    # --- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Become ready, and renew the locks from now on."""
        self._calls.start()
        if self._is_locking:
            self._renewal = self._consumer.instance.periodic.every(
                RENEW_SECONDS, self._renew, f"queue locks of group {self._group}"
            )

    async def stop(self, seconds: float) -> None:
        """Let the calls that run come to their end, at most `seconds`; begin no other. A second call does nothing."""
        if self._is_stopping:
            return
        self._is_stopping = True
        if self._renewal is not None:
            self._consumer.instance.periodic.cancel(self._renewal)
        for line in self._lines.values():
            line.leaving.set()
        tasks = [line.task for line in self._lines.values() if line.task is not None]
        if tasks:
            _, hanging = await asyncio.wait(tasks, timeout=seconds)
            for task in hanging:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self._calls.close()

    # --- queues come and go -------------------------------------------------------------------------------------------

    async def before_add(self, queue: MessageQueue) -> bool:
        """Take a queue over only with its lock."""
        return await self.locks.lock(queue)

    async def before_drop(self, queue: MessageQueue) -> bool:
        """Give a queue up only when the listener has finished with it; False if that takes too long."""
        line = self._lines.get(queue)
        if line is None or line.task is None:
            return True
        line.leaving.set()
        _, running = await asyncio.wait([line.task], timeout=LEAVE_SECONDS)
        if running:
            # It goes on here until the listener is done; the rebalance comes back.
            line.leaving.clear()
        return not running

    async def after_drop(self, queue: MessageQueue) -> None:
        """The offset is stored: let the next owner begin."""
        line = self._lines.pop(queue, None)
        if line is not None and line.task is not None and not line.task.done():
            # The listener hangs. Its lock ends by itself, so that nobody starts while it may still be working.
            return
        await self.locks.unlock(queue)

    async def _renew(self) -> None:
        for queue in await self.locks.lock_all(list(self._consumer.queues)):
            logger.warning("group %s lost %s to another member", self._group, queue)
            # What is cached may be behind what the other member does: begin anew when the queue comes back.
            await self._consumer.give_up(queue)
            self._consumer.wake_rebalance()

    # --- messages -----------------------------------------------------------------------------------------------------

    def submit(self, queue: MessageQueue, process_queue: ProcessQueue, messages: list[MessageExt]) -> None:
        """Go on with a queue that got messages. They are taken from its window, whatever is given here."""
        line = self._lines.get(queue)
        if line is None or line.window is not process_queue:
            line = self._lines[queue] = _Line(queue, process_queue)
        self._go_on(line)

    def _go_on(self, line: _Line) -> None:
        if line.task is None and not self._is_stopping:
            line.task = asyncio.get_running_loop().create_task(self._work(line), name=f"in order {line.queue}")

    async def _work(self, line: _Line) -> None:
        try:
            while self._may_go_on(line):
                messages = line.window.after(line.taken, self._config.consume_message_batch_max_size)
                if not messages:
                    return
                try:
                    pause = await self._go_on_with(line, messages)
                except Exception:
                    # Broad on purpose: a full window gets no more messages, so nothing else would take the line up again.
                    logger.exception("consuming %s in order failed and is tried again", line.queue)
                    pause = RETRY_SECONDS
                if pause:
                    await _rest(line, pause)
        finally:
            # No await since the window was found empty: messages that come later find no task and start one.
            line.task = None

    async def _go_on_with(self, line: _Line, messages: list[MessageExt]) -> float:
        """Consume messages if the queue is this member's, and return how many seconds the queue has to rest."""
        if self._is_locking and not self.locks.is_held(line.queue) and not await self.locks.lock(line.queue):
            return RETRY_SECONDS
        async with self._slots:
            return await self._consume(line, messages) if self._may_go_on(line) else 0.0

    def _may_go_on(self, line: _Line) -> bool:
        return not (line.window.is_dropped or line.leaving.is_set() or self._is_stopping)

    async def _consume(self, line: _Line, messages: list[MessageExt]) -> float:
        """Give messages to the listener, and return how many seconds the queue has to rest."""
        context = ConsumeOrderlyContext(line.queue)
        if not await self._without_unreadable(line, messages):
            return RETRY_SECONDS
        if not messages or not self._may_go_on(line):
            return 0.0
        for message in messages:
            restore_topic(message, self._group)
        status = await self._calls.outcome(
            *(line.queue, messages, context),
            ConsumeOrderlyStatus.SUCCESS,
            ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT,
        )
        # Not committed if the queue was lost meanwhile: its new owner consumes these messages again.
        if line.window.is_dropped:
            return 0.0
        if status is ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT:
            if await self._must_wait_for(messages):
                return self._rest_after(context)
        elif status is ConsumeOrderlyStatus.ROLLBACK and not context.auto_commit:
            line.taken = NOTHING
            return self._rest_after(context)
        line.taken = messages[-1].queue_offset
        if context.auto_commit or status is ConsumeOrderlyStatus.COMMIT:
            self._commit(line)
        return 0.0

    async def _without_unreadable(self, line: _Line, messages: list[MessageExt]) -> bool:
        """Take messages out that no listener could read, when they were put aside; False if one has to wait for that."""
        for message in [message for message in messages if UNREADABLE in message.properties]:
            logger.error(
                "message %s of %s is set aside: %s", message.msg_id, line.queue, message.properties[UNREADABLE]
            )
            context = ConsumeContext(line.queue, delay_level_when_next_consume=-1)
            if self._is_locking and await self._consumer.failure_policy.failed([message], context):
                return False
            messages.remove(message)
            offset = line.window.remove([message])
            if line.taken == NOTHING and not line.window.is_dropped and offset != NOTHING:
                self._consumer.commit(line.queue, line.window, offset)
        return True

    def _commit(self, line: _Line) -> None:
        done = line.window.until(line.taken)
        offset = line.window.remove(done) if done else NOTHING
        line.taken = NOTHING
        if offset != NOTHING:
            self._consumer.commit(line.queue, line.window, offset)

    async def _must_wait_for(self, messages: Sequence[MessageExt]) -> bool:
        """Count a failure, and tell whether any of the messages has to be given to the listener again."""
        limit = self._config.max_reconsume_times
        must_wait = False
        for message in messages:
            if 0 <= limit <= message.reconsume_times and await self.exhausted(message):
                continue
            message.reconsume_times += 1
            must_wait = True
        return must_wait

    def _rest_after(self, context: ConsumeOrderlyContext) -> float:
        millis = context.suspend_current_queue_time_millis
        if millis < 0:
            millis = self._config.suspend_current_queue_time_millis
        return min(max(millis, MIN_SUSPEND_MILLIS), MAX_SUSPEND_MILLIS) / 1_000

    async def consume_directly(self, message: MessageExt) -> str:
        """See `ConsumeService.consume_directly`."""
        context = ConsumeOrderlyContext(MessageQueue(message.topic, message.broker_name, message.queue_id))
        status = await self._calls.call([message], context) or ConsumeOrderlyStatus.SUCCESS
        names = {
            ConsumeOrderlyStatus.SUCCESS: "CR_SUCCESS",
            ConsumeOrderlyStatus.COMMIT: "CR_COMMIT",
            ConsumeOrderlyStatus.ROLLBACK: "CR_ROLLBACK",
            ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT: "CR_LATER",
        }
        return names[status]

    def __repr__(self) -> str:
        return f"<OrderlyConsumeService of group {self._group}, {len(self._lines)} queues>"


async def _rest(line: _Line, seconds: float) -> None:
    """Wait, but not when the queue is to be given up."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await line.leaving.wait()
