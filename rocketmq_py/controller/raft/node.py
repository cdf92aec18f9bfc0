"""Drives Raft: the journal, the connections to the other controllers, and time.

One task does everything that has an order: it takes what the core wants done, puts the records on disk, then sends the
messages, then applies what is committed. Messages that come meanwhile go to the core at once and are answered in the
task's next round.

    receive, propose, deadline -> core -> take -> journal (fsync) -> send -> apply -> answer the proposals
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from rocketmq_py.common.environment import Environment
from rocketmq_py.common.errors import CorruptDataError, RocketMQError
from rocketmq_py.controller.consensus import ConsensusTimeoutError, NotLeaderError, StateMachine
from rocketmq_py.controller.journal import Journal
from rocketmq_py.controller.raft import messages
from rocketmq_py.controller.raft.core import Output, RaftCore, Role
from rocketmq_py.controller.raft.log import (
    EntriesKept,
    RaftLog,
    Record,
    SnapshotKept,
    VoteKept,
    decode_records,
    encode_records,
)
from rocketmq_py.controller.raft.peers import PeerAddresses
from rocketmq_py.remoting.client import RemotingClient
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.processors import Processors, Request

logger = logging.getLogger(__name__)

#: Seconds until a proposal counts as unanswered.
PROPOSE_SECONDS: Final = 3.0
#: Bytes of the journal after which the state is kept as a whole instead.
COMPACT_SIZE: Final = 1 << 20
#: Most messages that wait for a connection to one controller; older ones are dropped.
_MAX_WAITING: Final = 64


class RaftConsensus:
    """One controller of several.

    Args:
        group: name of the group of controllers.
        own_id: this controller's id.
        addresses: id to `host:port` of all of them.
        machine: what the commands change.
        journal: where they are kept.
        client: for the messages; whoever made it closes it.
        environment: randomness and blocking calls.
        compact_size: bytes of the journal after which it is replaced by a snapshot.
    """

    def __init__(
        self,
        group: str,
        own_id: str,
        addresses: Mapping[str, str],
        machine: StateMachine,
        journal: Journal,
        client: RemotingClient,
        environment: Environment,
        compact_size: int = COMPACT_SIZE,
    ) -> None:
        self.on_leadership: list[Callable[[bool], None]] = []
        self._group = group
        self._own_id = own_id
        self._addresses = addresses
        self._machine = machine
        self._journal = journal
        self._environment = environment
        self._compact_size = compact_size
        self._trusted = PeerAddresses(addresses, environment)
        self._core: RaftCore | None = None
        # The state of the last snapshot, for controllers that are far behind.
        self._snapshot = SnapshotKept(0, 0, b"")
        self._applied = 0
        self._is_leader = False
        self._is_stopping = False
        self._waiting: dict[int, tuple[int, asyncio.Future[Any]]] = {}
        self._something_to_do = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._outboxes = {peer: Outbox(client, address) for peer, address in addresses.items() if peer != own_id}

    @property
    def is_leader(self) -> bool:
        """Whether it leads, and has applied the entry that began its term and so everything before."""
        return self._is_leader

    @property
    def leader_id(self) -> str | None:
        """Who leads, as far as this controller knows."""
        return self._core.leader if self._core is not None else None

    @property
    def core(self) -> RaftCore | None:
        """The part that decides, while it runs."""
        return self._core

    def install(self, processors: Processors) -> None:
        """Take the messages of the other controllers."""
        processors.register(messages.RAFT_MESSAGE, self._receive, "controller")

    # --- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Read what is kept, and take part; see `Consensus`."""
        await self._trusted.resolve()
        kept, payloads = await self._environment.run_blocking(self._journal.open)
        try:
            log, term, voted_for = self._restore(kept, payloads)
        except ValueError as error:
            raise CorruptDataError(self._journal.folder, "records of a controller", error) from None
        peers = [peer for peer in self._addresses if peer != self._own_id]
        now = asyncio.get_running_loop().time()
        self._core = RaftCore(self._own_id, peers, log, term, voted_for, self._environment.random, now)
        for outbox in self._outboxes.values():
            outbox.start()
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"raft of {self._own_id}")

    def _restore(self, kept: bytes | None, payloads: list[bytes]) -> tuple[RaftLog, int, str | None]:
        log, term, voted_for = RaftLog(), 0, None
        if kept is not None:
            self._snapshot = msgspec.msgpack.decode(kept, type=SnapshotKept)
            self._machine.restore(self._snapshot.state)
            self._applied = self._snapshot.index
            log.replace(self._snapshot.index, self._snapshot.term)
        for payload in payloads:
            for record in decode_records(payload):
                if isinstance(record, VoteKept):
                    term, voted_for = record.term, record.voted_for
                else:
                    _put_again(log, record)
        return log, term, voted_for

    async def stop(self) -> None:
        """Take part no longer; see `Consensus`."""
        task, self._task = self._task, None
        self._is_stopping = True
        self._something_to_do.set()
        if task is not None:
            # Not cancelled: what is being written must be done before the file is closed.
            await asyncio.gather(task, return_exceptions=True)
        await self._end()
        for outbox in self._outboxes.values():
            await outbox.stop()

    async def _end(self) -> None:
        self._core = None
        self._see_leadership()
        await self._environment.run_blocking(self._journal.close)

    # --- what comes in -----------------------------------------------------------------------------------------------

    def _receive(self, request: Request) -> None:
        envelope = messages.decode(request.command.body)
        core = self._core
        if core is None:
            return
        if (envelope.group, envelope.receiver) != (self._group, self._own_id) or not self._trusted.is_peer(
            envelope.sender, request.connection.remote_address
        ):
            logger.warning(
                "a message of controller %s of group %s from %s was not for this one, or not from a controller",
                envelope.sender[:64], envelope.group[:64], request.connection.remote_address,
            )  # fmt: skip
            return
        core.receive(envelope.sender, envelope.message, asyncio.get_running_loop().time())
        self._something_to_do.set()

    async def propose(self, command: bytes) -> Any:
        """Keep and apply a command; see `Consensus`."""
        core = self._core
        if core is None or not self._is_leader or core.role is not Role.LEADER:
            raise NotLeaderError("this controller does not lead")
        index, term = core.propose(command)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[index] = (term, future)
        self._something_to_do.set()
        try:
            async with asyncio.timeout(PROPOSE_SECONDS):
                return await future
        except TimeoutError:
            raise ConsensusTimeoutError(
                f"fewer than {core.majority} of {len(self._addresses)} controllers confirmed within "
                f"{PROPOSE_SECONDS:g} s; it may be done all the same"
            ) from None

    # --- what is done ------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        core = self._core
        assert core is not None
        try:
            while not self._is_stopping:
                try:
                    async with asyncio.timeout_at(core.deadline):
                        await self._something_to_do.wait()
                except TimeoutError:
                    pass
                self._something_to_do.clear()
                core.tick(loop.time())
                await self._work(core)
        except Exception:
            # Broad on purpose: whatever it is, going on could promise what is not kept. The others go on without it.
            logger.exception("controller %s takes part no longer", self._own_id)
            await self._end()

    async def _work(self, core: RaftCore) -> None:
        self._see_leadership()
        while (output := core.take()) is not None:
            await self._keep(core, output)
            core.kept(output.last)
            self._send(output)
            self._apply(core)
            self._see_leadership()
        if self._journal.size > self._compact_size and self._applied > core.log.snapshot_index:
            await self._compact(core)

    async def _keep(self, core: RaftCore, output: Output) -> None:
        run_blocking = self._environment.run_blocking
        if output.install is None:
            if output.records:
                await run_blocking(self._journal.append, encode_records(output.records))
            return
        install = output.install
        self._snapshot = SnapshotKept(install.index, install.index_term, install.state)
        self._machine.restore(install.state)
        self._applied = install.index
        await run_blocking(self._journal.compact, msgspec.msgpack.encode(self._snapshot), [_rest(core)])
        logger.info("controller %s has the state of entry %d from the leader", self._own_id, install.index)

    async def _compact(self, core: RaftCore) -> None:
        term = core.log.term_at(self._applied)
        assert term is not None
        self._snapshot = SnapshotKept(self._applied, term, self._machine.snapshot())
        core.log.forget(self._applied)
        await self._environment.run_blocking(
            self._journal.compact, msgspec.msgpack.encode(self._snapshot), [_rest(core)]
        )

    def _send(self, output: Output) -> None:
        for peer, message in output.messages:
            if isinstance(message, messages.Install):
                kept = self._snapshot
                message = messages.Install(message.term, kept.index, kept.term, kept.state)
            self._outboxes[peer].put(messages.encode(messages.Envelope(self._group, self._own_id, peer, message)))

    def _apply(self, core: RaftCore) -> None:
        while self._applied < core.commit_index:
            entry = core.log.entry(self._applied + 1)
            result = self._machine.apply(entry.command) if entry.command else None
            self._applied += 1
            term, future = self._waiting.pop(self._applied, (0, None))
            if future is not None and not future.done():
                if term == entry.term:
                    future.set_result(result)
                else:
                    future.set_exception(NotLeaderError("another controller leads now; the command was not kept"))

    def _see_leadership(self) -> None:
        """Tell the listeners when the lead begins or ends."""
        core = self._core
        is_leader = core is not None and core.role is Role.LEADER and self._applied >= core.term_start
        if core is None or core.role is not Role.LEADER:
            waiting, self._waiting = self._waiting, {}
            for _, future in waiting.values():
                if not future.done():
                    future.set_exception(NotLeaderError("this controller leads no longer; it may be done all the same"))
        if is_leader != self._is_leader:
            self._is_leader = is_leader
            logger.info("controller %s %s", self._own_id, "leads" if is_leader else "leads no longer")
            for listener in self.on_leadership:
                listener(is_leader)

    def __repr__(self) -> str:
        return f"<RaftConsensus {self._core or self._own_id} applied {self._applied}>"


