"""Timers with the Java client and with the broker of Apache RocketMQ 5.3.3; a store with timers that wait, exchanged."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.assembly.stages import build_broker
from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.client.admin.client import AdminClient
from rocketmq_py.client.config import ProducerConfig
from rocketmq_py.client.errors import BrokerResponseError
from rocketmq_py.client.producer import Producer
from rocketmq_py.client.pull_api import PullStatus
from rocketmq_py.client.pull_consumer import PullConsumer
from rocketmq_py.common.environment import system_environment
from rocketmq_py.common.message import Message, MessageExt
from rocketmq_py.namesrv.config import NamesrvConfig
from rocketmq_py.namesrv.server import Namesrv
from rocketmq_py.store.config import MessageStoreConfig
from rocketmq_py.store.timer.timer_message_store import TimerMessageStore
from rocketmq_py.testing.eventually import eventually

from .apache import apache_servers
from .java_tools import compile_sources, free_port, jars, java, mqadmin
from .our_servers import our_servers

pytestmark = [pytest.mark.interop, pytest.mark.serial, pytest.mark.timeout(400)]

COUNT = 60
SIZES = {
    "mapped_file_size_commit_log": 16 << 20,
    "mapped_file_size_consume_queue": 600_000,
    "mapped_file_size_timer_log": 520_000,
}


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def read_all(namesrv: str, topic: str) -> list[MessageExt]:
    """Return every message that consumers of a topic can see."""
    found: list[MessageExt] = []
    async with PullConsumer("Reader", namesrv_addr=namesrv) as consumer:
        for queue in await consumer.fetch_queues(topic):
            offset = await consumer.offsets.min_offset(queue)
            while (result := await consumer.pull(queue, offset)).status is PullStatus.FOUND:
                found += result.messages
                offset = result.next_begin_offset
    return found


async def until(namesrv: str, topic: str, keys: set[str], seconds: float) -> list[MessageExt]:
    """Wait until all keys have come, and return what is there then."""
    end = asyncio.get_running_loop().time() + seconds
    while True:
        found = await read_all(namesrv, topic)
        missing = keys - {message.keys for message in found}
        if not missing:
            return found
        assert asyncio.get_running_loop().time() < end, f"{sorted(missing)} have not come after {seconds} s"
        await asyncio.sleep(0.5)


def check(messages: list[MessageExt], due: dict[str, int], late_ms: int = 10_000) -> None:
    """Each came once, none early, none much later than its second; a busy machine takes a few more."""
    assert Counter(message.keys for message in messages) == Counter(list(due))
    late = {message.keys: message.store_timestamp - due[message.keys] for message in messages}
    print(f"later than asked for: {min(late.values())} to {max(late.values())} ms")
    assert min(late.values()) >= 0
    assert max(late.values()) <= late_ms


async def test_a_java_client_delays_and_takes_back_messages_on_our_broker(tmp_path: Path) -> None:
    """Claim: programs written for the timers of Apache RocketMQ run against this broker unchanged.

    Experiment: a Java producer asks for delays in seconds, in milliseconds and for a time; takes one message back; asks for
        more than three days. A Java consumer is there all the while.
    Observe: each message comes once, at its second; the one that was taken back does not; the last is refused in
        RocketMQ's words.
    """
    jars()
    classes = compile_sources(tmp_path / "classes")
    async with our_servers(tmp_path, recall_message_enable=True) as servers:
        output = await mqadmin(
            tmp_path, "updateTopic", "-n", servers.namesrv, "-b", servers.broker, "-t", "Later", "-r", "4", "-w", "4"
        )
        assert "success" in output, output
        async with (
            java(
                "Consume", servers.namesrv, "Later", "JavaReaders", "one", home=tmp_path / "c", classes=classes
            ) as reader,
            java(
                "ProduceLater", servers.namesrv, "Later", str(COUNT), home=tmp_path / "p", classes=classes
            ) as producer,
        ):
            assert await producer.wait(120) == 0
            lines = [line.split(" ", 2) for line in producer.lines]
            due = {line[0]: int(line[1]) for line in lines if line[0].startswith("later-")}
            assert len(due) == COUNT, producer.output
            assert ["recalled", "true"] in lines
            (refused,) = [line for line in lines if line[0] == "refused"]
            assert refused[1] == "13"
            assert "the delay time should not be bigger than the max delay 259200000ms" in refused[2]
            await eventually(lambda: sum("later-" in line for line in reader.lines) >= COUNT, seconds=60)
            # The second of the one that was taken back has passed, too.
            timers = servers.kernel.get(TimerMessageStore)
            await eventually(lambda: timers.dequeue.deleted == 1, seconds=20)
            received = Counter(line.split(" ")[2] for line in reader.lines if line.count(" ") == 2)
            assert received == Counter(list(due))
            check(await read_all(servers.namesrv, "Later"), due)


async def test_our_client_delays_and_takes_back_messages_on_an_apache_broker(tmp_path: Path) -> None:
    """Every way to ask for a time, the recall with its handle, and what is refused."""
    async with (
        apache_servers(tmp_path, recallMessageEnable="true") as apache,
        AdminClient(namesrv_addr=apache.namesrv) as admin,
    ):
        await admin.topics.create("Later", queues=4)
        config = ProducerConfig(namesrv_addr=apache.namesrv, send_msg_timeout=20_000)
        due: dict[str, int] = {}
        async with Producer("P", config) as producer:
            for number in range(COUNT):
                message = Message.of("Later", b"x", keys=f"later-{number}")
                seconds, now = 2 + number % 5, now_ms()
                if number % 3 == 0:
                    message.delay_time_sec = seconds
                elif number % 3 == 1:
                    message.delay_time_ms = seconds * 1000 + 123
                else:
                    message.deliver_time_ms = now + seconds * 1000 + 456
                assert (await producer.send(message)).is_ok
                due[f"later-{number}"] = now + seconds * 1000 + (0, 123, 456)[number % 3]
            unwanted = Message.of("Later", b"x", keys="unwanted")
            unwanted.delay_time_ms = 8_000
            sent = await producer.send(unwanted)
            assert sent.recall_handle is not None
            assert await producer.recall_message("Later", sent.recall_handle) == sent.msg_id
            with pytest.raises(BrokerResponseError, match="recall handle is invalid"):
                await admin.instance.ask(
                    apache.broker, 370, {"producerGroup": "P", "topic": "Later", "recallHandle": "AAAA"}
                )
            too_late = Message.of("Later", b"x")
            too_late.delay_time_sec = 259_201
            with pytest.raises(BrokerResponseError, match="the delay time should not be bigger than the max delay"):
                await producer.send(too_late)
        await until(apache.namesrv, "Later", set(due), 60)
        await asyncio.sleep(8)
        check(await read_all(apache.namesrv, "Later"), due)


@dataclass(slots=True)
class Ours:
    """A broker of ours on a store, with a name server of its own."""

    namesrv: str
    kernel: Kernel


@contextlib.asynccontextmanager
async def ours(folder: Path, store: Path) -> AsyncIterator[Ours]:
    environment = system_environment()
    namesrv = Namesrv(NamesrvConfig(listen_port=0, kv_config_path=str(folder / "kv.json")), environment)
    await namesrv.start()
    config = BrokerConfig(
        broker_name="apache-a", listen_port=free_port(), namesrv_addr=namesrv.address, recall_message_enable=True
    )
    kernel = build_broker(config, MessageStoreConfig(store_path_root_dir=str(store), **SIZES), environment)
    try:
        await kernel.start()
        yield Ours(namesrv.address, kernel)
    finally:
        await kernel.stop()
        await namesrv.stop()


async def put(namesrv: str, prefix: str, moments: list[int], due: dict[str, int], *, recall: int) -> None:
    """Send a message for each moment; take back those for the `recall`-th, which are not entered in `due`."""
    config = ProducerConfig(namesrv_addr=namesrv, send_msg_timeout=20_000)
    async with Producer("P", config) as producer:
        for number, moment in enumerate(moments):
            for copy in range(5):
                key = f"{prefix}-{number}-{copy}"
                message = Message.of("Moved", b"x" * 100, keys=key)
                message.deliver_time_ms = moment
                result = await producer.send(message)
                if number == recall and copy == 0:
                    assert result.recall_handle is not None
                    await producer.recall_message("Moved", result.recall_handle)
                else:
                    due[key] = moment


async def test_a_store_with_waiting_timers_goes_to_the_apache_broker_and_back(tmp_path: Path) -> None:
    """Claim: wheel, timer log and checkpoint are RocketMQ's; a store may change brokers while timers wait.

    Experiment: put timers with ours: some are delivered there, some while Apache's broker runs on the store, some when
        ours runs on it again; the same with timers that were put with Apache's. Some are taken back.
    Observe: each comes once, at its second, wherever it was put; what was taken back does not come.
    """
    due: dict[str, int] = {}
    begin = now_ms()
    with_ours, with_apache, with_ours_again = begin + 5_000, begin + 45_000, begin + 85_000
    async with ours(tmp_path, tmp_path / "one/store") as first, AdminClient(namesrv_addr=first.namesrv) as admin:
        await admin.topics.create("Moved", queues=3)
        moments = [with_ours, with_apache, with_apache + 1_500, with_ours_again, with_ours_again + 777]
        await put(first.namesrv, "ours", moments, due, recall=1)
        await put(first.namesrv, "ours too", [with_ours_again], due, recall=0)
        await until(first.namesrv, "Moved", {key for key, time in due.items() if time == with_ours}, 30)
        await asyncio.sleep(1)
    assert now_ms() < with_apache - 15_000, "the machine is too slow for this lab's plan"

    shutil.copytree(tmp_path / "one/store", tmp_path / "two/store")
    settings = {"mappedFileSizeTimerLog": SIZES["mapped_file_size_timer_log"], "recallMessageEnable": "true"}
    async with apache_servers(tmp_path / "two", **settings) as apache:
        assert now_ms() < with_apache - 1_000, "the machine is too slow for this lab's plan"
        await put(apache.namesrv, "apache", [with_apache + 3_000, with_ours_again + 2_345], due, recall=1)
        here = {key: time for key, time in due.items() if time < with_ours_again}
        check(await until(apache.namesrv, "Moved", set(here), 60), here)
        await asyncio.sleep(2)
    assert now_ms() < with_ours_again - 5_000, "the machine is too slow for this lab's plan"

    async with ours(tmp_path, tmp_path / "two/store") as last:
        timers = last.kernel.get(TimerMessageStore)
        print(timers.report)
        await until(last.namesrv, "Moved", set(due), 90)
        await asyncio.sleep(3)
        check(await read_all(last.namesrv, "Moved"), due)
        assert timers.dequeue.deleted == 2


async def test_a_killed_store_of_either_broker_is_taken_over_by_the_other(tmp_path: Path) -> None:
    """What a killed broker left waiting comes from the other one: nothing is lost.

    What was delivered within the last second before the kill may come again.
    """
    due: dict[str, int] = {}
    begin = now_ms()
    async with ours(tmp_path, tmp_path / "one/store") as first, AdminClient(namesrv_addr=first.namesrv) as admin:
        await admin.topics.create("Moved", queues=3)
        await put(first.namesrv, "ours", [begin + 40_000, begin + 41_234, begin + 80_000], due, recall=9)
        # As a kill leaves it: whatever was written by then, with the abort file. Mapped files are copied as they are.
        await asyncio.sleep(1.5)
        shutil.copytree(tmp_path / "one/store", tmp_path / "two/store")
    (tmp_path / "two/store/abort").touch()
    async with apache_servers(
        tmp_path / "two", mappedFileSizeTimerLog=SIZES["mapped_file_size_timer_log"], recallMessageEnable="true"
    ) as apache:
        await put(apache.namesrv, "apache", [begin + 60_000, begin + 80_000], due, recall=9)
        here = {key: time for key, time in due.items() if time <= begin + 41_234}
        await until(apache.namesrv, "Moved", set(here), 60)
        apache.broker_program._process.kill()
        await apache.broker_program.wait(20)
    async with ours(tmp_path, tmp_path / "two/store") as last:
        print(last.kernel.get(TimerMessageStore).report)
        await until(last.namesrv, "Moved", set(due), 120)
        await asyncio.sleep(2)
        messages = await read_all(last.namesrv, "Moved")
    assert {message.keys for message in messages} == set(due)
    assert all(message.store_timestamp >= due[message.keys] for message in messages)
    doubled = {key for key, count in Counter(message.keys for message in messages).items() if count > 1}
    print(f"{len(doubled)} of {len(due)} came twice")
    assert all(due[key] >= begin + 40_000 for key in doubled)
