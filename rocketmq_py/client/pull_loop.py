"""Pulls one queue as long as it is this consumer's: checks the limits, asks, hands on, asks again.

    asks -> messages           put into the window, handed to the listener, ask again
         -> nothing (yet)      the broker held the request for up to 15 s; ask again
         -> offset is illegal  give the queue up; the next rebalance takes it over at the right place
    too much is unfinished     wait 50 ms, look again

Source: `DefaultMQPushConsumerImpl#pullMessage`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import Final, Protocol

from rocketmq_py.client.consume_service import ConsumeService
from rocketmq_py.client.consumer_config import PushConsumerConfig
from rocketmq_py.client.errors import BrokerResponseError
from rocketmq_py.client.process_queue import ProcessQueue
from rocketmq_py.client.pull_api import PullApi, PullRequest, PullResult, PullStatus
from rocketmq_py.common.errors import RocketMQError
from rocketmq_py.common.message import MessageQueue
from rocketmq_py.common.topic import is_retry_topic
from rocketmq_py.remoting.bodies.heartbeat import MessageModel
from rocketmq_py.remoting.bodies.subscription import SubscriptionData
from rocketmq_py.remoting.codes import ResponseCode

logger = logging.getLogger(__name__)

#: Seconds to wait when too much is unfinished, when the broker is too busy, and when the consumer is paused.
FLOW_CONTROL_SECONDS: Final = 0.05
BROKER_FLOW_CONTROL_SECONDS: Final = 0.02
PAUSED_SECONDS: Final = 1.0
#: Seconds between two heartbeats out of turn.
INTRODUCTION_SECONDS: Final = 1.0
#: What a broker says that has not heard of the group, or not of its last subscription.
_UNKNOWN: Final = frozenset((ResponseCode.SUBSCRIPTION_NOT_EXIST, ResponseCode.SUBSCRIPTION_NOT_LATEST))


class PullingConsumer(Protocol):
    """What the loop needs of its consumer."""

    @property
    def is_paused(self) -> bool:
        """Whether pulling is suspended."""
        ...

    def subscription_of(self, topic: str) -> SubscriptionData | None:
        """Return what the consumer wants of a topic now."""
        ...

    def remembered_offset(self, queue: MessageQueue) -> int:
        """Return the offset up to which all is finished, or -1."""
        ...

    def skip_to(self, queue: MessageQueue, offset: int) -> None:
        """Nothing before `offset` is wanted, and nothing is unfinished."""
        ...

    async def announce(self) -> None:
        """Send heartbeats."""
        ...

    async def correct_offset(self, queue: MessageQueue, process_queue: ProcessQueue, offset: int) -> None:
        """The broker says that the offset is illegal, and which one is right."""
        ...


def flow_control(process_queue: ProcessQueue, config: PushConsumerConfig, keeps_order: bool = False) -> str | None:
    """Return why a queue may not be pulled now, or None.

    Each limit is a setting: messages, MiB of bodies (whole ones), and distance between first and last offset. In order
    the distance says nothing: what is finished is always the front.
    """
    if len(process_queue) > config.pull_threshold_for_queue:
        return "messages"
    if process_queue.size >> 20 > config.pull_threshold_size_for_queue:
        return "size"
    if not keeps_order and process_queue.span > config.consume_concurrently_max_span:
        return "span"
    return None


class PullLoop:
    """Pulls for one consumer; `run` is a task for each of its queues.

    Args:
        api: makes pulls.
        config: the settings.
        consumer: whose queues.
        service: takes what was found.

    Attributes:
        pauses: how often each limit stopped a pull.
        pulls: how many answers came.
    """

    def __init__(
        self,
        api: PullApi,
        config: PushConsumerConfig,
        consumer: PullingConsumer,
        service: ConsumeService,
    ) -> None:
        self.pauses: Counter[str] = Counter()
        self.pulls = 0
        self._next_introduction = 0.0
        self._api = api
        self._config = config
        self._consumer = consumer
        self._service = service

    async def run(self, queue: MessageQueue, process_queue: ProcessQueue, offset: int) -> None:
        """Pull from `offset` on until the queue is dropped or the task is cancelled."""
        while not process_queue.is_dropped:
            subscription = self._consumer.subscription_of(queue.topic)
            if self._consumer.is_paused or subscription is None:
                await asyncio.sleep(PAUSED_SECONDS)
                continue
            reason = flow_control(process_queue, self._config, self._service.keeps_order)
            if reason is not None:
                self.pauses[reason] += 1
                await asyncio.sleep(FLOW_CONTROL_SECONDS)
                continue
            try:
                result = await self._api.pull(self._request(queue, offset), subscription)
            except RocketMQError as error:
                await self._wait_after(queue, error)
                continue
            self.pulls += 1
            if process_queue.is_dropped:
                return
            if result.status is PullStatus.OFFSET_ILLEGAL:
                logger.warning("offset %d of %s is illegal; going on at %d", offset, queue, result.next_begin_offset)
                await self._consumer.correct_offset(queue, process_queue, result.next_begin_offset)
                return
            offset = result.next_begin_offset
            await self._take(queue, process_queue, result)

    def _request(self, queue: MessageQueue, offset: int) -> PullRequest:
        config = self._config
        remembered = self._consumer.remembered_offset(queue)
        commits = config.message_model is MessageModel.CLUSTERING and remembered > 0
        return PullRequest(
            queue=queue,
            offset=offset,
            max_messages=config.pull_batch_size,
            max_bytes=config.pull_batch_size_in_bytes,
            commit_offset=remembered if commits else None,
            suspend_millis=config.broker_suspend_max_time_millis,
            timeout=config.consumer_timeout_millis_when_suspend / 1_000,
            sends_subscription=config.post_subscription_when_pull,
        )

    async def _take(self, queue: MessageQueue, process_queue: ProcessQueue, result: PullResult) -> None:
        if result.messages:
            process_queue.put(result.messages)
            self._service.submit(queue, process_queue, result.messages)
            if self._config.pull_interval:
                await asyncio.sleep(self._config.pull_interval / 1_000)
        elif not process_queue:
            self._consumer.skip_to(queue, result.next_begin_offset)

    async def _introduce(self) -> None:
        """Tell the brokers who this is: one of them was started anew, and the next heartbeat may be 30 s away."""
        now = asyncio.get_running_loop().time()
        # Every queue of that broker comes here; one heartbeat is enough.
        if now >= self._next_introduction:
            self._next_introduction = now + INTRODUCTION_SECONDS
            await self._consumer.announce()

    async def _wait_after(self, queue: MessageQueue, error: RocketMQError) -> None:
        code = error.code if isinstance(error, BrokerResponseError) else None
        is_busy = code == ResponseCode.FLOW_CONTROL
        if not is_busy and not is_retry_topic(queue.topic):
            logger.warning("pulling %s failed: %s", queue, error)
        if code in _UNKNOWN:
            await self._introduce()
        pause = self._config.pull_time_delay_mills_when_exception / 1_000
        await asyncio.sleep(BROKER_FLOW_CONTROL_SECONDS if is_busy else pause)
