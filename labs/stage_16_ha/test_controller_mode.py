"""Brokers whose roles a controller assigns."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from rocketmq_py.broker.ha.controller.replicas_manager import Standing
from rocketmq_py.common.environment import Environment

from .autoswitch_lab import autoswitch_lab, names_of, replication, standing


@pytest.mark.claim("ha-03")
@pytest.mark.virtual_time
async def test_a_fail_over_loses_nothing_that_all_in_sync_replicas_had(
    tmp_path: Path, environment: Environment
) -> None:
    """Claim: controller mode does switch, losing nothing that all in-sync replicas had.

    Experiment: three brokers, 50 messages acknowledged, the master stops.
    Observe: another broker is master within the controller's patience, has the 50, and takes the next ones.
    """
    async with autoswitch_lab(tmp_path, environment) as lab:
        master = await lab.settled()
        results = [await lab.put(master, f"message {number}") for number in range(50)]
        assert names_of(results) == ["PUT_OK"] * 50

        began = asyncio.get_running_loop().time()
        await lab.stop(lab.name_of(master))
        successor = await lab.settled(2)

        assert asyncio.get_running_loop().time() - began < 8, "the fail-over took longer than promised"
        assert standing(successor) is Standing.MASTER and successor is not master
        assert lab.bodies(successor) == [f"message {number}" for number in range(50)]
        assert (await lab.put(successor, "next")).status.name == "PUT_OK"
        assert lab.read(successor) == [*(f"message {number}" for number in range(50)), "next"]
        assert [epoch.number for epoch in replication(successor).epochs.epochs] == [1, 2]
