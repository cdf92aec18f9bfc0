"""Progress and messages are two things: what a reader does to one changes nothing of the other."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from statistics import median

import pytest

from labs.stage_08_pull.pull_lab import GROUP, TOPIC, PullLab, bodies, pull_lab
from rocketmq_py.broker.consumer_offset import ConsumerOffsetManager
from rocketmq_py.client.config import ProducerConfig
from rocketmq_py.client.producer import Producer
from rocketmq_py.client.pull_api import PullStatus
from rocketmq_py.client.pull_consumer import PullConsumer
from rocketmq_py.common import sys_flag as flags
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.errors import CorruptDataError
from rocketmq_py.common.message import Message
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.store.commit_log import CommitLog
from rocketmq_py.store.message_store import MessageStore
from rocketmq_py.store.queue_slot import QueueSlots
from rocketmq_py.store.tick import Tick


async def _walk(consumer: PullConsumer, queue_id: int = 0, offset: int = 0, step: int = 4) -> tuple[list[str], int]:
    """Read a queue from an offset to its end, as an application does; return what was read and where it ends."""
    read: list[str] = []
    while True:
        result = await consumer.pull(PullLab.queue(queue_id), offset, max_messages=step)
        if result.status is not PullStatus.FOUND:
            return read, offset
        read += bodies(result.messages)
        offset = result.next_begin_offset


@pytest.mark.virtual_time
@pytest.mark.claim("cq-07")
async def test_messages_stay_after_delivery_and_can_be_read_again(environment: Environment, tmp_path: Path) -> None:
    """Claim: progress and messages are separate: messages stay after delivery and can be read again.

    Experiment: send 10 messages; one group reads and commits all of them, another only 4; then the first one begins
    again at 0. Compare the commit log before and after.
    Observe: each group has its own progress, the second reading gives the same messages, and reading has not changed a
    byte of the log.
    """
    async with pull_lab(tmp_path, environment) as lab:
        sent = [f"order {number}" for number in range(10)]
        await lab.send(*sent)
        log = lab.kernel.get(CommitLog)
        before = bytes(log.read(0, log.max_offset) or b"")

        async with lab.consumer("Audit") as audit, lab.consumer("Billing") as billing:
            read, end = await _walk(audit)
            await audit.commit({lab.queue(0): end})
            some = await billing.pull(lab.queue(0), 0, max_messages=4)
            await billing.commit({lab.queue(0): some.next_begin_offset})

            assert (read, end) == (sent, 10)
            assert bodies(some.messages) == sent[:4]
            assert (await audit.committed(lab.queue(0)), await billing.committed(lab.queue(0))) == (10, 4)
            assert (await _walk(audit))[0] == sent, "reading again from 0"

            await audit.commit({lab.queue(0): 3})
            assert await audit.committed(lab.queue(0)) == 3, "a group may go back"
            assert await billing.committed(lab.queue(0)) == 4
        assert bytes(log.read(0, log.max_offset) or b"") == before


@pytest.mark.virtual_time
@pytest.mark.claim("cq-08")
async def test_a_queue_is_rewound_to_a_millisecond(environment: Environment, tmp_path: Path) -> None:
    """Claim: consumption can be rewound to a time, with millisecond precision, by a search over the store times.

    Experiment: store 200 messages, 3 of them in each millisecond or none at all; ask for the offset of every
    millisecond between, before and after them.
    Observe: the answer is the first message that is not older (and with UPPER the last that is not younger), exactly.
    """
    async with pull_lab(tmp_path, environment) as lab, lab.consumer() as consumer:
        times: list[int] = []
        tick, slot = lab.kernel.get(Tick), lab.kernel.get(QueueSlots).get(TOPIC, 0)
        for number in range(200):
            if number % 3 == 0:
                await asyncio.sleep(0.001 * (1 + number % 4))
            tick.add(
                slot,
                body=b"%d" % number,
                properties=b"",
                flag=0,
                sys_flag=0,
                born_timestamp=7,
                born_host=b"\x7f\x00\x00\x01\x00\x00\x00\x09",
                tags_code=0,
            )
            await asyncio.sleep(0)
            times.append(environment.clock.wall_ms())
        queue = lab.queue(0)
        stored = (await consumer.pull(queue, 0, max_messages=32)).messages
        assert [message.store_timestamp for message in stored] == times[: len(stored)]

        for stamp in range(times[0] - 2, times[-1] + 3):
            first = sum(one < stamp for one in times)
            last = max(sum(one <= stamp for one in times) - 1, 0)
            assert await consumer.offsets.search_offset(queue, stamp) == first
            assert await consumer.offsets.search_offset(queue, stamp, upper=True) == last

        middle = times[100]
        offset = await consumer.offsets.search_offset(queue, middle)
        again = (await consumer.pull(queue, offset, max_messages=1)).messages[0]
        assert again.store_timestamp == middle
        assert times[offset - 1] < middle
        print(f"\n200 messages within {times[-1] - times[0]} ms; every millisecond was found")


@pytest.mark.claim("pull-08")
async def test_a_backlog_does_not_slow_sends(environment: Environment, tmp_path: Path) -> None:
    """Claim: a backlog does not slow writes: a send takes as long with a million messages waiting as with none.

    Experiment: two brokers, one with 1,000,000 messages that nobody has read; send to both in turn, 400 times.
    Observe: the two medians lie close together (the lab allows a factor of two, as the machine does other things, too).
    """
    async with pull_lab(tmp_path, environment, brokers=2) as lab:
        await _fill(lab, 1_000_000)
        store = lab.kernel.get(MessageStore)
        backlog = sum(store.max_offset(TOPIC, queue_id) for queue_id in range(4))
        assert backlog == 1_000_000

        spent: dict[str, list[float]] = {"broker-a": [], "broker-b": []}
        for number in range(400):
            for broker, times in spent.items():
                begin = time.perf_counter()
                await lab.producer.send(Message(TOPIC, b"x"), queue=lab.queue(number % 4, broker))
                times.append(time.perf_counter() - begin)
        full, empty = (median(times) * 1e6 for times in spent.values())

    print(f"\nmedian send: {full:.0f} us with {backlog:,} messages waiting, {empty:.0f} us with none")
    assert full < 2 * empty, "What does a send look at that grows with the queue?"


async def _fill(lab: PullLab, count: int) -> None:
    """Append small messages to the first broker's queues, in batches of 1,000."""
    tick, slots = lab.kernel.get(Tick), lab.kernel.get(QueueSlots)
    rows = [(0, b"x", b"", 0, None)] * 1_000
    for number in range(count // 1_000):
        tick.add_batch(
            slots.get(TOPIC, number % 4),
            rows,
            sys_flag=0,
            born_timestamp=7,
            born_host=b"\x7f\x00\x00\x01\x00\x00\x00\x09",
        )
        await asyncio.sleep(0)


# --- the offsets of groups ------------------------------------------------------------------------------------------------


def _file(folder: Path, name: str = "consumerOffset.json") -> Path:
    return folder / "broker-a" / "config" / name


def _table(path: Path) -> dict[str, dict[str, int]]:
    """Read the file; Java writes its number keys without quotes."""
    text = path.read_text()
    for number in range(10):
        text = text.replace(f"{{{number}:", f'{{"{number}":').replace(f",{number}:", f',"{number}":')
    table: dict[str, dict[str, int]] = json.loads(text)["offsetTable"]
    return table


@pytest.mark.virtual_time
async def test_offsets_are_written_every_five_seconds(environment: Environment, tmp_path: Path) -> None:
    """Claim: committed offsets are in memory first; the file follows every 5 s and keeps its predecessor as .bak.

    Experiment: commit 3, look at the file after 11 s; commit 8, look at once and after 6 s more.
    Observe: the file shows 3, still 3, then 8 with 3 in the .bak; without a commit it is not written again.
    """
    async with pull_lab(tmp_path, environment) as lab, lab.consumer() as consumer:
        await lab.send(*"abcdefgh", queue=2)
        await consumer.commit({lab.queue(2): 3})
        assert not _file(tmp_path).exists()
        await asyncio.sleep(11)
        assert _table(_file(tmp_path)) == {f"{TOPIC}@{GROUP}": {"2": 3}}

        await consumer.commit({lab.queue(2): 8})
        assert _table(_file(tmp_path)) == {f"{TOPIC}@{GROUP}": {"2": 3}}
        await asyncio.sleep(6)
        assert _table(_file(tmp_path)) == {f"{TOPIC}@{GROUP}": {"2": 8}}
        assert _table(_file(tmp_path, "consumerOffset.json.bak")) == {f"{TOPIC}@{GROUP}": {"2": 3}}

        written = _file(tmp_path).stat().st_mtime_ns
        await asyncio.sleep(60)
        assert _file(tmp_path).stat().st_mtime_ns == written


@pytest.mark.virtual_time
async def test_offsets_survive_a_restart(environment: Environment, tmp_path: Path) -> None:
    """Claim: a proper stop writes the offsets, and the next start reads them; messages and offsets are as before."""
    async with pull_lab(tmp_path, environment) as lab, lab.consumer() as consumer:
        await lab.send(*"abcdef", queue=1)
        await consumer.commit({lab.queue(1): 4})

        await lab.restart()

        assert await consumer.committed(lab.queue(1)) == 4
        assert (await _walk(consumer, 1, 4))[0] == ["e", "f"]


@pytest.mark.virtual_time
async def test_a_damaged_file_is_replaced_by_its_backup_and_never_by_nothing(
    environment: Environment, tmp_path: Path
) -> None:
    """Claim: a damaged offset file does not send every group back to 0.

    Experiment: write offsets twice, cut the newer file in half, start; then cut the backup, too, and start.
    Observe: the first start uses the backup; the second refuses, and names the file and what to do.
    """
    manager = ConsumerOffsetManager(str(tmp_path), environment)
    for offset in (5, 9):
        manager.commit(GROUP, TOPIC, 3, offset)
        manager.table.persist()
    path = tmp_path / "consumerOffset.json"
    path.write_bytes(path.read_bytes()[:-20])

    again = ConsumerOffsetManager(str(tmp_path), environment)
    await again.start()
    assert again.query(GROUP, TOPIC, 3) == 5

    backup = tmp_path / "consumerOffset.json.bak"
    backup.write_bytes(b"{")
    with pytest.raises(CorruptDataError, match=r"consumerOffset\.json.*Restore the file from a copy"):
        await ConsumerOffsetManager(str(tmp_path), environment).start()


async def test_the_file_is_that_of_rocketmq(environment: Environment, tmp_path: Path) -> None:
    """Claim: queue numbers are keys without quotes, as Java writes them; both forms, and a file of 4.9, can be read."""
    manager = ConsumerOffsetManager(str(tmp_path), environment)
    manager.commit(GROUP, TOPIC, 3, 70_000_000_000)
    manager.commit(GROUP, TOPIC, 0, 12)
    manager.table.persist()
    text = (tmp_path / "consumerOffset.json").read_text()
    assert '"Orders@Audit":{3:70000000000,0:12}' in text
    assert '"dataVersion":{' in text

    (tmp_path / "consumerOffset.json").write_text('{"offsetTable":{"T@g":{0:1,"7":22},"%RETRY%g@g":{0:5}}}')
    read = ConsumerOffsetManager(str(tmp_path), environment)
    await read.start()
    assert read.snapshot() == {"T@g": {0: 1, 7: 22}, "%RETRY%g@g": {0: 5}}
    assert (read.topics_of("g"), read.groups_of("T")) == (["%RETRY%g", "T"], ["g"])


@pytest.mark.virtual_time
async def test_a_new_group_begins_at_zero_of_a_young_queue(environment: Environment, tmp_path: Path) -> None:
    """Claim: for a group without an offset the broker says 0 while message 0 is at hand; 22 for an empty queue.

    Experiment: ask for the offset of a group that never committed, on a queue with messages and on an empty one; once
    more with the wish not to be told 0.
    Observe: 0, then QUERY_NOT_FOUND; with the wish QUERY_NOT_FOUND.
    """
    async with pull_lab(tmp_path, environment) as lab:
        await lab.send("a", queue=1)
        fields = {"consumerGroup": "Unknown", "topic": TOPIC, "queueId": "1"}
        young = await lab.request(RequestCode.QUERY_CONSUMER_OFFSET, fields)
        assert (young.code, young.ext_fields["offset"]) == (ResponseCode.SUCCESS, "0")

        empty = await lab.request(RequestCode.QUERY_CONSUMER_OFFSET, {**fields, "queueId": "2"})
        assert empty.code == ResponseCode.QUERY_NOT_FOUND
        assert empty.remark == "Not found, V3_0_6_SNAPSHOT maybe this group consumer boot first"

        exact = await lab.request(RequestCode.QUERY_CONSUMER_OFFSET, {**fields, "setZeroIfNotFound": "false"})
        assert exact.code == ResponseCode.QUERY_NOT_FOUND
        assert exact.remark == "Not found, do not set to zero, maybe this group boot first"


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    ("changes", "code", "remark"),
    [
        ({"topic": "Nowhere"}, ResponseCode.TOPIC_NOT_EXIST, "Topic Nowhere not exist!"),
        ({"queueId": None}, ResponseCode.INVALID_PARAMETER, "QueueId is null, topic is Orders"),
        ({"commitOffset": None}, ResponseCode.INVALID_PARAMETER, "Offset is null, topic is Orders"),
    ],
)
async def test_a_commit_that_makes_no_sense_is_refused(
    environment: Environment, tmp_path: Path, changes: dict[str, str | None], code: int, remark: str
) -> None:
    """Claim: nothing is stored for a topic, a queue or an offset that is not there."""
    async with pull_lab(tmp_path, environment) as lab:
        fields = {"consumerGroup": GROUP, "topic": TOPIC, "queueId": "1", "commitOffset": "6", **changes}
        answer = await lab.request(
            RequestCode.UPDATE_CONSUMER_OFFSET, {name: value for name, value in fields.items() if value is not None}
        )
        assert (answer.code, answer.remark) == (code, remark)
        assert lab.kernel.get(ConsumerOffsetManager).snapshot() == {}


