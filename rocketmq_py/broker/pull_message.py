"""Pulling: the checks, the read, and what follows from it. The ordinary and the hot path both run this code.

A path makes a `Pull` of a request and says how to write an answer. `PullMessageService.run` does the rest: it reads,
stores the group's progress if asked to, holds the request if there is nothing yet, and answers.

Source: `PullMessageProcessor`, `DefaultPullMessageResultHandler`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.consumer_offset import ConsumerOffsetManager
from rocketmq_py.broker.read_policy import MASTER_ID, ReadPolicy
from rocketmq_py.broker.refusal import Refusal, topic_not_exist
from rocketmq_py.broker.statistics import BrokerStatsManager, Traffic
from rocketmq_py.broker.subscriptions import Selection, Subscriptions
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.common import sys_flag as flags
from rocketmq_py.common.permission import is_readable
from rocketmq_py.remoting.bodies.subscription import is_tag_type
from rocketmq_py.remoting.bodies.topic_config import TopicConfig
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.headers.pull import ForbiddenType, PullMessageRequestHeader
from rocketmq_py.store.consume_queue_store import AnyQueue
from rocketmq_py.store.errors import StoreError
from rocketmq_py.store.get_message import MAX_PULL_BYTES, GetMessageResult, GetMessageStatus
from rocketmq_py.store.message_store import MessageStore

logger = logging.getLogger(__name__)

#: Remark of the everyday answer.
FOUND: Final = GetMessageStatus.FOUND.name

#: Most messages that one pull may ask for; a larger number is cut to it.
MAX_MESSAGES: Final = 1_024

#: What a status of the store means to a client. Two more depend on the offset that was asked for, see `code_of`.
CODES: Final[dict[GetMessageStatus, ResponseCode]] = {
    GetMessageStatus.FOUND: ResponseCode.SUCCESS,
    GetMessageStatus.MESSAGE_WAS_REMOVING: ResponseCode.PULL_RETRY_IMMEDIATELY,
    GetMessageStatus.NO_MATCHED_MESSAGE: ResponseCode.PULL_RETRY_IMMEDIATELY,
    GetMessageStatus.OFFSET_FOUND_NULL: ResponseCode.PULL_NOT_FOUND,
    GetMessageStatus.OFFSET_OVERFLOW_ONE: ResponseCode.PULL_NOT_FOUND,
    GetMessageStatus.OFFSET_OVERFLOW_BADLY: ResponseCode.PULL_OFFSET_MOVED,
    GetMessageStatus.OFFSET_TOO_SMALL: ResponseCode.PULL_OFFSET_MOVED,
    GetMessageStatus.OFFSET_RESET: ResponseCode.PULL_OFFSET_MOVED,
}


def code_of(status: GetMessageStatus, offset: int) -> ResponseCode:
    """Return the response code for a status of the store.

    A queue that holds nothing, or does not exist yet, is not wrong for a reader that begins at 0: it waits.
    """
    code = CODES.get(status)
    if code is None:
        code = ResponseCode.PULL_OFFSET_MOVED if offset else ResponseCode.PULL_NOT_FOUND
    return code


@dataclass(frozen=True, slots=True)
class PullTarget:
    """What the checks found; valid for all pulls of one group from one queue while `PullChecks.version` stays.

    Attributes:
        config: the topic.
        selection: what the group wants.
        traffic: counts what the group receives.
        pulled: where the group's pulls end, by queue.
    """

    config: TopicConfig
    selection: Selection
    traffic: Traffic
    pulled: dict[int, int]


class PullTerms:
    """What is the same in all pulls of one group from one queue, as long as it asks in the same way.

    Attributes:
        group, topic, queue_id: who wants what.
        filter: which messages.
        max_messages, max_bytes: how many at most.
        stores_progress: whether the pull's commit offset is the group's progress.
        hold_millis: how long the request may wait for a message; 0 for not at all.
        traffic: counts what the group receives.
        pulled: where the group's pulls end, by queue.
        topic_sys_flag, group_sys_flag: what the client is told of both.
        queue: the queue in the store, once it has been found there.
    """

    __slots__ = (
        "filter",
        "group",
        "group_sys_flag",
        "hold_millis",
        "max_bytes",
        "max_messages",
        "pulled",
        "queue",
        "queue_id",
        "stores_progress",
        "topic",
        "topic_sys_flag",
        "traffic",
    )

    def __init__(self, header: PullMessageRequestHeader, target: PullTarget) -> None:
        self.group = header.consumer_group
        self.topic = header.topic
        self.queue_id = header.queue_id
        self.filter = target.selection.filter
        self.max_messages = max(1, min(header.max_msg_nums, MAX_MESSAGES))
        asked = header.max_msg_bytes
        self.max_bytes = min(asked, MAX_PULL_BYTES) if asked is not None and asked > 0 else MAX_PULL_BYTES
        self.stores_progress = bool(header.sys_flag & flags.PULL_COMMIT_OFFSET)
        self.hold_millis = max(header.suspend_timeout_millis, 0) if header.sys_flag & flags.PULL_SUSPEND else 0
        self.traffic = target.traffic
        self.pulled = target.pulled
        self.topic_sys_flag = target.config.topic_sys_flag
        self.group_sys_flag = target.selection.group_sys_flag or 0
        self.queue: AnyQueue | None = None


class Pull(msgspec.Struct):
    """One pull under way. Each path has a subclass that knows how to write the answer.

    Attributes:
        terms: who wants what.
        offset: from where, units.
        commit_offset: the group's progress, if `terms` say so.
        owner: the connection that asked.
    """

    terms: PullTerms
    owner: Hashable
    offset: int
    commit_offset: int

    def answer(self, code: ResponseCode, remark: str, suggested: int, result: GetMessageResult) -> None:
        """Write the answer; called once, whenever it comes.

        Args:
            code: the response code.
            remark: the name of the store's status, or what went wrong.
            suggested: the broker to ask next.
            result: what was read; its buffers are views of the log, to be sent or copied at once.
        """
        raise NotImplementedError

    def __repr__(self) -> str:
        terms = self.terms
        return (
            f"<Pull {terms.group} from {terms.topic}-{terms.queue_id} at {self.offset}, waits {terms.hold_millis} ms>"
        )


class PullChecks:
    """The checks of a pull, in RocketMQ's order.

    Attributes:
        read_policy: may refuse all reads; a stage with replicas sets another.
    """

    def __init__(
        self,
        config: BrokerConfig,
        topics: TopicConfigManager,
        subscriptions: Subscriptions,
        read_policy: ReadPolicy,
        statistics: BrokerStatsManager,
        offsets: ConsumerOffsetManager,
    ) -> None:
        self._config = config
        self._topics = topics
        self._subscriptions = subscriptions
        self.read_policy = read_policy
        self._statistics = statistics
        self._offsets = offsets
        self._changes = 0
        topics.on_change.append(self._topic_changed)

    def _topic_changed(self, topic: str | None) -> None:
        self.forget()

    def forget(self) -> None:
        """Make every earlier result of `check` void: a setting or the role of this broker has changed."""
        self._changes += 1

    @property
    def version(self) -> int:
        """Grows whenever an earlier result of `check` may be void."""
        return self._changes + self._subscriptions.version

    def check(self, header: PullMessageRequestHeader, code: int, consumer: str) -> PullTarget | Refusal:
        """Judge a request.

        Args:
            header: its header.
            code: its request code, PULL_MESSAGE or LITE_PULL_MESSAGE.
            consumer: the address it came from, for the remark.
        """
        found = self._refuse_broker(code) or self._subscriptions.check_group(header.consumer_group)
        if found is not None:
            return found
        config = self._check_topic(header, consumer)
        if isinstance(config, Refusal):
            return config
        selection = self._subscriptions.resolve(header.consumer_group, header)
        if isinstance(selection, Refusal):
            return selection
        kind = selection.subscription.expression_type
        if not is_tag_type(kind) and not self._config.enable_property_filter:
            remark = f"The broker does not support consumer to filter message by {kind}"
            return Refusal(ResponseCode.SYSTEM_ERROR, remark)
        traffic = self._statistics.group_get(header.topic, header.consumer_group)
        return PullTarget(config, selection, traffic, self._offsets.pulled(header.consumer_group, header.topic))

    def _refuse_broker(self, code: int) -> Refusal | None:
        if busy := self.read_policy.refusal():
            return Refusal(ResponseCode.SYSTEM_BUSY, busy)
        if not is_readable(self._config.broker_permission):
            return self._forbid("pulling message is forbidden")
        if code == RequestCode.LITE_PULL_MESSAGE and not self._config.lite_pull_message_enable:
            return self._forbid("for lite pull consumer is forbidden")
        return None

    def _forbid(self, what: str) -> Refusal:
        return Refusal(
            ResponseCode.NO_PERMISSION,
            f"the broker[{self._config.broker_ip1}] {what}",
            {"forbiddenType": str(ForbiddenType.BROKER.value)},
        )

    def _check_topic(self, header: PullMessageRequestHeader, consumer: str) -> TopicConfig | Refusal:
        topic = header.topic
        config = self._topics.select(topic)
        if config is None:
            return topic_not_exist(topic, blank=" ")
        if not is_readable(config.perm):
            remark = f"the topic[{topic}] pulling message is forbidden"
            return Refusal(ResponseCode.NO_PERMISSION, remark, {"forbiddenType": str(ForbiddenType.TOPIC.value)})
        if not 0 <= header.queue_id < config.read_queue_nums:
            return Refusal(
                ResponseCode.INVALID_PARAMETER,
                f"queueId[{header.queue_id}] is illegal, topic:[{topic}] "
                f"topicConfig.readQueueNums:[{config.read_queue_nums}] consumer:[/{consumer}]",
            )
        return config


class Holder(Protocol):
    """Keeps a pull that found nothing; provided by stage long_polling."""

    def __call__(self, pull: Pull, run: Callable[[], None], millis: int) -> bool:
        """Keep the pull and call `run` once, when it is worth another try or `millis` are over.

        Returns:
            False if it cannot be kept; it is then answered at once.
        """
        ...


class PullMessageService:
    """Runs pulls that passed the checks.

    Attributes:
        hold: keeps pulls that found nothing; None answers them at once.
        read_policy: which broker a reader should ask next; a stage with replicas sets another.
    """

    def __init__(
        self, config: BrokerConfig, store: MessageStore, offsets: ConsumerOffsetManager, read_policy: ReadPolicy
    ) -> None:
        self.hold: Holder | None = None
        self._config = config
        self._store = store
        self._offsets = offsets
        self.read_policy = read_policy
        self._cold_reads: set[asyncio.Task[None]] = set()

    async def stop(self) -> None:
        """Give up the reads that are under way."""
        tasks = list(self._cold_reads)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def run(self, pull: Pull, is_first: bool = True) -> None:
        """Read and answer, or hold.

        Args:
            pull: the request.
            is_first: false when a held request runs again: it is not held once more and commits nothing.
        """
        terms = pull.terms
        reset = self._offsets.take_reset(terms.group, terms.topic, terms.queue_id)
        if reset is not None and self._config.use_server_side_reset_offset:
            self._answer_reset(pull, reset)
            return
        queue = terms.queue
        if queue is None or queue.is_deleted:
            queue = terms.queue = self._store.find_queue(terms.topic, terms.queue_id)
        try:
            result = self._store.get_message_from(queue, pull.offset, terms.max_messages, terms.filter, terms.max_bytes)
        except StoreError as error:
            self._answer_failure(pull, error)
            return
        if result is None:
            # The bytes are not in memory. A thread reads them; nothing of the loop waits.
            task = asyncio.get_running_loop().create_task(self._run_cold(pull, is_first), name="cold pull")
            self._cold_reads.add(task)
            task.add_done_callback(self._cold_reads.discard)
            return
        self._finish(pull, result, is_first)

    async def _run_cold(self, pull: Pull, is_first: bool) -> None:
        terms = pull.terms
        try:
            result = await self._store.get_message_cold(
                terms.topic, terms.queue_id, pull.offset, terms.max_messages, terms.filter, terms.max_bytes
            )
        except (StoreError, OSError) as error:
            self._answer_failure(pull, error)
            return
        self._finish(pull, result, is_first)

    def _finish(self, pull: Pull, result: GetMessageResult, is_first: bool) -> None:
        # No await between the read and the hold: whatever arrives later finds the request in the hold service.
        terms = pull.terms
        if is_first and terms.stores_progress:
            self._commit(pull)
        policy, status, suggested = self.read_policy, result.status, MASTER_ID
        if status is GetMessageStatus.FOUND:
            terms.traffic.add(result.message_count, result.size)
            # Looked up once and for all: the everyday answer.
            code, remark = ResponseCode.SUCCESS, FOUND
        else:
            code, remark = code_of(status, pull.offset), status.name
        hold_millis = terms.hold_millis if is_first else 0
        if not policy.is_plain:
            code, suggested, limit = policy.direct(terms.group, code, result.is_slow, hold_millis > 0)
            hold_millis = hold_millis if limit is None else min(hold_millis, limit)
        if code is ResponseCode.PULL_NOT_FOUND and hold_millis and self._keep(pull, hold_millis):
            return
        terms.pulled[terms.queue_id] = result.next_begin_offset
        pull.answer(code, remark, suggested, result)

    def _keep(self, pull: Pull, millis: int) -> bool:
        return self.hold is not None and self.hold(pull, lambda: self.run(pull, is_first=False), millis)

    def _commit(self, pull: Pull) -> None:
        terms = pull.terms
        if not self._offsets.has_reset(terms.group, terms.topic, terms.queue_id):
            self._offsets.commit(terms.group, terms.topic, terms.queue_id, pull.commit_offset)

    def _answer_failure(self, pull: Pull, error: Exception) -> None:
        """Answer a read that the store could not do; the reader stays where it is."""
        logger.error("%r failed: %s", pull, error)
        result = GetMessageResult(GetMessageStatus.NO_MATCHED_MESSAGE, pull.offset, 0, 0)
        pull.answer(ResponseCode.SYSTEM_ERROR, "store getMessage return null", MASTER_ID, result)

    def _answer_reset(self, pull: Pull, offset: int) -> None:
        terms = pull.terms
        minimum = self._store.min_offset(terms.topic, terms.queue_id)
        maximum = self._store.max_offset(terms.topic, terms.queue_id)
        terms.pulled[terms.queue_id] = offset
        result = GetMessageResult(GetMessageStatus.OFFSET_RESET, offset, minimum, maximum)
        pull.answer(ResponseCode.PULL_OFFSET_MOVED, result.status.name, MASTER_ID, result)
