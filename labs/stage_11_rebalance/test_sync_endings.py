"""How the clients for ordinary code end: properly, twice, too early, by Ctrl-C, from a listener, or not at all."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rocketmq_py.client import sync
from rocketmq_py.client.blocking import LoopThread
from rocketmq_py.client.consume_service import ConsumeContext
from rocketmq_py.client.consumer_config import PushConsumerConfig
from rocketmq_py.client.errors import ClientStateError, NoNameServerError
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.message import Message, MessageExt

from .test_sync import FIRST, run_program

NOBODY = "127.0.0.1:1"


def threads_of_clients() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("rocketmq-py-")]


def test_a_stopped_client_says_so_and_starts_no_thread_again() -> None:
    consumer = sync.PushConsumer("Billing", namesrv_addr=NOBODY)
    consumer.stop()
    consumer.stop()
    for use in (consumer.start, lambda: consumer.subscribe("Orders")):
        with pytest.raises(ClientStateError, match="was stopped, and does not start again"):
            use()
    producer = sync.Producer("Sellers", namesrv_addr=NOBODY)
    producer.stop()
    with pytest.raises(ClientStateError, match="make a new one"):
        producer.send(Message.of("Orders", b"x"))
    with pytest.raises(ClientStateError, match="make a new one"):
        producer.send_async(Message.of("Orders", b"x"))
    lite = sync.LitePullConsumer("Audit", namesrv_addr=NOBODY)
    lite.stop()
    with pytest.raises(ClientStateError, match="make a new one"):
        lite.poll()
    assert threads_of_clients() == []


def test_a_start_that_fails_leaves_no_thread() -> None:
    consumer = sync.PushConsumer("Billing", namesrv_addr=NOBODY)
    consumer.subscribe("Orders")
    consumer.register_listener(lambda messages, context: None)
    with pytest.raises(NoNameServerError, match=r"127\.0\.0\.1:1"), consumer:
        pytest.fail("it cannot start")
    assert threads_of_clients() == []


def test_ctrl_c_interrupts_a_call_and_leaves_the_client_usable() -> None:
    ended: list[str] = []
    main_thread = threading.get_ident()

    async def work() -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(0.1, signal.pthread_kill, main_thread, signal.SIGINT)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    thread = LoopThread("rocketmq-py-interrupted")
    with pytest.raises(KeyboardInterrupt):
        thread.run(work())
    thread.run(asyncio.sleep(0))
    assert ended == ["cancelled"]
    thread.close()
    assert threads_of_clients() == []


async def test_a_listener_in_a_thread_may_send_and_may_stop_its_consumer(
    tmp_path: Path, environment: Environment
) -> None:
    def program(namesrv_addr: str) -> None:
        stopped = threading.Event()
        config = PushConsumerConfig(
            namesrv_addr=namesrv_addr, consume_from_where=FIRST, await_termination_millis_when_shutdown=200
        )
        consumer = sync.PushConsumer("Billing", config)

        def handle(messages: Sequence[MessageExt], context: ConsumeContext) -> None:
            producer.send(Message.of("Orders", b"answer", tags="answers"))
            consumer.stop()
            stopped.set()

        consumer.subscribe("Orders", "questions")
        consumer.register_listener(handle)
        with sync.Producer("Sellers", namesrv_addr=namesrv_addr) as producer, consumer:
            producer.send(Message.of("Orders", b"question", tags="questions"))
            assert stopped.wait(10)

    await run_program(tmp_path, environment, program)


async def test_a_coroutine_in_the_clients_own_loop_is_told_that_it_cannot_wait_there(
    tmp_path: Path, environment: Environment
) -> None:
    def program(namesrv_addr: str) -> None:
        problems: list[str] = []
        told = threading.Event()
        consumer = sync.PushConsumer("Billing", PushConsumerConfig(namesrv_addr=namesrv_addr, consume_from_where=FIRST))

        async def handle(messages: Sequence[MessageExt], context: ConsumeContext) -> None:
            for call in (consumer.stop, lambda: consumer.subscribe("Orders")):
                try:
                    call()
                except RuntimeError as error:
                    problems.append(str(error))
            told.set()

        consumer.subscribe("Orders")
        consumer.register_listener(handle)
        with sync.Producer("Sellers", namesrv_addr=namesrv_addr) as producer, consumer:
            producer.send(Message.of("Orders", b"x"))
            assert told.wait(10)
        assert ["event loop" in problem for problem in problems] == [True, True]

    await run_program(tmp_path, environment, program)


async def test_two_threads_may_stop_a_consumer(tmp_path: Path, environment: Environment) -> None:
    def program(namesrv_addr: str) -> None:
        consumer = sync.PushConsumer("Billing", namesrv_addr=namesrv_addr)
        consumer.subscribe("Orders")
        consumer.register_listener(lambda messages, context: None)
        consumer.start()
        problems: list[BaseException] = []

        def stop() -> None:
            try:
                consumer.stop()
            except BaseException as error:
                problems.append(error)

        threads = [threading.Thread(target=stop) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert problems == []

    await run_program(tmp_path, environment, program)


async def test_a_program_that_forgets_to_stop_its_clients_ends_all_the_same(
    tmp_path: Path, environment: Environment
) -> None:
    text = (
        "import sys\n"
        "from rocketmq_py.client import sync\n"
        "from rocketmq_py.common.message import Message\n"
        "consumer = sync.PushConsumer('Billing', namesrv_addr=sys.argv[1])\n"
        "consumer.subscribe('Orders', 'others')\n"
        "consumer.register_listener(lambda messages, context: None)\n"
        "consumer.start()\n"
        "producer = sync.Producer(namesrv_addr=sys.argv[1])\n"
        "producer.start()\n"
        "print(producer.send(Message.of('Orders', b'x')).status.name)\n"
    )

    def program(namesrv_addr: str) -> None:
        done: Any = subprocess.run(
            [sys.executable, "-c", text, namesrv_addr], capture_output=True, timeout=30, text=True
        )
        assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "SEND_OK", "")

    await run_program(tmp_path, environment, program)