@pytest.mark.virtual_time
async def test_a_reset_is_told_with_the_next_pull_and_shields_from_old_commits(
    environment: Environment, tmp_path: Path
) -> None:
    """Claim: an administrator's new position reaches the group through its next pull; until then the group's own
    commits, which still count from the old one, are ignored.

    Experiment: set the group back to 2; commit 9 in both ways; pull from 9; commit 3.
    Observe: the commits change nothing; the pull is answered with 2; then commits count again.
    """
    async with pull_lab(tmp_path, environment) as lab:
        await lab.send(*"abcdefghij")
        offsets = lab.kernel.get(ConsumerOffsetManager)
        offsets.assign_reset(GROUP, TOPIC, 0, 2)
        commit = {"consumerGroup": GROUP, "topic": TOPIC, "queueId": "0", "commitOffset": "9"}

        ignored = await lab.request(RequestCode.UPDATE_CONSUMER_OFFSET, commit)
        assert (ignored.code, ignored.remark) == (ResponseCode.SUCCESS, "Offset has been previously reset")
        assert offsets.query(GROUP, TOPIC, 0) == 2

        told = await lab.pull(9, sys_flag=flags.PULL_SUBSCRIPTION | flags.PULL_COMMIT_OFFSET, commit_offset=9)
        assert (told.code, told.remark) == (ResponseCode.PULL_OFFSET_MOVED, "OFFSET_RESET")
        assert (told.ext_fields["nextBeginOffset"], told.ext_fields["maxOffset"]) == ("2", "10")
        assert offsets.query(GROUP, TOPIC, 0) == 2

        await lab.request(RequestCode.UPDATE_CONSUMER_OFFSET, {**commit, "commitOffset": "3"})
        assert offsets.query(GROUP, TOPIC, 0) == 3


