"""Block checks: a byte that changed on the disk is found when it is first read, named, and never served."""

from __future__ import annotations

import asyncio
import logging
import random
import zlib

import pytest

from labs.stage_04_recovery.recovery_lab import Machine, draft, numbered
from rocketmq_py.store.bit_flip import locate_flipped_bit
from rocketmq_py.store.block_checks import BLOCK_SIZE, CHECK_LAYOUT, BlockChecks
from rocketmq_py.store.errors import StoreCorruptError
from rocketmq_py.store.scrub import Scrub

FIRST = "00000000000000000000"


async def stopped(machine: Machine, count: int = 90) -> list[int]:
    """Write messages into several files of the log, stop, and return where each record begins, and the end."""
    running = await machine.start()
    results = await running.put(*(draft(body) for body in numbered(0, count)))
    borders = [result.wrote_offset for result in results] + [running.log.max_offset]
    await machine.stop()
    return borders


@pytest.mark.virtual_time
@pytest.mark.parametrize("place", ["queue offset", "store timestamp", "topic", "properties", "body"])
async def test_a_flipped_bit_costs_one_message_and_is_named(place: str, caplog: pytest.LogCaptureFixture) -> None:
    """Claim: one flipped bit anywhere in a record is found, and costs that message only.

    Experiment: flip one bit of an old message: in its head, topic, properties or body. RocketMQ's CRC covers the body.
    Observe: consumers get every other message; the log names file, byte and bit; the read is counted.
    """
    machine = Machine()
    borders = await stopped(machine)
    at = {"queue offset": 27, "store timestamp": 60, "topic": 96, "properties": 110, "body": 89}[place]
    victim = 7
    machine.disk.flip_bit(machine.path("commitlog", FIRST), borders[victim] + at, 3)
    running = await machine.start()

    with caplog.at_level(logging.ERROR):
        bodies = await running.bodies()

    assert bodies == [body for number, body in enumerate(numbered(0, 90)) if number != victim]
    assert running.store.damaged_reads == 1
    text = "\n".join(record.getMessage() for record in caplog.records)
    assert f"commitlog/{FIRST} at byte {borders[victim] + at} " in text
    assert "bit 3 of this byte flipped" in text
    assert "Copy the file from a replica" in text
    await machine.stop()


@pytest.mark.virtual_time
async def test_a_lost_sector_costs_the_messages_in_it() -> None:
    """Claim: damage of many bytes is narrowed down to the records that are invalid.

    Experiment: overwrite 512 bytes of an old file.
    Observe: the messages whose records lie in it are skipped, all others are served.
    """
    machine = Machine()
    borders = await stopped(machine)
    machine.disk.damage(machine.path("commitlog", FIRST), 1024, b"\xa5" * 512)
    hit = [number for number in range(90) if borders[number] < 1536 and borders[number + 1] > 1024]

    running = await machine.start()
    bodies = await running.bodies()

    assert bodies == [body for number, body in enumerate(numbered(0, 90)) if number not in hit]
    assert running.store.damaged_reads == len(hit)
    await machine.stop()


@pytest.mark.virtual_time
async def test_looking_at_a_damaged_message_by_its_offset_is_an_error_with_its_place() -> None:
    """Claim: a damaged record is never given out, whatever way leads to it."""
    machine = Machine()
    borders = await stopped(machine)
    machine.disk.flip_bit(machine.path("commitlog", FIRST), borders[3] + 100, 6)
    running = await machine.start()

    with pytest.raises(StoreCorruptError, match=f"at byte {borders[3] + 100} "):
        await running.store.look_message(borders[3])
    assert await running.store.look_message(borders[4]) is not None
    await machine.stop()


@pytest.mark.virtual_time
async def test_a_check_is_the_crc_of_what_lies_in_its_block() -> None:
    """Claim: `checks/` holds, for each log file, length and CRC-32 of each of its blocks.

    Experiment: write 200,000 bytes into a file of 1 MiB, stop.
    Observe: three whole blocks and the beginning of a fourth are covered, by zlib's CRC-32, big-endian.
    """
    machine = Machine(mapped_file_size_commit_log=1 << 20)
    running = await machine.start()
    await running.put(*(draft("x" * 1_900, properties=b"") for _ in range(100)))
    end = running.log.max_offset
    await machine.stop()

    log = machine.disk.read_file(machine.path("commitlog", FIRST))
    data = machine.disk.read_file(machine.path("checks", FIRST))
    checks = list(CHECK_LAYOUT.struct.iter_unpack(data))
    blocks = [log[start : min(start + BLOCK_SIZE, end)] for start in range(0, end, BLOCK_SIZE)]
    assert len(blocks) == 4
    assert checks == [(len(block), zlib.crc32(block)) for block in blocks]


