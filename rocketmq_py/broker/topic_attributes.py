"""Attributes of a topic: what kind of messages it is for, what kind of queues it has.

A request writes changes, `+message.type=FIFO,-reserve.time`; a stored topic has the bare keys.

Source: `TopicAttributes`, `AttributeParser`, `AttributeUtil`, RocketMQ 5.3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.java import parse_i64

MESSAGE_TYPE: Final = "message.type"
MIXED: Final = "MIXED"


@dataclass(frozen=True, slots=True)
class Attribute:
    """One known attribute.

    Attributes:
        name: its key.
        is_changeable: it may be changed or deleted after the topic was created.
        check: raises `InvalidInputError` if a value is not allowed.
    """

    name: str
    is_changeable: bool
    check: Callable[[str], None]


def _one_of(name: str, *allowed: str) -> Callable[[str], None]:
    def check(value: str) -> None:
        if value not in allowed:
            raise InvalidInputError(f"attribute {name} is {value[:64]!r}; it is one of {', '.join(allowed)}")

    return check


def _check_reserve_time(value: str) -> None:
    if parse_i64(value, "attribute reserve.time") < -1:
        raise InvalidInputError(f"attribute reserve.time is {value}; it is -1 or more")


TOPIC_ATTRIBUTES: Final[dict[str, Attribute]] = {
    attribute.name: attribute
    for attribute in (
        Attribute("queue.type", False, _one_of("queue.type", "SimpleCQ", "BatchCQ")),
        Attribute("cleanup.policy", False, _one_of("cleanup.policy", "DELETE", "COMPACTION")),
        Attribute(
            MESSAGE_TYPE,
            True,
            _one_of(MESSAGE_TYPE, "UNSPECIFIED", "NORMAL", "FIFO", "DELAY", "TRANSACTION", MIXED),
        ),
        Attribute("reserve.time", True, _check_reserve_time),
    )
}


def parse_attributes(text: str | None) -> dict[str, str]:
    """Parse `+key=value,-key` into signed keys and values; a deleted key has an empty value.

    Raises:
        InvalidInputError: an item has no sign, or a key appears twice.
    """
    result: dict[str, str] = {}
    for item in (text or "").split(","):
        if not item:
            continue
        key, equals, value = item.partition("=")
        sign = "+" if equals else "-"
        if sign not in key:
            raise InvalidInputError(f"attribute {item[:64]!r} must be +KEY=VALUE to set or -KEY to delete")
        if key in result:
            raise InvalidInputError(f"attribute {key[:64]!r} is given twice")
        result[key] = value
    return result


def change_attributes(stored: Mapping[str, str] | None, changes: Mapping[str, str]) -> dict[str, str]:
    """Return the attributes of a topic after some changes.

    Args:
        stored: what the topic has now; None if the topic is being created.
        changes: signed keys, see `parse_attributes`.

    Raises:
        InvalidInputError: an unknown key, a value that is not allowed, a key that may not be changed, a deletion of
            what is not there, or one key both set and deleted.
    """
    result = dict(stored or {})
    seen: set[str] = set()
    for signed, value in changes.items():
        sign, key = signed[:1], signed[1:]
        if not key or "+" in key or "-" in key or sign not in "+-":
            raise InvalidInputError(f"attribute key {signed[:64]!r} must be + or - and a name without either sign")
        if key in seen:
            raise InvalidInputError(f"attribute {key[:64]!r} is changed twice in one request")
        seen.add(key)
        attribute = TOPIC_ATTRIBUTES.get(key)
        if attribute is None:
            raise InvalidInputError(f"attribute {key[:64]!r} is unknown; known are {', '.join(TOPIC_ATTRIBUTES)}")
        if stored is not None and not attribute.is_changeable:
            raise InvalidInputError(f"attribute {key} cannot be changed once the topic exists")
        if sign == "+":
            attribute.check(value)
            result[key] = value
        elif stored is None:
            raise InvalidInputError(f"attribute {key} cannot be deleted while the topic is being created")
        elif key not in result:
            raise InvalidInputError(f"attribute {key} cannot be deleted, the topic does not have it")
        else:
            del result[key]
    return result
