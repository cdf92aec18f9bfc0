"""Names of topics and groups: which are allowed, which belong to the system, and how derived names are made.

Source: `TopicValidator`, `MixAll`, `Validators`, RocketMQ 5.3.
"""

from __future__ import annotations

import re
from typing import Final

from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.java import utf16_length

AUTO_CREATE_TOPIC_KEY_TOPIC: Final = "TBW102"
SCHEDULE_TOPIC: Final = "SCHEDULE_TOPIC_XXXX"
BENCHMARK_TOPIC: Final = "BenchmarkTest"
TRANS_HALF_TOPIC: Final = "RMQ_SYS_TRANS_HALF_TOPIC"
TRANS_OP_HALF_TOPIC: Final = "RMQ_SYS_TRANS_OP_HALF_TOPIC"
TRANS_CHECK_MAX_TIME_TOPIC: Final = "TRANS_CHECK_MAX_TIME_TOPIC"
TRACE_TOPIC: Final = "RMQ_SYS_TRACE_TOPIC"
SELF_TEST_TOPIC: Final = "SELF_TEST_TOPIC"
OFFSET_MOVED_EVENT: Final = "OFFSET_MOVED_EVENT"
CHECKPOINT_TOPIC: Final = "CHECKPOINT_TOPIC"
TIMER_TOPIC: Final = "rmq_sys_wheel_timer"

SYSTEM_TOPIC_PREFIX: Final = "rmq_sys_"
RETRY_TOPIC_PREFIX: Final = "%RETRY%"
DLQ_TOPIC_PREFIX: Final = "%DLQ%"
LMQ_PREFIX: Final = "%LMQ%"
REPLY_TOPIC_POSTFIX: Final = "REPLY_TOPIC"
SYSTEM_GROUP_PREFIX: Final = "CID_RMQ_SYS_"

SYSTEM_TOPICS: Final[frozenset[str]] = frozenset(
    (
        AUTO_CREATE_TOPIC_KEY_TOPIC,
        SCHEDULE_TOPIC,
        BENCHMARK_TOPIC,
        TRANS_HALF_TOPIC,
        TRACE_TOPIC,
        TRANS_OP_HALF_TOPIC,
        TRANS_CHECK_MAX_TIME_TOPIC,
        SELF_TEST_TOPIC,
        OFFSET_MOVED_EVENT,
        CHECKPOINT_TOPIC,
    )
)

#: A client's message to one of these is refused. Differs from RocketMQ: the timer topic is among them, because one
#: client message there stops every timer of a 5.3.3 broker.
NOT_ALLOWED_TO_SEND: Final[frozenset[str]] = frozenset(
    (
        SCHEDULE_TOPIC,
        TRANS_HALF_TOPIC,
        TRANS_OP_HALF_TOPIC,
        TRANS_CHECK_MAX_TIME_TOPIC,
        SELF_TEST_TOPIC,
        OFFSET_MOVED_EVENT,
        TIMER_TOPIC,
    )
)

#: What the broker keeps for itself: no consumer has messages of these.
NOT_CONSUMED: Final[frozenset[str]] = frozenset((SCHEDULE_TOPIC, TRANS_HALF_TOPIC, TRANS_OP_HALF_TOPIC, TIMER_TOPIC))

SYSTEM_GROUPS: Final[frozenset[str]] = frozenset(
    (
        "DEFAULT_CONSUMER",
        "DEFAULT_PRODUCER",
        "TOOLS_CONSUMER",
        "SCHEDULE_CONSUMER",
        "FILTERSRV_CONSUMER",
        "__MONITOR_CONSUMER",
        "CLIENT_INNER_PRODUCER",
        "SELF_TEST_P_GROUP",
        "SELF_TEST_C_GROUP",
        "CID_ONS-HTTP-PROXY",
        "CID_ONSAPI_PERMISSION",
        "CID_ONSAPI_OWNER",
        "CID_ONSAPI_PULL",
        "CID_RMQ_SYS_TRANS",
    )
)

TOPIC_MAX_LENGTH: Final = 127
RETRY_OR_DLQ_TOPIC_MAX_LENGTH: Final = 255
GROUP_MAX_LENGTH: Final = 255

_ALLOWED = re.compile(r"[%|a-zA-Z0-9_-]+", re.ASCII)
ALLOWED_CHARACTERS: Final = "^[%|a-zA-Z0-9_-]+$"


def is_system_topic(topic: str) -> bool:
    """Tell whether the name belongs to the system (names that a broker adds for its cluster not included)."""
    return topic in SYSTEM_TOPICS or topic.startswith(SYSTEM_TOPIC_PREFIX)


def is_system_group(group: str) -> bool:
    """Tell whether the group belongs to the system."""
    return group in SYSTEM_GROUPS or group.startswith(SYSTEM_GROUP_PREFIX)


def retry_topic(group: str) -> str:
    """Return the topic that holds what a consumer group failed to handle."""
    return RETRY_TOPIC_PREFIX + group


def dlq_topic(group: str) -> str:
    """Return the dead-letter topic of a consumer group."""
    return DLQ_TOPIC_PREFIX + group


def reply_topic(cluster: str) -> str:
    """Return the topic for answers of request-reply in a cluster."""
    return f"{cluster}_{REPLY_TOPIC_POSTFIX}"


def is_retry_topic(topic: str) -> bool:
    """Tell whether the topic is a group's retry topic."""
    return topic.startswith(RETRY_TOPIC_PREFIX)


def is_dlq_topic(topic: str) -> bool:
    """Tell whether the topic is a group's dead-letter topic."""
    return topic.startswith(DLQ_TOPIC_PREFIX)


def is_light_queue(topic: str) -> bool:
    """Tell whether the name is a light queue (LMQ): one queue without a topic configuration."""
    return topic.startswith(LMQ_PREFIX)


def topic_error(topic: str) -> str | None:
    """Return why a topic name is refused, in the words that clients and operators match on; None if it is fine."""
    if not topic or topic.isspace():
        return "The specified topic is blank."
    if _ALLOWED.fullmatch(topic) is None:
        return f"The specified topic contains illegal characters, allowing only {ALLOWED_CHARACTERS}"
    derived = is_retry_topic(topic) or is_dlq_topic(topic)
    if utf16_length(topic) > (RETRY_OR_DLQ_TOPIC_MAX_LENGTH if derived else TOPIC_MAX_LENGTH):
        return "The specified topic is longer than topic max length."
    return None


def group_error(group: str) -> str | None:
    """Return why a group name is refused; None if it is fine."""
    if not group or group.isspace():
        return "The specified group is blank."
    if _ALLOWED.fullmatch(group) is None:
        return f"The specified group contains illegal characters, allowing only {ALLOWED_CHARACTERS}"
    if utf16_length(group) > GROUP_MAX_LENGTH:
        return f"The specified group is longer than group max length {GROUP_MAX_LENGTH}."
    return None


def validate_topic(topic: str) -> None:
    """Raise `InvalidInputError` with the reason if a topic name is not allowed."""
    if error := topic_error(topic):
        raise InvalidInputError(f"{error} (topic {topic[:300]!r})")


def validate_group(group: str) -> None:
    """Raise `InvalidInputError` with the reason if a group name is not allowed."""
    if error := group_error(group):
        raise InvalidInputError(f"{error} (group {group[:300]!r})")
