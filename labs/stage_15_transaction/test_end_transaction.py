"""END_TRANSACTION: what is refused, what is answered, and what happens when the same thing is said twice."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from labs.stage_15_transaction.crash_lab import COMMIT, GROUP, ROLLBACK, TOPIC, UNKNOWN, Half, TransactionMachine
from rocketmq_py.broker.transaction.op_search import Found, OpSearch
from rocketmq_py.common.properties import PGROUP
from rocketmq_py.common.topic import TRANS_OP_HALF_TOPIC
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.errors import RemotingTimeoutError
from rocketmq_py.store.put_result import PutMessageStatus
from rocketmq_py.store.tick import Tick

NOT_FOUND = "Find prepared transaction message failed"


async def machine(**settings: Any) -> TransactionMachine:
    made = TransactionMachine(**settings)
    await made.start()
    return made


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("another group", {"producer_group": "thieves"}, "The producer group wrong"),
    ("another queue offset", {"tran_state_table_offset": 7}, "The transaction state table offset wrong"),
    ("a negative queue offset", {"tran_state_table_offset": -1}, "The transaction state table offset wrong"),
    ("a place behind the log", {"commit_log_offset": 1 << 40}, NOT_FOUND),
    ("a negative place", {"commit_log_offset": -1}, NOT_FOUND),
    ("the smallest place", {"commit_log_offset": -(1 << 63)}, NOT_FOUND),
    ("a place inside the record", {"commit_log_offset": 5}, NOT_FOUND),
]


@pytest.mark.parametrize(("what", "changes", "remark"), WRONG, ids=[row[0] for row in WRONG])
@pytest.mark.virtual_time
async def test_a_request_that_does_not_fit_its_half_message_commits_nothing(
    what: str, changes: dict[str, Any], remark: str
) -> None:
    """Group, place in the half queue and place in the log have to fit; each failure has RocketMQ's code and remark."""
    broker = await machine()
    half = await broker.send_half("a")
    response = await broker.end(half, COMMIT, **changes)
    assert (response.code, response.remark) == (ResponseCode.SYSTEM_ERROR, remark)
    assert await broker.delivered() == {}
    assert (await broker.end(half, COMMIT)).code == ResponseCode.SUCCESS, "the half message is as good as before"
    assert await broker.delivered() == {"a": 1}
    await broker.stop()


@pytest.mark.virtual_time
async def test_the_place_of_another_message_commits_nothing() -> None:
    """A message of another topic may carry a group and an offset that fit: it is no half message. Nor is a committed one,
    which carries everything that its half message had; RocketMQ commits it once more."""
    broker = await machine()
    half = await broker.send_half("a")
    await broker.end(half, COMMIT)
    (committed,) = await broker.messages()
    assert committed.properties[PGROUP] == GROUP
    again = Half("a", committed.queue_offset, committed.commit_log_offset)
    response = await broker.end(again, COMMIT)
    assert (response.code, response.remark) == (ResponseCode.SYSTEM_ERROR, NOT_FOUND)
    assert await broker.delivered() == {"a": 1}

    two = await broker.send_half("b")
    mixed = Half("b", two.queue_offset, half.commit_log_offset)
    assert (await broker.end(mixed, COMMIT)).remark == "The transaction state table offset wrong"
    assert await broker.delivered() == {"a": 1}
    await broker.stop()


@pytest.mark.virtual_time
async def test_a_decision_that_is_none_is_refused_and_unknown_is_not_answered() -> None:
    """0 means that the producer does not know: nothing happens, and, as in RocketMQ, nothing is answered."""
    broker = await machine()
    half = await broker.send_half("a")
    for value in (4, 1, -1, 9, 2**31 - 1):
        response = await broker.end(half, value)
        assert response.code == ResponseCode.SYSTEM_ERROR
        assert "commitOrRollback field wrong" in (response.remark or "")
    with pytest.raises(RemotingTimeoutError):
        await broker.end(half, UNKNOWN)
    assert await broker.delivered() == {}
    await broker.stop()


