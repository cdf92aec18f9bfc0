"""How far the timers are: two times and one offset, which everything else follows.

        read_time            write_time              now
    delivered |  being delivered  |  waits in the wheel ...
    ----------+-------------------+--+-------------------------> slots

A slot is delivered when it lies before `write_time`; a message is put into a slot only at or behind it. Both look at
one number, on one loop, so no message gets into a slot that was delivered already.

After a start the slots that ended meanwhile stay open until the records that were put before are in the wheel: one of
them may delete a message in those slots, and it was acknowledged in time. The same holds after a slot from which something
was rolled on, as long as later slots have ended, too.

Source: `currReadTimeMs`, `currWriteTimeMs`, `currQueueOffset` of `TimerMessageStore`, RocketMQ 5.3.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class TimerProgress:
    """The three numbers.

    Attributes:
        precision_ms: length of a slot.
        read_time_ms: the slots before it were delivered. Only the dequeue service moves it, except when nothing waits.
        write_time_ms: beginning of the present slot; never goes back, whatever the clock does.
        queue_offset: the records of the timer topic before it are in the wheel or delivered. Only the enqueue service
            moves it.
        is_catching_up: whether records that were put before a start, or rolled on, are still to be taken in. Nothing is
            delivered meanwhile, and `write_time_ms` stays.
        failure: why the timers of this process stand still for good; empty if they do not.
    """

    precision_ms: int
    read_time_ms: int = 0
    write_time_ms: int = 0
    queue_offset: int = 0
    is_catching_up: bool = False
    failure: str = ""

    @property
    def open_from_ms(self) -> int:
        """The first slot that may still take a message: while nothing is delivered, that is the next one to be."""
        return self.read_time_ms if self.is_catching_up else self.write_time_ms

    def move_write_time(self, now_ms: int) -> None:
        """Follow the clock."""
        if not self.is_catching_up:
            self.write_time_ms = max(self.write_time_ms, now_ms - now_ms % self.precision_ms)
