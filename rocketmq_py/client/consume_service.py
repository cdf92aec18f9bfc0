"""Hands pulled messages to the application's listener, many at a time, and commits what is finished.

Source: `ConsumeMessageConcurrentlyService`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from rocketmq_py.client.consumer_config import PushConsumerConfig
from rocketmq_py.client.failure_policy import FailurePolicy
from rocketmq_py.client.listener_calls import ListenerCalls, restore_topic
from rocketmq_py.client.process_queue import NOTHING, ProcessQueue
from rocketmq_py.client.pull_api import UNREADABLE
from rocketmq_py.client.rebalance import QueueClaim
from rocketmq_py.common import properties as names
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.message import MessageExt, MessageQueue
from rocketmq_py.remoting.bodies.heartbeat import MessageModel

logger = logging.getLogger(__name__)

#: Seconds after which messages are consumed again that the failure policy left here.
LOCAL_RETRY_SECONDS: Final = 5.0


class ConsumeStatus(enum.Enum):
    """What a listener made of its messages."""

    CONSUME_SUCCESS = "done"
    RECONSUME_LATER = "not done; give them to me again later"


@dataclass(slots=True)
class ConsumeContext:
    """What a listener is told beside the messages, and may set.

    Attributes:
        queue: where the messages came from.
        ack_index: with CONSUME_SUCCESS, the index of the last message that is done; the rest counts as failed.
        delay_level_when_next_consume: when failed messages come again: -1 never (dead letters), 0 the broker decides.
        properties: for hooks.
    """

    queue: MessageQueue
    ack_index: int = 2_147_483_647
    delay_level_when_next_consume: int = 0
    properties: dict[str, Any] = field(default_factory=dict)


#: Handles messages. A plain function runs in a thread, a coroutine function on the event loop. Returning None means
#: CONSUME_SUCCESS (in RocketMQ null means "later"); raising anything means RECONSUME_LATER.
Listener = Callable[[Sequence[MessageExt], ConsumeContext], "ConsumeStatus | Awaitable[ConsumeStatus | None] | None"]


class ConsumeMessageHook(Protocol):
    """Sees every call of a listener. An error that it raises is logged."""

    def before(self, messages: Sequence[MessageExt], context: ConsumeContext) -> None:
        """Called before the listener."""
        ...

    def after(self, messages: Sequence[MessageExt], context: ConsumeContext, status: ConsumeStatus) -> None:
        """Called with what the listener made of the messages."""
        ...


class ConsumeService(Protocol):
    """What happens to the messages that were pulled.

    Attributes:
        keeps_order: messages of one queue are handled one after the other.
        claim: has a say when queues come and go.
    """

    keeps_order: bool

    @property
    def claim(self) -> QueueClaim | None:
        """See above."""
        ...

    def start(self) -> None:
        """Become ready for messages."""
        ...

    async def stop(self, seconds: float) -> None:
        """Begin no further call of the listener, wait for those that run, at most `seconds`, and give up the rest."""
        ...

    def submit(self, queue: MessageQueue, process_queue: ProcessQueue, messages: list[MessageExt]) -> None:
        """Take messages that were put into the window of their queue."""
        ...

    async def consume_directly(self, message: MessageExt) -> str:
        """Give the listener one message outside of any queue and return how it went, as tools name it.

        Raises:
            Exception: whatever the listener raised.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Job:
    queue: MessageQueue
    process_queue: ProcessQueue
    messages: list[MessageExt]


