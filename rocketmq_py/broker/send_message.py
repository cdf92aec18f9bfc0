"""Sending: the decisions. The ordinary and the hot path both run this code.

`SendChecks` says whether a message may be stored and where; `stored_properties` says what is stored beside the body;
`RESULTS` says what the store's verdict means to a client. Neither reads a socket nor writes a file.

Source: `SendMessageProcessor`, `AbstractSendMessageProcessor`, RocketMQ 5.3.
"""

from __future__ import annotations

import random
import re
import time
from dataclasses import dataclass
from typing import Final

from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.refusal import Refusal, topic_not_exist
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.common import properties as names
from rocketmq_py.common.java import string_hash
from rocketmq_py.common.permission import is_writeable
from rocketmq_py.common.properties import encode_properties
from rocketmq_py.common.topic import NOT_ALLOWED_TO_SEND, is_retry_topic, is_system_topic, topic_error
from rocketmq_py.remoting.bodies.topic_config import UNIT, UNIT_SUBSCRIPTION, TopicConfig
from rocketmq_py.remoting.codes import ResponseCode
from rocketmq_py.remoting.headers.send import SendMessageRequestHeader
from rocketmq_py.store.put_result import PutMessageStatus

#: Topic attributes that take a topic off the hot path: its records are not ordinary single messages.
SPECIAL_ATTRIBUTES: Final = ("cleanup.policy", "queue.type")

#: Beginnings of properties that the broker owns or must look at; see `SendHook.triggers`. A message that holds one
#: takes the ordinary path, which reads all properties.
SPECIAL_PROPERTIES: Final = (
    b"POP_CK\x01",
    b"CLUSTER\x01",
    b"MSG_REGION\x01",
    b"TRACE_ON\x01",
    b"INNER_",
    b"__CRC32#\x01",
    b"WAIT\x01(?!true\x02)",
)


@dataclass(frozen=True, slots=True)
class Target:
    """Where a message goes.

    Attributes:
        config: the topic.
        queue_id: the queue that was asked for, or drawn.
        is_new_topic: this send created the topic; it is to be persisted before the answer.
    """

    config: TopicConfig
    queue_id: int
    is_new_topic: bool = False


