"""The fault matrix with real processes: faults one after the other on a group under load, then the reckoning."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from labs.faults.group import Group, running_group
from labs.faults.matrix import CONTROLLED, FIXED, Row
from labs.kill.broker_process import QUEUES

#: How often all rows run, in a new order each time; the first round is in the order of the matrix.
ROUNDS = int(os.environ.get("RMQ_FAULT_ROUNDS", "1"))
pytestmark = [pytest.mark.serial, pytest.mark.timeout(240 + 240 * ROUNDS)]

ASYNC = {"flushDiskType": "ASYNC_FLUSH"}
SYNC = {"flushDiskType": "SYNC_FLUSH"}


async def run_rows(group: Group, rows: Sequence[Row]) -> None:
    """Inflict the rows on the group under load, and print what each did to it."""
    rng = random.Random(5)
    print(f"\n{'row':>3}  {'fault':<68} {'s':>6} {'gap s':>6} {'back s':>6}  acknowledged/unknown/refused")
    async with group.load():
        await group.acknowledged_again(group.clock(), 20)
        for round_ in range(ROUNDS):
            for row in rows if round_ == 0 else rng.sample(rows, len(rows)):
                await group.settled_under_load()
                began = group.clock()
                await row.inflict(group)
                over = group.clock()
                back = await group.acknowledged_again(over, row.back_seconds)
                gap = group.history.longest_gap(began, group.clock())
                count = group.history.count(began)
                ends = "/".join(str(count[key]) for key in ("acknowledged", "unknown", "refused"))
                print(f"{row.number:>3}  {row.fault:<68} {over - began:>6.1f} {gap:>6.2f} {back:>6.2f}  {ends}")
                if row.gap_seconds is not None:
                    assert gap <= row.gap_seconds, f"{row.fault}: no send was acknowledged for {gap:.1f} s"


async def problems_at(group: Group, name: str, seconds: float = 5.0) -> list[str]:
    """Compare what a broker serves with what was sent; a slave may still build its queues."""
    deadline = group.clock() + seconds
    while True:
        queues = await group.read(name)
        problems = [problem for queue in range(QUEUES) for problem in group.history.problems(queue, queues[queue])]
        if not problems or group.clock() > deadline:
            return problems
        await asyncio.sleep(0.2)


async def reckon(group: Group) -> None:
    """Nothing acknowledged is lost, nothing refused is there, nothing is there twice or out of order, on any replica."""
    await group.settled()
    for name in group.links:
        problems = await problems_at(group, name)
        assert problems == [], f"at {name}: {problems}\n{group.said()}"
    master = await group.master()
    for name in [*group.slaves_of(master), master]:
        await group.stop(name)
    logs = {name: group.log_files(name) for name in group.links}
    for name in group.slaves_of(master):
        common = logs[master].keys() & logs[name].keys()
        assert common, f"{name} has no file of the log in common with {master}"
        different = [file for file in common if logs[master][file] != logs[name][file]]
        assert different == [], f"{name} differs from {master} in {different}"
    count = group.history.count()
    size = sum(map(len, logs[master].values()))
    print(f"     {dict(count)}; the logs of {len(logs)} replicas are equal, {size >> 20} MiB")
    assert count["acknowledged"] > 100


@pytest.mark.parametrize(
    ("topology", "settings"),
    [("2m-2s-async", ASYNC), ("2m-2s-sync", SYNC)],
    ids=["AR", "SR"],
)
async def test_a_master_and_its_slave_lose_nothing_under_any_row(
    tmp_path: Path, topology: str, settings: dict[str, str]
) -> None:
    """Claim: whatever happens to processes and links, nothing acknowledged is lost, nothing refused appears, and order
    stays - with asynchronous copying as long as the master itself returns, as it does here.

    Experiment: rows 3 to 5, 19 to 24, 32 and 33 of the fault matrix on a master and a slave, under load.
    Observe: after each fault sends are acknowledged again within its limit. In the end both replicas hold all that was
        acknowledged, each message once, and their logs are byte-identical.
    """
    async with running_group(tmp_path / "cluster", topology, names="broker-a", **settings) as group:
        await run_rows(group, FIXED)
        await reckon(group)


async def test_three_replicas_and_three_controllers_lose_nothing_and_go_on(tmp_path: Path) -> None:
    """Claim: in controller mode a group goes on without its master, and nothing acknowledged is lost with it.

    Experiment: rows 3 to 5, 19 to 24, 26, 32 and 33 on three replicas and three controllers, under load that
        follows the master.
    Observe: another master acknowledges within the limit while the old one is gone, paused or cut off; what the old one
        had beyond is cut when it returns. In the end all three logs are byte-identical.
    """
    async with running_group(tmp_path / "cluster", "controller-3n") as group:
        await run_rows(group, CONTROLLED)
        await reckon(group)
