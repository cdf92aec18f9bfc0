"""The log of a controller: what it holds in memory, and the records that keep it on disk.

Entries are counted from 1. Those up to `snapshot_index` are gone, and only their effect is there, in the snapshot.
"""

from __future__ import annotations

from typing import Final

import msgspec

from rocketmq_py.controller.raft.messages import Entry


class VoteKept(msgspec.Struct, array_like=True, frozen=True, tag="vote"):
    """The term, and for whom this controller has voted in it; nobody may be told before it is on disk."""

    term: int
    voted_for: str | None


class EntriesKept(msgspec.Struct, array_like=True, frozen=True, tag="entries"):
    """Entries from `first` on; what the log had there or behind it before is void."""

    first: int
    entries: list[Entry]


class SnapshotKept(msgspec.Struct, array_like=True, frozen=True):
    """The state after entry `index`."""

    index: int
    term: int
    state: bytes


Record = VoteKept | EntriesKept

#: Most entries and bytes of commands in one message; a follower far behind is fed in steps.
MAX_ENTRIES: Final = 256
MAX_BYTES: Final = 1 << 20


class RaftLog:
    """The entries in memory.

    Attributes:
        snapshot_index: the last entry that is only in the snapshot.
        snapshot_term: its term.
    """

    def __init__(self) -> None:
        self.snapshot_index = 0
        self.snapshot_term = 0
        self._entries: list[Entry] = []

    @property
    def last_index(self) -> int:
        """The last entry's index; 0 in an empty log."""
        return self.snapshot_index + len(self._entries)

    @property
    def last_term(self) -> int:
        """The last entry's term."""
        return self._entries[-1].term if self._entries else self.snapshot_term

    def term_at(self, index: int) -> int | None:
        """Return the term of an entry; None if it is not here, or not here any more."""
        if index == self.snapshot_index:
            return self.snapshot_term
        if self.snapshot_index < index <= self.last_index:
            return self._entries[index - self.snapshot_index - 1].term
        return None

    def entry(self, index: int) -> Entry:
        """Return an entry that is here."""
        assert self.snapshot_index < index <= self.last_index, (index, self)
        return self._entries[index - self.snapshot_index - 1]

    def entries_from(self, index: int) -> list[Entry]:
        """Return as many entries from `index` on as go into one message."""
        start = index - self.snapshot_index - 1
        found: list[Entry] = []
        size = 0
        for entry in self._entries[start : start + MAX_ENTRIES]:
            size += len(entry.command)
            if found and size > MAX_BYTES:
                break
            found.append(entry)
        return found

    def put(self, first: int, entries: list[Entry]) -> None:
        """Set the entries from `first` on; those behind are void."""
        assert self.snapshot_index < first <= self.last_index + 1, (first, self)
        self._entries[first - self.snapshot_index - 1 :] = entries

    def forget(self, index: int) -> None:
        """Drop the entries up to one that the snapshot has."""
        term = self.term_at(index)
        assert term is not None, (index, self)
        del self._entries[: index - self.snapshot_index]
        self.snapshot_index, self.snapshot_term = index, term

    def replace(self, index: int, term: int) -> None:
        """Begin behind a snapshot that came from elsewhere."""
        self._entries.clear()
        self.snapshot_index, self.snapshot_term = index, term

    def rest(self) -> list[Entry]:
        """Return all entries behind the snapshot."""
        return list(self._entries)

    def __repr__(self) -> str:
        return f"<RaftLog {self.snapshot_index + 1}..{self.last_index} last term {self.last_term}>"


def encode_records(records: list[Record]) -> bytes:
    """Return records as one payload of the journal."""
    return msgspec.msgpack.encode(records)


def decode_records(payload: bytes) -> list[Record]:
    """Return the records of a payload; `ValueError` if it holds none."""
    return msgspec.msgpack.decode(payload, type=list[Record])
