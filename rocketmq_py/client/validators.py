"""What a client refuses before it sends anything.

Source: `Validators`, RocketMQ 5.3.
"""

from __future__ import annotations

from rocketmq_py.common import topic as names
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.message import Message
from rocketmq_py.common.properties import INNER_MULTI_DISPATCH


def check_producer_group(group: str) -> None:
    """Refuse names that are no group names, and the one that everybody would share by accident.

    Raises:
        InvalidInputError: with the rule.
    """
    names.validate_group(group)
    if group == "DEFAULT_PRODUCER":
        raise InvalidInputError("producer group DEFAULT_PRODUCER is reserved; choose a name, or leave it out")


def check_consumer_group(group: str) -> None:
    """Refuse names that are no group names, and the one that everybody would share by accident.

    Raises:
        InvalidInputError: with the rule.
    """
    names.validate_group(group)
    if group == "DEFAULT_CONSUMER":
        raise InvalidInputError("consumer group DEFAULT_CONSUMER is reserved; choose a name")


def check_topic_for_sending(topic: str) -> None:
    """Refuse names that are no topic names, and topics that only the system writes to.

    Raises:
        InvalidInputError: with the rule.
    """
    names.validate_topic(topic)
    if topic in names.NOT_ALLOWED_TO_SEND:
        raise InvalidInputError(f"topic {topic} belongs to the system; messages cannot be sent to it")


def check_message(message: Message, max_message_size: int) -> None:
    """Refuse a message that a broker would refuse.

    Raises:
        InvalidInputError: with the rule, the size and the setting to change.
    """
    check_topic_for_sending(message.topic)
    if not message.body:
        raise InvalidInputError(
            f"the message for topic {message.topic} has an empty body; a broker takes 1 byte or more"
        )
    if len(message.body) > max_message_size:
        raise InvalidInputError(
            f"the body for topic {message.topic} has {len(message.body)} bytes, more than max_message_size "
            f"{max_message_size}; the broker's maxMessageSize limits it, too"
        )
    if "/" in message.properties.get(INNER_MULTI_DISPATCH, ""):
        raise InvalidInputError(f"property {INNER_MULTI_DISPATCH} must not contain a slash")
