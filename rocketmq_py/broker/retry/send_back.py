"""Sending back: from a request to the place and the draft of the next try. The decisions; nothing is read or stored here.

The order of the checks is RocketMQ's. A client that is refused sends the message to the retry topic itself, so a refusal
is never the end of a message.

Source: `AbstractSendMessageProcessor#consumerSendMsgBack`, RocketMQ 5.3.
"""

from __future__ import annotations

from dataclasses import dataclass

from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.refusal import Refusal
from rocketmq_py.broker.retry.failed_message import dead_letter, is_inner_batch, is_retriable, retried
from rocketmq_py.broker.retry.retry_topics import Place, RetryTopics
from rocketmq_py.broker.retry.verdict import next_level, retry_limit
from rocketmq_py.broker.subscription_group import SubscriptionGroupManager
from rocketmq_py.common.permission import is_writeable
from rocketmq_py.common.record import Record
from rocketmq_py.remoting.answer import FAQ
from rocketmq_py.remoting.bodies.subscription_group import SubscriptionGroupConfig
from rocketmq_py.remoting.codes import ResponseCode
from rocketmq_py.remoting.headers.send_back import ConsumerSendMsgBackRequestHeader
from rocketmq_py.store.draft import Draft
from rocketmq_py.store.put_result import PutMessageStatus


@dataclass(frozen=True, slots=True)
class Permitted:
    """A send-back that may go on: the group, and where its next try would be stored."""

    group: SubscriptionGroupConfig
    place: Place


@dataclass(frozen=True, slots=True)
class NextTry:
    """What is stored for a message that failed.

    Attributes:
        draft: the message.
        is_new_topic: its topic was created just now.
        is_dead: it does not come again.
    """

    draft: Draft
    is_new_topic: bool
    is_dead: bool


class SendBackRules:
    """The checks and decisions of send-backs.

    Args:
        config: the broker's settings.
        groups: the consumer groups.
        topics: the topics of groups.
    """

    def __init__(self, config: BrokerConfig, groups: SubscriptionGroupManager, topics: RetryTopics) -> None:
        self._config = config
        self._groups = groups
        self._topics = topics

    def check(self, header: ConsumerSendMsgBackRequestHeader) -> Permitted | Refusal | None:
        """Judge a request before its message is read; None: the group wants no retries, and the message is dropped."""
        if not self._config.is_master:
            remark = f"no master available along with {self._config.broker_ip1}"
            return Refusal(ResponseCode.SYSTEM_ERROR, remark)
        group = self._groups.find(header.group)
        if group is None:
            return group_not_exist(header.group)
        if not is_writeable(self._config.broker_permission):
            remark = f"the broker[{self._config.broker_ip1}] sending message is forbidden"
            return Refusal(ResponseCode.NO_PERMISSION, remark)
        if group.retry_queue_nums <= 0:
            return None
        place = self._topics.retry(group, unit_mode=bool(header.unit_mode))
        return place if isinstance(place, Refusal) else Permitted(group, place)

    def decide(
        self, header: ConsumerSendMsgBackRequestHeader, client_version: int, permitted: Permitted, record: Record
    ) -> NextTry | Refusal:
        """Say what is stored for a message.

        Args:
            header: the request.
            client_version: the version in the client's command.
            permitted: what `check` found.
            record: the message as it lies in the log.
        """
        if not is_retriable(record):
            return no_such_message(header.offset)
        if is_inner_batch(record):
            return Refusal(ResponseCode.SYSTEM_ERROR, PutMessageStatus.MESSAGE_ILLEGAL.name)
        limit = retry_limit(permitted.group, header.max_reconsume_times, client_version)
        level = next_level(record.reconsume_times, limit, header.delay_level)
        if level is not None:
            place = permitted.place
            return NextTry(retried(record, place, level), place.is_new_topic, is_dead=False)
        found = self._topics.dead_letters(header.group)
        if isinstance(found, Refusal):
            return found
        return NextTry(dead_letter(record, found), found.is_new_topic or permitted.place.is_new_topic, is_dead=True)


def group_not_exist(group: str) -> Refusal:
    """Refuse for a group that does not exist and may not be created."""
    remark = f"subscription group not exist, {group} {FAQ}"
    return Refusal(ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST, remark)


def no_such_message(offset: int) -> Refusal:
    """Refuse for an offset at which no message begins."""
    return Refusal(ResponseCode.SYSTEM_ERROR, f"look message by offset failed, {offset}")
