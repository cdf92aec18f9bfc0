"""The clients for ordinary code: no event loop, no `await`, any number of threads."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.client import sync
from rocketmq_py.client.consumer_config import LitePullConsumerConfig, PushConsumerConfig
from rocketmq_py.client.errors import ClientError
from rocketmq_py.client.selectors import select_by_hash
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.message import Message
from rocketmq_py.remoting.bodies.heartbeat import ConsumeFromWhere
from rocketmq_py.remoting.bodies.topic_config import TopicConfig
from rocketmq_py.testing.cluster import Cluster

FIRST = ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET


async def run_program(tmp_path: Path, environment: Environment, program: Callable[[str], None]) -> None:
    """Run ordinary code in a thread beside a cluster with a topic of two queues; no thread may be left behind."""
    async with Cluster(tmp_path, environment=environment) as cluster:
        topics = cluster.kernels[0].get(TopicConfigManager)
        topics.update([TopicConfig(topic_name="Orders", read_queue_nums=2, write_queue_nums=2)])
        await asyncio.sleep(0)
        clients = {thread for thread in threading.enumerate() if thread.name.startswith("rocketmq-py-")}
        await asyncio.get_running_loop().run_in_executor(None, program, cluster.namesrv_addr)
        left = {thread for thread in threading.enumerate() if thread.name.startswith("rocketmq-py-")} - clients
        assert not [thread for thread in left if "listener" not in thread.name], left


async def test_a_producer(tmp_path: Path, environment: Environment) -> None:
    def program(namesrv_addr: str) -> None:
        with sync.Producer("Sellers", namesrv_addr=namesrv_addr) as producer:
            first = producer.send(Message.of("Orders", b"1"))
            future = producer.send_async(Message.of("Orders", b"2"))
            batch = producer.send_batch([Message.of("Orders", b"3"), Message.of("Orders", b"4")])
            by = producer.send_by(Message.of("Orders", b"5"), select_by_hash, "anna")
            producer.send_one_way(Message.of("Orders", b"6"))
            assert len(producer.publish_queues("Orders")) == 2
            assert first.is_ok
            assert future.result(5).is_ok
            assert batch.is_ok
            assert by.is_ok
            with pytest.raises(InvalidInputError):
                producer.send(Message.of("a/b", b"x"))
        with pytest.raises(ClientError, match="not running"):
            producer.send(Message.of("Orders", b"7"))
        producer.stop()

    await run_program(tmp_path, environment, program)


async def test_many_threads_use_one_producer(tmp_path: Path, environment: Environment) -> None:
    """Every send of every thread is answered with a place of its own."""

    def program(namesrv_addr: str) -> None:
        places: list[tuple[int, int]] = []
        with sync.Producer("Sellers", namesrv_addr=namesrv_addr) as producer:

            def work() -> None:
                for _ in range(20):
                    result = producer.send(Message.of("Orders", b"x"))
                    places.append((result.queue.queue_id, result.queue_offset))

            threads = [threading.Thread(target=work) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert len(places) == len(set(places)) == 160

    await run_program(tmp_path, environment, program)


async def test_a_push_consumer_calls_its_listener_in_threads(tmp_path: Path, environment: Environment) -> None:
    def program(namesrv_addr: str) -> None:
        got: Counter[bytes] = Counter()
        names: set[str] = set()
        is_complete = threading.Event()

        def handle(messages, context) -> None:
            names.add(threading.current_thread().name)
            got.update(message.body for message in messages)
            if len(got) == 20:
                is_complete.set()

        consumer = sync.PushConsumer("Billing", PushConsumerConfig(namesrv_addr=namesrv_addr, consume_from_where=FIRST))
        consumer.subscribe("Orders", "paid")
        consumer.register_listener(handle)
        with sync.Producer("Sellers", namesrv_addr=namesrv_addr) as producer, consumer:
            for number in range(20):
                producer.send(Message.of("Orders", f"{number}".encode(), tags="paid"))
                producer.send(Message.of("Orders", b"no", tags="cancelled"))
            assert is_complete.wait(10)
        assert got == Counter(f"{number}".encode() for number in range(20))
        assert all(name.startswith("rocketmq-py-listener") for name in names)

    await run_program(tmp_path, environment, program)


async def test_a_lite_pull_consumer_is_asked(tmp_path: Path, environment: Environment) -> None:
    def program(namesrv_addr: str) -> None:
        with sync.Producer("Sellers", namesrv_addr=namesrv_addr) as producer:
            for number in range(10):
                producer.send(Message.of("Orders", f"{number}".encode()))
        config = LitePullConsumerConfig(namesrv_addr=namesrv_addr, consume_from_where=FIRST, auto_commit=False)

        def read(count: int) -> list[bytes]:
            consumer = sync.LitePullConsumer("Audit", config)
            consumer.subscribe("Orders")
            found: list[bytes] = []
            with consumer:
                while len(found) < count and (messages := consumer.poll(5)):
                    found += [message.body for message in messages]
                assert sorted(queue.queue_id for queue in consumer.assignment()) == [0, 1]
                consumer.commit()
                for queue in consumer.assignment():
                    consumer.seek(queue, 4)
                again = [message.body for _ in range(2) for message in consumer.poll(5)]
                assert len(again) == 2
            return found

        assert sorted(read(10)) == [f"{number}".encode() for number in range(10)]
        with sync.Producer("Sellers", namesrv_addr=namesrv_addr) as producer:
            producer.send(Message.of("Orders", b"last"))

    await run_program(tmp_path, environment, program)
