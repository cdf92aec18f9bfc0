"""A controller that has nobody to agree with: it leads from its start, and its own disk is the majority."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import msgspec

from rocketmq_py.common.environment import Environment
from rocketmq_py.common.errors import CorruptDataError
from rocketmq_py.controller.consensus import NotLeaderError, StateMachine
from rocketmq_py.controller.journal import Journal

#: Bytes of the journal after which the state is kept as a whole instead.
COMPACT_SIZE: Final = 1 << 20


class _Entry(msgspec.Struct, array_like=True):
    index: int
    command: bytes


class AloneConsensus:
    """Keeps commands in a journal.

    Args:
        own_id: this controller's id.
        machine: what the commands change.
        journal: where they are kept.
        environment: its blocking calls.
        compact_size: bytes of the journal after which it is replaced by a snapshot.
    """

    def __init__(
        self,
        own_id: str,
        machine: StateMachine,
        journal: Journal,
        environment: Environment,
        compact_size: int = COMPACT_SIZE,
    ) -> None:
        self.on_leadership: list[Callable[[bool], None]] = []
        self._own_id = own_id
        self._machine = machine
        self._journal = journal
        self._environment = environment
        self._compact_size = compact_size
        self._index = 0
        self._is_running = False
        # One command after the other: the order of the file is the order of their application.
        self._turn = asyncio.Lock()

    @property
    def is_leader(self) -> bool:
        """Whether it runs, and its disk has never failed."""
        return self._is_running

    @property
    def leader_id(self) -> str | None:
        """Itself."""
        return self._own_id if self._is_running else None

    async def start(self) -> None:
        """Read what is kept; see `Consensus`."""
        snapshot, payloads = await self._environment.run_blocking(self._journal.open)
        try:
            self._restore(snapshot, payloads)
        except ValueError as error:
            raise CorruptDataError(self._journal.folder, "commands of a controller", error) from None
        self._set_running(True)

    def _restore(self, snapshot: bytes | None, payloads: list[bytes]) -> None:
        if snapshot is not None:
            kept = msgspec.msgpack.decode(snapshot, type=_Entry)
            self._machine.restore(kept.command)
            self._index = kept.index
        for payload in payloads:
            entry = msgspec.msgpack.decode(payload, type=_Entry)
            if entry.index <= self._index:
                continue  # The snapshot has it: a crash came between snapshot and journal.
            if entry.index != self._index + 1:
                raise ValueError(f"command {entry.index} follows {self._index}")
            self._machine.apply(entry.command)
            self._index = entry.index

    async def stop(self) -> None:
        """Close the journal; see `Consensus`."""
        self._set_running(False)
        async with self._turn:
            await self._environment.run_blocking(self._journal.close)

    async def propose(self, command: bytes) -> Any:
        """Keep and apply a command; see `Consensus`."""
        # Shielded: a command that is being written must be applied, or the next one would find another state.
        return await asyncio.shield(asyncio.ensure_future(self._propose(command)))

    async def _propose(self, command: bytes) -> Any:
        async with self._turn:
            if not self._is_running:
                raise NotLeaderError("this controller is stopped")
            try:
                payload = msgspec.msgpack.encode(_Entry(self._index + 1, command))
                await self._environment.run_blocking(self._journal.append, payload)
                self._index += 1
                result = self._machine.apply(command)
                if self._journal.size > self._compact_size:
                    kept = msgspec.msgpack.encode(_Entry(self._index, self._machine.snapshot()))
                    await self._environment.run_blocking(self._journal.compact, kept, [])
            except OSError:
                # What is on disk is not known now; acknowledging anything further could promise what is lost.
                self._set_running(False)
                raise
            return result

    def _set_running(self, is_running: bool) -> None:
        if is_running != self._is_running:
            self._is_running = is_running
            for listener in self.on_leadership:
                listener(is_running)

    def __repr__(self) -> str:
        return f"<AloneConsensus {self._own_id} {self._index} commands {'leads' if self._is_running else 'stopped'}>"
