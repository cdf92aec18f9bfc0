"""Load in order: users that send the steps of orders, and users that consume each order step by step.

    rmq-py standalone                                                     (in another terminal)
    python -m locust -f loadtests/ordered.py --headless -u 20 -r 10 -t 20s

Rows and options are those of `locustfile.py`. An order goes to the queue of its key, and a step is sent when the one before
it is acknowledged. A step that comes before its predecessor is logged and does not count as received, so that the run
fails; one that comes again, as it may when a queue changes hands, is no failure.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence

# Locust runs every user class that it finds in this module's names, so the other module's are not imported by name.
from loadtests import locustfile
from loadtests.locustfile import Run
from rocketmq_py.client.orderly import ConsumeOrderlyContext, InOrder
from rocketmq_py.client.producer import Producer
from rocketmq_py.client.selectors import select_by_hash
from rocketmq_py.client.send_result import SendResult
from rocketmq_py.common.message import Message, MessageExt

logger = logging.getLogger(__name__)

#: Property that says order and step.
STEP = "LOADTEST_STEP"
#: Steps of one order.
STEPS = 50


class OrderedProducer:
    """A producer that sends the steps of one order after the other.

    Args:
        producer: sends them.
    """

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self._begin_order()

    def _begin_order(self) -> None:
        self._order, self._step = uuid.uuid4().hex, 0

    async def send(self, message: Message) -> SendResult:
        """Send a message as the next step. After a failure, whose step may be missing, a new order begins."""
        self._step += 1
        message.properties[STEP] = f"{self._order} {self._step}"
        try:
            return await self._producer.send_by(message, select_by_hash, self._order)
        except Exception:
            self._begin_order()
            raise
        finally:
            if self._step >= STEPS:
                self._begin_order()


class OrderBook:
    """How far each order is. Only the clients' loop writes to it."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}

    def is_in_order(self, message: MessageExt) -> bool:
        """Take the next message of a queue; tell whether its predecessor came before it."""
        order, _, text = (message.get(STEP) or " 0").partition(" ")
        step, last = int(text), self._last.get(order, 0)
        if step > last + 1:
            logger.error("step %d of order %s came after step %d", step, order, last)
            return False
        self._last[order] = max(step, last)
        return True


#: Of this process. Orders have names of their own, so that runs cannot disturb each other.
BOOK = OrderBook()


class OrderedProducerUser(locustfile.ProducerUser):
    """Sends `--rate` steps a second."""

    def on_start(self) -> None:
        """Start a producer of its own."""
        super().on_start()
        self.in_order = OrderedProducer(self.producer)

    def send_one(self, run: Run) -> None:
        """Send one step, wait for the answer and count it."""
        run.send_by(self.in_order)


class OrderedConsumerUser(locustfile.ConsumerUser):
    """A member of a group that consumes in order."""

    def listener(self, run: Run) -> InOrder:
        """Return what takes the messages."""

        async def handle(messages: Sequence[MessageExt], context: ConsumeOrderlyContext) -> None:
            await run.receive([message for message in messages if BOOK.is_in_order(message)], context)

        return InOrder(handle)
