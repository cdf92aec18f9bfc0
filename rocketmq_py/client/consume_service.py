"""Hands pulled messages to the application's listener, many at a time, and commits what is finished.

Source: `ConsumeMessageConcurrentlyService`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from rocketmq_py.client.consumer_config import PushConsumerConfig
from rocketmq_py.client.failure_policy import FailurePolicy
from rocketmq_py.client.process_queue import NOTHING, ProcessQueue
from rocketmq_py.common import properties as names
from rocketmq_py.common.environment import Environment, run_in_thread
from rocketmq_py.common.message import MessageExt, MessageQueue
from rocketmq_py.common.topic import retry_topic
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
        self._listener = listener
        self._is_async = inspect.iscoroutinefunction(listener) or inspect.iscoroutinefunction(
            getattr(listener, "__call__", None)  # noqa: B004 - an object whose __call__ is a coroutine function
        )
        self._policy = policy
        self._commit = commit
        self._retry_topic = retry_topic(group)
        self._jobs: asyncio.Queue[_Job] = asyncio.Queue()
        self._workers: set[asyncio.Task[None]] = set()
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._retries: set[asyncio.TimerHandle] = set()
        self._threads: ThreadPoolExecutor | None = None
        self._is_stopping = False

    # --- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Become ready for jobs."""
        # In a simulation blocking calls run where the environment says; else listeners get threads of their own,
        # because there are to be as many as the settings say.
        if not self._is_async and self._environment.run_blocking is run_in_thread:
            self._threads = ThreadPoolExecutor(self._config.consume_thread_max, "rocketmq-py-listener")

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
        if self._threads is not None:
            # A listener that hangs in its thread is left behind; it cannot commit any more.
            self._threads.shutdown(wait=False, cancel_futures=True)

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
        context = ConsumeContext(job.queue)
        now = str(self._environment.clock.wall_ms())
        for message in job.messages:
            self._restore_topic(message)
            message.properties[names.CONSUME_START_TIME] = now
        self._call_hooks("before", job.messages, context)
        status = await self.call(job.messages, context)
        self._call_hooks("after", job.messages, context, status)
        # Not committed if the queue was lost meanwhile: its new owner consumes these messages again.
        if not job.process_queue.is_dropped:
            await self._finish(job, context, status)

    async def call(self, messages: Sequence[MessageExt], context: ConsumeContext) -> ConsumeStatus:
        """Call the listener; an exception is logged and means RECONSUME_LATER."""
        try:
            return await self.call_listener(messages, context) or ConsumeStatus.CONSUME_SUCCESS
        except Exception:
            # Broad on purpose: the application may raise anything.
            logger.exception("the listener failed with %d messages of %s", len(messages), context.queue)
            return ConsumeStatus.RECONSUME_LATER

    async def call_listener(self, messages: Sequence[MessageExt], context: ConsumeContext) -> ConsumeStatus | None:
        """Call the listener, in a thread if it is a plain function, and let its exceptions through."""
        if self._is_async:
            result: Any = self._listener(messages, context)
        elif self._threads is not None:
            loop = asyncio.get_running_loop()
            result = await loop.run_in_executor(self._threads, self._listener, messages, context)
        else:
            result = await self._environment.run_blocking(self._listener, messages, context)
        status: ConsumeStatus | None = await result if inspect.isawaitable(result) else result
        return status

    def _restore_topic(self, message: MessageExt) -> None:
        """Give a message of the retry topic the name of its first topic back."""
        if message.topic == self._retry_topic:
            message.topic = message.properties.get(names.RETRY_TOPIC, message.topic)

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
            again = await self._policy.failed(failed, context)
        finished = [message for message in job.messages if message not in again]
        offset = job.process_queue.remove(finished) if finished else NOTHING
        if offset != NOTHING and not job.process_queue.is_dropped:
            self._commit(job.queue, job.process_queue, offset)
        if again:
            self._retry_later(_Job(job.queue, job.process_queue, again))

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
