"""The rows of the fault matrix that a group of brokers can suffer as processes, and what each mode promises for them.

A row is a function that brings a fault about, waits until it is over, and says when it was. The rows run one after the
other on one group under load; each has to find the group well and leave it well.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from labs.faults.fault_proxy import BOTH, Way
from labs.faults.group import Group
from labs.faults.history import Outcome

#: Seconds that an ordinary fault lasts.
LASTS = 1.0
#: Seconds that a process stands still: longer than `slaveTimeout`, 3 s. The long campaign takes the matrix's 30.
PAUSE = float(os.environ.get("RMQ_FAULT_PAUSE", "4"))
#: Seconds for which each broker of a group with a controller is away when all are restarted, and the longest time without
#: an acknowledgement meanwhile: the matrix's 2 s, with room for a machine that is busy.
ROLLING_AWAY = 4.0
ROLLING_GAP = 3.0
#: Of all packets, with a network that is bad, and with one that is worse than it should be; what the second one leaves of
#: the rate of sends.
LOSS = 0.2
LITTLE_LOSS = 0.05
RATE_KEPT = 0.3


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the matrix.

    Attributes:
        number: in reliability.md 2.2.
        fault: in words.
        inflict: brings it about and returns when it is over.
        back_seconds: longest time from its end to the next acknowledgement.
        gap_seconds: longest time without an acknowledgement from its beginning on; None: as long as it lasts.
        refuses_doubt: whether sends that had no sure answer are against the promise.
    """

    number: int
    fault: str
    inflict: Callable[[Group], Awaitable[None]]
    back_seconds: float
    gap_seconds: float | None = None
    refuses_doubt: bool = False


async def stop_master(group: Group) -> None:
    """Row 3: SIGTERM; a controlled group has another master soon, others wait for its return."""
    master = await group.master()
    await group.stop(master)
    if group.is_controlled:
        await group.master(other_than=master)
    await group.start(master)


async def kill_master(group: Group) -> None:
    """Row 4: SIGKILL; everything acknowledged can be read from a slave meanwhile, if the master waited for it."""
    master = await group.master()
    await group.kill(master)
    if group.is_controlled:
        await group.master(other_than=master)
    else:
        await asyncio.sleep(LASTS)
    await group.start(master)


async def kill_slave(group: Group) -> None:
    """Row 4, the other side."""
    slave = group.slaves_of(await group.master())[0]
    await group.kill(slave)
    await asyncio.sleep(LASTS)
    await group.start(slave)


async def pause_master(group: Group) -> None:
    """Row 5: SIGSTOP for longer than senders wait; a controlled group elects another, and the woken one obeys."""
    master = await group.master()
    group.pause(master)
    try:
        if group.is_controlled:
            await group.master(other_than=master)
        await asyncio.sleep(PAUSE)
    finally:
        group.resume(master)


async def pause_slave(group: Group) -> None:
    """Row 5, the other side."""
    slave = group.slaves_of(await group.master())[0]
    group.pause(slave)
    try:
        await asyncio.sleep(PAUSE)
    finally:
        group.resume(slave)


def cut_replication(*ways: Way) -> Callable[[Group], Awaitable[None]]:
    """Rows 19 and 21: nothing passes between master and slaves, or nothing one way; nobody is elected because of that."""

    async def inflict(group: Group) -> None:
        master = await group.master()
        ha = group.links[master].ha
        ha.cut(*ways)
        await asyncio.sleep(LASTS)
        ha.heal()
        assert await group.master() == master, "a cut between replicas deposed the master"

    return inflict


def isolate_master(out: Sequence[Way], ha: Sequence[Way]) -> Callable[[Group], Awaitable[None]]:
    """Rows 20 and 21: the master is cut off from everybody but some clients, which go on asking it.

    The clients' own way stays open, so that an acknowledgement by the wrong master would be seen.

    Args:
        out: what is cut of the links that it opened, to name server and controllers.
        ha: what is cut of those that its slaves opened.
    """

    async def inflict(group: Group) -> None:
        master = await group.master()
        links = group.links[master]
        links.ha.cut(*ha)
        for proxy in links.out:
            proxy.cut(*out)
        try:
            elected = await group.master(other_than=master)
            assert not await group.is_acknowledged_by(master), "two masters acknowledge"
        finally:
            for proxy in (links.ha, *links.out):
                proxy.heal()
        await group.settled_under_load()
        assert await group.master() == elected, "the mastership moved again when the network was whole"

    return inflict


