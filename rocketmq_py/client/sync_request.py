"""Requests and replies without `await`.

with RequestProducer("Shop", namesrv_addr="127.0.0.1:9876") as producer:
    reply = producer.request(Message.of("Prices", b"two coffees"), timeout=2.0)
"""

from __future__ import annotations

import concurrent.futures
from typing import Any

from rocketmq_py.client import request_producer as asynchronous
from rocketmq_py.client import sync
from rocketmq_py.client.blocking import LoopThread
from rocketmq_py.client.config import ProducerConfig
from rocketmq_py.client.request_producer import MAX_WAITING
from rocketmq_py.client.selectors import Selector
from rocketmq_py.client.send_result import SendResult
from rocketmq_py.common.message import Message, MessageExt, MessageQueue


class RequestProducer(sync.Producer):
    """A blocking producer that can ask; see `client/request_producer.py` for what each call promises.

    Args:
        group: names the producers that do the same; empty: a name of this producer's own.
        config: the settings; None: the defaults.
        namesrv_addr: the name servers, instead of those in `config`.
        max_waiting: requests that may wait for their replies at a time; the next one is refused.
    """

    _producer: asynchronous.RequestProducer

    def __init__(
        self,
        group: str = "",
        config: ProducerConfig | None = None,
        *,
        namesrv_addr: str = "",
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self._thread = LoopThread("rocketmq-py-request-producer")
        self._producer = asynchronous.RequestProducer(group, config, namesrv_addr=namesrv_addr, max_waiting=max_waiting)

    def request(
        self, message: Message, *, queue: MessageQueue | None = None, timeout: float | None = None
    ) -> MessageExt:
        """Send a message and wait for the reply to it."""
        return self._thread.run(self._producer.request(message, queue=queue, timeout=timeout))

    def request_by(
        self, message: Message, selector: Selector, argument: Any = None, *, timeout: float | None = None
    ) -> MessageExt:
        """Send to the queue that `selector(queues, message, argument)` returns, and wait for the reply."""
        return self._thread.run(self._producer.request_by(message, selector, argument, timeout=timeout))

    def request_async(
        self, message: Message, *, queue: MessageQueue | None = None, timeout: float | None = None
    ) -> concurrent.futures.Future[MessageExt]:
        """Begin to ask, and return a future for the reply. Cancelling it gives the reply up."""
        return self._thread.submit(self._producer.request(message, queue=queue, timeout=timeout))

    def reply(self, request: MessageExt, body: bytes, *, timeout: float | None = None) -> SendResult:
        """Answer a request."""
        return self._thread.run(self._producer.reply(request, body, timeout=timeout))
