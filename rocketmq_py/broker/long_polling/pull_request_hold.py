"""The hold service: pulls that found nothing wait here until a message arrives or their time is up.

This is what makes pulling as quick as pushing. The client asks; there is nothing; the broker keeps the question. The
arrival of a message in the queue asks it again, and the answer leaves in the same turn of the event loop.

                  hold                                    arrived: filter matches
    pull, nothing ----> [ (topic, queue) -> held pulls ] -------------------------> run again, answer
                                          |            time is up, or the check
                                          +---------------------------------------> run again, answer "nothing new"

Source: `PullRequestHoldService`, `NotifyMessageArrivingListener`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Callable, Hashable, Iterator
from typing import Final

from rocketmq_py.store.columns import Arrivals
from rocketmq_py.store.filter import ALL, MessageFilter

logger = logging.getLogger(__name__)

#: Seconds between two checks of all queues for messages that no arrival announced, as in RocketMQ.
CHECK_SECONDS: Final = 5.0
#: Longest time in milliseconds that a client can make the broker hold one request.
MAX_HOLD_MILLIS: Final = 10 * 60_000
MAX_HELD: Final = 100_000
MAX_HELD_BY_CONNECTION: Final = 4_096

Key = tuple[str, int]


class HeldPull:
    """One held request.

    Args:
        key: topic and queue id.
        offset: the queue offset that it waits for.
        owner: the connection that asked; when it closes, its requests are dropped.
        message_filter: which messages are worth waking it.
        run: asks the question again; it must answer now and not hold once more.
    """

    __slots__ = ("deadline", "filter", "is_held", "key", "offset", "owner", "run")

    def __init__(
        self, key: Key, offset: int, owner: Hashable, message_filter: MessageFilter, run: Callable[[], None]
    ) -> None:
        self.key = key
        self.offset = offset
        self.owner = owner
        self.filter = message_filter
        self.run = run
        self.deadline = 0.0
        self.is_held = False

    def __lt__(self, other: HeldPull) -> bool:
        return self.deadline < other.deadline

    def __repr__(self) -> str:
        state = f"held until {self.deadline:.3f}" if self.is_held else "not held"
        return f"<HeldPull {self.key[0]}-{self.key[1]} offset {self.offset} {state}>"


class PullRequestHoldService:
    """Keeps held pulls and wakes them.

    Everything happens on the event loop between two awaits, so a message cannot arrive between the read that found
    nothing and the hold: no wake-up is lost.

    Args:
        max_offset: returns a queue's next offset to be written.
        read_record: returns the record at a physical offset, for filters that look into messages.
        max_held: how many requests are held at most.
        max_held_by_connection: how many of one connection.
    """

    def __init__(
        self,
        max_offset: Callable[[str, int], int],
        read_record: Callable[[int], bytes | memoryview | None],
        *,
        max_held: int = MAX_HELD,
        max_held_by_connection: int = MAX_HELD_BY_CONNECTION,
    ) -> None:
        self._max_offset = max_offset
        self._read_record = read_record
        self._max_held = max_held
        self._max_held_by_connection = max_held_by_connection
        self._held: dict[Key, list[HeldPull]] = {}
        self._by_owner: dict[Hashable, dict[HeldPull, None]] = {}
        self._deadlines: list[HeldPull] = []
        self._timer: asyncio.TimerHandle | None = None
        self._count = 0
        #: How often a request was refused a place because a limit was reached.
        self.refused = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[HeldPull]:
        for pulls in self._held.values():
            yield from pulls

    # --- in and out ---------------------------------------------------------------------------------------------------

    def hold(self, pull: HeldPull, seconds: float) -> bool:
        """Keep a request for at most `seconds`.

        Returns:
            False if a limit is reached; the request is then to be answered at once.
        """
        owned = self._by_owner.setdefault(pull.owner, {})
        if self._count >= self._max_held or len(owned) >= self._max_held_by_connection:
            if not owned:
                del self._by_owner[pull.owner]
            self.refused += 1
            return False
        loop = asyncio.get_running_loop()
        pull.deadline = loop.time() + seconds
        pull.is_held = True
        owned[pull] = None
        self._held.setdefault(pull.key, []).append(pull)
        self._count += 1
        heapq.heappush(self._deadlines, pull)
        if self._deadlines[0] is pull:
            self._set_timer()
        return True

    def _release(self, pull: HeldPull) -> None:
        # The heap keeps its entry until the deadline or the next sweep; `is_held` tells that it is void.
        pull.is_held = False
        self._count -= 1
        owned = self._by_owner[pull.owner]
        del owned[pull]
        if not owned:
            del self._by_owner[pull.owner]
        if len(self._deadlines) > 1_024 and len(self._deadlines) > 4 * self._count:
            self._deadlines = [held for held in self._deadlines if held.is_held]
            heapq.heapify(self._deadlines)
            self._set_timer()

    def _drop(self, pull: HeldPull) -> None:
        pulls = self._held[pull.key]
        pulls.remove(pull)
        if not pulls:
            del self._held[pull.key]
        self._release(pull)

    # --- what wakes a request -----------------------------------------------------------------------------------------

    def arrived(self, arrivals: Arrivals) -> None:
        """Wake the requests that wait for messages of this queue and whose filter lets one of them pass."""
        key = (arrivals.topic, arrivals.queue_id)
        pulls = self._held.get(key)
        if pulls is not None:
            self._wake(key, [pull for pull in pulls if self._is_wanted(pull, arrivals)])

    def _is_wanted(self, pull: HeldPull, arrivals: Arrivals) -> bool:
        if arrivals.max_offset <= pull.offset:
            return False
        message_filter = pull.filter
        if message_filter is ALL:
            return True
        for tags_code, physical_offset in zip(arrivals.tags_codes, arrivals.physical_offsets, strict=True):
            if message_filter.matches_entry(tags_code, None):
                record = self._read_record(physical_offset)
                if record is None or message_filter.matches_record(record):
                    return True
        return False

    def check(self) -> None:
        """Wake every request whose queue holds more than it asked for.

        Arrivals wake the rest sooner. What is found here are messages that a filter did not want: the client learns
        how far the queue was searched and goes on from there.
        """
        for key in list(self._held):
            max_offset = self._max_offset(*key)
            self._wake(key, [pull for pull in self._held.get(key, ()) if max_offset > pull.offset])

    def wake_all(self) -> None:
        """Wake everything, as after a change of the broker's role."""
        for key, pulls in list(self._held.items()):
            self._wake(key, list(pulls))

    def closed(self, owner: Hashable) -> None:
        """Drop the requests of a connection that closed; nobody is left to answer."""
        for pull in list(self._by_owner.get(owner, ())):
            self._drop(pull)

    def _wake(self, key: Key, woken: list[HeldPull]) -> None:
        if not woken:
            return
        pulls = self._held[key]
        if len(woken) == len(pulls):
            del self._held[key]
        else:
            chosen = set(woken)
            self._held[key] = [pull for pull in pulls if pull not in chosen]
        # First out of the table, then run: an answer may bring the next request of the same client.
        for pull in woken:
            self._release(pull)
        for pull in woken:
            _run(pull)

    # --- time ---------------------------------------------------------------------------------------------------------

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._deadlines:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(self._deadlines[0].deadline, self._expire)

    def _expire(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        while self._deadlines and (not self._deadlines[0].is_held or self._deadlines[0].deadline <= now):
            pull = heapq.heappop(self._deadlines)
            if pull.is_held:
                self._drop(pull)
                _run(pull)
        self._set_timer()

    async def stop_serving(self) -> None:
        """Answer everything that is held, so that clients turn to another broker at once."""
        self.wake_all()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._deadlines.clear()

    def __repr__(self) -> str:
        return f"<PullRequestHoldService {self._count} held on {len(self._held)} queues, {self.refused} refused>"


def _run(pull: HeldPull) -> None:
    try:
        pull.run()
    except Exception:
        # Broad on purpose: one request that fails must not keep the others of the queue waiting.
        logger.exception("%r failed when it was woken", pull)