async def isolate_master_with_leader(group: Group) -> None:
    """Row 20: the controllers' leader is cut off together with the master, the way between the two and the clients' way
    stay open. Two controllers and two replicas are the greater part: only they may go on.
    """
    master, leader = await group.master(), await group.leader()
    links, leads_to = group.links[master], group.cluster.member(leader).address
    lost = {links.ha, *links.out, *group.around(leader)} - {way for way in links.out if way.target == leads_to}
    for proxy in lost:
        proxy.cut()
    try:
        await group.master(other_than=master)
        assert not await group.is_acknowledged_by(master), "two masters acknowledge"
    finally:
        for proxy in lost:
            proxy.heal()


async def delay_everything(group: Group) -> None:
    """Row 22: 100 +- 50 ms on every link; nobody is elected because of that."""
    master = await group.master()
    for proxy in group.proxies:
        proxy.delay(0.1, 0.05)
    await asyncio.sleep(3 * LASTS)
    for proxy in group.proxies:
        proxy.delay(0.0)
    assert await group.master() == master, "a delay deposed the master"


@contextmanager
def losing(group: Group, share: float) -> Iterator[None]:
    """Lose a share of all packets on every link, for as long as the block lasts."""
    before = sum(proxy.lost for proxy in group.proxies)
    for proxy in group.proxies:
        proxy.lose(share)
    try:
        yield
    finally:
        for proxy in group.proxies:
            proxy.lose(0.0)
    lost = sum(proxy.lost for proxy in group.proxies) - before
    assert lost > 20, f"{lost} packets were lost"


async def lose_much(group: Group) -> None:
    """Row 22: a fifth of all packets is lost on every link, and sent again by TCP."""
    with losing(group, LOSS):
        await asyncio.sleep(5 * LASTS)


async def lose_little(group: Group) -> None:
    """Row 22: one packet of twenty is lost on every link; senders with many sends under way keep a part of their rate."""
    whole = await group.rate(2 * LASTS)
    with losing(group, LITTLE_LOSS):
        rate = await group.rate(6 * LASTS)
    print(f"{rate:.0f} sends a second with packets lost, {whole:.0f} with none: {rate / whole:.2f}")
    assert rate >= RATE_KEPT * whole


async def reset_everything(group: Group) -> None:
    """Row 23: every connection of the group is reset, three times in three seconds."""
    for _ in range(3):
        for proxy in group.proxies:
            proxy.reset()
        await asyncio.sleep(LASTS)


async def half_open_replication(group: Group) -> None:
    """Row 24: the slave is silent and its connection stays open; the master finds out within `haHousekeepingInterval`."""
    ha = group.links[await group.master()].ha
    before = ha.counts["connections"]
    ha.cut()
    await asyncio.sleep(3 * LASTS + 1)
    ha.heal()
    deadline = group.clock() + 20
    while ha.counts["connections"] == before:
        assert group.clock() < deadline, "the dead connection was not given up"
        await asyncio.sleep(0.05)


def spoil_replication(what: str) -> Callable[[Group], Awaitable[None]]:
    """Bytes of the log change or go on their way to a slave: noticed, and fetched again."""

    async def inflict(group: Group) -> None:
        ha = group.links[await group.master()].ha
        before = ha.counts["connections"]
        if what == "flip":
            # In a body: that is what a record's checksum covers.
            ha.flip(Way.BACK, inside=b"x" * 30)
        else:
            ha.drop(Way.BACK, 7)
        deadline = group.clock() + 20
        while ha.counts["connections"] == before:
            assert group.clock() < deadline, f"spoiled bytes were not noticed\n{group.said()}"
            await asyncio.sleep(0.05)

    return inflict


async def kill_leader(group: Group) -> None:
    """Row 26: the leader of the controllers is gone; sends go on, and the others soon have another leader."""
    leader = await group.leader()
    await group.kill(leader)
    began = group.clock()
    await group.leader(other_than=leader)
    took = group.clock() - began
    assert took <= 5.0, f"the controllers had no leader for {took:.1f} s"
    await asyncio.sleep(LASTS)
    assert group.history.count(began)[Outcome.ACKNOWLEDGED.value], "sends depend on the controllers"
    await group.start(leader)


async def kill_leader_and_master(group: Group) -> None:
    """Rows 26 and 4 at once: the two that are left elect a leader, and that one a master."""
    leader, master = await group.leader(), await group.master()
    await group.kill(leader)
    await group.kill(master)
    await group.master(other_than=master)
    await group.start(leader)
    await group.start(master)


async def stop_most_controllers(group: Group) -> None:
    """Row 26: one controller of three is no quorum; nobody is elected, and the running master goes on."""
    names = [member.name for member in group.cluster.members if member.name.startswith("controller-")]
    for name in names[:2]:
        await group.kill(name)
    began = group.clock()
    await asyncio.sleep(3 * LASTS)
    assert group.history.count(began)[Outcome.ACKNOWLEDGED.value], "sends depend on the controllers"
    for name in names[:2]:
        await group.start(name)


