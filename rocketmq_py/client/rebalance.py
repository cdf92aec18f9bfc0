"""Rebalancing: which queues of a topic are mine, now?

    a member joins or leaves -> the broker tells everyone (40) -> each asks for the list of members (38),
    computes its own share, gives up what is no longer its own and takes over what is new

There is no coordinator and no barrier. A queue that moves may be read by its new owner before the old one has stored
its last offset; the messages between are then consumed twice.

Source: `RebalanceService`, `RebalanceImpl`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Final, Protocol

from rocketmq_py.client.allocation import AllocationStrategy
from rocketmq_py.client.errors import ClientError
from rocketmq_py.client.instance import MQClientInstance
from rocketmq_py.client.route import subscribe_queues
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.message import MessageQueue
from rocketmq_py.common.topic import is_retry_topic
from rocketmq_py.remoting.bodies.heartbeat import GetConsumerListByGroupResponseBody
from rocketmq_py.remoting.codes import RequestCode
from rocketmq_py.remoting.errors import RemotingError
from rocketmq_py.remoting.java_json import decode_body

logger = logging.getLogger(__name__)

#: Seconds between two rebalances that nothing asked for, after one that was not complete, and at least.
WAIT_SECONDS: Final = 20.0
RETRY_SECONDS: Final = 1.0
MIN_SECONDS: Final = 1.0


class AssignmentSource(Protocol):
    """Says which queues of a topic are this consumer's."""

    async def assign(self, topic: str, queues: Sequence[MessageQueue]) -> list[MessageQueue] | None:
        """Return the share of the sorted `queues`; None if it cannot be told now, so that all stays as it is."""
        ...


class QueueClaim(Protocol):
    """Has a say when queues move; ordered consumption locks them."""

    async def before_add(self, queue: MessageQueue) -> bool:
        """Return whether the queue may be taken over now."""
        ...

    async def before_drop(self, queue: MessageQueue) -> bool:
        """Return whether the queue may be given up now."""
        ...

    async def after_drop(self, queue: MessageQueue) -> None:
        """The queue was given up and how far it came is stored: its next owner may begin."""
        ...


class QueueOwner(Protocol):
    """The consumer whose queues are rebalanced."""

    def owned(self) -> Collection[MessageQueue]:
        """Return the queues that it works on."""
        ...

    async def take(self, queue: MessageQueue) -> bool:
        """Take a queue over, without working on it yet; False if that is not possible now."""
        ...

    async def give_up(self, queue: MessageQueue) -> None:
        """Stop to work on a queue and store how far it came."""
        ...

    async def queues_changed(self, topic: str, queues: Sequence[MessageQueue], mine: Sequence[MessageQueue]) -> None:
        """The share of a topic became another one: tell the brokers, then begin to work on what was taken over."""
        ...


class AllQueues:
    """Broadcasting: everything is everyone's."""

    async def assign(self, topic: str, queues: Sequence[MessageQueue]) -> list[MessageQueue] | None:
        """Return all queues."""
        return list(queues)


class OwnShare:
    """Clustering: asks a broker for the members and computes the share with a strategy.

    Args:
        instance: connections and routes.
        group: the consumer group.
        strategy: the same for all members.
    """

    def __init__(self, instance: MQClientInstance, group: str, strategy: AllocationStrategy) -> None:
        self.strategy = strategy
        self._instance = instance
        self._group = group

    async def assign(self, topic: str, queues: Sequence[MessageQueue]) -> list[MessageQueue] | None:
        """See `AssignmentSource.assign`."""
        try:
            members = sorted(await self.members(topic))
            return self.strategy.allocate(self._group, self._instance.client_id, queues, members)
        except (ClientError, RemotingError, InvalidInputError) as error:
            logger.info("group %s keeps its queues of topic %s: %s", self._group, topic, error)
            return None

    async def members(self, topic: str) -> list[str]:
        """Return the client ids of the group, as a broker of the topic knows them."""
        address = self._instance.any_broker_of(topic)
        if address is None:
            await self._instance.update_route(topic)
            address = self._instance.any_broker_of(topic)
        if address is None:
            return []
        response = await self._instance.ask(
            address, RequestCode.GET_CONSUMER_LIST_BY_GROUP, {"consumerGroup": self._group}
        )
        # An id may be on several connections; it is one member all the same.
        return list(dict.fromkeys(decode_body(response.body, GetConsumerListByGroupResponseBody).consumer_id_list))


