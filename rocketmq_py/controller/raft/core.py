"""Raft without a network, a disk or a clock: time and messages go in, messages and records come out.

One controller leads for a *term*. It takes commands into its log and sends them to the others; when more than half have
an entry of its term on disk, everything up to it is *committed*: no later leader can lack it, because a vote goes only
to a controller whose log is not behind the voter's. Whoever hears nothing from a leader for its time-out stands for
election. Whoever leads and hears from fewer than half steps down by itself.

The order of things is the driver's duty (`node.py`): what `take` returns is first put on disk, then reported by `kept`,
and only then its messages are sent. So nobody is told of a vote or an entry that a power cut could take back.

Source: Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm", sections 5 and 7; the trial votes are
section 9.6 of Ongaro's dissertation, stepping down is section 6.2.
"""

from __future__ import annotations

import enum
import random
from dataclasses import dataclass, field
from typing import Final

from rocketmq_py.controller.raft.log import EntriesKept, RaftLog, Record, VoteKept
from rocketmq_py.controller.raft.messages import Append, AppendAnswer, Entry, Install, Message, Vote, VoteAnswer

#: Seconds without a leader until a controller stands for election: drawn between the two, so that they seldom collide.
ELECTION_SECONDS: Final = (1.2, 2.4)
#: Seconds between two messages of a leader.
HEARTBEAT_SECONDS: Final = 0.2


class Role(enum.Enum):
    """What a controller is in its term."""

    FOLLOWER = "follower"
    CANDIDATE = "candidate"
    LEADER = "leader"


@dataclass(slots=True)
class Output:
    """What has to be done, in this order: install, keep the records, say the messages.

    Attributes:
        install: a state that takes the place of everything kept so far.
        records: to be put on disk, all or none.
        messages: to whom and what.
        last: index and term of the log's end, to be reported by `kept` when the records are on disk.
    """

    install: Install | None = None
    records: list[Record] = field(default_factory=list)
    messages: list[tuple[str, Message]] = field(default_factory=list)
    last: tuple[int, int] = (0, 0)


@dataclass(slots=True)
class Follower:
    """What a leader knows of another controller.

    Attributes:
        next_index: the first entry to send next.
        match_index: the last entry that it has on disk, for certain.
        heard: when it last said anything.
    """

    next_index: int
    match_index: int
    heard: float


