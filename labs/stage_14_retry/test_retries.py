"""Messages that fail come again, later and later, and end as dead letters."""

from __future__ import annotations

import asyncio
import itertools
import time
from pathlib import Path

import pytest

from labs.stage_11_rebalance.group_lab import GROUP, TOPIC, group_lab
from labs.stage_14_retry.retry_lab import DELAYS, FailingMember, count, stored
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.topic import dlq_topic

pytestmark = pytest.mark.virtual_time


@pytest.mark.claim("rty-01")
async def test_a_message_that_fails_comes_again_later_and_later_sixteen_times(
    tmp_path: Path, environment: Environment
) -> None:
    """Claim: a message whose consumption failed goes to the group's retry topic and comes again after a delay that grows.

    Experiment: the listener always fails; one message is sent, and the lab waits for five hours of virtual time.
    Observe: seventeen calls, with pauses of 10 s, 30 s, 1 min ... 2 h, then the message is a dead letter.
    """
    began = time.perf_counter()
    async with group_lab(tmp_path, environment) as lab:
        member = FailingMember(lab)
        async with member.consumer:
            await lab.send("poison")
            kernel = lab.cluster.kernels[0]
            await asyncio.sleep(sum(DELAYS) - 10)
            assert count(kernel, dlq_topic(GROUP)) == 0
            await asyncio.sleep(3 * 3_600)
        pauses = [later - earlier for earlier, later in itertools.pairwise(member.times("poison"))]
        assert [round(pause) for pause in pauses] == DELAYS
        (dead,) = stored(kernel, dlq_topic(GROUP))
    print(f"{sum(DELAYS) / 3_600 + 3:.1f} hours took {time.perf_counter() - began:.2f} s")
