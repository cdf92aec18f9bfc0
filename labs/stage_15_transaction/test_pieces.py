"""The pieces by themselves: texts, rules, table, op records. Plain values in, plain values out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.transaction.check_rules import HOUR_MS, CheckTerms, Verdict, judge, too_late_to_end
from rocketmq_py.broker.transaction.half_message import committed, copied, origin_of, set_aside
from rocketmq_py.broker.transaction.op_batch import Decided, TransactionalOpBatchService, decode_op_body, split
from rocketmq_py.broker.transaction.transaction_table import HalfState, Place, TransactionTable
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.properties import decode_properties, encode_properties
from rocketmq_py.common.record import Record, encode_record, read_record
from rocketmq_py.sim.environment import EPOCH_MS, SimulatedClock
from rocketmq_py.store.draft import Draft
from rocketmq_py.store.put_result import PutMessageResult, PutMessageStatus

HOST = bytes((10, 1, 2, 3, 0, 0, 0x2A, 0x9F))
TERMS = CheckTerms(time_out=6_000, check_max=15, reserved_hours=72, started_ms=EPOCH_MS)
HALF = {"TRAN_MSG": "true", "REAL_TOPIC": "Transfers", "REAL_QID": "3", "PGROUP": "bank", "TAGS": "t", "UNIQ_KEY": "u"}


def half(age_ms: int = 10_000, queue_offset: int = 7, **properties: str) -> Record:
    """Return a half message that was born so long before EPOCH_MS."""
    data = encode_record(
        topic=b"RMQ_SYS_TRANS_HALF_TOPIC",
        queue_id=0,
        body=b"body",
        properties=encode_properties({**HALF, **properties}),
        born_host=HOST,
        store_host=HOST,
        queue_offset=queue_offset,
        physical_offset=1_000,
        flag=5,
        sys_flag=0x301,
        born_timestamp=EPOCH_MS - age_ms,
        store_timestamp=EPOCH_MS - max(age_ms, 1),
    )
    return read_record(data)


# --- rules ------------------------------------------------------------------------------------------------------------

JUDGED: list[tuple[Record, Verdict, int]] = [
    (half(6_000), Verdict.WAIT, 0),
    (half(6_001), Verdict.CHECK, 1),
    (half(6_001, TRANSACTION_CHECK_TIMES="14"), Verdict.CHECK, 15),
    (half(6_001, TRANSACTION_CHECK_TIMES="15"), Verdict.SET_ASIDE, 15),
    (half(1, TRANSACTION_CHECK_TIMES="15"), Verdict.SET_ASIDE, 15),
    (half(6_001, TRANSACTION_CHECK_TIMES="many"), Verdict.CHECK, 1),
    (half(6_001, TRANSACTION_CHECK_TIMES="-3"), Verdict.CHECK, 1),
    (half(72 * HOUR_MS), Verdict.CHECK, 1),
    (half(72 * HOUR_MS + 1), Verdict.SET_ASIDE, 0),
    (half(20_000, CHECK_IMMUNITY_TIME_IN_SECONDS="20"), Verdict.POSTPONE, 0),
    (half(20_001, CHECK_IMMUNITY_TIME_IN_SECONDS="20"), Verdict.CHECK, 1),
    (half(1_001, CHECK_IMMUNITY_TIME_IN_SECONDS="1"), Verdict.CHECK, 1),
    (half(6_000, CHECK_IMMUNITY_TIME_IN_SECONDS="soon"), Verdict.POSTPONE, 0),
    (half(6_001, CHECK_IMMUNITY_TIME_IN_SECONDS="soon"), Verdict.CHECK, 1),
    (half(6_000, CHECK_IMMUNITY_TIME_IN_SECONDS="-1"), Verdict.POSTPONE, 0),
    # The producer's clock is ahead.
    (half(-1), Verdict.CHECK, 1),
    (half(0), Verdict.WAIT, 0),
]


@pytest.mark.parametrize(("message", "verdict", "checks"), JUDGED)
def test_the_rules_of_a_check(message: Record, verdict: Verdict, checks: int) -> None:
    judgement = judge(message, EPOCH_MS, TERMS)
    assert (judgement.verdict, judgement.check_times) == (verdict, checks)


def test_what_was_stored_after_the_run_began_is_for_the_next_one() -> None:
    late = replace(half(10_000), store_timestamp=EPOCH_MS)
    assert judge(late, EPOCH_MS + 5, TERMS).verdict is Verdict.WAIT


def test_an_unasked_decision_comes_too_late_only_for_a_message_with_an_immunity_time() -> None:
    assert not too_late_to_end(half(1_000_000), EPOCH_MS, 6_000)
    immune = {"CHECK_IMMUNITY_TIME_IN_SECONDS": "20"}
    assert not too_late_to_end(half(20_000, **immune), EPOCH_MS, 6_000)
    assert too_late_to_end(half(20_001, **immune), EPOCH_MS, 6_000)
    short = {"CHECK_IMMUNITY_TIME_IN_SECONDS": "1"}
    assert not too_late_to_end(half(6_000, **short), EPOCH_MS, 6_000), "never shorter than transactionTimeOut"
    assert too_late_to_end(half(6_001, **short), EPOCH_MS, 6_000)


# --- messages ---------------------------------------------------------------------------------------------------------


def test_a_committed_message_has_all_that_its_half_message_had() -> None:
    message = half(DELAY="3")
    draft = committed(message, 1_000)
    assert (draft.topic, draft.queue_id, draft.body, draft.flag) == ("Transfers", 3, b"body", 5)
    assert draft.sys_flag == 0x309
    assert draft.prepared_transaction_offset == 1_000
    assert (draft.born_timestamp, draft.born_host, draft.units) == (message.born_timestamp, HOST, 1)
    assert draft.stored_properties == message.properties
    assert "TRAN_MSG" not in draft.properties
    assert "REAL_TOPIC" not in draft.properties
    assert draft.properties["DELAY"] == "3", "a delay begins at the commit"


@pytest.mark.parametrize("missing", ["REAL_TOPIC", "REAL_QID"])
def test_a_half_message_that_does_not_say_where_it_belongs_cannot_be_committed(missing: str) -> None:
    properties = encode_properties({name: value for name, value in HALF.items() if name != missing})
    with pytest.raises(InvalidInputError, match=missing):
        committed(replace(half(), properties=properties), 0)


def test_a_copy_says_where_the_transaction_began_however_often_it_is_copied() -> None:
    first = copied(half(queue_offset=7, DELAY="3"), 1)
    assert decode_properties(first.stored_properties) == {
        **HALF,
        "DELAY": "3",
        "TRAN_PREPARED_QUEUE_OFFSET": "7",
        "TRANSACTION_CHECK_TIMES": "1",
    }
    assert "DELAY" not in first.properties
    second = replace(half(queue_offset=9), properties=first.stored_properties)
    assert origin_of(second) == 7
    draft = copied(second, 2)
    assert decode_properties(draft.stored_properties)["TRAN_PREPARED_QUEUE_OFFSET"] == "7"
    assert draft.stored_properties.count(b"TRANSACTION_CHECK_TIMES") == 1
    aside = set_aside(second)
    assert (aside.topic, aside.queue_id) == ("TRANS_CHECK_MAX_TIME_TOPIC", 0)
    assert decode_properties(aside.stored_properties)["TRANSACTION_CHECK_TIMES"] == "1"


@pytest.mark.parametrize("value", ["", "x", "-1", "9" * 40, "٣"])
def test_an_origin_that_is_no_offset_is_none(value: str) -> None:
    properties = encode_properties(HALF) + f"TRAN_PREPARED_QUEUE_OFFSET\x01{value}\x02".encode()
    assert origin_of(replace(half(queue_offset=7), properties=properties)) == 7


# --- op records -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "offsets"),
    [
        (b"12", [12]),
        (b"12,15,16,", [12, 15, 16]),
        (b"", []),
        (b",,", []),
        (b"1, 2,x,-3,4", [1, 2, 4]),
        (b"9" * 40, []),
        ("٣".encode(), []),
    ],
)
def test_both_formats_of_op_records_are_read_and_rubbish_is_left_out(body: bytes, offsets: list[int]) -> None:
    assert decode_op_body(body) == offsets


@given(st.lists(st.lists(st.integers(0, 10**9), min_size=1, max_size=3), max_size=60), st.integers(1, 60))
def test_op_records_keep_to_their_size_and_hold_everything_once(groups: list[list[int]], limit: int) -> None:
    records = split([Decided(tuple(group), None) for group in groups], limit)
    texts = ["".join(decided.text for decided in record) for record in records]
    assert [offset for text in texts for offset in decode_op_body(text.encode())] == [o for g in groups for o in g]
    for record in records:
        assert sum(len(decided.text) for decided in record[:-1]) < limit, "a full body took one more"


class FakeStore:
    """Takes op records, and tells what became of them when it is asked to."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.refuses = False

    def put(self, drafts: Sequence[Draft], done: Callable[[PutMessageResult], None]) -> None:
        if self.refuses:
            done(PutMessageResult(PutMessageStatus.SERVICE_NOT_AVAILABLE))
            return
        (draft,) = drafts
        assert draft.topic == "RMQ_SYS_TRANS_OP_HALF_TOPIC"
        self.bodies.append(draft.body)
        asyncio.get_running_loop().call_soon(
            done, PutMessageResult(PutMessageStatus.PUT_OK, len(self.bodies) - 1, (0,), 0)
        )


