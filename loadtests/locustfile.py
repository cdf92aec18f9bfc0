"""Load on a running cluster: users that send and users that consume, as Locust counts them.

    rmq-py standalone                                                     (in another terminal)
    locust -f loadtests/locustfile.py --headless -u 20 -r 10 -t 20s

Two rows of Locust's table are what matters: `SEND` is the time from the call of a producer to the broker's answer,
`RECEIVE` the time from the same call to the moment when a consumer's listener has the message. At the end of the run
the users stop sending, and every message that was acknowledged must have come out at a consumer: one that did not is a
failure, as is every failed send, and with failures Locust's exit code is 1.

    DELAYED_USERS=2 locust -f loadtests/locustfile.py --headless -u 20 -r 10 -t 20s

adds users that send messages of delay level 1. Their row `LATE` is the time from the moment when a message is due, a
second after the call of `send`, to the moment when a listener has it.

The clients are the package's own, asynchronous ones. Locust's users are greenlets of one thread; all clients live on an
event loop in another one (`ClientLoop`), and what they measure is measured there, so that Locust's own work between two
requests is in no figure.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import random
import sys
import time
import uuid
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import gevent
from gevent.threadpool import ThreadPool
from locust import User, constant_throughput, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.exception import StopUser
from locust.runners import LocalRunner, MasterRunner

from rocketmq_py.client.admin.client import AdminClient
from rocketmq_py.client.consume_service import ConsumeContext, Listener
from rocketmq_py.client.consumer_config import PushConsumerConfig
from rocketmq_py.client.producer import Producer
from rocketmq_py.client.push_consumer import PushConsumer
from rocketmq_py.client.send_result import SendResult
from rocketmq_py.common.environment import system_environment
from rocketmq_py.common.message import Message, MessageExt
from rocketmq_py.remoting.bodies.heartbeat import ConsumeFromWhere

try:
    from uvloop import new_event_loop
except ImportError:
    from asyncio import new_event_loop

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Property that carries the run and the time of the call of `send`, in nanoseconds since 1970.
STAMP = "LOADTEST"
#: Seconds in which everything that was sent must have come out after the last send.
DRAIN_SECONDS = 10.0
#: Seconds between two looks at what consumers got.
COUNT_SECONDS = 0.05
#: The delay level of delayed users, and its seconds by RocketMQ's default.
DELAY_LEVEL, DELAY_SECONDS = 1, 1.0


class ClientLoop:
    """An event loop in a thread of the operating system, for greenlets that wait for coroutines.

    gevent replaces the locks of `threading`, which are not made for waiting across threads, so nothing is used here but
    what both sides allow: `call_soon_threadsafe` on the way there, gevent's `async_` watcher on the way back.
    """

    def __init__(self) -> None:
        self._loop = new_event_loop()
        self._thread = ThreadPool(1)
        self._end = self._thread.spawn(self._loop.run_forever)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end, let other greenlets run meanwhile, and return its result or raise its error."""
        hub = gevent.get_hub()
        watcher = hub.loop.async_()
        tasks: list[asyncio.Task[T]] = []

        def begin() -> None:
            task = self._loop.create_task(coroutine)
            tasks.append(task)
            task.add_done_callback(lambda _: watcher.send())

        self._loop.call_soon_threadsafe(begin)
        try:
            hub.wait(watcher)
        finally:
            watcher.close()
        return tasks[0].result()

    def close(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._end.get()
        self._loop.close()
        self._thread.kill()


async def run_here(function: Callable[..., T], *arguments: Any) -> T:
    """Call a blocking function in place: under gevent an executor's threads are greenlets of a loop that nobody runs.

    The clients need it once, to find out their own address.
    """
    return function(*arguments)


#: The clients' clock, files and randomness.
CLIENT_ENVIRONMENT = replace(system_environment(), run_blocking=run_here)


class Run:
    """What the users of one process share during one run.

    Attributes:
        loop: runs the clients.
        identity: tells this run's messages from those of runs before it.
        is_draining: nothing is sent any more.
        repeated: messages that came again, as they may when queues change hands.
        rolled_back: numbers of messages that must not come.
        under_way: sends that are not counted yet.
        started: users whose clients have started.
    """

    def __init__(self, environment: Environment) -> None:
        options = environment.parsed_options
        self.name_servers: str = options.namesrv
        self.topic: str = options.topic
        self.group: str = options.group
        self.queues: int = options.queues
        self.body = b"x" * options.body_size
        self.identity = uuid.uuid4().hex
        self.began_ms = time.time_ns() // 1_000_000
        self.is_draining = False
        self.loop = ClientLoop()
        self._environment = environment
        self.repeated = 0
        self.rolled_back: set[str] = set()
        self.under_way = 0
        self.started = 0
        self._numbers = itertools.count(1)
        self._arrivals: deque[tuple[str, str, float, int]] = deque()
        self._missing: set[str] = set()

    async def make_topic(self) -> None:
        """Create the topic where it is missing, so that consumers find its queues at once."""
        async with AdminClient(namesrv_addr=self.name_servers, environment=CLIENT_ENVIRONMENT) as admin:
            await admin.topics.create(self.topic, self.queues)

    def message(self) -> tuple[Message, str]:
        """Return a message that says when it was made, and its number."""
        message, number = Message.of(self.topic, self.body, tags="load"), str(next(self._numbers))
        message.properties[STAMP] = f"{self.identity} {number} {time.time_ns()}"
        return message, number

    def report(self, kind: str, seconds: float, size: int, error: Exception | None = None) -> None:
        """Count one request of Locust's table."""
        self._environment.events.request.fire(
            request_type=kind,
            name=self.topic,
            response_time=seconds * 1_000,
            response_length=size,
            exception=error,
            context={},
        )

    async def send(self, producer: Producer, message: Message) -> tuple[SendResult | Exception, float]:
        """Send and return what came of it, and the seconds it took; runs on the clients' loop."""
        begin = time.perf_counter()
        try:
            result: SendResult | Exception = await producer.send(message)
        except Exception as error:
            # Whatever went wrong is a row in Locust's table of failures.
            result = error
        return result, time.perf_counter() - begin

    async def receive(self, messages: Sequence[MessageExt], context: ConsumeContext) -> None:
        """Take messages as a consumer's listener; runs on the clients' loop, so it only notes them."""
        now = time.time_ns()
        for message in messages:
            identity, number, stamp = (message.get(STAMP) or "- - 0").split(" ")
            if identity == self.identity:
                seconds, kind = (now - int(stamp)) / 1e9, "RECEIVE"
                if message.delay_level:
                    seconds, kind = seconds - DELAY_SECONDS, "LATE"
                self._arrivals.append((kind, number, seconds, len(message.body)))

    def send_by(self, producer: Producer, delay_level: int = 0) -> None:
        """Send one message, wait for the answer and count it."""
        message, number = self.message()
        message.delay_level = delay_level
        # Before the send: a consumer may have the message before the producer has its answer.
        self.expect(number)
        result, seconds = self.loop.run(self.send(producer, message))
        if isinstance(result, Exception):
            # It may come or not; nothing was promised.
            self.forget(number)
            self.report("SEND", seconds, 0, result)
        else:
            self.report("SEND", seconds, len(message.body))

    def expect(self, number: str) -> None:
        """Note that a message has to come."""
        self._missing.add(number)

    def forget(self, number: str) -> None:
        """Note that it may come or not."""
        self._missing.discard(number)

    def count_arrivals(self) -> None:
        """Count what consumers got since the last call."""
        while self._arrivals:
            kind, number, seconds, size = self._arrivals.popleft()
            if number in self._missing:
                self._missing.discard(number)
                self.report(kind, seconds, size)
            elif number in self.rolled_back:
                self.report(kind, seconds, size, LookupError("a message came that was rolled back"))
            else:
                self.repeated += 1

    def drain(self) -> None:
        """Stop sending and wait until consumers have everything; what is missing then is a failure."""
        self.is_draining = True
        end = time.monotonic() + DRAIN_SECONDS
        # A consumer may have a message before its producer has the answer, and Locust ends users where they stand.
        while (self._missing or self.under_way) and time.monotonic() < end:
            gevent.sleep(COUNT_SECONDS)
            self.count_arrivals()
        for _ in self._missing:
            # One text for all, so that they are one row of the table of failures.
            self.report("RECEIVE", DRAIN_SECONDS, 0, LookupError("a message was accepted and did not come"))
        if self.repeated:
            logger.info("%d messages came more than once; a group that is rebalanced allows that", self.repeated)


class ProducerUser(User):
    """Sends `--rate` messages a second, one after the other."""

    weight = 3
    delay_level = 0

    def wait_time(self) -> float:
        """Return the pause that keeps the rate, whatever a send took."""
        pause: float = constant_throughput(self.environment.parsed_options.rate)(self)
        return pause

    def on_start(self) -> None:
        """Start a producer of its own."""
        self.run_state = run_of(self.environment)
        self.producer = self.make_producer(self.run_state)
        self.run_state.loop.run(self.producer.start())
        self.run_state.started += 1
        # Users that were spawned together would otherwise send together for ever.
        gevent.sleep(random.random() / self.environment.parsed_options.rate)

    def make_producer(self, run: Run) -> Producer:
        """Return the producer, not started."""
        return Producer(namesrv_addr=run.name_servers, environment=CLIENT_ENVIRONMENT)

    @task
    def send(self) -> None:
        """Send one message, or end when consumers are waited for."""
        if self.run_state.is_draining:
            raise StopUser
        self.run_state.under_way += 1
        try:
            self.send_one(self.run_state)
        finally:
            self.run_state.under_way -= 1

    def send_one(self, run: Run) -> None:
        """Send one message, wait for the answer and count it."""
        run.send_by(self.producer, self.delay_level)

    def on_stop(self) -> None:
        """Close the producer."""
        self.run_state.loop.run(self.producer.stop())


class DelayedUser(ProducerUser):
    """Sends messages that come a second later; as many users as `DELAYED_USERS` says, none by default."""

    weight = 0
    fixed_count = int(os.environ.get("DELAYED_USERS", "0"))
    delay_level = DELAY_LEVEL


class ConsumerUser(User):
    """A member of the consumer group; the work is done by its listener, this user only counts."""

    weight = 1

    def on_start(self) -> None:
        """Join the group."""
        self.run_state = run = run_of(self.environment)
        config = PushConsumerConfig(
            namesrv_addr=run.name_servers,
            # Each user is a client of its own; within a process they would otherwise have one name.
            instance_name=f"load-{uuid.uuid4().hex[:12]}",
            consume_from_where=ConsumeFromWhere.CONSUME_FROM_TIMESTAMP,
            consume_timestamp=run.began_ms,
        )
        self.consumer = PushConsumer(run.group, config, environment=CLIENT_ENVIRONMENT)
        self.consumer.subscribe(run.topic)
        self.consumer.register_listener(self.listener(run))
        run.loop.run(self.consumer.start())
        run.started += 1

    def listener(self, run: Run) -> Listener:
        """Return what takes the messages."""
        return run.receive

    @task
    def consume(self) -> None:
        """Let the listener work, and count what it got."""
        gevent.sleep(COUNT_SECONDS)
        self.run_state.count_arrivals()

    def on_stop(self) -> None:
        """Leave the group, after what was received is acknowledged."""
        self.run_state.loop.run(self.consumer.stop())


# --- the course of a run ----------------------------------------------------------------------------------------------


def run_of(environment: Environment) -> Run:
    """Return the run that the users of this environment belong to."""
    run: Run = environment.rocketmq_run
    return run


@events.init_command_line_parser.add_listener
def add_options(parser: LocustArgumentParser) -> None:
    """Add what can be chosen; the defaults fit `rmq-py standalone`."""
    parser.add_argument("--namesrv", default="127.0.0.1:9876", env_var="NAMESRV_ADDR", help="name servers")
    parser.add_argument("--topic", default="LoadTest", help="topic, created if it is missing")
    parser.add_argument("--queues", type=int, default=8, help="queues of the topic on each broker")
    parser.add_argument("--group", default="LoadTestGroup", help="consumer group")
    parser.add_argument("--body-size", type=int, default=128, help="bytes of one message")
    parser.add_argument(
        "--seconds",
        type=float,
        default=0.0,
        help="length of a run from the moment when all users have started; instead of -t",
    )
    parser.add_argument("--rate", type=float, default=20.0, help="messages a second of one producer user")


@events.test_start.add_listener
def begin(environment: Environment, **_: Any) -> None:
    """Prepare a run in every process that has users."""
    if isinstance(environment.runner, MasterRunner):
        return
    run = Run(environment)
    environment.rocketmq_run = run
    try:
        run.loop.run(run.make_topic())
    except Exception as error:
        logger.error("no topic could be made at name server %s: %s", run.name_servers, error)
        environment.process_exit_code = 2
        # The start goes on after this, and would undo an end that came before it.
        gevent.spawn_later(COUNT_SECONDS, environment.runner.quit)
        return
    if environment.parsed_options.seconds:
        gevent.spawn(end_in_time, environment)


def end_in_time(environment: Environment) -> None:
    """End a run `--seconds` after its last user has started. Locust's own `-t` counts from before the first one."""
    while run_of(environment).started < environment.parsed_options.num_users:
        gevent.sleep(COUNT_SECONDS)
    gevent.sleep(environment.parsed_options.seconds)
    environment.runner.quit()


@events.test_stopping.add_listener
def drain(environment: Environment, **_: Any) -> None:
    """Wait for the last messages. With workers each has its own part of the group, so only a lone process can tell."""
    run = getattr(environment, "rocketmq_run", None)
    if run is not None and isinstance(environment.runner, LocalRunner):
        run.drain()


@events.test_stop.add_listener
def end(environment: Environment, **_: Any) -> None:
    """Close the loop once all users are gone."""
    run = getattr(environment, "rocketmq_run", None)
    if run is not None:
        run.loop.close()


@events.quit.add_listener
def end_at_once(exit_code: int, **_: Any) -> None:
    """End the process without taking the interpreter apart: native threads of gevent may not be gone yet, and Python
    aborts when it finds one of them then."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)
