"""Everything at once: random histories of puts, kills, power cuts, full disks, restarts and clocks that jump."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from labs.stage_04_recovery.recovery_lab import RunningStore
from labs.stage_13_delay.delay_lab import DelayMachine, delayed, delivered, stored
from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.broker.schedule.delay_levels import DelayLevels
from rocketmq_py.broker.schedule.schedule_message_service import ScheduleMessageService
from rocketmq_py.common.topic import SCHEDULE_TOPIC
from rocketmq_py.store.config import FlushDiskType, MessageStoreConfig
from rocketmq_py.store.draft import Draft
from rocketmq_py.store.tick import Tick

LEVELS = DelayLevels.parse(MessageStoreConfig().message_delay_level)


class WatchedMachine(DelayMachine):
    """Notes at which time of the loop each message is delivered for the first time."""

    def __init__(self, came: dict[str, float], seed: int, **settings: Any) -> None:
        super().__init__(seed, **settings)
        self.came = came

    def build(self, **settings: Any) -> Kernel:
        kernel = super().build(**settings)
        service = kernel.get(ScheduleMessageService)
        counted = service._on_delivered

        def note(draft: Draft) -> None:
            self.came.setdefault(draft.body.decode(), asyncio.get_running_loop().time())
            counted(draft)

        service._on_delivered = note
        return kernel


class History:
    """What was put, when, and what must come of it.

    Attributes:
        put: loop time at which each body was acknowledged, and its level.
        safe: bodies that no fault may take: they were on disk when the fault came.
        kills: how often the process ended without a stop.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        # What the clock showed before a restart nobody can tell, so a history has either jumps or restarts.
        self.clock_jumps = seed % 3 == 0
        self.came: dict[str, float] = {}
        self.machine = WatchedMachine(
            self.came, seed, flush_delay_offset_interval=700, flush_disk_type=self.random.choice(list(FlushDiskType))
        )
        self.put: dict[str, tuple[float, int]] = {}
        self.safe: set[str] = set()
        self.kills = 0

    async def run(self, steps: int) -> None:
        running = await self.machine.start()
        for number in range(steps):
            running = await self._step(running, number)
        await asyncio.sleep(70)
        self.check(running)
        await self.machine.stop()

    async def _step(self, running: RunningStore, number: int) -> RunningStore:
        draw = self.random.random()
        if draw < 0.55:
            drafts = [delayed(f"m{number}-{n}", self.random.choice((1, 1, 2, 3, 4, 5))) for n in range(1 + number % 40)]
            results = await running.put(*drafts)
            now = asyncio.get_running_loop().time()
            for draft, result in zip(drafts, results, strict=True):
                if result.is_stored:
                    self.put[draft.body.decode()] = (now, int(draft.properties["DELAY"]))
        elif draw < 0.75:
            await asyncio.sleep(self.random.random() * 4)
        elif draw < 0.80 and self.clock_jumps:
            self.machine.clock.offset_ms += self.random.choice((-3_600_000, -20, 300, 86_400_000))
        elif draw < 0.86 or self.clock_jumps:
            tick = running.kernel.get(Tick)
            tick.refuse("the lab's disk is full")
            await asyncio.sleep(self.random.random() * 3)
            tick.accept("the lab's disk is full")
        else:
            running = await self._end(running, draw)
        return running

    async def _end(self, running: RunningStore, draw: float) -> RunningStore:
        """Stop, kill or cut the power, and start again."""
        if draw < 0.90:
            await self.machine.stop()
            self.safe = set(self.put)
        elif draw < 0.96:
            self.kills += 1
            await self.machine.kill()
            self.safe = set(self.put)
        else:
            self.kills += 1
            on_disk = [m for m in stored(running, SCHEDULE_TOPIC) if m.commit_log_offset < running.log.flushed_offset]
            self.safe = {message.body.decode() for message in on_disk}
            # The others may be lost; no later fault is to blame for it.
            self.put = {body: value for body, value in self.put.items() if body in self.safe}
            await self.machine.cut_power(keep=self.random.random())
        return await self.machine.start()

    def check(self, running: RunningStore) -> None:
        counts = Counter(delivered(running))
        self.safe |= {m.body.decode() for m in stored(running, SCHEDULE_TOPIC)}
        missing = self.safe - set(counts)
        assert not missing, f"{len(missing)} messages never came, such as {sorted(missing)[:5]}"
        most = 1 + self.kills
        assert max(counts.values(), default=1) <= most, f"more copies than the {self.kills} crashes explain"
        self._check_order(running)

    def _check_order(self, running: RunningStore) -> None:
        """First copies of a level come in the order in which they were put."""
        order = {message.body.decode(): number for number, message in enumerate(stored(running, SCHEDULE_TOPIC))}
        seen: dict[str, None] = dict.fromkeys(delivered(running))
        for level in LEVELS:
            mine = [order[body] for body in seen if body in order and self.put.get(body, (0, 0))[1] == level]
            assert mine == sorted(mine), f"level {level} is out of order"


def early(history: History) -> Iterator[str]:
    """Yield bodies that came before their time, on the loop's clock, which never jumps."""
    for body, when in history.came.items():
        put, level = history.put.get(body, (when, 0))
        if level and when - put < LEVELS.delay_ms(level) / 1_000 - 0.1:
            yield f"{body} of level {level} came {when - put:.3f} s after it was put"


@pytest.mark.virtual_time
@pytest.mark.parametrize("seed", range(21))
async def test_whatever_happens_messages_come_in_order_and_not_before_their_time(seed: int) -> None:
    """Claim: every accepted delayed message is delivered at least once, never before its time, across any faults.

    Experiment: 60 random steps: batches of all levels up to a minute, pauses, refused writes, stops, kills, power cuts
    with any share of unflushed sectors kept, wall clocks that are set by hours.
    Observe: what was on disk comes, in the order of its level, at most once more for each crash, and none early.
    """
    history = History(seed)
    await history.run(60)
    assert history.put
    assert list(early(history)) == []
