"""A slave's own queues: what was copied into its log is dispatched, as on a master, but in steps between the copying.

Copying goes first: a master may wait for the copy, and nobody waits for the queues of a slave that catches up.

Source: `ReputMessageService`, RocketMQ 5.3, which runs in a thread of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from rocketmq_py.store.commit_log import CommitLog
from rocketmq_py.store.ha.log_columns import LogColumns
from rocketmq_py.store.reput import ReputMessageService

#: Bytes of the log that are dispatched in one turn of the loop.
STEP_BYTES: Final = 256 << 10
#: While a slave catches up, copying may take so many times as long as dispatch.
COPY_SHARE: Final = 3
#: Steps that a stop still takes; SIGTERM must end the process within 5 s.
STOP_STEPS: Final = 256


class SlaveDispatch:
    """Dispatches what a slave has copied.

    Args:
        log: what was copied.
        reput: knows how far dispatch is.
        visible: returns how far it may go: to the end of the log, or to what is on disk.

    Attributes:
        visible: the same; a group that may elect another master goes less far.
    """

    def __init__(self, log: CommitLog, reput: ReputMessageService, visible: Callable[[], int]) -> None:
        self._log = log
        self._reput = reput
        self.visible = visible
        self._columns = LogColumns()
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def serve(self) -> None:
        """Begin."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="SlaveDispatch")

    async def stop(self) -> None:
        """Dispatch what is left, within limits, and end. What remains is dispatched by the next start."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
            for _ in range(STOP_STEPS):
                if not self.step():
                    break
                await asyncio.sleep(0)

    def wake(self) -> None:
        """Note that there is more to dispatch."""
        self._wanted.set()

    def begin_at(self, offset: int) -> None:
        """Begin with the first record of a log that does not begin at 0."""
        self._reput.reput_from_offset = max(self._reput.reput_from_offset, offset)

    @property
    def lag(self) -> int:
        """Bytes that were copied and are not yet in the queues."""
        return max(self.visible() - self._reput.reput_from_offset, 0)

    def step(self) -> bool:
        """Dispatch a little; return whether that was anything."""
        start, visible = self._reput.reput_from_offset, self.visible()
        if start >= visible:
            return False
        if self._step_young(start, visible):
            return True
        end = self._reput.catch_up(min(start + STEP_BYTES, visible))
        if end == start:
            # One record that is longer than a step, or a blank one.
            end = self._reput.catch_up(visible)
        return end > start

    def _step_young(self, start: int, visible: int) -> bool:
        """Dispatch bytes that this process has checked when they came; false if it must go the ordinary way."""
        log = self._log
        size = min(STEP_BYTES, visible - start, log.file_size - start % log.file_size)
        data = None if log.is_old(start) else log.read_cached(start, size)
        if data is None:
            return False
        columns, end = self._columns.read(data, start)
        if end > visible:
            # A blank record whose rest has not arrived.
            return False
        if len(columns):
            self._reput.arrived(columns)
        self._reput.reput_from_offset = end
        return end > start

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._wanted.clear()
            begin = loop.time()
            if self.step():
                used = loop.time() - begin
                await asyncio.sleep(0)
                if self._wanted.is_set():
                    # More was copied in that one turn: this slave catches up, and copying gets the larger part of the time.
                    await asyncio.sleep(COPY_SHARE * used)
            else:
                await self._wanted.wait()

    def __repr__(self) -> str:
        return f"<SlaveDispatch {self.lag} bytes behind>"