@pytest.mark.virtual_time
async def test_offsets_of_a_deleted_topic_are_forgotten(environment: Environment, tmp_path: Path) -> None:
    """Claim: a topic that is created again does not inherit progress."""
    async with pull_lab(tmp_path, environment) as lab, lab.consumer() as consumer:
        await lab.send("a", "b")
        await consumer.commit({lab.queue(0): 2})
        lab.kernel.get(ConsumerOffsetManager).commit(GROUP, "Other", 0, 5)

        answer = await lab.request(RequestCode.DELETE_TOPIC_IN_BROKER, {"topic": TOPIC})

        assert answer.code == ResponseCode.SUCCESS
        assert lab.kernel.get(ConsumerOffsetManager).snapshot() == {f"Other@{GROUP}": {0: 5}}


# --- name servers ---------------------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
@pytest.mark.claim("ns-06")
async def test_losing_a_name_server_stops_nobody(environment: Environment, tmp_path: Path) -> None:
    """Claim: several name servers are equivalent: kill one, and sends, receives and new clients carry on.

    Experiment: two name servers, a producer and a reader at work. Kill one name server (once each in two runs); send
    and read on for two minutes, which is four refreshes of routes; then start a new producer and a new reader.
    Observe: everything is sent once and read, by the old clients and the new ones, with either server left.
    """
    for victim in (0, 1):
        async with (
            pull_lab(tmp_path / str(victim), environment, name_servers=2) as lab,
            lab.consumer() as reader,
        ):
            await lab.send("before")
            assert (await _walk(reader))[0] == ["before"]

            await lab.cluster.namesrvs[victim].stop()

            for number in range(12):
                await lab.send(f"after {number}")
                await asyncio.sleep(10)
            expected = ["before", *(f"after {number}" for number in range(12))]
            assert (await _walk(reader))[0] == expected

            config = ProducerConfig(namesrv_addr=lab.cluster.namesrv_addr)
            async with (
                Producer("Newcomers", config, environment=environment) as newcomer,
                lab.consumer("NewReaders") as new_reader,
            ):
                result = await newcomer.send(Message.of(TOPIC, b"from a newcomer"), queue=lab.queue(0))
                assert result.is_ok
                assert (await _walk(new_reader))[0] == [*expected, "from a newcomer"]