@pytest.mark.parametrize("field", ["producerGroup", "tranStateTableOffset", "commitLogOffset", "commitOrRollback"])
@pytest.mark.virtual_time
async def test_a_request_without_a_required_field_is_refused_by_its_name(field: str) -> None:
    broker = await machine()
    half = await broker.send_half("a")
    fields = {
        "producerGroup": GROUP,
        "tranStateTableOffset": str(half.queue_offset),
        "commitLogOffset": str(half.commit_log_offset),
        "commitOrRollback": "8",
        "msgId": "key-a",
    }
    missing = {name: value for name, value in fields.items() if name != field}
    response = await broker.request(RequestCode.END_TRANSACTION, missing)
    assert response.code == ResponseCode.SYSTEM_ERROR
    assert field in (response.remark or "")
    response = await broker.request(RequestCode.END_TRANSACTION, {**fields, field: "9" * 30})
    assert response.code == ResponseCode.SYSTEM_ERROR
    assert await broker.delivered() == {}
    await broker.stop()


@pytest.mark.virtual_time
async def test_a_slave_ends_no_transaction() -> None:
    broker = await machine()
    half = await broker.send_half("a")
    broker.kernel.config.broker_id = 1
    assert (await broker.end(half, COMMIT)).code == ResponseCode.SLAVE_NOT_AVAILABLE
    assert await broker.delivered() == {}
    broker.kernel.config.broker_id = 0
    await broker.stop()


@pytest.mark.virtual_time
async def test_transactions_can_be_forbidden() -> None:
    """rejectTransactionMessage refuses half messages; those that are there can still be ended."""
    broker = await machine()
    half = await broker.send_half("a")
    broker.kernel.config.reject_transaction_message = True
    with pytest.raises(AssertionError, match=r"the broker\[127.0.0.1\] sending transaction message is forbidden"):
        await broker.send_half("b")
    await broker.end(half, COMMIT)
    assert await broker.delivered() == {"a": 1}
    await broker.stop()


# --- the same thing twice ---------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_a_repeated_commit_delivers_once_and_is_answered_like_the_first() -> None:
    """At once, in one turn of the loop, after a while, after the progress has passed: RocketMQ stores it each time."""
    broker = await machine()
    half = await broker.send_half("a")
    responses = await asyncio.gather(*(broker.end(half, COMMIT) for _ in range(5)))
    assert {response.code for response in responses} == {ResponseCode.SUCCESS}
    assert (await broker.end(half, COMMIT)).code == ResponseCode.SUCCESS
    await asyncio.sleep(120)
    assert broker.table.progress == 1
    assert len(broker.table) == 0, "the table has forgotten it; the op queue has not"
    assert (await broker.end(half, COMMIT)).code == ResponseCode.SUCCESS
    assert await broker.delivered() == {"a": 1}
    await broker.stop()


@pytest.mark.virtual_time
async def test_the_first_decision_counts() -> None:
    broker = await machine()
    one, two = await broker.send_half("a"), await broker.send_half("b")
    await broker.end(one, COMMIT)
    await broker.end(one, ROLLBACK)
    await broker.end(two, ROLLBACK)
    await broker.end(two, COMMIT)
    await asyncio.sleep(120)
    await broker.end(two, COMMIT)
    assert await broker.delivered() == {"a": 1}
    await broker.stop()


@pytest.mark.parametrize("how", ["stop", "kill", "power cut"])
@pytest.mark.virtual_time
async def test_a_repetition_is_recognised_by_a_broker_that_started_anew(how: str) -> None:
    """With its op record written, or waiting for it, or long passed: what the table knew is in the log."""
    broker = await machine(sync_flush=True)
    rolled_back = await broker.send_half("rolled back")
    await broker.end(rolled_back, ROLLBACK)
    halves = {}
    for body in ("passed", "written", "waiting"):
        halves[body] = await broker.send_half(body)
        await broker.end(halves[body], COMMIT)
        await asyncio.sleep({"passed": 100, "written": 4, "waiting": 0}[body])
    assert broker.table.is_waiting(halves["waiting"].queue_offset)
    await (broker.stop() if how == "stop" else broker.kill() if how == "kill" else broker.cut_power(0.3))
    await broker.start()
    for half in (*halves.values(), rolled_back):
        assert (await broker.end(half, COMMIT)).code == ResponseCode.SUCCESS
    assert await broker.delivered() == dict.fromkeys(halves, 1)
    await asyncio.sleep(120)
    assert broker.checked == [], "nobody is asked about what was decided"
    for half in (*halves.values(), rolled_back):
        await broker.end(half, COMMIT)
    assert await broker.delivered() == dict.fromkeys(halves, 1)
    await broker.stop()