async def replace_slave(group: Group) -> None:
    """Row 32: a slave comes back with an empty disk, and gets everything."""
    slave = group.slaves_of(await group.master())[0]
    await group.kill(slave)
    group.empty(slave)
    await group.start(slave)
    await group.settled_under_load()


async def roll(group: Group) -> None:
    """Row 33: every broker is stopped in order and started again, one after the other, each when the last has caught up.

    With a controller "caught up" is "in the sync-state set": a master that is alone in it has nobody to hand over to. A
    broker is away for longer than the others may wait for it.
    """
    for name in sorted(group.links):
        is_master, began = name == await group.master(), group.clock()
        await group.stop(name)
        if group.is_controlled:
            await asyncio.sleep(ROLLING_AWAY)
            if is_master:
                await group.master(other_than=name)
        await group.start(name)
        await group.master()
        await group.settled_under_load()
        gap = group.history.longest_gap(began, group.clock())
        if group.is_controlled:
            assert gap <= ROLLING_GAP, f"nothing was acknowledged for {gap:.1f} s when {name} was restarted"


#: Rows of a master with fixed role and one slave. The time without acknowledgements is bounded where the row says so.
FIXED = (
    Row(3, "master stopped in order and started", stop_master, 10),
    Row(4, "master killed and started", kill_master, 10),
    Row(4, "slave killed and started", kill_slave, 10),
    Row(5, "master paused", pause_master, 5),
    Row(5, "slave paused", pause_slave, 5),
    Row(19, "replication cut", cut_replication(*BOTH), 5),
    Row(21, "replication cut one way, log to slave", cut_replication(Way.BACK), 5),
    Row(21, "replication cut one way, reports to master", cut_replication(Way.FORTH), 5),
    Row(22, "every link 100 +- 50 ms slower", delay_everything, 5),
    Row(22, "one packet of twenty lost", lose_little, 5),
    Row(22, "a fifth of all packets lost", lose_much, 10),
    Row(23, "every connection reset, 3 times", reset_everything, 5),
    Row(24, "replication half open", half_open_replication, 10),
    Row(24, "a bit flipped on the way to the slave", spoil_replication("flip"), 10),
    Row(24, "7 bytes lost on the way to the slave", spoil_replication("drop"), 10),
    Row(32, "the slave replaced by an empty one", replace_slave, 10),
    Row(33, "all brokers restarted, one after the other", roll, 10),
)

#: Rows of three replicas and a controller; `gap_seconds` is F of the matrix, with room for a machine that is busy.
CONTROLLED = (
    Row(3, "master stopped in order, returns", stop_master, 10, gap_seconds=12),
    Row(4, "master killed, returns", kill_master, 10, gap_seconds=16),
    Row(4, "slave killed, returns", kill_slave, 10, gap_seconds=16),
    Row(5, "master paused until another is elected", pause_master, 10, gap_seconds=16),
    Row(19, "replication cut", cut_replication(*BOTH), 10),
    Row(20, "master cut off from replicas and controllers", isolate_master(BOTH, BOTH), 10, gap_seconds=16),
    Row(20, "master and leader of the controllers cut off", isolate_master_with_leader, 10, gap_seconds=16),
    Row(21, "replication cut one way, log to slaves", cut_replication(Way.BACK), 10),
    Row(21, "replication cut one way, reports to master", cut_replication(Way.FORTH), 10),
    Row(21, "nothing arrives that the master sends", isolate_master([Way.FORTH], [Way.BACK]), 10, gap_seconds=16),
    Row(22, "every link 100 +- 50 ms slower", delay_everything, 10),
    Row(22, "one packet of twenty lost", lose_little, 10),
    Row(22, "a fifth of all packets lost", lose_much, 10, gap_seconds=16),
    Row(23, "every connection reset, 3 times", reset_everything, 10),
    Row(24, "replication half open", half_open_replication, 10),
    Row(24, "a bit flipped on the way to a slave", spoil_replication("flip"), 16),
    Row(24, "7 bytes lost on the way to a slave", spoil_replication("drop"), 16),
    Row(26, "leader of the controllers killed, returns", kill_leader, 10),
    Row(26, "leader and master killed at once, return", kill_leader_and_master, 16, gap_seconds=25),
    Row(26, "two of three controllers killed, return", stop_most_controllers, 10),
    Row(32, "a slave replaced by an empty one", replace_slave, 16, gap_seconds=16),
    Row(33, "all brokers restarted, one after the other", roll, 10),
)
