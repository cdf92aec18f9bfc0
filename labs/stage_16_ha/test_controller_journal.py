"""What a controller has confirmed is on its disk: cuts at every byte, faults, damage, and the file that is replaced."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from rocketmq_py.common.errors import CorruptDataError
from rocketmq_py.common.file_system import AlreadyLockedError
from rocketmq_py.controller.alone import AloneConsensus
from rocketmq_py.controller.consensus import NotLeaderError
from rocketmq_py.controller.journal import Journal, split_frames
from rocketmq_py.sim.environment import simulated_environment
from rocketmq_py.sim.file_system import Fault, SimulatedFileSystem

pytestmark = [pytest.mark.virtual_time]

FOLDER = "/store/controller-n0"


class Words:
    """A state machine that remembers every word."""

    def __init__(self) -> None:
        self.words: list[bytes] = []

    def apply(self, command: bytes) -> int:
        self.words.append(command)
        return len(self.words)

    def snapshot(self) -> bytes:
        return b" ".join(self.words)

    def restore(self, data: bytes) -> None:
        self.words = data.split(b" ") if data else []


async def started(disk: SimulatedFileSystem, **settings: Any) -> tuple[AloneConsensus, Words]:
    """A controller alone on a disk."""
    environment = simulated_environment(0, disk)
    words = Words()
    consensus = AloneConsensus("n0", words, Journal(FOLDER, environment), environment, **settings)
    await consensus.start()
    return consensus, words


async def test_what_was_confirmed_survives_a_power_cut_at_any_moment():
    for seed in range(40):
        disk = SimulatedFileSystem()
        consensus, _ = await started(disk, compact_size=200)
        confirmed: list[bytes] = []

        async def talk(consensus=consensus, confirmed=confirmed) -> None:
            for number in range(100):
                word = b"word%d" % number
                assert await consensus.propose(word) == number + 1
                confirmed.append(word)

        task = asyncio.get_running_loop().create_task(talk())
        for _ in range(seed * 7 % 300):
            await asyncio.sleep(0)
        disk.crash(random.Random(seed))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

        again, words = await started(disk)
        assert words.words[: len(confirmed)] == confirmed, f"seed {seed}"
        assert len(words.words) <= len(confirmed) + 1, "at most the command under way may be there as well"
        await again.stop()


async def test_commands_come_back_in_order_and_the_journal_stays_small():
    disk = SimulatedFileSystem()
    consensus, words = await started(disk, compact_size=500)
    said = [b"w%d" % number for number in range(300)]
    answers = await asyncio.gather(*(consensus.propose(word) for word in said))
    assert answers == list(range(1, 301))
    assert disk.stat(f"{FOLDER}/journal").size < 600
    await consensus.stop()
    again, found = await started(disk)
    assert found.words == said == words.words
    await again.stop()


async def test_a_crash_between_snapshot_and_journal_applies_nothing_twice():
    disk = SimulatedFileSystem()
    consensus, words = await started(disk, compact_size=100)
    disk.faults.append(Fault("rename", "journal.tmp"))
    said = 0
    with pytest.raises(OSError):
        while True:
            await consensus.propose(b"w%d" % said)
            said += 1
    assert disk.exists(f"{FOLDER}/snapshot") and disk.stat(f"{FOLDER}/journal").size > 0
    disk.crash(random.Random(1))
    again, found = await started(disk)
    assert found.words == words.words == [b"w%d" % number for number in range(said + 1)]
    await again.stop()


async def test_a_failed_fsync_ends_the_lead_for_good():
    disk = SimulatedFileSystem()
    consensus, words = await started(disk)
    seen: list[bool] = []
    consensus.on_leadership.append(seen.append)
    await consensus.propose(b"kept")
    disk.faults.append(Fault("fdatasync", "journal"))
    with pytest.raises(OSError):
        await consensus.propose(b"lost")
    assert words.words == [b"kept"] and not consensus.is_leader and seen == [False]
    with pytest.raises(NotLeaderError):
        await consensus.propose(b"more")
    await consensus.stop()


async def test_a_proposal_that_is_given_up_is_applied_before_the_next():
    disk = SimulatedFileSystem()
    consensus, words = await started(disk)
    task = asyncio.get_running_loop().create_task(consensus.propose(b"first"))
    await asyncio.sleep(0)
    task.cancel()
    await consensus.propose(b"second")
    assert words.words in ([b"first", b"second"], [b"second"])
    await consensus.stop()
    _, found = await started(disk)
    assert found.words == words.words, "memory and disk tell different stories"


async def test_two_controllers_do_not_share_a_folder():
    disk = SimulatedFileSystem()
    consensus, _ = await started(disk)
    with pytest.raises(AlreadyLockedError):
        await started(disk)
    await consensus.stop()


async def test_half_a_frame_is_cut_off_and_a_damaged_one_in_the_middle_stops_the_start():
    disk = SimulatedFileSystem()
    consensus, _ = await started(disk)
    for word in (b"one", b"two", b"three"):
        await consensus.propose(word)
    await consensus.stop()
    whole = disk.read_file(f"{FOLDER}/journal")
    ends = [0]
    while ends[-1] < len(whole):
        ends.append(ends[-1] + 8 + int.from_bytes(whole[ends[-1] : ends[-1] + 4], "little"))

    for size in range(len(whole)):
        payloads, end = split_frames(whole[:size], "journal")
        assert end == max(known for known in ends if known <= size) and len(payloads) == ends.index(end)

    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 0x55
        if at < ends[-2]:
            with pytest.raises(CorruptDataError, match="journal at byte"):
                split_frames(bytes(damaged), "journal")
        else:
            assert split_frames(bytes(damaged), "journal") == (split_frames(whole, "journal")[0][:-1], ends[-2])


async def test_a_snapshot_that_is_damaged_stops_the_start(tmp_path):
    environment = simulated_environment()
    folder = tmp_path / "controller-n0"
    words = Words()
    consensus = AloneConsensus("n0", words, Journal(str(folder), environment), environment, compact_size=1)
    await consensus.start()
    await consensus.propose(b"word")
    await consensus.stop()
    data = bytearray((folder / "snapshot").read_bytes())
    data[-1] ^= 1
    (folder / "snapshot").write_bytes(data)
    again = AloneConsensus("n0", Words(), Journal(str(folder), environment), environment)
    with pytest.raises(CorruptDataError, match="snapshot"):
        await again.start()