@pytest.mark.virtual_time
async def test_a_late_decision_about_the_first_half_message_ends_its_newest_copy() -> None:
    """A local transaction that takes minutes: its half message was copied meanwhile. RocketMQ delivers twice here."""
    broker = await machine()
    broker.deaf = True
    half = await broker.send_half("slow")
    await asyncio.sleep(100)
    assert broker.checked == ["slow"] * 3
    assert (await broker.end(half, COMMIT)).code == ResponseCode.SUCCESS
    broker.deaf = False
    broker.truth["slow"] = COMMIT
    await asyncio.sleep(100)
    assert broker.checked == ["slow"] * 3
    assert await broker.delivered() == {"slow": 1}
    await broker.stop()
    await broker.start()
    assert (await broker.end(half, COMMIT)).code == ResponseCode.SUCCESS
    assert await broker.delivered() == {"slow": 1}
    await broker.stop()


@pytest.mark.virtual_time
async def test_answers_to_several_checks_of_one_transaction_deliver_once() -> None:
    """A producer that was slow answers three checks at once, each with the place of another copy."""
    broker = await machine()
    asked: list[Half] = []
    answer = broker._check

    def note(request: Any) -> None:
        fields = request.command.ext_fields
        asked.append(Half("a", int(fields["tranStateTableOffset"]), int(fields["commitLogOffset"])))
        answer(request)

    broker.client.processors._table.clear()
    broker.client.on_request(RequestCode.CHECK_TRANSACTION_STATE, note)
    broker.deaf = True
    await broker.send_half("a")
    await asyncio.sleep(100)
    assert len(asked) == 3
    for half in (asked[0], asked[2], asked[1]):
        assert (await broker.end(half, COMMIT, from_transaction_check=True)).code == ResponseCode.SUCCESS
    assert await broker.delivered() == {"a": 1}
    await broker.stop()


@pytest.mark.virtual_time
async def test_a_decision_after_the_message_was_set_aside_still_counts() -> None:
    """The producer comes back after all checks: the message is delivered, once."""
    broker = await machine()
    broker.deaf = True
    half = await broker.send_half("a")
    await asyncio.sleep(520)
    assert await broker.set_aside() == {"a": 1}
    assert (await broker.end(half, COMMIT)).code == ResponseCode.SUCCESS
    assert (await broker.end(half, COMMIT)).code == ResponseCode.SUCCESS
    await asyncio.sleep(5)
    assert (await broker.end(half, COMMIT)).code == ResponseCode.SUCCESS
    assert await broker.delivered() == {"a": 1}
    await broker.stop()


@pytest.mark.virtual_time
async def test_two_late_decisions_at_once_deliver_once() -> None:
    broker = await machine()
    broker.deaf = True
    half = await broker.send_half("a")
    await asyncio.sleep(520)
    responses = await asyncio.gather(*(broker.end(half, COMMIT) for _ in range(4)), broker.end(half, ROLLBACK))
    assert {response.code for response in responses} == {ResponseCode.SUCCESS}
    assert await broker.delivered() == {"a": 1}
    await broker.stop()


# --- when the store refuses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decision", [COMMIT, ROLLBACK])
@pytest.mark.virtual_time
async def test_a_decision_that_could_not_be_stored_is_refused_and_can_be_made_again(decision: int) -> None:
    """Nothing is remembered of it, and the check goes on asking."""
    broker = await machine()
    half = await broker.send_half("a")
    tick = broker.kernel.get(Tick)
    tick.refuse("the disk is full", PutMessageStatus.SERVICE_NOT_AVAILABLE)
    responses = await asyncio.gather(broker.end(half, decision), broker.end(half, decision))
    assert {response.code for response in responses} == {ResponseCode.SERVICE_NOT_AVAILABLE}
    tick.accept("the disk is full")
    assert (await broker.end(half, decision)).code == ResponseCode.SUCCESS
    await asyncio.sleep(60)
    assert broker.checked == []
    assert await broker.delivered() == ({"a": 1} if decision == COMMIT else {})
    await broker.stop()