def op_service(**settings: Any) -> tuple[TransactionalOpBatchService, FakeStore, list[tuple[list[int], int]]]:
    store, recorded = FakeStore(), list[tuple[list[int], int]]()
    service = TransactionalOpBatchService(
        BrokerConfig(**settings),
        store,
        SimulatedClock(),
        lambda: HOST,
        lambda offsets, op: recorded.append((list(offsets), op)),
    )
    return service, store, recorded


@pytest.mark.virtual_time
async def test_commits_wait_for_company_until_the_interval_is_over() -> None:
    service, store, recorded = op_service()
    for offset in range(5):
        service.add((offset,))
        await asyncio.sleep(0.5)
    assert store.bodies == []
    assert 3 in service
    await asyncio.sleep(0.6)
    assert store.bodies == [b"0,1,2,3,4,"]
    assert recorded == [([0, 1, 2, 3, 4], 0)]
    assert 3 not in service


@pytest.mark.virtual_time
async def test_a_full_body_is_written_at_once_and_a_rollback_takes_all_along() -> None:
    service, store, recorded = op_service(transaction_op_msg_max_size=6)
    service.add((1,))
    service.add((22,))
    assert store.bodies == []
    service.add((333,))
    await asyncio.sleep(0.001)
    assert store.bodies == [b"1,22,333,"]
    told: list[PutMessageStatus] = []
    service.add((4,))
    service.add((5,), lambda result: told.append(result.status))
    await asyncio.sleep(0.001)
    assert store.bodies[1:] == [b"4,5,"]
    assert told == [PutMessageStatus.PUT_OK]
    assert recorded == [([1, 22, 333], 0), ([4, 5], 1)]