class RaftCore:
    """One controller's part.

    Args:
        own_id: its id.
        peers: the ids of the others.
        log: what it has.
        term, voted_for: what it has kept of votes.
        rng: for the time-outs.
        now: the time, in seconds, as in every method.

    Attributes:
        role: what it is now.
        term: the latest term that it has heard of.
        leader: who leads, as far as it knows.
        commit_index: everything up to there is committed.
        term_start: as leader, the index of the entry that began its term.
    """

    def __init__(
        self,
        own_id: str,
        peers: list[str],
        log: RaftLog,
        term: int,
        voted_for: str | None,
        rng: random.Random,
        now: float,
    ) -> None:
        self.own_id = own_id
        self.peers = peers
        self.log = log
        self.role = Role.FOLLOWER
        self.term = term
        self.voted_for = voted_for
        self.leader: str | None = None
        self.commit_index = log.snapshot_index
        self.term_start = 0
        self.followers: dict[str, Follower] = {}
        self._random = rng
        self._votes: set[str] = set()
        self._is_trial = False
        self._kept_index = log.last_index
        self._heard_leader = now - ELECTION_SECONDS[1]
        self._output = Output()
        self.deadline = now
        self._postpone(now)

    @property
    def majority(self) -> int:
        """How many controllers are more than half."""
        return (len(self.peers) + 1) // 2 + 1

    # --- what the driver does ----------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Let time pass; to be called at `deadline` at the latest."""
        if now < self.deadline:
            return
        if self.role is Role.LEADER:
            heard = sum(now - follower.heard <= ELECTION_SECONDS[1] for follower in self.followers.values())
            if heard + 1 < self.majority:
                self._follow(self.term, None, now)
                return
            self.deadline = now + HEARTBEAT_SECONDS
            for peer in self.peers:
                self._send_entries(peer)
        else:
            self._stand(now, is_trial=True)

    def propose(self, command: bytes) -> tuple[int, int]:
        """Take a command into the log as leader, and return its index and term."""
        assert self.role is Role.LEADER
        entry = Entry(self.term, command)
        index = self.log.last_index + 1
        self.log.put(index, [entry])
        self._output.records.append(EntriesKept(index, [entry]))
        for peer in self.peers:
            self._send_entries(peer)
        return index, self.term

    def receive(self, sender: str, message: Message, now: float) -> None:
        """Take a message from another controller."""
        if sender not in self.peers:
            return
        is_trial = isinstance(message, (Vote, VoteAnswer)) and message.is_trial
        if message.term > self.term and not is_trial:
            self._follow(message.term, None, now)
        if isinstance(message, Vote):
            self._vote(sender, message, now)
        elif isinstance(message, VoteAnswer):
            self._count_vote(sender, message, now)
        elif isinstance(message, AppendAnswer):
            self._note_progress(sender, message, now)
        elif message.term < self.term:
            self._say(sender, AppendAnswer(self.term, False, 0))
        else:
            self._follow(message.term, sender, now)
            self._heard_leader = now
            if isinstance(message, Append):
                self._append(sender, message)
            else:
                self._install(sender, message)

    def take(self) -> Output | None:
        """Return what has to be done since the last call; None for nothing."""
        output = self._output
        if output.install is None and not output.records and not output.messages:
            return None
        output.last = (self.log.last_index, self.log.last_term)
        self._output = Output()
        return output

    def kept(self, last: tuple[int, int]) -> None:
        """Note that the log is on disk up to an entry, given by index and term."""
        index, term = last
        # Meanwhile another leader may have replaced the entry: then this says nothing about what is there now.
        if self.log.term_at(index) == term:
            self._kept_index = max(self._kept_index, index)
            self._commit()

    # --- elections ---------------------------------------------------------------------------------------------------

    def _postpone(self, now: float) -> None:
        self.deadline = now + self._random.uniform(*ELECTION_SECONDS)

    def _follow(self, term: int, leader: str | None, now: float) -> None:
        """Be a follower in a term."""
        if term > self.term:
            self.term, self.voted_for = term, None
            self._output.records.append(VoteKept(term, None))
        self.role = Role.FOLLOWER
        self.leader = leader
        self.followers = {}
        self._votes = set()
        self._postpone(now)

    def _stand(self, now: float, *, is_trial: bool) -> None:
        """Ask for votes; in earnest only after a trial has shown that they would be given."""
        self.role, self.leader, self._is_trial = Role.CANDIDATE, None, is_trial
        self._votes = {self.own_id}
        self._postpone(now)
        term = self.term + 1
        if not is_trial:
            self.term, self.voted_for = term, self.own_id
            self._output.records.append(VoteKept(term, self.own_id))
        for peer in self.peers:
            self._say(peer, Vote(term, self.log.last_index, self.log.last_term, is_trial))

    def _vote(self, sender: str, vote: Vote, now: float) -> None:
        is_ahead = (vote.last_term, vote.last_index) >= (self.log.last_term, self.log.last_index)
        if vote.is_trial:
            # As long as a leader is heard, nobody else is wanted.
            has_leader = self.role is Role.LEADER or now - self._heard_leader < ELECTION_SECONDS[0]
            is_granted = vote.term > self.term and is_ahead and not has_leader
            self._say(sender, VoteAnswer(vote.term if is_granted else self.term, is_granted, True))
            return
        is_granted = vote.term == self.term and is_ahead and self.voted_for in (None, sender)
        if is_granted:
            self.voted_for = sender
            self._output.records.append(VoteKept(self.term, sender))
            self._postpone(now)
        self._say(sender, VoteAnswer(self.term, is_granted, False))

    def _count_vote(self, sender: str, answer: VoteAnswer, now: float) -> None:
        if not answer.is_granted:
            if answer.term > self.term:
                self._follow(answer.term, None, now)
            return
        expected = self.term + 1 if self._is_trial else self.term
        if self.role is not Role.CANDIDATE or (answer.term, answer.is_trial) != (expected, self._is_trial):
            return
        self._votes.add(sender)
        if len(self._votes) < self.majority:
            return
        if self._is_trial:
            self._stand(now, is_trial=False)
        else:
            self._lead(now)

    def _lead(self, now: float) -> None:
        self.role, self.leader = Role.LEADER, self.own_id
        self.deadline = now + HEARTBEAT_SECONDS
        next_index = self.log.last_index + 1
        self.followers = {peer: Follower(next_index, 0, now) for peer in self.peers}
        self.term_start = next_index
        # Entries of earlier terms are committed with this one; by themselves they never are (section 5.4.2).
        self.propose(b"")

    # --- the leader's side of the log --------------------------------------------------------------------------------

    def _send_entries(self, peer: str) -> None:
        follower = self.followers[peer]
        previous = follower.next_index - 1
        term = self.log.term_at(previous)
        if term is None:
            # The driver fills in the state: this part knows only that it is needed.
            self._say(peer, Install(self.term, self.log.snapshot_index, self.log.snapshot_term, b""))
            follower.next_index = self.log.snapshot_index + 1
            return
        entries = self.log.entries_from(follower.next_index)
        self._say(peer, Append(self.term, previous, term, entries, self.commit_index))
        # What is lost on the way shows in the answer to the next heartbeat.
        follower.next_index += len(entries)

    def _note_progress(self, sender: str, answer: AppendAnswer, now: float) -> None:
        follower = self.followers.get(sender)
        if self.role is not Role.LEADER or follower is None or answer.term != self.term:
            return
        follower.heard = now
        if answer.is_accepted:
            follower.match_index = max(follower.match_index, min(answer.index, self.log.last_index))
            follower.next_index = max(follower.next_index, follower.match_index + 1)
            self._commit()
            if follower.next_index <= self.log.last_index:
                self._send_entries(sender)
        else:
            # Even behind what it had for certain: an operator may have given it an empty folder.
            follower.next_index = max(min(answer.index, follower.next_index), 1)
            follower.match_index = min(follower.match_index, follower.next_index - 1)
            self._send_entries(sender)

    def _commit(self) -> None:
        """Commit what more than half have on disk, this controller's own disk counted when it is done."""
        if self.role is not Role.LEADER:
            return
        indexes = sorted([self._kept_index, *(follower.match_index for follower in self.followers.values())])
        index = indexes[len(indexes) - self.majority]
        if index > self.commit_index and self.log.term_at(index) == self.term:
            self.commit_index = index
            for peer in self.peers:
                # At once, so that followers know it before this leader can be lost.
                self._send_entries(peer)

    # --- the follower's side -----------------------------------------------------------------------------------------

    def _append(self, sender: str, message: Append) -> None:
        previous, entries = message.previous_index, message.entries
        if previous < self.log.snapshot_index:
            # The snapshot has some of them, and they are committed: they cannot differ.
            entries = entries[self.log.snapshot_index - previous :]
            if not entries and previous + len(message.entries) < self.log.snapshot_index:
                self._say(sender, AppendAnswer(self.term, True, previous + len(message.entries)))
                return
            previous = self.log.snapshot_index
        elif self.log.term_at(previous) != message.previous_term:
            self._say(sender, AppendAnswer(self.term, False, self._where_to_go_on(previous)))
            return
        self._take_over(previous + 1, entries)
        last = previous + len(entries)
        self.commit_index = max(self.commit_index, min(message.commit_index, last))
        self._say(sender, AppendAnswer(self.term, True, last))

    def _take_over(self, first: int, entries: list[Entry]) -> None:
        """Put the leader's entries into the log, from the first that differs on."""
        for position, entry in enumerate(entries):
            index = first + position
            if self.log.term_at(index) == entry.term:
                continue
            assert index > self.commit_index, f"entry {index} is committed and would be replaced in {self}"
            self._kept_index = min(self._kept_index, index - 1)
            self.log.put(index, entries[position:])
            self._output.records.append(EntriesKept(index, entries[position:]))
            return

    def _where_to_go_on(self, previous: int) -> int:
        """Return the index from which the leader should try next: before all entries of the term that differs."""
        if previous > self.log.last_index:
            return self.log.last_index + 1
        term = self.log.term_at(previous)
        index = previous
        while index > self.commit_index + 1 and self.log.term_at(index - 1) == term:
            index -= 1
        return index

    def _install(self, sender: str, message: Install) -> None:
        if self.log.term_at(message.index) == message.index_term:
            # All of it is here, and what follows must stay: it may have been reported to be on disk.
            self.commit_index = max(self.commit_index, message.index)
        elif message.index > self.commit_index:
            self.log.replace(message.index, message.index_term)
            self.commit_index = self._kept_index = message.index
            # Entries taken over since the last `take` are void with everything else.
            self._output.records.clear()
            self._output.install = message
        self._say(sender, AppendAnswer(self.term, True, message.index))

    def _say(self, peer: str, message: Message) -> None:
        self._output.messages.append((peer, message))

    def __repr__(self) -> str:
        return f"<RaftCore {self.own_id} {self.role.value} term {self.term} commit {self.commit_index} {self.log!r}>"
