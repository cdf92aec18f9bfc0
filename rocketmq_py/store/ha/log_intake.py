"""What a slave does with the bytes that arrive: check, append whole records, keep the incomplete one for later.

    begin   which offset to ask the master from: a little before the end of the own log
    feed    bytes of one frame, offset by offset without a gap
    settle  after each read of the socket: check what is whole and append it with one write

Asking from a little before the end costs nothing and shows whether both logs are the same: what the master sends must
equal the bytes that are here already. A slave whose end the master never had, because one of them lost its newest bytes
in a power cut, would otherwise go on with a log that is no copy of anything.

Source: `DefaultHAClient#dispatchReadRequest`, `CommitLog#appendData`, RocketMQ 5.3, which check the offset only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from rocketmq_py.common.errors import CorruptDataError
from rocketmq_py.store.commit_log import CommitLog
from rocketmq_py.store.ha.record_checks import Checked, check_records
from rocketmq_py.store.ha.record_vector import RecordVectors

#: Bytes of its own end that a slave compares with the master's.
OVERLAP: Final = 4_096
#: A record is its body and, besides, at most this: head, topic (32 KiB), properties (32 KiB).
RECORD_EXTRA: Final = 72 << 10
_FIRST_BUFFER: Final = 1 << 20


class DivergedError(CorruptDataError):
    """The master's log is not the one that this slave copied."""


class LogIntake:
    """The end of a slave's log, as seen by the link to its master.

    Args:
        log: the slave's log; nobody else appends to it.
        max_message_size: of a body; a record that claims to be much longer is refused.

    Attributes:
        next_offset: of the next byte that must arrive; None before the first byte of an empty log.
        on_appended: called after each append.
        vectors: checks many records at once; None until it is loaded, and for good without the extra `fast`.
    """

    def __init__(self, log: CommitLog, max_message_size: int) -> None:
        self.next_offset: int | None = None
        self.on_appended: Callable[[], None] = lambda: None
        self.vectors: RecordVectors | None = None
        self._log = log
        self._max_record_size = max_message_size + RECORD_EXTRA
        # Bytes from the end of the log on that are no whole record yet, at the beginning of a buffer that is reused.
        self._buffer = bytearray(_FIRST_BUFFER)
        self._filled = 0
        self._first_offset: int | None = None
        # Bytes of a blank record that are still to come, for as long as the log ends at `_blank_from`, inside that record. They
        # have no meaning, so there is nothing to check.
        self._blank_left = 0
        self._blank_from = -1

    @property
    def is_verified(self) -> bool:
        """Whether the end of the own log was compared with the master's; before that nothing may be confirmed."""
        return self.next_offset is None or self.next_offset >= self._log.max_offset

    @property
    def is_possible(self) -> bool:
        """Whether the log takes bytes at all: no write has failed."""
        return self._log.is_writable

    def begin(self) -> int:
        """Forget what a former link left unfinished, and return the offset to ask from; 0 if the log is empty."""
        log = self._log
        self._filled = 0
        if log.max_offset != self._blank_from:
            # The log was cut, or a write went wrong: it ends at the border of a record.
            self._blank_left = 0
        if not log.files.mapped_files:
            self.next_offset = self._first_offset = None
            return 0
        # At least 1: 0 says "empty" to the master.
        self.next_offset = min(max(log.max_offset - OVERLAP, log.min_offset, 1), log.max_offset)
        return self.next_offset

    def check_offset(self, offset: int) -> None:
        """Check where a frame says that it belongs; a heartbeat says it as well.

        Raises:
            CorruptDataError: it is not where the last one ended.
        """
        if self.next_offset is None:
            if offset < 0 or offset % self._log.file_size:
                expected = f"the beginning of a file of {self._log.file_size} bytes (mappedFileSizeCommitLog)"
                raise CorruptDataError("the first frame for an empty slave", expected, f"offset {offset}")
        elif offset != self.next_offset:
            raise CorruptDataError("a frame of the master", f"offset {self.next_offset}", offset)

    def feed(self, offset: int, data: memoryview) -> None:
        """Take body bytes of a frame, which may begin and end anywhere.

        Raises:
            CorruptDataError: they do not continue what came before.
            DivergedError: they differ from what this slave has at the same place.
        """
        self.check_offset(offset)
        if not data:
            return
        self.next_offset = offset + len(data)
        known = self._log.max_offset - offset if self._log.files.mapped_files else 0
        if known > 0:
            self._compare(offset, data[:known])
            data = data[known:]
        end = self._filled + len(data)
        if end > len(self._buffer):
            self._buffer.extend(bytes(max(end, 2 * len(self._buffer)) - len(self._buffer)))
        # Through a view: a bytearray would make a bytearray of the bytes first.
        with memoryview(self._buffer) as view:
            view[self._filled : end] = data
        self._filled = end
        if self._first_offset is None:
            self._first_offset = offset

    def _compare(self, offset: int, data: memoryview) -> None:
        while data:
            mine = self._log.read_blocking(offset, len(data))
            if not mine:
                raise DivergedError("the log of this slave", f"bytes at {offset}", "none")
            if mine != data[: len(mine)]:
                place = next(number for number, byte in enumerate(mine) if byte != data[number])
                raise DivergedError(
                    f"the log of this slave at {offset + place}",
                    f"byte {data[place]:02x}, as the master has it",
                    f"{mine[place]:02x}",
                    "The two logs are not copies of each other. If the master's is the right one, stop this slave, set "
                    "its store aside and start it empty",
                )
            offset, data = offset + len(mine), data[len(mine) :]

    def settle(self) -> int:
        """Append the whole records among what has arrived, with one write.

        Returns:
            How many bytes were appended.

        Raises:
            CorruptDataError: what arrived is no log. What was good before that is kept.
            StoreError: it could not be written.
        """
        if not self._filled:
            return 0
        log = self._log
        start = log.max_offset if log.files.mapped_files else self._first_offset or 0
        view = memoryview(self._buffer)[: self._filled]
        try:
            size, blank_left = self._whole(view, start)
            if size:
                log.append_raw(start, view[:size])
        finally:
            view.release()
        if size:
            self._blank_left, self._blank_from = blank_left, log.max_offset
            # What is left is less than a record, as a rule a small part of what was appended.
            self._buffer[: self._filled - size] = self._buffer[size : self._filled]
            self._filled -= size
            self.on_appended()
        return size

    def _whole(self, view: memoryview, start: int) -> Checked:
        """Return how many bytes at the beginning can be appended."""
        skipped = min(self._blank_left, len(view))
        if skipped == len(view):
            return Checked(skipped, self._blank_left - skipped)
        checked = check_records(
            view[skipped:], start + skipped, self._log.file_size, self._max_record_size, self.vectors
        )
        return Checked(skipped + checked.size, checked.blank_left)

    def __repr__(self) -> str:
        return f"<LogIntake next {self.next_offset}, {self._filled} bytes wait, log ends at {self._log.max_offset}>"
