"""Raft, its order of things and its files: nothing that was confirmed is lost, whatever happens to whom."""

from __future__ import annotations

import random
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocketmq_py.controller.raft.core import ELECTION_SECONDS, RaftCore, Role
from rocketmq_py.controller.raft.log import EntriesKept, RaftLog, VoteKept
from rocketmq_py.controller.raft.messages import Append, AppendAnswer, Entry, Install, Vote, VoteAnswer

IDS = ("n0", "n1", "n2")


class Node:
    """A controller whose disk is a list: what it holds after a crash is what was kept before."""

    def __init__(self, world: World, own_id: str) -> None:
        self.world = world
        self.own_id = own_id
        self.term, self.voted_for = 0, None
        self.snapshot: tuple[int, int, tuple[bytes, ...]] = (0, 0, ())
        self.kept = RaftLog()
        self.core: RaftCore | None = None
        self.applied: list[bytes] = []
        self.start()

    def start(self) -> None:
        log = RaftLog()
        log.replace(self.snapshot[0], self.snapshot[1])
        rest = self.kept.rest()
        if rest:
            log.put(log.last_index + 1, rest)
        self.applied = list(self.snapshot[2])
        peers = [peer for peer in IDS if peer != self.own_id]
        self.core = RaftCore(self.own_id, peers, log, self.term, self.voted_for, self.world.random, self.world.now)

    def crash(self) -> None:
        self.core = None

    def work(self, *, dies_before_keeping: bool = False, dies_before_saying: bool = False) -> None:
        """Do what the driver does: keep, then say, then apply."""
        core = self.core
        if core is None:
            return None
        while (output := core.take()) is not None:
            if dies_before_keeping:
                return self.crash()
            if output.install is not None:
                state = tuple(bytes(output.install.state).split(b","))
                self.snapshot = (output.install.index, output.install.index_term, state)
                self.applied = list(state)
                self._rewrite(core)
            else:
                for record in output.records:
                    if isinstance(record, VoteKept):
                        self.term, self.voted_for = record.term, record.voted_for
                    else:
                        assert isinstance(record, EntriesKept)
                        self.kept.put(record.first, record.entries)
            if dies_before_saying:
                return self.crash()
            core.kept(output.last)
            for peer, message in output.messages:
                if isinstance(message, Install):
                    index, term, state = self.snapshot
                    message = Install(message.term, index, term, b",".join(state))
                self.world.say(self.own_id, peer, message)
            self._apply(core)
        return None

    def _rewrite(self, core: RaftCore) -> None:
        self.term, self.voted_for = core.term, core.voted_for
        self.kept = RaftLog()
        self.kept.replace(self.snapshot[0], self.snapshot[1])
        if core.log.rest():
            self.kept.put(self.snapshot[0] + 1, core.log.rest())

    def _apply(self, core: RaftCore) -> None:
        while len(self.applied) < core.commit_index:
            entry = core.log.entry(len(self.applied) + 1)
            self.applied.append(entry.command)
            self.world.see_committed(self.own_id, len(self.applied), entry)

    def compact(self) -> None:
        core = self.core
        if core is not None and len(self.applied) > core.log.snapshot_index:
            term = core.log.term_at(len(self.applied))
            assert term is not None
            core.log.forget(len(self.applied))
            self.snapshot = (len(self.applied), term, tuple(self.applied))
            self._rewrite(core)


