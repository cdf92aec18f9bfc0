"""What a consumer has pulled of one queue and not finished: a sorted window over the queue.

    offset    100   101   102   103        cached: 100..103
    finished        x                      nothing may be committed beyond 100: a crash would lose it
    finished  x     x                      commit 102

The window makes "at least once" out of consumption in any order: only the smallest unfinished offset is committed.

Source: `ProcessQueue`, RocketMQ 5.3.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from rocketmq_py.common.message import MessageExt

#: What `remove` returns if nothing was cached: there is nothing to commit.
NOTHING: int = -1


class ProcessQueue:
    """The window of one queue. Only the event loop touches it.

    Attributes:
        is_dropped: the queue belongs to this consumer no longer; what is still running must not commit.
        size: bytes of the cached bodies.
    """

    def __init__(self) -> None:
        self.is_dropped = False
        self.size = 0
        # In the order of offsets, so that the first key is the smallest.
        self._messages: dict[int, MessageExt] = {}
        self._max_offset = -1

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def span(self) -> int:
        """Distance between the first and the last cached offset."""
        if not self._messages:
            return 0
        return next(reversed(self._messages)) - next(iter(self._messages))

    @property
    def min_offset(self) -> int:
        """The first cached offset; 0 if there is none."""
        return next(iter(self._messages), 0)

    @property
    def max_offset(self) -> int:
        """The last cached offset; 0 if there is none."""
        return next(reversed(self._messages), 0)

    def __contains__(self, message: MessageExt) -> bool:
        return self._messages.get(message.queue_offset) is message

    def put(self, messages: Iterable[MessageExt]) -> None:
        """Add what was pulled; an offset that is cached already is not counted twice."""
        is_sorted = True
        for message in messages:
            offset = message.queue_offset
            if offset not in self._messages:
                self.size += len(message.body)
                is_sorted = is_sorted and offset > self._max_offset
                self._max_offset = max(self._max_offset, offset)
            self._messages[offset] = message
        if not is_sorted:
            self._messages = dict(sorted(self._messages.items()))

    def remove(self, messages: Iterable[MessageExt]) -> int:
        """Take out what is finished.

        Returns:
            The offset that may be committed: the smallest one that is left, or behind the largest ever cached if
            nothing is left; `NOTHING` if nothing was cached.
        """
        if not self._messages:
            return NOTHING
        for message in messages:
            removed = self._messages.pop(message.queue_offset, None)
            if removed is not None:
                self.size -= len(removed.body)
        if not self._messages:
            # A listener may have changed bodies, so that other sizes were taken out than put in.
            self.size = 0
        return next(iter(self._messages), self._max_offset + 1)

    def after(self, offset: int, count: int) -> list[MessageExt]:
        """Return up to `count` cached messages behind an offset, in order; they stay cached."""
        following = (message for at, message in self._messages.items() if at > offset)
        return list(itertools.islice(following, count))

    def until(self, offset: int) -> list[MessageExt]:
        """Return the cached messages up to an offset, itself included."""
        return list(itertools.takewhile(lambda message: message.queue_offset <= offset, self._messages.values()))

    def clear(self) -> None:
        """Forget everything."""
        self._messages.clear()
        self.size = 0

    def __repr__(self) -> str:
        window = f"{self.min_offset}..{self.max_offset}" if self._messages else "empty"
        return (
            f"<ProcessQueue {len(self)} messages, {window}, {self.size} bytes{' dropped' if self.is_dropped else ''}>"
        )
