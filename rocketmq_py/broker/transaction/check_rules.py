"""The rules of a check: what is to happen to one undecided half message now.

Source: `TransactionalMessageServiceImpl#check`, `#needDiscard`, `#needSkip`, RocketMQ 5.3.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from rocketmq_py.broker.transaction.half_message import check_times_of, immunity_of
from rocketmq_py.common.properties import decode_properties
from rocketmq_py.common.record import Record

HOUR_MS = 3_600_000


class Verdict(enum.Enum):
    """What becomes of an undecided half message.

    WAIT: it is too young, and so are all behind it.
    POSTPONE: it is to be left alone for longer than others, so it is put back and not asked about.
    CHECK: it is put back with one check more, and a producer is asked.
    SET_ASIDE: it was asked about often enough, or is older than the log is kept.
    """

    WAIT = "wait"
    POSTPONE = "postpone"
    CHECK = "check"
    SET_ASIDE = "set aside"


@dataclass(frozen=True, slots=True)
class CheckTerms:
    """What the rules go by; times are milliseconds.

    Attributes:
        time_out: age at which a half message is asked about (`transactionTimeOut`).
        check_max: how often, at most (`transactionCheckMax`).
        reserved_hours: how long the log is kept (`fileReservedTime`).
        started_ms: wall clock at the begin of this run; half messages stored later are for the next one.
    """

    time_out: int
    check_max: int
    reserved_hours: int
    started_ms: int


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict on one half message, and how often it will have been checked then."""

    verdict: Verdict
    check_times: int


def judge(half: Record, now_ms: int, terms: CheckTerms) -> Judgement:
    """Return what is to happen to an undecided half message.

    Differs from RocketMQ, which counts every look at a message with an immunity time as a check: there 15 looks, seven
    minutes, are the end of it, whatever its immunity time is.
    """
    properties = decode_properties(half.properties)
    age, checked = now_ms - half.born_timestamp, check_times_of(properties)
    if checked >= terms.check_max or age > terms.reserved_hours * HOUR_MS:
        return Judgement(Verdict.SET_ASIDE, checked)
    if half.store_timestamp >= terms.started_ms:
        return Judgement(Verdict.WAIT, checked)
    immunity = immunity_of(properties)
    if immunity is not None:
        if age <= (terms.time_out if immunity < 0 else immunity):
            return Judgement(Verdict.POSTPONE, checked)
    elif 0 <= age <= terms.time_out:
        # A negative age is a producer's clock that is ahead; nobody knows how far, so it is asked.
        return Judgement(Verdict.WAIT, checked)
    return Judgement(Verdict.CHECK, checked + 1)


def too_late_to_end(half: Record, now_ms: int, time_out: int) -> bool:
    """Tell whether a producer that was not asked may no longer decide, because the broker asks from now on.

    Only for messages that name an immunity time.

    Source: `EndTransactionProcessor#rejectCommitOrRollback`, RocketMQ 5.3.
    """
    immunity = immunity_of(decode_properties(half.properties))
    return immunity is not None and now_ms - half.born_timestamp > max(immunity, time_out)
