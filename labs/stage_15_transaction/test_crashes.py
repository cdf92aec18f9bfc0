"""Transactions under kills and power cuts, at every step and at random, against a model."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from labs.stage_15_transaction.crash_lab import COMMIT, ROLLBACK, UNKNOWN, Half, TransactionMachine
from rocketmq_py.assembly.stages import available_stages
from rocketmq_py.broker.transaction.op_batch import TransactionalOpBatchService
from rocketmq_py.common.errors import RocketMQError
from rocketmq_py.common.topic import TRANS_HALF_TOPIC, TRANS_OP_HALF_TOPIC
from rocketmq_py.sim.loop import VirtualLoop


@pytest.mark.parametrize("decision", [COMMIT, ROLLBACK])
@pytest.mark.parametrize("moment", ["half stored", "decided, op record waits", "op record stored", "checked"])
@pytest.mark.parametrize("how", ["kill", "power cut"])
@pytest.mark.virtual_time
async def test_a_crash_between_any_two_steps_neither_loses_nor_doubles(how: str, moment: str, decision: int) -> None:
    """Claim: whatever was acknowledged, the transaction ends as its producer says, once.

    Experiment: crash the broker after the half message, after the decision while its op record waits, after the op
        record, and after a check has put the half message back; then let time pass.
    Observe: a committed message is delivered once, a rolled back one never; nobody is asked about what the log tells.
    """
    broker = TransactionMachine(seed=5, sync_flush=True)
    await broker.start()
    broker.truth["m"] = decision
    half = await broker.send_half("m")
    if moment == "checked":
        broker.deaf = True
        await asyncio.sleep(31)
        broker.deaf = False
    elif moment != "half stored":
        await broker.end(half, decision)
        await asyncio.sleep(4 if moment == "op record stored" else 0)
    checked = len(broker.checked)
    await (broker.kill() if how == "kill" else broker.cut_power(0.5))
    await broker.start()
    await asyncio.sleep(100)
    assert await broker.delivered() == ({"m": 1} if decision == COMMIT else {})
    was_decided = moment in ("decided, op record waits", "op record stored")
    assert len(broker.checked) - checked == (0 if was_decided else 1)
    await broker.stop()


@pytest.mark.virtual_time
async def test_a_kill_between_the_copy_and_the_progress_leaves_one_living_copy() -> None:
    """The progress is stored some seconds after the copies. Killed in between, the next run meets the first half message
    and its copy, and asks about the copy only."""
    broker = TransactionMachine()
    await broker.start()
    broker.deaf = True
    await broker.send_half("a")
    await asyncio.sleep(30.5)
    assert len(await broker.messages(TRANS_HALF_TOPIC, 1)) == 2
    await broker.kill()
    await broker.start()
    assert broker.table.progress == 0, "the progress of the killed broker was not on disk"
    await asyncio.sleep(31)
    assert len(await broker.messages(TRANS_HALF_TOPIC, 1)) == 3
    assert broker.checked == ["a", "a"]
    await broker.stop()


@pytest.mark.virtual_time
async def test_a_stop_in_order_leaves_no_decision_without_its_op_record() -> None:
    broker = TransactionMachine(transaction_op_batch_interval=3_600_000)
    await broker.start()
    for number in range(5):
        await broker.end(await broker.send_half(str(number)), COMMIT)
    assert await broker.messages(TRANS_OP_HALF_TOPIC, 1) == []
    assert len(broker.kernel.get(TransactionalOpBatchService)._waiting) == 5
    await broker.stop()
    await broker.start()
    assert [found.body for found in await broker.messages(TRANS_OP_HALF_TOPIC, 1)] == [b"0,1,2,3,4,"]
    await broker.stop()


@pytest.mark.skipif("delay" not in available_stages(), reason="stage delay is not here")
@pytest.mark.virtual_time
async def test_a_delay_begins_at_the_commit_and_a_kill_in_between_changes_nothing() -> None:
    """What is committed with a delay level lies in the topic of delays at first; that record, too, names its half message."""
    broker = TransactionMachine()
    await broker.start()
    yes, no = await broker.send_half("yes", DELAY="5"), await broker.send_half("no", DELAY="5")
    assert len(await broker.messages(TRANS_HALF_TOPIC, 1)) == 2, "a half message is not delayed"
    await asyncio.sleep(3)
    await broker.end(yes, COMMIT)
    await broker.end(no, ROLLBACK)
    await asyncio.sleep(1)
    await broker.kill()
    await broker.start()
    await asyncio.sleep(50)
    assert await broker.delivered() == {}, "level 5 is a minute"
    await asyncio.sleep(20)
    assert await broker.delivered() == {"yes": 1}
    await broker.end(yes, COMMIT)
    await asyncio.sleep(100)
    assert await broker.delivered() == {"yes": 1}
    assert broker.checked == []
    await broker.stop()


@pytest.mark.virtual_time
async def test_what_the_broker_must_remember_is_bounded_however_seldom_it_checks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One undecided half message holds up the progress, and all decided ones behind it are remembered. With checks once
    an hour a round comes earlier when there are too many."""
    monkeypatch.setattr("rocketmq_py.broker.transaction.check_service.MAX_TABLE", 20)
    broker = TransactionMachine(transaction_check_interval=3_600_000)
    await broker.start()
    broker.truth["first"] = COMMIT
    await broker.send_half("first")
    for number in range(60):
        await broker.end(await broker.send_half(str(number)), COMMIT)
        await asyncio.sleep(0.5)
    assert len(broker.table) < 40
    assert broker.checked == ["first"]
    assert (await broker.delivered())["first"] == 1
    await broker.stop()


