"""Messages as programs see them: what a producer sends, what a consumer receives, and the address of a queue.

Source: `Message`, `MessageExt`, `MessageQueue`, RocketMQ 5.3.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from rocketmq_py.common import properties as names


@dataclass(slots=True)
class Message:
    """A message to send.

    Attributes:
        topic: where to.
        body: the content; at most 4 MiB by default.
        properties: names and values that travel along; `tags`, `keys` and the others below are views of it.
        flag: 32 bits for the application; RocketMQ carries them and never looks.
    """

    topic: str
    body: bytes
    properties: dict[str, str] = field(default_factory=dict)
    flag: int = 0

    @classmethod
    def of(cls, topic: str, body: bytes, *, tags: str = "", keys: str | Iterable[str] = "", flag: int = 0) -> Message:
        """Build a message with tag and index keys; `keys` is one text (keys separated by blanks) or several keys."""
        message = cls(topic, body, flag=flag)
        message.tags = tags
        message.keys = keys if isinstance(keys, str) else names.KEY_SEPARATOR.join(keys)
        return message

    def get(self, name: str) -> str | None:
        """Return one property, or None."""
        return self.properties.get(name)

    def _set(self, name: str, value: str) -> None:
        if value:
            self.properties[name] = value
        else:
            self.properties.pop(name, None)

    @property
    def tags(self) -> str:
        """The tag that consumers filter by, or an empty text."""
        return self.properties.get(names.TAGS, "")

    @tags.setter
    def tags(self, value: str) -> None:
        self._set(names.TAGS, value)

    @property
    def keys(self) -> str:
        """Index keys separated by blanks, or an empty text."""
        return self.properties.get(names.KEYS, "")

    @keys.setter
    def keys(self, value: str) -> None:
        self._set(names.KEYS, value)

    @property
    def unique_key(self) -> str:
        """The id that the producer's client gave it, or an empty text."""
        return self.properties.get(names.UNIQ_KEY, "")

    @property
    def delay_level(self) -> int:
        """The delay level, 0 for none."""
        return self._number(names.DELAY)

    @delay_level.setter
    def delay_level(self, level: int) -> None:
        self._set(names.DELAY, str(level) if level else "")

    def _number(self, name: str) -> int:
        text = self.properties.get(name, "0")
        return int(text) if text.isascii() and text.isdigit() else 0

    @property
    def delay_time_sec(self) -> int:
        """Seconds from the send to the delivery, 0 for none; goes before the two below."""
        return self._number(names.TIMER_DELAY_SEC)

    @delay_time_sec.setter
    def delay_time_sec(self, seconds: int) -> None:
        self._set(names.TIMER_DELAY_SEC, str(seconds) if seconds else "")

    @property
    def delay_time_ms(self) -> int:
        """Milliseconds from the send to the delivery, 0 for none; a broker rounds up to its precision of a second."""
        return self._number(names.TIMER_DELAY_MS)

    @delay_time_ms.setter
    def delay_time_ms(self, milliseconds: int) -> None:
        self._set(names.TIMER_DELAY_MS, str(milliseconds) if milliseconds else "")

    @property
    def deliver_time_ms(self) -> int:
        """When to deliver, milliseconds since 1970 by the broker's clock; 0 for at once."""
        return self._number(names.TIMER_DELIVER_MS)

    @deliver_time_ms.setter
    def deliver_time_ms(self, timestamp: int) -> None:
        self._set(names.TIMER_DELIVER_MS, str(timestamp) if timestamp else "")

    @property
    def is_timer(self) -> bool:
        """Whether a delay or a time of delivery is asked for, beside the levels."""
        return any(name in self.properties for name in names.TIMER_REQUESTS)

    @property
    def wait_store_ok(self) -> bool:
        """Whether the answer waits for flush and replicas; true unless the property WAIT says otherwise."""
        return self.properties.get(names.WAIT, "true").lower() == "true"


@dataclass(slots=True)
class MessageExt(Message):
    """A stored message: what the producer sent, and what the broker added.

    Attributes:
        queue_id: the queue of the topic.
        queue_offset: position in the queue, in units.
        commit_log_offset: position of the record in the commit log, in bytes.
        store_size: length of the record in bytes.
        sys_flag: bits of `sys_flag.py`.
        born_timestamp: when the producer sent it, milliseconds since 1970 by its clock.
        born_host: who sent it, `ip:port` (IPv6 in brackets).
        store_timestamp: when the broker stored it, milliseconds since 1970 by its clock.
        store_host: who stored it, `ip:port`.
        body_crc: CRC-32 of the stored body without the sign bit.
        reconsume_times: how often consumption was retried.
        prepared_transaction_offset: for a commit or rollback, the offset of its half message.
        msg_id: the id that contains store host and offset; see `message_id.py`.
        broker_name: set by the client that received it.
    """

    queue_id: int = 0
    queue_offset: int = 0
    commit_log_offset: int = 0
    store_size: int = 0
    sys_flag: int = 0
    born_timestamp: int = 0
    born_host: str = ""
    store_timestamp: int = 0
    store_host: str = ""
    body_crc: int = 0
    reconsume_times: int = 0
    prepared_transaction_offset: int = 0
    msg_id: str = ""
    broker_name: str = ""


@dataclass(frozen=True, slots=True, order=True)
class MessageQueue:
    """The address of a queue: topic, broker name and queue id, ordered in that order as in Java."""

    topic: str
    broker_name: str
    queue_id: int
