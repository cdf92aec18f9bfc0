"""Queue slots: which queue offset comes next, for every queue that is written to.

The number in a record and its place in the consume queue are the same number. It is given out here and nowhere else,
in the step that appends the record.

Source: `QueueOffsetOperator`, `topicQueueTable` of `CommitLog`, RocketMQ 5.3.
"""

from __future__ import annotations

from collections.abc import Iterator

from rocketmq_py.common.record import encode_topic


class QueueSlot:
    """One queue, as the tick sees it.

    Attributes:
        topic: name of the topic.
        topic_bytes: the same as UTF-8.
        topic_part: magic and the topic with its length, as records carry it.
        magic: form of the record: V1, or V2 for a topic of more than 127 bytes.
        queue_id: number of the queue.
        next_offset: queue offset of the next record. Only the tick counts it up; recovery sets it.
    """

    __slots__ = ("magic", "next_offset", "queue_id", "topic", "topic_bytes", "topic_part")

    def __init__(self, topic: str, queue_id: int, next_offset: int = 0) -> None:
        self.topic = topic
        self.topic_bytes = topic.encode()
        self.magic, self.topic_part = encode_topic(self.topic_bytes)
        self.queue_id = queue_id
        self.next_offset = next_offset

    def __repr__(self) -> str:
        return f"<QueueSlot {self.topic}-{self.queue_id} next {self.next_offset}>"


class QueueSlots:
    """All slots, by topic and queue."""

    def __init__(self) -> None:
        self._slots: dict[tuple[str, int], QueueSlot] = {}

    def get(self, topic: str, queue_id: int) -> QueueSlot:
        """Return the slot of a queue; a queue that was never written to begins at 0."""
        slot = self._slots.get((topic, queue_id))
        if slot is None:
            slot = self._slots[topic, queue_id] = QueueSlot(topic, queue_id)
        return slot

    def find(self, topic: str, queue_id: int) -> QueueSlot | None:
        """Return the slot of a queue, or None if it was never written to."""
        return self._slots.get((topic, queue_id))

    def set_next_offset(self, topic: str, queue_id: int, next_offset: int) -> None:
        """Say where a queue goes on; for recovery and for cuts of the log."""
        self.get(topic, queue_id).next_offset = next_offset

    def drop_topic(self, topic: str) -> None:
        """Forget the queues of a deleted topic; a topic of the same name begins at 0."""
        for key in [key for key in self._slots if key[0] == topic]:
            # Who still holds the slot would go on counting: the hot path drops its cache when a topic changes.
            del self._slots[key]

    def clear(self) -> None:
        """Forget everything, before it is found anew in the log."""
        self._slots.clear()

    def __iter__(self) -> Iterator[QueueSlot]:
        return iter(list(self._slots.values()))

    def __len__(self) -> int:
        return len(self._slots)
