"""The lite pull consumer: messages are fetched ahead in the background, and `poll` hands them out.

    async with LitePullConsumer("Audit", namesrv_addr="127.0.0.1:9876") as consumer:
        await consumer.assign(await consumer.fetch_queues("Orders"))
        while messages := await consumer.poll():
            ...

The application is in command: it assigns queues, pauses them, seeks in them, and commits. An offset counts as consumed
when `poll` hands its message out, not when the application is done with it.

Source: `DefaultLitePullConsumerImpl`, `AssignedMessageQueue`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Final

from rocketmq_py.client.admin.offsets import OffsetAdmin
from rocketmq_py.client.consumer_config import LitePullConsumerConfig
from rocketmq_py.client.errors import BrokerResponseError, ClientError, ClientStateError
from rocketmq_py.client.instance import MQClientInstance
from rocketmq_py.client.offset_store import RemoteOffsetStore
from rocketmq_py.client.process_queue import NOTHING, ProcessQueue
from rocketmq_py.client.pull_api import PullApi, PullRequest, PullStatus
from rocketmq_py.client.route import subscribe_queues
from rocketmq_py.client.start_offset import StartOffset
from rocketmq_py.client.validators import check_consumer_group
from rocketmq_py.common.environment import Environment, system_environment
from rocketmq_py.common.errors import RocketMQError
from rocketmq_py.common.message import MessageExt, MessageQueue
from rocketmq_py.remoting.bodies.subscription import TAG, SubscriptionData, build_subscription
from rocketmq_py.remoting.codes import ResponseCode

logger = logging.getLogger(__name__)

#: Seconds to wait: a cache is full; the queue is paused; no first offset could be found; the broker is busy.
FULL_SECONDS: Final = 0.05
PAUSED_SECONDS: Final = 1.0
OFFSET_SECONDS: Final = 3.0
BROKER_FLOW_CONTROL_SECONDS: Final = 0.02
#: Seconds between two questions to a broker that answers "nothing new" at once instead of holding the question: it is
#: of stage pull, or it holds as many as it can. Without a pause both sides would do nothing else.
NOT_HELD_SECONDS: Final = 0.1


@dataclass(slots=True, eq=False)
class AssignedQueue:
    """One queue of this consumer.

    Attributes:
        queue: which.
        window: what was fetched and not handed out.
        pull_offset: where to fetch next; -1: not known yet.
        consume_offset: behind what was handed out; -1: nothing was.
        is_paused: not fetched for the time being.
        task: fetches.
    """

    queue: MessageQueue
    window: ProcessQueue = field(default_factory=ProcessQueue)
    pull_offset: int = -1
    consume_offset: int = -1
    is_paused: bool = False
    task: asyncio.Task[None] | None = None


class LitePullConsumer:
    """Fetches assigned queues ahead.

    Args:
        group: under which name offsets are stored.
        config: the settings; None: the defaults.
        namesrv_addr: the name servers, instead of those in `config`.
        instance: share connections and routes of another client; whoever made it starts and stops it.
        environment: clock and randomness, for tests.

    Attributes:
        instance: connections and routes.
        offsets: questions about the ends of queues, and about times.
    """

    def __init__(
        self,
        group: str,
        config: LitePullConsumerConfig | None = None,
        *,
        namesrv_addr: str = "",
        instance: MQClientInstance | None = None,
        environment: Environment | None = None,
    ) -> None:
        check_consumer_group(group)
        self.config = replace(config) if config is not None else LitePullConsumerConfig()
        if namesrv_addr:
            self.config.namesrv_addr = namesrv_addr
        self.config.check()
        environment = environment or (instance.environment if instance is not None else system_environment())
        self._group = group
        self.instance = instance or MQClientInstance(self.config, environment)
        self._owns_instance = instance is None
        self.offsets = OffsetAdmin(self.instance)
        self._api = PullApi(self.instance, group)
        self._store = RemoteOffsetStore(self.instance, group)
        self._start_offset = StartOffset(self.instance, self.config, self._store)
        self._expressions: dict[str, SubscriptionData] = {}
        self._assigned: dict[MessageQueue, AssignedQueue] = {}
        self._ready: asyncio.Queue[tuple[AssignedQueue, ProcessQueue, list[MessageExt]]] = asyncio.Queue()
        self._next_commit = 0.0
        self._is_running = False
        # Cancelled fetches that have not noticed yet; `stop` waits for them.
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def group(self) -> str:
        """The consumer group."""
        return self._group

    # --- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to fetch what is assigned. A second call does nothing."""
        if self._is_running:
            return
        if self._owns_instance:
            await self.instance.start()
        self._is_running = True
        self._next_commit = asyncio.get_running_loop().time() + self.config.auto_commit_interval_millis / 1_000
        self.instance.topic_sources.append(self._topics)
        for assigned in self._assigned.values():
            self._begin(assigned)

    async def stop(self) -> None:
        """Commit what was handed out if `auto_commit` is on, and close. A second call does nothing."""
        if not self._is_running:
            return
        if self.config.auto_commit:
            await self.commit()
        self._is_running = False
        self.instance.topic_sources.remove(self._topics)
        self._drop(list(self._assigned))
        await asyncio.gather(*self._ending, return_exceptions=True)
        if self._owns_instance:
            await self.instance.stop()

    async def __aenter__(self) -> LitePullConsumer:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    def _topics(self) -> set[str]:
        return {queue.topic for queue in self._assigned}

    # --- which queues -------------------------------------------------------------------------------------------------

    async def fetch_queues(self, topic: str) -> list[MessageQueue]:
        """Return the queues of a topic, sorted.

        Raises:
            NoRouteError: no name server knows the topic.
        """
        await self.instance.update_route(topic)
        return sorted(subscribe_queues(self.instance.routes[topic], topic))

    def set_expression(self, topic: str, expression: str = "*", expression_type: str = TAG) -> None:
        """Choose the messages of a topic; without it all are wanted.

        Raises:
            InvalidInputError: a tag expression is malformed.
        """
        self._expressions[topic] = build_subscription(topic, expression, expression_type)

    async def assign(self, queues: Iterable[MessageQueue]) -> None:
        """Fetch exactly these queues from now on; those that stay keep their positions.

        With `auto_commit`, how far `poll` came in the others is committed first. Differs from RocketMQ, which forgets it.
        """
        wanted = set(queues)
        if self.config.auto_commit:
            await self.commit(self._handed_out(self._assigned.keys() - wanted))
        self._drop([queue for queue in self._assigned if queue not in wanted])
        for queue in sorted(wanted - self._assigned.keys()):
            assigned = self._assigned[queue] = AssignedQueue(queue)
            if self._is_running:
                self._begin(assigned)

    @property
    def assignment(self) -> list[MessageQueue]:
        """The queues that are fetched, sorted."""
        return sorted(self._assigned)

    def pause(self, queues: Iterable[MessageQueue]) -> None:
        """Fetch no more of some queues; what was fetched is still handed out."""
        for queue in queues:
            self._find(queue).is_paused = True

    def resume(self, queues: Iterable[MessageQueue]) -> None:
        """Fetch them again."""
        for queue in queues:
            self._find(queue).is_paused = False

    async def seek(self, queue: MessageQueue, offset: int) -> None:
        """Go on at another offset of an assigned queue; what was fetched and not handed out is forgotten.

        Raises:
            ClientStateError: the queue is not assigned.
            ClientError: the offset is not within the queue.
        """
        self._find(queue)
        low, high = await self.offsets.min_offset(queue), await self.offsets.max_offset(queue)
        if not low <= offset <= high:
            raise ClientError(f"cannot seek to offset {offset} of {queue}: it has {low} to {high}")
        # Looked up again: the queue may have been given up meanwhile. From here to the end there is no await, so no
        # other call sees a queue without a fetch, or with two.
        assigned = self._find(queue)
        self._end(assigned)
        assigned.window = ProcessQueue()
        assigned.pull_offset = assigned.consume_offset = offset
        if self._is_running:
            self._begin(assigned)

    async def seek_to_begin(self, queue: MessageQueue) -> None:
        """Go on at the first message of a queue."""
        await self.seek(queue, await self.offsets.min_offset(queue))

    async def seek_to_end(self, queue: MessageQueue) -> None:
        """Go on with what is stored from now on."""
        await self.seek(queue, await self.offsets.max_offset(queue))

    def _find(self, queue: MessageQueue) -> AssignedQueue:
        assigned = self._assigned.get(queue)
        if assigned is None:
            raise ClientStateError(f"{queue} is not assigned to this consumer")
        return assigned

    def _begin(self, assigned: AssignedQueue) -> None:
        assigned.task = asyncio.get_running_loop().create_task(self._fetch(assigned), name=f"fetch {assigned.queue}")

    def _end(self, assigned: AssignedQueue) -> None:
        assigned.window.is_dropped = True
        assigned.window.clear()
        task, assigned.task = assigned.task, None
        if task is not None:
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    def _drop(self, queues: Iterable[MessageQueue]) -> None:
        for queue in queues:
            self._end(self._assigned.pop(queue))
            self._store.forget(queue)

    # --- handing out --------------------------------------------------------------------------------------------------

    async def poll(self, timeout: float | None = None) -> list[MessageExt]:
        """Return what is there next: messages of one queue in their order.

        Args:
            timeout: seconds to wait for something; None: `poll_timeout_millis`.

        Returns:
            At most `pull_batch_size` messages; an empty list when the time is over.

        Raises:
            ClientStateError: the consumer does not run.

        Cancellation: loses nothing.
        """
        if not self._is_running:
            raise ClientStateError(f"consumer {self._group} is not running; start it first")
        loop = asyncio.get_running_loop()
        if self.config.auto_commit and loop.time() >= self._next_commit:
            self._next_commit = loop.time() + self.config.auto_commit_interval_millis / 1_000
            await self.commit()
        try:
            async with asyncio.timeout(self.config.poll_timeout_millis / 1_000 if timeout is None else timeout):
                while True:
                    assigned, window, messages = await self._ready.get()
                    if not window.is_dropped:
                        break
        except TimeoutError:
            return []
        offset = window.remove(messages)
        if offset != NOTHING:
            assigned.consume_offset = offset
        return messages

    async def commit(self, offsets: Mapping[MessageQueue, int] | None = None) -> None:
        """Store at the brokers how far the group is.

        Args:
            offsets: these positions; None: behind everything that `poll` handed out.
        """
        if offsets is None:
            offsets = self._handed_out(self._assigned)
        for queue, offset in offsets.items():
            self._store.update(queue, offset, increase_only=False)
        await self._store.persist(list(offsets))

    def _handed_out(self, queues: Iterable[MessageQueue]) -> dict[MessageQueue, int]:
        """Return the positions behind what `poll` handed out, of those queues of which it did."""
        found = {queue: self._assigned[queue].consume_offset for queue in queues}
        return {queue: offset for queue, offset in found.items() if offset >= 0}

    async def committed(self, queue: MessageQueue) -> int:
        """Return the offset that the group has stored at the broker; -1 if there is none."""
        return await self._store.read(queue, zero_if_young=False)

    # --- fetching -----------------------------------------------------------------------------------------------------

    async def _fetch(self, assigned: AssignedQueue) -> None:
        """Fetch one queue until it is dropped."""
        window = assigned.window
        while not window.is_dropped:
            pause = await self._fetch_once(assigned, window)
            if pause:
                await asyncio.sleep(pause)

    async def _fetch_once(self, assigned: AssignedQueue, window: ProcessQueue) -> float:
        """Fetch once, and return how many seconds to wait before the next time."""
        if assigned.is_paused:
            return PAUSED_SECONDS
        if self._is_full(window):
            return FULL_SECONDS
        queue, began = assigned.queue, asyncio.get_running_loop().time()
        try:
            if assigned.pull_offset < 0:
                assigned.pull_offset = await self._start_offset.find(queue)
        except RocketMQError as error:
            logger.warning("group %s found no offset to begin with in %s: %s", self._group, queue, error)
            return OFFSET_SECONDS
        try:
            subscription = self._expressions.get(queue.topic) or build_subscription(queue.topic, "*")
            result = await self._api.pull(self._request(queue, assigned.pull_offset), subscription)
        except BrokerResponseError as error:
            logger.warning("fetching %s failed: %s", queue, error)
            is_busy = error.code == ResponseCode.FLOW_CONTROL
            return BROKER_FLOW_CONTROL_SECONDS if is_busy else self._pause_after_error
        except RocketMQError as error:
            logger.warning("fetching %s failed: %s", queue, error)
            return self._pause_after_error
        if result.status is PullStatus.FOUND and result.messages:
            window.put(result.messages)
            self._ready.put_nowait((assigned, window, result.messages))
        # An illegal offset corrects itself here, too: the answer names the right one.
        assigned.pull_offset = result.next_begin_offset
        is_held = asyncio.get_running_loop().time() - began >= NOT_HELD_SECONDS
        return 0.0 if is_held or result.status is not PullStatus.NO_NEW_MSG else NOT_HELD_SECONDS

    @property
    def _pause_after_error(self) -> float:
        return self.config.pull_time_delay_mills_when_exception / 1_000

    def _is_full(self, window: ProcessQueue) -> bool:
        config = self.config
        return (
            self._ready.qsize() * config.pull_batch_size > config.pull_threshold_for_all
            or len(window) > config.pull_threshold_for_queue
            or window.size >> 20 > config.pull_threshold_size_for_queue
            or window.span > config.consume_max_span
        )

    def _request(self, queue: MessageQueue, offset: int) -> PullRequest:
        config = self.config
        return PullRequest(
            queue=queue,
            offset=offset,
            max_messages=config.pull_batch_size,
            max_bytes=config.pull_batch_size_in_bytes,
            suspend_millis=config.broker_suspend_max_time_millis,
            timeout=config.consumer_timeout_millis_when_suspend / 1_000,
            sends_subscription=True,
            is_lite=True,
        )

    def __repr__(self) -> str:
        return f"<LitePullConsumer {self._group} {len(self._assigned)} queues>"