class Rebalancer:
    """Brings the queues of one consumer in line with its share.

    Args:
        instance: routes.
        topics: returns the subscribed topics.
        source: says what is whose.
        owner: the consumer.
        claim: asked before a queue is taken over or given up.
    """

    def __init__(
        self,
        instance: MQClientInstance,
        topics: Callable[[], Collection[str]],
        source: AssignmentSource,
        owner: QueueOwner,
        claim: QueueClaim | None = None,
    ) -> None:
        self._claim = claim
        self._instance = instance
        self._topics = topics
        self._source = source
        self._owner = owner

    async def rebalance(self) -> bool:
        """Rebalance all topics once; return whether nothing is left to do."""
        is_balanced = True
        for topic in sorted(self._topics()):
            is_balanced &= await self._rebalance_topic(topic)
        subscribed = set(self._topics())
        for queue in [queue for queue in self._owner.owned() if queue.topic not in subscribed]:
            is_balanced &= await self._give_up(queue)
        return is_balanced

    async def _give_up(self, queue: MessageQueue) -> bool:
        if self._claim is not None and not await self._claim.before_drop(queue):
            return False
        await self._owner.give_up(queue)
        return True

    async def _take(self, queue: MessageQueue) -> bool:
        if self._claim is not None and not await self._claim.before_add(queue):
            return False
        return await self._owner.take(queue)

    async def _rebalance_topic(self, topic: str) -> bool:
        route = self._instance.routes.get(topic)
        queues = [] if route is None else sorted(subscribe_queues(route, topic))
        if not queues:
            if not is_retry_topic(topic):
                logger.info("topic %s has no queues to read yet", topic)
            return True
        share = await self._source.assign(topic, queues)
        if share is None:
            return True
        return await self._apply(topic, queues, share)

    async def _apply(self, topic: str, queues: Sequence[MessageQueue], share: Sequence[MessageQueue]) -> bool:
        wanted = set(share)
        changed = False
        owned = {queue for queue in self._owner.owned() if queue.topic == topic}
        for queue in sorted(owned - wanted):
            changed |= await self._give_up(queue)
        for queue in sorted(wanted - owned):
            changed |= await self._take(queue)
        if changed:
            await self._owner.queues_changed(topic, queues, sorted(wanted))
        return {queue for queue in self._owner.owned() if queue.topic == topic} == wanted


class RebalanceService:
    """Rebalances again and again: every 20 s, and at once when somebody wakes it, but not twice within a second.

    Args:
        work: one round; returns whether nothing is left to do.
        name: for the task.
    """

    def __init__(self, work: Callable[[], Awaitable[bool]], name: str) -> None:
        self._work = work
        self._name = name
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, with a first round at once."""
        self._wanted.set()
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"rebalance {self._name}")

    def wake(self) -> None:
        """Ask for a round."""
        self._wanted.set()

    async def stop(self) -> None:
        """End; a round under way is cancelled."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        wait = WAIT_SECONDS
        last_run = -MIN_SECONDS
        while True:
            try:
                async with asyncio.timeout(wait):
                    await self._wanted.wait()
            except TimeoutError:
                pass
            await asyncio.sleep(max(0.0, last_run + MIN_SECONDS - loop.time()))
            self._wanted.clear()
            last_run = loop.time()
            try:
                wait = WAIT_SECONDS if await self._work() else RETRY_SECONDS
            except Exception:
                # Broad on purpose: a consumer that stopped rebalancing would lose its queues for ever.
                logger.exception("rebalance of %s failed", self._name)
                wait = RETRY_SECONDS
