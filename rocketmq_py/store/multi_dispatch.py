"""Light queues: one record that is in several queues.

A message may name further queues in its property INNER_MULTI_DISPATCH. The record is stored once; each queue named gets
a unit that points to it. Which offset it has in each was written into INNER_MULTI_QUEUE_OFFSET when it was appended, so
that the units can be made again from the log. A queue called `%LMQ%...` has no topic configuration and only queue 0.

Source: `MultiDispatch`, `LmqDispatch`, `ConsumeQueue#multiDispatchLmqQueue`, RocketMQ 5.3.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rocketmq_py.common import properties as names
from rocketmq_py.common.properties import find_property
from rocketmq_py.common.topic import is_light_queue, is_retry_topic
from rocketmq_py.store.columns import Arrivals, Columns

_QUEUES: Final = names.INNER_MULTI_DISPATCH.encode()
_OFFSETS: Final = names.INNER_MULTI_QUEUE_OFFSET.encode()
_MARK: Final = _QUEUES + b"\x01"


def light_arrivals(columns: Columns) -> list[Arrivals]:
    """Return what the records add to queues besides their own; one `Arrivals` for each unit."""
    found: list[Arrivals] = []
    for row, properties in enumerate(columns.properties):
        if _MARK in properties and columns.is_queued(row) and not is_retry_topic(columns.slots[row].topic):
            for name, offset in queue_offsets(properties):
                queue_id = 0 if is_light_queue(name) else columns.slots[row].queue_id
                found.append(
                    Arrivals(
                        name,
                        queue_id,
                        (offset,),
                        (columns.physical_offsets[row],),
                        (columns.sizes[row],),
                        (columns.tags_codes[row],),
                        (columns.tags_codes[row],),
                        (columns.store_timestamps[row],),
                        (1,),
                    )
                )
    return found


def queue_offsets(properties: bytes) -> Iterator[tuple[str, int]]:
    """Yield name and offset of each further queue; nothing if the two lists do not match, as in RocketMQ."""
    queues = (find_property(properties, _QUEUES) or b"").decode("utf-8", "replace").split(",")
    offsets = (find_property(properties, _OFFSETS) or b"").decode("utf-8", "replace").split(",")
    if len(queues) == len(offsets):
        for name, offset in zip(queues, offsets, strict=True):
            # An empty item stands for a queue that is no light queue: RocketMQ gives it no offset since 5.3.2.
            if name and "/" not in name and offset.isascii() and offset.isdigit():
                yield name, int(offset)
