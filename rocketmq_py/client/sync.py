"""The producer for ordinary code, without `await`.

    with Producer("OrderService", namesrv_addr="127.0.0.1:9876") as producer:
        result = producer.send(Message.of("Orders", b"...", keys="order-17"))
        print(result.msg_id, result.queue)

Any number of threads may use one producer. The work is done by the asynchronous client in a thread of its own.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from rocketmq_py.client import producer as asynchronous
from rocketmq_py.client.blocking import LoopThread
from rocketmq_py.client.config import ProducerConfig
from rocketmq_py.client.selectors import Selector
from rocketmq_py.client.send_result import SendResult
from rocketmq_py.common.message import Message, MessageQueue


class Producer:
    """Sends messages and waits for the answers; see `client/producer.py` for what each call promises.

    Args:
        group: names the producers that do the same; empty: a name of this producer's own.
        config: the settings; None: the defaults.
        namesrv_addr: the name servers, instead of those in `config`.
    """

    def __init__(self, group: str = "", config: ProducerConfig | None = None, *, namesrv_addr: str = "") -> None:
        self._thread = LoopThread("rocketmq-py-producer")
        self._producer = asynchronous.Producer(group, config, namesrv_addr=namesrv_addr)

    @property
    def group(self) -> str:
        """The producer group."""
        return self._producer.group

    def start(self) -> None:
        """Become able to send. A second call does nothing."""
        self._thread.run(self._producer.start())

    def stop(self) -> None:
        """Wait for sends that are under way, and close. A second call does nothing."""
        self._thread.run(self._producer.stop())
        self._thread.close()

    def __enter__(self) -> Producer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def send(self, message: Message, *, queue: MessageQueue | None = None, timeout: float | None = None) -> SendResult:
        """Send a message and wait until the broker has stored it."""
        return self._thread.run(self._producer.send(message, queue=queue, timeout=timeout))

    def send_batch(
        self, messages: Sequence[Message], *, queue: MessageQueue | None = None, timeout: float | None = None
    ) -> SendResult:
        """Send several messages of one topic in one request."""
        return self._thread.run(self._producer.send_batch(messages, queue=queue, timeout=timeout))

    def send_by(
        self, message: Message, selector: Selector, argument: Any = None, *, timeout: float | None = None
    ) -> SendResult:
        """Send to the queue that `selector(queues, message, argument)` returns."""
        return self._thread.run(self._producer.send_by(message, selector, argument, timeout=timeout))

    def send_async(
        self, message: Message, *, queue: MessageQueue | None = None, timeout: float | None = None
    ) -> concurrent.futures.Future[SendResult]:
        """Begin to send a message, and return a future for its result."""

        async def send() -> SendResult:
            return await self._producer.send_async(message, queue=queue, timeout=timeout)

        return self._thread.submit(send())

    def send_one_way(self, message: Message, *, queue: MessageQueue | None = None) -> None:
        """Send a message that nobody answers for."""
        self._thread.run(self._producer.send_one_way(message, queue=queue))

    def publish_queues(self, topic: str) -> list[MessageQueue]:
        """Return the queues that messages of a topic may go to."""
        return self._thread.run(self._producer.publish_queues(topic))
