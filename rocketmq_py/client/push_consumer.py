"""The push consumer: subscribe, give it a listener, and messages come.

    async def handle(messages, context):
        for message in messages:
            print(message.body)

    consumer = PushConsumer("Billing", namesrv_addr="127.0.0.1:9876")
    consumer.subscribe("Orders", "paid || cancelled")
    consumer.register_listener(handle)
    async with consumer:
        await asyncio.Event().wait()

Nothing is pushed: a task for each queue asks its broker, which holds the request until there is a message. A message
is acknowledged after the listener is done with it, so a crash before that delivers it again: at least once.

Source: `DefaultMQPushConsumerImpl`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Final, Protocol, runtime_checkable

import msgspec

from rocketmq_py.client.allocation import AllocationStrategy, Averagely
from rocketmq_py.client.consume_service import ConcurrentConsumeService, ConsumeService, Listener
from rocketmq_py.client.consumer_config import PushConsumerConfig
from rocketmq_py.client.consumer_requests import ConsumerRequests
from rocketmq_py.client.errors import ClientError, ClientStateError, NoRouteError
from rocketmq_py.client.failure_policy import ActivePolicy, FailurePolicy, make_policy
from rocketmq_py.client.instance import MQClientInstance
from rocketmq_py.client.local_offset_store import LocalOffsetStore
from rocketmq_py.client.offset_store import OffsetStore, RemoteOffsetStore
from rocketmq_py.client.process_queue import ProcessQueue
from rocketmq_py.client.pull_api import PullApi
from rocketmq_py.client.pull_loop import PullLoop
from rocketmq_py.client.push_consumer_info import describe
from rocketmq_py.client.rebalance import (
    AllQueues,
    AssignmentSource,
    OwnShare,
    Rebalancer,
    RebalanceService,
)
from rocketmq_py.client.start_offset import StartOffset
from rocketmq_py.client.validators import check_consumer_group
from rocketmq_py.common.environment import Environment, system_environment
from rocketmq_py.common.message import MessageExt, MessageQueue
from rocketmq_py.common.topic import retry_topic, validate_topic
from rocketmq_py.remoting.bodies.consumer_running_info import ConsumeMessageDirectlyResult
from rocketmq_py.remoting.bodies.heartbeat import ConsumerData, ConsumeType, MessageModel
from rocketmq_py.remoting.bodies.route import TopicRouteData
from rocketmq_py.remoting.bodies.subscription import TAG, SubscriptionData, build_subscription
from rocketmq_py.remoting.errors import RemotingError
from rocketmq_py.remoting.java_json import encode_body

logger = logging.getLogger(__name__)

#: Seconds before offsets are stored for the first time.
FIRST_PERSIST: Final = 10.0


@runtime_checkable
class ServiceMaker(Protocol):
    """A listener that decides how its messages are handled."""

    def make_service(self, consumer: PushConsumer) -> ConsumeService:
        """Return the service of a consumer that is about to start."""
        ...


class PushConsumer:
    """One member of a consumer group.

    Args:
        group: the group; its members share the queues of what they subscribe, and must subscribe the same.
        config: the settings; None: the defaults.
        namesrv_addr: the name servers, instead of those in `config`.
        strategy: how queues are divided; the same for all members.
        instance: share connections and routes of another client; whoever made it starts and stops it.
        environment: clock, randomness and files, for tests.

    Attributes:
        instance: connections and routes.
        offsets: how far this member is; available after `start`.
        queue_listeners: called with topic, all queues and own queues after a rebalance changed something.
        failure_policy: what happens to messages that the listener could not handle; to be changed before `start`.
    """

    def __init__(
        self,
        group: str,
        config: PushConsumerConfig | None = None,
        *,
        namesrv_addr: str = "",
        strategy: AllocationStrategy | None = None,
        instance: MQClientInstance | None = None,
        environment: Environment | None = None,
    ) -> None:
        check_consumer_group(group)
        self.config = replace(config) if config is not None else PushConsumerConfig()
        if namesrv_addr:
            self.config.namesrv_addr = namesrv_addr
        self.config.check()
        environment = environment or (instance.environment if instance is not None else system_environment())
        self._group = group
        self._strategy = strategy or Averagely()
        self.instance = instance or MQClientInstance(self.config, environment)
        self._owns_instance = instance is None
        self.queue_listeners: list[Callable[[str, Sequence[MessageQueue], Sequence[MessageQueue]], None]] = []
        self.api = PullApi(self.instance, group, keeps_unreadable=True)
        self._subscriptions: dict[str, SubscriptionData] = {}
        self._listener: Listener | ServiceMaker | None = None
        self._queues: dict[MessageQueue, ProcessQueue] = {}
        self._pulls: dict[MessageQueue, asyncio.Task[None]] = {}
        # Queues that were taken over and are not pulled yet, with the offset to begin at.
        self._starts: dict[MessageQueue, int] = {}
        # The subscriptions of which the brokers have heard.
        self._announced: dict[str, SubscriptionData] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_running = self._was_started = False
        self._stopping: asyncio.Task[None] | None = None
        self.is_paused = False
        self.failure_policy: FailurePolicy = make_policy(self)

    # --- before the start ---------------------------------------------------------------------------------------------

    @property
    def group(self) -> str:
        """The consumer group."""
        return self._group

    @property
    def subscriptions(self) -> dict[str, SubscriptionData]:
        """What is subscribed, by topic."""
        return dict(self._subscriptions)

    def subscribe(self, topic: str, expression: str = "*", expression_type: str = TAG) -> None:
        """Subscribe a topic, or change its expression; possible at any time.

        Args:
            topic: the topic.
            expression: tags separated by `||`, `*` for all, or an SQL92 condition on properties.
            expression_type: `TAG` or `SQL92`.

        Raises:
            InvalidInputError: the topic or a tag expression is malformed. SQL92 is checked by the broker at start.
        """
        validate_topic(topic)
        now = self.instance.environment.clock.wall_ms()
        self._subscriptions[topic] = build_subscription(topic, expression, expression_type, now)
        if self._is_running:
            task = asyncio.get_running_loop().create_task(self._subscription_changed(), name=f"subscribe {topic}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def unsubscribe(self, topic: str) -> None:
        """Give a topic up; its queues go with the next rebalance."""
        self._subscriptions.pop(topic, None)
        if self._is_running:
            self.wake_rebalance()

    def register_listener(self, listener: Listener | ServiceMaker) -> None:
        """Name the function that handles messages: `listener(messages, context)`.

        A plain function runs in a thread, a coroutine function on the event loop. It fails by raising or by returning
        `ConsumeStatus.RECONSUME_LATER`. A `ServiceMaker` around a function has messages handled in another way, such
        as in order.
        """
        self._listener = listener

    # --- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Join the group and begin to consume.

        Raises:
            ClientStateError: there is no listener or no subscription, the consumer runs already, or it did before.
            NoNameServerError: no name server answers.
            BrokerResponseError: a broker cannot use an SQL92 expression, with its reason.
        """
        if self._is_running:
            raise ClientStateError(f"consumer {self._group} runs already")
        if self._listener is None or not self._subscriptions:
            raise ClientStateError(f"consumer {self._group} needs subscribe() and register_listener() before start()")
        if self._owns_instance and self._was_started:
            raise ClientStateError(
                f"consumer {self._group} ran or failed to start before; make a new one to start again"
            )
        self._was_started = True
        if self._owns_instance:
            await self.instance.start()
        try:
            await self._start(self._listener)
        except BaseException:
            await self._leave()
            raise

    async def _start(self, listener: Listener | ServiceMaker) -> None:
        is_clustering = self.config.message_model is MessageModel.CLUSTERING
        instance = self.instance
        if is_clustering:
            topic = retry_topic(self._group)
            self._subscriptions.setdefault(topic, build_subscription(topic, "*", sub_version=self._now_ms()))
        self.offsets = self._make_offset_store(is_clustering)
        await self.offsets.load()
        self.start_offset = StartOffset(instance, self.config, self.offsets)
        self.service: ConsumeService
        if isinstance(listener, ServiceMaker):
            self.service = listener.make_service(self)
        else:
            self.service = ConcurrentConsumeService(
                self._group, self.config, instance.environment, listener, self.failure_policy, self.commit
            )
        self.pull_loop = PullLoop(self.api, self.config, self, self.service)
        source: AssignmentSource = OwnShare(instance, self._group, self._strategy) if is_clustering else AllQueues()
        self.rebalancer = Rebalancer(instance, self._subscriptions.keys, source, self, self.service.claim)
        self._rebalance_service = RebalanceService(self._rebalance, self._group)
        ConsumerRequests.of(instance).add(self)
        self._is_running = True
        self._stopping = None
        self.started_ms = self._now_ms()
        self.service.start()
        if isinstance(self.failure_policy, ActivePolicy):
            self.failure_policy.start()
        instance.topic_sources.append(self._topics)
        instance.route_listeners.append(self._route_changed)
        instance.consumer_data.append(self._heartbeat_data)
        self._persist_work = instance.periodic.every(
            self.config.persist_consumer_offset_interval / 1_000,
            self.persist_offsets,
            f"offsets of group {self._group}",
            delay=FIRST_PERSIST,
        )
        await self._update_routes()
        await self._check_expressions()
        await self.announce()
        self._rebalance_service.start()

    def _make_offset_store(self, is_clustering: bool) -> OffsetStore:
        if is_clustering:
            return RemoteOffsetStore(self.instance, self._group)
        folder = self.config.local_offset_store_dir
        return LocalOffsetStore(folder, self.instance.client_id, self._group, self.instance.environment)

    async def _update_routes(self) -> None:
        for topic in sorted(self._subscriptions):
            try:
                await self.instance.update_route(topic)
            except NoRouteError as error:
                # A topic may come later; the route is asked for again every 30 s.
                logger.info("%s", error)

    async def _check_expressions(self) -> None:
        for _, subscription in sorted(self._subscriptions.items()):
            await self.api.check_expression(subscription)

    async def stop(self) -> None:
        """Finish what the listener is doing, store the offsets, and leave the group; its members take over at once.

        A second call does nothing, or waits with the first one.

        Cancellation: the consumer stops all the same.
        """
        if self._stopping is None and self._is_running:
            self._stopping = asyncio.get_running_loop().create_task(self._stop(), name=f"stop {self._group}")
        if self._stopping is not None:
            await asyncio.shield(self._stopping)

    async def _stop(self) -> None:
        """Take nothing more, finish what runs, store how far it came, and leave: in this order."""
        await self._rebalance_service.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stop_pulls(list(self._pulls))
        await self.service.stop(self.config.await_termination_millis_when_shutdown / 1_000)
        await self.persist_offsets()
        for queue, process_queue in self._queues.items():
            process_queue.is_dropped = True
            await self._let_go(queue)
        await self._leave()

    async def _leave(self) -> None:
        """Undo what `start` did, as far as it came."""
        instance = self.instance
        if self._is_running:
            self._is_running = False
            instance.topic_sources.remove(self._topics)
            instance.route_listeners.remove(self._route_changed)
            instance.consumer_data.remove(self._heartbeat_data)
            instance.periodic.cancel(self._persist_work)
            ConsumerRequests.of(instance).remove(self)
            if isinstance(self.failure_policy, ActivePolicy):
                self.failure_policy.stop()
            await self.service.stop(0)
            await instance.unregister(consumer_group=self._group)
        self._queues.clear()
        self._starts.clear()
        if self._owns_instance:
            await instance.stop()

    async def __aenter__(self) -> PushConsumer:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    # --- run-time control ---------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Stop pulling and rebalancing; what was pulled is still handled."""
        self.is_paused = True

    def resume(self) -> None:
        """Go on."""
        self.is_paused = False
        self.wake_rebalance()

    def wake_rebalance(self) -> None:
        """Rebalance soon; within a second of the last time at the latest."""
        if self._is_running:
            self._rebalance_service.wake()

    async def _subscription_changed(self) -> None:
        try:
            await self._update_routes()
            await self._check_expressions()
        except (ClientError, RemotingError) as error:
            # Nobody waits for this call. A wrong expression is refused with every pull, a route is asked for again.
            logger.error("group %s subscribes something else, and it may not work: %s", self._group, error)
        await self.announce()
        self.wake_rebalance()

    def _route_changed(self, topic: str, route: TopicRouteData) -> None:
        if topic in self._subscriptions:
            self.wake_rebalance()

    async def persist_offsets(self) -> None:
        """Store how far this member is in its queues; done every 5 s."""
        await self.offsets.persist(list(self._queues))

    async def reset_offsets(self, topic: str, offsets: dict[MessageQueue, int]) -> None:
        """Go on at other offsets, as an administrator wants."""
        # No rebalance meanwhile: it would take a queue over before the last one has its new offset.
        was_paused, self.is_paused = self.is_paused, True
        try:
            for queue, offset in offsets.items():
                process_queue = self._queues.get(queue)
                if queue.topic == topic and process_queue is not None:
                    await self.correct_offset(queue, process_queue, offset)
        finally:
            self.is_paused = was_paused
            self.wake_rebalance()

    def offsets_of(self, topic: str) -> dict[MessageQueue, int]:
        """Return the remembered offsets of a topic."""
        return self.offsets.snapshot(topic)

    def running_info(self) -> bytes:
        """Return the body that tells tools about this consumer."""
        return describe(self)

    async def consume_directly(self, message: MessageExt) -> bytes:
        """Let the listener handle one message outside of any queue; commits nothing."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        result = ConsumeMessageDirectlyResult()
        try:
            result.consume_result = await self.service.consume_directly(message)
        except Exception as error:
            # Broad on purpose: whatever the application raised is the answer.
            result.consume_result = "CR_THROW_EXCEPTION"
            result.remark = f"{type(error).__name__}: {error}"
        result.spent_time_mills = round((loop.time() - began) * 1_000)
        return encode_body(result)

    # --- queues come and go -------------------------------------------------------------------------------------------

    @property
    def queues(self) -> dict[MessageQueue, ProcessQueue]:
        """The queues of this member and what it has not finished of each."""
        return dict(self._queues)

    async def _rebalance(self) -> bool:
        return True if self.is_paused else await self.rebalancer.rebalance()

    def owned(self) -> Collection[MessageQueue]:
        """Return the queues of this member."""
        return list(self._queues)

    async def take(self, queue: MessageQueue) -> bool:
        """Take a queue over at the offset where its last owner stopped; it is pulled after `queues_changed`."""
        self.offsets.forget(queue)
        try:
            offset = await self.start_offset.find(queue)
        except (ClientError, RemotingError) as error:
            logger.warning("group %s cannot take over %s yet: %s", self._group, queue, error)
            return False
        self._queues[queue] = ProcessQueue()
        self._starts[queue] = offset
        return True

    async def give_up(self, queue: MessageQueue) -> None:
        """Stop to pull a queue and store how far it came; what the listener still does with it is not committed."""
        process_queue = self._queues.pop(queue, None)
        if process_queue is None:
            return
        process_queue.is_dropped = True
        self._starts.pop(queue, None)
        await self._stop_pulls([queue])
        await self.offsets.persist([queue])
        self.offsets.forget(queue)
        await self._let_go(queue)
        logger.info("group %s gives up %s", self._group, queue)

    async def _let_go(self, queue: MessageQueue) -> None:
        if self.service.claim is not None:
            await self.service.claim.after_drop(queue)

    async def queues_changed(self, topic: str, queues: Sequence[MessageQueue], mine: Sequence[MessageQueue]) -> None:
        """Give the subscription a new version, tell the brokers and who wants to know, and pull what was taken over."""
        subscription = self._subscriptions.get(topic)
        if subscription is not None:
            version = max(self._now_ms(), subscription.sub_version + 1)
            self._subscriptions[topic] = msgspec.structs.replace(subscription, sub_version=version)
        await self.announce()
        for queue, offset in self._starts.items():
            logger.info("group %s begins %s at offset %d", self._group, queue, offset)
            pull = self.pull_loop.run(queue, self._queues[queue], offset)
            self._pulls[queue] = asyncio.get_running_loop().create_task(pull, name=f"pull {queue}")
        self._starts.clear()
        for listener in self.queue_listeners:
            listener(topic, queues, mine)

    async def announce(self) -> None:
        """Send heartbeats. Only then pulls refer to the new versions: a broker refuses one that it has not heard of."""
        subscriptions = dict(self._subscriptions)
        await self.instance.send_heartbeats()
        self._announced = subscriptions

    async def _stop_pulls(self, queues: Sequence[MessageQueue]) -> None:
        tasks = [self._pulls.pop(queue) for queue in queues if queue in self._pulls]
        # A pull loop may give up its own queue; it ends by itself then.
        tasks = [task for task in tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- called by the pull loops and the consume service -------------------------------------------------------------

    def subscription_of(self, topic: str) -> SubscriptionData | None:
        """Return what this consumer wants of a topic now."""
        return self._announced.get(topic)

    def remembered_offset(self, queue: MessageQueue) -> int:
        """Return the offset up to which a queue is finished, or -1."""
        return self.offsets.get(queue)

    def skip_to(self, queue: MessageQueue, offset: int) -> None:
        """Pass over messages that are not wanted."""
        self.offsets.update(queue, offset)

    async def correct_offset(self, queue: MessageQueue, process_queue: ProcessQueue, offset: int) -> None:
        """Go on at another offset: the queue is dropped, and taken over again there by the next rebalance."""
        process_queue.is_dropped = True
        process_queue.clear()
        self.offsets.update(queue, offset, increase_only=False)
        await self.give_up(queue)
        self.wake_rebalance()

    def commit(self, queue: MessageQueue, process_queue: ProcessQueue, offset: int) -> None:
        """Remember that everything before an offset is finished; brokers hear of it every 5 s."""
        self.offsets.update(queue, offset)

    # --- heartbeats ---------------------------------------------------------------------------------------------------

    def _topics(self) -> Collection[str]:
        return list(self._subscriptions)

    def _heartbeat_data(self) -> ConsumerData:
        return ConsumerData(
            group_name=self._group,
            consume_type=ConsumeType.CONSUME_PASSIVELY.value,
            message_model=self.config.message_model.value,
            consume_from_where=self.config.consume_from_where.value,
            subscription_data_set=list(self._subscriptions.values()),
            unit_mode=self.config.unit_mode,
        )

    def _now_ms(self) -> int:
        return self.instance.environment.clock.wall_ms()

    def __repr__(self) -> str:
        state = "paused" if self.is_paused else "running" if self._is_running else "stopped"
        return f"<PushConsumer {self._group} {state}, {len(self._queues)} queues>"