class World:
    """Three controllers and a network that loses, doubles and delays."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.on_the_way: list[tuple[str, str, object]] = []
        self.cut_off: set[str] = set()
        self.committed: dict[int, Entry] = {}
        self.leaders: dict[int, str] = {}
        self.proposed = 0
        self.nodes = {own_id: Node(self, own_id) for own_id in IDS}

    def say(self, sender: str, receiver: str, message: object) -> None:
        self.on_the_way.append((sender, receiver, message))

    def see_committed(self, own_id: str, index: int, entry: Entry) -> None:
        known = self.committed.setdefault(index, entry)
        assert known == entry, f"{own_id} applied {entry} as number {index}, another controller {known}"

    def deliver(self, *, position: int = 0, lose: bool = False, double: bool = False) -> None:
        if not self.on_the_way:
            return
        item = self.on_the_way.pop(position % len(self.on_the_way))
        sender, receiver, message = item
        if double:
            self.on_the_way.append(item)
        node = self.nodes[receiver]
        if lose or {sender, receiver} & self.cut_off or node.core is None:
            return
        node.core.receive(sender, message, self.now)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        for node in self.nodes.values():
            if node.core is not None:
                node.core.tick(self.now)

    def propose(self, own_id: str) -> None:
        core = self.nodes[own_id].core
        if core is not None and core.role is Role.LEADER:
            self.proposed += 1
            core.propose(b"c%d" % self.proposed)

    def check(self) -> None:
        for node in self.nodes.values():
            core = node.core
            if core is not None and core.role is Role.LEADER:
                leader = self.leaders.setdefault(core.term, node.own_id)
                assert leader == node.own_id, f"{leader} and {node.own_id} both lead in term {core.term}"
                for index, entry in self.committed.items():
                    known = core.log.term_at(index)
                    if self.leaders and core.term >= entry.term and index > core.log.snapshot_index:
                        assert known is not None or core.term < max(self.leaders), (
                            f"{node.own_id} leads in term {core.term} without the committed entry {index}"
                        )

    def settle(self) -> str:
        """Let everything work, and return the leader."""
        self.cut_off.clear()
        for node in self.nodes.values():
            if node.core is None:
                node.start()
        for _ in range(400):
            self.pass_time(0.05)
            for _ in range(200):
                for node in self.nodes.values():
                    node.work()
                if not self.on_the_way:
                    break
                self.deliver()
            leaders = [n for n in self.nodes.values() if n.core is not None and n.core.role is Role.LEADER]
            if len(leaders) == 1:
                core = leaders[0].core
                assert core is not None
                if core.commit_index == core.log.last_index and all(
                    len(node.applied) == core.commit_index for node in self.nodes.values()
                ):
                    return leaders[0].own_id
        raise AssertionError(
            f"no leader, or not all have everything, after 20 s: {[n.core for n in self.nodes.values()]}"
        )


STEP = st.one_of(
    st.tuples(st.just("time"), st.sampled_from([0.05, 0.3, 1.3, 2.5])),
    st.tuples(st.just("work"), st.sampled_from(IDS), st.sampled_from(["", "", "", "", "keep", "say"])),
    st.tuples(st.just("deliver"), st.integers(0, 5), st.sampled_from(["", "", "", "", "lose", "double"])),
    st.tuples(st.just("run"), st.integers(1, 12)),
    st.tuples(st.just("propose"), st.sampled_from(IDS)),
    st.tuples(st.just("restart"), st.sampled_from(IDS)),
    st.tuples(st.just("cut"), st.sampled_from([(), ("n0",), ("n1",), ("n2",)])),
    st.tuples(st.just("compact"), st.sampled_from(IDS)),
)


def play(world: World, steps: list[tuple]) -> None:
    for step in steps:
        match step:
            case ("time", seconds):
                world.pass_time(seconds)
            case ("work", own_id, death):
                world.nodes[own_id].work(dies_before_keeping=death == "keep", dies_before_saying=death == "say")
            case ("deliver", position, fate):
                world.deliver(position=position, lose=fate == "lose", double=fate == "double")
            case ("run", rounds):
                for _ in range(rounds):
                    for node in world.nodes.values():
                        node.work()
                    for _ in range(len(world.on_the_way)):
                        world.deliver()
            case ("propose", own_id):
                world.propose(own_id)
            case ("restart", own_id):
                world.nodes[own_id].crash()
                world.nodes[own_id].start()
            case ("cut", cut_off):
                world.cut_off = set(cut_off)
            case ("compact", own_id):
                world.nodes[own_id].compact()
        world.check()


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 1_000), steps=st.lists(STEP, max_size=120))
def test_whatever_is_lost_doubled_delayed_cut_off_or_restarted_nothing_committed_is_lost(seed, steps):
    world = World(seed)
    play(world, steps)
    committed = dict(world.committed)
    leader = world.settle()
    applied = world.nodes[leader].applied
    for index, entry in committed.items():
        assert applied[index - 1] == entry.command, f"entry {index} was committed, and is gone"
    assert all(node.applied == applied for node in world.nodes.values())


@pytest.mark.parametrize("seed", range(30))
def test_a_thousand_random_troubles_end_with_three_controllers_that_agree(seed):
    rng = random.Random(seed)
    world = World(seed)
    for _ in range(25):
        steps: list[tuple] = []
        for _ in range(40):
            kind = rng.random()
            own_id = rng.choice(IDS)
            if kind < 0.35:
                steps.append(("run", rng.randint(1, 4)))
            elif kind < 0.55:
                steps.append(("time", rng.choice([0.05, 0.2, 0.4, 1.3])))
            elif kind < 0.75:
                steps.append(("propose", own_id))
            elif kind < 0.85:
                steps.append(("deliver", rng.randint(0, 9), rng.choice(["", "lose", "double"])))
            elif kind < 0.90:
                steps.append(("work", own_id, rng.choice(["", "keep", "say"])))
            elif kind < 0.93:
                steps.append(("restart", own_id))
            elif kind < 0.96:
                steps.append(("cut", rng.choice([(), (own_id,)])))
            else:
                steps.append(("compact", own_id))
        play(world, steps)
        world.settle()
    assert len(world.committed) > 25, "hardly anything was committed: this run shows nothing"


def leader_of(world: World) -> Node:
    return world.nodes[world.settle()]


def test_a_new_leader_is_there_within_five_seconds_of_the_loss_of_the_old_one():
    times = defaultdict(list)
    for seed in range(50):
        world = World(seed)
        lost = leader_of(world)
        lost.crash()
        began = world.now
        while not any(n.core is not None and n.core.role is Role.LEADER for n in world.nodes.values()):
            play(world, [("time", 0.05), ("run", 3)])
            assert world.now - began < 5, f"seed {seed}"
        times["all"].append(world.now - began)
    print(f"a new leader after {min(times['all']):.2f} to {max(times['all']):.2f} s, 50 runs")


def test_a_leader_that_is_cut_off_steps_down_and_does_not_disturb_when_it_comes_back():
    world = World(7)
    old = leader_of(world)
    world.cut_off = {old.own_id}
    play(world, [("time", 0.2), ("run", 3)] * 25)
    assert old.core is not None and old.core.role is not Role.LEADER, "it would go on deciding alone"
    new = next(n for n in world.nodes.values() if n.core is not None and n.core.role is Role.LEADER)
    term = new.core.term
    play(world, [("time", 0.2), ("run", 3)] * 50)
    world.cut_off = set()
    play(world, [("time", 0.05), ("run", 3)] * 20)
    assert new.core.role is Role.LEADER and new.core.term == term, "a controller that came back overthrew the leader"
    assert old.core.leader == new.own_id


def test_a_vote_is_on_disk_before_it_is_told():
    world = World(1)
    voter = world.nodes["n1"]
    assert voter.core is not None
    voter.core.receive("n0", Vote(5, 0, 0, False), 10.0)
    voter.work(dies_before_saying=True)
    assert world.on_the_way == []
    voter.start()
    assert voter.core is not None
    voter.core.receive("n2", Vote(5, 0, 0, False), 11.0)
    voter.work()
    assert world.on_the_way == [("n1", "n2", VoteAnswer(5, False, False))], "it voted twice in one term"
    assert voter.voted_for == "n0"


def test_a_vote_goes_to_nobody_whose_log_is_behind():
    world = World(1)
    voter = world.nodes["n1"]
    assert voter.core is not None
    voter.core.receive("n0", Append(3, 0, 0, [Entry(2, b"a"), Entry(3, b"b")], 0), 1.0)
    voter.work()
    world.on_the_way.clear()
    for last_index, last_term, is_granted in ((1, 3, False), (9, 2, False), (2, 3, True)):
        voter.core.receive("n2", Vote(voter.core.term + 1, last_index, last_term, False), 1.0 + ELECTION_SECONDS[1])
        voter.work()
        *_, (_, _, answer) = world.on_the_way
        assert answer == VoteAnswer(voter.core.term, is_granted, False), (last_index, last_term)


def test_a_follower_far_behind_gets_the_state_and_goes_on_from_there():
    world = World(3)
    leader = leader_of(world)
    behind = next(node for node in world.nodes.values() if node is not leader)
    behind.crash()
    for _ in range(20):
        world.propose(leader.own_id)
        play(world, [("run", 3)])
    leader.compact()
    assert leader.core is not None and leader.core.log.rest() == []
    behind.start()
    world.settle()
    assert behind.applied == leader.applied
    assert behind.snapshot[0] >= 20, "it was not fed from a snapshot"


def test_a_late_answer_of_an_old_term_commits_nothing():
    world = World(4)
    leader = leader_of(world)
    core = leader.core
    assert core is not None
    world.propose(leader.own_id)
    leader.work()
    world.on_the_way.clear()
    before = core.commit_index
    peer = core.peers[0]
    core.receive(peer, AppendAnswer(core.term - 1, True, core.log.last_index), world.now)
    assert core.commit_index == before
    core.receive(peer, AppendAnswer(core.term, True, core.log.last_index), world.now)
    assert core.commit_index == before + 1


def test_entries_of_an_earlier_term_are_committed_only_with_one_of_the_own_term():
    """The trap of figure 8 in the paper: more than half have an old entry, and it can still be replaced."""
    world = World(5)
    core = world.nodes["n0"].core
    assert core is not None
    core.receive("n1", Append(2, 0, 0, [Entry(2, b"old")], 0), 1.0)
    world.nodes["n0"].work()
    core.tick(10.0)
    for is_trial in (True, False):
        core.receive("n1", VoteAnswer(3, True, is_trial), 10.0)
    assert core.role is Role.LEADER and core.term == 3 and core.log.last_index == 2
    world.nodes["n0"].work()
    core.receive("n1", AppendAnswer(3, True, 1), 10.1)
    assert core.commit_index == 0, "an old entry on two of three disks was called committed"
    core.receive("n1", AppendAnswer(3, True, 2), 10.2)
    assert core.commit_index == 2


def test_a_leader_counts_its_own_disk_only_when_the_entry_is_on_it():
    world = World(6)
    leader = leader_of(world)
    core = leader.core
    assert core is not None
    before = core.commit_index
    index, term = core.propose(b"not on disk yet")
    core.receive(core.peers[0], AppendAnswer(term, True, index), world.now)
    assert core.commit_index == before
    leader.work()
    assert core.commit_index == index


def test_a_state_that_is_older_than_the_log_does_not_cut_it():
    world = World(8)
    node = world.nodes["n1"]
    assert node.core is not None
    entries = [Entry(1, b"c%d" % number) for number in range(5)]
    node.core.receive("n0", Append(1, 0, 0, entries, 1), 1.0)
    node.work()
    node.core.receive("n0", Install(1, 3, 1, b"c0,c1,c2"), 1.1)
    node.work()
    assert node.core.log.last_index == 5, "entries that were reported to be on disk are gone"
    assert node.applied == [b"c0", b"c1", b"c2"]