class ConcurrentConsumeService:
    """Runs the listener in up to `consume_thread_max` calls at a time; the order of messages means nothing.

    Args:
        group: the consumer group.
        config: the settings.
        environment: decides how blocking calls are run.
        listener: the application's.
        policy: what happens to messages that failed.
        commit: called with queue, window and the offset up to which everything is finished.

    Attributes:
        hooks: see every call.
        succeeded, failed: how many messages.
    """

    keeps_order = False
    claim: QueueClaim | None = None

    def __init__(
        self,
        group: str,
        config: PushConsumerConfig,
        environment: Environment,
        listener: Listener,
        policy: FailurePolicy,
        commit: Callable[[MessageQueue, ProcessQueue, int], None],
    ) -> None:
        self.hooks: list[ConsumeMessageHook] = []
        self.succeeded = self.failed = 0
        self._config = config
        self._environment = environment
        self._calls = ListenerCalls(listener, config.consume_thread_max, environment)
        self._policy = policy
        self._commit = commit
        self._group = group
        self._jobs: asyncio.Queue[_Job] = asyncio.Queue()
        self._workers: set[asyncio.Task[None]] = set()
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._retries: set[asyncio.TimerHandle] = set()
        self._is_stopping = False

    # --- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Become ready for jobs."""
        self._calls.start()

    async def stop(self, seconds: float) -> None:
        """Begin no further call, wait for those that are running, at most `seconds`, and cancel the rest."""
        self._is_stopping = True
        for retry in self._retries:
            retry.cancel()
        self._retries.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        self._calls.close()

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def submit(self, queue: MessageQueue, process_queue: ProcessQueue, messages: list[MessageExt]) -> None:
        """Queue messages for the listener, in pieces of `consume_message_batch_max_size`."""
        size = self._config.consume_message_batch_max_size
        for start in range(0, len(messages), size):
            self._jobs.put_nowait(_Job(queue, process_queue, messages[start : start + size]))
        while len(self._workers) < min(self._config.consume_thread_max, self._running + self._jobs.qsize()):
            worker = asyncio.get_running_loop().create_task(self._work(), name="consume worker")
            self._workers.add(worker)

    async def _work(self) -> None:
        while not self._is_stopping:
            job = await self._jobs.get()
            self._running += 1
            self._idle.clear()
            try:
                await self._consume(job)
            except Exception:
                # Broad on purpose: a worker that died would leave its share of the messages unconsumed for ever.
                logger.exception("consuming messages of %s failed", job.queue)
            finally:
                self._running -= 1
                if not self._running:
                    self._idle.set()

    async def _consume(self, job: _Job) -> None:
        # After the stop began nothing new is started: what waits belongs to the queue's next owner.
        if job.process_queue.is_dropped or self._is_stopping:
            return
        unreadable = [message for message in job.messages if UNREADABLE in message.properties]
        if unreadable:
            await self._set_aside(_Job(job.queue, job.process_queue, unreadable))
            job = _Job(job.queue, job.process_queue, [one for one in job.messages if one not in unreadable])
        if job.messages and not job.process_queue.is_dropped:
            await self._listen(job)

    async def _listen(self, job: _Job) -> None:
        """Give messages to the listener, and do what it says."""
        context = ConsumeContext(job.queue)
        now = str(self._environment.clock.wall_ms())
        for message in job.messages:
            restore_topic(message, self._group)
            message.properties[names.CONSUME_START_TIME] = now
        self._call_hooks("before", job.messages, context)
        status = await self._calls.outcome(
            *(job.queue, job.messages, context), ConsumeStatus.CONSUME_SUCCESS, ConsumeStatus.RECONSUME_LATER
        )
        self._call_hooks("after", job.messages, context, status)
        # Not committed if the queue was lost meanwhile: its new owner consumes these messages again.
        if not job.process_queue.is_dropped:
            await self._finish(job, context, status)

    async def _set_aside(self, job: _Job) -> None:
        """Treat messages whose bodies cannot be read as failed for ever: no listener could make anything of them."""
        for message in job.messages:
            logger.error("message %s of %s is set aside: %s", message.msg_id, job.queue, message.properties[UNREADABLE])
        await self._finish(
            job, ConsumeContext(job.queue, delay_level_when_next_consume=-1), ConsumeStatus.RECONSUME_LATER
        )

    async def consume_directly(self, message: MessageExt) -> str:
        """See `ConsumeService.consume_directly`."""
        context = ConsumeContext(MessageQueue(message.topic, message.broker_name, message.queue_id))
        status = await self._calls.call([message], context)
        return "CR_LATER" if status is ConsumeStatus.RECONSUME_LATER else "CR_SUCCESS"

    async def _finish(self, job: _Job, context: ConsumeContext, status: ConsumeStatus) -> None:
        last_done = context.ack_index if status is ConsumeStatus.CONSUME_SUCCESS else -1
        done = job.messages[: max(last_done + 1, 0)]
        failed = job.messages[len(done) :]
        self.succeeded += len(done)
        self.failed += len(failed)
        again: list[MessageExt] = []
        if failed and self._config.message_model is MessageModel.BROADCASTING:
            logger.warning(
                "%d messages of %s failed and are dropped: broadcasting has no retry", len(failed), job.queue
            )
        elif failed:
            again = await self._failed(failed, context)
        finished = [message for message in job.messages if message not in again]
        offset = job.process_queue.remove(finished) if finished else NOTHING
        if offset != NOTHING and not job.process_queue.is_dropped:
            self._commit(job.queue, job.process_queue, offset)
        if again:
            self._retry_later(_Job(job.queue, job.process_queue, again))

    async def _failed(self, failed: list[MessageExt], context: ConsumeContext) -> list[MessageExt]:
        try:
            return await self._policy.failed(failed, context)
        except Exception:
            # Broad on purpose: a message that nobody cares for would hold its queue back for ever.
            logger.exception("the failure policy failed; %d messages of %s stay here", len(failed), context.queue)
            return failed

    def _retry_later(self, job: _Job) -> None:
        for message in job.messages:
            message.reconsume_times += 1

        def submit() -> None:
            self._retries.discard(handle)
            self.submit(job.queue, job.process_queue, job.messages)

        handle = asyncio.get_running_loop().call_later(LOCAL_RETRY_SECONDS, submit)
        self._retries.add(handle)

    def _call_hooks(self, method: str, *arguments: Any) -> None:
        for hook in self.hooks:
            try:
                getattr(hook, method)(*arguments)
            except Exception:
                logger.exception("consume hook %r failed", hook)

    def __repr__(self) -> str:
        return f"<ConcurrentConsumeService {self._running} calls running, {self._jobs.qsize()} jobs waiting>"
