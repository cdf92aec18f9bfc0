"""Choosing the queue of a message by its content, for messages that must stay in order.

Source: `MessageQueueSelector`, `SelectMessageQueueByHash`, RocketMQ 5.3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rocketmq_py.common.java import string_hash
from rocketmq_py.common.message import Message, MessageQueue

#: Chooses a queue from those of the topic; the message and the caller's argument help.
Selector = Callable[[list[MessageQueue], Message, Any], MessageQueue | None]


def select_by_hash(queues: list[MessageQueue], message: Message, argument: Any) -> MessageQueue | None:
    """Choose by the Java hash of the argument's text, so that equal arguments go to one queue, from any client.

    Source: `SelectMessageQueueByHash`, RocketMQ 5.3.
    """
    if not queues:
        return None
    return queues[abs(_remainder(string_hash(str(argument)), len(queues)))]


def _remainder(value: int, size: int) -> int:
    """Return Java's `%`, whose sign is that of the value."""
    return value % size if value >= 0 else -(-value % size)