@pytest.mark.virtual_time
async def test_a_refused_op_record_keeps_commits_and_gives_rollbacks_back() -> None:
    service, store, recorded = op_service()
    store.refuses = True
    told: list[PutMessageStatus] = []
    service.add((1,))
    service.add((2,), lambda result: told.append(result.status))
    await asyncio.sleep(0.001)
    assert told == [PutMessageStatus.SERVICE_NOT_AVAILABLE]
    assert 1 in service
    assert 2 not in service
    store.refuses = False
    await asyncio.sleep(3.1)
    assert store.bodies == [b"1,"]
    assert recorded == [([1], 0)]


# --- the table --------------------------------------------------------------------------------------------------------


def test_the_table_knows_decided_undecided_and_passed() -> None:
    table = TransactionTable()
    table.clear(10)
    assert table.state(9, 9) is HalfState.PASSED
    assert table.state(10, 10) is HalfState.UNDECIDED
    assert table.copied(10, 10, Place(14, 500))
    assert table.is_over(10, 10), "there is a newer copy"
    assert not table.is_over(14, 10)
    table.pass_to(12)
    assert table.state(10, 10) is HalfState.UNDECIDED, "its copy lives"
    decision = table.decide(10, 10)
    assert decision.offsets == (10, 14)
    assert table.state(14, 10) is HalfState.DECIDED
    assert table.is_waiting(14)
    table.recorded(decision.offsets, 3)
    assert table.is_recorded(14)
    assert table.op_progress(9) == 3
    table.pass_to(15)
    assert table.op_progress(9) == 9
    assert len(table) == 0


def test_a_decision_that_is_undone_leaves_the_table_as_it_was() -> None:
    table = TransactionTable()
    table.copied(1, 1, Place(4, 99))
    before = repr(table), table.newest(1)
    table.undo(table.decide(4, 1))
    assert (repr(table), table.newest(1)) == before
    table.undo(table.decide(2, 2))
    assert table.state(2, 2) is HalfState.UNDECIDED


def test_a_copy_of_what_was_decided_meanwhile_is_decided() -> None:
    table = TransactionTable()
    table.decide(1, 1)
    assert not table.copied(1, 1, Place(4, 99))
    assert table.is_waiting(4)


@given(st.lists(st.tuples(st.sampled_from(["decide", "copy", "pass", "record"]), st.integers(0, 3)), max_size=60))
def test_the_table_forgets_what_was_passed_and_nothing_else(steps: list[tuple[str, int]]) -> None:
    """Against a model that remembers everything: four transactions whose half messages are copied, decided and passed."""
    table, end = TransactionTable(), 4
    newest, decided = {number: number for number in range(4)}, set[int]()
    for kind, number in steps:
        if kind == "decide" and number not in decided:
            if table.state(newest[number], number) is not HalfState.PASSED:
                assert newest[number] in table.decide(newest[number], number).offsets
            decided.add(number)
        elif kind == "copy" and number not in decided and newest[number] >= table.progress:
            assert table.copied(newest[number], number, Place(end, end * 100))
            newest[number] = end
            end += 1
        elif kind == "pass":
            living = [newest[other] for other in range(4) if other not in decided]
            table.pass_to(max(table.progress, min([*living, end])))
        for other in range(4):
            state = table.state(newest[other], other)
            if other in decided:
                assert state is HalfState.DECIDED or newest[other] < table.progress
            else:
                assert state is HalfState.UNDECIDED
    assert len(table) <= end - table.progress + 4
