"""A slave that becomes a master for good, in controller mode: what was to be delivered is delivered, and only once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.broker.ha.special_services import SpecialServices
from rocketmq_py.client.producer import Producer
from rocketmq_py.client.transaction_listener import LocalTransactionState
from rocketmq_py.client.transaction_producer import TransactionProducer
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.message import Message, MessageExt
from rocketmq_py.testing.eventually import eventually

from .autoswitch_lab import TOPIC, AutoSwitchLab, autoswitch_lab


@asynccontextmanager
async def waiting_messages(
    folder: Path, environment: Environment
) -> AsyncIterator[tuple[AutoSwitchLab, Kernel, list[str]]]:
    """Three brokers, and twelve messages that are due in a minute."""
    async with autoswitch_lab(folder, environment) as lab:
        master = await lab.settled()
        due = environment.clock.wall_ms() + 60_000
        bodies = []
        async with Producer("shop", namesrv_addr=lab.namesrv.address, environment=environment) as producer:
            for number in range(6):
                for kind, properties in (("level", {"DELAY": "5"}), ("timer", {"TIMER_DELIVER_MS": str(due + number)})):
                    await producer.send(Message(TOPIC, f"{kind} {number}".encode(), properties=properties))
                    bodies.append(f"{kind} {number}")
        yield lab, master, bodies


@pytest.mark.virtual_time
async def test_what_waits_is_delivered_by_the_next_master(tmp_path: Path, environment: Environment) -> None:
    """The master is gone before the messages are due."""
    async with waiting_messages(tmp_path, environment) as (lab, master, bodies):
        await asyncio.sleep(15)
        assert sum(kernel.get(SpecialServices).is_running for kernel in lab.brokers.values()) == 1
        await lab.stop(lab.name_of(master))
        successor = await lab.settled(2)
        assert successor.get(SpecialServices).is_running
        await asyncio.sleep(120)
        assert Counter(lab.bodies(successor)) == Counter(bodies), "Not each of them once"


@pytest.mark.virtual_time
async def test_what_was_delivered_is_not_delivered_again(tmp_path: Path, environment: Environment) -> None:
    """The master is gone long after the messages were due; its progress was copied. It comes back, and again is master."""
    async with waiting_messages(tmp_path, environment) as (lab, master, bodies):
        await asyncio.sleep(90)
        assert Counter(lab.bodies(master)) == Counter(bodies)
        name = lab.name_of(master)
        await lab.stop(name)
        successor = await lab.settled(2)
        await asyncio.sleep(120)
        assert Counter(lab.bodies(successor)) == Counter(bodies), "Something was delivered a second time"
        await lab.start(name)
        await lab.settled(3)
        await asyncio.sleep(60)
        await lab.stop(lab.name_of(successor))
        third = await lab.settled(2)
        await asyncio.sleep(120)
        assert Counter(lab.bodies(third)) == Counter(bodies)


@pytest.mark.virtual_time
async def test_a_master_that_is_back_soon_delivers_nothing_again(tmp_path: Path, environment: Environment) -> None:
    """Between its two terms another one was master for some seconds only, too short to say how far it is."""
    async with waiting_messages(tmp_path, environment) as (lab, master, bodies):
        await eventually(lambda: len(lab.bodies(master)) == len(bodies), 90)
        # What was delivered since the last copy of the progress, 10 s at most, would come twice.
        await asyncio.sleep(12)
        name = lab.name_of(master)
        await lab.stop(name)
        second = await lab.settled(2)
        await lab.start(name)
        await lab.settled(3)
        await lab.stop(lab.name_of(second))
        third = await lab.settled(2)
        if third is not lab.brokers[name]:
            await lab.stop(lab.name_of(third))
        await asyncio.sleep(120)
        for kernel in lab.brokers.values():
            assert Counter(lab.bodies(kernel)) == Counter(bodies)


@pytest.mark.virtual_time
async def test_transactions_are_decided_by_the_next_master(tmp_path: Path, environment: Environment) -> None:
    """Undecided ones are asked about; what was committed or rolled back before stays so."""
    book = Book()
    async with autoswitch_lab(tmp_path, environment) as lab:
        master = await lab.settled()
        async with TransactionProducer(
            "bank", book, namesrv_addr=lab.namesrv.address, environment=environment
        ) as producer:
            for number in range(9):
                await producer.send_message_in_transaction(Message(TOPIC, f"{number}".encode()), None)
            await asyncio.sleep(15)
            assert sorted(lab.bodies(master)) == ["0", "3", "6"]
            await lab.stop(lab.name_of(master))
            successor = await lab.settled(2)
            await asyncio.sleep(150)
            assert sorted(lab.bodies(successor)) == ["0", "2", "3", "5", "6", "8"], sorted(lab.bodies(successor))
            assert set(book.asked) == {"2", "5", "8"}


class Book:
    """Commits the first of three, rolls the second back, and does not know about the third until it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def execute_local_transaction(self, message: Message, argument: Any) -> LocalTransactionState:
        ends = (
            LocalTransactionState.COMMIT_MESSAGE,
            LocalTransactionState.ROLLBACK_MESSAGE,
            LocalTransactionState.UNKNOW,
        )
        return ends[int(message.body) % 3]

    async def check_local_transaction(self, message: MessageExt) -> LocalTransactionState:
        self.asked.append(message.body.decode())
        return LocalTransactionState.COMMIT_MESSAGE
