"""What controllers that follow Raft say to one another, as bytes.

A message travels as the body of a one-way request with a code of our own, on the port that brokers use too. Messages may
be lost, doubled or late: Raft does not mind.

Differs from RocketMQ: controllers of Apache's speak the protocol of DLedger or jRaft, which are Java libraries; a group
of controllers is all ours or all Apache's.
"""

from __future__ import annotations

from typing import Final

import msgspec

from rocketmq_py.common.errors import InvalidInputError

#: Request code of a Raft message; RocketMQ has no such code.
RAFT_MESSAGE: Final = 51_101


class Entry(msgspec.Struct, array_like=True, frozen=True):
    """One command of the log and the term in which a leader took it; empty commands only mark the begin of a term."""

    term: int
    command: bytes


class Vote(msgspec.Struct, array_like=True, frozen=True, tag="vote"):
    """Asks for a vote.

    Attributes:
        last_index: of the asker's log; only who is not behind the voter gets the vote.
        is_trial: asks whether there would be a vote; nobody's term changes. So a controller that was cut off does not
            disturb the others when it comes back.
    """

    term: int
    last_index: int
    last_term: int
    is_trial: bool


class VoteAnswer(msgspec.Struct, array_like=True, frozen=True, tag="voteAnswer"):
    """Answers `Vote`; in a trial `term` is the one that was asked for."""

    term: int
    is_granted: bool
    is_trial: bool


class Append(msgspec.Struct, array_like=True, frozen=True, tag="append"):
    """The leader's entries behind one that the follower must have; without entries, its heartbeat.

    Attributes:
        commit_index: everything up to there is on more than half of the disks.
    """

    term: int
    previous_index: int
    previous_term: int
    entries: list[Entry]
    commit_index: int


class AppendAnswer(msgspec.Struct, array_like=True, frozen=True, tag="appendAnswer"):
    """Answers `Append` and `Install`.

    Attributes:
        index: the last entry that leader and follower have in common, or if not accepted, where to go on from.
    """

    term: int
    is_accepted: bool
    index: int


class Install(msgspec.Struct, array_like=True, frozen=True, tag="install"):
    """The whole state, for a follower that needs entries which the leader no longer has.

    Attributes:
        index: of the last entry in it.
        index_term: that entry's term.
    """

    term: int
    index: int
    index_term: int
    state: bytes


Message = Vote | VoteAnswer | Append | AppendAnswer | Install


class Envelope(msgspec.Struct, array_like=True, frozen=True):
    """A message, who says it to whom, and in which group of controllers."""

    group: str
    sender: str
    receiver: str
    message: Message


def encode(envelope: Envelope) -> bytes:
    """Return the bytes of a message."""
    return msgspec.msgpack.encode(envelope)


def decode(data: bytes | bytearray | memoryview) -> Envelope:
    """Return the message of some bytes.

    Raises:
        InvalidInputError: they hold none.
    """
    try:
        return msgspec.msgpack.decode(data, type=Envelope)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"body is no message of a controller: {error}") from None