class Outbox:
    """Messages on their way to one controller; none waits for long, and none is missed if it is dropped.

    Args:
        client: the connections.
        address: the other controller.
    """

    def __init__(self, client: RemotingClient, address: str) -> None:
        self._client = client
        self._address = address
        self._waiting: deque[bytes] = deque(maxlen=_MAX_WAITING)
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to send."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"messages to {self._address}")

    def put(self, body: bytes) -> None:
        """Send a message when those before it are sent; the oldest is dropped if too many wait."""
        self._waiting.append(body)
        self._arrived.set()

    async def stop(self) -> None:
        """Send no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            try:
                while self._waiting:
                    connection = await self._client.connect(self._address)
                    body = self._waiting.popleft()
                    connection.one_way(RemotingCommand.create_request(messages.RAFT_MESSAGE, body=body))
            except RocketMQError as error:
                # It is down. What waits is old by the time it is back, and Raft says everything again.
                logger.debug("controller %s cannot be reached: %s", self._address, error)
                self._waiting.clear()


def _put_again(log: RaftLog, record: EntriesKept) -> None:
    """Put kept entries into the log; those that the snapshot has are skipped."""
    skipped = max(log.snapshot_index + 1 - record.first, 0)
    first = record.first + skipped
    if first > log.last_index + 1:
        raise ValueError(f"entry {first} follows {log.last_index}")
    if skipped < len(record.entries) or first <= log.last_index:
        log.put(first, record.entries[skipped:])


def _rest(core: RaftCore) -> bytes:
    """Return everything that a journal must hold beside the snapshot."""
    records: list[Record] = [VoteKept(core.term, core.voted_for)]
    entries = core.log.rest()
    if entries:
        records.append(EntriesKept(core.log.snapshot_index + 1, entries))
    return encode_records(records)