@pytest.mark.virtual_time
async def test_a_decision_made_while_the_broker_stops_is_recorded_at_once() -> None:
    broker = TransactionMachine()
    await broker.start()
    half = await broker.send_half("late")
    await broker.kernel.get(TransactionalOpBatchService).stop_serving()
    await broker.end(half, COMMIT)
    await asyncio.sleep(0.01)
    assert [found.body for found in await broker.messages(TRANS_OP_HALF_TOPIC, 1)] == [b"0,"]
    await broker.stop()


@pytest.mark.virtual_time
async def test_a_kill_right_after_a_message_was_set_aside_does_not_set_it_aside_again() -> None:
    broker = TransactionMachine(transaction_check_max=1)
    await broker.start()
    broker.deaf = True
    await broker.send_half("lost")
    while not await broker.set_aside():  # noqa: ASYNC110 - reading is asynchronous
        await asyncio.sleep(0.1)
    await broker.kill()
    await broker.start()
    await asyncio.sleep(100)
    assert await broker.set_aside() == {"lost": 1}
    await broker.stop()


@pytest.mark.virtual_time
async def test_only_what_lies_behind_the_first_undecided_is_read_after_a_crash(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A start after a crash must not read the whole log for commits without op records."""
    broker = TransactionMachine()
    await broker.start()
    for number in range(100):
        await broker.end(await broker.send_half(f"{number}" * 50), COMMIT)
    await asyncio.sleep(40)
    last = await broker.send_half("last")
    await broker.end(last, COMMIT)
    await broker.kill()
    starts: list[int] = []
    from rocketmq_py.broker.transaction import load

    commits_in = load.commits_in

    def note(log: Any, start: int, size: int) -> Any:
        starts.append(start)
        return commits_in(log, start, size)

    monkeypatch.setattr(load, "commits_in", note)
    await broker.start()
    assert starts == [last.commit_log_offset]
    await asyncio.sleep(60)
    assert broker.checked == []
    assert (await broker.delivered())["last"] == 1
    await broker.stop()


# --- at random, against a model ---------------------------------------------------------------------------------------


@dataclass
class Model:
    """What a producer may rely on.

    Attributes:
        halves: transactions whose half message was acknowledged.
        acknowledged: decisions that the broker answered with success; the first one counts.
        tried: decisions that were sent, in order, whether answered or not.
    """

    halves: dict[str, Half] = field(default_factory=dict)
    acknowledged: dict[str, int] = field(default_factory=dict)
    tried: dict[str, list[int]] = field(default_factory=dict)


TRUTHS = st.sampled_from([COMMIT, COMMIT, ROLLBACK, UNKNOWN])
STEPS = st.one_of(
    st.tuples(st.just("half"), TRUTHS),
    st.tuples(st.just("half"), TRUTHS),
    st.tuples(st.just("end"), st.integers(0, 7)),
    st.tuples(st.just("end"), st.integers(0, 7)),
    st.tuples(st.just("end again"), st.integers(0, 7)),
    st.tuples(st.just("wait"), st.sampled_from([0.0, 0.5, 3.5, 5.5, 11.0])),
    st.tuples(st.just("kill"), st.just(0)),
    st.tuples(st.just("power cut"), st.sampled_from([0.0, 0.5, 1.0])),
    st.tuples(st.just("restart"), st.just(0)),
    st.tuples(st.just("deaf"), st.booleans()),
)


async def play(steps: list[tuple[str, Any]]) -> None:
    """Play the steps, let everything come to an end, and compare."""
    broker = TransactionMachine(seed=9, sync_flush=True, transaction_check_interval=5_000, transaction_time_out=2_000)
    await broker.start()
    model = Model()
    for number, (kind, value) in enumerate(steps):
        if kind == "half":
            body = f"m{number}"
            broker.truth[body] = value
            try:
                model.halves[body] = await broker.send_half(body, queue_id=number % 2)
            except (RocketMQError, OSError):
                raise AssertionError("a healthy broker takes half messages") from None
        elif kind in ("end", "end again") and model.halves:
            body = list(model.halves)[value % len(model.halves)]
            decision = broker.truth[body]
            if decision == UNKNOWN or (kind == "end again") != (body in model.tried):
                continue
            model.tried.setdefault(body, []).append(decision)
            answer = await broker.end(model.halves[body], decision)
            assert answer.code == 0, answer.remark
            model.acknowledged.setdefault(body, decision)
        elif kind == "wait":
            await asyncio.sleep(value)
        elif kind == "deaf":
            broker.deaf = value
        elif kind in ("kill", "power cut", "restart"):
            await (broker.kill() if kind == "kill" else broker.stop() if kind == "restart" else broker.cut_power(value))
            await broker.start()
    broker.deaf = False
    await asyncio.sleep(100)

    committed = Counter({body: 1 for body in model.halves if broker.truth[body] == COMMIT})
    delivered, aside = await broker.delivered(), await broker.set_aside()
    # Silent for too long a producer's message is set aside, if it was never decided; that is no loss and no delivery.
    given_up = {body for body in aside if body not in model.acknowledged}
    assert delivered == Counter({body: 1 for body in committed if body not in given_up or body in delivered})
    unknown = {body for body in model.halves if broker.truth[body] == UNKNOWN}
    assert unknown <= set(aside), "what nobody ever decides is set aside"
    assert all(count == 1 for count in aside.values())
    assert given_up - unknown <= {body for body in model.halves if body not in model.acknowledged}
    await broker.stop()
    await broker.start()
    assert await broker.delivered() == delivered
    for body, half in model.halves.items():
        if body in model.acknowledged:
            await broker.end(half, COMMIT)
    assert await broker.delivered() == delivered, "a repetition after a restart delivered again"
    await broker.stop()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEPS, min_size=1, max_size=25))
# A commit of the third half message of a transaction, whose op record is lost with the process.
@example([("half", COMMIT), ("deaf", True), ("wait", 11.0), ("end", 0), ("kill", 0)])
def test_random_transactions_and_crashes_agree_with_the_model(steps: list[tuple[str, Any]]) -> None:
    """Claim: committed comes once, rolled back never, unknown is asked about and in the end set aside.

    Experiment: random half messages, decisions, repetitions, silent producers, restarts, kills and power cuts (with
        synchronous flush); then quiet, for more than 15 checks.
    Observe: what is delivered and what is set aside is what the model says, also after one more restart.
    """
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(play(steps))
