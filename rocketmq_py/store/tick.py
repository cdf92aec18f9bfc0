"""The tick: all records of one turn of the event loop, appended with one write.

    add            from any connection: the record is packed, offsets are given out      per message
    the turn ends  one pwrite of all records -> answers -> queues, index, wake-ups       once

Offsets are given out before the bytes are written. That is safe because nothing comes between: both happen in one turn
of the loop, nobody reads what is not yet written, and a write that fails ends all writing of this process.

Source: the effect is that of `CommitLog#asyncPutMessage` and its lock, RocketMQ 5.3; the way is our own.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Final

from rocketmq_py.common.crc import crc32
from rocketmq_py.common.environment import Clock
from rocketmq_py.common.record import HEAD_LAYOUTS, host_bits
from rocketmq_py.common.sys_flag import BORN_HOST_V6, HOST_BITS, STORE_HOST_V6
from rocketmq_py.store.ack import AcknowledgementGate, Answers, Callback, Sink
from rocketmq_py.store.columns import Columns
from rocketmq_py.store.commit_log import CommitLog
from rocketmq_py.store.equal_records import EqualMessages, pack_equal
from rocketmq_py.store.errors import LogFailedError, StoreError, StoreFullError
from rocketmq_py.store.put_result import PutMessageStatus
from rocketmq_py.store.queue_slot import QueueSlot

#: A turn of the loop that brings more than this is written in parts, so that its records are not all held in memory.
MAX_PENDING_BYTES: Final = 4 << 20

_LENGTH = struct.Struct(">H")
#: The two bytes before the properties, by their length, for properties as they usually are.
_LENGTHS: Final = tuple(_LENGTH.pack(length) for length in range(1_024))

#: Keys for the index; None if they are still to be found in the properties.
Keys = tuple[bytes, ...] | None
#: Flag, body, stored properties, tags code and keys of one message of a batch.
BatchRow = tuple[int, bytes, bytes, int, Keys]

Row = tuple[QueueSlot, int, int, int, int, int, int, bytes, int, Keys]


class StoreRefusedError(StoreError):
    """A record was not taken; nothing was changed and the next one may be.

    Attributes:
        status: why, as a put's verdict.
    """

    def __init__(self, status: PutMessageStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


class Tick:
    """Collects records until the turn of the loop ends. One object serves all turns.

    Args:
        log: where the records go.
        gate: when they are answered.
        clock: dates the records, once for each turn.

    Attributes:
        is_writable: whether records are taken; one look, since it is asked for every message.
        on_visible: told which records consumers may see, in log order: at the end of the turn, or when they are flushed.
        waits_until_flushed: whether records become visible only when they are on disk (synchronous flush).
        confirm_offset: asked how far the log can be taken back by no other master; records behind it stay invisible.
            None where roles are fixed.
    """

    def __init__(self, log: CommitLog, gate: AcknowledgementGate, clock: Clock) -> None:
        self.is_writable = True
        self.on_visible: Callable[[Columns], None] = lambda columns: None
        self.waits_until_flushed = False
        self.confirm_offset: Callable[[], int] | None = None
        self._flushed = 0
        self._log = log
        self._gate = gate
        self._clock = clock
        self._refusals: dict[str, PutMessageStatus] = {}
        self._hidden: deque[Columns] = deque()
        store_bits = host_bits(bytes(8), log.store_host) & STORE_HOST_V6
        self._store_bits = store_bits
        self._head_v4 = HEAD_LAYOUTS[store_bits].struct
        self._head_v6 = HEAD_LAYOUTS[store_bits | BORN_HOST_V6].struct
        self._is_open = False
        self._now_ms = 0
        self._end = self._room = self._pending = 0
        self._begin()

    def _begin(self) -> None:
        self._parts: list[bytes] = []
        self._rows: list[Row] = []
        self._answers: Answers = []
        self._callbacks: list[Callback] = []
        self._free_answers: Answers = []
        self._free_callbacks: list[Callback] = []

    # --- may anything be written? -------------------------------------------------------------------------------------

    def refuse(self, reason: str, status: PutMessageStatus = PutMessageStatus.SERVICE_NOT_AVAILABLE) -> None:
        """Take no records until `accept` is called with the same reason (a full disk, the role of a slave)."""
        self._refusals[reason] = status
        self.is_writable = False

    def accept(self, reason: str) -> None:
        """Take back a refusal; others stay."""
        self._refusals.pop(reason, None)
        self.is_writable = not self._refusals

    @property
    def refusals(self) -> dict[str, PutMessageStatus]:
        """Why nothing is taken now, by reason."""
        return dict(self._refusals)

    # --- during a turn ------------------------------------------------------------------------------------------------

    def add(
        self,
        slot: QueueSlot,
        body: bytes,
        properties: bytes,
        flag: int,
        sys_flag: int,
        born_timestamp: int,
        born_host: bytes,
        tags_code: int = 0,
        keys: Keys = None,
        *,
        reconsume_times: int = 0,
        prepared_transaction_offset: int = 0,
        units: int = 1,
    ) -> tuple[int, int]:
        """Pack one record and give out its offsets.

        Args:
            slot: the queue.
            body: as it is stored.
            properties: text of at most 32,767 bytes.
            flag: the application's own 32 bits.
            sys_flag: its IPv6 bits are set here.
            born_timestamp: the producer's clock, milliseconds.
            born_host: 8 or 20 bytes.
            tags_code: goes into the queue's unit.
            keys: for the index, if they are known.
            reconsume_times: how often consumption was retried.
            prepared_transaction_offset: half message of a commit or rollback.
            units: how many queue offsets the record takes; 0 for records that are in no queue.

        Returns:
            Queue offset (units) and physical offset (bytes).

        Raises:
            StoreRefusedError: nothing was changed.
        """
        if not self._is_open:
            self._open()
        if len(born_host) == 8:
            head = self._head_v4
            sys_flag = sys_flag & ~HOST_BITS | self._store_bits
        else:
            head = self._head_v6
            sys_flag = sys_flag & ~HOST_BITS | self._store_bits | BORN_HOST_V6
        topic_part = slot.topic_part
        properties_length = len(properties)
        size = head.size + len(body) + len(topic_part) + 2 + properties_length
        if size > self._room:
            self._make_room(size)
        offset = self._end
        queue_offset = slot.next_offset if units else 0
        now = self._now_ms
        self._parts += (
            head.pack(
                size,
                slot.magic,
                crc32(body) & 0x7FFFFFFF,
                slot.queue_id,
                flag,
                queue_offset,
                offset,
                sys_flag,
                born_timestamp,
                born_host,
                now,
                self._log.store_host,
                reconsume_times,
                prepared_transaction_offset,
                len(body),
            ),
            body,
            topic_part,
            _LENGTHS[properties_length] if properties_length < 1_024 else _LENGTH.pack(properties_length),
            properties,
        )
        self._rows.append((slot, offset, size, queue_offset, tags_code, now, sys_flag, properties, units, keys))
        # No await since the offset was read: two records with one queue offset would hide a message.
        slot.next_offset += units
        self._end = offset + size
        self._room -= size
        return queue_offset, offset

    def add_batch(
        self,
        slot: QueueSlot,
        items: Sequence[BatchRow],
        sys_flag: int,
        born_timestamp: int,
        born_host: bytes,
    ) -> tuple[int, list[int]]:
        """Pack the messages of a batch as records of their own, one behind the other; all are taken or none.

        Args:
            slot: the queue of all.
            items: for each message its flag, body, stored properties, tags code and keys.
            sys_flag: of all; its IPv6 bits are set here.
            born_timestamp: of all, milliseconds.
            born_host: of all, 8 or 20 bytes.

        Returns:
            Queue offset of the first message (units) and the physical offset of each (bytes).

        Raises:
            StoreRefusedError: nothing was changed.
        """
        fixed = self.size_of(slot, b"", b"", born_host)
        total = sum([fixed + len(body) + len(properties) for _, body, properties, _, _ in items])
        self.reserve(total)
        head = self._head_v4 if len(born_host) == 8 else self._head_v6
        sys_flag = sys_flag & ~HOST_BITS | self._store_bits | (0 if len(born_host) == 8 else BORN_HOST_V6)
        pack, lengths = head.pack, _LENGTHS
        magic, queue_id, topic_part = slot.magic, slot.queue_id, slot.topic_part
        parts, rows, now, store_host = self._parts, self._rows, self._now_ms, self._log.store_host
        offset, queue_offset = self._end, slot.next_offset
        first, offsets = queue_offset, []
        for flag, body, properties, tags_code, keys in items:
            body_length, properties_length = len(body), len(properties)
            size = fixed + body_length + properties_length
            crc = crc32(body) & 0x7FFFFFFF
            parts += (
                pack(
                    size, magic, crc, queue_id, flag, queue_offset, offset, sys_flag, born_timestamp, born_host, now,
                    store_host, 0, 0, body_length,
                ),
                body,
                topic_part,
                lengths[properties_length] if properties_length < 1_024 else _LENGTH.pack(properties_length),
                properties,
            )  # fmt: skip
            rows.append((slot, offset, size, queue_offset, tags_code, now, sys_flag, properties, 1, keys))
            offsets.append(offset)
            offset += size
            queue_offset += 1
        slot.next_offset = queue_offset
        self._end = offset
        self._room -= total
        return first, offsets

    def add_equal(
        self, slot: QueueSlot, messages: EqualMessages, sys_flag: int, born_timestamp: int, born_host: bytes
    ) -> tuple[int, Sequence[int]]:
        """Like `add_batch`, for messages of one shape: their records are packed with one call."""
        count, properties_length = len(messages.bodies), messages.properties_length
        body_length = len(messages.bodies[0])
        size = self.size_of(slot, b"", b"", born_host) + body_length + properties_length
        self.reserve(count * size)
        head = self._head_v4 if len(born_host) == 8 else self._head_v6
        sys_flag = sys_flag & ~HOST_BITS | self._store_bits | (0 if len(born_host) == 8 else BORN_HOST_V6)
        offset, first, now = self._end, slot.next_offset, self._now_ms
        packed = head.pack(
            size, slot.magic, 0, slot.queue_id, messages.flag, 0, 0, sys_flag, born_timestamp, born_host, now,
            self._log.store_host, 0, 0, body_length,
        )  # fmt: skip
        self._parts.append(pack_equal(packed, size, slot, first, offset, messages))
        end = offset + count * size
        offsets = range(offset, end, size)
        self._rows += zip(
            repeat(slot),
            offsets,
            repeat(size),
            range(first, first + count),
            repeat(messages.tags_code),
            repeat(now),
            repeat(sys_flag),
            messages.properties(),
            repeat(1),
            zip(messages.keys, strict=True),
            strict=False,
        )
        slot.next_offset = first + count
        self._end = end
        self._room -= count * size
        return first, offsets

    @property
    def store_timestamp(self) -> int:
        """The stamp of this turn's records, milliseconds since 1970."""
        return self._now_ms

    def size_of(self, slot: QueueSlot, body: bytes, properties: bytes, born_host: bytes) -> int:
        """Return the length of the record that `add` would make."""
        head = self._head_v4 if len(born_host) == 8 else self._head_v6
        return head.size + len(body) + len(slot.topic_part) + 2 + len(properties)

    def reserve(self, size: int) -> None:
        """Make sure that records of `size` bytes in all go into one file, so that all are taken or none.

        Raises:
            StoreRefusedError: they cannot; nothing was changed.
        """
        if not self._is_open:
            self._open()
        if size > self._room:
            self._make_room(size)

    def answer(self, sink: Sink, data: bytes, wait: bool = True) -> None:
        """Send `data` when the records added so far are as safe as the configuration demands.

        Args:
            sink: where to.
            data: an encoded answer that says "stored"; see `AcknowledgementGate.unsure`.
            wait: false sends it at the end of the turn, whatever the configuration says.
        """
        (self._answers if wait else self._free_answers).append((sink, data))

    def then(self, callback: Callback, wait: bool = True) -> None:
        """Call `callback` with the status when the records added so far are as safe as demanded; see `answer`."""
        (self._callbacks if wait else self._free_callbacks).append(callback)

    def _open(self) -> None:
        if self._refusals or not self._log.is_writable:
            status = next(iter(self._refusals.values()), PutMessageStatus.SERVICE_NOT_AVAILABLE)
            reasons = ", ".join(self._refusals) or "its commit log has failed or is closed"
            raise StoreRefusedError(status, f"the store takes no messages now: {reasons}")
        self._is_open = True
        self._now_ms = self._clock.wall_ms()
        self._end = self._log.max_offset
        self._room = min(self._log.room, MAX_PENDING_BYTES)
        asyncio.get_running_loop().call_soon(self._close)

    def _make_room(self, size: int) -> None:
        """Write what is pending, and go on in the next file if the record does not fit into this one."""
        if size > self._log.file_size - 8:
            raise StoreRefusedError(
                PutMessageStatus.MESSAGE_ILLEGAL,
                f"{size} bytes do not fit into a commit log file of {self._log.file_size} bytes",
            )
        try:
            self._write()
            if size > self._log.room:
                self._log.roll()
        except StoreFullError as error:
            raise StoreRefusedError(PutMessageStatus.CREATE_MAPPED_FILE_FAILED, str(error)) from error
        except LogFailedError as error:
            self._fail()
            raise StoreRefusedError(PutMessageStatus.SERVICE_NOT_AVAILABLE, str(error)) from error
        finally:
            self._end = self._log.max_offset
            self._room = min(self._log.room, max(MAX_PENDING_BYTES, size))

    # --- at its end ---------------------------------------------------------------------------------------------------

    def _write(self) -> None:
        if self._parts:
            data = b"".join(self._parts)
            self._parts = []
            self._log.append(data)

    def _close(self) -> None:
        """Write, answer, make visible: in this order, so that an answer never waits for an index."""
        self._is_open = False
        try:
            self._write()
        except StoreError:
            self._fail()
            return
        rows, answers, callbacks = self._rows, self._answers, self._callbacks
        free_answers, free_callbacks = self._free_answers, self._free_callbacks
        self._begin()
        if answers or callbacks:
            self._gate.submit(self._end, answers, callbacks)
        if free_answers or free_callbacks:
            self._gate.submit(0, free_answers, free_callbacks)
        if rows:
            columns = _columns(rows)
            if self.waits_until_flushed or self.confirm_offset is not None:
                self._hidden.append(columns)
                if self.confirm_offset is not None:
                    # There may be nobody else who must have them.
                    self.reveal()
            else:
                self.on_visible(columns)

    def _fail(self) -> None:
        """A write failed: it is not known what of this turn is in the file, so nothing of it is denied or confirmed."""
        self.refuse("the commit log has failed")
        answers, callbacks = self._answers, self._callbacks
        free_answers, free_callbacks = self._free_answers, self._free_callbacks
        self._parts = []
        self._begin()
        self._gate.fail()
        self._gate.submit(self._end, answers, callbacks)
        self._gate.submit(self._end, free_answers, free_callbacks)

    def flushed(self, offset: int) -> None:
        """Make visible what is on disk now; called after the answers that waited for it were released."""
        self._flushed = offset
        self.reveal()

    def reveal(self) -> None:
        """Make visible what is safe enough now; called after the answers that waited for the same were released."""
        hidden = self._hidden
        if not hidden:
            return
        limit = self._flushed if self.waits_until_flushed else self._log.max_offset
        if self.confirm_offset is not None:
            limit = min(limit, self.confirm_offset())
        while hidden and hidden[0].end_offset <= limit:
            self.on_visible(hidden.popleft())

    def truncated(self, offset: int) -> None:
        """Forget what is not visible yet: the log is cut, or somebody else continues it. It is found in the log again."""
        self._hidden.clear()
        self._flushed = min(self._flushed, offset)

    async def stop_serving(self) -> None:
        """Take no further records."""
        self.refuse("the broker is stopping")

    @property
    def visible_offset(self) -> int:
        """Everything before this offset of the log was handed to `on_visible`, or was there when the store opened."""
        if self._hidden:
            return self._hidden[0].start_offset
        return self._rows[0][1] if self._rows else self._log.max_offset

    def __repr__(self) -> str:
        state = "open" if self._is_open else "between turns"
        return f"<Tick {state}, {len(self._rows)} records, end {self._end}, refuses for {list(self._refusals)}>"


def _columns(rows: list[Row]) -> Columns:
    """Turn rows into columns."""
    columns = Columns()
    (
        columns.slots,
        columns.physical_offsets,
        columns.sizes,
        columns.queue_offsets,
        columns.tags_codes,
        columns.store_timestamps,
        columns.sys_flags,
        columns.properties,
        columns.units,
        columns.keys,
    ) = map(list, zip(*rows, strict=True))
    return columns
