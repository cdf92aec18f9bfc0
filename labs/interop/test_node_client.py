"""The Node client against our name server and broker."""

from __future__ import annotations

from pathlib import Path

import pytest

from .other_clients import node_client
from .share_queues import produce_and_share

pytestmark = [pytest.mark.interop, pytest.mark.serial, pytest.mark.timeout(600)]

MESSAGES = 1_000


async def test_two_consumers_of_the_node_client_share_the_queues_and_lose_nothing(tmp_path: Path) -> None:
    """Claim: programs written with the Node client run against these servers unchanged.

    Experiment: two push consumers of one group, each in a process of its own, share a topic of 4 queues; a producer
        sends 1,000 messages.
    Observe: every message arrives, the offsets of each queue leave no gap, and both consumers have their share.
    """
    await produce_and_share(tmp_path, node_client(), MESSAGES)
