"""Random timers, deletions and restarts against a sorted list: the wheel gives what the list says, when the list says it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from labs.stage_13_delay.timer_lab import TOPIC, RunningBroker, TimerMachine, deletion, draft, first_full_second
from rocketmq_py.sim.loop import VirtualLoop

#: Milliseconds; many in few seconds, so that slots hold chains and edges of seconds are met.
MOMENTS = st.one_of(st.integers(-2_000, 60_000), st.integers(1, 40).map(lambda second: second * 1_000))
STEP = st.one_of(
    st.tuples(st.just("put"), st.lists(MOMENTS, min_size=1, max_size=8)),
    st.tuples(st.just("delete"), st.integers(0, 200)),
    st.tuples(st.just("wait"), st.integers(1, 9_000)),
    st.tuples(st.sampled_from(["stop", "kill"]), st.integers(0, 3_000)),
)


@dataclass
class Model:
    """What a sorted list knows.

    Attributes:
        due: when each message may come first, by its body.
        deleted: bodies whose deletion was stored before their second.
        kills: when a process was killed: what came within the seconds before may come again.
    """

    due: dict[str, int] = field(default_factory=dict)
    deliver: dict[str, int] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    kills: list[int] = field(default_factory=list)


async def run(steps: list[tuple[str, Any]], window: int) -> None:
    """Do the steps on a machine and on the model, and compare."""
    machine, model = TimerMachine(timer_roll_window_slot=window), Model()
    running = await machine.start()
    for kind, value in steps:
        now = machine.clock.wall_ms()
        if kind == "put":
            await _put(running, model, now, value)
        elif kind == "delete" and model.due:
            body = sorted(model.due)[value % len(model.due)]
            # Well before its second, or not at all: within it either may be first.
            if model.deliver[body] - now > 1_500 and body not in model.deleted:
                model.deleted.add(body)
                await running.put(deletion(body, model.deliver[body]))
        elif kind == "wait":
            await asyncio.sleep(value / 1_000)
        elif kind in ("stop", "kill"):
            await (machine.stop() if kind == "stop" else machine.kill())
            if kind == "kill":
                model.kills.append(now)
            await asyncio.sleep(value / 1_000)
            running = await machine.start()
    await asyncio.sleep(75)
    await _compare(running, model, is_rolling=window < 100)
    if window > 100 and not any(kind in ("stop", "kill") for kind, _ in steps):
        await _compare_order(running, model)
    await machine.stop()


async def _put(running: RunningBroker, model: Model, now: int, moments: list[int]) -> None:
    drafts = []
    for moment in moments:
        body = f"{len(model.due):04d}"
        model.deliver[body] = now + moment
        # What was due when it was put is not delayed, and never at a full second in this lab.
        model.due[body] = first_full_second(now + moment) if moment > 0 else now - 1
        drafts.append(draft(body, queue_id=0, deliver_ms=now + moment))
    for result in await running.put(*drafts):
        assert result.is_stored


async def _compare(running: RunningBroker, model: Model, is_rolling: bool) -> None:
    messages = await running.messages()
    first: dict[str, int] = {}
    for message in messages:
        body = message.body.decode()
        assert message.store_timestamp >= model.due[body], f"{body} came too early"
        if body in first:
            # Twice only if a kill came soon after the first time, or soon after it was rolled on.
            is_excused = any(0 <= kill - first[body] < 3_000 or is_rolling for kill in model.kills)
            assert is_excused, f"{body} came twice"
        first.setdefault(body, message.store_timestamp)
    assert set(first) == set(model.due) - model.deleted
    assert running.timers.congest_num() == 0
    if not model.kills:
        assert running.timers.metrics.count(TOPIC) == 0


async def _compare_order(running: RunningBroker, model: Model) -> None:
    """Messages of one second come in the order in which they were put, if none of them took another way."""
    came = [message.body.decode() for message in await running.messages()]
    waited = [body for body in came if model.due[body] % 1_000 == 0]
    assert waited == sorted(waited, key=lambda body: (model.due[body], body))


@settings(max_examples=40)
@given(steps=st.lists(STEP, max_size=14), window=st.sampled_from([3, 7, 20, 172_800]))
# A message and its deletion are rolled on together, when the slot of both has ended as well.
@example(
    steps=[
        ("put", [3_001]),
        ("delete", 0),
        ("wait", 476),
        ("put", [1_000]),
        ("wait", 2),
        ("kill", 522),
        ("kill", 3_000),
    ],
    window=3,
)
def test_the_wheel_delivers_what_a_sorted_list_would(steps: list[tuple[str, Any]], window: int) -> None:
    """Whatever is put, deleted, stopped and killed, with windows of a few seconds too, so that all is rolled often."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(run(steps, window))
