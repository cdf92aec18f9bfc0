"""What a consumer wants of a topic: the subscription that heartbeats, pulls and checks carry.

Source: `SubscriptionData`, `FilterAPI`, `ExpressionType`, RocketMQ 5.3.
"""

from __future__ import annotations

from typing import Final

import msgspec

from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.java import string_hash

TAG: Final = "TAG"
SQL92: Final = "SQL92"
SUB_ALL: Final = "*"


class SubscriptionData(msgspec.Struct, rename="camel", kw_only=True):
    """One topic of a consumer's subscription.

    Attributes:
        topic: what is subscribed.
        sub_string: the expression: `*`, tags separated by `||`, or SQL92 text.
        tags_set: the tags of a tag expression; empty for all messages and for SQL92.
        code_set: the Java hash of every tag.
        sub_version: the client's wall clock in ms when it subscribed; the larger one wins.
        expression_type: `TAG`, `SQL92`; None and an empty text mean `TAG`.
        class_filter_mode: a subscription of the filter servers of old; such code is never run, all messages pass.
    """

    topic: str = ""
    sub_string: str = SUB_ALL
    tags_set: list[str] = []
    code_set: list[int] = []
    sub_version: int = 0
    expression_type: str | None = TAG
    class_filter_mode: bool = False

    @property
    def is_all(self) -> bool:
        """Whether every message of the topic is wanted."""
        return self.sub_string == SUB_ALL


def is_tag_type(expression_type: str | None) -> bool:
    """Tell whether the type means a tag expression: None, an empty text or `TAG`, in this very spelling."""
    return not expression_type or expression_type == TAG


def split_tags(expression: str) -> list[str]:
    """Return the tags of `TagA || TagB`, in order and each once.

    Raises:
        InvalidInputError: the expression is made of separators only.
    """
    parts = expression.split("||")
    # Java's split drops empty parts at the end: `||` leaves none at all, a single blank leaves one.
    if not any(parts):
        raise InvalidInputError(f"subString split error: the tag expression {expression!r} names no tag")
    return list(dict.fromkeys(tag.strip() for tag in parts if tag.strip()))


def build_subscription(
    topic: str, expression: str | None, expression_type: str | None = TAG, sub_version: int = 0
) -> SubscriptionData:
    """Return the subscription of an expression.

    Args:
        topic: what to subscribe.
        expression: tags separated by `||`, `*`, None or an empty text for all; or the text of another type.
        expression_type: `TAG` (also None or empty) or `SQL92`.
        sub_version: the version to give it, milliseconds since 1970.

    Raises:
        InvalidInputError: no tag in a tag expression, or no text for another type.

    Source:
        `FilterAPI#build`, RocketMQ 5.3.
    """
    if not is_tag_type(expression_type):
        if not expression:
            raise InvalidInputError(f"Expression can't be null! {expression_type}")
        return SubscriptionData(
            topic=topic, sub_string=expression, expression_type=expression_type, sub_version=sub_version
        )
    if not expression or expression == SUB_ALL:
        return SubscriptionData(topic=topic, sub_version=sub_version)
    tags = split_tags(expression)
    return SubscriptionData(
        topic=topic,
        sub_string=expression,
        tags_set=tags,
        code_set=[string_hash(tag) for tag in tags],
        sub_version=sub_version,
    )
