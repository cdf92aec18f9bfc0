"""The tables beside the log: small JSON files that a crash leaves in the old version or the new, never in neither."""

from __future__ import annotations

import logging
import random

import pytest

from labs.stage_04_recovery.recovery_lab import DyingFiles
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.errors import CorruptDataError
from rocketmq_py.common.table import Table
from rocketmq_py.sim.environment import SimulatedClock, run_inline
from rocketmq_py.sim.file_system import Personality, SimulatedFileSystem

PATH = "/srv/store/config/consumerOffset.json"


class Offsets:
    """A table's content: one number."""

    def __init__(self, disk: SimulatedFileSystem, changes: int = 1 << 30) -> None:
        self.value = 0
        self.files = DyingFiles(disk, changes)
        environment = Environment(SimulatedClock(), random.Random(1), self.files, run_inline)  # type: ignore[arg-type]
        self.table = Table(PATH, self._encode, self._decode, environment)

    def _encode(self) -> bytes:
        return f'{{"offset": {self.value}}}'.encode()

    def _decode(self, data: bytes) -> None:
        text = data.decode()
        if not (text.startswith('{"offset": ') and text.endswith("}")):
            raise ValueError(f"no offset in {text!r}")
        self.value = int(text[11:-1])

    def persist(self, value: int) -> None:
        self.value = value
        self.table.mark_dirty()
        self.table.persist()


@pytest.mark.virtual_time
@pytest.mark.parametrize("personality", list(Personality), ids=lambda personality: personality.value)
@pytest.mark.parametrize("keep", [0.0, 0.5, 1.0])
async def test_a_table_survives_a_power_cut_at_any_step_of_its_writing(personality: Personality, keep: float) -> None:
    """Claim: a table is replaced by a rename, and the version before stays as `.bak`.

    Experiment: persist 100 and 200; let the third write die at its first change of the disk, its second, and so on; cut
    the power; load.
    Observe: 200 or 300 is loaded; never 100, never nothing.
    """
    values = []
    for changes in range(20):
        disk = SimulatedFileSystem(SimulatedClock(), personality=personality)
        offsets = Offsets(disk)
        offsets.persist(100)
        offsets.persist(200)
        disk.sync_directory("/srv/store/config")
        disk.sync_directory("/srv/store")
        disk.sync_directory("/srv")
        disk.sync_directory("/")
        offsets.files.changes_left = changes
        died = False
        try:
            offsets.persist(300)
        except OSError:
            died = True
        disk.crash(random.Random(changes), keep=keep)

        again = Offsets(disk)
        assert again.table.load(), f"after {changes} changes nothing is there"
        values.append(again.value)
        assert again.value in (200, 300), f"after {changes} changes"
        if not died:
            assert again.value == 300
            break
    assert 200 in values
    print(values)


@pytest.mark.virtual_time
@pytest.mark.parametrize("damage", [b"", b"   ", b'{"offset": 3', b"\0" * 16], ids=["empty", "blank", "torn", "zeros"])
async def test_a_damaged_table_falls_back_to_its_backup_and_says_so(
    damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Claim: a table that cannot be read is replaced by its backup, with a warning that names the file."""
    disk = SimulatedFileSystem(SimulatedClock())
    offsets = Offsets(disk)
    offsets.persist(100)
    offsets.persist(200)
    disk.write_file(PATH, damage)

    again = Offsets(disk)
    with caplog.at_level(logging.WARNING):
        assert again.table.load()

    assert again.value == 100
    assert PATH in caplog.text
    assert "backup was loaded" in caplog.text


@pytest.mark.virtual_time
async def test_a_table_without_a_readable_version_stops_the_start() -> None:
    """Claim: an unreadable table is never taken for an empty one: that would reset every consumer's progress.

    Experiment: damage both versions; load. Then remove both; load.
    Observe: the first is refused, with the file, what is wrong with each version and what to do; the second is a first
    start.
    """
    disk = SimulatedFileSystem(SimulatedClock())
    offsets = Offsets(disk)
    offsets.persist(100)
    offsets.persist(200)
    disk.write_file(PATH, b'{"offset": 2')
    disk.write_file(PATH + ".bak", b"")

    again = Offsets(disk)
    with pytest.raises(CorruptDataError) as caught:
        again.table.load()
    for part in (PATH, "consumerOffset.json.bak: the file is empty", "Restore the file from a copy, or remove it"):
        assert part in str(caught.value)
    assert again.value == 0

    disk.unlink(PATH)
    disk.unlink(PATH + ".bak")
    assert not Offsets(disk).table.load()