@pytest.mark.virtual_time
async def test_checks_follow_crashes_cuts_and_new_messages() -> None:
    """Claim: after any crash and recovery the checks fit what is in the log, and what is appended next.

    Experiment: twenty rounds of writing, then kill or power cut; after each start all checks are looked at.
    Observe: none finds damage, and after a stop in order every byte of the log is covered.
    """
    machine, rng = Machine(5), random.Random(5)
    for round_ in range(20):
        running = await machine.start()
        checks = running.kernel.get(BlockChecks)
        for block in checks.covered():
            assert checks.check(block) == (), f"round {round_}"
        await running.write(numbered(round_ * 50, rng.randrange(1, 50)))
        await rng.choice([machine.kill, machine.cut_power])()
    running = await machine.start()
    await running.write(["last"])
    end = running.log.max_offset
    await machine.stop()
    running = await machine.start()
    assert running.report.scanned_from == end, "the checks do not cover the newest file"
    await machine.stop()


@pytest.mark.virtual_time
async def test_checks_of_neighbours_are_written_with_one_call() -> None:
    """Claim: the checks of a fast copy cost one write for each row of neighbours, not one for each 64 KiB.

    Experiment: write the checks of blocks 0-99, 101 and 103-104 of one file, block 100 having been written before.
    Observe: three writes, and every check is in its place.
    """
    machine = Machine(mapped_file_size_commit_log=200 * BLOCK_SIZE)
    running = await machine.start()
    checks = running.kernel.get(BlockChecks)
    checks.write({100 * BLOCK_SIZE: (7, 7)})
    wanted = [*range(100), 101, 103, 104]
    before = machine.disk.calls["pwrite"]

    checks.write({number * BLOCK_SIZE: (number + 1, number) for number in reversed(wanted)})

    assert machine.disk.calls["pwrite"] - before == 3
    written = list(CHECK_LAYOUT.struct.iter_unpack(machine.disk.read_file(machine.path("checks", FIRST))))
    expected = [(number + 1, number) for number in range(105)]
    expected[100], expected[102] = (7, 7), (0, 0)
    assert written == expected
    await machine.stop()


@pytest.mark.parametrize("length", [1, 2, 700, BLOCK_SIZE])
def test_a_crc_says_which_bit_flipped(length: int) -> None:
    """Claim: a CRC-32 is linear, so the difference of two checksums names the one bit in which two blocks differ."""
    rng = random.Random(length)
    block = rng.randbytes(length)
    expected = zlib.crc32(block)
    for _ in range(20):
        byte, bit = rng.randrange(length), rng.randrange(8)
        spoilt = bytearray(block)
        spoilt[byte] ^= 1 << bit
        assert locate_flipped_bit(expected, zlib.crc32(spoilt), length) == (byte, bit)
    other = zlib.crc32(rng.randbytes(length + 7))
    found = locate_flipped_bit(expected, other, length)
    assert found is None or length == BLOCK_SIZE


@pytest.mark.virtual_time
async def test_the_scrub_finds_damage_that_nobody_has_read(caplog: pytest.LogCaptureFixture) -> None:
    """Claim: old blocks are read again and again, slowly, so that damage is found while it can still be repaired.

    Experiment: flip a bit of an old message; start; read nothing; wait three minutes.
    Observe: every block was checked, and the damage is in the log with its place. The message stays unread.
    """
    machine = Machine()
    borders = await stopped(machine)
    machine.disk.flip_bit(machine.path("commitlog", f"{4096:020d}"), 700, 1)
    running = await machine.start()
    scrub = running.kernel.get(Scrub)

    with caplog.at_level(logging.INFO):
        await asyncio.sleep(180)

    assert scrub.passes >= 2
    assert scrub.blocks >= 2 * -(-borders[-1] // 4096)
    assert f"commitlog/{4096:020d} at byte 700 " in caplog.text
    assert "all blocks of the log were read, 1 are damaged" in caplog.text
    assert running.store.damaged_reads == 0
    await machine.stop()
