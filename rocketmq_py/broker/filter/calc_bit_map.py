"""Computes bit maps as messages become visible, and puts them into the extension of their queues.

Runs in the *prepare* phase of the dispatch: it replaces a record's tags code by the address of its unit in the
extension before the queue's unit is written.

Source: `CommitLogDispatcherCalcBitMap`, `ConsumeQueue#putMessagePositionInfoWrapper`, RocketMQ 5.3.
"""

from __future__ import annotations

import logging

from rocketmq_py.broker.filter.bloom import set_bits
from rocketmq_py.broker.filter.consumer_filter import ConsumerFilterManager
from rocketmq_py.common.properties import decode_properties
from rocketmq_py.store.columns import Columns
from rocketmq_py.store.consume_queue_ext import ConsumeQueueExtStore, ExtUnit

logger = logging.getLogger(__name__)


class BitMapDispatcher:
    """Writes extension units.

    Args:
        extensions: where to.
        filters: the registered filters, to compute bit maps (`enableCalcFilterBitMap`); None leaves maps empty.

    Attributes:
        evaluated: how many expressions were evaluated.
    """

    name = "bit map"

    def __init__(self, extensions: ConsumeQueueExtStore, filters: ConsumerFilterManager | None) -> None:
        self.evaluated = 0
        self._extensions = extensions
        self._filters = filters

    def prepare(self, columns: Columns) -> None:
        """Write one unit for every queued record and put its address in the place of the tags code."""
        rows_of: dict[tuple[str, int], list[int]] = {}
        for row, slot in enumerate(columns.slots):
            if columns.is_queued(row):
                rows_of.setdefault((slot.topic, slot.queue_id), []).append(row)
        for (topic, queue_id), rows in rows_of.items():
            units = [self._unit(columns, row, topic) for row in rows]
            try:
                addresses = self._extensions.get(topic, queue_id).append(units)
            except OSError as error:
                # Without an address the queue keeps the tags code: filters then cost more, but nothing is lost.
                logger.error("the extension of %s-%d could not be written: %s", topic, queue_id, error)
                continue
            for row, address in zip(rows, addresses, strict=True):
                if address is not None:
                    columns.tags_codes[row] = address

    def apply(self, columns: Columns) -> None:
        """Do nothing: the queues were written with what `prepare` filled in."""

    def _unit(self, columns: Columns, row: int, topic: str) -> ExtUnit:
        bit_map = self.bit_map(topic, columns.properties[row])
        return ExtUnit(columns.tags_codes[row], columns.store_timestamps[row], bit_map)

    def bit_map(self, topic: str, properties: bytes) -> bytes:
        """Return the bits of all filters on a topic that match; nothing if there are none."""
        data = self._filters.of_topic(topic) if self._filters is not None else ()
        if self._filters is None or not data:
            return b""
        decoded = decode_properties(properties)
        bits = self._filters.bloom_filter.new_map()
        for one in data:
            positions = one.record.bloom_filter_data
            if one.compiled is None or positions is None:
                continue
            self.evaluated += 1
            if one.compiled.matches(decoded):
                set_bits(bits, positions.bit_pos)
        return bytes(bits)
