"""The scrub: reads old blocks of the log, a few each second, so that damage is found before somebody needs the message.

A disk loses a bit in a file that nobody has read for weeks, and the replica that could repair it is retired the day before
the message is asked for. Reading everything again and again, slowly, finds it while there is something to copy from.
"""

from __future__ import annotations

import logging
from itertools import islice
from typing import Final

from rocketmq_py.common.environment import Environment
from rocketmq_py.store.block_checks import BlockChecks, Damage

logger = logging.getLogger(__name__)

#: Seconds between two steps.
STEP_SECONDS: Final = 1.0
#: Blocks of 64 KiB read in one step: 1 MiB a second, a file of 1 GiB in 17 minutes.
BLOCKS_PER_STEP: Final = 16


class Scrub:
    """Checks the blocks of the log in turn.

    Attributes:
        passes: how often it came to the end of the log.
        blocks: how many blocks were checked.
        damaged_blocks: how many of them were found damaged in this pass.
    """

    def __init__(self, checks: BlockChecks, environment: Environment) -> None:
        self.passes = 0
        self.blocks = 0
        self.damaged_blocks = 0
        self._checks = checks
        self._environment = environment
        self._next = 0

    async def step(self) -> None:
        """Check the next few blocks, in a thread; damage is logged with its place."""
        checked = await self._environment.run_blocking(self._check, self._next)
        self.blocks += len(checked)
        self.damaged_blocks += sum(bool(damages) for _, damages in checked)
        if checked:
            self._next = checked[-1][0] + 1
            return
        if self._next:
            logger.info("scrub: all blocks of the log were read, %d are damaged", self.damaged_blocks)
            self.passes += 1
        self._next = self.damaged_blocks = 0

    def _check(self, start: int) -> list[tuple[int, tuple[Damage, ...]]]:
        blocks = (block for block in self._checks.covered(start) if block >= start)
        return [(block, self._checks.check(block)) for block in islice(blocks, BLOCKS_PER_STEP)]

    def __repr__(self) -> str:
        return f"<Scrub {self.blocks} blocks, {self.passes} passes, next from {self._next}>"
