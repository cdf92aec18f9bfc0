"""Calls the application's listener: a coroutine function on the event loop, a plain function in a thread.

Source: `ThreadPoolExecutor` as the consume services use it, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from typing import Any, TypeVar

from rocketmq_py.common import properties as names
from rocketmq_py.common.environment import Environment, run_in_thread
from rocketmq_py.common.message import MessageExt, MessageQueue
from rocketmq_py.common.topic import retry_topic

logger = logging.getLogger(__name__)

#: What a kind of listener returns.
Status = TypeVar("Status", bound=Enum)


class ListenerCalls:
    """One listener and the threads for it.

    Args:
        listener: the application's function, or an object that is called.
        thread_count: how many calls of a plain function may run at a time.
        environment: decides how blocking calls are run.
    """

    def __init__(self, listener: Callable[..., Any], thread_count: int, environment: Environment) -> None:
        self._listener = listener
        self._thread_count = thread_count
        self._environment = environment
        self._is_async = inspect.iscoroutinefunction(listener) or inspect.iscoroutinefunction(
            getattr(listener, "__call__", None)  # noqa: B004 - an object whose __call__ is a coroutine function
        )
        self._threads: ThreadPoolExecutor | None = None

    def start(self) -> None:
        """Become ready for calls."""
        # In a simulation blocking calls run where the environment says; else listeners get threads of their own,
        # because there are to be as many as the settings say.
        if not self._is_async and self._environment.run_blocking is run_in_thread:
            self._threads = ThreadPoolExecutor(self._thread_count, "rocketmq-py-listener")

    def close(self) -> None:
        """Call no more. A listener that hangs in its thread is left behind; it cannot commit any more."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def call(self, *arguments: Any) -> Any:
        """Call the listener, return its result and let its exceptions through."""
        if self._is_async:
            result: Any = self._listener(*arguments)
        elif self._threads is not None:
            loop = asyncio.get_running_loop()
            result = await loop.run_in_executor(self._threads, self._in_thread, *arguments)
        else:
            result = await self._environment.run_blocking(self._in_thread, *arguments)
        return await result if inspect.isawaitable(result) else result

    async def outcome(
        self, queue: MessageQueue, messages: Sequence[MessageExt], context: Any, done: Status, again: Status
    ) -> Status:
        """Call the listener, and say what becomes of the messages: what it returned, or `done` if that is None.

        An exception, and a result of another type than `done`, are logged and mean `again`.

        Raises:
            asyncio.CancelledError: the calling task itself is being cancelled.
        """
        try:
            result = await self.call(messages, context)
        except asyncio.CancelledError:
            if _is_being_cancelled():
                raise
            # Something that the listener waited for was cancelled; nobody meant this task.
            logger.exception("the listener failed with %d messages of %s", len(messages), queue)
            return again
        except Exception:
            # Broad on purpose: the application may raise anything.
            logger.exception("the listener failed with %d messages of %s", len(messages), queue)
            return again
        if result is None:
            return done
        if isinstance(result, type(done)):
            return result
        # Such as the status of the other kind of listener: its RECONSUME_LATER must not pass for a success.
        logger.error(
            "the listener returned %r with %d messages of %s, which come again; return None or a %s",
            *(result, len(messages), queue, type(done).__name__),
        )
        return again

    def _in_thread(self, *arguments: Any) -> Any:
        try:
            return self._listener(*arguments)
        except SystemExit as error:
            # Let through, it would end the event loop, and with it every client that runs there.
            raise RuntimeError("the listener called sys.exit(), which ends no program from a thread") from error


def _is_being_cancelled() -> bool:
    """Whether a `CancelledError` that was just caught means the running task, and not something it waited for."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def restore_topic(message: MessageExt, group: str) -> None:
    """Give a message of the group's retry topic the name of its first topic back."""
    if message.topic == retry_topic(group):
        message.topic = message.properties.get(names.RETRY_TOPIC, message.topic)
