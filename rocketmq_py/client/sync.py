"""Clients for ordinary code, without `await`: producer and consumers.

    with Producer("OrderService", namesrv_addr="127.0.0.1:9876") as producer:
        result = producer.send(Message.of("Orders", b"...", keys="order-17"))
        print(result.msg_id, result.queue)

Any number of threads may use one client. The work is done by the asynchronous client in a thread of its own.
"""

from __future__ import annotations

import concurrent.futures
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from rocketmq_py.client import lite_pull_subscriber
from rocketmq_py.client import producer as asynchronous
from rocketmq_py.client import push_consumer as asynchronous_push
from rocketmq_py.client.blocking import LoopThread
from rocketmq_py.client.config import ProducerConfig
from rocketmq_py.client.consume_service import Listener
from rocketmq_py.client.consumer_config import LitePullConsumerConfig, PushConsumerConfig
from rocketmq_py.client.selectors import Selector
from rocketmq_py.client.send_result import SendResult
from rocketmq_py.common.message import Message, MessageExt, MessageQueue
from rocketmq_py.remoting.bodies.subscription import TAG


class _Blocking(ABC):
    """What the clients share: a `with` statement starts them, and stops them however it ends."""

    @abstractmethod
    def start(self) -> None: ...

    @abstractmethod
    def stop(self) -> None: ...

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            # `__exit__` is not called after that.
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


class Producer(_Blocking):
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
        self._thread.finish(self._producer.stop)

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

    def recall_message(self, topic: str, recall_handle: str, *, timeout: float | None = None) -> str:
        """Take back a message that waits for its time of delivery, and return its unique id."""
        return self._thread.run(self._producer.recall_message(topic, recall_handle, timeout=timeout))

    def publish_queues(self, topic: str) -> list[MessageQueue]:
        """Return the queues that messages of a topic may go to."""
        return self._thread.run(self._producer.publish_queues(topic))


class PushConsumer(_Blocking):
    """Hands messages to a listener, in threads; see `client/push_consumer.py`.

        def handle(messages, context):
            ...

        consumer = PushConsumer("Billing", namesrv_addr="127.0.0.1:9876")
        consumer.subscribe("Orders")
        consumer.register_listener(handle)
        with consumer:
            input("Enter ends it. ")

    Args:
        group: the consumer group.
        config: the settings; None: the defaults.
        namesrv_addr: the name servers, instead of those in `config`.
    """

    def __init__(self, group: str, config: PushConsumerConfig | None = None, *, namesrv_addr: str = "") -> None:
        self._thread = LoopThread("rocketmq-py-push-consumer")
        self._consumer = asynchronous_push.PushConsumer(group, config, namesrv_addr=namesrv_addr)

    def subscribe(self, topic: str, expression: str = "*", expression_type: str = TAG) -> None:
        """Subscribe a topic, or change its expression; see `PushConsumer.subscribe`."""

        async def subscribe() -> None:
            self._consumer.subscribe(topic, expression, expression_type)

        self._thread.run(subscribe())

    def register_listener(self, listener: Listener) -> None:
        """Name the function that handles messages. It is called in threads of its own, several at a time."""
        self._consumer.register_listener(listener)

    def start(self) -> None:
        """Join the group and begin to consume."""
        self._thread.run(self._consumer.start())

    def stop(self) -> None:
        """Finish what the listener is doing, store the offsets, leave the group. A second call does nothing."""
        self._thread.finish(self._consumer.stop)


class LitePullConsumer(_Blocking):
    """Shares the queues of its group, and hands messages out when asked; see `client/lite_pull_subscriber.py`.

        consumer = LitePullConsumer("Audit", namesrv_addr="127.0.0.1:9876")
        consumer.subscribe("Orders")
        with consumer:
            for message in consumer.poll():
                ...

    Args:
        group: the consumer group.
        config: the settings; None: the defaults.
        namesrv_addr: the name servers, instead of those in `config`.
    """

    def __init__(self, group: str, config: LitePullConsumerConfig | None = None, *, namesrv_addr: str = "") -> None:
        self._thread = LoopThread("rocketmq-py-lite-pull-consumer")
        self._consumer = lite_pull_subscriber.LitePullSubscriber(group, config, namesrv_addr=namesrv_addr)

    def subscribe(self, topic: str, expression: str = "*", expression_type: str = TAG) -> None:
        """Subscribe a topic; before `start`."""
        self._consumer.subscribe(topic, expression, expression_type)

    def start(self) -> None:
        """Join the group and begin to fetch."""
        self._thread.run(self._consumer.start())

    def stop(self) -> None:
        """Commit what was handed out if `auto_commit` is on, and leave the group. A second call does nothing."""
        self._thread.finish(self._consumer.stop)

    def poll(self, timeout: float | None = None) -> list[MessageExt]:
        """Return messages of one queue in their order; an empty list when `timeout` seconds are over."""
        return self._thread.run(self._consumer.poll(timeout))

    def commit(self, offsets: Mapping[MessageQueue, int] | None = None) -> None:
        """Store how far the group is: these positions, or behind everything that `poll` handed out."""
        self._thread.run(self._consumer.commit(offsets))

    def assignment(self) -> list[MessageQueue]:
        """Return the queues of this member now."""

        async def assignment() -> list[MessageQueue]:
            return self._consumer.assignment

        return self._thread.run(assignment())

    def seek(self, queue: MessageQueue, offset: int) -> None:
        """Go on at another offset of a queue of this member."""
        self._thread.run(self._consumer.seek(queue, offset))