@pytest.mark.virtual_time
async def test_checks_wait_while_the_store_takes_nothing() -> None:
    """No half message is passed without its copy; the run after the refusal begins where that one stopped."""
    broker = await machine()
    await broker.send_half("a")
    await broker.send_half("b")
    tick = broker.kernel.get(Tick)
    await asyncio.sleep(20)
    tick.refuse("the disk is full", PutMessageStatus.SERVICE_NOT_AVAILABLE)
    await asyncio.sleep(60)
    assert broker.table.progress == 0
    assert broker.checked == []
    tick.accept("the disk is full")
    await asyncio.sleep(31)
    assert sorted(broker.checked) == ["a", "b"]
    await broker.stop()


@pytest.mark.virtual_time
async def test_an_op_record_that_was_refused_is_written_later() -> None:
    broker = await machine()
    half = await broker.send_half("a")
    await broker.end(half, COMMIT)
    tick = broker.kernel.get(Tick)
    tick.refuse("the disk is full", PutMessageStatus.SERVICE_NOT_AVAILABLE)
    await asyncio.sleep(10)
    tick.accept("the disk is full")
    assert await broker.messages(TRANS_OP_HALF_TOPIC, 1) == []
    await asyncio.sleep(4)
    assert [message.body for message in await broker.messages(TRANS_OP_HALF_TOPIC, 1)] == [b"0,"]
    await broker.stop()


@pytest.mark.virtual_time
async def test_what_a_client_claims_to_be_a_copy_is_none() -> None:
    """A half message cannot be tied to another transaction by properties that only the broker writes."""
    broker = await machine()
    one = await broker.send_half("a")
    two = await broker.send_half(
        "b", TRAN_PREPARED_QUEUE_OFFSET="0", TRANSACTION_CHECK_TIMES="99", REAL_TOPIC="Other", REAL_QID="77"
    )
    await broker.end(one, COMMIT)
    await broker.end(two, COMMIT)
    assert await broker.delivered() == {"a": 1, "b": 1}
    assert {message.topic for message in await broker.messages()} == {TOPIC}
    await broker.stop()


@pytest.mark.virtual_time
async def test_a_half_message_that_could_not_be_copied_is_not_taken() -> None:
    """Its copies carry a little more than it does itself; without room for that it would block all checks behind it."""
    broker = await machine()
    with pytest.raises(AssertionError, match="msg properties length limit"):
        await broker.send_half("a", filler="x" * 32_560)
    broker.deaf = True
    await broker.send_half("b", filler="x" * 32_200)
    await asyncio.sleep(100)
    assert broker.checked == ["b"] * 3
    await broker.stop()


@pytest.mark.virtual_time
async def test_a_half_message_that_cannot_be_stored_again_does_not_block_the_others() -> None:
    """The limit for messages was lowered meanwhile: the large one is passed, and the log of the broker says so."""
    broker = await machine()
    broker.truth = {"b": COMMIT}
    await broker.send_half("a" * 5_000)
    await broker.send_half("b")
    broker.store._putter._max_message_size = 1_000
    await asyncio.sleep(40)
    assert await broker.delivered() == {"b": 1}
    assert broker.table.progress >= 2
    await broker.stop()


@pytest.mark.virtual_time
async def test_a_search_in_the_op_queue_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A late question reads a limited number of op records, and then says that it does not know."""
    monkeypatch.setattr("rocketmq_py.broker.transaction.op_search.MAX_RECORDS", 40)
    broker = await machine(transaction_op_batch_interval=0)
    first = await broker.send_half("first")
    await broker.end(first, ROLLBACK)
    for number in range(50):
        await broker.end(await broker.send_half(str(number)), ROLLBACK)
    search = broker.kernel.get(OpSearch)
    assert await search.find(frozenset((0,)), 0) is Found.DECIDED
    assert await search.find(frozenset((39,)), 0) is Found.DECIDED
    assert await search.find(frozenset((45,)), 0) is Found.GAVE_UP
    await broker.stop()
