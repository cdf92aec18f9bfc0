"""The load test of replication runs from beginning to end; what synchronous double write costs is measured here."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import pytest

from loadtests.replication import measure

pytestmark = pytest.mark.serial


@pytest.mark.claim("ha-07")
def test_synchronous_double_write_costs_a_part_of_the_throughput() -> None:
    """Claim: synchronous replication costs 20-30 % of throughput.

    Experiment: 64 connections send to an ASYNC_MASTER and to a SYNC_MASTER with inSyncReplicas=2, a slave attached to each,
    in turn; the median of the ratios counts. `python -m loadtests.replication` does it at length.
    Observe: it costs something, and less than most of it. The figure of a long run on an idle machine is in the chapter.
    """
    with tempfile.TemporaryDirectory() as folder:
        figures = measure.measure_double_write(measure.Sends(Path(folder)), 0.5, 3)
    print(figures)
    ratio = statistics.median(figures["double_write_ratio"])
    assert 0.3 < ratio < 1.3, "is a slave attached to both, and are both loads the same?"


def test_a_slave_catches_up_while_its_master_is_busy() -> None:
    with tempfile.TemporaryDirectory() as folder, measure.pair() as brokers:
        figures = measure.measure_catch_up(brokers, measure.Sends(Path(folder)), 30_000_000, 0.5)
    print(figures)
    assert figures["idle_mb_per_second"] > 0
    assert figures["busy_mb_per_second"] > 0
    assert figures["sends_kept"] > 0, "no send was answered while the slave caught up"
