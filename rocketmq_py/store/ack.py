"""The acknowledgement gate: the only place that completes a put.

A put is done when every condition that the configuration demands has reached the end of its records: appended is always
true here; flushed to disk and copied to replicas may be asked for. Answers wait in the order of their end offsets, so
one advance of a condition releases all before it. A condition that is not reached in time gives the answer another
status: the record is in the log, but less safe than promised.

Source: `CommitLog#handleDiskFlushAndHA`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Final, Protocol

from rocketmq_py.store.put_result import PutMessageStatus


class Sink(Protocol):
    """Where an encoded answer goes: a connection, for example."""

    def write_now(self, data: bytes) -> None:
        """Send bytes; never blocks, and does nothing if the other side is gone."""
        ...


#: Answers of one tick, in order: where to, and what.
Answers = list[tuple[Sink, bytes]]
#: Called with the status of a put, once.
Callback = Callable[[PutMessageStatus], None]


class Condition:
    """Something that must have reached the end of a put's records.

    Attributes:
        name: for listings.
        reached: offset up to which it holds; only grows.
        seconds: how long a put waits for it.
        timeout_status: what a put is told that waited in vain.
        is_required: asked for each tick: must this tick's puts wait?
    """

    def __init__(
        self, name: str, seconds: float, timeout_status: PutMessageStatus, is_required: Callable[[], bool]
    ) -> None:
        self.name = name
        self.reached = 0
        self.seconds = seconds
        self.timeout_status = timeout_status
        self.is_required = is_required

    def __repr__(self) -> str:
        return f"<Condition {self.name} reached {self.reached}>"


class Waiting:
    """The puts of one tick that wait.

    Attributes:
        end: offset behind their records.
        answers: what to send.
        callbacks: whom to tell.
        conditions: what they wait for, with the loop's time at which each is given up.
        status: what they are told when all conditions hold.
    """

    __slots__ = ("answers", "callbacks", "conditions", "end", "status")

    def __init__(
        self,
        end: int,
        answers: Answers,
        callbacks: list[Callback],
        conditions: list[tuple[Condition, float]],
        status: PutMessageStatus,
    ) -> None:
        self.end = end
        self.answers = answers
        self.callbacks = callbacks
        self.conditions = conditions
        self.status = status


class AcknowledgementGate:
    """Holds answers back until what they promise is true.

    Attributes:
        conditions: what may be demanded; a stage with replicas appends its own.
        on_wait: called when a put begins to wait, so that the flush begins at once.
        verdict: asked once per tick, if set, for what a put is told that waits for nothing more. A master without the
            slave that it is meant to have may say so here instead of letting every put wait.
        unsure: rewrites an encoded answer that says "stored" into one with another status. Set by the layer that
            knows the encoding.
        fence: asked at the moment of acknowledging: must this broker stay silent about what it stored, because somebody
            else may be master by now? Then the answer says FLUSH_SLAVE_TIMEOUT. None where roles are fixed.
    """

    def __init__(self) -> None:
        self.conditions: list[Condition] = []
        self.on_wait: list[Callable[[], None]] = []
        self.verdict: Callable[[], PutMessageStatus] | None = None
        self.unsure: Callable[[bytes, PutMessageStatus], bytes] = lambda answer, status: answer
        self.fence: Callable[[], bool] | None = None
        self._waiting: deque[Waiting] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._failed: Final[list[PutMessageStatus]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def submit(self, end: int, answers: Answers, callbacks: list[Callback]) -> None:
        """Take the answers of puts whose records end at `end`, and release them now or later."""
        if self._failed:
            release(answers, callbacks, self._failed[0], self.unsure)
            return
        now = 0.0
        wanted: list[tuple[Condition, float]] = []
        for condition in self.conditions:
            if condition.reached < end and condition.is_required():
                now = now or asyncio.get_running_loop().time()
                wanted.append((condition, now + condition.seconds))
        # What asked for no safety ends at 0, and is told nothing about it.
        status = PutMessageStatus.PUT_OK if self.verdict is None or not end else self.verdict()
        if not wanted:
            release(answers, callbacks, self._fenced(status), self.unsure)
            return
        self._waiting.append(Waiting(end, answers, callbacks, wanted, status))
        for wake in self.on_wait:
            wake()
        if self._timer is None:
            self._set_timer()

    def advance(self, condition: Condition, offset: int) -> None:
        """Note that a condition holds up to `offset`, and release what waited for nothing else."""
        if offset > condition.reached:
            condition.reached = offset
            self._release_reached()

    def _release_reached(self) -> None:
        waiting = self._waiting
        while waiting and all(condition.reached >= waiting[0].end for condition, _ in waiting[0].conditions):
            put = waiting.popleft()
            release(put.answers, put.callbacks, self._fenced(put.status), self.unsure)

    def _fenced(self, status: PutMessageStatus) -> PutMessageStatus:
        return PutMessageStatus.FLUSH_SLAVE_TIMEOUT if self.fence is not None and self.fence() else status

    def fail(self, status: PutMessageStatus = PutMessageStatus.FLUSH_DISK_TIMEOUT) -> None:
        """Release everything, from now on at once, with a status that says "in doubt": the log has failed."""
        if not self._failed:
            self._failed.append(status)
        self.give_up(status)

    def give_up(self, status: PutMessageStatus) -> None:
        """Release what waits now with a status that says "in doubt", such as when another broker became master."""
        waiting, self._waiting = self._waiting, deque()
        for put in waiting:
            release(put.answers, put.callbacks, status, self.unsure)

    def truncated(self, offset: int) -> None:
        """The log ends at `offset` now: what the conditions say of bytes behind it is not true of those to come."""
        for condition in self.conditions:
            condition.reached = min(condition.reached, offset)

    # --- time ---------------------------------------------------------------------------------------------------------

    def _set_timer(self) -> None:
        self._timer = None
        if self._waiting:
            # The first put waits longest, but a later one may wait for less: the earliest of the first is near enough
            # only if all wait equally long, so all that wait are looked at. They are one for each tick, not each put.
            due = min(when for put in self._waiting for _, when in put.conditions)
            self._timer = asyncio.get_running_loop().call_at(due, self._expire)

    def _expire(self) -> None:
        now = asyncio.get_running_loop().time()
        kept: deque[Waiting] = deque()
        for put in self._waiting:
            missed = [condition for condition, when in put.conditions if when <= now and condition.reached < put.end]
            if missed:
                release(put.answers, put.callbacks, missed[0].timeout_status, self.unsure)
            else:
                kept.append(put)
        self._waiting = kept
        self._set_timer()

    async def stop(self) -> None:
        """Release what still waits as "in doubt": nothing more will be flushed or copied."""
        self.fail()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def __repr__(self) -> str:
        return f"<AcknowledgementGate {len(self._waiting)} ticks wait for {self.conditions}>"


def release(
    answers: Answers,
    callbacks: list[Callback],
    status: PutMessageStatus,
    unsure: Callable[[bytes, PutMessageStatus], bytes],
) -> None:
    """Send the answers, one write for each sink, and call the callbacks."""
    if status is not PutMessageStatus.PUT_OK:
        answers = [(sink, unsure(data, status)) for sink, data in answers]
    if len(dict(answers)) == len(answers):
        # Nobody has two: clients that wait for each answer.
        for sink, data in answers:
            sink.write_now(data)
    else:
        joined: defaultdict[Sink, list[bytes]] = defaultdict(list)
        for sink, data in answers:
            joined[sink].append(data)
        for sink, parts in joined.items():
            sink.write_now(b"".join(parts))
    for callback in callbacks:
        callback(status)
