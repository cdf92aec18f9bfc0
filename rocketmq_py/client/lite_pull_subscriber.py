"""A lite pull consumer that shares the queues of a topic with the other members of its group.

    consumer = LitePullSubscriber("Audit", namesrv_addr="127.0.0.1:9876")
    consumer.subscribe("Orders")
    async with consumer:
        while messages := await consumer.poll():
            ...

Source: `DefaultLitePullConsumerImpl`, `RebalanceLitePullImpl`, RocketMQ 5.3.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

import msgspec

from rocketmq_py.client.allocation import AllocationStrategy, Averagely
from rocketmq_py.client.consumer_config import LitePullConsumerConfig
from rocketmq_py.client.consumer_requests import ConsumerRequests
from rocketmq_py.client.errors import ClientStateError, NoRouteError
from rocketmq_py.client.instance import MQClientInstance
from rocketmq_py.client.lite_pull_consumer import LitePullConsumer
from rocketmq_py.client.rebalance import OwnShare, Rebalancer, RebalanceService
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.message import MessageExt, MessageQueue
from rocketmq_py.remoting.bodies.consumer_running_info import (
    PROP_CONSUME_TYPE,
    ConsumeMessageDirectlyResult,
    ConsumerRunningInfo,
    ProcessQueueInfo,
)
from rocketmq_py.remoting.bodies.heartbeat import ConsumerData, ConsumeType
from rocketmq_py.remoting.bodies.subscription import TAG
from rocketmq_py.remoting.java_json import encode_body


class LitePullSubscriber(LitePullConsumer):
    """A `LitePullConsumer` whose queues come from rebalancing instead of from `assign`.

    Args:
        group: the group; its members share the queues and must subscribe the same.
        config: the settings; None: the defaults.
        namesrv_addr: the name servers, instead of those in `config`.
        strategy: how queues are divided; the same for all members.
        instance: share connections and routes of another client; whoever made it starts and stops it.
        environment: clock and randomness, for tests.

    Attributes:
        queue_listeners: called with topic, all queues and own queues after a rebalance changed something.
    """

    def __init__(
        self,
        group: str,
        config: LitePullConsumerConfig | None = None,
        *,
        namesrv_addr: str = "",
        strategy: AllocationStrategy | None = None,
        instance: MQClientInstance | None = None,
        environment: Environment | None = None,
    ) -> None:
        super().__init__(group, config, namesrv_addr=namesrv_addr, instance=instance, environment=environment)
        self.queue_listeners: list[Callable[[str, Sequence[MessageQueue], Sequence[MessageQueue]], None]] = []
        source = OwnShare(self.instance, group, strategy or Averagely())
        self._rebalancer = Rebalancer(self.instance, self._expressions.keys, source, self)
        self._service = RebalanceService(self._rebalancer.rebalance, group)

    def subscribe(self, topic: str, expression: str = "*", expression_type: str = TAG) -> None:
        """Subscribe a topic; before `start`.

        Raises:
            ClientStateError: the consumer runs already.
            InvalidInputError: a tag expression is malformed.
        """
        if self._is_running:
            raise ClientStateError(f"consumer {self.group} runs already; subscribe before start()")
        self.set_expression(topic, expression, expression_type)
        version = self.instance.environment.clock.wall_ms()
        self._expressions[topic] = msgspec.structs.replace(self._expressions[topic], sub_version=version)

    async def start(self) -> None:
        """Join the group and begin to fetch. A second call does nothing.

        Raises:
            ClientStateError: nothing is subscribed.
            BrokerResponseError: a broker cannot use an SQL92 expression, with its reason.
        """
        if self._is_running:
            return
        if not self._expressions:
            raise ClientStateError(f"consumer {self.group} needs subscribe() before start()")
        await super().start()
        try:
            await self._check_subscriptions()
        except BaseException:
            await super().stop()
            raise
        instance = self.instance
        ConsumerRequests.of(instance).add(self)
        instance.consumer_data.append(self._heartbeat_data)
        await instance.send_heartbeats()
        self._service.start()

    async def _check_subscriptions(self) -> None:
        for topic, subscription in sorted(self._expressions.items()):
            try:
                await self.instance.update_route(topic)
            except NoRouteError:
                # It may come later; the route is asked for again every 30 s.
                continue
            await self._api.check_expression(subscription)

    async def stop(self) -> None:
        """Commit what was handed out if `auto_commit` is on, and leave the group. A second call does nothing."""
        if not self._is_running:
            return
        await self._service.stop()
        if self.config.auto_commit:
            await self.commit()
        instance = self.instance
        ConsumerRequests.of(instance).remove(self)
        instance.consumer_data.remove(self._heartbeat_data)
        await instance.unregister(consumer_group=self.group)
        await super().stop()

    async def assign(self, queues: Iterable[MessageQueue]) -> None:
        """Not possible: the queues come from rebalancing.

        Raises:
            ClientStateError: always.
        """
        raise ClientStateError("subscribe() and assign() exclude each other; use LitePullConsumer to assign queues")

    def _topics(self) -> set[str]:
        return set(self._expressions)

    def _heartbeat_data(self) -> ConsumerData:
        return ConsumerData(
            group_name=self.group,
            consume_type=ConsumeType.CONSUME_ACTIVELY.value,
            message_model=self.config.message_model.value,
            consume_from_where=self.config.consume_from_where.value,
            subscription_data_set=list(self._expressions.values()),
            unit_mode=self.config.unit_mode,
        )

    # --- the owner of queues, for the rebalancer ------------------------------------------------------------------------

    def owned(self) -> Collection[MessageQueue]:
        """Return the queues of this member."""
        return self.assignment

    async def take(self, queue: MessageQueue) -> bool:
        """Begin to fetch a queue where the group stopped."""
        await super().assign([*self.assignment, queue])
        return True

    async def give_up(self, queue: MessageQueue) -> None:
        """Stop to fetch a queue, and store how far `poll` came in it."""
        await super().assign([other for other in self.assignment if other != queue])

    async def queues_changed(self, topic: str, queues: Sequence[MessageQueue], mine: Sequence[MessageQueue]) -> None:
        """Tell the brokers and who wants to know."""
        await self.instance.send_heartbeats()
        for listener in self.queue_listeners:
            listener(topic, queues, mine)

    # --- what brokers ask ---------------------------------------------------------------------------------------------

    def wake_rebalance(self) -> None:
        """Rebalance soon; within a second of the last time at the latest."""
        self._service.wake()

    async def reset_offsets(self, topic: str, offsets: dict[MessageQueue, int]) -> None:
        """Go on at other offsets, as an administrator wants."""
        for queue, offset in offsets.items():
            if queue.topic == topic and queue in self.assignment:
                await self.seek(queue, offset)

    def offsets_of(self, topic: str) -> dict[MessageQueue, int]:
        """Return behind what `poll` handed out, by queue of a topic."""
        return {
            queue: assigned.consume_offset
            for queue, assigned in self._assigned.items()
            if queue.topic == topic and assigned.consume_offset >= 0
        }

    def running_info(self) -> bytes:
        """Return the body that tells tools about this consumer."""
        table = {
            queue: ProcessQueueInfo(
                commit_offset=max(assigned.consume_offset, 0), cached_msg_count=len(assigned.window)
            )
            for queue, assigned in self._assigned.items()
        }
        return ConsumerRunningInfo(
            properties={PROP_CONSUME_TYPE: ConsumeType.CONSUME_ACTIVELY.value},
            subscription_set=list(self._expressions.values()),
            mq_table=table,
            status_table={},
        ).encode()

    async def consume_directly(self, message: MessageExt) -> bytes:
        """Refuse: there is no listener that could handle a message."""
        remark = "a pull consumer has no listener"
        return encode_body(ConsumeMessageDirectlyResult(consume_result="CR_THROW_EXCEPTION", remark=remark))
