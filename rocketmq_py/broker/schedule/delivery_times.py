"""The dispatcher of delay levels: a unit of the schedule topic says when its message is due, not what its tag is.

    unit of any other queue       physical offset | size | hash of the tag
    unit of SCHEDULE_TOPIC_XXXX   physical offset | size | store time + delay of the level, milliseconds since 1970

Nobody filters the schedule topic, so its units have eight bytes to spare; with the time in them the delivery sees what
is due without reading a message. The time follows from the record, so queues that are made again from the log say the
same, as long as the table of levels is the same.

Source: `CommitLog#checkMessageAndReturnSize`, RocketMQ 5.3.
"""

from __future__ import annotations

from operator import attrgetter

from rocketmq_py.broker.schedule.delay_levels import DelayLevels
from rocketmq_py.common import properties as names
from rocketmq_py.common.properties import find_property
from rocketmq_py.common.topic import SCHEDULE_TOPIC
from rocketmq_py.store.columns import Columns

_DELAY = names.DELAY.encode()
_topic_of = attrgetter("topic")


class DeliveryTimes:
    """Puts delivery times in the place of tags codes.

    Args:
        levels: the table of levels.
    """

    name = "delivery time"

    def __init__(self, levels: DelayLevels) -> None:
        self._levels = levels

    def prepare(self, columns: Columns) -> None:
        """Replace the codes of the schedule topic's records."""
        # Every turn of the loop comes by here, and most end here.
        if SCHEDULE_TOPIC not in map(_topic_of, columns.slots):
            return
        for row, slot in enumerate(columns.slots):
            if slot.topic == SCHEDULE_TOPIC:
                level = find_property(columns.properties[row], _DELAY)
                # Without a level, which no hook leaves there, the message is due at once.
                if level is not None and level.isdigit() and len(level) < 10:
                    columns.tags_codes[row] = columns.store_timestamps[row] + self._levels.delay_ms(int(level))

    def apply(self, columns: Columns) -> None:
        """Do nothing: the queues were written with what `prepare` filled in."""