class SendChecks:
    """The checks of a send, in RocketMQ's order, and the topics that they create.

    Args:
        config: the broker's settings.
        topics: the topics.
        rng: draws a queue for a client that leaves it to the broker.
    """

    def __init__(self, config: BrokerConfig, topics: TopicConfigManager, rng: random.Random) -> None:
        self._config = config
        self._topics = topics
        self._random = rng

    def refuse_broker(self, now_ms: int) -> Refusal | None:
        """Return why this broker takes no message at all now, or None. One flag for a whole tick."""
        start = self._config.start_accept_send_request_time_stamp
        if now_ms < start:
            until = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(start // 1_000))
            remark = f"broker unable to service, until {until},{start % 1_000:03d}"
            return Refusal(ResponseCode.SYSTEM_ERROR, remark)
        return None

    def check(self, header: SendMessageRequestHeader, producer: str) -> Target | Refusal:
        """Judge a message by its header, and create its topic if that is allowed.

        Args:
            header: the request's header.
            producer: the address it came from, for remarks and logs.
        """
        topic = header.topic
        config = self._topics.select(topic)
        if refusal := self._refuse_topic(topic, config):
            return refusal
        is_new = config is None
        if config is None:
            config = self._create(header, producer)
            if config is None:
                return topic_not_exist(topic)
        return self._choose_queue(header.queue_id, config, producer, is_new)

    def _refuse_topic(self, topic: str, config: TopicConfig | None) -> Refusal | None:
        if not is_writeable(self._config.broker_permission) and config is not None and config.order:
            remark = f"the broker[{self._config.broker_ip1}] sending message is forbidden"
            return Refusal(ResponseCode.NO_PERMISSION, remark)
        if error := topic_error(topic):
            return Refusal(ResponseCode.INVALID_PARAMETER, error)
        if topic in NOT_ALLOWED_TO_SEND:
            return Refusal(ResponseCode.NO_PERMISSION, f"Sending message to topic[{topic}] is forbidden.")
        return None

    def _create(self, header: SendMessageRequestHeader, producer: str) -> TopicConfig | None:
        flag = 0
        if header.unit_mode:
            flag = UNIT_SUBSCRIPTION if is_retry_topic(header.topic) else UNIT
        config = self._topics.create_in_send(
            header.topic, header.default_topic, header.default_topic_queue_nums, flag, producer
        )
        if config is None and is_retry_topic(header.topic):
            config = self._topics.create_in_send_back(header.topic, 1, topic_sys_flag=flag)
        return config

    def _choose_queue(self, asked: int, config: TopicConfig, producer: str, is_new: bool) -> Target | Refusal:
        # The topic's own write permission is not looked at: producers honour it through the route.
        if asked >= max(config.write_queue_nums, config.read_queue_nums):
            remark = f"request queueId[{asked}] is illegal, {config} Producer: {producer}"
            return Refusal(ResponseCode.INVALID_PARAMETER, remark)
        if asked >= 0:
            return Target(config, asked, is_new)
        if config.write_queue_nums <= 0:
            remark = f"topic[{config.topic_name}] has no write queue to choose from, {config}"
            return Refusal(ResponseCode.SYSTEM_ERROR, remark)
        return Target(config, self._random.randrange(config.write_queue_nums), is_new)

    def is_plain(self, config: TopicConfig) -> bool:
        """Tell whether messages of this topic may take the hot path, as far as the topic decides it."""
        return not (
            is_retry_topic(config.topic_name)
            or is_system_topic(config.topic_name)
            or config.topic_filter_type == "MULTI_TAG"
            or any(name in config.attributes for name in SPECIAL_ATTRIBUTES)
        )


def stored_suffix(config: BrokerConfig) -> bytes:
    """Return the properties that the broker adds to every message, as text."""
    return encode_properties(
        {
            names.MSG_REGION: config.region_id,
            names.TRACE_ON: "true" if config.trace_on else "false",
            names.CLUSTER: config.broker_cluster_name,
        }
    )


def stored_properties(client: bytes, suffix: bytes) -> bytes:
    """Return what is stored for a client's properties that hold nothing special.

    The client's bytes stay as they came, in their order; only the separator that some clients leave out is added.
    """
    if client and not client.endswith(b"\x02"):
        return b"".join((client, b"\x02", suffix))
    return client + suffix


#: Most messages of one batch.
MAX_BATCH_MESSAGES: Final = 1_000

#: Names whose values only the broker knows; what a client says there is not stored.
BROKER_OWNED: Final = (names.POP_CK, names.CRC32, names.MSG_REGION, names.TRACE_ON, names.CLUSTER)
_OWNED_BYTES: Final = frozenset(name.encode() for name in BROKER_OWNED)
_UNIQUE_KEY: Final = names.UNIQ_KEY.encode()


def without_owned(client: bytes) -> bytes:
    """Return a client's properties without those that the broker owns; all other bytes stay as they are."""
    parts = [part for part in client.split(b"\x02") if part and part.partition(b"\x01")[0] not in _OWNED_BYTES]
    return b"".join(part + b"\x02" for part in parts)


def batch_suffixes(client: bytes, suffix: bytes) -> tuple[bytes, bytes]:
    """Return what is stored behind the own properties of a batch's messages: the request's, and the broker's.

    The request's unique key names the batch as a whole. A message with a key of its own keeps that, as its producer
    was told it; one without gets the batch's. Differs from RocketMQ up to 5.3.3, which appends the batch's key to every
    message, so that a reader, for whom the later of two equal names counts, sees one key on all of them.

    Args:
        client: properties of the request, without those that the broker owns.
        suffix: the broker's, see `stored_suffix`.

    Returns:
        The suffix for messages with a unique key, and the one for messages without.
    """
    parts = [part for part in client.split(b"\x02") if part.partition(b"\x01")[0] != _UNIQUE_KEY]
    return stored_properties(b"\x02".join(parts), suffix), stored_properties(client, suffix)


def tags_code(tags: str) -> int:
    """Return the number by which consume queues know a tag: its Java hash, 0 for no tag."""
    return string_hash(tags) if tags else 0


#: What the store's verdict means to a client: code and remark. Codes 10, 11 and 12 are successes with a warning.
RESULTS: Final[dict[PutMessageStatus, tuple[ResponseCode, str | None]]] = {
    PutMessageStatus.PUT_OK: (ResponseCode.SUCCESS, None),
    PutMessageStatus.FLUSH_DISK_TIMEOUT: (ResponseCode.FLUSH_DISK_TIMEOUT, None),
    PutMessageStatus.FLUSH_SLAVE_TIMEOUT: (ResponseCode.FLUSH_SLAVE_TIMEOUT, None),
    PutMessageStatus.SLAVE_NOT_AVAILABLE: (ResponseCode.SLAVE_NOT_AVAILABLE, None),
    PutMessageStatus.IN_SYNC_REPLICAS_NOT_ENOUGH: (ResponseCode.SYSTEM_ERROR, "in-sync replicas not enough"),
    PutMessageStatus.CREATE_MAPPED_FILE_FAILED: (
        ResponseCode.SYSTEM_ERROR,
        "create mapped file failed, server is busy or broken.",
    ),
    PutMessageStatus.OS_PAGE_CACHE_BUSY: (
        ResponseCode.SYSTEM_BUSY,
        "[PC_SYNCHRONIZED]broker busy, start flow control for a while",
    ),
    PutMessageStatus.UNKNOWN_ERROR: (ResponseCode.SYSTEM_ERROR, "UNKNOWN_ERROR"),
}

#: The verdicts after which the message is in the log, and the answer says where.
STORED: Final = frozenset(
    (
        PutMessageStatus.PUT_OK,
        PutMessageStatus.FLUSH_DISK_TIMEOUT,
        PutMessageStatus.FLUSH_SLAVE_TIMEOUT,
        PutMessageStatus.SLAVE_NOT_AVAILABLE,
    )
)


def illegal_message(max_message_size: int) -> Refusal:
    """Refuse a message whose body or properties are too long."""
    return Refusal(
        ResponseCode.MESSAGE_ILLEGAL,
        "the message is illegal, maybe msg body or properties length not matched. "
        f"msg body length limit {max_message_size}B, msg properties length limit 32KB.",
    )


def unavailable(why: str) -> Refusal:
    """Refuse because the store takes nothing now."""
    return Refusal(
        ResponseCode.SERVICE_NOT_AVAILABLE,
        "service not available now. It may be caused by one of the following reasons: the broker's disk is full "
        f"{why}, messages are put to the slave, message store has been shut down, etc.",
    )


#: Properties that ask for what only later stages can do, and what that is called. A broker without the stage refuses
#: them: a half message that everybody sees, or a delayed one that comes at once, would be worse than no message.
ASKS_FOR: Final = {
    names.TRAN_MSG: "transactional messages",
    names.DELAY: "delayed messages",
    names.TIMER_DELAY_SEC: "timer messages",
    names.TIMER_DELAY_MS: "timer messages",
    names.TIMER_DELIVER_MS: "timer messages",
}
#: Triggers of those properties, for the hot path.
ASKS_FOR_TRIGGERS: Final = (b"TRAN_MSG\x01", b"DELAY\x01", b"TIMER_")


def unsupported(properties: dict[str, str], triggers: tuple[bytes, ...]) -> Refusal | None:
    """Refuse a message that asks for something which no installed hook (by its triggers) can do."""
    for name, what in ASKS_FOR.items():
        value = properties.get(name)
        if value in (None, "0", "false") or any(re.match(trigger, name.encode() + b"\x01") for trigger in triggers):
            continue
        return Refusal(ResponseCode.MESSAGE_ILLEGAL, f"this broker has no {what}: property {name}={value} is refused")
    return None
