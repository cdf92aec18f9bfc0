"""A producer that can ask: it sends a message and waits for what the consumer answers.

    async with RequestProducer("Shop", namesrv_addr="127.0.0.1:9876") as producer:
        reply = await producer.request(Message.of("Prices", b"two coffees"), timeout=2.0)

    requester                        broker                        replier (a consumer)
       | heartbeat: client X is here   |                               |
       | question, reply to client X   |  stored like any message      |
       |------------------------------>|------------------------------>| pull
       |                               |       reply for client X      |
       |  326 over X's connection      |<------------------------------| send
       |<------------------------------|                               |

The reply needs the requester's connection to the broker that gets it, and the broker must know whose connection that is.
So a request is preceded by a heartbeat if this connection has seen none.

Source: `DefaultMQProducerImpl#request`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from typing import Any, Final

from rocketmq_py.client.config import ProducerConfig
from rocketmq_py.client.errors import BrokerResponseError, ClientError, ClientStateError, SendFailedError
from rocketmq_py.client.greetings import Greetings
from rocketmq_py.client.instance import MQClientInstance
from rocketmq_py.client.producer import Producer
from rocketmq_py.client.reply import REQUEST_TIMEOUT_EXCEPTION, create_reply_message
from rocketmq_py.client.request_futures import RequestFutures, TooManyRequestsError
from rocketmq_py.client.selectors import Selector
from rocketmq_py.client.send_request import Outgoing, prepare
from rocketmq_py.client.send_result import SendResult
from rocketmq_py.common import properties as names
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.message import Message, MessageExt, MessageQueue

logger = logging.getLogger(__name__)

#: Requests of one producer that may wait at a time, unless it is told otherwise.
MAX_WAITING: Final = 10_000


class RequestTimeoutError(ClientError, TimeoutError):
    """No reply came in time. The request may have been handled all the same, or be handled later."""

    def __init__(self, text: str) -> None:
        super().__init__(text, REQUEST_TIMEOUT_EXCEPTION)


class ReplyNotDeliveredError(ClientError):
    """The broker could not pass a reply on: the client that asked is gone, or does not answer."""


class RequestProducer(Producer):
    """A producer with `request`, and with `reply` for the other side; what it does not explain is as in `Producer`.

    Args:
        max_waiting: requests that may wait for their replies at a time; the next one is refused.
    """

    def __init__(
        self,
        group: str = "",
        config: ProducerConfig | None = None,
        *,
        namesrv_addr: str = "",
        instance: MQClientInstance | None = None,
        environment: Environment | None = None,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        super().__init__(group, config, namesrv_addr=namesrv_addr, instance=instance, environment=environment)
        self._max_waiting = max_waiting
        self._futures = RequestFutures.of(self.instance)
        self._greetings = Greetings(self.instance)
        self._waiting: dict[str, asyncio.Future[MessageExt]] = {}

    async def stop(self) -> None:
        """Fail the requests that wait, then stop as a producer does. A second call does nothing."""
        waiting, self._waiting = self._waiting, {}
        for correlation_id, future in waiting.items():
            if not future.done():
                future.set_exception(
                    ClientStateError(f"the producer was stopped while request {correlation_id} waited for its reply")
                )
                future.exception()  # Marks it as seen: whoever waited may have been cancelled in this moment.
        await super().stop()
        await self._greetings.stop()

    # --- asking ------------------------------------------------------------------------------------------------------

    async def request(
        self, message: Message, *, queue: MessageQueue | None = None, timeout: float | None = None
    ) -> MessageExt:
        """Send a message and wait for the reply to it.

        Args:
            message: the question. It is not changed; what is sent is a copy with the properties of a request.
            queue: the one to send to; then nothing is tried again.
            timeout: seconds for everything, from here to the reply; default `send_msg_timeout`.

        Returns:
            The reply: its body and properties. It lies in no queue; `ARRIVE_TIME` says when it came.

        Raises:
            InvalidInputError: the message breaks a rule; nothing was sent.
            TooManyRequestsError: `max_waiting` requests wait already; nothing was sent.
            RequestTimeoutError: no reply came in time. A later one is dropped.
            ClientStateError: the producer is stopped, or was while this waited.
            ClientError, RemotingError: the question was not stored; see `send`.

        Cancellation: the reply is dropped if it comes; a question that was sent is not taken back.

        Source: `DefaultMQProducerImpl#request(Message, long)`, RocketMQ 5.3. Differs from RocketMQ, which tries no
            other broker when the send fails.
        """
        self._check_running()
        seconds = self._budget(timeout)
        return await self._ask(self._question(message, seconds), queue, seconds)

    async def request_by(
        self, message: Message, selector: Selector, argument: Any = None, *, timeout: float | None = None
    ) -> MessageExt:
        """Send to the queue that `selector(queues, message, argument)` returns, and wait; see `request`."""
        self._check_running()
        seconds = self._budget(timeout)
        question = self._question(message, seconds)
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        queue = selector(await self.publish_queues(message.topic), message, argument)
        if queue is None:
            raise ClientError(f"the selector chose no queue of topic {message.topic}")
        return await self._ask(question, queue, max(end - loop.time(), 0.001))

    def _question(self, message: Message, seconds: float) -> Message:
        """Return the message as it is sent."""
        if not 0 < seconds < math.inf:
            raise InvalidInputError(f"the time-out of a request is {seconds} seconds; it must be above 0 and finite")
        if message.properties.get(names.MSG_TYPE) == names.MSG_TYPE_REPLY:
            raise InvalidInputError("a reply cannot be a request: send it with send() or reply()")
        question = Message(message.topic, message.body, dict(message.properties), message.flag)
        question.properties |= {
            names.CORRELATION_ID: random_uuid(self._environment.random),
            names.REPLY_TO_CLIENT: self.instance.client_id,
            names.TTL: str(max(1, int(seconds * 1000))),
        }
        return question

    async def _ask(self, question: Message, queue: MessageQueue | None, seconds: float) -> MessageExt:
        """Send, and wait for whichever ends it: the reply, the failure of the send, or the time."""
        if len(self._waiting) >= self._max_waiting:
            raise TooManyRequestsError(
                f"{len(self._waiting)} requests of producer {self.group} wait for their replies; "
                "wait for some of them, or raise max_waiting"
            )
        outgoing = prepare(question, self.config, self.instance.unique_ids)
        correlation_id = question.properties[names.CORRELATION_ID]
        future = self._waiting[correlation_id] = self._futures.add(correlation_id)
        sending = self._begin_send(outgoing, queue, seconds)
        try:
            async with asyncio.timeout(seconds) as limit:
                await asyncio.wait((sending, future), return_when=asyncio.FIRST_COMPLETED)
                if not future.done():
                    sending.result()
                return await future
        except TimeoutError:
            if not limit.expired():
                raise  # The send has a time-out of its own, which says more.
            raise RequestTimeoutError(_no_reply(question, seconds, sending)) from None
        finally:
            self._waiting.pop(correlation_id, None)
            self._futures.remove(correlation_id)
            if not future.done():
                # A reply that overtakes the answer to the send leaves that to end by itself.
                sending.cancel()

    def _begin_send(self, outgoing: Outgoing, queue: MessageQueue | None, seconds: float) -> asyncio.Task[SendResult]:
        task = asyncio.get_running_loop().create_task(self._send(outgoing, queue, seconds))
        # `stop` waits for the tasks in this set.
        self._tasks.add(task)
        task.add_done_callback(self._sent)
        return task

    def _sent(self, task: asyncio.Task[SendResult]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # Marks it as seen: the reply may have come although the send failed.

    async def _attempt(self, outgoing: Outgoing, queue: MessageQueue, mode: str, seconds: float) -> SendResult | None:
        """Make one attempt, on a connection by which the broker can find this client again."""
        if outgoing.messages[0].properties.get(names.CORRELATION_ID) in self._waiting:
            loop = asyncio.get_running_loop()
            began = loop.time()
            await self._greetings.greet(await self._queues.master_of(queue), seconds)
            self._greetings.greet_others(outgoing.topic)
            seconds -= loop.time() - began
        return await super()._attempt(outgoing, queue, mode, seconds)

    # --- answering ---------------------------------------------------------------------------------------------------

    async def reply(self, request: MessageExt, body: bytes, *, timeout: float | None = None) -> SendResult:
        """Answer a request.

        The reply goes to the broker that the request came from, since the client that asked is known there.
        Differs from RocketMQ, where a reply goes to any broker of the cluster, and to the next when that one does not
        know the client: `send(create_reply_message(request, body))` does the same.

        Args:
            request: the message as a consumer got it.
            body: the answer.
            timeout: seconds; default `send_msg_timeout`.

        Raises:
            NotARequestError: the message is none that can be answered.
            ReplyNotDeliveredError: the client that asked could not be reached.
            ClientError, RemotingError: see `send`.
        """
        message = create_reply_message(request, body)
        queues = await self.publish_queues(message.topic)
        queue = next((queue for queue in queues if queue.broker_name == request.broker_name), None)
        try:
            return await self.send(message, queue=queue, timeout=timeout)
        except (SendFailedError, BrokerResponseError) as error:
            cause = error.__cause__ if isinstance(error, SendFailedError) else error
            if isinstance(cause, BrokerResponseError) and (cause.remark or "").startswith("push reply message"):
                raise ReplyNotDeliveredError(_not_delivered(message, cause), cause.code) from cause
            raise

    def __repr__(self) -> str:
        return f"<RequestProducer {self.group} {'running' if self._is_running else 'stopped'} {self._futures!r}>"


def random_uuid(rng: random.Random) -> str:
    """Return a random UUID (version 4) as text."""
    bits = rng.getrandbits(128) & ~(0xF << 76 | 0x3 << 62) | 0x4 << 76 | 0x2 << 62
    text = f"{bits:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _no_reply(question: Message, seconds: float, sending: asyncio.Task[SendResult]) -> str:
    where = "whether a broker has stored it is not known"
    if sending.done() and not sending.cancelled() and sending.exception() is None:
        queue = sending.result().queue
        where = f"it is stored in queue {queue.queue_id} of broker {queue.broker_name}"
    return (
        f"no reply within {seconds:g} s to request {question.properties[names.CORRELATION_ID]} of topic "
        f"{question.topic}; {where}. Is a consumer of that topic running, does it answer, and is it fast enough? "
        "A later reply is dropped"
    )


def _not_delivered(reply: Message, cause: BrokerResponseError) -> str:
    return (
        f"the reply to request {reply.properties[names.CORRELATION_ID]} did not reach client "
        f"{reply.properties[names.REPLY_TO_CLIENT]}: {cause.remark} It has stopped, it has no connection to broker "
        f"{cause.address}, or it does not take replies any more"
    )
