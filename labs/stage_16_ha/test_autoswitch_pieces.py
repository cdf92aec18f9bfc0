"""Epochs, their file, frames, the sync state set and the lease: plain values, no brokers."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rocketmq_py.common.errors import CorruptDataError
from rocketmq_py.sim.file_system import SimulatedFileSystem
from rocketmq_py.store.ha.autoswitch.epoch_file import EpochFile, decode_epochs, encode_epochs
from rocketmq_py.store.ha.autoswitch.epochs import Epoch, NoCommonEpochError, consistent_point, truncation_point
from rocketmq_py.store.ha.autoswitch.frames import (
    Ack,
    FrameError,
    Handshake,
    decode_handshake_reply,
    decode_slave_frames,
    decode_transfer_head,
    encode_ack,
    encode_handshake,
    encode_handshake_reply,
    encode_transfer,
)
from rocketmq_py.store.ha.autoswitch.lease import MasterLease
from rocketmq_py.store.ha.autoswitch.sync_state import JOIN_SECONDS, LEAVE_SECONDS, SyncState

ONE, TWO = Epoch(1, 0), Epoch(2, 202)

# --- frames -----------------------------------------------------------------------------------------------------------


def test_the_frames_of_a_handshake_are_rocketmqs_byte_for_byte() -> None:
    handshake = bytes.fromhex("00000001 0000 0000 0000000000000002")  # HANDSHAKE, no, no, broker 2
    assert encode_handshake(Handshake(2)) == handshake
    assert decode_slave_frames(handshake) == ([Handshake(2)], 16)

    reply = bytes.fromhex(
        "00000001 00000018 0000000000000192 00000002"  # HANDSHAKE, 24 bytes follow, end 402, epoch 2
        "00000001 0000000000000000"  # epoch 1 from 0
        "00000002 00000000000000ca"  # epoch 2 from 202
    )
    assert encode_handshake_reply(402, [ONE, TWO]) == reply
    found = decode_handshake_reply(reply + b"more")
    assert found is not None
    assert (found[0].max_offset, found[0].last_epoch, found[0].epochs, found[1]) == (402, 2, (ONE, TWO), 44)
    assert all(decode_handshake_reply(reply[:length]) is None for length in range(44))


def test_the_frames_of_a_transfer_are_rocketmqs_byte_for_byte() -> None:
    ack = bytes.fromhex("00000002 00000000000000ca")  # TRANSFER, 202
    assert encode_ack(202) == ack
    head = bytes.fromhex(
        "00000002 000000c8 00000000000000ca"  # TRANSFER, 200 bytes from 202 on
        "00000002 00000000000000ca 0000000000000192"  # epoch 2 from 202, confirmed 402
    )
    assert encode_transfer(202, 200, TWO, 402) == head
    found = decode_transfer_head(head)
    assert found is not None
    assert (found.body_size, found.offset, found.epoch, found.confirm_offset) == (200, 202, TWO, 402)
    heartbeat = bytes.fromhex("00000002 00000000 0000000000000192 00000002 00000000000000ca 0000000000000192")
    assert encode_transfer(402, 0, TWO, 402) == heartbeat


@given(st.data())
def test_frames_of_a_slave_are_found_in_any_pieces(data: st.DataObject) -> None:
    sent = [Handshake(7, True, False), Ack(0), Ack(202), Ack(402)]
    stream = encode_handshake(Handshake(7, True, False)) + b"".join(map(encode_ack, (0, 202, 402)))
    got, rest = [], b""
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        rest, stream = rest + stream[:size], stream[size:]
        frames, taken = decode_slave_frames(rest)
        got += frames
        rest = rest[taken:]
    assert got == sent and not rest


@pytest.mark.parametrize(
    "data",
    [
        "0000000300000000000000ca",  # a state that no slave's frame has
        "00000002ffffffffffffffff",  # a negative offset
        "000000010000000080000000000000ff",  # a negative id
        "47455420 2f20485454502f31",  # GET / HTTP/1
    ],
)
def test_what_is_no_frame_is_refused(data: str) -> None:
    with pytest.raises(FrameError):
        decode_slave_frames(bytes.fromhex(data))


def test_a_reply_that_announces_too_much_is_refused_before_it_is_waited_for() -> None:
    for size in (13, -12, 12 * 1_001):
        with pytest.raises(FrameError):
            decode_handshake_reply(b"\0\0\0\1" + size.to_bytes(4, "big", signed=True) + bytes(12))


# --- where two logs part ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mine", "my_end", "theirs", "their_end", "point"),
    [
        ([ONE], 300, [ONE], 500, 300),  # a slave that is behind
        ([ONE], 500, [ONE, TWO], 402, 202),  # the old master wrote on when the new one began
        ([ONE, Epoch(2, 250)], 300, [ONE, Epoch(3, 202)], 402, 202),  # two masters that never heard of each other
        ([ONE, TWO], 300, [ONE, TWO, Epoch(4, 280)], 600, 280),
        ([ONE, Epoch(2, 203)], 300, [ONE, TWO], 402, 202),  # the same number with another start is no common epoch
        ([Epoch(2, 202)], 300, [ONE, TWO], 402, 300),  # the oldest were deleted with their files
        ([ONE], 300, [TWO], 402, None),
    ],
)
def test_logs_are_the_same_up_to_the_end_of_their_greatest_common_epoch(
    mine: list[Epoch], my_end: int, theirs: list[Epoch], their_end: int, point: int | None
) -> None:
    assert consistent_point(mine, my_end, theirs, their_end) == point


def test_a_log_that_has_no_epoch_in_common_is_not_touched() -> None:
    with pytest.raises(NoCommonEpochError, match="copy the master's log anew"):
        truncation_point([Epoch(5, 0)], 0, 100, [ONE, TWO], 402)
    with pytest.raises(NoCommonEpochError):
        truncation_point([], 0, 500, [ONE, TWO], 402)
    assert truncation_point([], 0, 402, [ONE, TWO], 402) == 402, "a pair from before controller mode goes on"
    assert truncation_point([], 0, 0, [ONE, TWO], 402) == 0


@given(st.data())
def test_a_cut_leaves_what_both_have_and_nothing_that_only_one_has(data: st.DataObject) -> None:
    """Replicas of a log that a random history of masters wrote: each byte is named by the epoch that wrote it."""
    logs: list[list[int]] = [[], [], []]
    epochs: list[list[Epoch]] = [[], [], []]
    for number in range(1, data.draw(st.integers(2, 6))):
        master = data.draw(st.integers(0, 2))
        begin = len(logs[master])
        epochs[master] = [epoch for epoch in epochs[master] if epoch.start < begin] + [Epoch(number, begin)]
        logs[master] += [number] * data.draw(st.integers(0, 4))
        for slave in range(3):
            if slave == master or not data.draw(st.booleans()):
                continue
            try:
                point = truncation_point(epochs[slave], 0, len(logs[slave]), epochs[master], len(logs[master]))
            except NoCommonEpochError:
                assert not {epoch.number for epoch in epochs[slave]} & {epoch.number for epoch in epochs[master]}
                continue
            shared = next(
                (n for n, (a, b) in enumerate(zip(logs[slave], logs[master], strict=False)) if a != b),
                min(len(logs[slave]), len(logs[master])),
            )
            assert point <= shared, "bytes that the master never had were kept"
            end = data.draw(st.integers(point, len(logs[master])))
            logs[slave] = logs[master][:end]
            epochs[slave] = [epoch for epoch in epochs[master] if epoch.start < end]


# --- the file ---------------------------------------------------------------------------------------------------------


def test_the_file_of_epochs_is_rocketmqs() -> None:
    assert encode_epochs([ONE, TWO]) == b"2\n901238129\n1-0\n2-202\n"
    assert encode_epochs([Epoch(7, 7000), Epoch(8, 8000)]).split(b"\n")[1] == b"773307083"
    assert decode_epochs(b"2\r\n0\r\n1-0\r\n2-202\r\n") == [ONE, TWO], "a CRC of 0 is not checked"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"2\n901238129\n1-0\n",  # torn
        b"2\n901238128\n1-0\n2-202\n",  # CRC
        b"2\n0\n2-202\n1-0\n",  # unordered
        b"2\n0\n1-0\n2-0\n",  # two masters at one place
        b"1\n0\n1-x\n",
        b"1\n0\n-1-0\n",
    ],
)
def test_a_damaged_file_of_epochs_is_never_guessed_at(data: bytes, tmp_path: Path) -> None:
    files = SimulatedFileSystem()
    files.make_directories("/store")
    files.write_file("/store/epochFileCheckpoint", data)
    with pytest.raises(CorruptDataError, match="copy the log anew"):
        EpochFile(files, "/store").load(1_000)
    files.write_file("/store/epochFileCheckpoint.bak", encode_epochs([ONE]))
    epochs = EpochFile(files, "/store")
    epochs.load(1_000)
    assert epochs.epochs == (ONE,)


def test_an_epoch_without_a_byte_is_replaced_by_the_next() -> None:
    files = SimulatedFileSystem()
    files.make_directories("/store")
    epochs = EpochFile(files, "/store")
    epochs.append(Epoch(1, 0))
    epochs.append(Epoch(2, 202))
    epochs.append(Epoch(5, 202))
    assert epochs.epochs == (ONE, Epoch(5, 202)), "an old master's tail in epoch 2 would pass for one of epoch 5"
    epochs.truncate(202)
    assert epochs.epochs == (ONE,)
    epochs.truncate(0)
    again = EpochFile(files, "/store")
    again.load(100)
    assert again.epochs == (), "the backup came back"


@pytest.mark.parametrize("seed", range(60))
def test_a_power_cut_leaves_epochs_that_were_true(seed: int) -> None:
    """At every power cut the file holds the epochs before the change or after it; a cut back to less is never undone."""
    rng = random.Random(seed)
    files = SimulatedFileSystem()
    files.make_directories("/store")
    files.sync_directory("/")
    epochs, end, states = EpochFile(files, "/store"), 0, [()]
    number = 0
    for _ in range(rng.randrange(1, 8)):
        number, end = number + 1, end + rng.randrange(1, 100)
        if rng.random() < 0.3 and epochs.epochs:
            end = rng.choice(epochs.epochs).start
            epochs.truncate(end)
            end = max(end, 1)
        else:
            epochs.append(Epoch(number, end))
        states.append(epochs.epochs)
    files.crash(rng)
    after = EpochFile(files, "/store")
    after.load(1 << 40)
    assert after.epochs == states[-1], "a change that had returned was lost"


# --- the sync state set -----------------------------------------------------------------------------------------------


def state_of(members: set[int], *, confirm: int = 100) -> SyncState:
    state = SyncState(1, needs_all_acks=True, max_not_caught_up=15.0)
    state.begin(members, 1, epoch_start=0, confirm_offset=confirm, now=0.0)
    return state


def test_a_replica_joins_when_it_has_everything_and_is_waited_for_before_it_is_in() -> None:
    state = state_of({1})
    assert state.confirm(100) == 100, "alone, everything is confirmed"
    state.connected(2, 0.0)
    state.sent(2, 100, 1.0)
    state.acked(2, 50, 100, 1.0)
    assert state.wanted(1.0) is None and state.confirm(120) == 120

    state.acked(2, 100, 120, 1.1)
    assert state.counted == {1, 2} and state.wanted(1.1) is None, "it lacks 20 bytes that were acknowledged"
    assert state.confirm(150) == 120, "what comes now waits for it"
    state.acked(2, 120, 150, 1.2)
    assert state.wanted(1.2) == {1, 2}


def test_a_replica_that_begins_to_join_and_stalls_holds_sends_up_for_a_moment_only() -> None:
    state = state_of({1})
    state.connected(2, 0.0)
    state.acked(2, 100, 100, 0.0)
    assert state.confirm(200) == 100
    assert state.wanted(JOIN_SECONDS + 0.1) == {1, 2}, "it has what was acknowledged"
    state = state_of({1})
    state.connected(2, 0.0)
    state.sent(2, 90, 0.0)
    state.acked(2, 90, 200, 0.0)
    assert state.counted == {1, 2}
    assert state.wanted(JOIN_SECONDS + 0.1) is None and state.counted == {1} and state.confirm(200) == 200


def test_while_a_change_is_under_way_the_union_of_both_sets_must_have_a_message() -> None:
    """Issue 5663: the set grew at the controller, the answer was lost, the master acknowledged for the old set."""
    state = state_of({1, 2})
    for number in (2, 3):
        state.connected(number, 0.0)
        state.acked(number, 100, 100, 0.0)
    wanted = state.wanted(0.0)
    assert wanted == {1, 2, 3}
    state.propose(wanted)
    state.acked(2, 200, 200, 0.1)
    assert state.confirm(200) == 100, "member 3 may be in the set already, and become master"
    assert state.wanted(0.1) is None, "one question at a time"
    assert state.in_sync_replicas_nums == 2, "it may also not be in it"
    state.settled({1, 2}, 7)
    assert state.proposed is None

    # A member leaves: until the controller has said so it may still be elected.
    state.settled({1, 2, 3}, 8)
    state.disconnected(3, 1.0)
    assert state.wanted(1.0 + LEAVE_SECONDS - 0.1) is None
    wanted = state.wanted(1.0 + LEAVE_SECONDS)
    assert wanted == {1, 2}
    state.propose(wanted)
    assert state.confirm(200) == 100 and state.in_sync_replicas_nums == 2
    state.settled({1, 2}, 9)
    assert state.confirm(200) == 200


def test_a_member_that_lags_leaves_and_one_that_lost_its_disk_leaves_at_once() -> None:
    state = state_of({1, 2})
    state.connected(2, 0.0)
    state.acked(2, 100, 100, 0.0)
    state.sent(2, 500, 1.0)
    state.acked(2, 300, 900, 2.0)
    assert state.wanted(14.9) is None
    assert state.wanted(15.1) == {1}

    state = state_of({1, 2}, confirm=1 << 20)
    state.connected(2, 0.0)
    state.acked(2, 400, 1 << 20, 0.0)
    assert state.wanted(0.0) == {1}, "it has acknowledged more than it has now"


def test_reports_only_grow_and_never_pass_the_masters_end() -> None:
    state = state_of({1, 2})
    state.connected(2, 0.0)
    state.acked(2, 50, 100, 0.0)
    for offset in (49, 101):
        with pytest.raises(ValueError, match="reports"):
            state.acked(2, offset, 100, 0.0)
    assert state.confirm(100) == 100, "it never goes back"


def test_a_learner_never_joins_and_an_old_answer_is_dropped() -> None:
    state = state_of({1})
    state.connected(2, 0.0, is_learner=True)
    state.acked(2, 100, 100, 0.0)
    assert state.wanted(0.0) is None and state.counted == {1}
    state.settled({1, 3}, 5)
    state.settled({1}, 4)
    assert state.members == {1, 3}


def test_a_lease_begins_when_the_heartbeat_was_sent_and_ends_before_the_controller_gives_up() -> None:
    lease = MasterLease(4.0)
    assert not lease.is_valid(0.0)
    lease.renew(10.0)
    lease.renew(9.0)
    assert lease.is_valid(13.7) and not lease.is_valid(13.9), "the controller waits until 14.0 at the earliest"
    lease.revoke()
    assert not lease.is_valid(10.1)
