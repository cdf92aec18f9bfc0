"""What a slave keeps of the bytes that arrive: whole, valid records that continue its log, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labs.stage_01_commit_log.log_lab import FILE_SIZE, LogLab, draft, log_lab
from rocketmq_py.common.errors import CorruptDataError
from rocketmq_py.common.record import HEAD_LAYOUT, RecordState
from rocketmq_py.sim.environment import simulated_environment
from rocketmq_py.sim.loop import VirtualLoop
from rocketmq_py.store.ha.ha_frames import DefaultMasterCodec, DefaultSlaveCodec, Header
from rocketmq_py.store.ha.log_intake import OVERLAP, DivergedError, LogIntake

MAX_BODY = 2_000


def run(lab: Callable[[LogLab, LogLab], Awaitable[None]]) -> None:
    """Run something with the stores of a master and a slave."""

    async def inner() -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with AsyncExitStack() as stack:
                environment = simulated_environment()
                master = await stack.enter_async_context(log_lab(Path(folder) / "master", environment))
                slave = await stack.enter_async_context(log_lab(Path(folder) / "slave", environment))
                await lab(master, slave)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(inner())


async def fill(master: LogLab, sizes: list[int]) -> None:
    """Put messages with bodies of these sizes."""
    for number, size in enumerate(sizes):
        properties = b"KEYS\x01k%d" % number
        await master.putter.put_message(draft(body=bytes([65 + number % 26]) * size, properties=properties))


def bytes_of(lab: LogLab, start: int = 0) -> bytes:
    """Return the log from an offset on."""
    parts, offset = [], start
    while offset < lab.log.max_offset:
        part = lab.log.read_blocking(offset, FILE_SIZE - offset % FILE_SIZE)
        assert part
        parts.append(part)
        offset += len(part)
    return b"".join(parts)


def borders_of(lab: LogLab) -> set[int]:
    """Return the offsets where a record ends."""
    ends = {0}
    for offset, check in lab.log.scan(0):
        assert check.state is not RecordState.INVALID
        ends.add(offset + check.size)
    return ends


def feed(intake: LogIntake, data: bytes, start: int, cuts: list[int]) -> None:
    """Give bytes to a slave in pieces; every piece is a frame and a read of its own."""
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for begin, end in pairwise(places):
        intake.feed(start + begin, memoryview(data)[begin:end])
        intake.settle()


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(0, MAX_BODY), min_size=1, max_size=12),
    cuts=st.lists(st.integers(0, 1 << 30), max_size=30),
)
def test_frames_may_be_cut_at_any_byte(sizes: list[int], cuts: list[int]) -> None:
    """Also inside the blank records that end a file; and no half record is ever in the slave's log."""

    async def lab(master: LogLab, slave: LogLab) -> None:
        await fill(master, sizes)
        data, borders = bytes_of(master), borders_of(master)
        intake = LogIntake(slave.log, MAX_BODY)
        ends: list[int] = []
        intake.on_appended = lambda: ends.append(slave.log.max_offset)
        assert intake.begin() == 0
        feed(intake, data, 0, cuts)
        assert bytes_of(slave) == data
        blanks = {file.end for file in master.log.files.mapped_files}
        inside_a_blank = [end for end in ends if end not in borders and not any(0 < b - end < 2_200 for b in blanks)]
        assert not inside_a_blank, f"the log ended inside a record at {inside_a_blank}"
        assert intake.is_verified

    run(lab)


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(0, MAX_BODY), min_size=4, max_size=12),
    cuts=st.lists(st.integers(0, 1 << 30), min_size=1, max_size=30),
    bad=st.sets(st.integers(0, 30), max_size=5),
)
def test_a_link_may_be_lost_after_any_byte(sizes: list[int], cuts: list[int], bad: set[int]) -> None:
    """Each piece comes over a link of its own; some are zeros from where the copy ends. What is asked for next goes on from
    what was kept.
    """

    async def lab(master: LogLab, slave: LogLab) -> None:
        await fill(master, sizes)
        data = bytes_of(master)
        intake = LogIntake(slave.log, MAX_BODY)
        for number, cut in enumerate([*sorted(cut % (len(data) + 1) for cut in cuts), len(data)]):
            start = intake.begin()
            piece = bytearray(data[start:cut])
            if number in bad and number < len(cuts):
                # Zeros are no record, and inside a blank one they are what the master has.
                known = slave.log.max_offset - start
                piece[known:] = bytes(max(len(piece) - known, 0))
            # Two reads: the first may end anywhere, and what it had is kept.
            for begin, end in pairwise([0, len(piece) // 2, len(piece)]):
                with contextlib.suppress(CorruptDataError):
                    intake.feed(start + begin, memoryview(piece)[begin:end])
                    intake.settle()
        assert slave.log.max_offset == len(data), f"the copy stopped at {slave.log.max_offset}"

    run(lab)


def test_a_link_lost_inside_a_blank_record_is_taken_up_there() -> None:
    """At each byte of it. What comes behind it is refused once, so nothing of that read is kept."""

    async def lab(master: LogLab, slave: LogLab) -> None:
        await fill(master, [900, 900, 900, 1_500, 900])
        data = bytes_of(master)
        blank, end = next(
            (offset, offset + check.size)
            for offset, check in master.log.scan(0)
            if check.state is RecordState.BLANK and check.size > 20
        )
        intake = LogIntake(slave.log, MAX_BODY)
        for cut in range(blank, end + 1):
            start = intake.begin()
            intake.feed(start, memoryview(data)[start:cut])
            intake.settle()
            with pytest.raises(CorruptDataError):
                intake.feed(cut, memoryview(bytes(data[cut:end]) + b"no record of any kind, but long enough"))
                intake.settle()
        start = intake.begin()
        intake.feed(start, memoryview(data)[start:])
        intake.settle()
        assert bytes_of(slave) == data

    run(lab)


def test_an_empty_slave_may_be_sent_another_beginning_over_the_next_link() -> None:
    """Its first link is lost inside the first record, and the master has a newer file by then."""

    async def lab(master: LogLab, slave: LogLab) -> None:
        await fill(master, [900, 900, 900, 1_500, 900])
        data = bytes_of(master)
        intake = LogIntake(slave.log, MAX_BODY)
        assert intake.begin() == 0
        intake.feed(0, memoryview(data)[:50])
        assert intake.settle() == 0
        assert intake.begin() == 0
        intake.feed(FILE_SIZE, memoryview(data)[FILE_SIZE:])
        intake.settle()
        assert (slave.log.min_offset, slave.log.max_offset) == (FILE_SIZE, len(data))

    run(lab)


def test_a_cut_of_the_log_ends_what_was_known_of_a_blank_record() -> None:
    async def lab(master: LogLab, slave: LogLab) -> None:
        await fill(master, [900, 900, 900, 1_500, 900])
        data = bytes_of(master)
        blank = next(offset for offset, check in master.log.scan(0) if check.state is RecordState.BLANK)
        intake = LogIntake(slave.log, MAX_BODY)
        intake.begin()
        intake.feed(0, memoryview(data)[: blank + 10])
        intake.settle()
        assert slave.log.max_offset == blank + 10
        border = max(border for border in borders_of(master) if border < blank)
        slave.log.truncate(border)
        start = intake.begin()
        intake.feed(start, memoryview(data)[start:])
        intake.settle()
        assert bytes_of(slave) == data

    run(lab)


def test_a_log_in_single_bytes_is_the_same_log() -> None:
    async def lab(master: LogLab, slave: LogLab) -> None:
        await fill(master, [900, 1_500, 900, 1_200, 10])
        data = bytes_of(master)
        intake = LogIntake(slave.log, MAX_BODY)
        intake.begin()
        for at in range(len(data)):
            intake.feed(at, memoryview(data)[at : at + 1])
            intake.settle()
        assert bytes_of(slave) == data
        assert slave.records() == master.records()

    run(lab)


def test_a_flipped_bit_in_anything_that_can_be_checked_is_refused() -> None:
    """Size, magic, CRC, offset, lengths and body; what was good before it is kept."""

    async def lab(master: LogLab, slave: LogLab) -> None:
        await fill(master, [60, 60, 60])
        data = bytes_of(master)
        borders = sorted(borders_of(master))
        second = borders[1]
        checked = [*range(12), *range(28, 36), *range(84, HEAD_LAYOUT.size + 60)]
        topic = HEAD_LAYOUT.size + 60
        checked += [topic, topic + 7, topic + 8]
        for at in checked:
            for bit in (0, 3, 7):
                bad = bytearray(data)
                bad[second + at] ^= 1 << bit
                intake = LogIntake(slave.log, MAX_BODY)
                # The slave has the first record already, except in the first round.
                start = intake.begin()
                try:
                    intake.feed(start, memoryview(bad)[start:])
                    intake.settle()
                except CorruptDataError as error:
                    assert str(second) in str(error) or "size" in str(error)
                assert slave.log.max_offset <= second, f"bit {bit} of byte {at} of a record went unnoticed"
        intake = LogIntake(slave.log, MAX_BODY)
        start = intake.begin()
        intake.feed(start, memoryview(data)[start:])
        intake.settle()
        assert bytes_of(slave) == data, "after all that the right bytes must still be welcome"

    run(lab)


@settings(max_examples=40)
@given(lost_at=st.integers(0, 3_000), size=st.integers(1, 40), cuts=st.lists(st.integers(0, 1 << 20), max_size=5))
def test_lost_bytes_are_noticed_and_the_log_stays_a_copy(lost_at: int, size: int, cuts: list[int]) -> None:
    async def lab(master: LogLab, slave: LogLab) -> None:
        await fill(master, [300, 500, 100, 700, 200])
        data, borders = bytes_of(master), borders_of(master)
        place = lost_at % (len(data) - size)
        intake = LogIntake(slave.log, MAX_BODY)
        intake.begin()
        try:
            feed(intake, data[:place] + data[place + size :], 0, cuts)
        except CorruptDataError:
            pass
        kept = bytes_of(slave)
        assert kept == data[: len(kept)]
        assert len(kept) in borders
        assert len(kept) <= place + size

    run(lab)


@pytest.mark.parametrize(
    ("head", "says"),
    [
        ((1 << 30, -626843481), "a size from"),
        ((-5, -626843481), "a size from"),
        ((200, 0), "magic"),
        ((100, -875286124), "a blank record of 4096 bytes"),
        ((100, -875286124), "give it the master's value"),
        ((5_000, -626843481), "mappedFileSizeCommitLog is not this slave's"),
    ],
)
def test_a_record_that_cannot_be_is_refused_before_the_rest_of_it_is_waited_for(
    head: tuple[int, int], says: str
) -> None:
    async def lab(master: LogLab, slave: LogLab) -> None:
        intake = LogIntake(slave.log, MAX_BODY)
        intake.begin()
        intake.feed(0, memoryview(struct.pack(">ii", *head)))
        with pytest.raises(CorruptDataError, match=says):
            intake.settle()
        assert slave.log.max_offset == 0

    run(lab)


def test_a_frame_that_does_not_continue_the_log_is_refused() -> None:
    async def lab(master: LogLab, slave: LogLab) -> None:
        await fill(master, [60, 60])
        data = bytes_of(master)
        intake = LogIntake(slave.log, MAX_BODY)
        intake.begin()
        with pytest.raises(CorruptDataError, match="beginning of a file"):
            intake.feed(7, memoryview(data))
        intake.feed(0, memoryview(data))
        intake.settle()
        with pytest.raises(CorruptDataError, match=f"expected offset {len(data)}, found 0"):
            intake.check_offset(0)

    run(lab)


def test_a_slave_whose_end_the_master_never_had_is_told_so() -> None:
    """The master lost its newest bytes in a power cut and wrote others; the slave has the lost ones."""

    async def lab(master: LogLab, slave: LogLab) -> None:
        await fill(master, [60, 60])
        await slave.putter.put_message(draft(body=b"A" * 60, properties=b"KEYS\x01k0"))
        await slave.putter.put_message(draft(body=b"!" * 60, properties=b"KEYS\x01k1"))
        before = bytes_of(slave)
        intake = LogIntake(slave.log, MAX_BODY)
        start = intake.begin()
        assert start == max(len(before) - OVERLAP, 1)
        assert not intake.is_verified
        with pytest.raises(DivergedError, match="set its store aside"):
            intake.feed(start, memoryview(bytes_of(master))[start:])
        assert bytes_of(slave) == before

    run(lab)


# --- frames -------------------------------------------------------------------------------------------------------------


def test_the_frames_are_those_of_rocketmq() -> None:
    """Worked examples of the default protocol, byte for byte."""
    slave, master = DefaultSlaveCodec(), DefaultMasterCodec()
    assert slave.report(202).hex(" ") == "00 00 00 00 00 00 00 ca"
    assert master.header(202, 200).hex(" ") == "00 00 00 00 00 00 00 ca 00 00 00 c8"
    assert master.header(402, 0).hex(" ") == "00 00 00 00 00 00 01 92 00 00 00 00"
    assert slave.header(master.header(202, 200), 0) == Header(202, 200)


@given(
    offsets=st.lists(st.integers(0, 1 << 62), min_size=1, max_size=20),
    seed=st.integers(0, 1 << 30),
)
def test_the_last_complete_report_counts_however_the_bytes_come(offsets: list[int], seed: int) -> None:
    rng, codec = random.Random(seed), DefaultMasterCodec()
    data = b"".join(struct.pack(">q", offset) for offset in offsets)
    newest = None
    at = 0
    while at < len(data):
        size = rng.randint(1, 20)
        found = codec.feed(data[at : at + size])
        at = min(at + size, len(data))
        newest = found if found is not None else newest
        assert newest == (offsets[at // 8 - 1] if at >= 8 else None)
