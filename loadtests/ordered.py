"""Load in order: users that send the steps of orders, and users that consume each order step by step.

    rmq-py standalone                                                     (in another terminal)
    python -m locust -f loadtests/ordered.py --headless -u 20 -r 10 -t 20s

Rows and options are those of `locustfile.py`. An order goes to the queue of its key, and a step is sent when the one before
it is acknowledged. A step that comes before its predecessor is logged and does not count as received, so that the run
fails; one that comes again, as it may when a queue changes hands, is no failure.
"""

from __future__ import annotations

import logging
import random
import uuid
from collections.abc import Sequence

import gevent
from locust import User, constant_throughput, task
from locust.exception import StopUser

# Locust runs every user class that it finds in this module's names, so the other module's are not imported by name.
from loadtests import locustfile
from loadtests.locustfile import CLIENT_ENVIRONMENT, Run, run_of
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


class OrderedProducerUser(User):
    """Sends `--rate` steps a second."""

    weight = 3

    def wait_time(self) -> float:
        """Return the pause that keeps the rate, whatever a send took."""
        pause: float = constant_throughput(self.environment.parsed_options.rate)(self)
        return pause

    def on_start(self) -> None:
        """Start a producer of its own."""
        self.run_state = run_of(self.environment)
        self.producer = Producer(namesrv_addr=self.run_state.name_servers, environment=CLIENT_ENVIRONMENT)
        self.run_state.loop.run(self.producer.start())
        self.in_order = OrderedProducer(self.producer)
        gevent.sleep(random.random() / self.environment.parsed_options.rate)

    @task
    def send(self) -> None:
        """Send one step and wait for the answer."""
        if self.run_state.is_draining:
            raise StopUser
        self.run_state.send_by(self.in_order)

    def on_stop(self) -> None:
        """Close the producer."""
        self.run_state.loop.run(self.producer.stop())


class OrderedConsumerUser(locustfile.ConsumerUser):
    """A member of a group that consumes in order."""

    def listener(self, run: Run) -> InOrder:
        """Return what takes the messages."""

        async def handle(messages: Sequence[MessageExt], context: ConsumeOrderlyContext) -> None:
            await run.receive([message for message in messages if BOOK.is_in_order(message)], context)

        return InOrder(handle)
