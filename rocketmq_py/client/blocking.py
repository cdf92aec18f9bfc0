"""Calling asynchronous clients from ordinary code: an event loop in a thread of its own.

A program without an event loop uses the classes of `client/sync.py`, which do everything through one of these threads.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from rocketmq_py.client.errors import ClientStateError

T = TypeVar("T")


class LoopThread:
    """Runs coroutines for threads that must not wait in a loop of their own.

    It starts with the first call and ends with `close`, for good; a program that forgets `close` still ends.

    Args:
        name: of the thread, for logs and debuggers.
    """

    def __init__(self, name: str = "rocketmq-py") -> None:
        self._name = name
        self._lock = threading.Lock()
        # Held while `finish` waits: a second caller returns when the first is done.
        self._finishing = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Begin to run a coroutine, and return a future for its result.

        Raises:
            ClientStateError: the thread was closed.
        """
        # With the lock held, so that `close` in another thread does not stop the loop before it has the coroutine.
        with self._lock:
            if not self._is_closed:
                return asyncio.run_coroutine_threadsafe(coroutine, self._running_loop())
        coroutine.close()
        raise ClientStateError("the client is not running: it was stopped, and does not start again; make a new one")

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end and return its result, or raise its error.

        Raises:
            RuntimeError: called on this thread itself, where waiting would never end.
            ClientStateError: the thread was closed.
        """
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise RuntimeError("a blocking call inside the client's own event loop would never end; await instead")
        future = self.submit(coroutine)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise

    def finish(self, stop: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a client's last coroutine, and close whatever comes of it. After `close` it does nothing.

        Raises:
            RuntimeError: called on this thread itself; nothing was done.
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError(
                "a client cannot be stopped by a coroutine in its own event loop, which would have to wait"
            )
        with self._finishing:
            if self._is_closed:
                return
            try:
                self.run(stop())
            finally:
                self.close()

    def close(self) -> None:
        """End the thread, after cancelling what still runs. A second call does nothing."""
        with self._lock:
            self._is_closed = True
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=_run, args=(self._loop,), name=self._name, daemon=True)
            self._thread.start()
        return self._loop


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        asyncio.set_event_loop(None)
        loop.close()
