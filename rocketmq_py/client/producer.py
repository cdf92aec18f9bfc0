"""The producer: chooses a queue, sends, and tries again elsewhere when that fails.

    send          waits for the answer; after a failure tries other brokers, 2 times by default
    send_async    returns at once; after a failure without an answer tries the same broker again
    send_one_way  returns when the message is on its way, and promises nothing
    send_batch    several messages of one topic in one request

A producer keeps nothing: a message that was not acknowledged when the process dies was not promised to anyone. Retries
may store a message twice; its unique id (`SendResult.msg_id`) is the same in both copies.

Source: `DefaultMQProducerImpl`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Final

from rocketmq_py.client.config import ProducerConfig
from rocketmq_py.client.errors import (
    ACCESS_BROKER_TIMEOUT,
    CONNECT_BROKER_EXCEPTION,
    BrokerResponseError,
    ClientError,
    SendFailedError,
    SendTimeoutError,
)
from rocketmq_py.client.fault_strategy import MQFaultStrategy
from rocketmq_py.client.hooks import CheckForbiddenHook, SendMessageContext, SendMessageHook
from rocketmq_py.client.instance import MQClientInstance
from rocketmq_py.client.publish_queues import PublishQueues
from rocketmq_py.client.recall import recall
from rocketmq_py.client.selectors import Selector
from rocketmq_py.client.send_request import Outgoing, build_request, prepare, prepare_batch
from rocketmq_py.client.send_result import SendResult, read_send_response
from rocketmq_py.client.validators import check_producer_group, check_topic_for_sending
from rocketmq_py.common.environment import Environment, system_environment
from rocketmq_py.common.message import Message, MessageQueue
from rocketmq_py.remoting.codes import ResponseCode
from rocketmq_py.remoting.errors import (
    HeaderError,
    RemotingConnectError,
    RemotingError,
    RemotingTimeoutError,
    RemotingTooMuchRequestError,
)

logger = logging.getLogger(__name__)

SYNC: Final = "sync"
ASYNC: Final = "async"
ONE_WAY: Final = "oneway"


class Producer:
    """Sends messages. Any number of tasks may use one producer at a time.

        async with Producer("OrderService", namesrv_addr="127.0.0.1:9876") as producer:
            result = await producer.send(Message.of("Orders", b"...", tags="new", keys="order-17"))

    Args:
        group: names the producers that do the same; empty: a name of this producer's own.
        config: the settings; None: the defaults.
        namesrv_addr: the name servers, instead of those in `config`.
        instance: share connections and routes of another client; whoever made it starts and stops it.
        environment: clock and randomness, for tests.

    Attributes:
        hooks: see every attempt.
        check_hooks: may stop an attempt.
        instance: connections and routes.
    """

    def __init__(
        self,
        group: str = "",
        config: ProducerConfig | None = None,
        *,
        namesrv_addr: str = "",
        instance: MQClientInstance | None = None,
        environment: Environment | None = None,
    ) -> None:
        self.config = replace(config) if config is not None else ProducerConfig()
        if namesrv_addr:
            self.config.namesrv_addr = namesrv_addr
        environment = environment or (instance.environment if instance is not None else system_environment())
        self.group = group or f"PY_PRODUCER_{environment.random.getrandbits(48):012x}"
        check_producer_group(self.group)
        self.instance = instance or MQClientInstance(self.config, environment)
        self.hooks: list[SendMessageHook] = []
        self.check_hooks: list[CheckForbiddenHook] = []
        self.faults = MQFaultStrategy(environment.random, enabled=self.config.send_latency_enable)
        self._owns_instance = instance is None
        self._environment = environment
        self._queues = PublishQueues(self.config, self.instance, self.faults, environment)
        self._tasks: set[asyncio.Task[SendResult]] = set()
        self._is_running = False

    # --- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Become able to send. A second call does nothing.

        Raises:
            ClientError: the shared instance has a producer of this group already.
        """
        if self._is_running:
            return
        if self.group in self.instance.producer_groups:
            raise ClientError(
                f"this client already has a producer of group {self.group}; use that one, or leave the group out"
            )
        if self._owns_instance:
            await self.instance.start()
        self.instance.check_running()
        self.instance.producer_groups.add(self.group)
        self._queues.attach()
        self._is_running = True

    async def stop(self) -> None:
        """Wait for sends that are under way, tell the brokers, and close. A second call does nothing."""
        if not self._is_running:
            return
        self._is_running = False
        await asyncio.gather(*self._tasks, return_exceptions=True)
        instance = self.instance
        self._queues.detach()
        instance.producer_groups.discard(self.group)
        await instance.unregister(producer_group=self.group)
        if self._owns_instance:
            await instance.stop()

    async def __aenter__(self) -> Producer:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    # --- sending -----------------------------------------------------------------------------------------------------

    async def send(
        self, message: Message, *, queue: MessageQueue | None = None, timeout: float | None = None
    ) -> SendResult:
        """Send a message and wait until the broker has stored it.

        Args:
            message: it gets a unique id (property `UNIQ_KEY`) if it has none.
            queue: the one to send to; then nothing is tried again.
            timeout: seconds for everything, retries included; default `send_msg_timeout`.

        Returns:
            Where it was stored. Look at `status`: other values than SEND_OK mean that the broker stored it, but did not
            flush or replicate it in time.

        Raises:
            InvalidInputError: the message breaks a rule; nothing was sent.
            NoRouteError: nobody has the topic.
            BrokerResponseError: the broker refused, with a code that is not worth a retry.
            SendFailedError: all attempts failed.
            SendTimeoutError: the time was over.

        Cancellation: a request that was written is not taken back; the message may be stored.

        Source: `DefaultMQProducerImpl#sendDefaultImpl`, RocketMQ 5.3.
        """
        self._check_running()
        return await self._send(prepare(message, self.config, self.instance.unique_ids), queue, timeout)

    async def send_batch(
        self, messages: Sequence[Message], *, queue: MessageQueue | None = None, timeout: float | None = None
    ) -> SendResult:
        """Send several messages of one topic in one request; all of them are stored, next to each other, or none.

        See `send`; the bodies together may have `max_message_size` bytes, and they are not compressed.
        """
        self._check_running()
        return await self._send(prepare_batch(messages, self.config, self.instance.unique_ids), queue, timeout)

    async def send_by(
        self, message: Message, selector: Selector, argument: Any = None, *, timeout: float | None = None
    ) -> SendResult:
        """Send to the queue that `selector(queues, message, argument)` returns, and to no other.

        Messages that must stay in order go to one queue this way, one after the other: see `select_by_hash`.
        """
        self._check_running()
        outgoing = prepare(message, self.config, self.instance.unique_ids)
        info = await self._queues.find(message.topic)
        queue = selector(list(info.queues), message, argument)
        if queue is None:
            raise ClientError(f"the selector chose no queue of topic {message.topic}")
        return await self._send(outgoing, queue, timeout)

    def send_async(
        self,
        message: Message,
        callback: Callable[[asyncio.Task[SendResult]], object] | None = None,
        *,
        queue: MessageQueue | None = None,
        timeout: float | None = None,
    ) -> asyncio.Task[SendResult]:
        """Begin to send a message and return at once.

        Without an answer it is tried again on the same broker and queue, `retry_times_when_send_async_failed` times, as
        long as there is time; an answer that says no is final.

        Args:
            message: see `send`.
            callback: called with the finished task.
            queue: the one to send to.
            timeout: seconds for everything.

        Returns:
            A task: await it, or look at it in the callback. Cancelling it does not take a written request back.

        Raises:
            InvalidInputError: the message breaks a rule; nothing was sent.

        Source: `DefaultMQProducerImpl#send(Message, SendCallback)`, RocketMQ 5.3. Differs from RocketMQ 5.3, which
            may turn to another broker with the queue id of the first.
        """
        self._check_running()
        outgoing = prepare(message, self.config, self.instance.unique_ids)
        task = asyncio.get_running_loop().create_task(self._send_async(outgoing, queue, timeout))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if callback is not None:
            task.add_done_callback(callback)
        return task

    async def send_one_way(self, message: Message, *, queue: MessageQueue | None = None) -> None:
        """Send a message that nobody answers for: it may be lost without a word.

        Raises:
            InvalidInputError: the message breaks a rule.
            NoRouteError: nobody has the topic.
            RemotingError: the broker cannot be reached.
        """
        self._check_running()
        outgoing = prepare(message, self.config, self.instance.unique_ids)
        await self._attempt(
            outgoing, queue or await self._queues.choose(outgoing.topic, None), ONE_WAY, self._budget(None)
        )

    async def recall_message(self, topic: str, recall_handle: str, *, timeout: float | None = None) -> str:
        """Take back a message that waits for its time of delivery.

        A broker takes messages back with `recallMessageEnable=true` only. Success means that it has noted the wish: a
        message that is just being delivered is still delivered.

        Args:
            topic: the message's topic.
            recall_handle: `SendResult.recall_handle` of its send.
            timeout: seconds; default `send_msg_timeout`.

        Returns:
            The message's unique id.

        Raises:
            InvalidInputError: the handle is none, or the topic is a retry or dead-letter topic; nothing was sent.
            NoRouteError: nobody has the topic.
            BrokerResponseError: the broker refused; its remark says why.
            RemotingError: there was no answer.

        Source: `DefaultMQProducerImpl#recallMessage`, RocketMQ 5.3.
        """
        self._check_running()
        return await recall(self.instance, self._queues, self.group, topic, recall_handle, self._budget(timeout))

    async def publish_queues(self, topic: str) -> list[MessageQueue]:
        """Return the queues that messages of a topic may go to.

        Raises:
            NoRouteError: nobody has the topic.
        """
        self._check_running()
        check_topic_for_sending(topic)
        return list((await self._queues.find(topic)).queues)

    # --- attempts ----------------------------------------------------------------------------------------------------

    def _check_running(self) -> None:
        if not self._is_running:
            raise ClientError("the producer is not running; start it first (`async with` does)")

    def _budget(self, timeout: float | None) -> float:
        return self.config.send_msg_timeout / 1000 if timeout is None else timeout

    async def _send(self, outgoing: Outgoing, queue: MessageQueue | None, timeout: float | None) -> SendResult:
        """Try until an attempt succeeds, or attempts or time run out."""
        loop = asyncio.get_running_loop()
        budget = self._budget(timeout)
        end = loop.time() + budget
        attempts = 1 if queue is not None else 1 + self.config.retry_times_when_send_failed
        tried: list[str] = []
        not_ok: SendResult | None = None
        cause: Exception | None = None
        for attempt in range(attempts):
            if tried and loop.time() >= end:
                break
            chosen = queue or await self._queues.choose(outgoing.topic, tried[-1] if tried else None)
            tried.append(chosen.broker_name)
            try:
                result = await self._attempt(outgoing, chosen, SYNC, self._time_of_attempt(end, attempts - attempt - 1))
            except BrokerResponseError as error:
                if error.code not in self.config.retry_response_codes and not_ok is None:
                    raise
                cause = error
                if error.code not in self.config.retry_response_codes:
                    break
            except (RemotingError, ClientError) as error:
                cause = error
            else:
                assert result is not None
                if result.is_ok or not self.config.retry_another_broker_when_not_store_ok:
                    return result
                not_ok = result
        if not_ok is not None:
            return not_ok
        raise self._failure(outgoing.topic, tried, budget, loop.time() >= end, cause) from cause

    def _time_of_attempt(self, end: float, attempts_left: int) -> float:
        seconds = end - asyncio.get_running_loop().time()
        limit = self.config.send_msg_max_timeout_per_request
        return min(seconds, limit / 1000) if limit >= 0 and attempts_left else seconds

    @staticmethod
    def _failure(topic: str, tried: list[str], budget: float, is_late: bool, cause: Exception | None) -> ClientError:
        if is_late and not isinstance(cause, BrokerResponseError):
            return SendTimeoutError(
                f"the message for topic {topic} was not acknowledged within {budget:g} s "
                f"(tried {', '.join(tried)}); it may or may not be stored. Last problem: {cause}",
                ACCESS_BROKER_TIMEOUT,
            )
        code = _code_of(cause)
        return SendFailedError(
            f"the message for topic {topic} was not stored in {len(tried)} attempts (tried {', '.join(tried)}): {cause}",
            code,
            tried,
        )

    async def _send_async(self, outgoing: Outgoing, queue: MessageQueue | None, timeout: float | None) -> SendResult:
        loop = asyncio.get_running_loop()
        budget = self._budget(timeout)
        end = loop.time() + budget
        chosen = queue or await self._queues.choose(outgoing.topic, None)
        attempts = 1 + self.config.retry_times_when_send_async_failed
        cause: Exception | None = None
        for attempt in range(attempts):
            if attempt and loop.time() >= end:
                break
            try:
                result = await self._attempt(outgoing, chosen, ASYNC, end - loop.time())
            except RemotingTooMuchRequestError:
                raise
            except RemotingError as error:
                cause = error
            else:
                assert result is not None
                return result
        tried = [chosen.broker_name] * attempts
        raise self._failure(outgoing.topic, tried, budget, loop.time() >= end, cause) from cause

    async def _attempt(self, outgoing: Outgoing, queue: MessageQueue, mode: str, seconds: float) -> SendResult | None:
        """Send once to one queue; tell the hooks and the fault strategy how it went."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        address = await self._queues.master_of(queue)
        context = SendMessageContext(self.group, outgoing.messages, queue, address, mode)
        for check in self.check_hooks:
            check.check(context)
        self._call_hooks("before", context)
        try:
            context.result = await self._exchange(
                outgoing, queue, address, mode, max(seconds - loop.time() + began, 0.001)
            )
        except BrokerResponseError as error:
            context.error = error
            self._remember(queue, began, isolate=True, reachable=True)
            if error.code == ResponseCode.SERVICE_NOT_AVAILABLE:
                self.instance.update_route_soon(outgoing.topic)
            raise
        except (RemotingError, HeaderError) as error:
            context.error = error
            self._remember(queue, began, isolate=True, reachable=False)
            # Differs from RocketMQ, whose producers find a new master with the next refresh, up to 30 s later.
            self.instance.update_route_soon(outgoing.topic)
            raise
        else:
            self._remember(queue, began, isolate=False, reachable=True)
        finally:
            self._call_hooks("after", context)
        return context.result

    async def _exchange(
        self, outgoing: Outgoing, queue: MessageQueue, address: str, mode: str, seconds: float
    ) -> SendResult | None:
        batch_id = self.instance.unique_ids.create() if outgoing.is_batch else ""
        wall_ms = self._environment.clock.wall_ms()
        command = build_request(outgoing, queue, self.group, wall_ms, self.config, batch_id)
        if mode == ONE_WAY:
            await self.instance.transport.one_way(address, command)
            return None
        response = await self.instance.request(address, command, seconds)
        return read_send_response(response, queue, outgoing.msg_id, address)

    def _remember(self, queue: MessageQueue, began: float, *, isolate: bool, reachable: bool) -> None:
        now = asyncio.get_running_loop().time()
        self.faults.update(queue.broker_name, (now - began) * 1000, now, isolate=isolate, reachable=reachable)

    def _call_hooks(self, method: str, context: SendMessageContext) -> None:
        for hook in self.hooks:
            try:
                getattr(hook, method)(context)
            except Exception:
                # Broad on purpose: what a hook does wrong must not keep a message from being sent.
                logger.exception("%s.%s failed", type(hook).__name__, method)

    def __repr__(self) -> str:
        return f"<Producer {self.group} {'running' if self._is_running else 'stopped'} {self._queues!r}>"


def _code_of(cause: Exception | None) -> int:
    if isinstance(cause, ClientError):
        return cause.code
    if isinstance(cause, RemotingTimeoutError):
        return ACCESS_BROKER_TIMEOUT
    if isinstance(cause, RemotingConnectError):
        return CONNECT_BROKER_EXCEPTION
    return -1
