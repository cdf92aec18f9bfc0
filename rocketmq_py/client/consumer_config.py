"""The settings of consumers, with RocketMQ's names and defaults in Python spelling.

Source: `DefaultMQPushConsumer`, `DefaultLitePullConsumer`, `DefaultMQPullConsumer`, RocketMQ 5.3.
"""

from __future__ import annotations

from dataclasses import dataclass

from rocketmq_py.client.config import ClientConfig
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.remoting.bodies.heartbeat import ConsumeFromWhere, MessageModel


@dataclass(slots=True, kw_only=True)
class ConsumerConfig(ClientConfig):
    """What all consumers share. Durations are milliseconds.

    Attributes:
        message_model: whether each message goes to one member of the group or to every one.
        consume_from_where: where a group begins in a queue in which it has no offset.
        consume_timestamp: for CONSUME_FROM_TIMESTAMP, milliseconds since 1970; None: half an hour before the start.
        pull_batch_size: messages of one pull.
        pull_batch_size_in_bytes: bytes of one pull.
        broker_suspend_max_time_millis: how long the broker may hold a pull when there is nothing.
        consumer_timeout_millis_when_suspend: how long to wait for the answer of such a pull.
    """

    message_model: MessageModel = MessageModel.CLUSTERING
    consume_from_where: ConsumeFromWhere = ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET
    consume_timestamp: int | None = None
    pull_batch_size: int = 32
    pull_batch_size_in_bytes: int = 256 << 10
    broker_suspend_max_time_millis: int = 15_000
    consumer_timeout_millis_when_suspend: int = 30_000

    def check(self) -> None:
        """Refuse settings that cannot work.

        Raises:
            InvalidInputError: with the rule.
        """
        _check_range("pull_batch_size", self.pull_batch_size, 1, 1_024)
        if self.consumer_timeout_millis_when_suspend < self.broker_suspend_max_time_millis:
            raise InvalidInputError(
                f"consumer_timeout_millis_when_suspend ({self.consumer_timeout_millis_when_suspend}) is shorter than "
                f"broker_suspend_max_time_millis ({self.broker_suspend_max_time_millis}): every quiet pull would fail"
            )


@dataclass(slots=True, kw_only=True)
class PushConsumerConfig(ConsumerConfig):
    """Settings of a push consumer. Durations are milliseconds.

    Attributes:
        consume_thread_max: how many calls of the listener may run at a time.
        consume_message_batch_max_size: messages of one call.
        pull_threshold_for_queue: cached messages of one queue, beyond which it is not pulled.
        pull_threshold_size_for_queue: the same in MiB of bodies.
        consume_concurrently_max_span: the same as a distance between the first and the last cached offset.
        pull_interval: pause after each pull that found something.
        post_subscription_when_pull: send the expression with every pull.
        await_termination_millis_when_shutdown: how long `stop` waits for calls of the listener that are running.
            Differs from RocketMQ, which interrupts them at once (0).
        local_offset_store_dir: where offsets are kept in broadcasting.
        consume_timeout: minutes that the listener may take for a message before its queue goes on without it.
        max_reconsume_times: how often a message is given to the listener again before it counts as dead; -1: as often as
            the group's `retryMaxTimes` says, 16 by default, and without end in order.
        suspend_current_queue_time_millis: how long a queue that is consumed in order rests after a failure.
    """

    consume_thread_max: int = 20
    consume_message_batch_max_size: int = 1
    pull_threshold_for_queue: int = 1_000
    pull_threshold_size_for_queue: int = 100
    consume_concurrently_max_span: int = 2_000
    pull_interval: int = 0
    post_subscription_when_pull: bool = False
    await_termination_millis_when_shutdown: int = 3_000
    local_offset_store_dir: str = "~/.rocketmq_offsets"
    consume_timeout: int = 15
    max_reconsume_times: int = -1
    suspend_current_queue_time_millis: int = 1_000

    def check(self) -> None:
        """Refuse settings that cannot work; see `ConsumerConfig.check`."""
        ConsumerConfig.check(self)
        _check_range("consume_thread_max", self.consume_thread_max, 1, 1_000)
        _check_range("consume_message_batch_max_size", self.consume_message_batch_max_size, 1, 1_024)
        _check_range("pull_threshold_for_queue", self.pull_threshold_for_queue, 1, 65_535)
        _check_range("pull_threshold_size_for_queue", self.pull_threshold_size_for_queue, 1, 1_024)
        _check_range("consume_concurrently_max_span", self.consume_concurrently_max_span, 1, 65_535)
        _check_range("pull_interval", self.pull_interval, 0, 65_535)
        _check_range("consume_timeout", self.consume_timeout, 1, 10_000)
        _check_range("suspend_current_queue_time_millis", self.suspend_current_queue_time_millis, 10, 30_000)


@dataclass(slots=True, kw_only=True)
class LitePullConsumerConfig(ConsumerConfig):
    """Settings of a lite pull consumer. Durations are milliseconds.

    Attributes:
        auto_commit: commit what `poll` handed out, every `auto_commit_interval_millis`.
        poll_timeout_millis: how long `poll` waits if it is not told.
        pull_threshold_for_all: messages fetched and not handed out, of all queues, beyond which nothing is fetched.
        pull_threshold_for_queue, pull_threshold_size_for_queue, consume_max_span: limits of one queue's cache.
    """

    pull_batch_size: int = 10
    broker_suspend_max_time_millis: int = 20_000
    auto_commit: bool = True
    auto_commit_interval_millis: int = 5_000
    poll_timeout_millis: int = 5_000
    pull_threshold_for_all: int = 10_000
    pull_threshold_for_queue: int = 1_000
    pull_threshold_size_for_queue: int = 100
    consume_max_span: int = 2_000


def _check_range(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise InvalidInputError(f"{name} is {value}; it is {low} to {high}")
