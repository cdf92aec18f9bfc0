"""Verify: everything is read, nothing is changed, and what is wrong is named."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from labs.stage_04_recovery.recovery_lab import ROOT, SIZES, Machine, numbered
from rocketmq_py.common.environment import Environment
from rocketmq_py.sim.environment import run_inline
from rocketmq_py.store.config import MessageStoreConfig
from rocketmq_py.store.lock_file import StoreLockedError
from rocketmq_py.store.verify import VerifyReport, verify_store

CONFIG = MessageStoreConfig(**SIZES)


def verify(machine: Machine, **settings: bool) -> VerifyReport:
    environment = Environment(machine.clock, random.Random(1), machine.disk, run_inline)
    return verify_store(environment, ROOT, config=CONFIG, **settings)


async def filled(machine: Machine) -> list[int]:
    running = await machine.start()
    results = await running.write(numbered(0, 90))
    await running.write(["x"], topic="Other", queue_id=1)
    machine.disk.write_file(machine.path("config/topics.json"), b'{"table":{"a":{0:1,1:2}}}')
    await machine.stop()
    return [result.wrote_offset for result in results]


@pytest.mark.virtual_time
async def test_a_sound_store_is_counted_and_left_as_it_is() -> None:
    """Claim: verify reads all files, and changes none.

    Experiment: fill a store, stop, verify.
    Observe: no problem; every record, block, unit and index entry was counted; all files are as before.
    """
    machine = Machine()
    await filled(machine)
    before = machine.disk.snapshot(ROOT)

    report = verify(machine)

    assert (report.problems, report.notes) == ([], [])
    assert report.is_sound
    counts = report.counts
    assert (counts["records"], counts["queues"], counts["queue_units"], counts["index_entries"]) == (91, 2, 91, 91)
    assert counts["blank_records"] == counts["checked_blocks"] - 1 >= 2
    assert counts["tables"] == 1
    assert machine.disk.snapshot(ROOT) == before


def body(machine: Machine, borders: list[int]) -> str:
    machine.disk.flip_bit(machine.path("commitlog", f"{0:020d}"), borders[4] + 90, 2)
    return f"at byte {borders[4] + 90} "


def properties(machine: Machine, borders: list[int]) -> str:
    machine.disk.flip_bit(machine.path("commitlog", f"{0:020d}"), borders[5] + 112, 2)
    return f"at byte {borders[5] + 112} "


def missing_log_file(machine: Machine, borders: list[int]) -> str:
    machine.disk.unlink(machine.path("commitlog", f"{4096:020d}"))
    return "a file that begins at 4096"


def missing_end(machine: Machine, borders: list[int]) -> str:
    machine.disk.damage(machine.path("commitlog", f"{8192:020d}"), borders[-1] % 4096, bytes(200))
    return "records up to"


def queue_unit(machine: Machine, borders: list[int]) -> str:
    machine.disk.damage(machine.path("consumequeue/TopicTest/2", f"{200:020d}"), 20 + 7, b"\x01")
    return "(unit 11)"


def queue_end(machine: Machine, borders: list[int]) -> str:
    machine.disk.damage(machine.path("consumequeue/TopicTest/2", f"{1600:020d}"), 100, bytes(100))
    return "units up to 89, as the log has"


def queue_folder(machine: Machine, borders: list[int]) -> str:
    machine.disk.unlink(machine.path("consumequeue/Other/1", f"{0:020d}"))
    machine.disk.remove_directory(machine.path("consumequeue/Other/1"))
    return "no folder"


def index_entry(machine: Machine, borders: list[int]) -> str:
    name = machine.names("index")[0]
    machine.disk.damage(machine.path("index", name), 40 + 7 * 4 + 5 * 20 + 16, b"\x00\x00\x00\x09")
    return "entry 5"


def table(machine: Machine, borders: list[int]) -> str:
    machine.disk.write_file(machine.path("config/topics.json"), b'{"table":')
    return "config/topics.json"


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    "spoil",
    [body, properties, missing_log_file, missing_end, queue_unit, queue_end, queue_folder, index_entry, table],
    ids=lambda spoil: spoil.__name__,
)
async def test_each_kind_of_damage_is_named_with_its_place_and_a_next_step(
    spoil: Callable[[Machine, list[int]], str],
) -> None:
    """Claim: whatever is damaged, verify says where, what should be there, what is there, and what to do.

    Experiment: damage one thing; verify.
    Observe: a problem names it; nothing is changed by looking.
    """
    machine = Machine()
    borders = await filled(machine)
    part = spoil(machine, borders)
    before = machine.disk.snapshot(ROOT)

    report = verify(machine)

    assert not report.is_sound
    texts = [str(problem) for problem in report.problems]
    assert any(part in text for text in texts), texts
    assert all(problem.next_step and problem.expected and problem.found for problem in report.problems)
    assert machine.disk.snapshot(ROOT) == before


@pytest.mark.virtual_time
async def test_a_store_in_use_is_refused_and_one_that_crashed_is_explained() -> None:
    """Claim: verify keeps off a running broker; after a crash it tells what the next start will do.

    Experiment: verify while a store runs; kill it, with torn bytes behind its end; verify; start and verify again.
    Observe: refused; then sound, with a note; after a start and a stop no note is left.
    """
    machine = Machine()
    running = await machine.start()
    await running.write(numbered(0, 20))
    with pytest.raises(StoreLockedError, match="in use by process"):
        verify(machine)
    assert verify(machine, take_lock=False).is_sound
    await machine.kill()

    report = verify(machine)
    assert report.is_sound
    assert any("the next start recovers" in note for note in report.notes)

    await machine.start()
    await machine.stop()
    report = verify(machine)
    assert (report.problems, report.notes, report.counts["records"]) == ([], [], 20)
